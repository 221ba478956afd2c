"""The choice of `auto` for a network: estimated and measured times of a step on each backend.

The table is of a long training. Sentences below the table are for a training of so many steps, perhaps with a
compiled backend at the start (`fastmlp.backend.auto`).
"""

from __future__ import annotations

from typing import Any

from fastmlp.backend import programs
from fastmlp.backend.auto import Auto, field
from fastmlp.backend.registry import is_reference, mixed, variants
from fastmlp.kernels.variant import Work
from fastmlp.lab.measurements import Measurement, Wrong
from fastmlp.lab.steps import StepRow, measure, workers
from fastmlp.lab.table import duration, fastest
from fastmlp.model.state import is_bfloat16

Found = tuple[str, float | None, Measurement | Wrong | str]
"""A backend, its estimate in seconds, and its measurement, or the reason for none as a text."""


def explained(row: StepRow, budget: float, clock: str) -> tuple[str | None, list[Found]]:
    """Return auto's choice for a long training, and each backend's estimate and measurement.

    Products of bfloat16 numbers have no estimates: auto takes the first backend for this processor, or None.
    Backends with the same number of threads are timed in turns.

    row : threads is the most for a backend
    """
    missing: dict[str, str] = {}
    if is_bfloat16(row.dtype):
        reasons, estimates = {name: why_not() for name, why_not in mixed().items()}, {}
        names, missing = [*reasons], {name: f"not here: {why}" for name, why in reasons.items() if why}
        chosen = next((name for name in names if name not in missing and not is_reference(name)), None)
    else:
        estimates = {one.name: one.seconds for one in field(row.work()).found}
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


def table(row: StepRow, chosen: str | None, found: list[Found]) -> tuple[Any, list[str]]:
    """Return rich's table of `explained`, and a sentence where measurements belie the estimates."""
    from rich.table import Table

    ranked = sorted((m for *_, m in found if isinstance(m, Measurement)), key=lambda m: m.time.median)
    comes_to = f"auto comes to {chosen or 'nothing'}"
    made = Table(
        title=f"{row.shape} {row.dtype}, {row.case}, at most {row.threads} threads: {comes_to}",
        title_justify="left",
    )
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
                share = f"{ranked[0].time.median / taken:.2f} of the time of {name}"
                said = [f"Measured here, {ranked[0].variant} takes {share}: auto goes by the estimates."]
        elif result:
            notes.append(f"wrong: {result.message}" if isinstance(result, Wrong) else result)
        made.add_row(
            name,
            "none" if estimate is None else duration(estimate),
            "" if taken is None else duration(taken),
            str(workers(row, name)),
            "" if taken is None or estimate is None else f"{taken / estimate:.2f}",
            ", ".join(notes),
            style="bold" if name == chosen else None,
        )
    return made, said
