"""The report of recipes in docs/measured/tables.md, which `benchmarks.tables.page` writes.

A name is in it that has all tables to choose by; of two rows of a table the last one holds.
"""

from collections.abc import Sequence

import numpy as np

from .recipes import NAMES, PEER
from .rows import Row, origins
from .sets import CHOOSE
from .tried import TRIED

TIMES = 5
"""Times as long as a peer, above which tables are counted."""


def report(rows: Sequence[Row]) -> str:
    """Return a table of Markdown for each split, with a row for each name."""
    latest = {(row["split"], row["name"], row["table"]): row for row in rows}
    used: dict[str, list[Row]] = {}
    lines = []
    for split in sorted({row["split"] for row in rows}):
        found = {name: [latest.get((split, name, table)) for table in CHOOSE] for name in NAMES}
        whole = {name: own for name, own in found.items() if all(own)}
        if PEER in whole:
            lines += _of_split(split, whole)
            for name, own in whole.items():
                used.setdefault(PEER if name == PEER else "fastmlp", []).extend(own)
    return "\n".join([origins(used), *lines]) + "\n\n"


def _of_split(split: int, whole: dict[str, list[Row]]) -> list[str]:
    """Return the lines of a split's table; whole : rows of all tables by name, the peer's too."""
    columns = ("", f"split {split}", "loss", "log ratio", "s", f"above {TIMES}", "at most")
    lines = ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    losses, seconds = (
        {name: _values(own, what) for name, own in whole.items()} for what in ("loss", "seconds")
    )
    for name in whole:
        ratio, times = np.log(losses[name] / losses[PEER]).mean(), seconds[name] / seconds[PEER]
        says = "" if name == PEER else TRIED[name].says
        numbers = f"{losses[name].mean():.4f} | {ratio:.3f} | {seconds[name].sum():.1f}"
        lines.append(f"| {name} | {says} | {numbers} | {(times > TIMES).sum()} | {times.max():.0f} |")
    return lines


def _values(rows: Sequence[Row], what: str) -> np.ndarray:
    return np.array([row[what] for row in rows])
