"""The stages of a small network's step: each layer's products, activations, losses, the row gather.

Separate because these know the mathematics and the layout (`fastmlp.kernels.small.padded`), where
`fastmlp.kernels.small.lanes` knows only shapes. No logit of a hidden layer is kept: what its activation's
derivative needs is taken from the activation's value, which leaves out gelu and silu.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.scalars import (
    accumulate,
    at_least,
    backward_of,
    clipped,
    constants_at,
    exp_nonpositive,
    log,
    wide_vectors,
)
from fastmlp.kernels.codegen.symbols import Symbol, jittable
from fastmlp.kernels.codegen.vectors import FLOATS, INT, broadcast, data_pointer
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.elementwise.steps import emit_steps
from fastmlp.kernels.jit.disposable import Intrinsic, stage
from fastmlp.kernels.small import lanes
from fastmlp.kernels.small.padded import dividing_lanes

# --- activations -----------------------------------------------------------------------------------


def rectify(key):
    """The end of a tile of logits, where the activation is short enough for one."""
    entry = ACTIVATION_CODES.of_key(key)
    if not entry.short or key == "identity":
        return None

    def finish(machine, z, pointer):
        return entry.formula(Symbol(machine.builder, z)).value

    return finish


def times_derivative(key, distance):
    """The end of a tile of derivatives by an activation, which stands `distance` elements from the tile."""
    entry = ACTIVATION_CODES.of_key(key)
    if not entry.short_backward or key == "identity":
        return None

    def finish(machine, delta, pointer):
        a = machine.load(pointer, delta.type.count, distance)
        return backward_of(entry, Symbol(machine.builder, delta), None, Symbol(machine.builder, a)).value

    return finish


def activate(layer, key):
    """The activation over a block, in place; columns of padding too, which keeps the loop whole."""
    entry = ACTIVATION_CODES.of_key(key)
    if entry.short:
        return None
    function, at, stride = jittable(entry.formula), layer.outputs, layer.out_stride

    @stage
    def activation(work, rows):
        wide_vectors()
        # From 0: with another start LLVM cannot exclude negative indices, whose wrap-around keeps
        # the loop scalar.
        for i in range(rows * stride):
            work[at + i] = function(work[at + i])

    return activation


# Cached, here and below: what is made of a formula for jitted code stays with Numba for ever.
@functools.cache
def _backward(key):
    entry = ACTIVATION_CODES.of_key(key)
    return jittable(lambda delta, a: backward_of(entry, delta, None, a))


def activate_gradient(layer, key):
    """The deltas of the layer's inputs times the derivative, where the tile could not do it."""
    entry = ACTIVATION_CODES.of_key(key)
    if layer.input_deltas < 0 or entry.short_backward:
        return None
    backward = _backward(key)
    a_at, delta_at, stride = layer.inputs, layer.input_deltas, layer.in_stride

    @stage
    def slope(work, rows):
        wide_vectors()
        for i in range(rows * stride):
            work[delta_at + i] = backward(work[delta_at + i], work[a_at + i])

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


# --- losses: (work, rows, parameter) -> the rows' loss; deltas are written --------------------------


@functools.cache
def _term(loss, output):
    entry, output = LOSS_CODES.of_key(loss), ACTIVATION_CODES.of_key(output)

    @jittable
    def term(z, y, parameter) -> tuple[float, float]:
        a = output.formula(z)
        value, slope = entry.element(z, a, y, parameter)
        return value, slope if entry.by_logit else backward_of(output, slope, z, a)

    return term


