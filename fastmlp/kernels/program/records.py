"""The call record, a program's only argument: network, optimiser, rows and steps as numbers and addresses.

A call is an array of 64-bit words in the order of `WORDS`. Each word is the address of an array or a whole
number. Compiled code reads words as attributes (`fastmlp.kernels.program.call_record`).
"""

from __future__ import annotations

import array
from ctypes import addressof
from typing import Any

import numpy as np

from fastmlp.model.component import MOST_NUMBERS
from fastmlp.model.layout import first_byte
from fastmlp.model.operations import Table
from fastmlp.model.rules import ROOM_FOR_CONSTANTS

SLICE_ROWS = 8
"""The fewest rows of weights in a gradient's slice."""

APART = 128
"""Bytes between the writes of two workers: two cache lines, fetched in pairs by processors."""

FAN_IN, MOST_GROUPS = 8, 64
"""The most workers at a node of a barrier; the most groups of workers."""

ARRIVED, SLEEPERS, GENERATION, NODE = 0, 1, APART // 8, 2 * APART // 8
"""Words of a node, the root is the first: arrivals, sleepers, generation; and their number."""

CLOSED = -(1 << 30)
"""The generation of a closed node; other generations, and their lower halves, are not negative."""

ABANDONED, BARRIER = (1 + MOST_GROUPS) * NODE, (1 + MOST_GROUPS) * NODE + APART // 8
"""The word of a barrier's array that ends steps, 0 until a failure; the array's length."""

UNSUMMED = ABANDONED + 1
"""The word of a barrier's array used by worker 0 alone, in `weight_templates.sum_over_ranks`."""

ORTHOGONAL, NESTEROV = 1, 2
"""The start of an orthogonal step: the momentum, or Nesterov's."""

UNBOUNDED = float("inf")
"""The `clip_norm` of an optimiser without clipping."""


def fields_of(dtype: Any, names: str) -> list[tuple[str, Any]]:
    """Return the fields of a dtype, named in one text."""
    return [(name, dtype) for name in names.split()]


OPERATION = np.dtype(
    [
        *fields_of(np.int64, "file kind source other n_in n_out weights biases trained end units saved"),
        *fields_of(np.int64, "saved_units activation adds adds_other gates gated trains_bias gives_logits"),
        *fields_of(np.int64, "whole_batch columns tables by_column sparse_updates column sparse_in subrows"),
        *fields_of(np.int64, "second width joined sums curvature"),
        *fields_of(np.float64, "dropout l1 l2 epsilon momentum"),
        ("numbers", np.float64, (MOST_NUMBERS,)),
    ],
    align=True,
)
"""An operation in numbers; compiled code takes all operations as a single array of records.

file, kind, activation : codes; the first of the file with what it does, see `fastmlp.kernels.codes.file_of`
source, other : the operations read, -1 for the inputs and for none
whole_batch : whether it needs statistics of the whole batch, as a batch norm in training
adds, adds_other : as `adds` of `fastmlp.model.operations.Operation`, as are the other fields
gives_logits : whether a loss reads its logits, the network's or a head's
width : the numbers of a row of its output
curvature : the code of an activation's slope, whose derivative is the second derivative; 0 where not needed
epsilon, momentum : of a batch norm; numbers : the hyperparameters of a formula of a row, NaN for the dtype's
epsilon
tables : the number of tables; sparse_updates : whether a step moves only the batch's rows of tables
"""


TABLE = np.dtype([(name, np.int64) for name in Table._fields])
"""A column of codes in numbers: see `fastmlp.model.operations.Table`."""


OBJECTIVE = np.dtype(
    [
        *fields_of(np.float64, "value_divisor l1 l2"),
        *fields_of(np.bool_, "shared_penalty penalises"),
    ],
    align=True,
)
"""The objective in numbers.

value_divisor : a divisor of the reported loss, summed over all parts of a batch
l1, l2 : the penalties of a chain; shared_penalty : whether they are divided by the batch's weight
penalises : whether any weights have a penalty
"""


HEAD = np.dtype(
    [
        *fields_of(np.int64, "operation column units loss output by_row missing weighted"),
        *fields_of(np.float64, "weight divisor value_divisor"),
    ],
    align=True,
)
"""A head in numbers, or a network's only output: see `fastmlp.model.heads.Head`.

operation : of its logits; column : its first among all outputs and targets; loss, output : codes
weighted : whether units have weights
divisor : the derivative is the summed loss's, divided by this number and by the batch's weight
value_divisor : a divisor of the head's reported loss, of each part of a batch
"""


