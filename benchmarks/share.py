"""The threads of a benchmark's row: each is given the same number; one that takes another is not shown."""

import time

import pytest

LEAST_SECONDS = 0.02
"""The least seconds of calls: the system counts a running thread's time by ticks of some milliseconds."""

ALLOWED = {1: (0.0, 1.2), 2: (1.25, 2.5)}
"""Least and most that calls may take of so many threads; two do not divide a step quite evenly."""


def threads_taken(call):
    """Return how many threads call() keeps busy: CPU time of the process over that of this thread.

    Both grow only while their threads run, so that other processes on the cores change little.
    """
    began = time.perf_counter()
    process, own = time.process_time(), time.thread_time()
    while time.perf_counter() - began < LEAST_SECONDS or time.thread_time() == own:
        call()
    return (time.process_time() - process) / (time.thread_time() - own)


def check_threads(call, threads, row="this"):
    """Skip a test whose call() keeps other than `threads` threads busy.

    The number varies where other programs have the cores: a training takes fewer threads then, and a worker
    spins while another one waits for a core. AssertionError if one thread is exceeded: only threads that the
    call starts do that.
    """
    least, most = ALLOWED[threads]
    taken = threads_taken(call)
    said = f"every row of the table has {in_words(threads)}, {row} takes {taken:.1f}"
    assert threads > 1 or taken <= most, f"{said}: it starts threads, or calls a library that does"
    if not least <= taken <= most:
        pytest.skip(said)


def in_words(threads):
    """Return the end of a group's name."""
    return f"{threads} thread" + "s" * (threads > 1)
