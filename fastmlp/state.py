"""What changes while a network trains: flat arrays of one dtype, and a step counter."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class TrainState(NamedTuple):
    """The whole state of training; the arrays are updated in place.

    parameters : (P,) floating, laid out as `fastmlp.layout` says
    gradients : (P,) floating, of the last step; a backend that never forms them leaves it as it is
    moments : (2, P) floating; SGD keeps its velocity in row 0, RMSprop the mean square in row 0
        and its momentum in row 1, Adam the first moment in row 0 and the second in row 1
    step : updates done so far
    """

    parameters: Array
    gradients: Array
    moments: Array
    step: int


def initial_state(parameters: Array) -> TrainState:
    """Return the state that starts from `parameters`, which it owns from then on."""
    # np.zeros maps pages lazily: moments that an optimiser never touches cost no memory.
    return TrainState(
        parameters,
        np.zeros_like(parameters),
        np.zeros((2, parameters.size), parameters.dtype),
        0,
    )