RULE = np.dtype(
    [
        *fields_of(np.int64, "code orthogonal moments"),
        *fields_of(np.float64, "clip_norm rate_factor momentum"),
        *fields_of(np.bool_, "sparse_updates reached"),
        ("constants", np.float64, (ROOM_FOR_CONSTANTS,)),
    ],
    align=True,
)
"""An optimiser in numbers, for an operation's weights or gain, or its biases or shift.

rate_factor : a factor of the operation's learning rates; 0 freezes the operation
reached : whether the backward pass reaches the operation: it trains, or a source trains, directly or not
sparse_updates : see `fastmlp.model.rules.StepRule`
orthogonal, momentum : of a rule for orthogonal matrices, ORTHOGONAL or NESTEROV; else 0
code : of its rule; moments : their number; constants : of its formula, see `Optimizer.constants`
"""

WHOLE = np.dtype(
    [
        *fields_of(np.int64, "known taken reason single history max_evaluations pairs nielsen evidence"),
        *fields_of(np.int64, "has_noise squares dual side block gram factor jacobian scaled residuals"),
        *fields_of(np.float64, "loss goal min_gradient divisor scale first_damping damping"),
        *fields_of(np.float64, "damping_decrease damping_increase max_damping prior_precision noise gain"),
        *fields_of(np.float64, "square counted total_diagonal"),
    ],
    align=True,
)
"""Steps of all rows in numbers: see `whole_steps`, and `fastmlp.model.second_order` for options.

known : whether the loss of the point is known, and memory has the gradient, or the units of all rows
taken : written, the iterations of the call; reason : written, why the steps end
single : whether numbers must be kept in float32; loss : the objective of the point
divisor : of the loss in the history, see `Objective.value_divisor`
scale : the factor of the objective in the equations; squares : whether the loss is a sum of squares
dual : whether the equations are those of the residuals; side : the number of equations
block : rows of J at a time; gram, factor, jacobian, scaled, residuals : offsets in the room
square, counted : of the residuals of a step: the sum of squares, and their number
total_diagonal : the sum of the diagonal of J'J
"""

WHOLE_VECTORS = "curved", "down", "along", "point", "precisions", "trained", "diagonal"
"""Vectors (P,) of steps of all rows, float64: second derivatives of the penalties; the gradient; the
direction, or the step; the point before; precisions of a step's prior; 1 for trained parameters; the diagonal
added to J'J."""

