"""The reference rounds float32 numbers to bfloat16: to nearest, ties to even."""

import numpy as np
import pytest

from fastmlp.backend.reference import bfloat16

F4 = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("number", "rounded"),
    [
        (1.0, 1.0),
        (1 + 2**-8, 1.0),  # a tie, to even
        (1 + 3 * 2**-8, 1 + 2**-6),  # a tie, to even
        (1 + 2**-8 + 2**-20, 1 + 2**-7),
        (-(1 + 2**-8 - 2**-20), -1.0),
        (0.0, 0.0),
        (3.4e38, np.inf),
        (np.inf, np.inf),
    ],
)
def test_the_reference_rounds_to_nearest_and_ties_to_even(number, rounded):
    assert bfloat16(np.array([number], F4))[0] == F4.type(rounded)


def test_the_reference_keeps_what_is_not_a_number():
    assert np.isnan(bfloat16(np.array([np.nan], F4))[0])


def test_rounding_loses_half_of_the_last_bit_at_most():
    x = np.random.default_rng(0).standard_normal(10_000).astype(F4) * F4.type(1e3)
    assert (np.abs(bfloat16(x) - x) <= 2.0**-9 * 2.0 ** np.ceil(np.log2(np.abs(x)))).all()
