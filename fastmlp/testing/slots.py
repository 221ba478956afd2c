"""The table of slots: for each the calls to try, the reference's results, and the largest error allowed.

Tests and benchmarks run every row against every variant. So a new slot, case or variant is a new test and a
new benchmark without another line. The reference computes the expected results in float64 from the same
inputs: a tolerance bounds the kernel's own rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp.testing.cases import Case, CaseMaker, Sizes
from fastmlp.testing.product_cases import PRODUCTS
from fastmlp.testing.unit_cases import STEPS, UNITS

AGREEMENT_SIZES = (
    Sizes(1, 1, 1),
    Sizes(4, 3, 2),
    Sizes(1, 17, 33),
    Sizes(1, 5, 150),
    Sizes(33, 10, 3),
    Sizes(40, 20, 2),
    Sizes(19, 100, 65),
    Sizes(64, 32, 16),
    Sizes(48, 130, 60),
)
"""One row, one unit, few units of many rows, sizes that are no multiple of a vector, more than one panel."""

PACKED = {"pack_always_rows": 32, "pack_delta_rows": 128}
"""Tuned constants: the last of these sizes has W and the deltas copied into panels, on every machine."""

BENCHMARK_SIZES = (Sizes(32, 30, 100), Sizes(128, 784, 128), Sizes(256, 256, 256), Sizes(128, 128, 10))


class Slot(NamedTuple):
    """A slot: its name, and what makes its cases; `fastmlp.kernels.variants.baseline` has its signature."""

    name: str
    make: CaseMaker

    def cases(self, rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
        """Yield calls of the slot on a batch and a layer of these sizes, with what the reference says."""
        for case in self.make(rng, dtype, sizes):
            yield case._replace(slot=self.name)


SLOTS = {name: Slot(name, make) for name, make in {**PRODUCTS, **UNITS, **STEPS}.items()}
