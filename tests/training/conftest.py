"""Fixtures of tests of trainings."""

import pytest
from support.selection import FEW, matrix

from fastmlp.backend import registry


@pytest.fixture(
    params=[pytest.param(FEW[:2], id="few"), pytest.param(registry.backends(), marks=matrix, id="all")]
)
def backends(request):
    """Those that a row is tried on: what most rows try comes before any of them."""
    return request.param
