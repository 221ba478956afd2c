"""Files of results, a row a line: what has a row is not measured again, and of what a row is stands in it.

Separate from `benchmarks.tables` and `benchmarks.tables.recipes`, which both measure so.
"""

import functools
import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastmlp.lab.machine import cpu

ROOT = Path(__file__).parents[2]

Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """Return the rows of a file of results, in its order; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add_rows(
    path: Path,
    planned: Iterable[Row],
    measured: Callable[[Row], Row],
    in_words: Callable[[Row], str],
    again: bool,
) -> None:
    """Measure what a file of results has not yet, and append each row once it is measured.

    planned : what rows are of; measured : returns what is found, with "failed" if it is not to be kept
    again : measure rows that are there, too
    """
    there = rows_of(path)
    for row in planned:
        if again or not any(row.items() <= one.items() for one in there):
            row = row | measured(row) | {"cpu": cpu()}
            print(in_words(row), flush=True)
            if "failed" not in row:
                with path.open("a") as file:
                    print(json.dumps(row), file=file)


@functools.cache
def version_of(package: str, *files: str) -> str:
    """Return a package's version; of fastmlp the last commit that changed it, with + if files differ.

    A copy without a history has the release alone.

    files : of the benchmarks, what a fastmlp is of besides its package
    """
    if package != "fastmlp" or not (ROOT / ".git").exists():
        try:
            return version(package)
        except PackageNotFoundError:
            raise SystemExit(
                f"{package} is not installed; python -m benchmarks.tables --help says how to"
            ) from None
    git, paths = ["git", "-C", str(ROOT)], ["--", "fastmlp", *files]
    commit = subprocess.run(
        [*git, "log", "-1", "--format=%h", *paths], capture_output=True, text=True, check=True
    )
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", *paths], check=False).returncode
    return commit.stdout.strip() + "+" * changed


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
