"""The call record, all that a program gets: a network, an optimiser, rows, steps, as numbers and addresses.

A program takes one address, that of a call. A call is an array of 64-bit words in the order of `WORDS`. Each
is the address of an array or a whole number. Compiled code reads them as attributes
(`fastmlp.kernels.program.call_record`).
"""

from __future__ import annotations

import array
from ctypes import addressof
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.custom import MOST_NUMBERS
from fastmlp.model.layout import first_byte
from fastmlp.model.operations import Table
from fastmlp.model.rules import ROOM_FOR_CONSTANTS

SLICE_ROWS = 8
"""The fewest rows of weights in a slice of the gradient."""

APART = 128
"""Bytes between what two workers write: two cache lines, because processors fetch lines in pairs."""

FAN_IN, MOST_GROUPS = 8, 64
"""The most workers that meet at one place of a barrier; the most groups that a larger number forms."""

ARRIVED, SLEEPERS, GENERATION, PLACE = 0, 1, APART // 8, 2 * APART // 8
"""Words of a meeting place: those that count arrivals and sleepers, the one that workers wait on, the length.

The first place of a barrier is the root.
"""

CLOSED = -(1 << 30)
"""The generation of a place where nobody waits any more; elsewhere none is negative, nor its lower half."""

ABANDONED, BARRIER = (1 + MOST_GROUPS) * PLACE, (1 + MOST_GROUPS) * PLACE + APART // 8
"""Words of a barrier's array: one that is 0 until something fails, and then ends the steps; the length."""

UNSUMMED = ABANDONED + 1
"""Word of a barrier's array that worker 0 alone uses, in `weight_templates.sum_over_ranks`."""

ORTHOGONAL, NESTEROV = 1, 2
"""What a step of orthogonal matrices starts from: the momentum, or Nesterov's."""

UNBOUNDED = float("inf")
"""The `clip_norm` of an optimiser that does not clip."""

OPERATION = np.dtype(
    [
        *((name, np.int64) for name in ("kind", "source", "other", "n_in", "n_out")),
        *(
            (name, np.int64)
            for name in ("weights", "biases", "trained", "end", "units", "kept", "kept_units", "activation")
        ),
        *(
            (name, np.int64)
            for name in ("adds", "adds_other", "gates", "gated", "trains_bias", "gives_logits", "is_block")
        ),
        *((name, np.int64) for name in ("columns", "tables", "by_column", "touched_only")),
        *((name, np.int64) for name in ("column", "sparse_in", "subrows", "second", "width")),
        *((name, np.int64) for name in ("joined", "run", "in_run", "sums", "curvature")),
        *((name, np.float64) for name in ("dropout", "l1", "l2", "epsilon", "momentum")),
        ("numbers", np.float64, (MOST_NUMBERS,)),
    ],
    align=True,
)
"""An operation in numbers. A record: compiled code takes all operations as one array, and a field is a load.

kind, activation : codes; source, other : the operations that it reads, -1 for the inputs and for none
adds, adds_other : as `adds` of `fastmlp.model.operations.Operation`, as are the other fields
gives_logits : whether a loss reads its logits, the network's or a head's
width : the numbers of a row of its output
run : of the last of a run how many operations it has, else 0
curvature : the code of an activation's slope, whose own slope is the second derivative; 0 where nobody asks
epsilon, momentum : of a batch norm; numbers : the hyperparameters of a formula of a row, NaN for the dtype's
epsilon
tables : how many it has; touched_only : whether a step moves only rows of these that a batch has
"""


TABLE = np.dtype([(name, np.int64) for name in Table._fields])
"""The rows of units of a column of codes in numbers, as `fastmlp.model.operations.Table`."""


OBJECTIVE = np.dtype(
    [
        ("loss", np.int64),
        *((name, np.float64) for name in ("divisor", "value_divisor", "l1", "l2")),
        ("shared_penalty", np.bool_),
        ("penalises", np.bool_),
    ],
    align=True,
)
"""What training minimises, in numbers. The loss's parameters (n_out,), float64, follow it in memory.

loss : a code; its parameters : see `Objective.loss_parameters`
divisor : for the derivative the summed loss is divided by this and by the batch's weight
value_divisor : the reported loss is divided by this in addition
l1, l2 : the penalties of a chain; shared_penalty : whether they are divided by the batch's weight
penalises : whether any weights have one
"""


