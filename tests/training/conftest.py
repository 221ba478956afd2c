"""Fixtures of tests of trainings."""

import numpy as np
import pytest
from support.blocks import PIXELS
from support.selection import FEW, matrix

from fastmlp.backend import registry
from fastmlp.data.seeding import RowOrders


@pytest.fixture
def pixels(tmp_path):
    """A memory map of bytes."""
    PIXELS.tofile(tmp_path / "pixels")
    return np.memmap(tmp_path / "pixels", np.uint8, "r", shape=PIXELS.shape)


@pytest.fixture
def drawn(monkeypatch):
    """The epochs whose orders are drawn, each with the number of the window."""
    found = []

    class Spy(RowOrders):
        def draw(self, epoch, out, window=0):
            found.extend((epoch + place, window) for place in range(len(out)))
            super().draw(epoch, out, window)

    monkeypatch.setattr("fastmlp.training.prepared.RowOrders", Spy)
    return found


@pytest.fixture(
    params=[pytest.param(FEW[:2], id="few"), pytest.param(registry.backends(), marks=matrix, id="all")]
)
def backends(request):
    """Those that a row is tried on: what most rows try comes before any of them."""
    return request.param
