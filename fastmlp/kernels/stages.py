"""The stages of a small network's step: each layer's products, activations, losses, the row gather.

Separate because these know the mathematics and the layout (`fastmlp.kernels.padded`), where
`fastmlp.kernels.lanes` knows only shapes. No logit of a hidden layer is kept: what its activation's
derivative needs is taken from the activation's value, which leaves out gelu and silu.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.kernels import lanes
from fastmlp.kernels.elements import (
    BACKWARD,
    FUNCTIONS,
    cross_entropy_term,
    identity,
    squared_error,
    weighted,
    within_bounds,
)
from fastmlp.kernels.own import Intrinsic, stage
from fastmlp.kernels.padded import dividing_lanes
from fastmlp.kernels.scalars import accumulate, at_least, exp_nonpositive, log, wide_vectors
from fastmlp.kernels.symbols import Symbol, jittable
from fastmlp.kernels.vectors import INT

# --- activations -----------------------------------------------------------------------------------

IN_TILE = ("identity", "relu", "leaky_relu")
"""Activations that end a tile while it is in registers; the others take a pass of their own."""

HIDDEN = (*IN_TILE, "elu", "softplus", "sigmoid", "tanh")
"""The hidden activations that there are stages for."""

OUTPUTS = ("identity", "sigmoid", "exp")
"""The outputs whose squared error there is a stage for."""


def rectify(name):
    """The end of a tile of logits, where it has one."""
    if name not in IN_TILE or name == "identity":
        return None

    def finish(machine, z, pointer):
        return FUNCTIONS[name](Symbol(machine.builder, z)).value

    return finish


def times_derivative(name, distance):
    """The end of a tile of derivatives by an activation, which stands `distance` elements from the tile."""
    if name in ("identity", "softplus"):
        return None

    def finish(machine, delta, pointer):
        a = machine.load(pointer, delta.type.count, distance)
        return BACKWARD[name](Symbol(machine.builder, delta), Symbol(machine.builder, a)).value

    return finish


def activate(layer, name):
    """The activation over a block, in place; columns of padding too, which keeps the loop whole."""
    if name in IN_TILE:
        return None
    function, at, stride = jittable(FUNCTIONS[name]), layer.outputs, layer.out_stride

    @stage
    def activation(work, rows):
        wide_vectors()
        # From 0: with another start LLVM cannot exclude negative indices, whose wrap-around keeps
        # the loop scalar.
        for i in range(rows * stride):
            work[at + i] = function(work[at + i])

    return activation


def activate_gradient(layer, name):
    """The deltas of the layer's inputs times the derivative, where the tile could not do it."""
    if layer.input_deltas < 0 or name != "softplus":
        return None
    backward_of = jittable(BACKWARD[name])
    a_at, delta_at, stride = layer.inputs, layer.input_deltas, layer.in_stride

    @stage
    def slope(work, rows):
        wide_vectors()
        for i in range(rows * stride):
            work[delta_at + i] = backward_of(work[delta_at + i], work[a_at + i])

    return slope


# --- one layer -----------------------------------------------------------------------------------


def forward(layer, activation):
    """outputs = inputs W + b; relu already in the tile."""
    if layer.narrow:
        return lanes.dots(layer.n_out, layer.lanes, layer.inputs, layer.in_stride, layer.weights,
                          layer.in_stride, layer.in_stride, layer.outputs, layer.spread_bias)  # fmt: skip
    return lanes.product(layer.out_stride, layer.lanes, layer.inputs, layer.in_stride, 1, layer.weights,
                         layer.out_stride, layer.outputs, layer.out_stride, terms=layer.n_in, start="bias",
                         bias=layer.biases, finish=rectify(activation))  # fmt: skip


def backward(layer, activation):
    """input_deltas = deltas W' times the derivative of the activation that made the inputs."""
    if layer.input_deltas < 0:
        return None
    width = layer.lanes if layer.narrow else dividing_lanes(layer.in_stride, layer.most)
    weights = layer.weights if layer.narrow else layer.transposed
    return lanes.product(layer.in_stride, width, layer.deltas, layer.out_stride, 1, weights,
                         layer.in_stride, layer.input_deltas, layer.in_stride, terms=layer.n_out,
                         finish=times_derivative(activation, layer.inputs - layer.input_deltas))  # fmt: skip


def gradient(layer, section, start):
    """The gradients of weights and biases, contracted over the block's real rows: a list of stages."""
    weights, biases = section + layer.weights, section + layer.biases
    if not layer.narrow:
        return [
            lanes.product(layer.out_stride, layer.lanes, layer.inputs, 1, layer.in_stride, layer.deltas,
                          layer.out_stride, weights, layer.out_stride, height=layer.n_in, start=start),
            lanes.column_sums(layer.out_stride, layer.lanes, layer.deltas, layer.out_stride, biases, start),
        ]  # fmt: skip
    product = lanes.product(layer.in_stride, layer.lanes, layer.deltas, 1, layer.n_out, layer.inputs,
                            layer.in_stride, weights, layer.in_stride, height=layer.n_out, start=start,
                            row_sums=biases)  # fmt: skip
    return [product, _clear_padding(weights, layer) if layer.in_stride > layer.n_in else None]


def _clear_padding(at, layer):
    """An activation that is not 0 at 0 leaves the inputs' padding nonzero; the weights of padding stay 0."""
    n_in, stride, n_out = layer.n_in, layer.in_stride, layer.n_out

    @stage
    def clear_padding(work, rows):
        for j in range(n_out):
            for i in range(stride - n_in):
                work[at + n_in + j * stride + i] = 0

    return clear_padding


