"""One picture of a model: its loss curves, its calibration or residuals, and which columns matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.system.packages import needed
from fastmlp.tables.kinds import Dropped
from fastmlp.tables.tasks import Classification

if TYPE_CHECKING:
    import polars as pl

    from fastmlp.tables.estimators import TableClassifier, TableRegressor

Array = NDArray[Any]

ROWS = 20_000
"""Rows that importances are measured on at most, drawn by the seed."""

REPEATS = 5
"""Permutations of each column."""

MOST_BARS = 15
"""Columns that are shown, the most important first."""


class Importance(NamedTuple):
    """How much the score falls if a column is shuffled: mean and deviation over some shuffles."""

    column: str
    mean: float
    deviation: float


def importances(
    estimator: TableClassifier | TableRegressor, frame: pl.DataFrame, y: Array, seed: int
) -> list[Importance]:
    """Return the permutation importance of every column that is used, the greatest first (Breiman 2001).

    y : (rows,) as the task has them
    """
    rng = np.random.default_rng(seed)
    if len(y) > ROWS:
        rows = np.sort(rng.choice(len(y), ROWS, replace=False))
        frame, y = frame[rows], y[rows]
    task = estimator.task_
    whole = task.score(y, estimator.outputs(frame))
    found = []
    for column in estimator.encoding_.columns:
        if isinstance(column, Dropped):
            continue
        falls = []
        for _ in range(REPEATS):
            dealt = frame[column.name][rng.permutation(len(y))]
            falls.append(whole - task.score(y, estimator.outputs(frame.with_columns(dealt))))
        found.append(Importance(column.name, float(np.mean(falls)), float(np.std(falls))))
    return sorted(found, key=lambda one: -one.mean)


def plot(estimator: TableClassifier | TableRegressor, frame: pl.DataFrame, y: Array, seed: int) -> Any:
    """Return a matplotlib Figure of a model and a table without its target.

    y : (rows,) as the task has them
    """
    needed("matplotlib", "plot", "a picture")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    losses, fit, bars = figure.subplots(1, 3)
    _plot_losses(losses, estimator)
    outputs = estimator.outputs(frame)
    if isinstance(estimator.task_, Classification):
        _plot_calibration(fit, estimator.task_, y, outputs)
    else:
        _plot_residuals(fit, y, estimator.task_.decoded(outputs), estimator.target_name_)
    if estimator.trained_on(frame, y):
        figure.suptitle("rows that the model was trained on")
    _plot_importances(bars, importances(estimator, frame, y, seed), estimator.task_.measure)
    return figure


def _plot_losses(axes: Any, estimator: TableClassifier | TableRegressor) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, model in enumerate(estimator.models_):
        for color, (name, values) in zip(("C0", "C1"), model.history.items(), strict=False):
            label = {"loss": "rows trained on", "validation_loss": "rows held out"}[name]
            epochs = np.arange(1, len(values) + 1)
            axes.plot(epochs, values, color=color, alpha=0.6, label=None if place else label)
    axes.set(xlabel="epoch", ylabel=estimator.models_[0].network.loss, title="loss of each network")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _plot_calibration(axes: Any, task: Classification, y: Array, outputs: Array) -> None:
    """How often the predicted class is right, by its probability, in bins of as many rows each."""
    probability = outputs.max(axis=1)
    right = task.encoded(y) == outputs.argmax(axis=1)
    bins = np.array_split(np.argsort(probability, kind="stable"), max(1, min(10, len(y) // 20)))
    said = [probability[rows].mean() for rows in bins]
    were = [right[rows].mean() for rows in bins]
    low = min(*said, *were)
    axes.plot([low, 1], [low, 1], color="0.6", linestyle="--", label="perfect calibration")
    axes.plot(said, were, "o-", label=f"tenths of {len(y)} rows" if len(bins) == 10 else f"{len(y)} rows")
    axes.set(xlabel="probability of the predicted class", ylabel="share that is right", title="calibration")
    axes.legend()


def _plot_residuals(axes: Any, y: Array, predicted: Array, target: str) -> None:
    rows = np.arange(len(y)) if len(y) <= 5000 else np.random.default_rng(0).choice(len(y), 5000, False)
    axes.axhline(0, color="0.6", linestyle="--")
    axes.scatter(predicted[rows], (y - predicted)[rows], s=10, alpha=0.5)
    axes.set(xlabel=_plain(f"predicted {target}"), ylabel="true less predicted", title="residuals")


def _plot_importances(axes: Any, found: list[Importance], measure: str) -> None:
    from matplotlib.ticker import MaxNLocator

    shown = found[:MOST_BARS][::-1]
    names = [_plain(one.column if len(one.column) <= 24 else f"{one.column[:23]}…") for one in shown]
    axes.barh(
        range(len(shown)), [one.mean for one in shown], xerr=[one.deviation for one in shown], height=0.7
    )
    axes.set_yticks(range(len(shown)), names)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    title = "permutation importance" + (
        f", {len(shown)} of {len(found)} columns" if len(found) > len(shown) else ""
    )
    axes.set(xlabel=f"fall of {measure} if a column is shuffled", title=title)


def _plain(text: str) -> str:
    """Return a text that matplotlib shows as it is: between dollars it would be a formula."""
    return text.replace("$", r"\$")
