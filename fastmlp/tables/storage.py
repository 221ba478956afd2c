"""A model of a table with the preprocessing in one file: descriptions in JSON and arrays, no code.

`fastmlp.files.archive` writes and reads the file. Facts of columns are in an array, as JSON's bytes. msgspec
reads them by the types and the bounds of records; the checks here compare fields with each other, because a
damaged file may contradict itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import astuple
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import numpy as np

from fastmlp import checks
from fastmlp.checkpoints import checkpoint
from fastmlp.checks import CheckpointError, needed
from fastmlp.files import archive
from fastmlp.model.activations import HIDDEN
from fastmlp.model.descriptions import described, restored
from fastmlp.model.inputs import Numbers, sparse_columns
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME
from fastmlp.tables.categories import Category, LevelMeans
from fastmlp.tables.columns import Array, Column, Count, Size, Whole
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.frames import different
from fastmlp.tables.intervals import HeldErrors
from fastmlp.tables.kinds import COLUMN_KINDS, Number, Text
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.settings import MOST_MEMBERS
from fastmlp.tables.tasks import TASKS, Classification, Regression, Several, Task, check_transform
from fastmlp.tables.tasks import described as described_task
from fastmlp.tables.writings import Writing
from fastmlp.trained.model import Model

msgspec = needed("msgspec", "table", "the file of a table's model")

Record = TypeVar("Record")

FORMAT = "table 1"  # the version of the format; files of another version are refused
EXACT_ROWS = 2**53  # the most rows of all levels of a category, for an exact sum
ERRORS = ("scaled", "places", "sizes")  # the arrays of errors in a file


class ColumnRow(TypedDict):
    """The report's row of a column, see `rows_of_columns`."""

    name: str
    kind: str
    done: str
    missing: Whole
    levels: Whole | None
    example: str | None
    doubt: Annotated[list[str], msgspec.Meta(min_length=3, max_length=3)] | None


class Interval(TypedDict):
    """The report's row of a coverage, see `held_fractions`."""

    of: Size
    hold: Size
    wide: Size


Rows = TypedDict("Rows", {"trained on": Count, "held out": Count, "linear model": Count})
Report = TypedDict(
    "Report",
    {
        "columns": list[ColumnRow],
        "rows": Rows,
        "scores": dict[str, dict[str, float | None]],
        "words": dict[str, dict[str, Count]],
        "held out": str,
        "confusion": list[list[Whole]],
        "intervals": list[Interval],
    },
    total=False,
)
Table = TypedDict(
    "Table",
    {
        "columns": list[dict[str, Any]],
        "codes": list[dict[str, Any]],
        "writings": list[tuple[str, str, str]],
        "task": dict[str, Any],
        "target": str,
        "missing": list[str] | None,
        "recipes": list[dict[str, Any]],
        "report": Report,
        "fingerprint": str,
        "shortened": str | None,
        "groups of errors": NotRequired[Count | None],
        "rows": NotRequired[Count],
    },
)


def write(path: str | os.PathLike[str], estimator: Any) -> None:
    """Write a TableEstimator to a file; after a failure the old file is still there."""
    encoding, groups, errors = estimator.encoding_, estimator.groups_, estimator.errors_
    table: dict[str, Any] = {
        "columns": [column.described for column in encoding.columns],
        "codes": [column.described for column in encoding.codes],
        "writings": [*map(astuple, encoding.writings)],
        "task": described_task(estimator.task_),
        "target": estimator.target_name_,
        "missing": None if estimator.missing is None else list(estimator.missing),
        "recipes": [recipe.described for recipe, _ in groups],
        "report": estimator.report_,
        "fingerprint": estimator.fingerprint_,
        "shortened": estimator.shortened_,
    }
    arrays: dict[str, Array] = {}
    if errors is not None:
        arrays |= {f"errors/{name}": getattr(errors, name) for name in ERRORS}
        table["groups of errors"] = errors.groups
    if (held := estimator.held_) is not None:
        table["rows"], arrays["held"] = len(held), np.packbits(held)
    arrays["table"] = np.frombuffer(msgspec.json.encode(table, enc_hook=float), np.uint8)
    models = estimator.models_
    for index, model in enumerate(models):
        arrays[f"members/{index}/parameters"] = model.parameters
        for name, values in model.history.items():
            arrays[f"members/{index}/history/{name}"] = np.array(values, float)
    header = {
        "format": FORMAT,
        "networks": [described(members[0].network) for _, members in groups],
        "members": [len(members) for _, members in groups],
        "backend": models[0].backend,
        "history": list(models[0].history),
    }
    archive.write(path, header, arrays)


