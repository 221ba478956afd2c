"""Views of arrays, made without the questions that a slice and a reshape of NumPy's ask.

Whether a bound is negative or beyond the end, whether the strides allow it: for Numba each is code, and a
third of what compiling a program took. Here the caller's word counts. So with `lesser`, where Numba makes a
function of each pair of types that `min` is called with.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.symbols import at_most, jittable

INT = ir.IntType(64)


def _place(context, builder, array, value, start):
    """Return the address of element `start` of an array."""
    data = context.data_model_manager[array].get(builder, value, "data")
    return builder.gep(data, [start])


def _view(context, builder, result, data, shape):
    itemsize = INT(context.get_abi_sizeof(context.get_data_type(result.dtype)))
    fields = {
        "nitems": builder.mul(*shape) if len(shape) == 2 else shape[0],
        "itemsize": itemsize,
        "data": data,
        "shape": cgutils.pack_array(builder, shape),
        "strides": cgutils.pack_array(builder, [builder.mul(itemsize, n) for n in shape[1:]] + [itemsize]),
    }
    model = context.data_model_manager[result]
    view = ir.Constant(model.get_value_type(), None)
    for name, value in fields.items():
        view = model.set(builder, view, value, name)
    return view


@jittable
def lesser(a: int, b: int):
    """Return the lesser of two integers."""
    return at_most(a, b)


@intrinsic
def vector(typing_context, array, start, length):
    """Return as (length,) what begins with element `start` of a C-contiguous array."""
    result = types.Array(array.dtype, 1, "C")

    def emit(context, builder, signature, values):
        place = _place(context, builder, array, *values[:2])
        return _view(context, builder, result, place, values[2:])

    return result(array, types.intp, types.intp), emit


@intrinsic
def matrix(typing_context, array, start, rows, columns):
    """Return as (rows, columns) what begins with element `start` of a C-contiguous array."""
    result = types.Array(array.dtype, 2, "C")

    def emit(context, builder, signature, values):
        place = _place(context, builder, array, *values[:2])
        return _view(context, builder, result, place, values[2:])

    return result(array, types.intp, types.intp, types.intp), emit


@intrinsic
def no_order(typing_context):
    """Return the order of no rows, (0,) int64."""
    result = types.Array(types.int64, 1, "C")

    def emit(context, builder, signature, values):
        nowhere = ir.Constant(context.get_data_type(types.CPointer(types.int64)), None)
        return _view(context, builder, result, nowhere, [INT(0)])

    return result(), emit


@intrinsic
def rows_of(typing_context, array, first, last):
    """Return the rows [first, last) of a C-contiguous (rows, columns) array."""
    result = types.Array(array.dtype, 2, "C")

    def emit(context, builder, signature, values):
        shape = context.data_model_manager[array].get(builder, values[0], "shape")
        columns, rows = builder.extract_value(shape, 1), builder.sub(values[2], values[1])
        place = _place(context, builder, array, values[0], builder.mul(values[1], columns))
        return _view(context, builder, result, place, [rows, columns])

    return result(array, types.intp, types.intp), emit
