"""Rows in a file, for tests of blocks."""

import numpy as np
import pytest
from support.blocks import PIXELS


@pytest.fixture
def pixels(tmp_path):
    """A memory map of bytes."""
    PIXELS.tofile(tmp_path / "pixels")
    return np.memmap(tmp_path / "pixels", np.uint8, "r", shape=PIXELS.shape)
