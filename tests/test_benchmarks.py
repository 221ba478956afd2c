"""Rows of a benchmark's table are comparable: each has the threads that the table's name says."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.share import check_threads

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds

ROOT = Path(__file__).parent.parent
DATA = bytes(1 << 20)


COMMANDS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if '\nif __name__ == "__main__":' in path.read_text()
]


@pytest.mark.slow  # a process for each
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert f"python -m {command}" in done.stdout


def test_there_are_commands():
    assert {"benchmarks.choice", "benchmarks.compilation", "benchmarks.peers", "benchmarks.start"} <= set(
        COMMANDS
    )


def alone():
    hashlib.sha256(DATA)  # lets go of Python's lock


def with_another():
    other = threading.Thread(target=alone)
    other.start()
    alone()
    other.join()


def test_a_row_that_takes_other_than_its_threads_is_told():
    check_threads(alone, 1)
    check_threads(with_another, 2)
    with pytest.raises(AssertionError, match=r"has 1 thread, this takes [12]\.\d: it starts threads"):
        check_threads(with_another, 1)
    with pytest.raises(AssertionError, match=r"has 2 threads, this takes 1\.\d$"):
        check_threads(alone, 2)


@pytest.mark.slow
def test_every_row_of_a_table_has_the_threads_of_its_name():
    # Matrix products that NumPy's and SciPy's BLAS would share among all cores; each row checks itself.
    rows = "predict and 784 and float64 and (reference or blas)"
    command = f"{sys.executable} -m pytest benchmarks/test_epoch_speed.py --benchmark-only"
    done = subprocess.run(
        [*command.split(), "--benchmark-max-time=0.01", "-k", rows],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "benchmark 'predict 784-128-10 3200 rows float64, 1 thread': 2 tests" in done.stdout
