"""A clock that a test moves, and backends that compile for as long as it says."""

import sys
import types

import pytest
from support.auto_choice import have_chosen

from fastmlp.backend import reference
from fastmlp.system import compiling as clock
from fastmlp.system import notices
from fastmlp.system.compiling import compiling


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, which only the test moves: whole ones, of which sums and differences are exact."""
    time = types.SimpleNamespace(seconds=0.0, perf_counter=lambda: time.seconds, time=lambda: time.seconds)
    monkeypatch.setattr(clock, "time", time)
    monkeypatch.setattr(clock.total, "counted", (0.0, None))  # what this process has compiled is not whole
    monkeypatch.setattr(clock.total, "unsaid", None)
    return time


@pytest.fixture
def stderr(monkeypatch):
    """What puts a stream in the place of stderr for the test."""
    return lambda stream: monkeypatch.setattr(sys, "stderr", stream)


@pytest.fixture
def silence():
    """What silences notices for the test."""
    yield lambda: notices.silence(True)
    notices.silence(False)


@pytest.fixture
def compiles(monkeypatch, now):
    """Return what makes a backend that takes a second for a chunk, and compiles for 100 s in some of them."""

    def make(*chunks, seconds=1.0):
        sizes = []

        def train_chunk(network, optimizer, state, data, chunk, *others):
            if len(sizes) in chunks:
                with compiling("a program", 7, "this happens once"):
                    now.seconds += 100
            sizes.append(len(chunk.starts))
            now.seconds += seconds
            return reference.BACKEND.train_chunk(network, optimizer, state, data, chunk, *others)

        backend = reference.BACKEND._replace(train_chunk=train_chunk)
        have_chosen(monkeypatch, backend)
        return sizes

    return make
