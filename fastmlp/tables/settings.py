"""Settings of the estimators of tables with their checks, which are options of `fastmlp train`, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.backend.registry import backends, mixed_backend
from fastmlp.checks import checked, count, number, positive
from fastmlp.model.activations import Activation
from fastmlp.model.component import Part
from fastmlp.model.layers import Dense, checked_layers
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME
from fastmlp.model.state import is_bfloat16
from fastmlp.tables.recipe import PRESETS, Recipe, candidates
from fastmlp.tables.tasks import Classification, Regression, check_transform, costs_of
from fastmlp.tables.writings import Given, Writing

MOST_MEMBERS = 1000  # most networks of a recipe


def _name(name: str, value: object) -> str:
    checks.instance(name, value, str, "a name" if name == "activation" else "the name of a column")
    return str(value)


def _choice(*names: str) -> Any:
    return checked(lambda name, value: checks.choice(name, value, names), None)


def _hidden(name: str, widths: Any) -> tuple[int, ...]:
    if not isinstance(widths, Sequence | np.ndarray) or isinstance(widths, str) or not np.ndim(widths):
        raise TypeError(f"{name} must be widths like (128, 64), got {checks.shown(widths)}")
    return tuple(checks.whole("a hidden layer", width, 1) for width in widths)


def _layers(name: str, layers: Any) -> tuple[Part, ...]:
    made = checked_layers(layers)
    operations = Network(inputs=1, layers=[*made, Dense(1)]).operations
    if any(isinstance(one.activation, Activation) for one in operations):
        raise ValueError("layers of a table have activations by name: its file holds no code")
    return made


def _threshold(name: str, value: object) -> object:
    if isinstance(value, str):
        return value == "balanced" or costs_of(value)
    return checks.real(name, value, 0, 1, open_low=True, open_high=True)


def _monotone(name: str, signs: Any) -> None:
    checks.instance(name, signs, Mapping, "a mapping of names of columns to 1 or -1")
    for column, sign in signs.items():
        checks.whole(f"monotone[{column!r}]", sign, -1, 1)


def _columns(name: str, kinds: Any) -> None:
    if not isinstance(kinds, Mapping):
        raise TypeError(f"columns must map names to kinds, got {checks.shown(kinds)}")
    for column, kind in kinds.items():
        if not isinstance(kind, str):
            if not isinstance(kind, Sequence) or [*map(type, kind)] != [str, str]:
                raise TypeError(f"kind of column {column!r} must be a text, or two, got {checks.shown(kind)}")
            Writing(str(column), *kind)


def _missing(name: str, texts: Any) -> None:
    is_sequence = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not (is_sequence and all(isinstance(text, str) for text in texts)):
        raise TypeError(f"missing must be a sequence of texts, got {checks.shown(texts)}")


@dataclass(kw_only=True, eq=False, repr=False)
class Settings:
    """Parameters of both estimators, checked by `recipes_of`: scikit-learn's constructors check nothing.

    `fastmlp train` has an option for each of them, and takes its help from this docstring.

    Parameters
    ----------
    columns : mapping of str to str or (str, str), optional
        Kinds of columns in place of inferred kinds, by name: number, category, date, text or drop. A pair
        adds how texts are written: ("number", "$1,234.50"), an example; ("date", "%m/%d/%Y"), a format, or
        seconds, milliseconds, microseconds or nanoseconds since 1970.
    time : str, optional
        A column of dates or numbers, if the rows to predict are later: the later rows are held out, for
        recipes, epochs and errors of intervals.
    group : str, optional
        A column of names, as of patients, if the rows to predict are of new groups: all rows of a group are
        held out together. The column is not learned from, unless `columns` has its kind. With a time, too,
        the groups that begin last are held out.
    monotone : mapping of str to int, optional
        1 for columns of numbers with rising predictions, -1 for falling predictions: exactly, for any two
        rows that differ in such columns only. Of two classes, for the probability of the second; more classes
        are refused. The hidden activation is relu, unless another activation that never falls is given.
    missing : sequence of str, optional
        Texts of missing values. Default: NA, nan, null, ? and similar texts.
    levels : int, optional
        Most levels of a category with a column each, the most frequent first; other levels share a column.
        Default: 5000, and mean targets in place of more than 300 levels.
    preset : str, optional
        The time: fast, good or best, the recipes of `PRESETS` with the given settings. Rows held out choose
        between the recipes of a preset. Default: good.
    hidden : sequence of int, optional
        Units of the hidden layers. Here and below, None for the settings of the preset's recipes.
    layers : list of layers, optional
        Hidden layers as of `fastmlp.Network`, in place of hidden, activation and dropout.
    activation, optimizer : str, optional
        Names, as for the command line.
    learning_rate : float, optional
        The rate of the first step, which falls to 0 along a cosine.
    epochs, batch_size : int, optional
    dropout, l2 : float, optional
        As for `fastmlp.Network`.
    members : int, optional
        Number of networks of each recipe. The first networks, one to five, hold out parts of the rows, which
        choose recipes and numbers of epochs; the others have all rows. The mean of the best recipes predicts.
    time_limit : float, optional
        Seconds of `fit`, with reading, compiling and the report: a short time has fewer networks, epochs and
        rows. The command line takes 60s or 5m, too.
    backend, threads, dtype : as for `fastmlp.fit`, "bfloat16" too; dtype float32 if None
    random_state : int, RandomState or None
    progress : bool or None
        True for progress bars on stderr; None for bars on a terminal and in a notebook.
    """

    columns: Given | None = checked(_columns, None)
    time: str | None = checked(_name, None)
    group: str | None = checked(_name, None)
    monotone: Mapping[str, int] | None = checked(_monotone, None)
    missing: Sequence[str] | None = checked(_missing, None)
    levels: int | None = count(1, default=None)
    preset: str | None = _choice(*PRESETS)
    hidden: Sequence[int] | None = checked(_hidden, None)
    layers: Sequence[Any] | None = checked(_layers, None)
    activation: str | None = checked(_name, None)
    optimizer: str | None = _choice(*BY_NAME)
    learning_rate: float | None = number(None)
    epochs: int | None = count(1, default=None)
    batch_size: int | None = count(1, default=None)
    dropout: float | None = number(None)
    l2: float | None = number(None)
    members: int | None = count(1, MOST_MEMBERS, default=None)
    time_limit: float | None = positive(None)
    backend: str = "auto"
    threads: int | None = count(1, default=None)
    dtype: Any = None
    random_state: Any = None
    progress: bool | None = False


@dataclass(kw_only=True, eq=False, repr=False)
class ClassificationSettings(Settings):
    """Parameters as of `Settings`, and of classifiers.

    Parameters
    ----------
    class_weight : str, optional
        "balanced" for equal weights of all classes, whatever their numbers of rows.
    threshold : float or str, optional
        Least probability for a prediction of the second of two classes. "balanced" has the greatest balanced
        accuracy, and "5:1" the least cost if a missed row of the second class costs five times as much as a
        false alarm: both on training rows that networks held out, as in scikit-learn's
        TunedThresholdClassifierCV. Default: a half.
    """

    class_weight: str | None = _choice("balanced")
    threshold: float | str | None = checked(_threshold, None)


@dataclass(kw_only=True, eq=False, repr=False)
class RegressionSettings(Settings):
    """Parameters as of `Settings`, and of regressors.

    Parameters
    ----------
    loss : str
        The minimised loss: squared, absolute, huber (squared up to a deviation by the quartiles, and linear
        beyond), poisson (for targets of at least 0), gamma (above 0), or "quantile:0.9". The loss chooses
        recipes and epochs, and is in the report. Predictions are means for squared, poisson and gamma,
        medians for absolute, quantiles for quantile.
    target_transform : str, optional
        "log" for networks of the logarithm of targets above 0, with squared, absolute or quantile.
        Predictions keep their meaning: exponentials, for squared times the ratio of sums on rows held out.
        "auto" takes the logarithm if targets are above 0 and have a skewness above 1, and logarithms less
        than half of it.
    """

    loss: str = "squared"
    target_transform: str | None = None


SETTINGS: dict[str, type[Settings]] = {
    Classification.name: ClassificationSettings,
    Regression.name: RegressionSettings,
}
"""The settings by the name of the task."""


def recipes_of(settings: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """Return the recipes for the choice by rows held out.

    settings : given parameters of an estimator by name; ValueError or TypeError for a mistake

    Networks and optimisers check the ranges of numbers.
    """
    if is_bfloat16(settings.get("dtype")):
        mixed_backend(settings.get("backend", "auto"))
    else:
        checks.choice("backend", settings.get("backend", "auto"), ("auto", *backends()))
    every = {field.name: field for kind in SETTINGS.values() for field in fields(kind)}
    given = {
        name: every[name].metadata["check"](name, value)
        for name, value in settings.items()
        if value is not None and "check" in every[name].metadata
    }
    check_transform(settings.get("loss", "squared"), settings.get("target_transform"))
    if settings.get("monotone") and "layers" not in given:
        given = {"activation": "relu"} | given
    if "layers" in given:
        if others := {"hidden", "activation", "dropout"} & given.keys():
            raise ValueError(f"layers says what the hidden layers are; leave out {min(others)}")
        given["hidden"] = ()
    preset, balanced = given.get("preset", "good"), "class_weight" in given
    given = {field.name: given[field.name] for field in fields(Recipe) if field.name in given}
    return tuple(replace(recipe, balanced=balanced) for recipe in candidates(preset, given))