HEAD = np.dtype(
    [
        *((name, np.int64) for name in ("operation", "column", "units", "loss", "output")),
        *((name, np.int64) for name in ("by_row", "missing", "weighted")),
        *((name, np.float64) for name in ("weight", "divisor", "value_divisor")),
    ],
    align=True,
)
"""A head in numbers: see `fastmlp.model.heads.Head`.

operation : that has its logits; column : its first among all outputs and targets; loss, output : codes
weighted : whether units have weights
"""


def objective_of(parameters: NDArray[np.float64]) -> np.void:
    """Return an OBJECTIVE of zeros, with its loss's parameters (n_out,) after it in memory."""
    memory = np.zeros(OBJECTIVE.itemsize + parameters.nbytes, np.uint8)
    memory[OBJECTIVE.itemsize :] = parameters.view(np.uint8)
    record: np.void = memory[: OBJECTIVE.itemsize].view(OBJECTIVE)[0]
    return record


class Shape(NamedTuple):
    """A network in numbers.

    operations : (depth,) OPERATION
    objective : an OBJECTIVE
    heads : (n_heads,) HEAD
    head_numbers : (2, n_out) float64, the parameters of their losses, and the weights of their units
    tables : (columns,) TABLE, of each column of codes
    words : a call's words of the network, with the addresses of all
    """

    operations: NDArray[Any]
    objective: np.void
    heads: NDArray[Any]
    head_numbers: NDArray[np.float64]
    tables: NDArray[Any]
    words: dict[str, int]

    @classmethod
    def of(
        cls,
        operations: NDArray[Any],
        objective: np.void,
        heads: NDArray[Any],
        head_numbers: NDArray[np.float64],
        tables: NDArray[Any],
        n_in: int,
        members: int,
    ) -> Shape:
        """Return the shape of these records; n_in : columns of X; members : networks"""
        n_out = head_numbers.shape[1]
        numbers = {
            "depth": len(operations), "size": operations[-1]["end"], "n_in": n_in, "n_out": n_out,
            "n_heads": len(heads), "columns": len(tables), "members": members,
        }  # fmt: skip
        records = {
            "operations": operations, "objective": objective, "heads": heads, "head_numbers": head_numbers,
            "tables": tables,
        }  # fmt: skip
        words = {name: int(n) for name, n in numbers.items()}
        places = {name: address_of(one) for name, one in records.items()}
        return cls(operations, objective, heads, head_numbers, tables, words | places)

    def with_operations(self, operations: NDArray[Any]) -> Shape:
        """Return the shape with other operations, of as many units and parameters."""
        return self._replace(operations=operations, words=self.words | {"operations": address_of(operations)})


RULE = np.dtype(
    [
        ("code", np.int64),
        ("clip_norm", np.float64),
        ("rate_factor", np.float64),
        ("touched_only", np.bool_),
        ("orthogonal", np.int64),
        ("momentum", np.float64),
        ("moments", np.int64),
        ("reached", np.bool_),
        ("constants", np.float64, (ROOM_FOR_CONSTANTS,)),
    ],
    align=True,
)
"""An optimiser in numbers, for the weights or the gain of one operation, or for its biases or its shift.

rate_factor : the operation's learning rates are multiplied by it; 0 freezes it
reached : whether the backward pass comes to it: it trains, or one that it reads does, directly or not
touched_only : see `fastmlp.model.rules.StepRule`
orthogonal, momentum : of a rule that takes orthogonal matrices, ORTHOGONAL or NESTEROV; else 0
code : of its rule; moments : how many that has; constants : of its formula, see `Optimizer.constants`
"""

