"""Times of calls in turn, with confidence intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from fastmlp.callbacks.callback import Callback, Run

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

LEAST_ROUNDS, MOST_ROUNDS = 7, 1000

Z_95 = 1.96
"""Standard deviations on either side for 95 % of a normal variable."""

Key = TypeVar("Key")

Trained = tuple[list[float], float]
"""The mean loss of each epoch, and the seconds of all steps."""


class Time(NamedTuple):
    """Seconds of a call: the least, the median, and the ends of the median's 95 % confidence interval.

    clock : a key of `CLOCKS`; busy : True if other programs had the processor for a part of the time
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
        """The greatest error of the median, as a fraction of the median."""
        return max(self.high - self.median, self.median - self.low) / self.median


def summary(seconds: list[float]) -> Time:
    """Return the summary of the times of rounds, without an assumed distribution of times.

    The interval ends at order statistics (Conover, "Practical Nonparametric Statistics", 1999, 3.2).
    """
    ordered = np.sort(seconds)
    n = len(ordered)
    half = Z_95 * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    best, median, least, most = map(float, (ordered[0], np.median(ordered), ordered[low], ordered[high]))
    return Time(best, median, least, most, n)


def in_alternation(
    calls: Mapping[Key, Callable[[], float]],
    budget: float = 0.0,
    least: int = LEAST_ROUNDS,
    most: int = MOST_ROUNDS,
) -> dict[Key, Time]:
    """Return the times of calls in turn, so that a disturbance disturbs all; each call returns seconds.

    budget : seconds for each call; least, most : turns of each call, however long a turn takes
    """
    if not calls:
        return {}
    began = time.perf_counter()
    first = {key: [call()] for key, call in calls.items()}
    round_seconds = max(time.perf_counter() - began, 1e-6)
    rounds = int(min(max(budget * len(calls) / round_seconds, least), most))
    samples: dict[Key, list[float]] = {key: [] for key in first}  # the first round has cold caches
    order = list(calls)
    for _ in range(rounds):
        for key in order:
            samples[key].append(calls[key]())
        order.append(order.pop(0))
    return {key: summary(seconds) for key, seconds in samples.items()}


Clock = Callable[[], float]

CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Clocks by name; the processor's stands still while other programs have the core."""

AUTO = "auto"
"""Chooses a clock: the processor's for a single thread on a busy machine, else the wall's."""

LEAST_FRACTION = 0.95
"""A thread's fraction of computing time; below, the machine is busy."""

MOST_SWITCHES = 50
"""Switches a second of a busy machine. Threads waiting for each other compute for a smaller fraction on an
idle machine, too, but are seldom taken off the cores."""


class Load:
    """The load by other programs since the object was made."""

    def __init__(self, threads: int) -> None:
        self._threads, self._began = threads, self._now()

    def busy(self) -> bool:
        """Return True if other programs took the processor."""
        wall, working, switches = (now - began for now, began in zip(self._now(), self._began, strict=True))
        return working < LEAST_FRACTION * wall if self._threads == 1 else switches > MOST_SWITCHES * wall

    @staticmethod
    def _now() -> tuple[float, float, float]:
        # Windows does not count switches.
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw if resource else 0
        return time.perf_counter(), time.process_time(), switches


def timed(
    calls: Mapping[Key, Callable[[Clock], float]], budget: float, clock: str, threads: int = 1
) -> dict[Key, Time]:
    """Return the times of calls in turn by a clock: a key of `CLOCKS`, or `AUTO`; threads : of a call"""
    name = "wall" if clock == AUTO else clock
    load = Load(threads)
    found = in_alternation({key: partial(call, CLOCKS[name]) for key, call in calls.items()}, budget)
    busy = load.busy()
    if busy and clock == AUTO and threads == 1:
        name = "cpu"
        found = in_alternation({key: partial(call, CLOCKS[name]) for key, call in calls.items()}, budget)
    return {key: taken._replace(clock=name, busy=busy) for key, taken in found.items()}


class StepsTimer(Callback):
    """The time of a training's steps, from the first chunk's beginning to the last one's end."""

    seconds = 0.0

    def __init__(self, clock: Clock = CLOCKS["wall"]) -> None:
        self._clock = clock

    def on_train_begin(self, run: Run) -> None:
        """Start the clock."""
        self._began = self._clock()

    def on_train_end(self, run: Run) -> None:
        """Stop the clock."""
        self.seconds = self._clock() - self._began


def once(call: Callable[[], object], clock: Clock) -> float:
    """Return the seconds of a call."""
    began = clock()
    call()
    return clock() - began
