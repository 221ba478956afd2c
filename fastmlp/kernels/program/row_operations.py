"""Operations on rows other than products: formulas of a row, concatenations, copies for several networks.

The code of a formula of a row stands in `row_formulas`.
"""

# mypy: ignore-errors

from fastmlp.kernels.codegen.vectors import Vectors, of_code
from fastmlp.kernels.codegen.views import chosen, vector
from fastmlp.kernels.codes import CONCATENATE, COPY, MEMBERS
from fastmlp.kernels.program import row_formulas
from fastmlp.kernels.program.row_formulas import LANES, Row

MACHINE_EPSILON = {4: 2.0**-23, 8: 2.0**-52}
"""The value of a NaN hyperparameter, by bytes of a number."""


def _row(kind, count, numbers, **arrays):
    """Return the `Row` of a kind's formula; None where the kind has no formula.

    count : the units of x as a float; numbers : hyperparameters (MOST_NUMBERS,) float64
    arrays : by name, of which x is a row
    """
    if getattr(kind, "row", None) is None:
        return None
    x = arrays["x"]
    v = Vectors(x.builder, x.dtype, LANES * x.itemsize)
    own = [number_at(numbers, i, v.itemsize) for i in range(len(kind.row.numbers))]
    return Row(v, x.units, count, {name: array.data for name, array in arrays.items()}, own)


def number_at(numbers, place, itemsize):
    """Return a hyperparameter, float64."""
    number = numbers[place]
    return number.choose(number.equals(number), number, MACHINE_EPSILON[itemsize])


@of_code("operation", results=0)
def row_forward(kind, count, numbers, x, other, gain, shift, saved, out):
    """out (units,) = the operation of x and other (units,); saved : saved for backward."""
    if row := _row(kind, count, numbers, x=x, other=other, gain=gain, shift=shift, saved=saved, out=out):
        row_formulas.forward(kind, row)


@of_code("operation", results=0)
def row_backward(kind, count, numbers, x, other, gain, saved, delta, out, out2, adds, adds_other):
    """out, out2 (units,) = the derivatives by x and other; or += where adds, adds_other."""
    arrays = {"x": x, "other": other, "gain": gain, "saved": saved, "delta": delta, "out": out, "out2": out2}
    if row := _row(kind, count, numbers, **arrays):
        row_formulas.backward(kind, row, (adds, adds_other))


@of_code("operation", results=0)
def row_gradient(kind, count, numbers, x, other, gain, saved, delta, out):
    """out, as the gain, += a row's derivative of the loss by the gain."""
    if row := _row(kind, count, numbers, x=x, other=other, gain=gain, saved=saved, delta=delta, out=out):
        row_formulas.gradient(kind, row)


def operate(code, numbers, subrows, second, gain, shift, x, other, saved, out):
    """out (rows, n_out) = the operation `code` of x (rows, ..), and of other (rows, ..) with two sources.

    numbers : hyperparameters, see OPERATION; second : the index of the first unit read in a row of other
    subrows : the parts of a row of the batch, each with its part of gain and shift
    gain, shift : (subrows * n_out,), or empty; the gain of a custom layer is all its parameters
    saved : (rows, n), written: saved for backward
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
        n, width, stride = out.shape[1], saved.shape[1], other.shape[1]
        gains, shifts, subrow = len(gain) // subrows, len(shift) // subrows, 0
        for i in range(rows):
            row_forward(
                code, x.dtype.type(n), numbers, vector(x, i * n_in, n), vector(other, i * stride + second, n),
                vector(gain, subrow * gains, gains), vector(shift, subrow * shifts, shifts),
                vector(saved, i * width, width), vector(out, i * n, n),
            )  # fmt: skip
            subrow = following(subrow, subrows)


def following(subrow, subrows):
    """Return the index of the next subrow: after the last subrow the next row begins."""
    return chosen(subrow + 1 == subrows, 0, subrow + 1)


def operate_gradient(
    code, numbers, subrows, second, gain, x, other, saved, delta, adding, below, below_other
):
    """below (rows, n_in) = the derivative of the loss by x, given delta (rows, n_out) of the output.

    below_other : by the second source
    adding : (adds, adds_other), whether to add to the values of below and of below_other
    """
    adds, adds_other = adding
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
        n, width, stride = delta.shape[1], saved.shape[1], other.shape[1]
        gains, subrow = len(gain) // subrows, 0
        for i in range(rows):
            at = i * stride + second
            row_backward(
                code, x.dtype.type(n), numbers, vector(x, i * n_in, n), vector(other, at, n),
                vector(gain, subrow * gains, gains), vector(saved, i * width, width), vector(delta, i * n, n),
                vector(below, i * n_in, n), vector(below_other, at, n), adds, adds_other,
            )  # fmt: skip
            subrow = following(subrow, subrows)


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


def gain_gradient(code, numbers, subrows, second, gain, x, other, saved, delta, out):
    """out, as the gain, = the derivative of the loss by the gain, a sum over rows in order."""
    rows, n_in = x.shape
    n, width, stride = delta.shape[1], saved.shape[1], other.shape[1]
    gains, subrow = len(gain) // subrows, 0
    for j in range(len(out)):
        out[j] = 0
    for i in range(rows):
        row_gradient(
            code, x.dtype.type(n), numbers, vector(x, i * n_in, n), vector(other, i * stride + second, n),
            vector(gain, subrow * gains, gains), vector(saved, i * width, width), vector(delta, i * n, n),
            vector(out, subrow * gains, gains),
        )  # fmt: skip
        subrow = following(subrow, subrows)
