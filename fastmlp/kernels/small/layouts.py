"""Layouts of small networks' arrays in a private workspace, and the constants of their programs.

Blocks of rows have padded arrays: every row of a weight matrix, activation or delta is a whole number of vectors, so
that no loop has a tail. The weights of padding are 0 and stay 0, because their gradients are 0. Where the outputs of
the last layer would fill less than half of a vector, outputs and deltas are stored transposed. A section holds one
padded parameter vector: all layers' weights, then all biases. Parameters are section 0, gradients section 1, and each
moment of the rule has a section after these.

Lanes have a vector for each number of a single network. This file loads no compiler.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmlp.kernels.codegen.machine import MOST_HEIGHT, host
from fastmlp.kernels.codes import ACTIVATION_CODES, OPERATION_CODES, RULE_CODES
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.model.activations import Activation
from fastmlp.model.component import INPUTS, Kind
from fastmlp.model.rules import ROOM_FOR_CONSTANTS


class Step(NamedTuple):
    """An operation of a small network: constants of a `fastmlp.model.operations.Operation`.

    kind, activation : keys of entries; n_in, n_out : numbers of a row of the first source, and of the output
    subrows : the rows that a row is cut in; second : the begin of a row of the second source
    """

    kind: str
    sources: tuple[int, ...]
    n_in: int
    n_out: int
    activation: str
    dropout: float
    adds: tuple[bool, ...]
    flat: int
    subrows: int
    second: int

    @property
    def entry(self) -> Kind:
        """The entry of the operation's kind."""
        return OPERATION_CODES.of_key(self.kind)

    @property
    def units(self) -> int:
        """The units of each subrow of the first source."""
        return self.n_in // self.subrows

    @property
    def lengths(self) -> tuple[int, int]:
        """The numbers of weights and biases, or of a gain and a shift."""
        return (
            (self.n_in * self.n_out, self.n_out) if self.kind == "dense" else self.entry.lengths(self.n_out)
        )

    @property
    def ending(self) -> tuple[int, Activation | None]:
        """The numbers of a row of the output after those of the first source, and the activation of such a kind."""
        activation = ACTIVATION_CODES.of_key(self.activation) if self.kind == "activation" else None
        return self.n_out - self.n_in, activation

    @property
    def numbers(self) -> int:
        """The number of hyperparameters."""
        return len(self.entry.numbers)


class SmallConstants(NamedTuple):
    """All constants of a small network's program; all else is data. In lanes an operation's dropout is 1 or 0.

    output, loss, rule : keys; l2, clips_norm : whether there is a penalty, and whether gradients are clipped
    lanes : networks, or rows of a batch, in a vector; 0 with padded arrays
    rows : of every step, where all loops are unrolled, else 0; with padded arrays the most rows of a block
    blocks : whether a step may have more rows; stays : whether all steps visit the same rows in the same order
    """

    operations: tuple[Step, ...]
    output: str
    loss: str
    rule: str
    clips: bool
    l2: bool
    dtype: str
    convention: str = ""
    clips_norm: bool = False
    lanes: int = 0
    rows: int = 0
    blocks: bool = False
    stays: bool = False

    @property
    def n_in(self) -> int:
        """Columns of X."""
        return self.operations[0].n_in

    @property
    def n_out(self) -> int:
        """Units of the last operation."""
        return self.operations[-1].n_out

    @property
    def parameters(self) -> int:
        """How many numbers the flat vector has."""
        last = self.operations[-1]
        return last.flat + sum(last.lengths)

    def row_of_dropout(self, number: int) -> int:
        """Return the row of `lane_numbers` with the threshold of an operation's dropout; its scale follows."""
        return LOSS_PARAMETERS + self.n_out + 2 * sum(op.dropout > 0 for op in self.operations[:number])

    def row_of_numbers(self, number: int) -> int:
        """Return the row of `lane_numbers` with the first hyperparameter of an operation."""
        before = self.operations[:number]
        return self.row_of_dropout(len(self.operations)) + sum(op.numbers for op in before)

    @property
    def numbers(self) -> int:
        """The rows of `lane_numbers`."""
        return self.row_of_numbers(len(self.operations))


