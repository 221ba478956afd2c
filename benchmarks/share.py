"""The threads of a benchmark's row: each is given the same number, and one that takes another fails."""

import time

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
    while time.perf_counter() - began < LEAST_SECONDS:
        call()
    return (time.process_time() - process) / (time.thread_time() - own)


def check_threads(call, threads):
    """Raise AssertionError if call() keeps other than `threads` threads busy."""
    least, most = ALLOWED[threads]
    taken = threads_taken(call)
    reason = ": it starts threads of its own, or calls a library that does" * (taken > most)
    assert least <= taken <= most, (
        f"every row of the table has {in_words(threads)}, this takes {taken:.1f}{reason}"
    )


def in_words(threads):
    """Return the end of a group's name."""
    return f"{threads} thread" + "s" * (threads > 1)
