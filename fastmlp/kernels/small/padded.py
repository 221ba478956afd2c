"""Where a small network's arrays stand in a private workspace whose rows are whole vectors.

Separate because `fastmlp.kernels.small.stages` writes code with offsets into this layout. Every row of a weight matrix,
activation or delta is a whole number of vectors, so that no loop has a tail. The weights of padding are 0 and stay 0,
because their gradients are 0. Where the outputs of the last layer would fill less than half of a vector, they and their
deltas are stored as their transpose. A section holds one padded parameter vector: all layers' weights, then all biases.
Parameters are section 0; gradients and two moments follow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastmlp.kernels.codegen.machine import MOST_HEIGHT, host
from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.program.arithmetic import LOSS_ROWS


class Constants(NamedTuple):
    """All constants of a program for one network; whatever is not here is data.

    hidden, loss, rule : keys of pieces; output : a name
    clips : see `Network.clips`; l2 : whether there is an l2 penalty
    dtype, itemsize : of the numbers
    rows : the most rows that a step takes through the network together
    blocks : whether a step may have more rows than that
    groups : the number of groups of blocks; the groups' gradients are summed in a fixed order
    """

    sizes: tuple[int, ...]
    hidden: tuple[str, ...]
    output: str
    loss: str
    clips: bool
    rule: str
    l2: bool
    dtype: str
    itemsize: int
    rows: int
    blocks: bool
    groups: int


class Layer(NamedTuple):
    """Where a layer's arrays stand in the workspace; parameters are offsets within a section.

    sideways : whether this is the last layer and narrow. Its weights are then (n_out, in_stride), its outputs and
        deltas (n_out, R): each lane holds a row of the batch
    lanes : of the vectors along this layer's outputs, or inputs where it is sideways
    flat : place of the weights in the caller's flat vector; biases follow
    transposed : W' (n_out, in_stride), for layers that pass a delta down and are not sideways; else -1
    deltas : where the outputs are, of a hidden layer whose activation's derivative ends the tile that makes them: by
        then nothing else reads the outputs, and a step touches half as much memory
    input_deltas : -1 in the first layer
    """

    n_in: int
    n_out: int
    sideways: bool
    lanes: int
    in_stride: int
    out_stride: int
    flat: int
    weights: int
    biases: int
    transposed: int
    inputs: int
    outputs: int
    deltas: int
    input_deltas: int


class Plan(NamedTuple):
    """A whole workspace.

    weights : elements of a section that are weights; biases follow up to `section`
    gradients, first, second : offsets of the sections
    targets : as the last layer's outputs
    sums : (3, R), see `fastmlp.kernels.elementwise.abreast`
    abreast : logits, targets and outputs (n_out, LOSS_ROWS) of the rows whose loss is computed, or -1 where the last
        layer is sideways
    most_rows : R, the rows that the buffers have room for; whole vectors
    most : lanes of the machine's vector
    shared : offset of the groups' gradients, `groups` sections each for even and odd steps; only worker 0's are used
    size : of one worker's workspace, whole vectors
    """

    layers: tuple[Layer, ...]
    weights: int
    section: int
    gradients: int
    first: int
    second: int
    targets: int
    sums: int
    abreast: int
    most_rows: int
    most: int
    shared: int
    size: int


def up(n, multiple):
    """Return n rounded up to a multiple."""
    return -(-n // multiple) * multiple


def fitting_lanes(n, most):
    """Return the lanes of the smallest vector that holds n elements, at least 4, at most the machine's."""
    return max(min(4, most), min(most, 1 << (n - 1).bit_length()))


def dividing_lanes(stride, most):
    """Return the lanes of the longest vector that divides the stride."""
    return min(most, stride & -stride)


def plan(constants):
    """Return the layout for a network."""
    most = host().vector_bytes // constants.itemsize
    sizes = constants.sizes
    count = len(sizes) - 1
    # The last tile may go beyond the rows of the batch, into spare rows.
    rows = up(constants.rows, LOSS_ROWS) + max(most, MOST_HEIGHT)
    drafts = []
    flat, in_stride, in_lanes = 0, sizes[0], most
    for i in range(count):
        n_in, n_out = sizes[i], sizes[i + 1]
        sideways = 0 < i == count - 1 and n_out <= in_lanes // 2
        lanes = in_lanes if sideways else fitting_lanes(n_out, most)
        out_stride = up(n_out, lanes)
        drafts.append((n_in, n_out, sideways, lanes, in_stride, out_stride, flat))
        flat += n_in * n_out + n_out
        in_stride, in_lanes = out_stride, lanes

    at = 0

    def take(n, multiple=most):
        nonlocal at
        start, at = at, up(at + n, multiple)
        return start

    weights = [
        take(n_out * stride if sideways else n_in * out)
        for n_in, n_out, sideways, _, stride, out, _ in drafts
    ]
    # A multiple of the numbers in a round of the optimiser's unrolled loop, which then has no tail.
    all_weights = at = up(at, 4 * most)
    biases = [take(out_stride) for *_, out_stride, _ in drafts]
    section = at = up(at, 4 * most)
    gradients, first, second = (take(section) for _ in range(3))
    inputs, input_deltas = take(rows * sizes[0]), -1
    layers = []
    for i, (n_in, n_out, sideways, lanes, in_stride, out_stride, flat) in enumerate(drafts):
        transposed = -1 if i == 0 or sideways else take(in_stride * up(n_out, most))
        length = rows * (n_out if sideways else out_stride)
        outputs = deltas = take(length)
        if i == count - 1 or not ACTIVATION_CODES.of_key(constants.hidden[i]).short_backward:
            deltas = take(length)
        layers.append(
            Layer(
                n_in, n_out, sideways, lanes, in_stride, out_stride, flat, weights[i], biases[i],
                transposed, inputs, outputs, deltas, input_deltas,
            )
        )  # fmt: skip
        inputs, input_deltas = outputs, deltas
    targets, sums = take(rows * out_stride), take(3 * rows)
    abreast = -1 if sideways else take(3 * up(n_out, most) * LOSS_ROWS)
    shared = take(2 * constants.groups * section if constants.groups > 1 else 0)
    size = up(at + most, 4 * most)
    return Plan(
        tuple(layers), all_weights, section, gradients, first, second, targets, sums, abreast, rows, most,
        shared, size,
    )  # fmt: skip


def table(layers):
    """Return the layout for `copy_in` and `copy_out`, (layers, 7) int64.

    n_in, n_out, place in the flat vector, place in a section, strides along inputs and outputs there,
    place of the biases.
    """
    strides = [(1, at.in_stride) if at.sideways else (at.out_stride, 1) for at in layers]
    return np.array(
        [
            (at.n_in, at.n_out, at.flat, at.weights, *pair, at.biases)
            for at, pair in zip(layers, strides, strict=True)
        ]
    )
