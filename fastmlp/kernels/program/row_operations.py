"""Operations on rows that are no product: formulas of a row, concatenations, copies for several networks.

The code of a formula of a row stands in `row_formulas`.
"""

# mypy: ignore-errors

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.scalars import literal
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import FLOATS, INT, ITEMSIZE
from fastmlp.kernels.codegen.vectors import Vectors, data_pointer
from fastmlp.kernels.codegen.views import chosen, vector
from fastmlp.kernels.codes import CONCATENATE, COPY, MEMBERS, OPERATION_CODES
from fastmlp.kernels.program import row_formulas
from fastmlp.kernels.program.row_formulas import LANES, Row

MACHINE_EPSILON = {4: 2.0**-23, 8: 2.0**-52}
"""What a hyperparameter that is NaN stands for, by the bytes of a number."""


def _of_row(names):
    """Make of write(kind, row, *values), which writes code, the intrinsic (code, count, numbers, *arrays,
    *values).

    names : what the arrays are called, of which the first is a row; count : its units as a float
    code : of the kind; numbers : its hyperparameters (MOST_NUMBERS,) float64
    """

    def decorate(write):
        def call(typing_context, code, *kinds):
            if not literal(code):
                return None
            count, numbers, *arrays = kinds[: len(names) + 2]

            def emit(context, builder, signature, packed):
                values = [builder.extract_value(packed[1], i) for i in range(len(kinds))]
                kind = OPERATION_CODES[code.literal_value]
                if getattr(kind, "row", None) is not None:
                    pairs = zip(arrays, values[2:], strict=False)
                    places = [data_pointer(context, builder, *pair) for pair in pairs]
                    units = Symbol(builder, context.make_array(arrays[0])(context, builder, values[2]).nitems)
                    v = Vectors(builder, count, LANES * ITEMSIZE[count])
                    given = dict(zip(names, places, strict=True))
                    first = data_pointer(context, builder, numbers, values[1])
                    own = [number_at(builder, first, i, v.itemsize) for i in range(len(kind.row.numbers))]
                    row = Row(v, units, Symbol(builder, values[0]), given, own)
                    write(kind, row, *(Symbol(builder, value) for value in values[len(names) + 2 :]))
                return context.get_dummy_value()

            return types.none(code, types.StarArgTuple(kinds)), emit

        call.__name__, call.__doc__ = write.__name__, write.__doc__
        call.__qualname__, call.__module__ = write.__qualname__, write.__module__
        return intrinsic(call)

    return decorate


def number_at(builder, first, place, itemsize):
    """A hyperparameter, float64."""
    double = FLOATS[types.float64]
    number = Symbol(builder, builder.load(builder.gep(first, [INT(place)], source_etype=double), typ=double))
    return number.choose(number.equals(number), number, MACHINE_EPSILON[itemsize])


@_of_row(("x", "other", "gain", "shift", "kept", "out"))
def row_forward(kind, row):
    """out (units,) = the operation of the rows x and other (units,); kept : what the others read."""
    row_formulas.forward(kind, row)


@_of_row(("x", "other", "gain", "kept", "delta", "out", "out2"))
def row_backward(kind, row, adds, adds_other):
    """out, out2 (units,) = the derivatives by x and other, given delta; or += where adds, adds_other."""
    row_formulas.backward(kind, row, (adds, adds_other))


@_of_row(("x", "other", "gain", "kept", "delta", "out"))
def row_gradient(kind, row):
    """out, as the gain, += the derivative of the loss by it, of one row."""
    row_formulas.gradient(kind, row)


def operate(code, numbers, members, second, gain, shift, x, other, kept, out):
    """out (rows, n_out) = the operation `code` of x (rows, ..), and of other (rows, ..) where it reads two.

    numbers : hyperparameters, see OPERATION; second : where in a row of other the units begin that it reads
    members : whose rows follow one another in turn, each with its own part of gain and shift
    gain, shift : (members * n_out,), or empty; the gain of a user's layer is all its parameters
    kept : (rows, n), written: what the operation saves for backward
    """
    rows, n_in = x.shape
    if code == CONCATENATE:
        for i in range(rows):
            for j in range(n_in):
                out[i, j] = x[i, j]
            for j in range(other.shape[1]):
                out[i, n_in + j] = other[i, j]
    elif code == MEMBERS:
        for i in range(rows):
            for j in range(out.shape[1]):
                out[i, j] = x[i, j % n_in]
    elif code == COPY:
        pass_on(x, 0, False, out)
    else:
        n, width, stride = out.shape[1], kept.shape[1], other.shape[1]
        gains, shifts, member = len(gain) // members, len(shift) // members, 0
        for i in range(rows):
            row_forward(
                code, x.dtype.type(n), numbers, vector(x, i * n_in, n), vector(other, i * stride + second, n),
                vector(gain, member * gains, gains), vector(shift, member * shifts, shifts),
                vector(kept, i * width, width), vector(out, i * n, n),
            )  # fmt: skip
            member = following(member, members)


def following(member, members):
    """Return the member whose row comes after that of a member."""
    return chosen(member + 1 == members, 0, member + 1)


def operate_gradient(
    code, numbers, members, second, gain, x, other, kept, delta, adds, adds_other, below, below_other
):
    """below (rows, n_in) = the derivative of the loss by x, given delta (rows, n_out), that by the output.

    below_other : that by the second source; adds, adds_other : whether to add to what is there
    """
    rows, n_in = x.shape
    if code == CONCATENATE:
        pass_on(delta, 0, adds, below)
        pass_on(delta, n_in, adds_other, below_other)
    elif code == MEMBERS:
        pass_on(delta, 0, adds, below)
        for left in range(n_in, delta.shape[1], n_in):
            pass_on(delta, left, True, below)
    elif code == COPY:
        pass_on(delta, 0, adds, below)
    else:
        n, width, stride = delta.shape[1], kept.shape[1], other.shape[1]
        gains, member = len(gain) // members, 0
        for i in range(rows):
            at = i * stride + second
            row_backward(
                code, x.dtype.type(n), numbers, vector(x, i * n_in, n), vector(other, at, n),
                vector(gain, member * gains, gains), vector(kept, i * width, width), vector(delta, i * n, n),
                vector(below, i * n_in, n), vector(below_other, at, n), adds, adds_other,
            )  # fmt: skip
            member = following(member, members)


def pass_on(delta, left, adds, below):
    """below (rows, units) = the columns of delta from `left` on, or += where `adds`."""
    rows, units = below.shape
    for i in range(rows):
        # As vectors: an index that may be negative, as Python's, takes a number at a time.
        source, target = vector(delta, i * delta.shape[1] + left, units), vector(below, i * units, units)
        if adds:
            for j in range(units):
                target[j] += source[j]
        else:
            for j in range(units):
                target[j] = source[j]


def gain_gradient(code, numbers, members, second, gain, x, other, kept, delta, out):
    """out, as the gain, = the derivative of the loss by the gain, a sum over rows, one after another."""
    rows, n_in = x.shape
    n, width, stride = delta.shape[1], kept.shape[1], other.shape[1]
    gains, member = len(gain) // members, 0
    for j in range(len(out)):
        out[j] = 0
    for i in range(rows):
        row_gradient(
            code, x.dtype.type(n), numbers, vector(x, i * n_in, n), vector(other, i * stride + second, n),
            vector(gain, member * gains, gains), vector(kept, i * width, width), vector(delta, i * n, n),
            vector(out, member * gains, gains),
        )  # fmt: skip
        member = following(member, members)
