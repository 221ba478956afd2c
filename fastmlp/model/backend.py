"""The contract between the trainer and whatever computes: a few functions, no hidden state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.byte_rows import ByteRows
from fastmlp.model.network import Network
from fastmlp.model.sparse import Inputs
from fastmlp.model.state import TrainState

Array = NDArray[Any]


class Data(NamedTuple):
    """Rows to learn from, C-contiguous and of one floating dtype, finite, never written.

    inputs : (rows, n_in), an array, `SparseRows` or `ByteRows`
    targets : (rows, n_out); one-hot or probabilities for cross_entropy
    weights : (rows,), at least 0
    """

    inputs: Inputs | ByteRows
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


class Shared(NamedTuple):
    """What steps need that several processes take together (`fastmlp.distributed`), each with its rows.

    A chunk has this process's rows then, of some steps perhaps none, and the weights of whole batches.

    places : (visits,) int64, where each visited row stands in its batch; dropout masks go by that
    add : add(s, first, last) begins to replace numbers [first, last) of the state's gradients by their sums
        over all processes, in the chunk's step s; it is called for one range after another, and returns from
        the last when all of them are sums
    together : how many numbers it shall get at a time, at least
    rows : of a batch that are here on the average, which decides over threads
    touched : (n_in,) bool, which columns any process's rows of the batch have a number in, once all are sums;
        None where the optimiser does not go by that
    """

    places: NDArray[np.int64]
    add: Callable[[int, int, int], None]
    together: int
    rows: int
    touched: NDArray[np.bool_] | None = None


Predict = Callable[[Network, Array, Inputs, Array], None]
Evaluate = Callable[[Network, Array, Data], float]
Gradient = Callable[[Network, Array, Data, int, int, Array], float]
Update = Callable[..., TrainState]
TrainChunk = Callable[..., TrainState]


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

    Inputs are arrays or `SparseRows`, and those of `Data` may be `ByteRows`: every backend takes all of them.
    An exact one makes the same bits of each.

    predict(network, parameters, inputs, out)
        Write the network's output for inputs (rows, n_in) to out (rows, n_out).
    evaluate(network, parameters, data)
        Return the loss over all rows of data, without dropout and penalties.
    gradient(network, parameters, data, key, step, gradients)
        Write the gradient of the objective over all rows of data to gradients (P,) and return
        the objective before the update: loss plus penalties. key and step choose the dropout masks.
    update(network, optimizer, state, rate, bias_rate, touched=None)
        Apply state.gradients (which clipping may scale); return the state with its step advanced. touched
        (n_in,) says which columns of the inputs have a number other than 0, for an optimiser whose rule goes
        by that (`Rule.touched_only`); None says all.
    train_chunk(network, optimizer, state, data, chunk, key, threads, losses, shared=None)
        Take the chunk's steps, write each one's objective to losses (steps,) float64, and return
        the state with its step advanced. With a `Shared` a step is that along the sum of all processes'
        gradients, and an objective this one's share of the batch's, with all of the penalties: they add up
        to the batch's where one process alone has a network with penalties.
    """

    name: str
    predict: Predict
    evaluate: Evaluate
    gradient: Gradient
    update: Update
    train_chunk: TrainChunk
