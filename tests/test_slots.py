"""Every slot of every variant against the reference: one table, no lists of exceptions."""

from __future__ import annotations

import numpy as np
import pytest

from fastmlp.kernels.bind import slot
from fastmlp.registry import variants
from fastmlp.slots import AGREEMENT_SIZES, SLOTS


def test_the_table_has_every_slot_of_the_baseline():
    assert set(SLOTS) == set(variants()["baseline"].slots)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SLOTS)
@pytest.mark.parametrize("variant", variants())
def test_slot_agrees_with_the_reference(variant, name, dtype):
    kernel = slot(variants()[variant], name)
    for sizes in AGREEMENT_SIZES:
        for case in SLOTS[name].cases(np.random.default_rng(0), np.dtype(dtype), sizes):
            arguments = case.fresh()
            returned = kernel(*arguments)
            try:
                case.check(arguments, returned)
            except AssertionError as error:
                raise AssertionError(f"{variant}.{name} {case.label} {sizes}: {error}") from None