def refresh(layer):
    """What a step needs in another order than the parameters have: W' for `backward`, a narrow bias."""
    if layer.transposed >= 0:
        size = min(layer.lanes, dividing_lanes(layer.in_stride, layer.most))
        return lanes.transpose(layer.n_in, layer.out_stride, size, layer.weights, layer.out_stride,
                               layer.transposed, layer.in_stride)  # fmt: skip
    if not layer.narrow:
        return None
    biases, spread, n_out, width = layer.biases, layer.spread_bias, layer.n_out, layer.lanes

    @stage
    def repeat_bias(work, rows):
        for i in range(width):
            work[spread + i] = work[biases + i % n_out]

    return repeat_bias


# --- losses: (work, rows) -> the rows' loss; deltas are written -------------------------------------


def loss_of(constants, places):
    """The loss and the last layer's deltas. Shares are 0 in columns of padding, so one flat loop serves."""
    layer, y_at, share_at = places.layers[-1], places.targets, places.shares
    z_at, delta_at, stride, n_out = layer.outputs, layer.deltas, layer.out_stride, layer.n_out
    bounded = jittable(within_bounds if constants.clips else identity)
    if constants.loss == "cross_entropy":
        return _softmax_loss(z_at, delta_at, y_at, share_at, stride, n_out, bounded)
    binary = constants.loss == "binary_cross_entropy"
    term = jittable(cross_entropy_term if binary else squared_error(constants.output))

    @stage
    def loss(work, rows) -> float:
        wide_vectors()
        total = type(work[0])(0)
        for i in range(rows * stride):
            share = work[share_at + i]
            value, delta = term(work[z_at + i], work[y_at + i])
            total = accumulate(total, weighted(share, bounded(value)))
            work[delta_at + i] = weighted(share, delta)
        return total

    return loss


def _softmax_loss(z_at, delta_at, y_at, share_at, stride, n_out, bounded):
    """Cross-entropy of softmax from the logits: sum y (log sum exp - z), delta = softmax - y."""

    @stage
    def loss(work, rows) -> float:
        wide_vectors()
        zero, one = type(work[0])(0), type(work[0])(1)
        total = zero
        for r in range(rows):
            at = r * stride
            top = work[z_at + at]
            for j in range(1, n_out):
                top = at_least(top, work[z_at + at + j])
            summed, dot, labels = zero, zero, zero
            for j in range(n_out):
                shifted = work[z_at + at + j] - top
                e = exp_nonpositive(shifted)
                work[delta_at + at + j] = e
                summed = accumulate(summed, e)
                dot = accumulate(dot, work[y_at + at + j] * shifted)
                labels = accumulate(labels, work[y_at + at + j])
            share = work[share_at + at]
            total = accumulate(total, weighted(share, bounded(log(summed) * labels - dot)))
            inverse = one / summed
            for j in range(n_out):
                error = work[delta_at + at + j] * inverse - work[y_at + at + j]
                work[delta_at + at + j] = weighted(share, error)
        return total

    return loss


# --- rows of a batch -----------------------------------------------------------------------------


def _places(count, most):
    """The longest vectors that cover `count` elements, the last overlapping the one before: (lanes, places)."""
    width = min(most, 1 << (count.bit_length() - 1))
    return width, (*range(0, count - width + 1, width), *([count - width] if count % width else []))


def _copy(machine, source, target, count, most):
    width, places = _places(count, most)
    for at in places:
        machine.store(machine.load(source, width, at), target, at)


def gather(where):
    """intrinsic(work, inputs, targets, weights, order, start, rows, share): a block's rows into the workspace.

    An intrinsic because Numba's loop copies element by element: inputs and work might overlap for
    all that LLVM knows.
    """
    first, last = where.layers[0], where.layers[-1]
    n_in, n_out, stride, most = first.n_in, last.n_out, last.out_stride, last.most

    @Intrinsic
    def copy_rows(typingctx, work, inputs, targets, weights, order, start, rows, share):
        def codegen(context, builder, signature, args):
            arrays = zip(signature.args[:5], args)
            work, inputs, targets, weights, order = (
                cgutils.create_struct_proxy(kind)(context, builder, value).data for kind, value in arrays
            )
            element = context.get_data_type(signature.args[0].dtype)
            machine = lanes.Machine(builder, work, element)
            with lanes.strided(builder, args[6], 1) as (r, _):
                row = builder.load(builder.gep(order, [builder.add(args[5], r)]))
                from_inputs = builder.gep(inputs, [builder.mul(row, INT(n_in))])
                from_targets = builder.gep(targets, [builder.mul(row, INT(n_out))])
                _copy(machine, from_inputs, machine.at(first.inputs, (r, n_in)), n_in, most)
                _copy(machine, from_targets, machine.at(where.targets, (r, stride)), n_out, most)
                weight = builder.load(builder.gep(weights, [row]))
                if element != ir.DoubleType():
                    weight = builder.fpext(weight, ir.DoubleType())
                counts = builder.fmul(weight, args[7])
                if element != ir.DoubleType():
                    counts = builder.fptrunc(counts, element)
                width, places = _places(n_out, most)
                spread, shares = (
                    lanes.broadcast(builder, counts, width),
                    machine.at(where.shares, (r, stride)),
                )
                for at in places:
                    machine.store(spread, shares, at)
            return context.get_dummy_value()

        numbers = (types.int64, types.int64, types.float64)
        return types.none(work, inputs, targets, weights, order, *numbers), codegen

    return copy_rows
