"""The agreement tests once more with Numba checking every index: no kernel goes beyond an array.

What register tiles read by raw pointers Numba does not check; test_guards.py does.
"""

import re
from pathlib import Path

import pytest
from support.processes import importing, python

from fastmlp.testing.slots import SLOTS

pytestmark = pytest.mark.slow  # everything compiles anew: a minute

TESTS = Path(__file__).parents[1]


def checking(*command, exit_code=0):
    """Run a process that checks bounds; return what it printed."""
    environment = {**importing(), "NUMBA_BOUNDSCHECK": "1"}
    return python(*command, cwd=TESTS.parent, exit_code=exit_code, **environment).stdout


PYTEST = "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not campaign"
SLOTS_AGREE = *PYTEST, TESTS / "kernels/test_slots.py"

TRAININGS_AGREE = """
import numpy as np
from support.trajectories import TRAININGS, check
for backend in ("baseline", "fused"):
    for name in TRAININGS:
        check(name, backend, np.float32)
"""


def test_no_slot_indexes_beyond_an_array(report_figure, request):
    given = [f"--variant={Path(path).resolve()}" for path in request.config.getoption("variant")]
    # In float32 alone, and without what one network's program is written as: Numba does not check that.
    said = checking(*SLOTS_AGREE, *given, "-k", "float32 and not specialized")
    ran = int(re.fullmatch(r"(\d+) passed, \d+ deselected in .*", said.splitlines()[-1])[1])
    assert ran >= 2 * len(SLOTS), "those of baseline and tiled; other variants share theirs"
    report_figure(f"{ran} slots under NUMBA_BOUNDSCHECK=1")


def test_no_training_indexes_beyond_an_array():
    checking("-c", TRAININGS_AGREE)


BEYOND = '''
"""Reads one number beyond each row of delta, which is there but for the last."""

from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline


def bias_gradient(delta, out):
    """out (n_out,) = the sum of delta (rows, n_out) over its rows."""
    out[:] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            out[j] += delta[i, j] + 0 * delta[i, j + 1]


VARIANT = Variant("beyond", baseline.VARIANT, {"bias_gradient": bias_gradient})
'''


def test_a_kernel_that_does_is_found(tmp_path):
    """It computes the right numbers, where those that it should not read are finite."""
    (tmp_path / "beyond.py").write_text(BEYOND)
    variant = f"--variant={tmp_path / 'beyond.py'}"
    failed = pytest.ExitCode.TESTS_FAILED
    said = checking(*SLOTS_AGREE, variant, "-k", "beyond and bias_gradient", exit_code=failed)
    assert "IndexError" in said
    assert re.search(r"\b2 failed\b", said)
    assert "passed" not in said.splitlines()[-1]
