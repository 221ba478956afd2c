"""Times: what a call takes, in alternation with its rivals, and how sure that is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from fastmlp.training.callbacks import Callback, Run

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

LEAST_ROUNDS, MOST_ROUNDS, MOST_REPEATS = 7, 1000, 1 << 24

Z_95 = 1.96
"""Standard deviations on either side within which a normal variable is 95 times of 100."""

Key = TypeVar("Key")

Trained = tuple[list[float], float]
"""The mean loss of each epoch, and the seconds of all steps."""


class Time(NamedTuple):
    """Seconds of one call: the least, the median, and the ends of the median's 95 % confidence interval.

    clock : what they were read from, a key of `CLOCKS`
    busy : whether other programs had the processor for a part of them
    """

    best: float
    median: float
    low: float
    high: float
    rounds: int
    clock: str = "wall"
    busy: bool = False

    @property
    def spread(self) -> float:
        """How far the median may be off at most, as a share of it."""
        return max(self.high - self.median, self.median - self.low) / self.median


def summary(seconds: list[float]) -> Time:
    """Return the times of rounds in short.

    The interval has order statistics for its ends (Conover, "Practical Nonparametric Statistics", 1999, 3.2),
    and so assumes nothing about how times are spread.
    """
    ordered = np.sort(seconds)
    n = len(ordered)
    half = Z_95 * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    best, median, least, most = map(float, (ordered[0], np.median(ordered), ordered[low], ordered[high]))
    return Time(best, median, least, most, n)


def in_alternation(
    calls: Mapping[Key, Callable[[], float]], budget: float = 0.0, least: int = LEAST_ROUNDS
) -> dict[Key, Time]:
    """Return the times of calls, each of which returns its seconds, taken in turns.

    What disturbs the machine for a while disturbs all of them. The first round does not count.
    budget : seconds for each of them; least : turns of each, however long they take
    """
    if not calls:
        return {}
    began = time.perf_counter()
    first = {key: [call()] for key, call in calls.items()}
    round_seconds = max(time.perf_counter() - began, 1e-6)
    rounds = int(min(max(budget * len(calls) / round_seconds, least), MOST_ROUNDS))
    samples: dict[Key, list[float]] = {key: [] for key in first}  # the first round has cold caches
    order = list(calls)
    for _ in range(rounds):
        for key in order:
            samples[key].append(calls[key]())
        order.append(order.pop(0))
    return {key: summary(seconds) for key, seconds in samples.items()}


Clock = Callable[[], float]

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What seconds are read from; the processor's do not pass while other programs have the core."""

AUTO = "auto"
"""Chooses a clock: the processor's for one thread on a busy machine, else the wall's."""

LEAST_SHARE = 0.95
"""Share of the time of one thread: with less of it the machine is busy."""

MOST_SWITCHES = 50
"""A second: several threads that wait for one another have less than their share on an idle machine, too, but
are seldom taken off their cores."""


class Load:
    """Whether other programs take the processor from this one, from when it is made."""

    def __init__(self, threads: int) -> None:
        self._threads, self._began = threads, self._now()

    def busy(self) -> bool:
        """Return whether they did."""
        wall, own, switches = (now - began for now, began in zip(self._now(), self._began, strict=True))
        return own < LEAST_SHARE * wall if self._threads == 1 else switches > MOST_SWITCHES * wall

    @staticmethod
    def _now() -> tuple[float, float, float]:
        # Windows does not count switches.
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0
        return time.perf_counter(), time.process_time(), switches


def timed(
    calls: Mapping[Key, Callable[[Clock], float]], budget: float, clock: str, threads: int = 1
) -> dict[Key, Time]:
    """Return the times of calls in alternation, each of which returns its seconds by the clock that it gets.

    clock : a key of `CLOCKS`, or `AUTO`; threads : how many a call computes on
    """
    name = "wall" if clock == AUTO else clock
    load = Load(threads)
    found = in_alternation({key: partial(call, CLOCKS[name]) for key, call in calls.items()}, budget)
    busy = load.busy()
    if busy and clock == AUTO and threads == 1:
        name = "cpu"
        found = in_alternation({key: partial(call, CLOCKS[name]) for key, call in calls.items()}, budget)
    return {key: taken._replace(clock=name, busy=busy) for key, taken in found.items()}


class StepsTimer(Callback):
    """The time of a training's steps alone, without the checks of its data, what it loads or compiles first.

    seconds : by the clock, from the first chunk's beginning to the last one's end
    """

    seconds = 0.0

    def __init__(self, clock: Clock = CLOCKS["wall"]) -> None:
        self._clock = clock

    def on_train_begin(self, run: Run) -> None:
        """Begin to count."""
        self._began = self._clock()

    def on_train_end(self, run: Run) -> None:
        """Keep what they took."""
        self.seconds = self._clock() - self._began


def once(call: Callable[[], object], clock: Clock) -> float:
    """Return the seconds of one call."""
    began = clock()
    call()
    return clock() - began


def repeats_for(run: Callable[[int], object], seconds: float, first: int = 1) -> int:
    """Return how many times run(times) repeats its work in about so many seconds, run that often before.

    first : the number to try first
    """
    times = first
    while True:
        run(times)  # what compiles for each number has done so
        took = once(partial(run, times), CLOCKS["wall"])
        if took >= 0.7 * seconds or times >= MOST_REPEATS:
            return times
        times = max(times + 1, min(64 * times, int(times * 1.1 * seconds / max(took, 1e-9))))
