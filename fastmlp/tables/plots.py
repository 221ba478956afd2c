"""A picture of a model: losses, calibration or residuals, importances, effects, pairs, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.model.losses import loss_of
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import numbers
from fastmlp.tables.effects import Effect, Importance, Pair, effects, importances, pairs
from fastmlp.tables.kinds import Date
from fastmlp.tables.report import LEAST_ERRORS, held_shares
from fastmlp.tables.tasks import MOST_CLASSES, Classification

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]
Estimator = Any
"""A TableClassifier or a TableRegressor, whose module imports this one."""
Panel = tuple[Callable[..., None], tuple[Any, ...]]
"""What draws on Axes, and what it takes behind them."""

MOST_BARS, MOST_EFFECTS, MOST_PAIRS, MOST_LINES = 15, 9, 2, 6
"""Columns whose importance and effect are shown, pairs, and classes of each effect: the strongest first."""

LEAST_SPAN = 0.1
"""Of the axis of an effect, as a share of the greatest effect: so that noise is not drawn large."""

FEW_VALUES = 6
"""Values of a number that each have a tick, if they are not close."""

LEAST_GAP = 0.1
"""Between such values, as a share of their span."""

DATES = datetime.min, datetime.max.replace(microsecond=0)
"""What an axis of dates can show."""

ACROSS, MOST_TICKS = 3, 4
"""Panels in a row; parts of an axis of long numbers, between its ticks."""


def plot(estimator: Estimator, frame: pl.DataFrame, y: Array, seed: int, of: str | None = None) -> Any:
    """Return a matplotlib Figure of a model and a table without its target.

    y : (rows,) as the task has them; of : which rows they are, in words, if not those of another table
    """
    needed("matplotlib", "plot", "a picture")
    from matplotlib.figure import Figure

    task = estimator.task_
    important = importances(estimator, frame, y, seed)
    names = [one.column for one in important]
    shown = effects(estimator, frame, names[:MOST_EFFECTS], seed)
    by_name = _panels(estimator, y, estimator.outputs(frame))
    last = [by_name.pop("intervals")] if "intervals" in by_name else []
    panels: list[Panel] = [*by_name.values(), (_plot_importances, (important, estimator))]
    lines = _strongest(shown)
    least = LEAST_SPAN * max((np.ptp(one.means[:, lines]) for one in shown), default=0.0)
    panels += [(_plot_effect, (estimator, one, lines, least)) for one in shown]
    panels += [(_plot_pair, (estimator, one)) for one in pairs(estimator, frame, names, seed)[:MOST_PAIRS]]
    panels += last
    deep = -(-len(panels) // ACROSS)
    figure = Figure(figsize=(15, 4.6 * deep), layout="constrained")
    grid = figure.subplots(deep, ACROSS).ravel()
    for axes, (draw, given) in zip(grid, panels, strict=False):
        draw(axes, *given)
    for axes in grid[len(panels) :]:
        axes.remove()
    if isinstance(task, Classification) and len(lines) > 1:
        figure.legend(
            **_classes_of(task, lines),
            loc="outside lower center",
            ncols=MOST_LINES,
            title="classes of effects",
        )
    if of is not None:
        figure.suptitle(of, fontsize="x-large")
    return figure


def plot_one(estimator: Estimator, frame: pl.DataFrame, y: Array, panel: str, axes: Any, seed: int) -> Any:
    """Draw one panel, or the effect of a column of that name, on Axes, new ones if None; return these."""
    needed("matplotlib", "plot", "a picture")
    from matplotlib.figure import Figure

    panels, columns = _panels(estimator, y, estimator.outputs(frame)), [*estimator.encoding_.places]
    checks.choice("panel", panel, [*panels, "importances", *columns])
    axes = Figure(layout="constrained").subplots() if axes is None else axes
    if panel in panels:
        draw, given = panels[panel]
        draw(axes, *given)
    elif panel == "importances":
        _plot_importances(axes, importances(estimator, frame, y, seed), estimator)
    else:
        shown = effects(estimator, frame, [panel], seed)
        if not shown:
            raise ValueError(f"column {panel!r} is a free text, which has no effect to draw")
        lines = _strongest(shown)
        _plot_effect(axes, estimator, shown[0], lines, 0.0)
        if len(lines) > 1:
            axes.legend(**_classes_of(estimator.task_, lines))
    return axes


def looked(estimator: Estimator, frame: pl.DataFrame, y: Array, seed: int) -> dict[str, Any]:
    """Return what `plot` shows as plain lists: scores, importances, effects, pairs and intervals."""
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
        "pairs": [
            {"columns": [column.name for column in one.columns], "strength": one.strength}
            for one in pairs(estimator, frame, names, seed)
        ],
    }
    if isinstance(task, Classification):
        return found | {"classes": [*task.classes], "confusion": task.confusion(y, outputs)}
    if estimator.errors_ is not None and len(estimator.errors_.scaled) >= LEAST_ERRORS:
        found["intervals"] = held_shares(estimator, task.decoded(outputs), y)
    return found


def _panels(estimator: Estimator, y: Array, outputs: Array) -> dict[str, Panel]:
    """Return what draws each panel of losses and of a table's rows, with what to draw, by its name."""
    task = estimator.task_
    losses: dict[str, Panel] = {"losses": (_plot_losses, (estimator,))}
    if isinstance(task, Classification):
        matrix = {"confusion": (_plot_confusion, (task, y, outputs))} if task.n_out <= MOST_CLASSES else {}
        return losses | matrix | {"calibration": (_plot_calibration, (task, y, outputs))}
    predicted = task.decoded(outputs)
    found = losses | {"residuals": (_plot_residuals, (y, predicted, estimator.target_name_))}
    if estimator.errors_ is not None and len(estimator.errors_.scaled) >= LEAST_ERRORS:
        found["intervals"] = (_plot_intervals, (estimator, predicted, y))
    return found