ARRAYS: dict[str, tuple[Any, tuple[int | str, ...]]] = {
    "operations": (OPERATION, ("depth",)),
    "objective": (OBJECTIVE, ()),
    "heads": (HEAD, ("n_heads",)),
    "head_numbers": (np.float64, (2, "n_out")),
    "head_totals": (np.float64, ("n_heads", "steps")),
    "head_losses": (np.float64, ("n_heads", "steps")),
    "tables": (TABLE, ("columns",)),
    "rules": (RULE, (2, "depth")),
    "parameters": (None, ("size",)),
    "gradients": (None, ("size",)),
    "moments": (None, ("moment_rows", "size")),
    "accumulated": (None, ("accumulates",)),
    "inputs": (None, ("samples", "n_in")),
    "indptr": (np.int64, ("bounds",)),
    "indices": (np.int32, ("stored",)),
    "values": (None, ("stored",)),
    "numbers": (np.uint8, ("bytes", "n_in")),
    "scale": (np.float64, (1,)),
    "targets": (None, ("samples", "n_out")),
    "weights": (None, ("samples",)),
    "order": (np.int64, ("visits",)),
    "starts": (np.int64, ("steps",)),
    "stops": (np.int64, ("steps",)),
    "totals": (np.float64, ("steps",)),
    "rates": (np.float64, ("steps", 2)),
    "losses": (np.float64, ("steps",)),
    "out": (None, ("samples", "n_out")),
    "by_outputs": (None, ("samples", "n_out")),
    "by_inputs": (None, ("by_inputs_rows", "n_in")),
    "tangents": (None, ("samples", "n_in")),
    "memory": (None, ("length",)),
    "sums": (np.float64, ("batch",)),
    "barrier": (np.int64, (BARRIER,)),
    "touched": (np.bool_, ("marks",)),
    "places": (np.int64, ("placed",)),
    "batch_rows": (np.int64, ("steps",)),
    "matrices": (None, ("matrix_length",)),
    "lane_places": (np.int64, ("lanes",)),
    "lane_numbers": (np.float64, ("lanes",)),
    "row_marks": (np.int32, ("table_rows",)),
    "row_places": (np.int64, ("all_row_places",)),
    "list_counts": (np.int32, ("counted",)),
    "list_marks": (np.uint64, ("words",)),
    "list_columns": (np.int64, ("listed",)),
    "list_starts": (np.int64, ("listed",)),
    "list_samples": (np.int32, ("all_terms",)),
    "list_numbers": (None, ("all_terms",)),
    "list_places": (np.int64, ("all_places",)),
}
"""Arrays of a call by name: the dtype, or None for the network's own; and the shape, in numbers of the call.

operations, objective, heads, head_numbers, tables : as in `Shape`
head_totals : what each step's rows weigh for each head; head_losses : written, the loss of each head
rules : RULE, of weights and gains, and of biases and shifts
parameters, gradients, moments : as in `fastmlp.model.state.TrainState`
accumulated : the sum of the gradients of a step's microbatches so far
inputs, targets, weights : as in `fastmlp.model.backend.Data`
indptr, indices, values : of sparse columns, behind dense inputs, as in `fastmlp.model.rows.SparseRows`
numbers, scale : in the place of dense inputs, as in `fastmlp.model.rows.ByteRows`
order, starts, stops, totals, rates : as in `fastmlp.model.backend.Chunk`
losses : written, the objective of each step
out : predictions, written
by_outputs : the derivative of a loss by them; by_inputs : by the inputs, written; tangents : of the inputs
memory : all buffers for a batch; sums : partial sums of its loss, each at the place of its first row
barrier : where workers wait for one another, see `fastmlp.kernels.runtime.threads`
touched : for which sparse columns a whole gradient updates rows of weights; all where `marks` is 0
places : of rows in their batches, see `fastmlp.model.backend.Shared`; batch_rows : of whole batches; not
    read without ranks
matrices : what `orthogonal.orthogonalise` works in
lane_places : of networks in lanes the addresses of all inputs, targets and weights; then the distances of
    steps in totals, in rates and in losses. Of predictions the addresses of all outputs
lane_numbers : (rows, lanes), the numbers of each one, see `fastmlp.kernels.small.lane_layout`
row_marks : of the rows of all tables of categories, not 0 for those that a step has met; 0 between steps
row_places : for each worker, the rows of a table that a batch has
list_counts, .. : for sparse inputs, as in `columns.list_columns`; the first two hold zeros
"""

BUFFERS = (
    *("batch_inputs", "batch_targets", "batch_weights", "logits", "activations", "dropped", "deltas"),
    *("scratch", "slices", "part_sums", "private"),
)
"""The buffers in a call's memory; a number of the call says where each begins. Most serve all layers.

batch_inputs (batch * n_in), batch_targets (batch * n_out), batch_weights (batch) : the gathered batch, whose
inputs may be converted ones
logits, activations, dropped, deltas : (batch * units of all operations)
scratch : (workers, scratch_length), `workspace.scratch_length`, for the matmul slots' own use
slices : (workers, slice_length), `workspace.slice_length`, for slices of gradients, applied at once
part_sums : (parts of a batch * sums of all runs), of each operation of a run (parts, its gain and shift): see
    `unit_runs.run_backward`
private : (workers, private_length), `variant.Bound.private`, which the program of one network lays out
    itself; the last buffer, and 0 at first
"""

