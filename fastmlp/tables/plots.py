"""A picture of a model: losses, calibration or residuals, importances, effects, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.model.losses import loss_of
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import Array, numbers
from fastmlp.tables.effects import Effect, Importance, effects, importances
from fastmlp.tables.frames import pl
from fastmlp.tables.kinds import Date
from fastmlp.tables.report import has_intervals, held_fractions
from fastmlp.tables.tasks import MOST_CLASSES, Classification

Panel = Callable[[Any], None]
"""Draws on Axes."""

MOST_BARS, MOST_EFFECTS, MOST_LINES = 15, 9, 6
"""Most importances and effects in a picture, and most classes of an effect: the strongest first."""

LEAST_SPAN = 0.1  # least span of an effect's axis over the greatest effect, so that noise looks small
FEW_VALUES = 6  # most values of a number with a tick for each value
LEAST_GAP = 0.1  # least gap between such values over their span
DATES = datetime.min, datetime.max.replace(microsecond=0)  # the bounds of an axis of dates
ACROSS, MOST_TICKS = 3, 4  # panels in a row; most parts of an axis of long numbers, between its ticks


def plot(estimator: Any, frame: pl.DataFrame, y: Array, seed: int, of: str | None = None) -> Any:
    """Return a matplotlib Figure of a model and a table without its target.

    y : (rows,) as the task has them; of : a title, which rows the table has
    """
    needed("matplotlib", "plot", "a picture")
    from matplotlib.figure import Figure

    important = importances(estimator, frame, y, seed)
    names = [one.column for one in important]
    shown = effects(estimator, frame, names[:MOST_EFFECTS], seed)
    lines = _strongest(shown)
    least = LEAST_SPAN * max((np.ptp(one.means[:, lines]) for one in shown), default=0.0)
    by_name = _panels(estimator, y, estimator.outputs(frame))
    last = [by_name.pop("intervals")] if "intervals" in by_name else []
    panels: list[Panel] = [*by_name.values(), partial(_plot_importances, important, estimator)]
    panels += [partial(_plot_effect, estimator, one, lines, least) for one in shown]
    panels += last
    deep = -(-len(panels) // ACROSS)
    figure = Figure(figsize=(15, 4.6 * deep), layout="constrained")
    grid = figure.subplots(deep, ACROSS).ravel()
    for axes, draw in zip(grid, panels, strict=False):
        draw(axes)
    for axes in grid[len(panels) :]:
        axes.remove()
    if len(lines) > 1:
        where, title = "outside lower center", "classes of effects"
        figure.legend(**_classes_of(estimator.task_, lines), loc=where, ncols=MOST_LINES, title=title)
    if of is not None:
        figure.suptitle(of, fontsize="x-large")
    return figure


def plot_one(estimator: Any, frame: pl.DataFrame, y: Array, panel: str, axes: Any, seed: int) -> Any:
    """Draw a panel, or the effect of a column, on Axes, or on new Axes; return the Axes."""
    needed("matplotlib", "plot", "a picture")
    from matplotlib.figure import Figure

    panels, columns = _panels(estimator, y, estimator.outputs(frame)), [*estimator.encoding_.slices]
    checks.choice("panel", panel, [*panels, "importances", *columns])
    axes = Figure(layout="constrained").subplots() if axes is None else axes
    if panel in panels:
        panels[panel](axes)
    elif panel == "importances":
        _plot_importances(importances(estimator, frame, y, seed), estimator, axes)
    else:
        shown = effects(estimator, frame, [panel], seed)
        if not shown:
            raise ValueError(f"column {panel!r} is a free text, which has no effect to draw")
        lines = _strongest(shown)
        _plot_effect(estimator, shown[0], lines, 0.0, axes)
        if len(lines) > 1:
            axes.legend(**_classes_of(estimator.task_, lines))
    return axes


def looked(estimator: Any, frame: pl.DataFrame, y: Array, seed: int) -> dict[str, Any]:
    """Return the content of `plot` in lists: scores, importances, effects and intervals."""
    task, outputs = estimator.task_, estimator.outputs(frame)
    important = importances(estimator, frame, y, seed)
    names = [one.column for one in important]
    found: dict[str, Any] = {
        "rows": len(y),
        "scores": task.measures(y, outputs),
        "importances": [one._asdict() for one in important],
        "effects": {
            one.column.name: {"values": one.values.to_list(), "means": one.means.tolist()}
            for one in effects(estimator, frame, names, seed)
        },
    }
    if isinstance(task, Classification):
        found |= {"classes": [*task.classes], "confusion": task.confusion(y, outputs)}
    elif has_intervals(estimator):
        found["intervals"] = held_fractions(estimator, task.decoded(outputs), y)
    return found


def _panels(estimator: Any, y: Array, outputs: Array) -> dict[str, Panel]:
    """Return the panels of losses and of a table's rows by name."""
    task, panels = estimator.task_, dict[str, Panel](losses=partial(_plot_losses, estimator))
    if isinstance(task, Classification):
        if task.n_out <= MOST_CLASSES:
            panels["confusion"] = partial(_plot_confusion, task, y, outputs)
        return panels | {"calibration": partial(_plot_calibration, task, y, outputs)}
    predicted = task.decoded(outputs)
    panels["residuals"] = partial(_plot_residuals, y, predicted, estimator.target_name_)
    if has_intervals(estimator):
        panels["intervals"] = partial(_plot_intervals, estimator, predicted, y)
    return panels


