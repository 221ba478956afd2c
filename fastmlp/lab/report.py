"""A report of results: an HTML page with Matplotlib's pictures, without scripts and network."""

from __future__ import annotations

import base64
import importlib.resources
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain, cycle
from string import Template
from typing import Any

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastmlp.lab.measurements import STEP, Measurement, PhaseTime, Results, winners
from fastmlp.lab.slot_times import PHASES
from fastmlp.lab.table import duration, fastest, interval, lost, reason, title
from fastmlp.model.state import DTYPES

Ranked = list[Measurement]

WIDTH = 9.0
"""Inches of a picture, on which the texts behind the bars are readable."""

MOST_OPEN = 8
"""Rows of a slot shown at once; longer lists are folded."""

WIDEST = 1.25
"""The end of the longest interval over the longest bar, at most."""

MOST_CALLS = 2.0
"""The greatest time of a step's functions, called from Python, over that of the whole step."""

MARKERS = "osD^vX"


def page(results: Results) -> str:
    """Return the report as a text of HTML."""
    colors = colors_of(results)
    slots: dict[str, list[Ranked]] = {STEP: []}
    for ranked in winners(results.measurements).values():
        slots.setdefault(ranked[0].slot, []).append(ranked)
    steps = slots.pop(STEP)
    summary = _summary("Whole steps", steps) + _summary("Slots", [*chain(*slots.values())])
    sections = [
        ("winners", "Who wins", summary),
        ("steps", "Whole training steps", _rows(steps, results, colors)),
        ("phases", "Where a step's time goes", _phases(results)),
        ("roofline", "What the machine allows", _rooflines(results, colors)),
        ("slots", "Slot by slot", "".join(_slot(*one, results, colors) for one in slots.items())),
        ("wrong", "Wrong, and so not timed", _wrong(results)),
    ]
    shown = [(anchor, heading, text) for anchor, heading, text in sections if text]
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading, _ in shown)
    text = "".join(f'<section id="{a}"><h2>{heading}</h2>{text}</section>' for a, heading, text in shown)
    cpu, machine = escape(results.machine.cpu), _machine(results)
    return Template(template).substitute(cpu=cpu, machine=machine, links=links, sections=text)


def colors_of(results: Results) -> dict[str, Any]:
    """Return a colour for each variant; after twenty the colours begin again."""
    variants = dict.fromkeys(m.variant for m in results.measurements)
    return dict(zip(variants, cycle(map(colormaps["tab20"], range(20)))))


def _figure(height: float, above: float = 0.3, below: float = 0.1) -> tuple[Figure, Axes]:
    """Return a figure, and its axes within margins in inches."""
    figure = Figure((WIDTH, height))
    # A layout that Matplotlib computes takes as long as the picture.
    figure.subplots_adjust(0.12, below / height, 0.98, 1 - above / height)
    return figure, figure.subplots()


def _drawn(figure: Figure, said: str, caption: str) -> str:
    """Return a figure as an SVG image within the page; said : the image's alternative text"""
    svg = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):  # letters, and not their outlines
        figure.savefig(svg, format="svg", metadata={"Date": None})
    text = base64.b64encode(svg.getvalue()).decode()
    image = f'<img alt="{escape(said)}" src="data:image/svg+xml;base64,{text}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _bare(axes: Axes, heading: str) -> None:
    """Remove the scale and the frame of axes with bars; set their heading."""
    axes.set_title(heading, loc="left", fontsize=10)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


# --- times ------------------------------------------------------------------------------------------


