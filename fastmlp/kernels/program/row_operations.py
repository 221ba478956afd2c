"""Operations on rows that are no product: norms, unitwise operations, sums, concatenations.

What is done to one row stands in `row_formulas`, formulas of units in `fastmlp.model.operations`.
"""

# mypy: ignore-errors

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.scalars import literal
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import ITEMSIZE
from fastmlp.kernels.codegen.vectors import Vectors, data_pointer
from fastmlp.kernels.codegen.views import chosen, vector
from fastmlp.kernels.codes import ADD, CONCATENATE, COPY, MEMBERS, OPERATION_CODES
from fastmlp.kernels.program.row_formulas import LANES, Row, writer_of


def _of_row(names):
    """Make of write(kind, row, *numbers), which writes code, the intrinsic (code, count, *arrays, *numbers).

    names : what the arrays are called, of which the first is a row; count : its units as a float
    code : of the kind
    """

    def decorate(write):
        def call(typing_context, code, *kinds):
            if not literal(code):
                return None
            count, *arrays = kinds[: len(names) + 1]

            def emit(context, builder, signature, packed):
                values = [builder.extract_value(packed[1], i) for i in range(len(kinds))]
                kind = OPERATION_CODES[code.literal_value]
                if writer_of(kind) is not None:
                    pairs = zip(arrays, values[1:], strict=False)
                    places = [data_pointer(context, builder, *pair) for pair in pairs]
                    units = Symbol(builder, context.make_array(arrays[0])(context, builder, values[1]).nitems)
                    v = Vectors(builder, count, LANES * ITEMSIZE[count])
                    given = dict(zip(names, places, strict=True))
                    row = Row(v, units, Symbol(builder, values[0]), given)
                    write(kind, row, *(Symbol(builder, value) for value in values[len(names) + 1 :]))
                return context.get_dummy_value()

            return types.none(code, types.StarArgTuple(kinds)), emit

        call.__name__, call.__doc__ = write.__name__, write.__doc__
        call.__qualname__, call.__module__ = write.__qualname__, write.__module__
        return intrinsic(call)

    return decorate


@_of_row(("x", "gain", "shift", "kept", "out"))
def row_forward(kind, row, epsilon):
    """out (units,) = the operation of the row x (units,); kept : what the others read."""
    writer_of(kind).forward(kind, row, epsilon)


@_of_row(("x", "gain", "kept", "delta", "out"))
def row_backward(kind, row, adds):
    """out (units,) = the derivative of the loss by x, given delta, that by the output; or += where `adds`."""
    writer_of(kind).backward(kind, row, adds)


@_of_row(("x", "gain", "kept", "delta", "out"))
def row_gradient(kind, row):
    """out, as the gain, += the derivative of the loss by it, of one row."""
    writer_of(kind).gradient(kind, row)


def operate(code, epsilon, members, gain, shift, x, other, kept, out):
    """out (rows, n_out) = the operation `code` of x (rows, n_in), and of other (rows, ..) where it reads two.

    members : whose rows follow one another in turn, each with its own part of gain and shift
    gain, shift : (members * n_out,), or empty; the gain of a user's layer is all its parameters
    epsilon : of a norm, negative for that of the dtype
    kept : (rows, 2), written by norms: the mean of a row, and the factor of its numbers
    """
    rows, n_in = x.shape
    if code == ADD:
        for i in range(rows):
            for j in range(n_in):
                out[i, j] = x[i, j] + other[i, j]
    elif code == CONCATENATE:
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
        added, width = x.dtype.type(epsilon), kept.shape[1]
        if epsilon < 0:
            added = x.dtype.type(2.0**-52 if x.itemsize == 8 else 2.0**-23)
        gains, shifts, member = len(gain) // members, len(shift) // members, 0
        for i in range(rows):
            own, target, held = (
                vector(x, i * n_in, n_in), vector(out, i * n_in, n_in), vector(kept, i * width, width),
            )  # fmt: skip
            own_gain = vector(gain, member * gains, gains)
            own_shift = vector(shift, member * shifts, shifts)
            row_forward(code, x.dtype.type(n_in), own, own_gain, own_shift, held, target, added)
            member = following(member, members)


def following(member, members):
    """Return the member whose row comes after that of a member."""
    return chosen(member + 1 == members, 0, member + 1)


def operate_gradient(code, members, gain, x, kept, delta, adds, adds_other, below, below_other):
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
    elif code in (ADD, COPY):
        pass_on(delta, 0, adds, below)
        if code == ADD:
            pass_on(delta, 0, adds_other, below_other)
    else:
        width, gains, member = kept.shape[1], len(gain) // members, 0
        for i in range(rows):
            own, d = vector(x, i * n_in, n_in), vector(delta, i * n_in, n_in)
            held, target = vector(kept, i * width, width), vector(below, i * n_in, n_in)
            own_gain = vector(gain, member * gains, gains)
            row_backward(code, x.dtype.type(n_in), own, own_gain, held, d, target, adds)
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


def gain_gradient(code, members, gain, x, kept, delta, out):
    """out, as the gain, = the derivative of the loss by the gain, a sum over rows, one after another."""
    rows, n_in = x.shape
    width, gains, member = kept.shape[1], len(gain) // members, 0
    for j in range(len(out)):
        out[j] = 0
    for i in range(rows):
        own, d = vector(x, i * n_in, n_in), vector(delta, i * n_in, n_in)
        held, own_gain = vector(kept, i * width, width), vector(gain, member * gains, gains)
        row_gradient(code, x.dtype.type(n_in), own, own_gain, held, d, vector(out, member * gains, gains))
        member = following(member, members)
