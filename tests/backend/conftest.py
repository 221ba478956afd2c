"""The cache and the disk that `backend="auto"` finds."""

from __future__ import annotations

import pytest

from fastmlp.backend import programs, registry
from fastmlp.backend.auto import Auto
from fastmlp.kernels.jit import store


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache of the test's, with nothing in it, and no trainings before."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(programs, "seconds_lost", {})
    monkeypatch.setattr(programs, "compilers", {})
    monkeypatch.setattr(programs, "about_seconds_of_a_network", lambda: 2.0)
    monkeypatch.setattr(store, "known_names", {})
    return tmp_path / "fastmlp"


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
