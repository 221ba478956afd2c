"""Workers that fail, or that the system does not grant: nobody is left waiting at the barrier."""

import random
import threading
from functools import partial
from time import perf_counter, sleep, thread_time

import numba
import numpy as np
import pytest
from support.processes import python
from support.selection import quick

from fastmlp.kernels.program import barrier
from fastmlp.kernels.program import workers as program_workers
from fastmlp.kernels.program.barrier import wait as barrier_wait
from fastmlp.kernels.program.records import ABANDONED, BARRIER, FAN_IN, NODE, SLEEPERS

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds


@numba.njit(nogil=True)
def wait(place, worker, workers):
    """The barrier, which only compiled code can call, for Python."""
    barrier_wait(place, worker, workers)


@pytest.fixture
def wait_with(monkeypatch):
    """Return wait_with(name=value): the barrier, compiled with these in the place of its module's."""

    def compiled(**given):
        for name, value in given.items():
            monkeypatch.setattr(barrier, name, value)
        return numba.njit(nogil=True)(wait.py_func)

    return compiled


def run(program, workers, wait=wait, place=None):
    """Run program(worker, workers, meet) by several workers, who meet where they call meet()."""
    place = np.zeros(BARRIER, np.int64) if place is None else place

    def enter(worker, count):
        program(worker, count, lambda: wait(place, worker, count))

    program_workers.run(enter, workers, place)


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
    within(100, lambda: run(lambda worker, workers, meet: meet(), 2))


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
def test_fewer_threads_than_requested_do_the_work_together(granted, monkeypatch):
    seen, started = [], []

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

    monkeypatch.setattr(threading, "Thread", Scarce)
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
    assert python("-c", TRAIN).stdout == "same\n"


@pytest.mark.parametrize(("workers", "times"), [(FAN_IN, 40), (FAN_IN + 1, 20), (20, 10)])
def test_more_workers_than_cores_meet_at_every_barrier(workers, times):
    """At one place; in two groups, one of a single worker; in groups of which the last is smaller."""
    assert_meetings(workers, times, run)


def test_workers_beyond_the_groups_meet_in_larger_ones(wait_with):
    assert_meetings(28, 5, partial(run, wait=wait_with(MOST_GROUPS=3)))  # tens, not eights


@quick(1)
@pytest.mark.parametrize("spins", [0, 10, 1000])
def test_no_wake_up_is_lost_where_workers_fall_asleep_at_once_or_soon(spins, wait_with):
    """Thousands of meetings, at each of which one worker goes to sleep while another opens the barrier."""
    with_spins = partial(run, wait=wait_with(SPINS=spins))
    assert_meetings(2, 3000, with_spins)
    assert_meetings(FAN_IN + 1, 100, with_spins)


def test_workers_meet_where_the_system_has_no_function_to_sleep_by(wait_with):
    assert_meetings(3, 200, partial(run, wait=wait_with(FUNCTIONS=None, SPINS=10)))


def sleepers(place):
    return int(place[SLEEPERS:ABANDONED:NODE].sum())


def until_asleep(place, count):
    """Return when so many workers sleep; fail after a while."""
    end = perf_counter() + 20
    while sleepers(place) < count:
        assert perf_counter() < end, f"of {count} workers {sleepers(place)} sleep"
        sleep(0.001)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("workers", [2, FAN_IN + 4])
def test_who_waits_sleeps_and_takes_no_processor_time_and_a_failure_wakes_all(workers, fails):
    place, taken = np.zeros(BARRIER, np.int64), []

    def program(worker, workers, meet):
        meet()
        if worker == workers - 1:
            until_asleep(place, workers - 1)
            if fails:
                raise MemoryError("while the others sleep")
            sleep(0.3)
            meet()
        else:
            before = thread_time()
            meet()
            taken.append(thread_time() - before)

    outcome = within(60, lambda: run(program, workers, place=place))
    assert isinstance(outcome, MemoryError) if fails else sleepers(place) == 0
    assert len(taken) == workers - 1
    assert max(taken) < 0.1


@pytest.mark.slow  # 300 barriers, 5 s
def test_workers_that_fall_asleep_while_one_fails_leave_too(wait_with):
    """At any moment of their way to sleep."""
    wait = wait_with(SPINS=0)
    for delay in random.Random(0).choices(range(200), k=300):
        place = np.zeros(BARRIER, np.int64)

        def program(worker, workers, meet, place=place, delay=delay):
            if worker == 0:
                for _ in range(delay):
                    pass
                raise MemoryError("now")
            meet()

        assert isinstance(within(20, partial(run, program, 2, wait, place)), MemoryError)


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
