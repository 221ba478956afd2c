"""The contract between the trainer and a backend: a few functions, no hidden state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.inputs import sparse_columns
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import ByteRows, Inputs, SparseRows
from fastmlp.model.state import TrainState, initial_state

Array = NDArray[Any]


class Data(NamedTuple):
    """Training rows, C-contiguous, of a single floating dtype, finite, never written.

    inputs : (rows, n_in), an array, `SparseRows` or `ByteRows`
    targets : (rows, n_out); one-hot or probabilities for cross_entropy
    weights : (rows,), at least 0
    """

    inputs: Inputs | ByteRows
    targets: Array
    weights: Array

    def take(self, rows: slice | NDArray[np.int64]) -> Data:
        """Return some rows: views for a slice, copies for indices (n,)."""
        return Data(self.inputs[rows], self.targets[rows], self.weights[rows])


PredictArguments = tuple[Network, Array, Inputs, Array]
"""The arguments of `Backend.predict`; the last array is written."""


def empty_losses(network: Network, steps: int) -> NDArray[np.float64]:
    """Return an uninitialised array for objectives of steps: (steps,), or (1 + heads, steps)."""
    return np.empty((1 + len(network.heads), steps) if network.heads else steps)


class Batch(NamedTuple):
    """Buffers for a batch of up to R rows, at fixed addresses.

    inputs, targets, weights : (R, n_in), (R, n_out), (R,), as in `Data`
    outputs : (R, n_out), of the network, written
    by_outputs : (R, n_out), the derivative of a loss by the outputs
    by_inputs : (R, n_in), the derivative by the inputs, written
    """

    inputs: Array
    targets: Array
    weights: Array
    outputs: Array
    by_outputs: Array
    by_inputs: Array

    @classmethod
    def of(cls, rows: int, n_in: int, n_out: int, dtype: np.dtype[Any]) -> Batch:
        """Return buffers for so many rows, with weights of 1."""
        shapes = (rows, n_in), (rows, n_out), (rows,), (rows, n_out), (rows, n_out), (rows, n_in)
        batch = cls(*(np.empty(shape, dtype) for shape in shapes))
        batch.weights[...] = 1
        return batch


class Chunk(NamedTuple):
    """Steps for a single call of a backend: step s visits rows order[starts[s]:stops[s]].

    Kernels do not know epochs; a chunk may be a part of an epoch or span many.

    order : (visits,) int64
    starts, stops : (steps,) int64
    totals : (steps,) float64, the sums of the visited rows' weights
    rates : (steps, 2) float64, the learning rates of weights and of biases
    most_rows : the most rows of a step of the training, perhaps in another chunk. Results may depend on this
        number, and must not depend on the ends of chunks
    head_totals : (heads, steps) float64, the same sums of `Network.head_weights`; None without heads
    microbatch : rows of a step per gradient, and gradients are summed: most_rows is of a microbatch then. A
        single last row joins the rows before where a network needs batches. 0 for all rows at once
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    totals: NDArray[np.float64]
    rates: NDArray[np.float64]
    most_rows: int
    head_totals: NDArray[np.float64] | None = None
    microbatch: int = 0

    def part(self, start: int, stop: int) -> Chunk:
        """Return the chunk of steps [start, stop)."""
        steps = slice(start, stop)
        return self._replace(
            starts=self.starts[steps],
            stops=self.stops[steps],
            totals=self.totals[steps],
            rates=self.rates[steps],
            head_totals=None if self.head_totals is None else self.head_totals[:, steps].copy(),
        )


DRY_ROWS = 4096
"""Most rows of a step of `dry_run`: enough for every way to form a product."""


def dry_run(
    network: Network, optimizer: Optimizer, dtype: Any, rows: Sequence[int], batch_size: int | None = None
) -> tuple[TrainState, Data, Chunk]:
    """Return a state, rows of ones, and steps at rates of 0, for compiling all code of a training.

    rows : of each step; batch_size : of the training, if larger
    """
    stops, steps = np.minimum(rows, DRY_ROWS), len(rows)
    most, once = int(stops.max()), np.zeros(steps, np.int64)
    n_sparse = sparse_columns(network.blocks)
    shapes = (most, network.n_in - n_sparse), (most, network.n_out), (most,)
    dense, targets, weights = (np.ones(shape, dtype) for shape in shapes)
    inputs: Inputs = dense
    if n_sparse:  # a number in the first of the sparse columns
        numbers = np.arange(most + 1), np.zeros(most, np.int32), weights
        inputs = SparseRows(*numbers, n_sparse, dense)
    data = Data(inputs, targets, weights)
    totals = stops.astype(np.float64)
    by_head = np.tile(totals, (len(network.heads), 1)) if network.heads else None
    chunk = Chunk(np.arange(most), once, stops, totals, np.zeros((steps, 2)), batch_size or most, by_head)
    state = initial_state(np.zeros(parameter_count(network), dtype), optimizer.moment_rows)
    return state, data, chunk