def timed(ranked: Ranked, results: Results, colors: Mapping[str, Any]) -> Figure:
    """Return a figure of a row's times: bars of the medians, with lines for their intervals."""
    figure, axes = _figure(0.25 * len(ranked) + 0.4)
    times = [m.time for m in ranked]
    medians = [one.median for one in times]
    # A wide interval must not shrink all bars to nothing: its line ends with the bars' room.
    longest = min(max(one.high for one in times), WIDEST * max(medians))
    ends = [(one.median - one.low, min(one.high, longest) - one.median) for one in times]
    numbers, first, slow = range(len(ranked)), fastest(ranked), _reference(ranked)
    axes.barh(numbers, medians, color=[colors[m.variant] for m in ranked], xerr=[*zip(*ends, strict=True)])
    axes.set_yticks(numbers, [m.variant for m in ranked])
    for number, m in enumerate(ranked):
        weight = "bold" if m in first else "normal"
        axes.text(1.02 * longest, number, _said(m, slow, results), va="center", fontsize=8, weight=weight)
    axes.set_xlim(0, 1.75 * longest)
    axes.invert_yaxis()
    _bare(axes, title(ranked[0]))
    return figure


def _reference(ranked: Ranked) -> Measurement | None:
    """Return a row's measurement of the reference, if any."""
    return next((m for m in ranked if m.variant == "reference"), None)


def _said(m: Measurement, slow: Measurement | None, results: Results) -> str:
    """Return a time in words, and the speed-up against the reference's time, if any."""
    parts = [f"{duration(m.time.median)} {interval(m.time)}", f"{m.rate / 1e9:.3g} {m.unit}"]
    parts.append(f"{m.fraction(results.machine):.0%}")
    if slow is not None and slow is not m:
        parts.append(f"{slow.time.median / m.time.median:.1f} times NumPy")
    return ", ".join(parts)


def _rows(rows: Sequence[Ranked], results: Results, colors: Mapping[str, Any]) -> str:
    """Return the pictures of rows, each with the reasons."""
    return "".join(
        _drawn(timed(ranked, results, colors), title(ranked[0]), _reasons(ranked, results)) for ranked in rows
    )


def _reasons(ranked: Ranked, results: Results) -> str:
    """Return why a row's fastest variant is the fastest, why others are slower, and how long threads wait."""
    said = " ".join(filter(None, [reason(ranked, results.machine), _waiting(ranked[0], results)]))
    others = "".join(f"<li>{escape(line)}</li>" for line in lost(ranked, results.machine))
    return f"{escape(said)}<ul>{others}</ul>" if others else escape(said)


def _waiting(measurement: Measurement, results: Results) -> str:
    """Return the waiting fraction of several threads' time, in words."""
    row = *measurement.row[:4], 1
    same = [m for m in results.measurements if m.row == row and m.variant == measurement.variant]
    if not same or measurement.threads == 1:
        return ""
    waits = 1 - same[0].time.median / (measurement.threads * measurement.time.median)
    return f"Of {measurement.threads} threads' time {max(waits, 0):.0%} is waiting for one another."


def _slot(name: str, rows: Sequence[Ranked], results: Results, colors: Mapping[str, Any]) -> str:
    wins, ties = _wins(rows)
    said = [f"{len(rows)} rows", f"fastest {', '.join(sorted(wins))}" if wins else "", f"{ties} tied"]
    summary = f"{name}: {', '.join(filter(None, said if ties else said[:-1]))}"
    shown = " open" if len(rows) <= MOST_OPEN else ""
    body = _rows(rows, results, colors)
    return f"<details{shown}><summary>{escape(summary)}</summary><div>{body}</div></details>"


def _summary(what: str, rows: Sequence[Ranked]) -> str:
    contested = [ranked for ranked in rows if len(ranked) > 1]
    if not contested:
        return ""
    wins, ties = _wins(contested)
    won = ", ".join(f"{name} {count} of {len(contested)}" for name, count in wins.most_common())
    tied = f" {ties} of {len(contested)} are tied: no variant is certainly the fastest." if ties else ""
    return (
        f"<p>{what} that several variants compute, by the fastest of them: {escape(won or 'none')}.{tied}</p>"
    )


