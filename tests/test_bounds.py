"""The agreement tests once more with Numba checking every index: no kernel goes beyond an array.

What register tiles read by raw pointers Numba does not check; test_guards.py does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from problems import COMPILED_DTYPES
from trajectories import TRAININGS

from fastmlp.backend.registry import variants
from fastmlp.testing.slots import SLOTS

pytestmark = pytest.mark.slow  # everything compiles anew: three minutes

TESTS = Path(__file__).parent


def agreement(tmp_path, *arguments):
    """Run agreement tests in a process that checks bounds; return how it ended and what it printed."""
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "FASTMLP_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    return done.returncode, done.stdout


def test_no_agreement_test_indexes_beyond_an_array(tmp_path, told, request):
    given = [f"--variant={Path(path).resolve()}" for path in request.config.getoption("variant")]
    code, said = agreement(tmp_path, *given, TESTS / "test_slots.py", TESTS / "test_trajectories.py")
    assert code == 0, said
    ran = int(re.fullmatch(r"(\d+) passed in .*", said.splitlines()[-1])[1])
    assert ran >= len(variants()) * len(COMPILED_DTYPES) * (len(SLOTS) + len(TRAININGS))
    told(f"{ran} agreement tests under NUMBA_BOUNDSCHECK=1")


BEYOND = '''
"""Reads one number beyond each row of delta, which is there but for the last."""

from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline


def bias_gradient(delta, out):
    """out (n_out,) = the sum of delta (rows, n_out) over its rows."""
    rows, units = delta.shape
    out[:] = 0
    for i in range(rows):
        for j in range(units + 1):
            if j < units:
                out[j] += delta[i, j]
            else:
                out[0] += 0 * delta[i, j]


VARIANT = Variant("beyond", baseline.VARIANT, {"bias_gradient": bias_gradient})
'''


def test_a_kernel_that_does_is_found(tmp_path):
    """It computes the right numbers, where those that it should not read are finite."""
    (tmp_path / "beyond.py").write_text(BEYOND)
    variant = f"--variant={tmp_path / 'beyond.py'}"
    code, said = agreement(tmp_path, variant, "-k", "beyond and bias_gradient", TESTS / "test_slots.py")
    assert code == 1, said
    assert "IndexError" in said
    assert re.search(r"\b2 failed\b", said)
    assert "passed" not in said.splitlines()[-1]
