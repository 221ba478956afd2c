"""Writes the reports of docs/measured/tables.md from the file of results: python -m benchmarks.tables.page.

A row that has not run is in no mean: ranks and means are those of tables and splits that all learners of a
table of the page have. A learner that lacks some of the first one's has a table of its own, beside those that
lack none.
"""

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from ..pages import write_between
from ..processes import ROOT
from .__main__ import LEVEL_LEARNERS, RESULTS, Row, rows_of
from .learners import LEARNERS
from .sets import FEW_ROWS, HALVES, LEVEL_ROWS, LEVELS, MOST_ROWS

PAGE = ROOT / "docs" / "measured" / "tables.md"
BEGIN, END = "<!-- {}: python -m benchmarks.tables.page -->\n", "<!-- end of {} -->"

TIMES = 5
"""Times as long as a peer, above which tables are counted."""

DRAWS = 2000
"""Of tables, and of splits of each, with replacement: the intervals of mean ranks hold 95 % of them."""

Found = dict[tuple[str, str], list[Row]]
"""The splits' rows of a table and a learner, in the order of the splits."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables.page", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    rows = rows_of(options.results)
    for name, most in {"few rows": FEW_ROWS, "many levels": LEVEL_ROWS, "all rows": MOST_ROWS}.items():
        text = report([row for row in rows if row["most_rows"] == most])
        text = f"At most {most} training rows.\n{text}"
        write_between(PAGE, BEGIN.format(name), END.format(name), text)


def report(rows: Sequence[Row]) -> str:
    """Return the tables of Markdown of rows; of two of a split the last one holds."""
    latest = {(row["table"], row["learner"], row["split"]): row for row in rows}
    found: Found = {}
    for (table, learner, _), row in sorted(latest.items(), key=lambda one: one[0][2]):
        found.setdefault((table, learner), []).append(row)
    parts = HALVES | {"levels": LEVELS}
    used: dict[str, list[Row]] = {}
    for half, tables in parts.items():
        for table, learner in itertools.product(tables, _known(half)):
            if (table, learner) in found:
                used.setdefault(learner, []).extend(found[table, learner])
    texts = [text for half, tables in parts.items() for text in _half(half, [*tables], found)]
    return "\n".join([origins(used) + "\n", *filter(None, texts)]) + "\n"


def origins(used: Mapping[str, Sequence[Row]]) -> str:
    """Return versions and processors of rows in words; used : rows by what their versions are of."""
    names = [
        f"{name} {' and '.join(sorted({row['version'] for row in rows}))}" for name, rows in used.items()
    ]
    cpus = [row.get("cpu") for rows in used.values() for row in rows]
    known, unknown = sorted({one for one in cpus if one}), cpus.count(None)
    on = [f"on {' and '.join(known)}"] * bool(known)
    unsaid = [f"{unknown} rows do not say which processor"] * bool(unknown)
    return f"{', '.join([*names, *on, 'one core'])}{''.join(f'; {one}' for one in unsaid)}."


def _known(half: str) -> Sequence[str]:
    """Return the learners that the table of a half may have, in its order."""
    return list(dict.fromkeys((*LEVEL_LEARNERS, *LEARNERS)) if half == "levels" else LEARNERS)


def _half(half: str, tables: Sequence[str], found: Found) -> list[str]:
    """Return the tables of Markdown of a half: a row for each table, and the means."""
    learners = [one for one in _known(half) if any((table, one) in found for table in tables)]
    tables = [table for table in tables if any((table, one) in found for one in learners)]
    if not tables:
        return []
    lines = _head(f"{half}: loss | splits | constant", learners)
    for table in tables:
        rows = [found.get((table, one), []) for one in learners]
        most = max(map(len, rows))
        means = [_mean(one, "loss") for one in rows if len(one) == most]
        least = min((mean for mean in means if mean is not None), default=None)
        constants = (f"{row['constant']:.3f}" for one in rows for row in one if "constant" in row)
        cells = " | ".join(_cell(one, most, least) for one in rows)
        lines.append(f"| {table} | {most} | {next(constants, '')} | {cells} |")
    ended = {
        one: {(t, row["split"]) for t in tables for row in found.get((t, one), []) if "loss" in row}
        for one in learners
    }
    complete = [one for one in learners if ended[one] >= ended[learners[0]]]
    groups = [complete, *([*complete, one] for one in learners if one not in complete)]
    return [_text(lines), *(_means(tables, group, found) for group in groups)]


def _cell(rows: list[Row], most: int, least: float | None) -> str:
    """Return a mean loss; bold the least one of so many splits, and with its splits one of fewer."""
    mean = _mean(rows, "loss")
    if mean is None:
        return "did not end" if rows else ""
    if len(rows) < most:
        return f"{mean:.3f} of {len(rows)}"
    return f"**{mean:.3f}**" if mean == least else f"{mean:.3f}"


def _means(tables: Sequence[str], learners: list[str], found: Found) -> str:
    """Return a table of Markdown with the ranks and means of learners over tables that all of them have."""
    if len(learners) < 2:
        return ""
    shared = []
    for table in tables:
        rows = [found.get((table, one), []) for one in learners]
        splits = set.intersection(*({row["split"] for row in one if "loss" in row} for one in rows))
        if splits and all("loss" in row for one in rows for row in one):
            shared.append([[row for row in one if row["split"] in splits] for one in rows])
    if len(shared) < 2:
        return ""

    def means(value: Callable[[Row], float]) -> np.ndarray:
        """Return the means over splits (tables, learners) of a value of rows."""
        return np.array([[np.mean([value(row) for row in rows]) for rows in line] for line in shared])

    losses = means(lambda row: row["loss"])
    ranks = [
        rankdata(np.round([[row["loss"] for row in rows] for rows in line], 3), axis=0) for line in shared
    ]
    rng = np.random.default_rng(0)
    low, high = np.quantile([_drawn_rank(ranks, rng) for _ in range(DRAWS)], (0.025, 0.975), axis=0)
    least, constant = losses.min(axis=1, keepdims=True), means(lambda row: row["constant"])
    between = np.clip((losses - least) / (constant - least), 0, 1)
    lines = _head(f"means over {len(shared)} tables", learners)
    lines.append(_line("rank by loss", np.array([one.mean(axis=1) for one in ranks]), 2))
    intervals = [f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True)]
    lines.append(f"| 95 % interval | {' | '.join(intervals)} |")
    lines.append(_line("loss", losses, 3))
    lines.append(_line("loss, 0 the least and 1 a constant's", between, 3))
    ratios = losses[:, :1] / losses
    own = f"loss ratio, {learners[0]} over the other"
    lines.append(_cells(f"{own}, geometric mean", np.exp(np.log(ratios).mean(axis=0)), 3))
    lines.append(_cells(f"{own}, at most", ratios.max(axis=0), 2))
    lines.append(_line("score", means(lambda row: row["score"]), 3))
    for what in ("train", "predict"):
        lines.append(_line(f"{what}, s", means(lambda row, what=what: row[what]["processor"]), 2))
        lines.append(_line(f"{what}, MB", means(lambda row, what=what: row[what]["MB"]), 0))
    seconds = means(lambda row: row["train"]["processor"])
    times, took = seconds[:, :1] / seconds, f"time ratio, {learners[0]} over the other"
    lines.append(_cells(f"{took}, in all", seconds[:, 0].sum() / seconds.sum(axis=0), 2))
    lines.append(_cells(f"{took}, at most", times.max(axis=0), 0))
    lines.append(_cells(f"tables with a time ratio above {TIMES}", (times > TIMES).sum(axis=0), 0))
    return _text(lines)


def _drawn_rank(ranks: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return the mean ranks (learners,) of as many tables, each of as many splits, with replacement.

    ranks : of each table (learners, splits)
    """
    drawn = [ranks[table] for table in rng.integers(len(ranks), size=len(ranks))]
    return np.mean(
        [one[:, rng.integers(one.shape[1], size=one.shape[1])].mean(axis=1) for one in drawn], axis=0
    )


def _head(first: str, learners: Sequence[str]) -> list[str]:
    line = f"| {first} | {' | '.join(learners)} |"
    return [line, "|---" * (line.count("|") - 1) + "|"]


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


def _line(name: str, values: np.ndarray, digits: int) -> str:
    """Return a row of Markdown of the means over tables of values (tables, learners)."""
    return _cells(name, values.mean(axis=0), digits)


def _cells(name: str, values: np.ndarray, digits: int) -> str:
    """Return a row of Markdown of values (learners,)."""
    return f"| {name} | " + " | ".join(f"{value:.{digits}f}" for value in values) + " |"


def _mean(rows: list[Row], name: str) -> float | None:
    """Return a mean over splits; None where one has not ended, or there is none."""
    return float(np.mean([row[name] for row in rows])) if rows and all(name in row for row in rows) else None


if __name__ == "__main__":
    main()
