"""The dtypes of numbers, and the products that `dtype="bfloat16"` computes of bfloat16 numbers.

Separate because the reference and the kernels both go by it, and by nothing else of one another's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
"""The dtypes that parameters, rows and gradients may have."""

DTYPES = tuple(dtype.name for dtype in FLOATS)
"""Their names."""

BFLOAT16 = "bfloat16"
"""What `fit(dtype=...)` calls it: float32's range with 8 bits of mantissa, for the operands of products."""


def is_bfloat16(dtype: Any) -> bool:
    """Return whether a dtype that somebody gives means it: the name, or a dtype of that name."""
    if isinstance(dtype, np.dtype) and dtype.itemsize != 2:  # its name takes 4 us
        return False
    return BFLOAT16 in (dtype, getattr(dtype, "name", None), getattr(dtype, "__name__", None))


LEAST_SIDE = 32
"""Inputs, and units, of the least layer that takes part: smaller ones do not fill a tile, and cost little."""


def takes_bfloat16(n_in: int, n_out: int) -> bool:
    """Return whether the three products of a layer (n_in, n_out) have operands in bfloat16."""
    return (n_in >= LEAST_SIDE) & (n_out >= LEAST_SIDE)  # the kernels compile it, too
