"""What a program is told, in numbers: a network, an optimiser, where its buffers are, which thread it is.

Records of NumPy's where a program has many such numbers: compiled code takes one as an address, and a field
is a load, where a tuple is copied whole at every mention.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.rules import MOST_CONSTANTS

UNBOUNDED = float("inf")
"""The `clip_norm` of an optimiser that does not clip."""

LAYER = np.dtype(
    [
        *((name, np.int64) for name in ("n_in", "n_out", "weights", "biases", "end", "units", "activation")),
        ("dropout", np.float64),
    ],
    align=True,
)
"""A layer in numbers. A record: compiled code takes all layers as one array, and a field is a load.

n_in, n_out : its inputs and units
weights, biases, end : places in the flat vector (`fastmlp.model.layout`)
units : the place of its units in a row of the workspace
activation : a code; dropout : a probability, 0 for the last
"""


OBJECTIVE = np.dtype(
    [
        ("loss", np.int64),
        *((name, np.float64) for name in ("divisor", "value_divisor", "l1", "l2")),
        ("shared_penalty", np.bool_),
    ],
    align=True,
)
"""What training minimises, in numbers. The loss's parameters (n_out,), float64, follow it in memory.

loss : a code; its parameters : see `Network.loss_parameters`
divisor : what the summed loss is divided by for its derivative, beside the batch's weight
value_divisor : what the loss that is reported is divided by once more
l1, l2 : the penalties; shared_penalty : whether they are divided by the batch's weight
"""


def objective_of(parameters: NDArray[np.float64]) -> np.void:
    """Return an OBJECTIVE of zeros, which these parameters of its loss (n_out,) follow."""
    memory = np.zeros(OBJECTIVE.itemsize + parameters.nbytes, np.uint8)
    memory[OBJECTIVE.itemsize :] = parameters.view(np.uint8)
    record: np.void = memory[: OBJECTIVE.itemsize].view(OBJECTIVE)[0]
    return record


class Shape(NamedTuple):
    """A network in numbers.

    layers : (layers,) LAYER
    objective : an OBJECTIVE
    """

    layers: NDArray[Any]
    objective: np.void


RULE = np.dtype(
    [
        ("code", np.int64),
        ("clip_norm", np.float64),
        ("rate_factor", np.float64),
        ("constants", np.float64, (MOST_CONSTANTS + 1,)),
    ],
    align=True,
)
"""An optimiser in numbers, for one layer.

rate_factor : of the layer's rates; 0 freezes it
code : of its rule; constants : what the rule's formula is told, see `Optimizer.constants`
"""

PLACES = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("inputs", "targets", "weights", "logits", "activations", "dropped", "deltas"),
            *("scratch", "scratch_length", "slices", "slice_length", "private", "private_length"),
        )
    ],
    align=True,
)
"""Where the buffers for one batch begin in a workspace's memory; most are used layer after layer.

inputs (rows * n_in), targets (rows * n_out), weights (rows) : the gathered batch
logits, activations, dropped, deltas : (rows * units of all layers)
scratch : (workers, scratch_length), `buffers.scratch_length`, for the matmul slots' own use
slices : (workers, slice_length), `buffers.slice_length`, for gradients that are applied at once
private : (workers, private_length), `variant.Bound.private`, for what a program lays out itself
"""


class Workspace(NamedTuple):
    """What a program works in, allocated once a call.

    memory : (n,) floating, all buffers
    places : a PLACES
    sums : (rows,) float64, for partial sums of the loss
    """

    memory: NDArray[Any]
    places: np.void
    sums: NDArray[np.float64]


class Team(NamedTuple):
    """Which of the threads that run a program together this one is.

    worker, workers : int; barrier : see `fastmlp.kernels.runtime.threads`
    """

    worker: int
    workers: int
    barrier: NDArray[np.int64]
