"""The threads of a benchmark's row: each is given the same number; one that takes another is not shown."""

import time

import pytest

SECONDS = 0.02, 0.2
"""How long calls are watched, and again where the first look says that they take other threads.

The system counts a running thread's time by ticks of some milliseconds.
"""

ALLOWED = {1: (0.0, 1.2), 2: (1.25, 2.5)}
"""Least and most that calls may take of so many threads; two do not divide a step quite evenly."""


def threads_taken(call, seconds, busy):
    """Return how many cores call() keeps busy: CPU time of the process over time.

    Other programs on the cores make the number smaller and never larger.

    busy : the clock of the CPU time
    """
    began, before = time.perf_counter(), busy()
    while time.perf_counter() - began < seconds:
        call()
    return (busy() - before) / (time.perf_counter() - began)


def check_threads(call, threads, row="this", busy=time.process_time):
    """Skip a test whose call() keeps fewer or more cores busy than `threads` do.

    So it is where other programs have the cores. AssertionError if one core is exceeded: no other program
    does that.
    """
    least, most = ALLOWED[threads]
    for seconds in SECONDS:
        taken = threads_taken(call, seconds, busy)
        if least <= taken <= most:
            return
    said = f"every row of the table has {in_words(threads)}, {row} keeps {taken:.1f} cores busy"
    assert threads > 1, f"{said}: it starts threads, or calls a library that does"
    pytest.skip(said)


def in_words(threads):
    """Return the end of a group's name."""
    return f"{threads} thread" + "s" * (threads > 1)
