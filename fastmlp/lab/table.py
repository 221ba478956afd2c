"""Results on a terminal: numbers in words, why a variant wins, tables, and the choice of `auto`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from fastmlp.backend import programs
from fastmlp.backend.auto import Auto, field
from fastmlp.backend.registry import is_reference, mixed, variants
from fastmlp.kernels.variant import Work
from fastmlp.lab.machine import MeasuredMachine
from fastmlp.lab.measurements import STEP, Change, Measurement, Results, Wrong, winners
from fastmlp.lab.steps import StepRow, measure, workers
from fastmlp.lab.timing import Time
from fastmlp.model.state import is_bfloat16

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))

SAME = 0.05
"""The fraction of more time without a difference between kernels, beyond both intervals: a function under two
names took up to 4 % more under the second, as machine code and arrays lie at other addresses.
"""

CALL = 1.5e-6
"""Seconds; the call from Python is a good part of a shorter time."""


def duration(seconds: float) -> str:
    """Return seconds as 12.3 us."""
    unit, name = next((pair for pair in UNITS if seconds >= pair[0]), UNITS[-1])
    return f"{seconds / unit:.3g} {name}"


def interval(taken: Time) -> str:
    """Return a median's uncertainty and the machine's state, as ±5% cpu."""
    said = {"cpu": " cpu", "wall": " busy"}[taken.clock] if taken.busy else ""
    return f"±{taken.spread:.0%}{said}"


def distinguished(winner: Measurement, other: Measurement) -> bool:
    """Return True if two medians' intervals are further apart than `SAME`."""
    return (1 + SAME) * winner.time.high < other.time.low


def fastest(ranked: Sequence[Measurement]) -> list[Measurement]:
    """Return the first of a row, and all ties with the first."""
    return [one for one in ranked if one is ranked[0] or not distinguished(ranked[0], one)]


def standing(one: Measurement, ranked: Sequence[Measurement]) -> str:
    """Return a variant's rank in a row: "fastest", "tied", or a ratio of times."""
    ratio, first = f"{one.time.median / ranked[0].time.median:.2f}", fastest(ranked)
    if one not in first:
        return ratio
    if len(first) == 1:
        return "fastest"
    return "tied" if one is ranked[0] else f"{ratio} tied"


def title(measurement: Measurement) -> str:
    """Return a row's name."""
    slot, case, shape, dtype, threads = measurement.row
    count = f"{threads} threads" if threads > 1 else ""
    return " ".join(filter(None, [slot, case, shape, dtype, count]))


def mechanism(variant: str) -> str:
    """Return a variant's mechanism in the words of the file's first line, if any."""
    declared = variants().get(variant)
    if declared is None:
        return "NumPy, a function at a time" if variant == "reference" else ""  # or a peer
    modules = [sys.modules.get(f.__module__) for f in declared.slots.values()]
    text = next((inspect.getdoc(module) for module in modules if module is not None), None) or ""
    return text.partition("\n")[0].partition(": ")[2].rstrip(".") or text.partition("\n")[0].rstrip(".")


def reason(ranked: Sequence[Measurement], machine: MeasuredMachine) -> str:
    """Return why the fastest variant of a row is the fastest."""
    winner = ranked[0]
    said = [f"{winner.variant} takes {duration(winner.time.median)}{_lead(ranked)}."]
    fraction = winner.fraction(machine)
    if winner.flops is not None and winner.slot != STEP:
        said.append(_bound(winner, machine, fraction))
    elif winner.flops is not None:
        said.append(
            f"Its products run at {winner.rate / 1e9:.3g} GF/s, {fraction:.0%} of the machine's peak."
        )
    elif winner.time.median < CALL:
        said.append("Of a time so short the call from Python is a good part.")
    elif fraction > 0.4:
        level = machine.level_of(winner.traffic).name
        said.append(f"It is bound by memory: it moves {fraction:.0%} of what {level} can.")
    else:
        said.append(f"It is bound by computing each number: it moves {fraction:.0%} of what memory could.")
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
    """Return for each slower variant of a row the ratio of times, and the reason."""
    winner, said = ranked[0], []
    for other in ranked[1:]:
        how = mechanism(other.variant)
        if not distinguished(winner, other):
            said.append(f"{other.variant} cannot be distinguished from {winner.variant}.")
            continue
        most = "peak" if other.flops is not None else f"{machine.level_of(other.traffic).name} bandwidth"
        # Two digits: of steps so short that all are below 1 %, too.
        its, winners = (f"{100 * m.fraction(machine):.2g}%" for m in (other, winner))
        said.append(
            f"{other.variant} takes {other.time.median / winner.time.median:.2f} times as long: it reaches"
            f" {its} of the {most}, where {winner.variant} reaches {winners}.{f' How: {how}.' if how else ''}"
        )
    return said


