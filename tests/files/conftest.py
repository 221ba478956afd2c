"""Where a test writes its file."""

import pytest


@pytest.fixture
def path(tmp_path):
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk" / "checkpoint.npz"
