"""Records of columns, a task and a training, restored from a file; refused where it holds no such thing.

Separate from the records: what is learned from a table never contradicts itself, a file may.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fastmlp import checks
from fastmlp.model.activations import HIDDEN
from fastmlp.model.descriptions import restored
from fastmlp.model.layers import checked_layers
from fastmlp.model.optimizers import BY_NAME
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import Column
from fastmlp.tables.errors import different
from fastmlp.tables.kinds import KINDS, Number, Text
from fastmlp.tables.means import LevelMeans
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.search import SearchTrial
from fastmlp.tables.tasks import TASKS, Classification, Regression, Several, Task, check_transform
from fastmlp.tables.values import TAILS
from fastmlp.tables.writings import Writing


def columns_of(descriptions: list[dict[str, Any]]) -> tuple[Column, ...]:
    """Return the columns that `described` of each describes.

    Raises
    ------
    ValueError, TypeError, KeyError
        If one does not, or two have one name.
    """
    columns = tuple(map(_column, descriptions))
    different(column.name for column in columns)
    return columns


def codes_of(descriptions: list[dict[str, Any]], columns: Sequence[Column]) -> tuple[Column, ...]:
    """Return the categories of columns of numbers that are codes; errors as those of `columns_of`."""
    codes, numbers = columns_of(descriptions), {one.name for one in columns if isinstance(one, Number)}
    if not all(isinstance(code, Category) and code.name in numbers for code in codes):
        raise ValueError("what is said to be the codes of a number is none")
    return codes


def writings_of(descriptions: list[list[Any]], columns: Sequence[Column], target: str) -> tuple[Writing, ...]:
    """Return how texts of columns and of the target are written; errors as those of `columns_of`."""
    kinds = {column.name: column.kind for column in columns} | {target: Number.kind}
    writings = tuple(Writing(*description) for description in descriptions)
    different(one.column for one in writings)
    for one in writings:
        if kinds.get(one.column) != one.kind:
            raise ValueError(f"column {one.column!r} is written as a {one.kind}, and is none")
    return writings


def _column(description: dict[str, Any]) -> Column:
    fields = dict(description)
    kind = KINDS[checks.choice("kind of column", fields.pop("kind"), tuple(KINDS))]
    kind = LevelMeans if kind is Category and "means" in fields else kind
    for name, value in fields.items():
        check, expected = _CHECKS[name]
        if not check(value):
            raise ValueError(f"{name} of a column must be {expected}, got {checks.shown(value)}")
        if isinstance(value, list):  # JSON may write 2.0 as 2
            fields[name] = tuple(map(float, value)) if name in _FLOATS else tuple(value)
    column = kind(**fields)
    if isinstance(column, Text) and len(column.words) != len(column.weights):
        raise ValueError(f"a text has {len(column.words)} words and {len(column.weights)} weights")
    if isinstance(column, LevelMeans):
        levels, rows, means = len(column.levels) + column.missing, len(column.rows), len(column.means)
        if levels != rows or not means or means != rows * len(column.priors):
            raise ValueError(f"a category has {levels} levels, {rows} numbers of rows and {means} means")
        if not column.levels or column.rest or column.beyond:
            raise ValueError("a category with mean targets has levels, and none that share a column")
        if max(column.rows) > MOST_ROWS // levels:  # so that their sum is exact
            raise ValueError(
                f"rows of a level must be at most {MOST_ROWS // levels}, got {checks.shown(max(column.rows))}"
            )
    return column


MOST_ROWS = 2**53
"""Rows of all levels of a category together, at most."""

FARTHEST_MEAN = 1e9
"""Deviations that a mean target is from 0, at most, so that the squares of all means have a sum."""


def task_of(description: dict[str, Any]) -> Task:
    """Return the task that is described; errors as those of `columns_of`."""
    if "parts" in description:
        names = different(name for name, _ in description["parts"])
        tasks = [task_of(one) for _, one in description["parts"]]
        return Several(tuple(zip(names, tasks, strict=True)))  # type: ignore[arg-type]
    if TASKS[checks.choice("task", description["name"], tuple(TASKS))] is Classification:
        classes = description["classes"]
        kinds = {type(one) for one in classes} if isinstance(classes, list) else set()
        if len(kinds) != 1 or not kinds <= {str, int, float, bool} or len(classes) < 2:
            raise ValueError("the classes are no list of different texts or numbers")
        if kinds == {float} and not all(map(math.isfinite, classes)):
            raise ValueError("a class is not finite")
        if sorted({*classes}) != classes:
            raise ValueError("the classes are not ascending")
        if (threshold := description.get("threshold")) is not None:
            checks.real("threshold", threshold, 0, 1)
            if len(classes) != 2:
                raise ValueError(f"a threshold is between two classes, and there are {len(classes)}")
        return Classification(tuple(classes), threshold)
    deviation = checks.real("deviation", description["deviation"], 0, open_low=True)
    loss, log = description.get("objective", "squared"), checks.flag("log", description.get("log", False))
    check_transform(loss, "log" if log else None)
    mean, shift = (
        checks.real("mean", description["mean"]),
        checks.real("shift", description.get("shift", 0.0)),
    )
    return Regression(mean, deviation, loss, log, shift)


def recipe_of(description: dict[str, Any]) -> Recipe:
    """Return the settings of a training that are described; errors as those of `columns_of`."""
    layers = restored(description.get("layers"))
    kept = {name: value for name, value in description.items() if name not in _FORMER}
    read = {
        "hidden": _widths(description["hidden"]),
        "layers": layers and checked_layers(layers),
        "patience": description["patience"] or description["epochs"],  # None in the first files: no early end
    }
    recipe = Recipe(**{**kept, **read})
    checks.choice("hidden activation", recipe.activation, HIDDEN)
    checks.choice("optimizer", recipe.optimizer, tuple(BY_NAME))
    for name in ("epochs", "batch_size", "members", "patience", "most_members"):
        checks.whole(name, getattr(recipe, name), 1)
    for name in ("learning_rate", "dropout", "l2", "decay", "sigma"):
        checks.real(name, getattr(recipe, name), 0)
    checks.real("average", recipe.average, 0, 1, open_high=True)
    checks.whole("bins", recipe.bins, 0)
    checks.whole("width", recipe.width, 0)
    checks.flag("balanced", recipe.balanced)
    return recipe


_FORMER = ("label_smoothing", "cosine", "loss", "most_epochs")
"""Settings of trainings that earlier files have: predicting needs none of them."""


def trials_of(descriptions: list[Any]) -> list[SearchTrial]:
    """Return what a search tried; errors as those of `columns_of`."""
    trials = []
    for hidden, rate, loss, seconds in descriptions:
        loss = math.nan if loss is None else checks.real("loss", loss)  # JSON has no NaN
        rate, seconds = checks.real("learning_rate", rate, 0), checks.real("seconds", seconds, 0)
        trials.append(SearchTrial(_widths(hidden), rate, loss, seconds))
    return trials


def _widths(hidden: list[Any]) -> tuple[int, ...]:
    return tuple(checks.whole("a hidden layer", width, 1) for width in hidden)


def report_of(description: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a report as it is; errors as those of `columns_of`."""
    if description is None:
        return None
    for row in description.get("columns", ()):
        reason, kind, shown = row["doubt"] or ("", "", "")
        for text in (row["name"], row["kind"], row["done"], row["example"] or "", reason, kind, shown):
            checks.instance("what the report says of a column", text, str, "a text")
        checks.whole("missing values of a column", row["missing"], 0)
        checks.whole("levels of a column", row["levels"] or 0, 0)
    if "scores" not in description:  # of a model of Python
        return description
    for name in ("trained on", "held out", "linear model"):
        checks.whole(f"rows {name}", description["rows"][name], 1)
    measures, constant = description["scores"]["network"].keys(), description["scores"]["constant"]
    if Classification.measure in measures:  # it is compared
        checks.real(Classification.measure, constant[Classification.measure], 0, 1)
    for name, row in description["scores"].items():
        if row.keys() != measures:
            raise ValueError(f"the report has other scores of {name!r} than of the network")
        for measure, score in row.items():
            if score is not None:
                checks.real(measure, score)
    for name, words in description.get("words", {}).items():
        for word, count in words.items():
            checks.whole(f"{word!r} of {name!r}", count, 1)
    for counts in description.get("confusion", ()):
        for count in counts:
            checks.whole("rows of a class", count, 0)
    for one in description.get("intervals", ()):
        for name in ("of", "hold", "wide"):
            checks.real(f"what intervals {name}", one[name], 0)
    return description


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # also where a whole number is too large for a float


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _are_texts(value: Any) -> bool:
    texts = isinstance(value, list) and all(isinstance(one, str) for one in value)
    return texts and len({*value}) == len(value)