ARRAYS: dict[str, tuple[Any, tuple[int | str, ...]]] = {
    # Records of the network, as of `runtime.described.shape_of`; head_numbers : the parameters of the heads'
    # losses, see `Objective.loss_parameters`, and the weights of their units; head_totals : the weight of
    # each step's rows for each head; head_losses : written, the loss of each head if reported.
    "operations": (OPERATION, ("depth",)), "objective": (OBJECTIVE, ()), "heads": (HEAD, ("n_heads",)),
    "head_numbers": (np.float64, (2, "n_out")), "head_totals": (np.float64, ("n_heads", "steps")),
    "head_losses": (np.float64, ("reported", "steps")), "tables": (TABLE, ("columns",)),
    # rules : of weights and gains, and of biases and shifts; then as in `fastmlp.model.state.TrainState`;
    # accumulated : the sum of the gradients of a step's microbatches so far.
    "rules": (RULE, (2, "depth")), "parameters": (None, ("size",)), "gradients": (None, ("size",)),
    "moments": (None, ("moment_rows", "size")), "accumulated": (None, ("accumulates",)),
    # As in `fastmlp.model.backend.Data`; indptr, indices, values : of sparse columns, behind dense inputs, as
    # in `fastmlp.model.rows.SparseRows`; numbers, scale : in place of dense inputs, as in `ByteRows`.
    "inputs": (None, ("samples", "n_in")), "indptr": (np.int64, ("bounds",)),
    "indices": (np.int32, ("stored",)), "values": (None, ("stored",)),
    "numbers": (np.uint8, ("bytes", "n_in")), "scale": (np.float64, (1,)),
    "targets": (None, ("samples", "n_out")), "weights": (None, ("samples",)),
    # As in `fastmlp.model.backend.Chunk`; losses : written, the objective of each step.
    "order": (np.int64, ("visits",)), "starts": (np.int64, ("steps",)), "stops": (np.int64, ("steps",)),
    "totals": (np.float64, ("steps",)), "rates": (np.float64, ("steps", 2)),
    "losses": (np.float64, ("steps",)),
    # out : predictions, written; by_outputs : the derivative of a loss by the predictions; by_inputs : by the
    # inputs, written; tangents : of the inputs.
    "out": (None, ("samples", "n_out")), "by_outputs": (None, ("samples", "n_out")),
    "by_inputs": (None, ("by_inputs_rows", "n_in")), "tangents": (None, ("samples", "n_in")),
    # memory : all buffers for a batch; sums : partial sums of its loss, each at the index of its first row;
    # barrier : of the workers, see `fastmlp.kernels.program.workers`.
    "memory": (None, ("length",)), "sums": (np.float64, ("batch",)), "barrier": (np.int64, (BARRIER,)),
    # nonzero_columns : for which sparse columns a whole gradient updates rows of weights; all if marks is 0.
    "nonzero_columns": (np.bool_, ("marks",)),
    # positions : of rows in their batches, see `fastmlp.model.backend.Shared`; batch_rows : of whole batches;
    # not read without ranks.
    "positions": (np.int64, ("placed",)), "batch_rows": (np.int64, ("steps",)),
    # The workspace of `weight_templates.orthogonalise`.
    "matrices": (None, ("matrix_length",)),
    # lane_addresses : of networks in lanes the addresses of all inputs, targets and weights; then the
    # distances of steps in totals, in rates and in losses; for predictions the addresses of all outputs.
    # lane_numbers : (rows, lanes), the numbers of each lane, see `fastmlp.kernels.small.layouts`.
    "lane_addresses": (np.int64, ("lanes",)), "lane_numbers": (np.float64, ("lanes",)),
    # row_marks : of the rows of all tables of categories, not 0 for rows met by a step; 0 between steps;
    # row_numbers : for each worker, the batch's rows of a table.
    "row_marks": (np.int32, ("table_rows",)), "row_numbers": (np.int64, ("all_row_numbers",)),
    # Steps of all rows; room : matrices of `whole_templates`, and numbers of L-BFGS's pairs; curves : written
    # for each iteration, the objective, the gradient's norm, the damping, the precision of the prior, the
    # noise, the effective parameters.
    "whole": (WHOLE, ()), **dict.fromkeys(WHOLE_VECTORS, (None, ("size",))),
    "curves": (np.float64, (6, "iterations")), "room": (None, ("room_length",)),
    # For sparse inputs, as in `sparse_templates.list_columns`; the first two hold zeros.
    "list_counts": (np.int32, ("counted",)), "list_marks": (np.uint64, ("words",)),
    "list_columns": (np.int64, ("listed",)), "list_starts": (np.int64, ("listed",)),
    "list_samples": (np.int32, ("all_terms",)), "list_numbers": (None, ("all_terms",)),
    "list_cursors": (np.int64, ("all_cursors",)),
}  # fmt: skip
"""Arrays of a call by name: the dtype (None: the network's), and the shape in numbers of the call."""

BUFFERS = (
    *("batch_inputs", "batch_targets", "batch_weights", "logits", "activations", "dropped", "deltas"),
    *("scratch", "slices", "part_sums", "private"),
)
"""The buffers in a call's memory; a number of the call is each buffer's offset. Most serve all layers.

batch_inputs (batch * n_in), batch_targets (batch * n_out), batch_weights (batch) : the gathered batch, whose
inputs may be converted
logits, activations, dropped, deltas : (batch * units of all operations)
scratch : (workers, scratch_length), `workspace.scratch_length`, for the matmul slots
slices : (workers, slice_length), `workspace.slice_length`, for slices of gradients, applied at once
part_sums : (parts of a batch * sums of all fused chains), of each operation of a chain (parts, its gain and
    shift): see `operations.fused_chain.fused_backward`
private : (workers, private_length), `variant.SpecializedProgram.private`, laid out by the program of a single
    network; the last buffer, and 0 at first
"""

