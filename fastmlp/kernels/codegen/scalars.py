"""Functions for each element of jitted loops: formulas, entries of tables, hints for LLVM, calls into Python."""

from functools import partial

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.formulas import elementary, numbers
from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.symbols import BIT, INT, jittable
from fastmlp.kernels.codegen.vectors import literal, of_arrays, of_code
from fastmlp.kernels.codes import LOSS_CODES, SOFTMAX
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.losses import LEAST_CROSS_ENTROPY, MOST_CROSS_ENTROPY, within

fma, exp, log = jittable(numbers.fma), jittable(elementary.exp), jittable(elementary.log)


@jittable
def clipped(clips: bool, value):
    """Return a cross-entropy, bounded where `Objective.clips` says so."""
    return where(clips, within(value, LEAST_CROSS_ENTROPY, MOST_CROSS_ENTROPY), value)


@of_code("activation")
def activation(entry, z):
    """Return the activation of a number."""
    return entry.formula(z)


def backward_of(entry, delta, z, a):
    """Return delta times an activation's derivative, for numbers as in `fastmlp.formulas`."""
    read = {"z": z, "a": a}
    return entry.backward(delta, **{name: read[name] for name in entry.reads})


activation_backward = of_code("activation")(backward_of)


def chain_of(entry, output, by_a, a):
    """Return the loss's derivative by a logit from by_a, the derivative by the output a.

    by_a : by the logit already where the entry is by_logit; for softmax less the row's sum of a * by_a
    output : the code of the output's activation, an integer `Symbol`
    """
    result = by_a
    if not entry.by_logit:
        for code, activation in enumerate(ACTIVATIONS.values()):
            if activation.name in entry.outputs and activation.name != "identity":
                new = by_a * a if code == SOFTMAX else activation.backward(by_a, a=a)
                result = where(output.equals(code), new, result)
    return result


@of_code("loss")
def within_bounds(entry, clips, value):
    """Return the loss of an element, bounded where `Objective.clips` says so."""
    return clipped.formula(clips, value) if entry.clips else value


TARGET, LOG, ROW = range(3)
"""The forms of losses: by target and outputs, by the logarithm of softmax, by a custom row."""


def form_of(entry):
    """Return the form of a loss: TARGET, LOG or ROW."""
    if entry.element is None:
        return ROW
    return LOG if entry.of_logs else TARGET


def _number_of(fact):
    """Return the intrinsic of a whole number in a loss's entry."""

    @intrinsic
    def number(typing_context, loss):
        if literal(loss):
            constant = INT(fact(LOSS_CODES[loss.literal_value]))
            return types.int64(loss), lambda context, builder, signature, values: constant

    return number


loss_form, outputs_per_target = map(_number_of, (form_of, lambda entry: entry.outputs_per_target))


def emit_target_loss(entry, output, along, scale, parameter, logits, expected, outputs, j):
    """Write the loss of target j of a row; return the unscaled loss, a `Symbol`.

    output : the code of the output's activation, an integer `Symbol`; scale : the factor of the row's loss
    along : for softmax the row's sum of a times the derivative by a, else 0
    logits, expected, outputs : the numbers of a row by unit; outputs become the scaled derivatives by the logits
    """
    indices = entry.indices(j, logits.units)
    z, a = ([numbers[index] for index in indices] for numbers in (logits, outputs))
    value, slopes = entry.of_target(z, a, expected[j], parameter)
    for index, slope, of_output in zip(indices, slopes, a):
        outputs[index] = scale * chain_of(entry, output, slope - along, of_output)
    return value


@of_code("loss")
def target_loss(entry, output, along, scale, parameter, logits, expected, outputs, j):
    """Return the loss of target j of a row, as `emit_target_loss`; 0 for losses of another form."""
    if form_of(entry) != TARGET:
        return scale.number(0.0)
    return emit_target_loss(entry, output, along, scale, parameter, logits, expected, outputs, j)


@of_code("loss")
def target_slope(entry, z, a, y, parameter):
    """Return the loss's derivative by a or z, of one output a target; 0 for losses of another form."""
    if "softmax" not in entry.outputs or form_of(entry) != TARGET:
        return z.number(0.0)
    return entry.of_target([z], [a], y, parameter)[1][0]


@of_code("loss", results=2)
def log_loss(entry, z, a, y, first, second, before):
    """Return the loss of a row's units so far, and the derivative by z = log(a); zeros for losses of another form.

    first, second : the loss's parameters; before : the loss of the units before
    """
    if form_of(entry) != LOG:
        return [z.number(0.0)] * 2
    return entry.element(z, a, y, (first, second), before)


def log_chain_of(entry, slope, a, along):
    """Return the derivative by a logit from slope, by log(a) or already by the logit; along : the row's sum"""
    return slope if entry.by_logit else numbers.fma(-a, along, slope)


log_chain = of_code("loss")(log_chain_of)


@intrinsic
def wide_vectors(typing_context):
    """Let the loops of the calling function use 512-bit vectors where the machine has them."""

    # LLVM uses 256 bits on most AVX-512 processors. This is the attribute of clang's -mprefer-vector-width=512.
    # llvmlite's own method refuses attributes that have a value, so the set's method is called. Numba optimises and
    # vectorises every jitted function before it inlines it: the call must stand in the function that has the loop.
    def emit(context, builder, signature, values):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), emit


@partial(of_arrays, result="int64")
def trailing_zeros(word):
    """Return the number of zero bits below the lowest 1 of a uint64; undefined for 0."""
    return word.builder.cttz(word.value, BIT(1))


@of_arrays
def call_back(address, step, first, last):
    """Call the C function at an address with three whole numbers, without a result."""
    build, kind = address.builder, ir.FunctionType(ir.VoidType(), [INT, INT, INT])
    build.call(build.inttoptr(address.value, kind.as_pointer()), [step.value, first.value, last.value])
