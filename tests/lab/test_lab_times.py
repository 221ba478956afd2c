"""Times of the kernel lab: intervals, clocks on a busy machine, what is fastest for certain, and the peak."""

import hashlib
import io
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from support.lab_results import MACHINE, measurement, results
from support.selection import matrix

from fastmlp.lab import measurements, peak, table, timing
from fastmlp.lab.measurements import Change
from fastmlp.lab.timing import AUTO, Time

pytest.importorskip("rich")


def test_the_interval_of_a_median_has_the_order_statistics_for_its_ends():
    found = timing.summary([float(n) for n in range(1, 101)])
    assert found == Time(1.0, 50.5, 41.0, 61.0, 100)  # 50 -+ 1.96 sqrt(100) / 2, counted outward


def test_the_interval_holds_the_median_95_times_of_100():
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        found = timing.summary(list(rng.exponential(size=60)))
        held += found.low <= np.log(2) <= found.high
    assert 0.94 < held / 2000 < 0.985  # at least 95 %, as ends are rounded outward


def test_calls_are_timed_in_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) or 1e-3 for name in "abc"}
    found = timing.in_alternation(calls, budget=1e-9)
    assert set(order[:3]) == set("abc")
    assert [sorted(order[n : n + 3]) for n in range(3, len(order), 3)] == [list("abc")] * timing.LEAST_ROUNDS
    rounds = {tuple(order[n : n + 3]) for n in range(3, len(order), 3)}
    assert len(rounds) == 3  # each begins a round in its turn
    assert found["a"].rounds == timing.LEAST_ROUNDS


HOG = "print(flush=True)\nwhile True: pass"


@pytest.fixture
def _busy_machine():
    """Other programs that compute, twice as many as there are cores."""
    command = [sys.executable, "-c", HOG]
    hogs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2 * os.cpu_count())]
    for hog in hogs:
        hog.stdout.readline()
    yield
    for hog in hogs:
        hog.kill()
        hog.communicate()


def compute(clock):
    return timing.once(lambda: sum(range(100_000)), clock)


@matrix
@pytest.mark.usefixtures("_busy_machine")
def test_on_a_busy_machine_processor_time_is_taken_and_reported():
    for options, clock in ((AUTO, "cpu"), ("wall", "wall"), ("cpu", "cpu")):
        (found,) = timing.timed({"sum": compute}, 0.2, options).values()
        assert (found.clock, found.busy) == (clock, True)
        assert table.interval(found).endswith({"cpu": " cpu", "wall": " busy"}[clock])


@pytest.mark.slow  # takes the cores from what else runs
@pytest.mark.usefixtures("_busy_machine")
def test_a_busy_machine_is_reported_where_several_threads_compute():
    """Whose processor time is no time of a step."""
    pytest.importorskip("resource")
    data = bytes(1 << 22)

    def two_threads(clock):
        with ThreadPoolExecutor(2) as pool:
            return timing.once(lambda: list(pool.map(hashlib.sha256, [data] * 4)), clock)

    (found,) = timing.timed({"two": two_threads}, 0.5, AUTO, threads=2).values()
    assert (found.clock, found.busy) == ("wall", True)


def test_a_program_that_waits_has_not_its_share():
    """What other programs take is what this one does not get: here it sleeps."""
    load = timing.Load(1)
    time.sleep(0.05)
    assert load.busy()
    threads = timing.Load(2)
    time.sleep(0.05)  # as workers do that wait for one another
    assert not threads.busy()


@pytest.mark.parametrize(
    ("busy", "clock", "said"), [(False, "cpu", "±1%"), (True, "cpu", "±1% cpu"), (True, "wall", "±1% busy")]
)
def test_a_time_of_a_busy_machine_is_marked_after_its_interval(busy, clock, said):
    from rich.console import Console

    one = measurement("tiled", 1e-5)
    one = one._replace(time=one.time._replace(busy=busy, clock=clock))
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(table.table(results(one)))
    assert f"{said} " in console.export_text()
    assert len(list(table.notes(results(one)))) == busy


def test_the_first_is_fastest_where_that_is_certain():
    first, near, far = (measurement("tiled", seconds) for seconds in (6e-6, 6.05e-6, 8e-6))
    assert table.standing(first, [first]) == table.standing(first, [first, far]) == "fastest"
    ranked = [first, near, far]
    assert [table.standing(one, ranked) for one in ranked] == ["tied", "1.01 tied", "1.33"]


def test_what_one_function_differs_by_under_two_names_is_a_tie():
    first, second = (measurement("tiled", seconds, spread=1e-4) for seconds in (6e-6, 6.24e-6))
    assert table.fastest([first, second]) == [first, second]
    assert table.fastest([first, measurement("blas", 6.4e-6, spread=1e-4)]) == [first]


def test_why_the_others_lost():
    slow = measurement("blas", 12e-6), measurement("gone", 6e-5, traffic=1 << 20)
    said = table.lost([measurement("tiled", 6e-6), measurement("baseline", 6.01e-6), *slow], MACHINE)
    assert said[0] == "baseline cannot be distinguished from tiled."
    slower, where = "times as long: it reaches", "of the peak, where tiled reaches 87%."
    assert said[1].startswith(f"blas takes 2.00 {slower} 44% {where} How: ")
    assert said[2] == f"gone takes 10.00 {slower} 8.7% {where}"
    copies = [measurement(*of, "gather", None, 20000) for of in (("fused", 1e-6), ("baseline", 2e-6))]
    assert "it reaches 5% of the L1 bandwidth, where fused reaches 10%." in table.lost(copies, MACHINE)[0]


@pytest.mark.parametrize(
    ("before", "now", "spread", "verdict"),
    [
        (1e-5, 1.2e-5, 0.01, "slower"),
        (1e-5, 1.2e-5, 0.10, "as before"),  # the intervals of the medians allow 0.98
        (1e-5, 1.04e-5, 0.001, "as before"),  # for certain, but within the tolerance
        (1e-5, 0.8e-5, 0.01, "faster"),
    ],
)
def test_what_is_slower_is_so_for_certain(before, now, spread, verdict):
    change = Change(*(measurement("tiled", seconds, spread=spread) for seconds in (before, now)), 0.05)
    assert change.verdict == verdict
    assert change.low < change.ratio < change.high


def test_only_what_both_have_is_compared():
    before = results(measurement("tiled", 1e-5), measurement("blas", 1e-5))
    now = results(measurement("tiled", 1e-5), measurement("mine", 1e-5))
    assert [change.now.variant for change in measurements.changes(before, now, 0.05)] == ["tiled"]


# --- the peak that shares are of -------------------------------------------------------------------

DATA = bytes(1 << 20)


def test_a_threads_time_is_its_own():
    """Linux has the time of other threads, and with it the process's, as of their last tick."""
    ended = threading.Event()

    def busy():
        while not ended.is_set():
            hashlib.sha256(DATA)  # lets go of Python's lock

    other = threading.Thread(target=busy)
    other.start()
    try:
        wall, own = peak.taken(partial(time.sleep, 0.2), 2)
    finally:
        ended.set()
        other.join()
    assert wall >= 0.2
    assert own < 0.02


def test_a_window_that_a_clock_gives_half_of_its_time_does_not_count():
    windows = [(1.0, 1.0), (1.1, 0.5), (1.2, 1.01), (2.0, 0.99), (1.3, 1.0)]
    assert peak.rates(windows, 250e9) == (250.0, 250.0)


def test_a_clock_that_has_not_moved_does_not_count():
    assert peak.rates([(0.02, 0.0), (0.01, 0.0), (0.03, 0.016)], 1e9) == (100.0, 100.0)