def _bound(winner: Measurement, machine: MeasuredMachine, fraction: float) -> str:
    assert winner.flops is not None
    intensity = winner.flops / winner.traffic
    level = machine.level_of(winner.traffic)
    ridge = machine.peak[winner.dtype] / level.bandwidth
    rate = f"{winner.rate / 1e9:.3g} GF/s, {fraction:.0%} of the machine's peak"
    if intensity >= ridge:
        return f"With {intensity:.3g} operations a byte it is bound by arithmetic, and reaches {rate}."
    most = intensity * level.bandwidth / machine.peak[winner.dtype]
    allowed = f"{level.name} allows {most:.0%} of the peak"
    return f"With {intensity:.3g} operations a byte {allowed}; it reaches {rate}."


def table(results: Results) -> Any:
    """Return rich's table, with a group of lines for each row, the fastest first."""
    from rich.table import Table

    name = f"{results.machine.cpu}, {results.machine.vector_bits}-bit vectors"
    made = Table(title=name, title_justify="left")
    made.add_column("row", overflow="fold")
    made.add_column("variant")
    for name in ("time", "95 %", "rate", "of most", "times"):
        made.add_column(name, justify="right", no_wrap=True)
    for ranked in winners(results.measurements).values():
        for index, one in enumerate(ranked):
            made.add_row(
                title(one) if index == 0 else "", one.variant, duration(one.time.median), interval(one.time),
                f"{one.rate / 1e9:.3g} {one.unit}", f"{one.fraction(results.machine):.0%}",
                standing(one, ranked),
                style="bold green" if one in fastest(ranked) else None, end_section=one is ranked[-1],
            )  # fmt: skip
    return made


def notes(results: Results) -> Iterator[str]:
    """Yield notes on times of a busy machine, if there are such times."""
    busy = [one for one in results.measurements if one.time.busy]
    if any(one.time.clock == "cpu" for one in busy):
        yield "cpu: other programs had the processor meanwhile; this is processor time, without theirs"
    if any(one.time.clock == "wall" for one in busy):
        yield "busy: other programs had the processor meanwhile, and their time is in it"


def wrong(results: Results) -> Iterator[str]:
    """Yield a line for each mistake of a variant without times."""
    first = {(one.variant, one.slot, one.message): one for one in reversed(results.wrong)}
    for one in reversed(first.values()):
        yield f"{one.variant} is wrong and was not timed: {one.row}: {one.message}"


def changes(found: Sequence[Change]) -> Any:
    """Return rich's table of the changes between two files of results."""
    from rich.table import Table

    styles = {"slower": "bold red", "faster": "green"}
    made = Table(title="against the earlier results", title_justify="left")
    for name in ("row", "variant", "before", "now", "now / before", "verdict"):
        made.add_column(name, justify="left" if name in ("row", "variant", "verdict") else "right")
    for one in found:
        times = (duration(taken.time.median) for taken in (one.before, one.now))
        ratio = f"{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})"
        style = styles.get(one.verdict)
        made.add_row(title(one.now), one.now.variant, *times, ratio, one.verdict, style=style)
    return made


# --- the choice of `auto` for a network: estimated and measured times of a step on each backend -----

Found = tuple[str, float | None, Measurement | Wrong | str]
"""A backend, its estimate in seconds, and its measurement, or the reason for none as a text."""