def _classes_of(task: Any, lines: Sequence[int]) -> dict[str, Any]:
    """Return the handles and labels of a legend of the classes whose effects are drawn."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=f"C{color}", marker=".") for color in range(len(lines))]
    return {"handles": handles, "labels": [_short(str(task.classes[output]), 24) for output in lines]}


def _plot_losses(axes: Any, estimator: Estimator) -> None:
    from matplotlib.ticker import MaxNLocator

    for place, model in enumerate(estimator.models_):
        for color, (name, values) in zip(("C0", "C1"), model.history.items(), strict=False):
            label = {"loss": "rows trained on", "validation_loss": "rows held out"}[name]
            epochs = np.arange(1, len(values) + 1)
            axes.plot(epochs, values, color=color, alpha=0.6, label=None if place else label)
    unit = "" if isinstance(estimator.task_, Classification) else "\nof the standardised target"
    loss = f"{loss_of(estimator.models_[0].network.loss).name}{unit}"
    axes.set(xlabel="epoch", ylabel=loss, title="loss of each network")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _plot_confusion(axes: Any, task: Classification, y: Array, outputs: Array) -> None:
    """How many rows of each class are predicted as each class."""
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.array(task.confusion(y, outputs))
    names = [_short(str(one), 14) for one in task.classes]
    display = ConfusionMatrixDisplay(counts, display_labels=names)
    display.plot(
        ax=axes,
        colorbar=False,
        cmap="Blues",
        include_values=len(names) <= MOST_LINES,
        im_kw={"aspect": "auto"},
    )
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    threshold = "" if task.threshold is None else f" at {task.threshold:.3g}"
    axes.set(xlabel="predicted class", ylabel="class", title=f"rows of each class{threshold}")


def _plot_calibration(axes: Any, task: Classification, y: Array, outputs: Array) -> None:
    """How often the predicted class is right, by its probability, in bins of as many rows each."""
    right, probability = task.calibration(y, outputs)
    low = min(*probability, *right)
    axes.plot([low, 1], [low, 1], color="0.6", linestyle="--")
    axes.plot(probability, right, "o-")
    rows = f"dashed: perfect; {len(y) / len(right):.0f} rows a mean"
    axes.set(
        xlabel=f"probability of the predicted class\n{rows}",
        ylabel="share that is right",
        title=f"calibration, error {np.abs(right - probability).mean():.3f}",
    )


def _plot_residuals(axes: Any, y: Array, predicted: Array, target: str) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = np.arange(len(y)) if len(y) <= 5000 else np.random.default_rng(0).choice(len(y), 5000, False)
    axes.axhline(0, color="0.6", linestyle="--")
    axes.scatter(predicted[rows], (y - predicted)[rows], s=10, alpha=0.5)
    axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    name = _short(target, 24)
    axes.set(xlabel=f"predicted {name}", ylabel=f"true less predicted\n{name}", title="residuals")


def _plot_importances(axes: Any, found: list[Importance], estimator: Estimator) -> None:
    from matplotlib.ticker import MaxNLocator

    shown = found[:MOST_BARS][::-1]
    names = [_short(one.column, 24) for one in shown]
    axes.barh(
        range(len(shown)), [one.mean for one in shown], xerr=[one.deviation for one in shown], height=0.7
    )
    axes.set_yticks(range(len(shown)), names)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    title = "importance" + (f", {len(shown)} of {len(found)} columns" if len(found) > len(shown) else "")
    axes.set(xlabel=f"if a column is shuffled, rise of the\n{_error(estimator)}", title=title)


def _strongest(shown: Sequence[Effect]) -> list[int]:
    """Return the outputs whose effects are drawn, ascending: of two classes the second, of more a few."""
    if not shown:
        return []
    spans = np.max([np.ptp(one.means, axis=0) for one in shown], axis=0)
    if len(spans) <= 2:
        return [len(spans) - 1]
    return sorted(np.argsort(-spans)[:MOST_LINES].tolist())


def _plot_effect(axes: Any, estimator: Estimator, effect: Effect, lines: Sequence[int], least: float) -> None:
    """Draw the effect of a column on some outputs, on an axis that spans so much at least."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.ticker import MaxNLocator

    values = effect.values.drop_nulls()
    is_category = isinstance(effect.column, Category)
    is_date = isinstance(effect.column, Date)
    places = np.arange(len(values)) if is_category else values.to_numpy() if is_date else numbers(values)
    for color, output in enumerate(lines):
        means = effect.means[: len(values), output]
        axes.plot(places, means, "o" if is_category else ".-", color=f"C{color}")
        if len(values) < len(effect.values):
            axes.axhline(effect.means[-1, output], color=f"C{color}", linestyle=":")
    details = ["dotted: missing"] * (len(values) < len(effect.values))
    if is_category:
        axes.set_xticks(places, [_short(str(one), 14) for one in values], rotation=30, ha="right")
        axes.set_xlim(-0.5, max(len(values), 1) - 0.5)
    else:
        if is_date:
            axes.xaxis.set_major_locator(locator := AutoDateLocator(minticks=2, maxticks=6))
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
            if len(values):  # margins may lie before or after all dates that there are
                axes.set_xlim(np.clip(axes.get_xlim(), *date2num(DATES)))
        elif len(places) <= FEW_VALUES and (np.diff(places) >= LEAST_GAP * np.diff(places).sum()).all():
            axes.set_xticks(places)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    of = _output(estimator, lines[0]) if len(lines) == 1 else "mean probability of each class"
    name, drawn = _short(effect.column.name, 36), effect.means[:, lines]
    middle, half = (drawn.max() + drawn.min()) / 2, 0.55 * max(np.ptp(drawn), least) or 0.5
    axes.set(
        xlabel="\n".join([name, *details]),
        ylabel=of,
        ylim=(middle - half, middle + half),
        title=f"effect of {_short(effect.column.name, 20)}",
    )


