"""Functions that jitted loops call for each element or in between: formulas, entries of tables, hints for LLVM, calls into Python."""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.formulas import elementary, numbers
from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.arrays import VectorNumbers
from fastmlp.kernels.codegen.symbols import Symbol, intrinsic_like, jittable
from fastmlp.kernels.codegen.types import BYTE
from fastmlp.kernels.codegen.vectors import FLOATS, INT, data_pointer
from fastmlp.kernels.codes import BY_KIND, LOSS_CODES, RULE_CODES, SOFTMAX
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.losses import LEAST_CROSS_ENTROPY, MOST_CROSS_ENTROPY, within
from fastmlp.model.rules import ROOM_FOR_CONSTANTS

fma, exp, log = jittable(numbers.fma), jittable(elementary.exp), jittable(elementary.log)


@jittable
def clipped(clips: bool, value):
    """A cross-entropy, bounded where `Objective.clips` says so."""
    return where(clips, within(value, LEAST_CROSS_ENTROPY, MOST_CROSS_ENTROPY), value)


def literal(code):
    """Whether a code is a constant of the compilation. Numba types a call without its literals first: refused."""
    return isinstance(code, types.IntegerLiteral)


def of_code(kind, results=1):
    """Make of write(entry, *arguments), which writes code, the intrinsic (code, *arguments); code : a constant.

    kind : of codes, of `BY_KIND`; the entry is that of the code
    results : how many floats it returns, of the type of the first float among the arguments, which others take.
        Numbers come as `Symbol`s, and arrays (n,) as `VectorNumbers`
    """

    def decorate(write):
        def call(typing_context, code, *kinds):
            floats = [kind for kind in kinds if isinstance(kind, types.Float)]
            if not literal(code) or not floats:
                return None
            taken = [floats[0] if kind in floats else types.unliteral(kind) for kind in kinds]

            def emit(context, builder, signature, values):
                given = [
                    VectorNumbers.of_array(context, builder, kind, value)
                    if isinstance(kind, types.Array)
                    else Symbol(builder, value)
                    for kind, value in zip(taken, values[1:])
                ]
                found = write(BY_KIND[kind][code.literal_value], *given)
                if results == 1:
                    return found.value
                return context.make_tuple(builder, signature.return_type, [symbol.value for symbol in found])

            result = floats[0] if results == 1 else types.UniTuple(floats[0], results)
            return result(code, *taken), emit

        return intrinsic_like(write, call)

    return decorate


@of_code("activation")
def activation(entry, z):
    """Return the activation of one number."""
    return entry.formula(z)


@of_code("activation")
def activation_backward(entry, delta, z, a):
    """Return delta times the derivative at z, where the activation is a."""
    return backward_of(entry, delta, z, a)


def backward_of(entry, delta, z, a):
    """Return delta times an activation's derivative; the arguments are numbers that `fastmlp.formulas` takes."""
    read = {"z": z, "a": a}
    return entry.backward(delta, **{name: read[name] for name in entry.reads})


def chain_of(entry, output, by_a, a):
    """Return the loss's derivative by a logit, given its derivative by_a by the output a (or by the logit already).

    output : the code of the output's activation, an integer `Symbol`; for softmax by_a is less the row's sum of a * by_a
    """
    found = by_a
    if not entry.by_logit:
        for code, activation in enumerate(ACTIVATIONS.values()):
            if activation.name in entry.outputs and activation.name != "identity":
                new = by_a * a if code == SOFTMAX else activation.backward(by_a, a=a)
                found = where(output.equals(code), new, found)
    return found


@of_code("loss")
def within_bounds(entry, clips, value):
    """Return the loss of one element, bounded where `Objective.clips` says so."""
    return clipped.formula(clips, value) if entry.clips else value


TARGET, LOG, ROW = range(3)
"""The forms of losses: of a target and its outputs, of the logarithm of softmax, and of a user's row."""


def form_of(entry):
    """Return which of the forms a loss has."""
    if entry.element is None:
        return ROW
    return LOG if entry.of_logs else TARGET


def _number_of(fact):
    """Return the intrinsic of a whole number that a fact of a loss's entry is."""

    @intrinsic
    def number(typing_context, loss):
        if literal(loss):
            found = INT(fact(LOSS_CODES[loss.literal_value]))
            return types.int64(loss), lambda context, builder, signature, values: found

    return number


loss_form, outputs_per_target = map(_number_of, (form_of, lambda entry: entry.outputs_per_target))


def emit_target_loss(entry, output, along, scale, parameter, logits, expected, outputs, j):
    """Write the loss of target j of a row, or of several; return it, not scaled, a `Symbol`.

    output : the code of the output's activation, an integer `Symbol`; scale : the factor of the row's loss
    along : of softmax the row's sum of a times the derivative by a, else 0
    logits, expected, outputs : the numbers of a row by unit; outputs become the scaled derivatives by the logits
    """
    places = entry.places(j, logits.units)
    z, a = ([numbers[place] for place in places] for numbers in (logits, outputs))
    value, slopes = entry.of_target(z, a, expected[j], parameter)
    for place, slope, own in zip(places, slopes, a):
        outputs[place] = scale * chain_of(entry, output, slope - along, own)
    return value


@of_code("loss")
def target_loss(entry, output, along, scale, parameter, logits, expected, outputs, j):
    """Return the loss of target j of a row, as `emit_target_loss`; 0 where it has another form."""
    if form_of(entry) != TARGET:
        return scale.number(0.0)
    return emit_target_loss(entry, output, along, scale, parameter, logits, expected, outputs, j)


