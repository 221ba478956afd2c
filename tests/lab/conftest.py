"""Fixtures of the kernel lab's tests."""

import pytest
from support.lab_results import WRONG

from fastmlp.lab import steps


@pytest.fixture
def wrong_variant(tmp_path):
    path = tmp_path / "lab_wrong.py"
    path.write_text(WRONG)
    return path


@pytest.fixture(autouse=True)
def _short_epochs(monkeypatch):
    """Epochs that are timed have few steps: the tests ask what is measured, not how exactly."""
    monkeypatch.setattr(steps, "MOST_STEPS", 10 * steps.AGREED_STEPS)
