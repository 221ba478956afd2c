"""The peak that shares are of: a clock that is late for a moment does not move it."""

from __future__ import annotations

import hashlib
import threading
import time
from functools import partial

import pytest

pytest.importorskip("rich")

from fastmlp.lab import peak

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
