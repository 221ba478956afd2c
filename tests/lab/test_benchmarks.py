"""The benchmarks: their commands, their peers, and two commits beside one another."""

import json
import platform
import re
from pathlib import Path

import pytest
from support.processes import complaints, python
from support.selection import matrix

from benchmarks import against
from benchmarks.pages import table
from benchmarks.peers import takes_adam
from benchmarks.processes import LIMITS, allowed
from fastmlp import SGD, Adam, AdamW, Network, RMSprop, SparseAdam
from fastmlp.lab.measurements import read
from fastmlp.lab.steps import StepRow, workers

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds

ROOT = Path(__file__).parents[2]

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
    assert {"benchmarks", "benchmarks.second_order", "benchmarks.pages", "benchmarks.tables"} <= set(COMMANDS)


FAILING = """
import pytest
def test_wrong(benchmark):
    assert "right" == "wrong"
"""


@matrix
def test_a_benchmark_that_fails_does_so_once_and_says_why(tmp_path):
    (tmp_path / "test_failing.py").write_text(FAILING)
    command = ["-m", "pytest", "-p", "benchmarks.conftest", "-p", "no:xdist", "-W", "error"]
    alone = {"PYTHONPATH": str(ROOT), "PYTEST_XDIST_WORKER": None}  # pytest-benchmark times in no worker
    done = python(*command, tmp_path, "--benchmark-only", exit_code=1, cwd=tmp_path, **alone)
    assert "1 failed in " in done.stdout


def test_a_program_of_a_networks_own_stands_in_no_table_of_two_threads():
    small, larger = Network([20, 32, 5], l2=1e-4), Network([784, 128, 10])
    rows = [StepRow(network, Adam(), 1024, "float32", threads=2) for network in (small, larger)]
    assert [workers(row, "specialized") for row in rows] == [1, 2]  # the larger one has no such program
    assert [workers(row, "fused") for row in rows] == [2, 2]


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86 processor")
def test_what_is_limited_to_avx2_is_so_from_its_start():
    program = """
import json
import numpy
import threadpoolctl
from benchmarks.processes import environment, limits
from fastmlp.kernels.codegen.machine import host, target
libraries = threadpoolctl.threadpool_info()
blas = [one["architecture"] for one in libraries if one["internal_api"] == "openblas"]
children_too = limits() != {} and limits().items() <= environment(1).items()
print(json.dumps([host().vector_bytes, target()[1], blas, children_too]))
"""
    done = python("-c", program, cwd=ROOT, **LIMITS)
    width, processor, blas, children_too = json.loads(done.stdout)
    assert (width, processor, children_too) == (32, "x86-64-v3", True)
    assert set(blas) <= {"Haswell"}


@pytest.mark.slow
def test_networks_drawn_at_random_are_measured():
    few = ("--count", "2", "--most", "1e-4", "--rounds", "2", "--peers", "fastmlp,fastmlp:reference")
    done = python("-m", "benchmarks", "drawn", *few, cwd=ROOT)
    assert complaints(done) == []
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    gains, ratios = ([float(cells[column]) for cells in rows] for column in (0, -1))
    assert gains == ratios == sorted(gains)
    assert len(gains) == 2
    assert gains[0] > 0


@pytest.mark.slow  # starts four processes
@pytest.mark.parametrize("commit", [*["HEAD"][: (ROOT / ".git").exists()], str(ROOT)])
def test_a_commit_is_compared_with_itself(commit, tmp_path):
    row, given = "fit, 100 steps of 3-4-1", ["--to", commit, "--quick", "--rounds", "1"]
    done = python(
        "-m", "benchmarks", "against", commit, *given, row, cwd=ROOT, FASTMLP_CACHE_DIR=str(tmp_path)
    )
    assert complaints(done) == []
    shown, _, end = done.stdout.splitlines()[-3:]
    number, figure = r"\d+\.\d{3}", r"[\d.e+-]+"
    assert re.fullmatch(rf"{row} +{figure} +{number} +{number}  {number} to {number}(  slower)?", shown)
    assert re.fullmatch("[01] of 1 rows are slower by more than 3%", end)


def test_a_row_that_one_side_lacks_is_left_out_in_a_line(capsys):
    class Side:
        def __init__(self, answer):
            self.send, self.read = lambda *request: None, lambda: answer

    lacks = Side({"failed": "AttributeError: module 'fastmlp' has no attribute 'GLU'"})
    assert against.both_have("GLU", ("old", "new"), [Side({"value": 1.0})] * 2)
    assert not against.both_have("GLU", ("old", "new"), [lacks, Side({"value": 1.0})])
    said = "GLU: left out, old: AttributeError: module 'fastmlp' has no attribute 'GLU'\n"
    assert capsys.readouterr().out == said


def test_peers_take_no_optimiser_for_another():
    assert [takes_adam(kind()) for kind in (SGD, Adam, AdamW, SparseAdam)] == [False, True, True, True]
    with pytest.raises(TypeError, match="no peer takes steps of RMSprop; choose from: SGD, Adam"):
        takes_adam(RMSprop())


@pytest.mark.slow  # starts a process for each peer
def test_peers_are_measured_and_written_as_bench_does(tmp_path):
    """Each peer is held to the reference's losses; the file and its table are those of `fastmlp bench`."""
    file = tmp_path / "peers.json"
    command = ["-m", "benchmarks", "30-100-1", "--rounds", "2"]
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
