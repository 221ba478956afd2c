"""Fixtures of tests of networks."""

import numpy as np
import pytest
from support.layer_networks import INPUTS, OUTPUTS, ROWS


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, INPUTS)), rng.normal(size=(ROWS, OUTPUTS))
