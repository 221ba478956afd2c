"""The cache and the disk that `backend="auto"` finds."""

import pytest

from fastmlp.backend import programs, registry
from fastmlp.backend.auto import Auto


@pytest.fixture
def place(empty_cache, monkeypatch, lane_programs):
    """A cache of the test's, with nothing in it, and no trainings before."""
    monkeypatch.setattr(programs, "seconds_lost", {})
    monkeypatch.setattr(programs, "compilers", {})
    lane_programs(about_seconds_of_a_network=lambda: 2.0)
    return empty_cache


@pytest.fixture
def on_disk(monkeypatch):
    """Names of backends whose machine code is said to be on the disk."""
    names = set()
    monkeypatch.setattr(Auto, "is_ready", lambda self, one: one.name in names)
    return names


@pytest.fixture
def no_files(monkeypatch):
    """A registry without registered files."""
    monkeypatch.setattr(registry, "registered", {})
