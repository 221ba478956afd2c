"""Results as a page of HTML and SVG without scripts and network."""

from __future__ import annotations

import importlib.resources
import math
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from string import Template
from typing import NamedTuple

from fastmlp.lab.machine import MeasuredMachine
from fastmlp.lab.measurements import STEP, Measurement, PhaseTime, Results, winners
from fastmlp.lab.slot_times import PHASES
from fastmlp.lab.table import duration, fastest, interval, lost, reason, title
from fastmlp.model.state import DTYPES

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
    """A bar of a chart; length, interval : fractions of the longest bar; text : stands behind the bar."""

    name: str
    length: float
    text: str
    color: int
    first: bool = False
    interval: tuple[float, float] | None = None


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
    """Return a bar of parts (name, fraction, text, colour) with a legend."""
    fills, legend = [], []
    for name, fraction, text, number in parts:
        said = escape(f"{name}: {text}")
        fills.append(
            f'<div title="{said}" style="width:{100 * fraction:.2f}%;background:{shade(number)}"></div>'
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
        fraction = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + fraction * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return the powers of ten within the scale."""
        low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
        return [10.0**power for power in range(low, high + 1)]


def roofline(machine: MeasuredMachine, dtype: str, points: Sequence[tuple[float, float, int, str]]) -> str:
    """Return a roofline (Williams and others 2009) with points, as SVG.

    points : operations a byte, operations a second, a variant's number, and the label
    """
    peak = machine.peak[dtype] / 1e9
    intensities, rates = [point[0] for point in points], [point[1] / 1e9 for point in points]
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
    for intensity, rate, number, said in points:
        fill = f'fill="{color(number)}" fill-opacity="0.85"'
        path = marker(number, x(intensity), y(rate / 1e9), 5)
        lines.append(f'<path d="{path}" {fill}><title>{escape(said)}</title></path>')
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


# --- the page --------------------------------------------------------------------------------------

Ranked = list[Measurement]

MOST_OPEN = 8
"""Rows of a slot shown at once; longer lists are folded."""

WIDEST = 1.25
"""The end of the longest interval over the longest bar, at most."""

MOST_CALLS = 2.0
"""The greatest time of a step's functions, called from Python, over that of the whole step."""


def page(results: Results) -> str:
    """Return the page's text."""
    variants = dict.fromkeys(m.variant for m in results.measurements)
    numbers = {name: number for number, name in enumerate(variants)}  # of colours and markers
    slots: dict[str, list[Ranked]] = {STEP: []}
    for ranked in winners(results.measurements).values():
        slots.setdefault(ranked[0].slot, []).append(ranked)
    steps = slots.pop(STEP)
    summary = [
        _summary("Whole steps", steps, numbers),
        _summary("Slots", [ranked for of in slots.values() for ranked in of], numbers),
    ]
    sections = [
        ("winners", "Who wins", "".join(summary)),
        ("steps", "Whole training steps", "".join(_step(ranked, results, numbers) for ranked in steps)),
        ("phases", "Where a step's time goes", _phases(results)),
        ("roofline", "What the machine allows", _rooflines(results, numbers)),
        ("slots", "Slot by slot", "".join(_slot(name, of, results, numbers) for name, of in slots.items())),
        ("wrong", "Wrong, and so not timed", _wrong(results)),
    ]
    shown = [(anchor, heading, text) for anchor, heading, text in sections if text]
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading, _ in shown)
    text = "".join(f'<section id="{a}"><h2>{heading}</h2>{text}</section>' for a, heading, text in shown)
    cpu, machine = escape(results.machine.cpu), _machine(results)
    return Template(template).substitute(cpu=cpu, machine=machine, links=links, sections=text)


def _machine(results: Results) -> str:
    machine = results.machine
    facts = {
        "CPU": f"{machine.cpu}, {machine.cores} cores, {machine.vector_bits}-bit vectors, "
        f"{machine.fma_ports} ports for multiply-adds",
        "peak": ", ".join(f"{rate / 1e9:.3g} GF/s {dtype}" for dtype, rate in machine.peak.items())
        + ", one thread, measured",
        "memory": ", ".join(
            f"{level.name}{f' of {level.size >> 10} KiB' if level.size < 1 << 60 else ''} "
            f"{level.bandwidth / 1e9:.3g} GB/s"
            for level in machine.levels
        ),
        "versions": ", ".join(f"{name} {number}" for name, number in machine.versions.items()),
    }
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(text)}</dd>' for name, text in facts.items())}</dl>"


def _summary(what: str, rows: Sequence[Ranked], numbers: dict[str, int]) -> str:
    contested = [ranked for ranked in rows if len(ranked) > 1]
    if not contested:
        return ""
    wins, ties = _wins(contested)
    found = [
        ChartBar(name, count / len(contested), f"{count} of {len(contested)}", numbers[name])
        for name, count in wins.most_common()
    ]
    tied = f" {ties} of {len(contested)} are tied: no variant is certainly the fastest." if ties else ""
    return f"<p>{what} that several variants compute, by the fastest of them.{tied}</p>{bars(found)}"


def _wins(rows: Sequence[Ranked]) -> tuple[Counter[str], int]:
    """Return each variant's count of won rows, and the count of tied rows."""
    firsts = [fastest(ranked) for ranked in rows]
    alone = Counter(first[0].variant for first in firsts if len(first) == 1)
    return alone, len(rows) - alone.total()


