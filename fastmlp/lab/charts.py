"""Charts as HTML and SVG without scripts: bars, a bar of parts, and a roofline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from fastmlp.lab.machine import MeasuredMachine

COLORS = 12
"""The colours of page.html for variants; markers serve readers who see no colours."""

MARKERS: tuple[Callable[[float, float, float], str], ...] = (
    lambda x, y, r: f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1 0 {2 * r},0a{r},{r} 0 1 0 {-2 * r},0z",
    lambda x, y, r: f"M{x - r:.1f},{y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
    lambda x, y, r: f"M{x:.1f},{y - (d := 1.3 * r):.1f}l{d},{d}l{-d},{d}l{-d},{-d}z",
    lambda x, y, r: f"M{x:.1f},{y - 1.2 * r:.1f}l{1.2 * r},{2.2 * r}h{-2.4 * r}z",
    lambda x, y, r: f"M{x:.1f},{y + 1.2 * r:.1f}l{1.2 * r},{-2.2 * r}h{-2.4 * r}z",
    lambda x, y, r: f"M{x - r:.1f},{y - 2:.1f}h{(s := r - 2)}v{-s}h4v{s}h{s}v4h{-s}v{s}h-4v{-s}h{-s}z",
)
"""Paths of markers: circle, square, diamond, up, down and cross."""


class ChartBar(NamedTuple):
    """A bar of a chart.

    length : share of the longest bar; text : stands behind the bar; color : a number
    interval : the ends of the confidence interval, as lengths, if there is one
    """

    name: str
    length: float
    text: str
    color: int
    first: bool = False
    interval: tuple[float, float] | None = None


class Point(NamedTuple):
    """A point of a roofline.

    intensity : operations a byte; rate : operations a second
    number : of the variant, for colour and marker; title : the point's label
    """

    intensity: float
    rate: float
    number: int
    title: str


def color(number: int) -> str:
    """Return a variant's colour: of the page, or another hue beyond `COLORS`."""
    # Golden angles on the circle of hues never meet.
    return f"var(--c{number})" if number < COLORS else f"hsl({137.5 * number % 360:.1f} 65% 50%)"


def shade(number: int) -> str:
    """Return a part's colour, which differs from all variants' colours."""
    return f"var(--p{number})"


def bars(found: Sequence[ChartBar]) -> str:
    """Return bars below each other."""
    lines = []
    for bar in found:
        kind = ' class="first"' if bar.first else ""
        fill = f'style="width:{100 * max(bar.length, 0):.1f}%;background:{color(bar.color)}"'
        lines.append(
            f"<div{kind}>{escape(bar.name)}</div>"
            f'<div class="track"><div class="fill" {fill}></div>{_whisker(bar.interval)}</div>'
            f"<div{kind}>{escape(bar.text)}</div>"
        )
    return f'<div class="bars">{"".join(lines)}</div>'


def _whisker(interval: tuple[float, float] | None) -> str:
    """Return the line over a bar's end for its interval, clamped to the track."""
    if interval is None:
        return ""
    low, high = (100 * min(max(end, 0), 1) for end in interval)
    return f'<div class="interval" style="left:{low:.1f}%;width:{high - low:.1f}%"></div>'


def stack(parts: Sequence[tuple[str, float, str, int]]) -> str:
    """Return a bar of parts (name, share, text, colour) with a legend."""
    fills, legend = [], []
    for name, share, text, number in parts:
        said = escape(f"{name}: {text}")
        fills.append(
            f'<div title="{said}" style="width:{100 * share:.2f}%;background:{shade(number)}"></div>'
        )
        legend.append(f'<li><span style="background:{shade(number)}"></span>{said}</li>')
    bar = f'<div class="stack" aria-hidden="true">{"".join(fills)}</div>'
    return f'{bar}<ul class="legend">{"".join(legend)}</ul>'


# --- the roofline -----------------------------------------------------------------------------------

WIDTH, HEIGHT = 480, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44


class _PixelScale(NamedTuple):
    """A logarithmic scale onto pixels."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return the powers of ten within the scale."""
        low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(low, high + 1)]


def roofline(machine: MeasuredMachine, dtype: str, points: Sequence[Point]) -> str:
    """Return a roofline (Williams and others 2009) with points, as SVG."""
    peak = machine.peak[dtype] / 1e9
    rates = [point.rate / 1e9 for point in points]
    intensities = [point.intensity for point in points]
    x = _PixelScale(min([0.1, *intensities]) / 2, max([100.0, *intensities]) * 2, LEFT, WIDTH - RIGHT)
    y = _PixelScale(min([1.0, *rates]) / 2, 2 * max([peak, *rates]), HEIGHT - BOTTOM, TOP)
    lines = [_axes(x, y)]
    for level in machine.levels:
        ridge = peak / (level.bandwidth / 1e9)
        begin = max(x.low, y.low / (level.bandwidth / 1e9))
        if begin < ridge < x.high:
            start = f"{x(begin):.1f},{y(begin * level.bandwidth / 1e9):.1f}"
            bend, end = f"{x(ridge):.1f},{y(peak):.1f}", f"{x(x.high):.1f},{y(peak):.1f}"
            lines.append(f'<polyline class="roof" points="{start} {bend} {end}"/>')
            at = f'x="{x(ridge):.1f}" y="{y(peak) - 6:.1f}"'
            lines.append(f'<text {at} text-anchor="middle">{escape(level.name)}</text>')
    lines.append(f'<text x="{LEFT + 4}" y="{y(peak) - 6:.1f}">peak {peak:.3g} GF/s</text>')
    for point in points:
        lines.append(_marker(x(point.intensity), y(point.rate / 1e9), point))
    label = f"Roofline, {dtype}: operations a second over operations a byte, for {len(points)} measurements"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(lines)}</svg>'
    )


def _axes(x: _PixelScale, y: _PixelScale) -> str:
    lines = []
    for tick in x.ticks():
        at = f"{x(tick):.1f}"
        lines.append(f'<line class="axis" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        lines.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in y.ticks():
        at = f"{y(tick):.1f}"
        lines.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">operations a byte</text>')
    lines.append(f'<text x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})">GF/s</text>')
    return "".join(lines)


def _marker(x: float, y: float, point: Point) -> str:
    said = f"<title>{escape(point.title)}</title>"
    fill = f'fill="{color(point.number)}" fill-opacity="0.85"'
    return f'<path d="{marker(point.number, x, y, 5)}" {fill}>{said}</path>'


def marker(number: int, x: float, y: float, r: float) -> str:
    """Return the outline of a variant's marker as a path of SVG."""
    return MARKERS[number % len(MARKERS)](x, y, r)


def key(names: Sequence[tuple[str, int]]) -> str:
    """Return the legend of the markers."""
    items = []
    for name, number in names:
        path = f'<path d="{marker(number, 8, 8, 5)}" fill="{color(number)}"/>'
        icon = f'<svg class="icon" viewBox="0 0 16 16">{path}</svg>'
        items.append(f"<li>{icon} {escape(name)}</li>")
    return f'<ul class="legend" aria-label="variants">{"".join(items)}</ul>'
