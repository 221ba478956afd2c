"""Trainings over MPI in processes of mpiexec: what they come to, and how they fail together."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from support import needs

import fastmlp

BIN_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

MPIEXEC = shlex.split(os.environ.get("MPIEXEC") or shutil.which("mpiexec", path=BIN_PATH) or "")
"""The command that starts processes: MPICH's next to this Python, or the environment's, as
MPIEXEC="mpirun.openmpi --allow-run-as-root --oversubscribe --bind-to none" MPI4PY_MPIABI=openmpi."""

pytestmark = [
    needs.reads_proc,
    pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed"),
    pytest.mark.skipif(not MPIEXEC, reason="there is no mpiexec; pip install mpich"),
]

JOBS = Path(__file__).parents[1] / "support" / "mpi_jobs.py"


def started(size, *command):
    return subprocess.Popen(
        [*MPIEXEC, "-n", str(size), sys.executable, *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def ended(job):
    """Its exit code, output and errors; whatever hangs is killed."""
    with job:
        try:
            output, errors = job.communicate(timeout=needs.PATIENCE)
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    return job.returncode, output, errors


def run(size, *command):
    return ended(started(size, *command))


@pytest.mark.slow  # processes, 5 s; test_distributed.py has ranks that are threads
def test_processes_come_to_what_one_comes_to(tmp_path):
    code, _, errors = run(4, JOBS, "sizes", tmp_path)
    assert code == 0, errors
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    eps = np.finfo(float).eps
    first = found[0]
    for rank, own in enumerate(found):
        for name, value in own.items():
            assert value == first[name], f"rank {rank}, {name}"  # the same bits on all processes
    assert first["again"] == first["4"]  # and in all runs
    expected_same = [(name, "1") for name in ("2", "3", "4", "resumed")]
    for name, one in [*expected_same, ("norms", "norms of one"), ("heads", "heads of one")]:
        assert first[name].keys() == first[one].keys()
        for what in first[name].keys() - {"stop_reason"}:
            # 10 steps, of Adam: see `assert_close` of tests/support/several_ranks.py
            np.testing.assert_allclose(first[name][what], first[one][what], rtol=0, atol=10 * 100 * eps)
    for what, value in first["flat"].items():
        np.testing.assert_allclose(first["pieces"][what], value, rtol=1e-9)
    assert first["averaged"]["parameters"] != first["4"]["parameters"]
    assert first["limited"]["stop_reason"] == "time limit of 0.2 s reached"


FAILURES = {
    "raise": (1, "OSError: the disk is gone\nfastmlp: rank 1 of 2 has failed, and so all are ended"),
    "stall": (1, "fastmlp: rank 0 of 2 has waited 4 s for the others"),
    "kill": (9, "KILLED"),  # Open MPI adds 128
    "exit": (1, "SystemExit: 3\nfastmlp: rank 1 of 2 has failed, and so all are ended"),
    "nan": (1, "training diverged in epoch 1, after 0 updates"),
    "interrupt": (1, "training was interrupted; this error's .model is Model([6, 8, 5, 1], 3 epochs"),
}
"""By what happens to one of two processes: the exit code of all, and what stderr says.

Where both fail, Python writes an error's class and its message apart, and the other's may stand between.
"""


@pytest.mark.parametrize(
    "what", [what if what == "raise" else pytest.param(what, marks=pytest.mark.slow) for what in FAILURES]
)
def test_what_happens_to_one_process_ends_all(what, tmp_path, report_figure):
    path = tmp_path / "training.npz"
    began = time.monotonic()
    code, output, errors = run(2, JOBS, "fail", what, path)
    report_figure(f"{what}: {time.monotonic() - began:.1f} s from the start to the end of all")
    expected, message = FAILURES[what]
    assert code in (expected, 128 + signal.SIGKILL if what == "kill" else expected), errors
    assert message.upper() in (errors + output).upper()
    if what == "nan":
        assert not path.exists()
    else:
        # of the two epochs before it, or of the third where all agreed to stop after it
        assert len(fastmlp.load(path).history["loss"]) == (3 if what == "interrupt" else 2)
    assert not left_behind(path)


LEAVING = {
    "ends": ({1}, "fastmlp: rank 0 of 3 waits for rank 1, which has ended, and so all are ended\n"),
    "fails": ({1}, "OSError: there are no rows\nfastmlp: rank 0 of 3 waits for rank 1, which has ended"),
    "of a group": ({1, 9}, "fastmlp: rank 0 of 2 waits for rank 1, which has ended"),
    "comes late": ({0}, ""),
}
"""By what one of three processes does before `fit`: exit codes that all may have, and what stderr says.