def _are_means(value: Any) -> bool:
    return isinstance(value, list) and all(_is_number(one) and abs(one) <= FARTHEST_MEAN for one in value)


_FLOATS = ("means", "priors", "weights")
"""Lists of numbers that are floats, also where a file has whole numbers."""

_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = (lambda value: isinstance(value, str), "text")
_TEXTS: _Check = (_are_texts, "a list of different texts")
_FLAG: _Check = (lambda value: isinstance(value, bool), "true or false")
_NUMBER: _Check = (_is_number, "a finite number")
_POSITIVE: _Check = (_is_positive, "a finite number above 0")
_POSITIVES: _Check = (
    lambda value: isinstance(value, list) and all(map(_is_positive, value)),
    "a list of finite numbers above 0",
)

_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("name", "reason"), _TEXT),
    **dict.fromkeys(("levels", "words"), _TEXTS),
    **dict.fromkeys(("rest", "missing", "times"), _FLAG),
    **dict.fromkeys(("scale", "unit"), _POSITIVE),
    "center": _NUMBER,
    "tails": (lambda value: isinstance(value, str) and value in TAILS, f"one of {', '.join(TAILS)}"),
    **dict.fromkeys(("weights", "priors"), _POSITIVES),
    "means": (_are_means, f"a list of finite numbers of at most {FARTHEST_MEAN:g}"),
    "rows": (
        lambda value: isinstance(value, list) and all(type(one) is int and one >= 1 for one in value),
        "a list of whole numbers of at least 1",
    ),
    "beyond": (lambda value: type(value) is int and value >= 0, "a whole number of at least 0"),
    "unknown": (lambda value: _is_number(value) and 0 <= value <= 1, "a number in [0, 1]"),
}
"""What a file may hold in the fields of columns."""
