"""The cache, the disk and the background processes that `backend="auto"` finds."""

from __future__ import annotations

import pytest

from fastmlp.backend import auto
from fastmlp.backend.auto import Auto
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.spent import spent
from fastmlp.system import background


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache of the test's, with nothing in it."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FASTMLP_BACKGROUND", "1")
    monkeypatch.setattr(auto, "recent_requests", {})
    for kept in (store.names, spent):
        kept.cache_clear()
    yield tmp_path / "fastmlp"
    for kept in (store.names, spent):
        kept.cache_clear()


@pytest.fixture
def requested(monkeypatch):
    """What background processes are requested to do."""
    requests = []
    monkeypatch.setattr(background, "is_possible", lambda: True)
    monkeypatch.setattr(background, "request", lambda place, name, *call: requests.append(call) or True)
    return requests


@pytest.fixture
def on_disk(monkeypatch):
    """Names of backends whose machine code is said to be on the disk."""
    names = set()
    monkeypatch.setattr(Auto, "is_ready", lambda self, one: one.name in names)
    return names