def _plot_pair(axes: Any, estimator: Estimator, pair: Pair) -> None:
    most = float(np.abs(pair.left).max()) or 1.0
    picture = axes.imshow(pair.left.T, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most)
    labels = [[_cell(one) for one in values] for values in pair.values]
    axes.set_xticks(range(len(labels[0])), labels[0], rotation=30, ha="right")
    axes.set_yticks(range(len(labels[1])), labels[1])
    label = f"{_output(estimator, pair.output)}\nbeyond both effects"
    axes.figure.colorbar(picture, ax=axes, label=label)
    title = f"a pair's interaction, {pair.strength:.3g}"
    axes.set(xlabel=_short(pair.columns[0].name, 36), ylabel=_short(pair.columns[1].name, 36), title=title)


def _plot_intervals(axes: Any, estimator: Estimator, predicted: Array, y: Array) -> None:
    """How many rows intervals hold: of all rows, and of the least and greatest predictions."""
    coverages = np.linspace(0.1, 0.9, 9)
    order = np.argsort(predicted, kind="stable")
    third = -(-len(order) // 3)
    parts = {"all rows": order, "least predictions": order[:third], "greatest predictions": order[-third:]}
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--")
    for name, rows in parts.items():
        found = held_shares(estimator, predicted[rows], y[rows], coverages.tolist())
        axes.plot([one["of"] for one in found], [one["hold"] for one in found], ".-", label=name)
    axes.set(xlabel="coverage of intervals", ylabel="share of rows inside", title="intervals")
    axes.legend()


def _error(estimator: Estimator) -> str:
    """Return the name of a task's error, with the target whose unit it has."""
    task = estimator.task_
    is_class = isinstance(task, Classification)
    return task.sharpest if is_class else f"{task.sharpest} of {_short(estimator.target_name_, 24)}"


def _output(estimator: Estimator, output: int) -> str:
    """Return what an axis of means shows."""
    if isinstance(estimator.task_, Classification):
        return f"mean probability of {_short(str(estimator.task_.classes[output]), 24)}"
    return f"mean predicted {_short(estimator.target_name_, 24)}"


def _cell(value: Any) -> str:
    """Return a value of a column as a short text."""
    if value is None:
        return "missing"
    if not isinstance(value, float):
        text = str(value)
    elif value == 0 or 1e-4 <= abs(value) < 1e9:
        text = np.format_float_positional(value, 4, fractional=False, trim="-")
    else:
        text = f"{value:.4g}"
    return _short(text.removesuffix(" 00:00:00"), 14)


def _short(text: str, most: int) -> str:
    return _plain(text if len(text) <= most else f"{text[: most - 1]}…")


def _plain(text: str) -> str:
    """Return a text that matplotlib shows as it is: between dollars it would be a formula."""
    return text.replace("$", r"\$")
