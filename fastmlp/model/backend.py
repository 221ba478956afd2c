"""The contract between the trainer and whatever computes: a few functions, no hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.sparse import Inputs
from fastmlp.model.state import TrainState

Array = NDArray[Any]


class Data(NamedTuple):
    """Rows to learn from, C-contiguous and of one floating dtype, finite, never written.

    inputs : (rows, n_in), an array or `SparseRows`
    targets : (rows, n_out); one-hot or probabilities for cross_entropy
    weights : (rows,), at least 0
    """

    inputs: Inputs
    targets: Array
    weights: Array

    def take(self, rows: slice | NDArray[np.int64]) -> Data:
        """Return some rows: of a slice views, of places (n,) copies."""
        return Data(self.inputs[rows], self.targets[rows], self.weights[rows])


class Chunk(NamedTuple):
    """Steps to take without coming back: step s visits rows order[starts[s]:stops[s]].

    Kernels know nothing of epochs; a chunk may be a part of one or span many.

    order : (visits,) int64
    starts, stops : (steps,) int64
    totals : (steps,) float64, the sums of the visited rows' weights
    rates : (steps, 2) float64, the learning rates of weights and of biases
    batch_size : rows of the training's full batches, which this chunk need not contain: results
        may depend on it and must not depend on where chunks end
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    totals: NDArray[np.float64]
    rates: NDArray[np.float64]
    batch_size: int

    def part(self, start: int, stop: int) -> Chunk:
        """Return the chunk of steps [start, stop)."""
        steps = slice(start, stop)
        return self._replace(
            starts=self.starts[steps],
            stops=self.stops[steps],
            totals=self.totals[steps],
            rates=self.rates[steps],
        )


class Part(NamedTuple):
    """What rows are a part of: a batch whose other rows are in other processes (`fastmlp.distributed`).

    places : (rows,) int64, where each stands in the batch; dropout masks go by that
    total : the sum of the weights of the whole batch
    """

    places: NDArray[np.int64]
    total: float


Predict = Callable[[Network, Array, Inputs, Array], None]
Evaluate = Callable[[Network, Array, Data], float]
Gradient = Callable[..., float]
Update = Callable[..., TrainState]
TrainChunk = Callable[
    [Network, Optimizer, TrainState, Data, Chunk, int, int | None, NDArray[np.float64]], TrainState
]


def loss_in_parts(weights: Array, parts: Iterable[slice], loss_of: Callable[[slice], float]) -> float:
    """Return the loss over all rows from that of each part, `loss_of(rows)`, by the parts' weights (rows,).

    No part overflows whose mean does not, and rows that weigh nothing are not asked for.
    """
    total = float(weights.sum(dtype=np.float64))
    loss = 0.0
    for rows in parts:
        if counts := float(weights[rows].sum(dtype=np.float64)):
            loss += counts / total * loss_of(rows)
    return loss


class Backend(NamedTuple):
    """What a backend does. All arrays are C-contiguous and of one dtype, float32 or float64.

    Inputs are arrays or `SparseRows`, which every backend takes. An exact one makes the same bits of both.

    predict(network, parameters, inputs, out)
        Write the network's output for inputs (rows, n_in) to out (rows, n_out).
    evaluate(network, parameters, data)
        Return the loss over all rows of data, without dropout and penalties.
    gradient(network, parameters, data, key, step, gradients, part=None, threads=1)
        Write the gradient of the objective over all rows of data to gradients (P,) and return
        the objective before the update: loss plus penalties. key and step choose the dropout masks.
        With a `Part`, the rows' share of the whole batch's loss, with all of the penalties: the shares of
        all parts add up to the batch's, where one of them alone has a network with penalties.
    update(network, optimizer, state, rate, bias_rate, touched=None)
        Apply state.gradients (which clipping may scale); return the state with its step advanced. touched
        (n_in,) says which columns of the inputs have a number other than 0, for an optimiser whose rule goes
        by that (`Rule.touched_only`); None says all.
    train_chunk(network, optimizer, state, data, chunk, key, threads, losses)
        Take the chunk's steps, write each one's objective to losses (steps,) float64, and return
        the state with its step advanced.
    """

    name: str
    predict: Predict
    evaluate: Evaluate
    gradient: Gradient
    update: Update
    train_chunk: TrainChunk
