"""What `auto` picks for a network and why: each backend's estimate of a step, beside what a step takes.

For a long training: a short one begins with what is compiled already (`fastmlp.backend.auto`).
"""

from __future__ import annotations

from typing import Any

from fastmlp.backend.auto import field
from fastmlp.backend.registry import variants
from fastmlp.lab.measurements import Measurement, Wrong
from fastmlp.lab.steps import StepRow, measure, workers
from fastmlp.lab.timing import Clock
from fastmlp.lab.words import duration


def explained(
    row: StepRow, budget: float, clock: Clock
) -> tuple[str, list[tuple[str, float | None, Measurement | Wrong | None]]]:
    """Return auto's choice for a long training, and each backend's estimate in seconds and what was measured.

    row : threads is the most that a backend may use
    """
    estimates = {one.name: one.seconds for one in field(row.work()).found}
    chosen = min(estimates, key=estimates.__getitem__)
    found: list[tuple[str, float | None, Measurement | Wrong | None]] = []
    for name in ["reference", *variants()]:
        taken = workers(row, name)
        results = {
            result.variant: result for result in measure(row._replace(threads=taken), [name], budget, clock)
        }
        found.append((name, estimates.get(name), results.get(name)))
    return chosen, found


def table(row: StepRow, budget: float, clock: Clock) -> Any:
    """Return rich's table of it."""
    from rich.table import Table

    chosen, found = explained(row, budget, clock)
    seconds = {name: m.time.median for name, _, m in found if isinstance(m, Measurement)}
    made = Table(
        title=f"{row.shape} {row.dtype}, {row.case}, at most {row.threads} threads: auto comes to {chosen}",
        title_justify="left",
    )
    for name in ("backend", "estimate", "measured", "threads", "measured / estimate", ""):
        made.add_column(name, justify="left" if name in ("backend", "") else "right")
    for name, estimate, result in found:
        taken = seconds.get(name)
        notes = []
        if name == chosen:
            notes.append("auto's choice: the least estimate")
        if taken is not None and taken == min(seconds.values()):
            notes.append("fastest")
        if isinstance(result, Wrong):
            notes.append(f"wrong: {result.message}")
        made.add_row(
            name,
            "none" if estimate is None else duration(estimate),
            "" if taken is None else duration(taken),
            str(workers(row, name)),
            "" if taken is None or estimate is None else f"{taken / estimate:.2f}",
            ", ".join(notes),
            style="bold" if name == chosen else None,
        )
    return made
