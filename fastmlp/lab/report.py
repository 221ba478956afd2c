"""Results as a page of HTML without scripts and network."""

from __future__ import annotations

import importlib.resources
from collections import Counter
from collections.abc import Sequence
from html import escape
from string import Template

from fastmlp.lab import charts
from fastmlp.lab.charts import ChartBar, Point
from fastmlp.lab.measurements import STEP, Measurement, PhaseTime, Results, winners
from fastmlp.lab.slot_times import PHASES
from fastmlp.lab.table import duration, fastest, interval, lost, reason, title
from fastmlp.model.state import DTYPES

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
    return Template(template).substitute(
        cpu=escape(results.machine.cpu),
        machine=_machine(results),
        links="".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading, _ in shown),
        sections="".join(
            f'<section id="{a}"><h2>{heading}</h2>{text}</section>' for a, heading, text in shown
        ),
    )


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
    return f"<p>{what} that several variants compute, by the fastest of them.{tied}</p>{charts.bars(found)}"


def _wins(rows: Sequence[Ranked]) -> tuple[Counter[str], int]:
    """Return each variant's count of won rows, and the count of tied rows."""
    firsts = [fastest(ranked) for ranked in rows]
    alone = Counter(first[0].variant for first in firsts if len(first) == 1)
    return alone, len(rows) - alone.total()


def _rooflines(results: Results, numbers: dict[str, int]) -> str:
    made = []
    for dtype in DTYPES:
        points = [
            Point(m.flops / m.traffic, m.rate, numbers[m.variant], f"{m.variant}, {title(m)}: {_rate(m)}")
            for m in results.measurements
            if m.flops is not None and m.dtype == dtype and m.threads == 1
        ]
        if points:
            caption = (
                f"{dtype}, one thread. The slopes are what memories deliver, the flat line is the peak."
                " A point is a product or a step."
            )
            chart = charts.roofline(results.machine, dtype, points)
            made.append(f"<figure>{chart}<figcaption>{caption}</figcaption></figure>")
    return charts.key(list(numbers.items())) + "".join(made) if made else ""


def _rate(m: Measurement) -> str:
    return f"{m.rate / 1e9:.3g} {m.unit}"


def _bars(ranked: Ranked, numbers: dict[str, int], results: Results) -> str:
    # A wide interval must not shrink all bars to nothing: its line ends with the track.
    longest, first = min(max(m.time.high for m in ranked), WIDEST * ranked[-1].time.median), fastest(ranked)
    return charts.bars(
        [
            ChartBar(
                m.variant,
                m.time.median / longest,
                f"{duration(m.time.median)} {interval(m.time)}, {_rate(m)}, {m.share(results.machine):.0%}",
                numbers[m.variant],
                m in first,
                (m.time.low / longest, m.time.high / longest),
            )
            for m in ranked
        ]
    )


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
    best = WIDEST * reference.time.median / ranked[0].time.median
    found = [
        ChartBar(
            m.variant,
            reference.time.median / m.time.median / best,
            f"{reference.time.median / m.time.median:.1f} times",
            numbers[m.variant],
            m in fastest(ranked),
            (reference.time.low / m.time.high / best, reference.time.high / m.time.low / best),
        )
        for m in ranked
    ]
    waits = _waiting(ranked[0], results)
    said = f"Speed-up against the reference, NumPy.{f' {waits}' if waits else ''}"
    return f"{made}<figure>{charts.bars(found)}<figcaption>{escape(said)}</figcaption></figure>"


def _waiting(measurement: Measurement, results: Results) -> str:
    """Return the waiting share of several threads' time, in words."""
    alone = next(
        (
            m
            for m in results.measurements
            if m.row[:4] == measurement.row[:4] and m.variant == measurement.variant and m.threads == 1
        ),
        None,
    )
    if alone is None or measurement.threads == 1:
        return ""
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
        parts = [
            (
                phase.phase + (f" of layer {phase.layer}" if phase.layer else ""),
                phase.seconds / total,
                f"{duration(phase.seconds)}, {phase.seconds / total:.0%}",
                PHASES.index(phase.phase),
            )
            for phase in found
        ]
        caption = (
            f"The functions of {variant}, the fastest of fastmlp's backends here, called one by one on one"
            f" thread: {duration(total)}. The whole step takes {duration(whole)}."
        )
        made.append(
            f"{heading}<figure>{charts.stack(parts)}<figcaption>{escape(caption)}</figcaption></figure>"
        )
    return "".join(made)


def _wrong(results: Results) -> str:
    lines = (f"{one.variant}, {one.row}: {one.message}" for one in results.wrong)
    return "".join(f'<p class="wrong">{escape(line)}</p>' for line in lines)