def explained(row: StepRow, budget: float, clock: str) -> tuple[str | None, list[Found]]:
    """Return auto's choice for a long training, and each backend's estimate and measurement.

    Products of bfloat16 numbers have no estimates: auto takes the first backend for this processor, or None.
    """
    missing: dict[str, str] = {}
    if is_bfloat16(row.dtype):
        reasons, estimates = {name: why_not() for name, why_not in mixed().items()}, {}
        names, missing = [*reasons], {name: f"not here: {why}" for name, why in reasons.items() if why}
        chosen = next((name for name in names if name not in missing and not is_reference(name)), None)
    else:
        estimates = {one.name: one.seconds for one in field(row.work()).candidates}
        names, chosen = ["reference", *variants()], min(estimates, key=estimates.__getitem__)
    found: dict[str, Measurement | Wrong | str] = dict(missing)
    of_threads: dict[int, list[str]] = {}
    for name in names:
        if name not in missing:
            of_threads.setdefault(workers(row, name), []).append(name)
    for count, those in of_threads.items():
        found |= {one.variant: one for one in measure(row._replace(threads=count), those, budget, clock)}
    return chosen, [(name, estimates.get(name), found.get(name, "")) for name in names]


def outlook(work: Work) -> list[str]:
    """Return the first backend of a training, and the change to another, in sentences."""
    auto = Auto(work)
    begins, faster = auto.chosen, auto.faster
    found = "is compiled already" if auto.is_ready(begins) else "is compiled first"
    lines = [f"A training of {work.steps} steps begins on {begins.name}, which {found}."]
    if faster is None:
        return [*lines, "It stays there: no backend of the same bits has a smaller estimate."]
    seconds = programs.about_seconds_of_a_network()
    cost, saved, lost = (
        f"{value:.2g} s" for value in (seconds, auto.saved(), programs.seconds_lost.get(faster.key, 0.0))
    )
    before = int(seconds / (begins.seconds - faster.seconds))
    if auto.saved() < 2 * seconds:
        lines.append(f"It stays there: {faster.name} would save {saved} and takes {cost} to compile.")
    else:
        lines.append(
            f"After about {before} steps it has lost {cost} without {faster.name}, which is compiled then, "
            f"in as long, and taken."
        )
    return [*lines, f"Trainings of this process have lost {lost} without it so far."]


def choices_table(row: StepRow, chosen: str | None, found: list[Found]) -> tuple[Any, list[str]]:
    """Return rich's table of `explained`, and a sentence where measurements belie the estimates."""
    from rich.table import Table

    ranked = sorted((m for *_, m in found if isinstance(m, Measurement)), key=lambda m: m.time.median)
    work = f"{row.shape} {row.dtype}, {row.case}, at most {row.threads} threads"
    title = f"{work}: auto comes to {chosen or 'nothing'} in a long training"
    made = Table(title=title, title_justify="left")
    for name in ("backend", "estimate", "measured", "threads", "measured / estimate", ""):
        made.add_column(name, justify="left" if name in ("backend", "") else "right")
    said = []
    for name, estimate, result in found:
        notes, taken = [], None
        if name == chosen:
            notes.append(f"auto's choice: {'the least estimate' if estimate else 'the first that runs here'}")
        if isinstance(result, Measurement):
            taken = result.time.median
            if result in fastest(ranked):
                notes.append("fastest" if len(fastest(ranked)) == 1 else "tied for the fastest")
            elif name == chosen and estimate is not None:
                fraction = f"{ranked[0].time.median / taken:.2f} of the time of {name}"
                said = [f"Measured here, {ranked[0].variant} takes {fraction}: auto goes by the estimates."]
        elif result:
            notes.append(f"wrong: {result.message}" if isinstance(result, Wrong) else result)
        made.add_row(
            name, "none" if estimate is None else duration(estimate),
            "" if taken is None else duration(taken), str(workers(row, name)),
            "" if taken is None or estimate is None else f"{taken / estimate:.2f}",
            ", ".join(notes), style="bold" if name == chosen else None,
        )  # fmt: skip
    return made, said