def _wins(rows: Sequence[Ranked]) -> tuple[Counter[str], int]:
    """Return how many rows each variant wins, and how many rows are tied."""
    firsts = [fastest(ranked) for ranked in rows]
    alone = Counter(first[0].variant for first in firsts if len(first) == 1)
    return alone, len(rows) - alone.total()


# --- the machine ------------------------------------------------------------------------------------


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


def roofline(results: Results, dtype: str, colors: Mapping[str, Any]) -> Figure | None:
    """Return a figure of the roofline of one thread (Williams and others 2009); None without products."""
    points = [
        (m.variant, m.flops / m.traffic, m.rate / 1e9)
        for m in results.measurements
        if m.flops is not None and (m.dtype, m.threads) == (dtype, 1)
    ]
    if not points:
        return None
    figure, axes = _figure(5.0, 0.1, 0.5)
    peak = results.machine.peak[dtype] / 1e9
    intensities = [0.1, 100.0, *(intensity for _, intensity, _ in points)]
    ends = min(intensities) / 2, 2 * max(intensities)
    for level in results.machine.levels:
        ridge = peak / (level.bandwidth / 1e9)
        axes.plot([ends[0], ridge, ends[1]], [ends[0] * peak / ridge, peak, peak], color="grey", linewidth=1)
        axes.annotate(level.name, (ridge, 1.05 * peak), ha="center", fontsize=8)
    axes.annotate(f"peak {peak:.3g} GF/s", (ends[1], 1.05 * peak), ha="right", fontsize=8)
    for number, (variant, color) in enumerate(colors.items()):
        drawn = [point for name, *point in points if name == variant]
        if drawn:
            marker = MARKERS[number % len(MARKERS)]
            axes.scatter(*zip(*drawn, strict=True), color=color, marker=marker, label=variant, alpha=0.85)
    axes.loglog()
    axes.set(xlabel="operations a byte", ylabel="GF/s", xlim=ends, ylim=(None, 2 * peak))
    axes.legend(fontsize=8)
    return figure


def _rooflines(results: Results, colors: Mapping[str, Any]) -> str:
    said = "The slopes are what memories deliver, the flat line is the peak. A point is a product or a step."
    found = {dtype: roofline(results, dtype, colors) for dtype in DTYPES}
    return "".join(
        _drawn(figure, f"Roofline, {dtype}", f"{dtype}, one thread. {said}")
        for dtype, figure in found.items()
        if figure is not None
    )


# --- phases -----------------------------------------------------------------------------------------


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
        heading = f"{shape} {dtype}"
        if total > MOST_CALLS * whole:
            made.append(f"<p>{escape(heading)}: so short a step is mostly calls when it is taken apart.</p>")
            continue
        below = 0.1 + 0.15 * len(found)
        figure, axes = _figure(0.8 + below, below=below)
        left = 0.0
        for phase in found:
            name = phase.phase + (f" of layer {phase.layer}" * bool(phase.layer))
            said = f"{name}: {duration(phase.seconds)}, {phase.seconds / total:.0%}"
            shade = str(0.9 * PHASES.index(phase.phase) / len(PHASES))
            axes.barh(0, phase.seconds, left=left, color=shade, edgecolor="white", label=said)
            left += phase.seconds
        axes.yaxis.set_visible(False)
        axes.legend(fontsize=8, ncols=2, loc="upper left", bbox_to_anchor=(0, 0))
        _bare(axes, heading)
        caption = (
            f"The functions of {variant}, the fastest of fastmlp's backends here, called one by one on one"
            f" thread: {duration(total)}. The whole step takes {duration(whole)}."
        )
        made.append(_drawn(figure, f"Phases of {heading}", escape(caption)))
    return "".join(made)


def _wrong(results: Results) -> str:
    lines = (f"{one.variant}, {one.row}: {one.message}" for one in results.wrong)
    return "".join(f'<p class="wrong">{escape(line)}</p>' for line in lines)