Of processes that are not in the group that is ended, mpiexec may give the signal that it kills them by.
"""


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """By way: the file that says when a process left, the time when all had ended, and what `ended` returns.

    Most of a job's 7 to 11 s are waiting, so all run at a time.
    """
    folder = tmp_path_factory.mktemp("left")

    def result(how):
        found = run(3, JOBS, "leave", how, folder / how)  # needs.PATIENCE ends what waits for ever
        return folder / how, time.time(), *found

    with ThreadPoolExecutor(len(LEAVING)) as pool:
        return dict(zip(LEAVING, pool.map(result, LEAVING), strict=True))


@pytest.mark.skipif(os.environ.get("MPI4PY_MPIABI") == "openmpi", reason="MPICH publishes ends")
@pytest.mark.slow  # three processes each
@pytest.mark.parametrize("how", LEAVING)
def test_a_process_that_ends_before_its_training_ends_all(how, left, report_figure):
    path, end, code, output, errors = left[how]
    expected, message = LEAVING[how]
    assert code in expected, errors
    report_figure(f"{how}: {end - path.stat().st_mtime:.1f} s from then to the end of all")
    assert message in errors + output
    assert not left_behind(path)


def left_behind(word):
    """The processes whose command has the word and that do not end by themselves: mpiexec waits for none."""
    latest = time.monotonic() + 30
    while (found := running(word)) and time.monotonic() < latest:
        time.sleep(0.02)
    return found


def running(word):
    """The processes whose command has the word now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command, state = (folder / "cmdline").read_text(), (folder / "stat").read_text()
        except OSError:
            continue
        if str(word) in command and ") Z " not in state:
            found.append(command)
    return found


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_after_the_same_epoch(tmp_path):
    ready = tmp_path / "ready"
    job = started(3, JOBS, "wait", ready)
    while not ready.exists() and job.poll() is None:
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)  # mpiexec passes it on to each process, one after another
    code, _, errors = ended(job)
    if os.environ.get("MPI4PY_MPIABI") == "openmpi":  # whose mpirun sends SIGTERM in its place
        assert code != 0
        return
    assert code == 130, errors
    assert len({ready.with_suffix(f".{rank}").read_text() for rank in range(3)}) == 1


@pytest.mark.slow
def test_the_command_line_trains_over_processes():
    def printed(size, *more):
        command = ["-m", "fastmlp", "train", "digits", "--epochs", "3", "--quiet", "--backend", "fused"]
        code, output, errors = run(size, *command, *more)
        assert code == 0, errors
        return {line.split()[0]: line for line in output.splitlines() if line.strip()}

    alone, four = printed(1, "--no-reference"), printed(4, "--mpi")
    assert four["training"] == f"{alone['training']}, 4 processes"
    assert four["accuracy"] == alone["accuracy"]
    assert four["loss"] == alone["loss"]
    assert "speed-up" in four


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "train.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    code, _, errors = run(2, "-W", "error", "train.py")
    assert code == 0, errors
    X, y = sklearn.datasets.load_digits(return_X_y=True)
    model = fastmlp.load("model.npz")
    assert (model.predict(X / 16).argmax(axis=1) == y).mean() > 0.95
    assert fastmlp.load("run.npz").history == model.history