class PaddedLayer(NamedTuple):
    """Offsets of an operation's arrays in the workspace, or -1; parameters are offsets within a section.

    is_transposed : whether this is the last layer and narrow. Its weights are then (n_out, in_stride), its outputs and
        deltas (n_out, R): each lane holds a row of the batch
    lanes : of the vectors along this layer's outputs, or inputs where it is transposed
    transpose : W' (n_out, in_stride), for products that pass a delta down and are not transposed
    inputs, outputs : of the source, and before dropout; dropped : after dropout, or the outputs
    deltas : the offset of the outputs where the activation's derivative ends the tiles of a product's deltas: no later
        stage reads the outputs, and a step touches half as much memory
    other, other_stride, other_deltas : of the second source
    added : a product's terms, which are then added to input_deltas
    saved : (R, subrows * saved), each row's numbers that are saved for backward
    ends_below : whether this operation multiplies its source's deltas by the derivative of the activation
    """

    step: Step
    is_transposed: bool
    lanes: int
    in_stride: int
    out_stride: int
    weights: int
    biases: int
    transpose: int
    inputs: int
    outputs: int
    dropped: int
    deltas: int
    input_deltas: int
    other: int
    other_stride: int
    other_deltas: int
    added: int
    saved: int
    numbers: int
    ends_below: bool

    @property
    def n_in(self) -> int:
        return self.step.n_in

    @property
    def n_out(self) -> int:
        return self.step.n_out


class PaddedLayout(NamedTuple):
    """The layout of a whole workspace.

    weights, gains : their ends in a section; biases and shifts follow up to `section`
    targets : as the last layer's outputs; sums : (3, R), see `fastmlp.kernels.elementwise.losses`
    batched : logits, targets and outputs (n_out, LOSS_ROWS) of the rows whose loss is computed, or -1
    most_rows : R, the rows that the buffers have room for; whole vectors; most : lanes of the machine's vector
    """

    layers: tuple[PaddedLayer, ...]
    inputs: int
    weights: int
    gains: int
    section: int
    sections: int
    targets: int
    sums: int
    batched: int
    most_rows: int
    most: int
    size: int


def lanes_of(dtype):
    """Return the lanes of the machine's vectors."""
    return host().vector_bytes // np.dtype(dtype).itemsize


