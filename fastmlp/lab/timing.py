"""Times: what a call takes, in alternation with its rivals, and how sure that is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

LEAST_ROUNDS, MOST_ROUNDS = 7, 1000

Z_95 = 1.96
"""Standard deviations on either side within which a normal variable is 95 times of 100."""

Key = TypeVar("Key")

Trained = tuple[list[float], float]
"""The mean loss of each epoch, and the seconds of all steps."""


class Time(NamedTuple):
    """Seconds of one call: the least, the median, and the ends of the median's 95 % confidence interval."""

    best: float
    median: float
    low: float
    high: float
    rounds: int


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
    calls: Mapping[Key, Callable[[], float]], budget: float, least: int = LEAST_ROUNDS
) -> dict[Key, Time]:
    """Return the times of calls, each of which returns its seconds, taken in turns.

    What disturbs the machine for a while disturbs all of them. budget : seconds for each of them
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


def once(call: Callable[[], object], clock: Clock) -> float:
    """Return the seconds of one call."""
    began = clock()
    call()
    return clock() - began
