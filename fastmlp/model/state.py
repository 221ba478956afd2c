"""The state of a training, arrays and a step counter; and the dtypes of numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
"""The dtypes of parameters, rows and gradients."""

DTYPES = tuple(dtype.name for dtype in FLOATS)
"""The names of the dtypes."""

BFLOAT16 = "bfloat16"
"""The name in `fit(dtype=...)`: float32's range with 8 bits of mantissa, for the operands of products."""


def is_bfloat16(dtype: Any) -> bool:
    """Return True for the name "bfloat16", or a dtype with this name."""
    if isinstance(dtype, np.dtype) and dtype.itemsize != 2:  # its name takes 4 us
        return False
    return BFLOAT16 in (dtype, getattr(dtype, "name", None), getattr(dtype, "__name__", None))


LEAST_SIDE = 32
"""The least inputs, and units, of a layer in bfloat16: smaller layers do not fill a tile, and cost little."""


def takes_bfloat16(n_in: int, n_out: int) -> bool:
    """Return True if the three products of a layer (n_in, n_out) have operands in bfloat16."""
    return (n_in >= LEAST_SIDE) & (n_out >= LEAST_SIDE)  # the kernels compile it, too


_made = tuple.__new__


class TrainState(NamedTuple):
    """The whole state of training; the arrays are updated in place.

    parameters : (P,) floating, in the order of `fastmlp.model.layout`
    gradients : (P,) floating, of the last step; unchanged by a backend without a gradient array
    moments : (rows, P) floating, a row for each moment of the optimiser's rule, and 1 at least
    step : updates done so far
    threads : of the last updates
    """

    parameters: Array
    gradients: Array
    moments: Array
    step: int
    threads: int = 1

    def at(self, step: int, threads: int = 1) -> TrainState:
        """Return the same arrays with another number of updates."""
        # `_replace` takes four times as long.
        return _made(TrainState, (*self[:3], step, threads))


def initial_state(parameters: Array, moment_rows: int = 2, step: int = 0) -> TrainState:
    """Return the first state for `parameters`; the state takes over the array.

    moment_rows : rows in use by the optimiser; step : updates before
    """
    # np.zeros maps pages lazily, zeros_like does not: what no step touches costs no memory, as moments that
    # an optimiser has no use for, or gradients where the steps are taken on a draft.
    return TrainState(
        parameters,
        np.zeros(parameters.size, parameters.dtype),
        np.zeros((max(1, moment_rows), parameters.size), parameters.dtype),
        step,
    )