def _classes_of(task: Any, lines: Sequence[int]) -> dict[str, Any]:
    """Return the handles and labels of a legend of classes."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=f"C{color}", marker=".") for color in range(len(lines))]
    return {"handles": handles, "labels": [_short(str(task.classes[output]), 24) for output in lines]}


def _few_ticks(axis: Any, **options: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(**options or {"nbins": MOST_TICKS}))


def _plot_losses(estimator: Any, axes: Any) -> None:
    for index, model in enumerate(estimator.models_):
        for color, (name, values) in zip(("C0", "C1"), model.history.items(), strict=False):
            label = {"loss": "rows trained on", "validation_loss": "rows held out"}[name]
            epochs = np.arange(1, len(values) + 1)
            axes.plot(epochs, values, color=color, alpha=0.6, label=None if index else label)
    unit = "" if isinstance(estimator.task_, Classification) else "\nof the standardised target"
    loss = f"{loss_of(estimator.models_[0].network.loss).name}{unit}"
    axes.set(xlabel="epoch", ylabel=loss, title="loss of each network", yscale="log")
    _few_ticks(axes.xaxis, integer=True)
    axes.legend()


def _plot_confusion(task: Classification, y: Array, outputs: Array, axes: Any) -> None:
    from sklearn.metrics import ConfusionMatrixDisplay

    names = [_short(str(one), 14) for one in task.classes]
    ConfusionMatrixDisplay(np.array(task.confusion(y, outputs)), display_labels=names).plot(
        ax=axes, colorbar=False, cmap="Blues", include_values=len(names) <= MOST_LINES,
        im_kw={"aspect": "auto"},
    )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    threshold = "" if task.threshold is None else f" at {task.threshold:.3g}"
    axes.set(xlabel="predicted class", ylabel="class", title=f"rows of each class{threshold}")


def _plot_calibration(task: Classification, y: Array, outputs: Array, axes: Any) -> None:
    """Draw the fraction of right predictions by probability, in bins of equal size."""
    right, probability = task.calibration(y, outputs)
    low = min(*probability, *right)
    axes.plot([low, 1], [low, 1], color="0.6", linestyle="--")
    axes.plot(probability, right, "o-")
    axes.set(
        xlabel="probability of the predicted class",
        ylabel="fraction that is right",
        title=f"calibration, error {np.abs(right - probability).mean():.3f}",
    )


def _plot_residuals(y: Array, predicted: Array, target: str, axes: Any) -> None:
    from sklearn.metrics import PredictionErrorDisplay

    PredictionErrorDisplay.from_predictions(
        y, predicted, kind="residual_vs_predicted", subsample=5000, random_state=0, ax=axes,
        scatter_kwargs={"s": 10, "alpha": 0.5}, line_kwargs={"color": "0.6"},
    )  # fmt: skip
    _few_ticks(axes.xaxis)
    name = _short(target, 24)
    axes.set(xlabel=f"predicted {name}", ylabel=f"true less predicted\n{name}", title="residuals")


def _plot_importances(found: list[Importance], estimator: Any, axes: Any) -> None:
    shown = found[:MOST_BARS][::-1]
    deviations = [one.deviation for one in shown]
    axes.barh(range(len(shown)), [one.mean for one in shown], xerr=deviations, height=0.7)
    axes.set_yticks(range(len(shown)), [_short(one.column, 24) for one in shown])
    axes.axvline(0, color="0.6", linewidth=0.8)
    _few_ticks(axes.xaxis)
    task, title = estimator.task_, "importance"
    if len(found) > len(shown):
        title += f", {len(shown)} of {len(found)} columns"
    is_class = isinstance(task, Classification)
    error = task.sharpest if is_class else f"{task.sharpest} of {_short(estimator.target_name_, 24)}"
    axes.set(xlabel=f"if a column is shuffled, rise of the\n{error}", title=title)


def _strongest(shown: Sequence[Effect]) -> list[int]:
    """Return the outputs with the strongest effects, ascending; of two classes the second."""
    if not shown:
        return []
    spans = np.max([np.ptp(one.means, axis=0) for one in shown], axis=0)
    if len(spans) <= 2:
        return [len(spans) - 1]
    return sorted(np.argsort(-spans)[:MOST_LINES].tolist())


def _plot_effect(estimator: Any, effect: Effect, lines: Sequence[int], least: float, axes: Any) -> None:
    """Draw the effect of a column on some outputs; least : span of the axis"""
    values = effect.values.drop_nulls()
    is_category, is_date = (isinstance(effect.column, kind) for kind in (Category, Date))
    indices = np.arange(len(values)) if is_category else values.to_numpy() if is_date else numbers(values)
    for color, output in enumerate(lines):
        means = effect.means[: len(values), output]
        axes.plot(indices, means, "o" if is_category else ".-", color=f"C{color}")
        if len(values) < len(effect.values):
            axes.axhline(effect.means[-1, output], color=f"C{color}", linestyle=":")
    if is_category:
        axes.set_xticks(indices, [_short(str(one), 14) for one in values], rotation=30, ha="right")
        axes.set_xlim(-0.5, max(len(values), 1) - 0.5)
    elif is_date:
        from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

        axes.xaxis.set_major_locator(locator := AutoDateLocator(minticks=2, maxticks=6))
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        if len(values):  # margins may lie before or after all dates that there are
            axes.set_xlim(np.clip(axes.get_xlim(), *date2num(DATES)))
    elif len(indices) <= FEW_VALUES and (np.diff(indices) >= LEAST_GAP * np.diff(indices).sum()).all():
        axes.set_xticks(indices)
    else:
        _few_ticks(axes.xaxis)
    name, drawn = effect.column.name, effect.means[:, lines]
    middle, half = (drawn.max() + drawn.min()) / 2, 0.55 * max(np.ptp(drawn), least) or 0.5
    axes.set(
        xlabel=_short(name, 36) + "\ndotted: missing" * (len(values) < len(effect.values)),
        ylabel=_output(estimator, lines[0]) if len(lines) == 1 else "mean probability of each class",
        ylim=(middle - half, middle + half),
        title=f"effect of {_short(name, 20)}",
    )


def _plot_intervals(estimator: Any, predicted: Array, y: Array, axes: Any) -> None:
    """Draw the fraction of rows in intervals: of all rows, and of the least and greatest predictions."""
    coverages = np.linspace(0.1, 0.9, 9)
    order = np.argsort(predicted, kind="stable")
    third = -(-len(order) // 3)
    parts = {"all rows": order, "least predictions": order[:third], "greatest predictions": order[-third:]}
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--")
    for name, rows in parts.items():
        found = held_fractions(estimator, predicted[rows], y[rows], coverages.tolist())
        axes.plot([one["of"] for one in found], [one["hold"] for one in found], ".-", label=name)
    axes.set(xlabel="coverage of intervals", ylabel="fraction of rows inside", title="intervals")
    axes.legend()


def _output(estimator: Any, output: int) -> str:
    """Return the label of an axis of means."""
    if isinstance(estimator.task_, Classification):
        return f"mean probability of {_short(str(estimator.task_.classes[output]), 24)}"
    return f"mean predicted {_short(estimator.target_name_, 24)}"


def _short(text: str, most: int) -> str:
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text.replace("$", r"\$")  # between dollars matplotlib reads a formula
