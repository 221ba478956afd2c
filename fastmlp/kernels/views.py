"""Views of arrays, made without the questions that a slice and a reshape of NumPy's ask.

Whether a bound is negative or beyond the end, whether the strides allow it: for Numba each is code, and a
third of what compiling a program took. Here the caller's word counts.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

INT = ir.IntType(64)


def _view(context, builder, array, result, start, shape):
    itemsize = context.get_abi_sizeof(context.get_data_type(result.dtype))
    row = [builder.mul(INT(itemsize), shape[-1])] if result.ndim == 2 else []
    view = make_array(result)(context, builder)
    populate_array(
        view, data=builder.gep(array.data, [start]), shape=shape, strides=[*row, INT(itemsize)],
        itemsize=INT(itemsize), meminfo=None, parent=None,
    )  # fmt: skip
    return view._getvalue()


@intrinsic
def vector(typing_context, array, start, length):
    """Return as (length,) what begins with element `start` of a C-contiguous array."""
    result = types.Array(array.dtype, 1, "C")

    def emit(context, builder, signature, values):
        source = make_array(signature.args[0])(context, builder, values[0])
        return _view(context, builder, source, result, values[1], values[2:])

    return result(array, types.intp, types.intp), emit


@intrinsic
def matrix(typing_context, array, start, rows, columns):
    """Return as (rows, columns) what begins with element `start` of a C-contiguous array."""
    result = types.Array(array.dtype, 2, "C")

    def emit(context, builder, signature, values):
        source = make_array(signature.args[0])(context, builder, values[0])
        return _view(context, builder, source, result, values[1], values[2:])

    return result(array, types.intp, types.intp, types.intp), emit


@intrinsic
def rows_of(typing_context, array, first, last):
    """Return the rows [first, last) of a C-contiguous (rows, columns) array."""
    result = types.Array(array.dtype, 2, "C")

    def emit(context, builder, signature, values):
        source = make_array(signature.args[0])(context, builder, values[0])
        columns = builder.extract_value(source.shape, 1)
        start, rows = builder.mul(values[1], columns), builder.sub(values[2], values[1])
        return _view(context, builder, source, result, start, [rows, columns])

    return result(array, types.intp, types.intp), emit
