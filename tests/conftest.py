"""Compiles on a second core, while the first tests run, what most of the others need."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastmlp.kernels.variant import usable_cores

MANY = 1000
"""Tests, of the 3800 that there are: fewer do not need every program."""

COMPILE = """
import numpy as np
from fastmlp import Network
from fastmlp.backend import registry
from fastmlp.cli.ahead import compile_ahead
from fastmlp.model.backend import Data

# The tests begin at the other end: whoever comes second finds the program in the disk cache.
for dtype in ("float64", "float32"):
    for name in reversed(registry.variants()):
        for _ in compile_ahead([name], [dtype]):
            pass
        data = Data(np.ones((1, 1), dtype), np.ones((1, 1), dtype), np.ones(1, dtype))
        registry.get(name).gradient(Network([1, 1]), np.ones(2, dtype), data, 0, 0, np.empty(2, dtype))
"""


@pytest.fixture(scope="session", autouse=True)
def _compiled_beside(request):
    if len(request.session.items) < MANY or usable_cores() < 2:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", COMPILE], stderr=subprocess.DEVNULL) as child:
        yield
        child.kill()