def _rooflines(results: Results, numbers: dict[str, int]) -> str:
    made = []
    for dtype in DTYPES:
        points = [
            (m.flops / m.traffic, m.rate, numbers[m.variant], f"{m.variant}, {title(m)}: {_rate(m)}")
            for m in results.measurements
            if m.flops is not None and m.dtype == dtype and m.threads == 1
        ]
        if points:
            caption = (
                f"{dtype}, one thread. The slopes are what memories deliver, the flat line is the peak."
                " A point is a product or a step."
            )
            chart = roofline(results.machine, dtype, points)
            made.append(f"<figure>{chart}<figcaption>{caption}</figcaption></figure>")
    return key(list(numbers.items())) + "".join(made) if made else ""


def _rate(m: Measurement) -> str:
    return f"{m.rate / 1e9:.3g} {m.unit}"


def _bars(ranked: Ranked, numbers: dict[str, int], results: Results) -> str:
    # A wide interval must not shrink all bars to nothing: its line ends with the track.
    longest, first = min(max(m.time.high for m in ranked), WIDEST * ranked[-1].time.median), fastest(ranked)
    return bars(
        [
            ChartBar(
                m.variant, m.time.median / longest,
                f"{duration(m.time.median)} {interval(m.time)}, {_rate(m)}, "
                f"{m.fraction(results.machine):.0%}",
                numbers[m.variant], m in first, (m.time.low / longest, m.time.high / longest),
            )
            for m in ranked
        ]
    )  # fmt: skip


def _row(ranked: Ranked, results: Results, numbers: dict[str, int]) -> str:
    said = escape(reason(ranked, results.machine))
    heading = escape(title(ranked[0]))
    others = "".join(f"<li>{escape(line)}</li>" for line in lost(ranked, results.machine))
    why = f'<ul class="why">{others}</ul>' if others else ""
    bars = _bars(ranked, numbers, results)
    return f"<h3>{heading}</h3><figure>{bars}<figcaption>{said}{why}</figcaption></figure>"


def _slot(name: str, rows: Sequence[Ranked], results: Results, numbers: dict[str, int]) -> str:
    wins, ties = _wins(rows)
    said = [f"{len(rows)} rows", f"fastest {', '.join(sorted(wins))}" if wins else "", f"{ties} tied"]
    summary = f"{name}: {', '.join(filter(None, said if ties else said[:-1]))}"
    body = "".join(_row(ranked, results, numbers) for ranked in rows)
    shown = " open" if len(rows) <= MOST_OPEN else ""
    return f"<details{shown}><summary>{escape(summary)}</summary><div>{body}</div></details>"


def _step(ranked: Ranked, results: Results, numbers: dict[str, int]) -> str:
    reference = next((m for m in ranked if m.variant == "reference"), None)
    made = _row(ranked, results, numbers)
    if reference is None or ranked[0] is reference:
        return made
    slow = reference.time
    best = WIDEST * slow.median / ranked[0].time.median
    found = [
        ChartBar(
            m.variant, slow.median / m.time.median / best, f"{slow.median / m.time.median:.1f} times",
            numbers[m.variant], m in fastest(ranked),
            (slow.low / m.time.high / best, slow.high / m.time.low / best),
        )
        for m in ranked
    ]  # fmt: skip
    waits = _waiting(ranked[0], results)
    said = f"Speed-up against the reference, NumPy.{f' {waits}' if waits else ''}"
    return f"{made}<figure>{bars(found)}<figcaption>{escape(said)}</figcaption></figure>"


def _waiting(measurement: Measurement, results: Results) -> str:
    """Return the waiting fraction of several threads' time, in words."""
    row = *measurement.row[:4], 1
    same = [m for m in results.measurements if m.row == row and m.variant == measurement.variant]
    if not same or measurement.threads == 1:
        return ""
    alone = same[0]
    waits = 1 - alone.time.median / (measurement.threads * measurement.time.median)
    return f"Of {measurement.threads} threads' time {max(waits, 0):.0%} is waiting for one another."


def _phases(results: Results) -> str:
    made = []
    groups: dict[tuple[str, str, str], list[PhaseTime]] = {}
    for phase in results.phases:
        groups.setdefault((phase.shape, phase.dtype, phase.variant), []).append(phase)
    for (shape, dtype, variant), found in groups.items():
        whole = next(
            m.time.median
            for m in results.measurements
            if m.row == (STEP, m.case, shape, dtype, 1) and m.variant == variant
        )
        total = sum(phase.seconds for phase in found)
        heading = f"<h3>{escape(f'{shape} {dtype}')}</h3>"
        if total > MOST_CALLS * whole:
            made.append(f"{heading}<p>So short a step is mostly calls when it is taken apart.</p>")
            continue
        parts = []
        for phase in found:
            name, fraction = (
                phase.phase + (f" of layer {phase.layer}" * bool(phase.layer)),
                phase.seconds / total,
            )
            text = f"{duration(phase.seconds)}, {fraction:.0%}"
            parts.append((name, fraction, text, PHASES.index(phase.phase)))
        caption = (
            f"The functions of {variant}, the fastest of fastmlp's backends here, called one by one on one"
            f" thread: {duration(total)}. The whole step takes {duration(whole)}."
        )
        made.append(f"{heading}<figure>{stack(parts)}<figcaption>{escape(caption)}</figcaption></figure>")
    return "".join(made)


def _wrong(results: Results) -> str:
    lines = (f"{one.variant}, {one.row}: {one.message}" for one in results.wrong)
    return "".join(f'<p class="wrong">{escape(line)}</p>' for line in lines)