NUMBERS = (
    *("depth", "size", "moment_rows", "n_heads", "reported", "members", "columns", "samples"),
    *("n_in", "n_out", "visits", "steps", "step", "key", "batch", "length", "accumulates", "microbatch"),
    *("fewest", "bounds", "stored", "bytes", "by_inputs_rows", "marks", "placed", "table_rows"),
    *("all_row_numbers", "counted", "words", "listed", "terms", "all_terms", "all_cursors"),
    *("summing", "totalling", "leads", "together", "lanes", "iterations", "room_length"),
    *("matrix_length", "matrix_size", "matrix_side", "matrix_width", "matrix_scratch"),
    *(*BUFFERS, "scratch_length", "slice_length", "private_length"),
)
"""Whole numbers of a call by name; those of `LENGTHS` are 0 without their array.

depth : operations; size : parameters
n_heads : 1 without heads; reported : the heads with a reported loss, 0 for a single loss
moment_rows : the numbers remembered by the optimiser's rule for each parameter
members : networks in the network; 1 without `Members`
columns : of categories; samples : rows of the inputs
n_in, n_out : of the network; n_in is without sparse columns
visits : 0 if the inputs are visited in their order
steps : of the call; step : steps taken before; key : of the dropout masks
batch : the most rows of a step, for which the buffers have room
accumulates : 0 where every step takes all of its rows together
microbatch : rows taken together otherwise; fewest : the least rows of a step's last microbatch
bounds : 0 where inputs are dense; bytes : 0 where inputs have the network's dtype; stored : non-zeros
by_inputs_rows : rows of `by_inputs`: samples, or 0 if not needed
marks : the sparse columns; placed : 0 where the batch has no rows in other processes
summing : the address of the function that sums gradients over ranks, see `runtime.adapter`; 0 without ranks
totalling : of the function that sums a step's needs over all ranks, and waits
leads : 1 unless another rank adds to the gradient the terms common to all ranks
together : the fewest numbers of a gradient that ranks sum at a time
iterations : of steps of all rows; room_length : of `room`
lanes : networks that train together, one in each lane of a vector; 0 for a single network
matrix_size, .. : of the parts of `matrices`, 0 where no rule takes orthogonal matrices
table_rows : of all tables of categories; terms : the most non-zeros of a step
"""

WORDS = {name: index for index, name in enumerate((*ARRAYS, *NUMBERS))}
"""The index of each word of a call by name."""

LENGTHS = {
    name: WORDS[str(ARRAYS[name][1][0])]
    for name in (
        *("head_losses", "accumulated", "indptr", "values", "numbers", "order", "starts", "memory"),
        *("nonzero_columns", "positions", "matrices", "row_marks", "row_numbers", "list_counts"),
        *("list_marks", "list_columns", "list_samples", "list_cursors"),
    )
}
"""The index of an array's length among the words: a call that is given the array has its length, too."""


def words_of(numbers: dict[str, int]) -> array.array[int]:
    """Return a call's words with these numbers by name; the rest is 0."""
    words = array.array("q", bytes(8 * len(WORDS)))
    for name, number in numbers.items():
        words[WORDS[name]] = number
    return words


BLANK = words_of({})


class Call:
    """A call, given to an entry point by its address. Arrays bring their `LENGTHS`.

    known : words to begin with, copied, because many calls share the words
    values : arrays and numbers by name; a number may be the address of an object in `held`
    held : objects that must live as long as the call
    words : the call's memory, int64; a change to a word changes the call
    """

    __slots__ = ("_held", "address", "words")

    def __init__(self, known: array.array[int], values: dict[str, Any], *held: Any) -> None:
        words = self.words = known[:]
        self.address = words.buffer_info()[0]
        self._held: dict[str, Any] = {"held": held}
        self.set(values)

    def set(self, values: dict[str, Any]) -> None:
        """Change words: arrays and numbers by name. Arrays live as long as the call, or until replaced."""
        self.show(values)
        self._held |= values

    def show(self, values: dict[str, Any]) -> None:
        """Write values to their words; the caller must keep arrays alive while the call runs."""
        words = self.words
        for name, value in values.items():
            if type(value) is int:
                words[WORDS[name]] = value
                continue
            try:  # `address_of`, without a call of Python's for each of 20 arrays
                words[WORDS[name]] = addressof(first_byte(value))
            except (TypeError, ValueError):
                words[WORDS[name]] = address_of(value) if isinstance(value, np.ndarray) else value
            if name in LENGTHS:
                words[LENGTHS[name]] = len(value)


def address_of(buffer: Any) -> int:
    """Return the address of an array or a record."""
    try:
        return addressof(first_byte(buffer))
    except (TypeError, ValueError):  # read-only, or empty
        address: int = buffer.__array_interface__["data"][0]
        return address