NUMBERS = (
    *("depth", "size", "moment_rows", "n_heads", "members", "columns", "samples", "n_in", "n_out"),
    *("visits", "steps", "step", "key", "batch", "length", "accumulates", "microbatch", "fewest"),
    *("bounds", "stored", "bytes", "by_inputs_rows", "marks", "placed", "table_rows", "all_row_places"),
    *("counted", "words", "listed", "terms", "all_terms", "all_places"),
    *("summing", "totalling", "leads", "together", "lanes"),
    *("matrix_length", "matrix_size", "matrix_side", "matrix_width", "matrix_scratch"),
    *(*BUFFERS, "scratch_length", "slice_length", "private_length"),
)
"""Whole numbers of a call by name.

depth : operations; size : parameters; n_heads : 0 of one loss
moment_rows : how many numbers the optimiser's rule remembers for each parameter
members : how many networks it is; 1 without `Members`
columns : of categories; samples : rows of the inputs
n_in, n_out : of the network; n_in is without sparse columns
visits : rows of the order, 0 if the inputs are visited as they stand
steps : of the call; step : steps that were taken before; key : of the dropout masks
batch : the most rows of a step, for which the buffers have room; length : numbers in the memory
accumulates : the length of `accumulated`, 0 where every step takes all of its rows together
microbatch : rows of a step that are taken together otherwise; fewest : a step's last rows that are as many
bounds : the length of indptr, 0 where inputs are dense; stored : non-zeros
bytes : rows of bytes, 0 where inputs are of the network's dtype
by_inputs_rows : rows of `by_inputs`: samples, or 0 if nobody needs it
marks : the length of `touched`, the sparse columns or 0
placed : the length of `places`, 0 where the batch has no rows in other processes
summing : the address of the function that sums gradients over ranks, see `runtime.adapter`; 0 without ranks
totalling : that of the function that sums what a step needs of all ranks, and waits for it
leads : 1 unless another rank adds to the gradient what all ranks share
together : the fewest numbers of a gradient that ranks sum at a time
lanes : networks that train together, one in each lane of a vector; 0 of one network
matrix_length, matrix_size, .. : of `matrices` and its parts, 0 where no rule takes orthogonal matrices
table_rows : of all tables of categories; all_row_places : of a batch and `APART` bytes, for each worker
counted : the sparse columns n, words : n / 64, listed : n, and for each worker `APART` bytes more
terms : the most non-zeros of a step; all_terms : of all workers
all_places : the rows of a batch and `APART` bytes, for each worker
"""

WORDS = {name: place for place, name in enumerate((*ARRAYS, *NUMBERS))}
"""The place of each word of a call, by its name."""


def words_of(numbers: dict[str, int]) -> array.array[int]:
    """Return the words of a call with these numbers, by name; the other words are 0."""
    words = array.array("q", bytes(8 * len(WORDS)))
    for name, number in numbers.items():
        words[WORDS[name]] = number
    return words


BLANK = words_of({})


class Call:
    """A call, which a program's entry point takes by its address.

    known : words to begin with; they are copied, because many calls share them
    given : arrays and numbers by name; a number may be the address of an object in `held`
    held : objects that must live as long as the call
    words : the call's memory, int64; a change to a word changes the call
    """

    __slots__ = ("_held", "address", "words")

    def __init__(self, known: array.array[int], given: dict[str, Any], *held: Any) -> None:
        words = self.words = known[:]
        self.address = words.buffer_info()[0]
        self._held: dict[str, Any] = {"held": held}
        self.set(given)

    def set(self, given: dict[str, Any]) -> None:
        """Change words: arrays and numbers by name. The arrays live as long as the call, or until others."""
        self.show(given)
        self._held |= given

    def array(self, name: str) -> NDArray[Any]:
        """Return an array that `set` was given."""
        found: NDArray[Any] = self._held[name]
        return found

    def show(self, given: dict[str, Any]) -> None:
        """Write values to their words; arrays among them must be kept elsewhere while the call runs."""
        words = self.words
        for name, one in given.items():
            if type(one) is int:
                words[WORDS[name]] = one
                continue
            try:  # `address_of`, without a call of Python's for each of 20 arrays
                words[WORDS[name]] = addressof(first_byte(one))
            except (TypeError, ValueError):
                words[WORDS[name]] = address_of(one) if isinstance(one, np.ndarray) else one


def moved(call: Call, apart: dict[str, int], count: int) -> NDArray[np.int64]:
    """Return the words (count, words) of calls whose arrays lie further on from one call to the next.

    apart : by the names of these arrays, by how many bytes; all others are those of the call
    """
    words = np.tile(np.frombuffer(call.words, np.int64), (count, 1))
    for name, distance in apart.items():
        words[:, WORDS[name]] += np.arange(count) * distance
    return words


def address_of(one: Any) -> int:
    """Return the address of an array's first element, or of a record."""
    try:
        return addressof(first_byte(one))
    except (TypeError, ValueError):  # read-only, or empty
        address: int = one.__array_interface__["data"][0]
        return address