def parsed(path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    """Return the estimator's attributes in a file; CheckpointError for a damaged or another file."""
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)!r} has format {checks.shown(header.get('format'))}; "
            f"a table's model has {FORMAT!r} in this fastmlp"
        )
    with checkpoint.file_errors_of(path):
        return _checked(header, arrays)


def _checked(header: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    table: Any = _typed(msgspec.json.decode, arrays["table"].astype(np.uint8).tobytes(), Table)
    task, columns = task_of(table["task"]), columns_of(table["columns"])
    codes, writings = columns_of(table["codes"]), tuple(Writing(*one) for one in table["writings"])
    encoding = Encoding(columns, codes, writings)
    kinds = encoding.kinds
    if not all(isinstance(code, Category) and kinds.get(code.name) == Number.kind for code in codes):
        raise ValueError("what is said to be the codes of a number is none")
    different(writing.column for writing in writings)
    for column, kind, _ in table["writings"]:
        if (kinds | {table["target"]: Number.kind}).get(column) != kind:
            raise ValueError(f"column {column!r} is written as a {kind}, and is none")
    groups: list[tuple[Recipe, list[Model]]] = []
    described_groups = zip(table["recipes"], header["networks"], header["members"], strict=True)
    for described_recipe, described_network, count in described_groups:
        recipe = recipe_of(described_recipe)
        network = _network(described_network, recipe, encoding, task)
        checks.whole("members", count, 1, min(MOST_MEMBERS, recipe.members))
        first = sum(len(models) for _, models in groups)
        members = []
        for index in range(first, first + count):
            prefix = f"members/{index}/"
            curves = {name: arrays.get(f"{prefix}history/{name}") for name in header["history"]}
            record = {
                "parameters": arrays[f"{prefix}parameters"],
                "history": {name: curve for name, curve in curves.items() if curve is not None},
            }
            members.append(checkpoint.model_of(network, record, header["backend"], None))
        _check_losses(members)
        groups.append((recipe, members))
    if not groups:
        raise ValueError("there is no network")
    _check_scores(table["report"])
    return {
        "encoding_": encoding,
        "task_": task,
        "groups_": groups,
        "report_": table["report"],
        "fingerprint_": table["fingerprint"],
        "errors_": _errors(arrays, table["groups of errors"]) if isinstance(task, Regression) else None,
        "shortened_": table["shortened"],
        "held_": _held(arrays, table),
        "target_name_": table["target"],
        "missing": table["missing"],
    }


def _typed(read: Any, description: Any, kind: type[Record]) -> Record:
    """Return the record read by msgspec's `decode` or `convert`; ValueError, a line, for another type."""
    try:
        found: Record = read(description, type=kind, dec_hook=lambda _, part: restored(part))
    except msgspec.MsgspecError as error:
        raise ValueError(str(error).replace("`$", f"`{kind.__name__}")) from None
    return found


def columns_of(descriptions: Sequence[dict[str, Any]]) -> tuple[Column, ...]:
    """Return the columns of descriptions; ValueError, TypeError or KeyError for other descriptions."""
    columns = tuple(map(_column, descriptions))
    different(column.name for column in columns)
    return columns


def _column(description: dict[str, Any]) -> Column:
    kind = COLUMN_KINDS[checks.choice("kind of column", description["kind"], tuple(COLUMN_KINDS))]
    kind = LevelMeans if kind is Category and "means" in description else kind
    column = _typed(msgspec.convert, description, kind)
    names = column.words if isinstance(column, Text) else getattr(column, "levels", ())
    if len({*names}) < len(names):
        raise ValueError(f"levels or words of column {column.name!r} are not different")
    if isinstance(column, Text) and len(column.words) != len(column.weights):
        raise ValueError(f"a text has {len(column.words)} words and {len(column.weights)} weights")
    if isinstance(column, LevelMeans):
        levels, rows, means = len(column.levels) + column.missing, len(column.rows), len(column.means)
        if levels != rows or not means or means != rows * len(column.priors):
            raise ValueError(f"a category has {levels} levels, {rows} numbers of rows and {means} means")
        if not column.levels or column.rest or column.beyond:
            raise ValueError("a category with mean targets has levels, and none that share a column")
        checks.whole("rows of a level", max(column.rows), 1, EXACT_ROWS // levels)
    return column


def task_of(description: dict[str, Any]) -> Task:
    """Return the task of a description; errors are as of `columns_of`."""
    if "parts" in description:
        different(name for name, _ in description["parts"])
        return Several(tuple((name, task_of(one)) for name, one in description["parts"]))  # type: ignore[misc]
    kind = TASKS[checks.choice("task", description["name"], tuple(TASKS))]
    task = _typed(msgspec.convert, description, kind)
    if isinstance(task, Regression):
        check_transform(task.objective, "log" if task.log else None)
    if isinstance(task, Classification):
        kinds = {*map(type, task.classes)}
        if len(kinds) != 1 or not kinds <= {str, int, float, bool} or len(task.classes) < 2:
            raise ValueError("the classes are no list of different texts or numbers")
        if sorted({*task.classes}) != [*task.classes]:
            raise ValueError("the classes are not ascending")
        if task.threshold is not None and len(task.classes) != 2:
            raise ValueError(f"a threshold is between two classes, and there are {len(task.classes)}")
    return task


def recipe_of(description: dict[str, Any]) -> Recipe:
    """Return the recipe of a description; errors are as of `columns_of`."""
    recipe = _typed(msgspec.convert, description, Recipe)
    checks.choice("hidden activation", recipe.activation, HIDDEN)
    checks.choice("optimizer", recipe.optimizer, tuple(BY_NAME))
    if not all((recipe.epochs, recipe.batch_size, recipe.members)):
        raise ValueError("a training has no number of epochs, of rows or of networks")
    return recipe


def _check_scores(report: Any) -> None:
    """Raise ValueError or KeyError unless a report's scores, if there are any, can be compared."""
    if "scores" not in report:  # of a model of Python
        return
    scores, _ = report["scores"], report["rows"]
    measures, constant = scores["network"].keys(), scores["constant"]
    if Classification.measure in measures:
        checks.real(Classification.measure, constant[Classification.measure], 0, 1)
    for name, row in scores.items():
        if row.keys() != measures:
            raise ValueError(f"the report has other scores of {name!r} than of the network")


def _network(description: Any, recipe: Recipe, encoding: Encoding, task: Task) -> Network:
    """Return a network in a file; ValueError unless columns, recipe and task fit the network."""
    network = checkpoint.network_of(description, [])
    expected = recipe.network(network.blocks or network.n_in, task)
    facts = [(one.widths, one.is_chain, one.output) for one in (network, expected)]
    sparse, blocks = (encoding.width - encoding.numbers if encoding.is_sparse else 0), network.blocks
    are_numbers = all(isinstance(block, Numbers) for block in (blocks[:-1] if sparse else blocks))
    may_have_blocks = recipe.embeds or isinstance(task, Several)
    blocks_fit = not blocks or (may_have_blocks and are_numbers and sparse_columns(blocks) == sparse)
    if network.n_in != encoding.width or facts[0] != facts[1] or not blocks_fit:
        raise ValueError("the network is not that of its columns, its recipe and its task")
    return network


def _check_losses(models: Sequence[Model]) -> None:
    """Raise ValueError if a recipe's first network held out no rows, or losses are not of epochs."""
    if "validation_loss" not in models[0].history:
        raise ValueError("no network of a recipe has losses of rows that it held out")
    epochs = [{len(values) for values in model.history.values()} for model in models]
    if any(len(one) != 1 or 0 in one for one in epochs):
        raise ValueError("the losses of a network are not those of its epochs")


def _held(arrays: dict[str, Array], table: dict[str, Any]) -> Array | None:
    """Return the truth values of held rows in a file; ValueError for other arrays."""
    if "held" not in arrays:
        return None
    rows, packed = table["rows"], arrays["held"]
    if packed.dtype != np.uint8 or packed.shape != (-(-rows // 8),):
        raise ValueError("the rows held out are not those of the table")
    return np.unpackbits(packed, count=rows).astype(bool)


def _errors(arrays: dict[str, Array], groups: int | None) -> HeldErrors:
    """Return the errors in a file; KeyError or ValueError for other arrays."""
    scaled, places, sizes = there = [arrays[f"errors/{name}"] for name in ERRORS]
    for one in there:
        if one.dtype.kind != "f" or one.ndim != 1 or not len(one) or not np.isfinite(one).all():
            raise ValueError("the errors are no finite numbers")
    errors = HeldErrors(scaled, places, sizes, groups)
    ascending = (np.diff(errors.scaled) >= 0).all() and (np.diff(errors.places) > 0).all()
    if not ascending or len(errors.places) != len(errors.sizes) or not (errors.sizes > 0).all():
        raise ValueError("the errors are not ascending, or have no sizes")
    return errors
