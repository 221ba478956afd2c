"""Layout of a small network's arrays in a private workspace, with rows of whole vectors.

Separate because `fastmlp.kernels.small.stages` writes code with offsets into this layout. Every row of a weight matrix,
activation or delta is a whole number of vectors, so that no loop has a tail. The weights of padding are 0 and stay 0,
because their gradients are 0. Where the outputs of the last layer would fill less than half of a vector, outputs and
deltas are stored transposed. A section holds one padded parameter vector: all layers' weights, then all biases.
Parameters are section 0, gradients section 1, and each moment of the rule has a section after these.
"""

from __future__ import annotations

from typing import NamedTuple

from fastmlp.kernels.codegen.machine import MOST_HEIGHT, host
from fastmlp.kernels.codes import ACTIVATION_CODES, OPERATION_CODES, RULE_CODES
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.model.operations import INPUTS, Kind


class Step(NamedTuple):
    """An operation of a small network: constants of a `fastmlp.model.operations.Operation`.

    kind : the key of an entry of `KINDS`, or of a user's layer
    n_in, n_out : the numbers of a row of the first source, and of the output
    activation : the key of a product's activation, or of the operation `activation`
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
    def numbers(self) -> int:
        """The number of hyperparameters."""
        return len(self.entry.row.numbers) if self.entry.row is not None else 0


class ProgramConstants(NamedTuple):
    """All constants of a program for a network; all else is data.

    operations : first to last; output : the name of the last activation
    loss, rule : keys of pieces
    clips : see `Objective.clips`; l2 : whether there is an l2 penalty
    dtype, itemsize : of the numbers
    rows : the most rows that a step takes through the network together
    blocks : whether a step may have more rows
    """

    operations: tuple[Step, ...]
    output: str
    loss: str
    clips: bool
    rule: str
    l2: bool
    dtype: str
    itemsize: int
    rows: int
    blocks: bool

    @property
    def sizes(self) -> tuple[int, ...]:
        """Columns of X, and the units of every product."""
        dense = [one.n_out for one in self.operations if one.kind == "dense"]
        return (self.operations[0].n_in, *dense)


class PaddedLayer(NamedTuple):
    """Places of an operation's arrays in the workspace; parameters are offsets within a section.

    is_transposed : whether this is the last layer and narrow. Its weights are then (n_out, in_stride), its outputs and
        deltas (n_out, R): each lane holds a row of the batch
    lanes : of the vectors along this layer's outputs, or inputs where it is transposed
    flat : place of the weights, or the gain, in the caller's flat vector; biases, or the shift, follow
    transpose : W' (n_out, in_stride), for products that pass a delta down and are not transposed; else -1
    inputs, outputs : of the source, and before dropout; dropped : after dropout, or the outputs
    deltas : the place of the outputs where the activation's derivative ends the tiles of a product's deltas: no later
        stage reads the outputs, and a step touches half as much memory
    input_deltas : -1 where the source is the rows of X
    other, other_stride, other_deltas : of the second source, or -1
    added : a product's terms, which are then added to input_deltas; -1 where the product writes first there
    saved : (R, subrows * saved), each row's numbers that are saved for backward
    numbers : the hyperparameters of an operation
    ends_below : whether this operation multiplies its source's deltas by the derivative of the activation
    gain, shift : numbers of gain and shift of an operation other than a product; of a user's layer the gain is all
        parameters in order
    """

    n_in: int
    n_out: int
    is_transposed: bool
    lanes: int
    in_stride: int
    out_stride: int
    flat: int
    weights: int
    biases: int
    transpose: int
    inputs: int
    outputs: int
    dropped: int
    deltas: int
    input_deltas: int
    other: int = -1
    other_stride: int = 0
    other_deltas: int = -1
    added: int = -1
    saved: int = -1
    numbers: int = -1
    ends_below: bool = True
    gain: int = 0
    shift: int = 0


class PaddedLayout(NamedTuple):
    """The layout of a whole workspace.

    weights, gains : their ends in a section; biases and shifts follow up to `section`
    sections : the number of sections
    inputs : the rows of X of a block
    targets : as the last layer's outputs
    sums : (3, R), see `fastmlp.kernels.elementwise.losses`
    batched : logits, targets and outputs (n_out, LOSS_ROWS) of the rows whose loss is computed, or -1 where the last
        layer is transposed
    most_rows : R, the rows that the buffers have room for; whole vectors
    most : lanes of the machine's vector
    size : of the workspace, whole vectors
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
    most = host().vector_bytes // constants.itemsize
    operations = constants.operations
    count = len(operations)
    # The last tile may go beyond the rows of the batch, into spare rows.
    rows = up(constants.rows, LOSS_ROWS) + max(most, MOST_HEIGHT)
    readers = [source for one in operations for source in one.sources]
    strides, lanes_of, is_transposed = {INPUTS: operations[0].n_in}, {INPUTS: most}, False
    for i, one in enumerate(operations):
        in_lanes = lanes_of[one.sources[0]]
        is_transposed = 0 < i == count - 1 and one.n_out <= in_lanes // 2
        lanes_of[i] = in_lanes if is_transposed else fitting_lanes(one.n_out, most)
        strides[i] = up(one.n_out, lanes_of[i])

    at = 0

    def take(n, multiple=most):
        nonlocal at
        start, at = at, up(at + n, multiple)
        return start

    last, weights, biases = count - 1, {}, {}
    for i, one in enumerate(operations):
        if one.kind == "dense":
            turned = is_transposed and i == last
            weights[i] = take(one.n_out * strides[one.sources[0]] if turned else one.n_in * strides[i])
    # A multiple of the numbers in a round of the optimiser's unrolled loop, which then has no tail.
    all_weights = at = up(at, 4 * most)
    lengths = [one.entry.lengths(one.n_out) for one in operations]
    for i, (gain, _) in enumerate(lengths):
        if gain:
            weights[i] = take(up(gain, lanes_of[i]))
    gains = at = up(at, 4 * most)
    for i, (_, shift) in enumerate(lengths):
        if shift or operations[i].kind == "dense":
            biases[i] = take(strides[i])
    section = at = up(at, 4 * most)
    sections = 2 + RULE_CODES.of_key(constants.rule).moments
    at = sections * section
    inputs = take(rows * operations[0].n_in)
    # Outputs after dropout, and their deltas.
    given, deltas_of, layers = {INPUTS: inputs}, {INPUTS: -1}, []
    for i, one in enumerate(operations):
        source = one.sources[0]
        is_dense, is_last, below = one.kind == "dense", i == last, deltas_of[source]
        transposed = -1
        if is_dense and source != INPUTS and not (is_transposed and is_last):
            transposed = take(strides[source] * up(one.n_out, most))
        length = rows * (one.n_out if is_transposed and is_last else strides[i])
        outputs = deltas = dropped = take(length)
        alone = [reader for reader in operations if i in reader.sources]
        joined = is_dense and one.dropout == 0 and len(alone) == 1 and alone[0].kind == "dense"
        if is_last or not (joined and ACTIVATION_CODES.of_key(one.activation).short_backward):
            deltas = take(length)
        if one.dropout > 0:
            dropped = take(length)
        other, other_stride, other_deltas = -1, 0, -1
        if len(one.sources) > 1:
            second_source = one.sources[1]
            other, other_deltas = given[second_source] + one.second, deltas_of[second_source] + one.second
            other_stride = strides[second_source]
        under = operations[source]  # of no meaning for the rows of X
        ends_below = source != INPUTS and is_dense and under.kind == "dense"
        ends_below = ends_below and under.dropout == 0 and readers.count(source) == 1
        layers.append(
            PaddedLayer(
                one.n_in, one.n_out, is_transposed and is_last, lanes_of[i], strides[source], strides[i], one.flat,
                weights.get(i, -1), biases.get(i, -1), transposed, given[source], outputs, dropped, deltas,
                below, other, other_stride, other_deltas,
                take(rows * strides[source]) if is_dense and source != INPUTS and one.adds[0] else -1,
                take(one.subrows * one.entry.saved * rows) if one.entry.saved else -1,
                take(one.numbers) if one.numbers else -1, ends_below, *lengths[i],
            )
        )  # fmt: skip
        given[i], deltas_of[i] = dropped, deltas
    out_stride = strides[last]
    targets, sums = take(rows * out_stride), take(3 * rows)
    batched = -1 if is_transposed else take(3 * up(operations[last].n_out, most) * LOSS_ROWS)
    size = up(at + most, 4 * most)
    return PaddedLayout(
        tuple(layers), inputs, all_weights, gains, section, sections, targets, sums, batched, rows, most, size,
    )  # fmt: skip
