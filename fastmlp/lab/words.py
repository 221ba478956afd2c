"""Numbers in words, and the sentence on why a winner wins."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

from fastmlp.backend.registry import variants
from fastmlp.lab.machine import MeasuredMachine
from fastmlp.lab.measurements import STEP, Measurement
from fastmlp.lab.timing import Time

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))

SAME = 0.05
"""How much more time, beyond both intervals, tells no kernels apart.

One function under two names took up to 4 % more under one of them, beyond the intervals of 73 of 144 pairs:
machine code and arrays lie at other addresses.
"""

CALL = 1.5e-6
"""Seconds: below, the call from Python itself is a good part of what is measured."""


def duration(seconds: float) -> str:
    """Return seconds as 12.3 us."""
    unit, name = next((pair for pair in UNITS if seconds >= pair[0]), UNITS[-1])
    return f"{seconds / unit:.3g} {name}"


def interval(taken: Time) -> str:
    """Return how far a median may be off, and whether the machine was busy, as ±5% cpu."""
    said = {"cpu": " cpu", "wall": " busy"}[taken.clock] if taken.busy else ""
    return f"±{taken.spread:.0%}{said}"


def distinguished(winner: Measurement, other: Measurement) -> bool:
    """Return whether the intervals of two medians are further apart than `SAME`."""
    return (1 + SAME) * winner.time.high < other.time.low


def fastest(ranked: Sequence[Measurement]) -> list[Measurement]:
    """Return the first of a row, and those that cannot be distinguished from the first: they are tied."""
    return [one for one in ranked if one is ranked[0] or not distinguished(ranked[0], one)]


def standing(one: Measurement, ranked: Sequence[Measurement]) -> str:
    """Return how one of a row stands: "fastest", "tied", or times the first one's time."""
    ratio, first = f"{one.time.median / ranked[0].time.median:.2f}", fastest(ranked)
    if one not in first:
        return ratio
    if len(first) == 1:
        return "fastest"
    return "tied" if one is ranked[0] else f"{ratio} tied"


def title(measurement: Measurement) -> str:
    """Return a row's name in a line."""
    slot, case, shape, dtype, threads = measurement.row
    count = f"{threads} threads" if threads > 1 else ""
    return " ".join(filter(None, [slot, case, shape, dtype, count]))


def mechanism(variant: str) -> str:
    """Return how a variant works, in the words of its own file's first line; nothing if there are none."""
    declared = variants().get(variant)
    if declared is None:
        return "NumPy, a function at a time" if variant == "reference" else ""  # or a peer
    modules = [sys.modules.get(f.__module__) for f in declared.slots.values()]
    text = next((inspect.getdoc(module) for module in modules if module is not None), None) or ""
    return text.partition("\n")[0].partition(": ")[2].rstrip(".") or text.partition("\n")[0].rstrip(".")


def reason(ranked: Sequence[Measurement], machine: MeasuredMachine) -> str:
    """Return why the first of a row's measurements, the fastest first, is where it is."""
    winner = ranked[0]
    said = [f"{winner.variant} takes {duration(winner.time.median)}{_lead(ranked)}."]
    share = winner.share(machine)
    if winner.flops is not None and winner.slot != STEP:
        said.append(_bound(winner, machine, share))
    elif winner.flops is not None:
        said.append(f"Its products run at {winner.rate / 1e9:.3g} GF/s, {share:.0%} of the machine's peak.")
    elif winner.time.median < CALL:
        said.append("Of a time so short the call from Python is a good part.")
    elif share > 0.4:
        level = machine.level_of(winner.traffic).name
        said.append(f"It is bound by memory: it moves {share:.0%} of what {level} can.")
    else:
        said.append(f"It is bound by computing each number: it moves {share:.0%} of what memory could.")
    how = mechanism(winner.variant)
    return " ".join([*said, *([f"How: {how}."] if how else [])])


def _lead(ranked: Sequence[Measurement]) -> str:
    if len(ranked) < 2:
        return ", alone in its row"
    winner, runner = ranked[:2]
    ratio = runner.time.median / winner.time.median
    if not distinguished(winner, runner):
        return f", which cannot be distinguished from {runner.variant}'s {duration(runner.time.median)}"
    return f", {ratio:.2f} times as fast as {runner.variant}"


def lost(ranked: Sequence[Measurement], machine: MeasuredMachine) -> list[str]:
    """Return for each other variant of a row how much longer it takes than the first, and why."""
    winner, said = ranked[0], []
    for other in ranked[1:]:
        how = mechanism(other.variant)
        if not distinguished(winner, other):
            said.append(f"{other.variant} cannot be distinguished from {winner.variant}.")
            continue
        most = "peak" if other.flops is not None else f"{machine.level_of(other.traffic).name} bandwidth"
        # Two digits: of steps so short that all are below 1 %, too.
        its, winners = (f"{100 * m.share(machine):.2g}%" for m in (other, winner))
        said.append(
            f"{other.variant} takes {other.time.median / winner.time.median:.2f} times as long: it reaches"
            f" {its} of the {most}, where {winner.variant} reaches {winners}.{f' How: {how}.' if how else ''}"
        )
    return said


def _bound(winner: Measurement, machine: MeasuredMachine, share: float) -> str:
    assert winner.flops is not None
    intensity = winner.flops / winner.traffic
    level = machine.level_of(winner.traffic)
    ridge = machine.peak[winner.dtype] / level.bandwidth
    rate = f"{winner.rate / 1e9:.3g} GF/s, {share:.0%} of the machine's peak"
    if intensity >= ridge:
        return f"With {intensity:.3g} operations a byte it is bound by arithmetic, and reaches {rate}."
    most = intensity * level.bandwidth / machine.peak[winner.dtype]
    allowed = f"{level.name} allows {most:.0%} of the peak"
    return f"With {intensity:.3g} operations a byte {allowed}; it reaches {rate}."
