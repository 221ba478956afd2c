"""Results on a terminal as a table, and a progress bar while they are measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastmlp.lab.compare import Change
from fastmlp.lab.measurements import Results, winners
from fastmlp.lab.words import duration, fastest, interval, standing, title


def table(results: Results) -> Any:
    """Return rich's table: a group of lines for each row, the fastest first."""
    from rich.table import Table

    made = Table(
        title=f"{results.machine.cpu}, {results.machine.vector_bits}-bit vectors", title_justify="left"
    )
    made.add_column("row", overflow="fold")
    made.add_column("variant")
    for name in ("time", "95 %", "rate", "of most", "times"):
        made.add_column(name, justify="right", no_wrap=True)
    for ranked in winners(results.measurements).values():
        for place, one in enumerate(ranked):
            made.add_row(
                title(one) if place == 0 else "",
                one.variant,
                duration(one.time.median),
                interval(one.time),
                f"{one.rate / 1e9:.3g} {one.unit}",
                f"{one.share(results.machine):.0%}",
                standing(one, ranked),
                style="bold green" if one in fastest(ranked) else None,
                end_section=one is ranked[-1],
            )
    return made


def notes(results: Results) -> Iterator[str]:
    """Yield what must be known of times that were taken on a busy machine, if any were."""
    busy = [one for one in results.measurements if one.time.busy]
    if any(one.time.clock == "cpu" for one in busy):
        yield "cpu: other programs had the processor meanwhile; this is processor time, without theirs"
    if any(one.time.clock == "wall" for one in busy):
        yield "busy: other programs had the processor meanwhile, and their time is in it"


def wrong(results: Results) -> Iterator[str]:
    """Yield a line for each thing that is wrong with a variant, which was not timed."""
    first = {(one.variant, one.slot, one.message): one for one in reversed(results.wrong)}
    for one in reversed(first.values()):
        row = " ".join(filter(None, [one.slot, one.case, one.shape, one.dtype]))
        yield f"{one.variant} is wrong and was not timed: {row}: {one.message}"


def changes(found: Sequence[Change]) -> Any:
    """Return rich's table of what changed between two files of results."""
    from rich.table import Table

    styles = {"slower": "bold red", "faster": "green"}
    made = Table(title="against the earlier results", title_justify="left")
    for name in ("row", "variant", "before", "now", "now / before", "verdict"):
        made.add_column(name, justify="left" if name in ("row", "variant", "verdict") else "right")
    for one in found:
        made.add_row(
            title(one.now),
            one.now.variant,
            duration(one.before.time.median),
            duration(one.now.time.median),
            f"{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})",
            one.verdict,
            style=styles.get(one.verdict),
        )
    return made


@contextlib.contextmanager
def bar(total: int, console: Any, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """Show a bar with the time left, on a terminal, if shown; yield what advances it, given the row done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not (shown and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task("measuring the machine", total=total)

        def advance(row: str) -> None:
            progress.update(task, advance=1, description=row)

        yield advance