def loss_of(constants, places):
    """The loss and the last layer's deltas. Shares are 0 in columns of padding, so one flat loop serves."""
    layer, y_at, share_at = places.layers[-1], places.targets, places.shares
    z_at, delta_at, stride, n_out = layer.outputs, layer.deltas, layer.out_stride, layer.n_out
    clips, entry = constants.clips, LOSS_CODES.of_key(constants.loss)
    if entry.element is None:
        return _softmax_loss(z_at, delta_at, y_at, share_at, stride, n_out, clips)
    term = _term(constants.loss, constants.output)

    @stage
    def loss(work, rows, parameter) -> float:
        wide_vectors()
        total, number = type(work[0])(0), type(work[0])(parameter)
        for i in range(rows * stride):
            share = work[share_at + i]
            value, delta = term(work[z_at + i], work[y_at + i], number)
            total = accumulate(total, weighted(share, clipped(clips, value)))
            work[delta_at + i] = weighted(share, delta)
        return total

    return loss


@jittable
def weighted(share, value):
    """share * value, and nothing of a row without weight: 0 * inf must not arise.

    A select, as a branch would take all that only the value needs into it, and keep the loop scalar.
    """
    return where(share.equals(0.0), 0.0, share * value)


def _softmax_loss(z_at, delta_at, y_at, share_at, stride, n_out, clips):
    """Cross-entropy of softmax from the logits: sum y (log sum exp - z), delta = softmax - y."""

    @stage
    def loss(work, rows, parameter) -> float:
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
            total = accumulate(total, weighted(share, clipped(clips, log(summed) * labels - dot)))
            inverse = one / summed
            for j in range(n_out):
                error = work[delta_at + at + j] * inverse - work[y_at + at + j]
                work[delta_at + at + j] = weighted(share, error)
        return total

    return loss


# --- steps ---------------------------------------------------------------------------------------


def update(key, at, count, plan, penalised):
    """intrinsic(work, penalty, constants, rate, t): a rule's step of `count` parameters from `at` on."""
    entry = RULE_CODES.of_key(key)
    offsets = plan.gradients + at, at, plan.first + at, plan.second + at

    @Intrinsic
    def take(typingctx, work, penalty, constants, rate, t):
        def codegen(context, builder, signature, args):
            base = data_pointer(context, builder, work, args[0])
            kind = FLOATS[work.dtype]
            pointers = [builder.gep(base, [INT(offset)], source_etype=kind) for offset in offsets]
            told = constants_at(context, builder, constants, args[2])
            penalty, rate, t = (Symbol(builder, args[i]) for i in (1, 3, 4))
            emit_steps(
                builder,
                work.dtype,
                entry,
                INT(count),
                pointers,
                rate,
                told,
                t,
                penalty if penalised else None,
            )
            return context.get_dummy_value()

        return types.void(work, types.float64, constants, types.float64, types.float64), codegen

    return take


# --- rows of a batch -----------------------------------------------------------------------------


def _places(count, most):
    """The longest vectors that cover `count` elements, the last overlapping the one before: (lanes, places)."""
    width = min(most, 1 << (count.bit_length() - 1))
    return width, (*range(0, count - width + 1, width), *([count - width] if count % width else []))


def _copy(machine, source, target, count, most):
    width, places = _places(count, most)
    for at in places:
        machine.store(machine.load(source, width, at), target, at)


def gather(plan):
    """intrinsic(work, inputs, targets, weights, order, start, rows, share): a block's rows into the workspace.

    An intrinsic because Numba's loop copies element by element: inputs and work might overlap for
    all that LLVM knows.
    """
    first, last = plan.layers[0], plan.layers[-1]
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
                _copy(machine, from_targets, machine.at(plan.targets, (r, stride)), n_out, most)
                weight = builder.load(builder.gep(weights, [row]))
                if element != ir.DoubleType():
                    weight = builder.fpext(weight, ir.DoubleType())
                counts = builder.fmul(weight, args[7])
                if element != ir.DoubleType():
                    counts = builder.fptrunc(counts, element)
                width, places = _places(n_out, most)
                spread, shares = (
                    broadcast(builder, counts, width),
                    machine.at(plan.shares, (r, stride)),
                )
                for at in places:
                    machine.store(spread, shares, at)
            return context.get_dummy_value()

        numbers = (types.int64, types.int64, types.float64)
        return types.none(work, inputs, targets, weights, order, *numbers), codegen

    return copy_rows
