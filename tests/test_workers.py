"""Workers that fail, or that the system does not grant: nobody is left waiting at the barrier."""

from __future__ import annotations

import subprocess
import sys
import threading

import numba
import numpy as np
import pytest

from fastmlp.kernels.program import barrier
from fastmlp.kernels.program.barrier import wait as barrier_wait
from fastmlp.kernels.program.records import BARRIER, FAN_IN
from fastmlp.kernels.runtime import threads

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds


@numba.njit(nogil=True)
def wait(place, worker, workers):
    """The barrier, which only compiled code can call, for Python."""
    barrier_wait(place, worker, workers)


def run(program, workers, wait=wait):
    """Run program(worker, workers, meet) by several workers, who meet where they call meet()."""
    place = np.zeros(BARRIER, np.int64)

    def enter(worker, count):
        program(worker, count, lambda: wait(place, worker, count))

    threads.run(enter, workers, place)


def within(seconds, do):
    """Run `do` on a thread; fail if it does not come back, for nothing could interrupt a barrier."""
    outcome = []

    def catch():
        try:
            outcome.append(do())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=catch, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "somebody waits for ever"
    return outcome[0]


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    run(lambda worker, workers, meet: meet(), 2)


@pytest.mark.parametrize(
    ("failing", "workers"),
    # Of three, which meet at one place, and of twenty, which meet in groups.
    [*((failing, 3) for failing in range(3)), *((failing, 20) for failing in (0, 8, 19))],
)
def test_a_worker_that_fails_lets_the_others_go_and_its_error_is_raised(failing, workers):
    left = []

    def program(worker, workers, meet):
        if worker == failing:
            raise MemoryError(f"worker {failing}")
        for _ in range(3):
            meet()
        left.append(worker)

    error = within(20, lambda: run(program, workers))
    assert isinstance(error, MemoryError)
    assert str(error) == f"worker {failing}"
    assert sorted(left) == [w for w in range(workers) if w != failing]


@pytest.mark.parametrize("granted", [0, 1])
def test_fewer_threads_than_wanted_do_the_work_together(granted, monkeypatch):
    seen = []
    started = []

    class Scarce(threading.Thread):
        def start(self):
            if len(started) == granted:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    def program(worker, workers, meet):
        meet()
        seen.append((worker, workers))
        meet()

    monkeypatch.setattr(threads.threading, "Thread", Scarce)
    run(program, 3)
    assert sorted(seen) == [(w, granted + 1) for w in range(granted + 1)]


TRAIN = """
import numpy as np, fastmlp
rng = np.random.default_rng(0)
X, y = rng.standard_normal((300, 65)), rng.integers(0, 10, 300)
network = fastmlp.Network([65, 129, 66, 10], output="softmax", loss="cross_entropy")
def fit():
    return fastmlp.fit(network, X, y, epochs=2, batch_size=128, seed=0, threads=3, backend="fused").parameters
with_threads = fit()
import threading
class None_(threading.Thread):
    def start(self):
        raise RuntimeError("can't start new thread")
threading.Thread = None_
assert np.array_equal(fit(), with_threads)
print("same")
"""


def test_a_training_without_threads_to_be_had_computes_the_same_bits():
    done = subprocess.run(
        [sys.executable, "-c", TRAIN], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize(("workers", "times"), [(FAN_IN, 40), (FAN_IN + 1, 20), (20, 10)])
def test_more_workers_than_cores_meet_at_every_barrier(workers, times):
    """At one place; in two groups, one of a single worker; in groups of which the last is smaller."""
    assert_meetings(workers, times, run)


def test_workers_beyond_the_groups_meet_in_larger_ones(monkeypatch):
    monkeypatch.setattr(barrier, "MOST_GROUPS", 3)

    @numba.njit(nogil=True)
    def wait(place, worker, workers):
        barrier_wait(place, worker, workers)

    assert_meetings(28, 5, lambda program, workers: run(program, workers, wait))  # tens, not eights


def assert_meetings(workers, times, run):
    counts = np.zeros(workers, np.int64)

    def program(worker, workers, meet):
        for time in range(times):
            counts[worker] += 1
            meet()
            assert counts.min() == counts.max() == time + 1, "somebody went on before all had come"
            meet()

    assert within(60, lambda: run(program, workers)) is None
    assert counts.tolist() == [times] * workers
