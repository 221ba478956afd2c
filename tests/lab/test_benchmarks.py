"""Rows of a benchmark's table are comparable: each has the threads that the table's name says."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import threading
from pathlib import Path

import pytest
from processes import complaints, python

from benchmarks.peers.page import table
from benchmarks.pinning import allowed
from benchmarks.share import check_threads
from fastmlp.lab.measurements import read

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds

ROOT = Path(__file__).parents[2]
DATA = bytes(1 << 20)


COMMANDS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if '\nif __name__ == "__main__":' in path.read_text()
]


HELP = """
import contextlib, io, json, runpy, sys

said = {}
for command in sys.argv[1:]:
    sys.argv, out = [command, "--help"], io.StringIO()
    for name in (command, f"{command}.__main__"):
        sys.modules.pop(name, None)  # that an earlier command has imported
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            said[command] = end.code, out.getvalue()
print(json.dumps(said))
"""


@pytest.mark.slow  # imports all of them
def test_every_command_has_help():
    done = python("-c", HELP, *COMMANDS, cwd=ROOT)
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert [*said] == COMMANDS
    for command, (code, text) in said.items():
        assert code == 0
        assert text.startswith("usage: ")
        assert f"python -m {command}" in text


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


def test_a_row_that_takes_other_than_its_threads_is_reported():
    check_threads(alone, 1)
    check_threads(with_another, 2)
    with pytest.raises(AssertionError, match=r"has 1 thread, this takes [12]\.\d: it starts threads"):
        check_threads(with_another, 1)
    with pytest.raises(AssertionError, match=r"has 2 threads, this takes 1\.\d$"):
        check_threads(alone, 2)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86 processor")
def test_what_is_limited_to_avx2_is_so_from_its_start(tmp_path):
    program = """
import json
import numpy
import threadpoolctl
from benchmarks.avx2 import limits
from benchmarks.peers.__main__ import environment
from fastmlp.kernels.codegen.machine import host, target
libraries = threadpoolctl.threadpool_info()
blas = [one["architecture"] for one in libraries if one["internal_api"] == "openblas"]
children_too = limits() != {} and limits().items() <= environment(1).items()
print(json.dumps([host().vector_bytes, target()[1], blas, children_too]))
"""
    (tmp_path / "limited.py").write_text(program)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "NUMBA_CPU_NAME": "haswell"}
    done = python("-m", "benchmarks.avx2", "limited", cwd=ROOT, **environment)
    width, processor, blas, children_too = json.loads(done.stdout)
    assert (width, processor, children_too) == (32, "haswell", True)
    assert set(blas) <= {"Haswell"}


@pytest.mark.slow
def test_networks_drawn_at_random_are_measured():
    few = ("--count", "2", "--most", "1e-4", "--seconds", "0", "--peers", "reference")
    done = python("-m", "benchmarks.sweep", *few, cwd=ROOT)
    assert complaints(done) == []
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")][2:]
    gains, ratios = ([float(cells[column]) for cells in rows] for column in (0, -1))
    assert gains == ratios == sorted(gains)
    assert len(gains) == 2
    assert gains[0] > 0


@pytest.mark.slow  # starts two processes
def test_a_checkout_is_compared_on_a_network_drawn_at_random():
    few = ("--drawn", "1", "--seed", "12", "--pairs", "2")
    done = python("-m", "benchmarks.commits", ".", *few, cwd=ROOT)
    name, ratio, low, high = re.fullmatch(
        r"(.+?) +(\d\.\d{3})  (\d\.\d{3}) to (\d\.\d{3})", done.stdout.splitlines()[-1]
    ).groups()
    assert name.startswith("16-200-30-64 b128 gelu softmax adam float32 ")
    assert float(low) <= float(ratio) <= float(high)


@pytest.mark.slow  # starts a process for each peer
def test_peers_are_measured_and_written_as_bench_does(tmp_path):
    """Each peer is held to the reference's losses; the file and its table are those of `fastmlp bench`."""
    file = tmp_path / "peers.json"
    command = ["-m", "benchmarks.peers", "--only", "30-100-1", "--rounds", "2"]
    peers = ["--peers", "fastmlp,sklearn,c,jax", "--cores", str(min(allowed())), "--clock", "cpu"]
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError('no jax')")  # as where it is not installed
    done = python(*command, *peers, "--json", file, cwd=ROOT, PYTHONPATH=str(tmp_path))
    results = read(file)
    assert {one.variant: one.time.rounds for one in results.measurements} == {"fastmlp": 2, "sklearn": 2}
    assert "30-100-1 b100 adam, c: left out, written for the notebook's network alone\n" in done.stdout
    assert "30-100-1 b100 adam, jax: left out, it is not installed (no jax)\n" in done.stdout
    assert results.wrong == []
    (row,) = table(results).splitlines()[2:]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert (cells[0], cells[4:7], cells[8]) == ("30-100-1 b100 adam", [""] * 3, "")
    assert float(cells[7].strip("*")) > 1, row  # scikit-learn's time over ours


@pytest.mark.slow
def test_every_row_of_a_table_has_the_threads_of_its_name():
    # Matrix products that NumPy's and SciPy's BLAS would share among all cores; each row checks itself.
    rows = "predict and 784 and float64 and (reference or blas)"
    command = ["-m", "pytest", "benchmarks/test_epoch_speed.py", "--benchmark-only"]
    inherited = {name: None for name in os.environ if name.startswith("PYTEST_XDIST")}
    done = python(*command, "--benchmark-max-time=0.01", "-k", rows, cwd=ROOT, **inherited)
    assert "benchmark 'predict 784-128-10 3200 rows float64, 1 thread': 2 tests" in done.stdout