class Shared(NamedTuple):
    """The exchange of a step between processes (`fastmlp.distributed`).

    A chunk has this process's rows, perhaps none for some steps, and the weights of whole batches.

    positions : (visits,) int64, of each visited row in the whole batch, for dropout masks
    add : add(s, first, last) begins to replace numbers [first, last) of the state's gradients by sums over
        all processes, in the chunk's step s. Called for range after range; the last call returns when all
        ranges are sums
    together : the least count of numbers in a call of `add`
    rows : the average rows of a batch in this process, for the choice of threads
    total : total(numbers) replaces an array by sums over all processes and returns the array: for steps with
        sums over a batch in the middle
    batch_rows : (steps,) int64, rows of whole batches
    leads : True in the process with the common part of the gradient, as penalties
    nonzero_columns : (n_in,) bool, the columns with a number in any process's rows of the batch, set once all
        ranges are sums; None where the optimiser moves all rows
    row_marks : (rows of all tables of categories,) int32, 0 at first; a step marks the rows in this process's
        batch, and `add` sums the marks, too; None where all rows move
    """

    positions: NDArray[np.int64]
    add: Callable[[int, int, int], None]
    together: int
    rows: int
    total: Callable[[Array], Array]
    batch_rows: NDArray[np.int64]
    leads: bool
    nonzero_columns: NDArray[np.bool_] | None = None
    row_marks: NDArray[np.int32] | None = None


Predict = Callable[[Network, Array, Inputs, Array], None]
Evaluate = Callable[[Network, Array, Data], Any]
Gradient = Callable[[Network, Array, Data, int, int, Array], float]
TrainChunk = Callable[..., TrainState]


def step_totals(weights: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sums of weights (.., rows) over a step's rows, at least one row, with a chunk's bits."""
    # `np.sum` adds in another order.
    sums: NDArray[np.float64] = np.add.reduceat(weights.astype(np.float64, copy=False), (0,), axis=-1)
    return sums[..., 0]


def counts_of(network: Network, data: Data) -> NDArray[np.float64]:
    """Return the rows' total weight in the means of the heads' losses (heads,), or of the only loss (1,)."""
    if network.heads:
        return network.head_totals(data.targets, data.weights)
    return data.weights.sum(dtype=np.float64, keepdims=True)


def losses_of_part(counts: Array, totals: Array, loss: Any) -> Array:
    """Return a part's terms in the losses of all rows, (1,) or (heads,); no part overflows alone.

    counts, totals : `counts_of` the part and of all rows; loss : the return value of `Backend.evaluate` for
        the part
    """
    fractions: Array = np.divide(counts, totals, out=np.zeros(len(counts)), where=counts > 0)
    return fractions * np.atleast_1d(loss)[-len(counts) :]


def evaluated(network: Network, losses: Array) -> Any:
    """Return losses (1,) or (heads,) in the form of `Backend.evaluate`, with the sum of heads first."""
    if not network.heads:
        return float(losses[0])
    return np.array([network.sum_of_heads(losses), *losses])


class Backend(NamedTuple):
    """The functions of a backend. All arrays are C-contiguous and of a single dtype, float32 or float64.

    Every backend takes inputs as arrays or `SparseRows`, and in `Data` as `ByteRows`. An exact backend gives
    equal bits for each form.

    predict(network, parameters, inputs, out)
        Write the network's output for inputs (rows, n_in) to out (rows, n_out).
    evaluate(network, parameters, data)
        Return the loss over all rows of data, without dropout and penalties; for a network with heads an
        array (1 + heads,), the loss and the losses of the heads.
    gradient(network, parameters, data, key, step, gradients)
        Write the gradient of the objective over all rows of data to gradients (P,) and return the objective
        before the update: loss plus penalties. key and step choose the dropout masks.
    train_chunk(network, optimizer, state, data, chunk, key, threads, losses, shared=None)
        Take the chunk's steps, write each step's objective to losses (steps,) float64, and return the state
        after the last step. With heads losses is (1 + heads, steps), each head's loss below. With a `Shared`
        a step goes along the sum of all processes' gradients, and an objective is this process's part of the
        batch's objective, with all penalties: the parts add up to the batch's objective if a single process
        has a network with penalties.
    """

    name: str
    predict: Predict
    evaluate: Evaluate
    gradient: Gradient
    train_chunk: TrainChunk
    bind: Callable[..., Callable[..., float]] | None = None

    def bound(self, network: Network, parameters: Array, data: Data, gradients: Array) -> Callable[[], float]:
        """Return `gradient` of arrays that stay where they are, without dropout, as a function of nothing.

        It reads what is in parameters when it is called. A call of `gradient` takes 20 us to be checked and
        prepared, longer than the gradient of a small network.
        """
        if self.bind is not None:
            return self.bind(network, parameters, data, gradients)

        def objective() -> float:
            return float(np.ravel(self.gradient(network, parameters, data, 0, 0, gradients))[0])

        return objective