@of_code("loss")
def target_slope(entry, z, a, y, parameter):
    """Return the derivative of the loss by a or by z, of one output a target; 0 where it is another loss."""
    if "softmax" not in entry.outputs or form_of(entry) != TARGET:
        return z.number(0.0)
    return entry.of_target([z], [a], y, parameter)[1][0]


@of_code("loss", results=2)
def log_loss(entry, z, a, y, first, second, before):
    """Return the loss of units up to one, and its derivative by z = log(a); zeros where it has another form.

    first, second : the loss's parameters; before : the loss of the units before
    """
    if form_of(entry) != LOG:
        return [z.number(0.0)] * 2
    return entry.element(z, a, y, (first, second), before)


@of_code("loss")
def log_chain(entry, slope, a, along):
    """Return the derivative by a logit from that by log(a), which sum to `along`."""
    return log_chain_of(entry, slope, a, along)


def log_chain_of(entry, slope, a, along):
    """`log_chain`; of a loss whose derivative is by the logit already, that."""
    return slope if entry.by_logit else numbers.fma(-a, along, slope)


def constants_at(context, builder, kind, value):
    """Return a rule's constants, scalars, from the float64 array that holds them."""
    place, double = data_pointer(context, builder, kind, value), FLOATS[types.float64]
    # Nothing writes to them while a program runs. LLVM has the hint: it computes what follows from them once a chunk.
    never_changes = builder.module.add_metadata([])

    def read(i):
        value = builder.load(builder.gep(place, [INT(i)], source_etype=double), typ=double)
        value.set_metadata("invariant.load", never_changes)
        return value

    return [Symbol(builder, read(i)) for i in range(ROOM_FOR_CONSTANTS)]


@intrinsic
def step_element(typing_context, code, i, rate, constants, t, g, p, moments):
    """Take the step of parameter i and its moments, in arrays (n,) and (rows, n); code : the rule's, a constant."""
    if literal(code):
        entry = RULE_CODES[code.literal_value]

        def emit(context, builder, signature, values):
            kind, pointers = (
                FLOATS[p.dtype],
                step_pointers(context, builder, entry, (g, p, moments), values[5:]),
            )
            at = [builder.gep(pointer, [values[1]], source_etype=kind) for pointer in pointers]
            numbers_at = constants_at(context, builder, constants, values[3])
            numbers = Symbol(builder, values[2]), numbers_at, Symbol(builder, values[4])
            take_step(entry, *numbers, [Place(builder, place, kind) for place in at])
            return context.get_dummy_value()

        arrays = g, p, moments
        return types.void(code, types.intp, types.float64, constants, types.float64, *arrays), emit


def step_pointers(context, builder, entry, kinds, values):
    """Return pointers to a gradient (n,), to parameters (n,), and to each row of moments (rows, n) of a rule."""
    *found, row = (data_pointer(context, builder, *array) for array in zip(kinds, values, strict=True))
    distance = builder.extract_value(context.make_array(kinds[2])(context, builder, values[2]).strides, 0)
    for _ in range(entry.moments):
        found.append(row)
        row = builder.gep(row, [distance], source_etype=BYTE)
    return found


class Place:
    """The place in memory of a number or a vector, in code that is being written."""

    def __init__(self, builder, pointer, kind):
        self.builder, self.pointer, self.kind = builder, pointer, kind

    def load(self):
        return Symbol(self.builder, self.builder.load(self.pointer, typ=self.kind))

    def store(self, symbol):
        self.builder.store(symbol.value, self.pointer)


def take_step(entry, rate, constants, t, places, penalty=None):
    """Write a rule's step.

    places : of a gradient, a parameter and each of its moments
    penalty : penalty * parameter is added to the gradient, if given
    """
    at_g, at_p, *at_moments = places
    g, p = at_g.load(), at_p.load()
    if penalty is not None:
        g = numbers.fma(penalty, p, g)
    new, moments = entry.formula(p, g, [place.load() for place in at_moments], rate, constants, t)
    for place, symbol in zip([at_p, *at_moments], [new, *moments], strict=True):
        place.store(p.number(symbol))  # a formula may return one number for all parameters


@intrinsic
def accumulate(typing_context, total, term):
    """Return total + term. LLVM may add the terms of a loop in any order, so that it can vectorise the loop."""

    def emit(context, builder, signature, values):
        return builder.fadd(*values, flags=("reassoc", "nsz"))

    if isinstance(total, types.Float) and total == term:
        return total(total, term), emit


@intrinsic
def wide_vectors(typing_context):
    """Let the loops of the calling function use 512-bit vectors where the machine has them; called once in it.

    LLVM uses 256 bits on most AVX-512 processors. This sets the attribute that clang's -mprefer-vector-width=512 sets.
    llvmlite's own method refuses attributes that have a value, so this calls the set's. Numba optimises and
    vectorises every jitted function before it inlines it: the call must stand in the function that has the loop.
    """

    def emit(context, builder, signature, values):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.none(), emit


@intrinsic
def trailing_zeros(typing_context, word):
    """Return the number of zero bits below the lowest 1 of a uint64; undefined for 0."""

    def emit(context, builder, signature, values):
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), emit


@intrinsic
def call_back(typing_context, address, step, first, last):
    """Call the C function at an address, of three whole numbers, which returns nothing."""

    def emit(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [INT, INT, INT])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), emit