def up(n, multiple):
    """Return n rounded up to a multiple."""
    return -(-n // multiple) * multiple


def fitting_lanes(n, most):
    """Return the lanes of the smallest vector for n elements: from 4 to the machine's."""
    return max(min(4, most), min(most, 1 << (n - 1).bit_length()))


def dividing_lanes(stride, most):
    """Return the lanes of the longest vector that divides the stride."""
    return min(most, stride & -stride)


def plan(constants):
    """Return the layout for a network."""
    most = lanes_of(constants.dtype)
    operations = constants.operations
    count = len(operations)
    # The last tile may go beyond the rows of the batch, into spare rows.
    rows = up(constants.rows, LOSS_ROWS) + max(most, MOST_HEIGHT)
    readers = [source for op in operations for source in op.sources]
    strides, lanes, is_transposed = {INPUTS: operations[0].n_in}, {INPUTS: most}, False
    for i, op in enumerate(operations):
        in_lanes = lanes[op.sources[0]]
        # A narrow last layer would fill half of a vector at most: a row of the batch in each lane fills it.
        is_transposed = 0 < i == count - 1 and op.n_out <= in_lanes // 2
        lanes[i] = in_lanes if is_transposed else fitting_lanes(op.n_out, most)
        strides[i] = up(op.n_out, lanes[i])

    at = 0

    def take(n, multiple=most):
        nonlocal at
        start, at = at, up(at + n, multiple)
        return start

    last, weights, biases = count - 1, {}, {}
    for i, op in enumerate(operations):
        if op.kind == "dense":
            turned = is_transposed and i == last
            weights[i] = take(op.n_out * strides[op.sources[0]] if turned else op.n_in * strides[i])
    # A multiple of the numbers in a round of the optimiser's unrolled loop, which then has no tail.
    all_weights = at = up(at, 4 * most)
    for i, op in enumerate(operations):
        if op.kind != "dense" and op.lengths[0]:
            weights[i] = take(up(op.lengths[0], lanes[i]))
    gains = at = up(at, 4 * most)
    for i, op in enumerate(operations):
        if op.lengths[1]:
            biases[i] = take(strides[i])
    section = at = up(at, 4 * most)
    sections = 2 + RULE_CODES.of_key(constants.rule).moments
    at = sections * section
    inputs = take(rows * operations[0].n_in)
    # Outputs after dropout, and their deltas.
    outputs_of, deltas_of, layers = {INPUTS: inputs}, {INPUTS: -1}, []
    for i, op in enumerate(operations):
        source = op.sources[0]
        is_dense, is_last, below = op.kind == "dense", i == last, deltas_of[source]
        transposed = -1
        # The first layer passes no delta down, and a transposed layer's weights lie as the pass down reads
        # them.
        if is_dense and source != INPUTS and not (is_transposed and is_last):
            transposed = take(strides[source] * up(op.n_out, most))
        length = rows * (op.n_out if is_transposed and is_last else strides[i])
        outputs = deltas = dropped = take(length)
        alone = [reader for reader in operations if i in reader.sources]
        # Only where a single product reads the outputs may its tiles end with the derivative, in the outputs'
        # place.
        joined = is_dense and op.dropout == 0 and len(alone) == 1 and alone[0].kind == "dense"
        if is_last or not (joined and ACTIVATION_CODES.of_key(op.activation).short_backward):
            deltas = take(length)
        if op.dropout > 0:
            dropped = take(length)
        other, other_stride, other_deltas = -1, 0, -1
        if len(op.sources) > 1:
            second_source = op.sources[1]
            other, other_deltas = outputs_of[second_source] + op.second, deltas_of[second_source] + op.second
            other_stride = strides[second_source]
        under = operations[source]  # of no meaning for the rows of X
        ends_below = source != INPUTS and is_dense and under.kind == "dense"
        ends_below = ends_below and under.dropout == 0 and readers.count(source) == 1
        layers.append(
            PaddedLayer(
                op, is_transposed and is_last, lanes[i], strides[source], strides[i], weights.get(i, -1),
                biases.get(i, -1), transposed, outputs_of[source], outputs, dropped, deltas,
                below, other, other_stride, other_deltas,
                take(rows * strides[source]) if is_dense and source != INPUTS and op.adds[0] else -1,
                take(op.subrows * op.entry.saved * rows) if op.entry.saved else -1,
                take(op.numbers) if op.numbers else -1, ends_below,
            )
        )  # fmt: skip
        outputs_of[i], deltas_of[i] = dropped, deltas
    out_stride = strides[last]
    targets, sums = take(rows * out_stride), take(3 * rows)
    batched = -1 if is_transposed else take(3 * up(operations[last].n_out, most) * LOSS_ROWS)
    # A load of a whole vector may begin at the last number.
    size = up(at + most, 4 * most)
    return PaddedLayout(
        tuple(layers), inputs, all_weights, gains, section, sections, targets, sums, batched, rows, most, size,
    )  # fmt: skip


# --- programs of vectors: a lane for each network, or for each row of a batch -----------------------

BLOCK_ROWS = LOSS_ROWS
"""Rows of a network that are taken together: a part of the sum of losses."""

ROWS_INPUTS, ROWS_TARGETS, ROWS_WEIGHTS = range(3)
"""The data of a network, in the order of addresses."""

STRIDES = 3
"""Numbers of a call's `lane_addresses` after the addresses: see `LaneSteps.strides`."""

L2, STEPS, CLIP_NORM, KEY, LOSS_PARAMETERS = range(ROOM_FOR_CONSTANTS, ROOM_FOR_CONSTANTS + 5)
"""Rows of a call's `lane_numbers`, after the constants of a rule; after the loss's parameters come a threshold and a
scale of each operation that drops units, and the hyperparameters of all operations."""


class UnitOffsets(NamedTuple):
    """Offsets of an operation's numbers for a block of rows, row after row; -1 for numbers not stored.

    dropped : outputs after dropout; logits : where the activation's derivative reads logits; saved : of a norm
    """

    outputs: int
    dropped: int
    logits: int
    deltas: int
    saved: int


class LaneLayout(NamedTuple):
    """Offsets in the workspace, in vectors: the gradients as the flat vector, then `units` of every operation.

    ends : for each operation, whether the tiles of its only reader multiply its deltas by the slope
    """

    units: tuple[UnitOffsets, ...]
    ends: tuple[bool, ...]
    size: int


def layout_of(constants: SmallConstants) -> LaneLayout:
    """Return the layout of the workspace."""
    operations, at, units, ends = constants.operations, constants.parameters, [], []

    def take(count, needed=True):
        nonlocal at
        start, at = at, at + count * BLOCK_ROWS * needed
        return start if needed else -1

    for number, op in enumerate(operations):
        outputs = take(op.n_out)
        drops, saved = op.dropout > 0, op.subrows * op.entry.saved
        entry = ACTIVATION_CODES.of_key(op.activation)
        reads_logits = "z" in entry.reads
        keeps_logits = reads_logits and op.kind == "dense" and number < len(operations) - 1
        units.append(
            UnitOffsets(
                outputs, take(op.n_out) if drops else outputs, take(op.n_out, keeps_logits),
                take(op.n_out), take(saved, saved > 0),
            )
        )  # fmt: skip
        readers = [reader for reader in operations for source in reader.sources if source == number]
        joined = len(readers) == 1 and {op.kind, readers[0].kind} == {"dense"}
        ends.append(joined and not drops and entry.short_backward and not reads_logits)
    return LaneLayout((*units,), (*ends,), at)


def reads_rows(operations: tuple[Step, ...], number: int) -> bool:
    """Return whether an operation gives the rows of X, so that no step needs its deltas."""
    return number == INPUTS or (operations[number].kind == "copy" and operations[number].sources == (INPUTS,))
