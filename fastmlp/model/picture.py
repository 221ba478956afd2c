"""A picture of a network: operations from the inputs down, with shapes, as text and as a figure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastmlp.checks import needed
from fastmlp.model.activations import activation_of
from fastmlp.model.operations import INPUTS, Operation

WIDTH, HEIGHT, PITCH = 5.0, 0.46, 0.72
"""Width and height of a box, and the distance between boxes, in inches."""

LANE, HEAD = 0.22, 0.35
"""Inches between two lines next to the boxes; inches above the first box."""

COLUMNS = (
    (0.1, "left", 15, "bold"),
    (1.4, "left", 28, "normal"),
    (4.0, "right", 11, "normal"),
    (4.9, "right", 13, "normal"),
)
"""The start or end of a box's texts, the most characters of each, and the weight."""

FILLS = {"dense": "#d6e4f5", "norm": "#dcefdc", "join": "#ececec", "unit": "#fbe8cf", "end": "white"}
"""Colours of boxes by the type of an operation."""


def written(operations: Sequence[Operation], n_in: int, loss: str) -> str:
    """Return a network as lines of text: operations, inputs and the loss's name."""
    lines = [("layer", "reads", "outputs", "parameters"), ("inputs", "", f"{n_in}", "")]
    for one in operations:
        sources = ", ".join("inputs" if at < 0 else operations[at].title for at in one.sources)
        dropout = f", dropout {one.dropout:g}" if one.dropout else ""
        ends = f", {one.activation}" if one.activation != "identity" else ""
        lines.append((one.title + ends + dropout, sources, f"{one.width}", f"{one.end - one.weights:,}"))
    lines.append((f"loss {loss}", "", "", f"{operations[-1].end:,}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (str.ljust, str.ljust, str.rjust, str.rjust)
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(aligned, line, widths, strict=True)).rstrip()
        for line in lines
    )


def draw(operations: Sequence[Operation], n_in: int, loss: str, path: str | os.PathLike[str]) -> None:
    """Write a picture of a network: operations, inputs and the loss's name; see `Network.plot`."""
    Figure = needed("matplotlib.figure", "plot", "Network.plot").Figure
    boxes = [INPUTS, *(at for at in range(len(operations)) if not _is_silent(operations[at]))]
    rows = {at: row for row, at in enumerate(boxes)}
    arrows = [
        (rows[_seen(operations, source)], rows[at])
        for at in boxes
        if at >= 0
        for source in operations[at].sources
    ]
    lines = sorted((one for one in arrows if one[1] - one[0] > 1), key=lambda one: one[1] - one[0])
    lanes = lanes_of(lines)
    wide = WIDTH + 0.3 + LANE * (1 + max(lanes, default=0))
    high = HEAD + PITCH * (len(boxes) + 1)
    figure = Figure(figsize=(wide, high))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-0.15, wide - 0.15), ylim=(high - HEAD, -HEAD))
    axes.axis("off")
    head: dict[str, Any] = {"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": 0}
    for row, at in enumerate(boxes):
        box = Box("inputs", "", f"{n_in}", "", "end") if at == INPUTS else _box(operations[at])
        box.draw(axes, row)
    for source, target in arrows:
        if target - source == 1:
            ends = (WIDTH / 2, target * PITCH), (WIDTH / 2, source * PITCH + HEIGHT)
            axes.annotate("", *ends, arrowprops=head)
    for (source, target), lane in zip(lines, lanes, strict=True):
        x = WIDTH + LANE * (lane + 1)
        top, bottom = source * PITCH + 0.6 * HEIGHT, target * PITCH + 0.4 * HEIGHT
        axes.plot([WIDTH, x, x], [top, top, bottom], color="0.3", lw=1, solid_joinstyle="round")
        axes.annotate("", (WIDTH, bottom), (x, bottom), arrowprops=head)
    axes.annotate(
        "", (WIDTH / 2, len(boxes) * PITCH), (WIDTH / 2, len(boxes) * PITCH - PITCH + HEIGHT), arrowprops=head
    )
    Box("loss", loss, "", f"{operations[-1].end:,}", "end").draw(axes, len(boxes))
    _write(axes, -0.15, ("", "", "outputs", "parameters"), fontsize=8, color="0.4")
    figure.savefig(path, dpi=150)


class Box(NamedTuple):
    """The texts of a box, and a key of `FILLS`."""

    name: str
    what: str
    outputs: str
    parameters: str
    fill: str

    def draw(self, axes: Any, row: int) -> None:
        """Draw box number `row`."""
        from matplotlib.patches import FancyBboxPatch

        top, style = row * PITCH, "round,pad=0,rounding_size=0.06"
        box = FancyBboxPatch((0, top), WIDTH, HEIGHT, style, facecolor=FILLS[self.fill], edgecolor="0.4")
        axes.add_patch(box)
        _write(axes, top + HEIGHT / 2, self)


def _write(axes: Any, middle: float, texts: Sequence[str], **style: Any) -> None:
    """Write the texts of a box in columns; long texts are cut."""
    for text, (x, side, most, weight) in zip(texts, COLUMNS, strict=False):
        cut = text if len(text) <= most else f"{text[: most - 1]}…"
        given = {"ha": side, "va": "center", "fontsize": 9, "fontweight": weight, "parse_math": False}
        axes.text(x, middle, cut, **given | style)


def _box(one: Operation) -> Box:
    """Return the box of an operation."""
    kind, count = one.kind.name, one.end - one.weights
    parts = [] if one.layer is None or one.kind.key == "activation" else [type(one.layer).__name__]
    parts = [kind] if one.kind.digest else parts
    parts += [activation_of(one.activation).name] if one.activation != "identity" else []
    parts += [f"dropout {one.dropout:g}"] if one.dropout else []
    fill = (
        "norm" if "norm" in kind else "join" if len(one.sources) > 1 else "dense" if one.is_dense else "unit"
    )
    return Box(one.title, ", ".join(parts), f"{one.width}", f"{count:,}" if count else "", fill)


def _is_silent(one: Operation) -> bool:
    """True for a plain copy, drawn as the copy's source."""
    return one.kind.key == "copy" and not one.dropout


def _seen(operations: Sequence[Operation], at: int) -> int:
    """Return the drawn operation for a source."""
    while at != INPUTS and _is_silent(operations[at]):
        at = operations[at].sources[0]
    return at


def lanes_of(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return for each span of rows the first lane without an overlapping span."""
    lanes: list[int] = []
    for first, last in spans:
        taken = {
            lane for (begin, end), lane in zip(spans, lanes, strict=False) if begin < last and first < end
        }
        lanes.append(next(lane for lane in range(len(taken) + 1) if lane not in taken))
    return lanes
