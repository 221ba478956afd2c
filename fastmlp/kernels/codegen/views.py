"""Views of arrays, made without the checks of NumPy's slices and reshapes.

Numba compiles code for each check, whether a bound is negative or beyond the end, or whether the strides allow a
shape: a third of the time that a program took to compile. Here nothing is checked. `lesser` stands here for a like
reason: of `min`, Numba compiles a function for each pair of types.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas.numbers import at_most, where
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.types import INT


def _place(context, builder, array, value, start):
    """Return the address of element `start` of an array."""
    data = context.data_model_manager[array].get(builder, value, "data")
    return builder.gep(data, [start])


def view(context, builder, result, data, shape, strides=None):
    """Emit an array of the type `result` that begins at `data`; shape, strides : LLVM values.

    Without strides it is C-contiguous.
    """
    itemsize = INT(context.get_abi_sizeof(context.get_data_type(result.dtype)))
    fields = {
        "nitems": builder.mul(*shape) if len(shape) == 2 else shape[0],
        "itemsize": itemsize,
        "data": data,
        "shape": cgutils.pack_array(builder, shape),
        "strides": cgutils.pack_array(
            builder, strides or [*(builder.mul(itemsize, n) for n in shape[1:]), itemsize]
        ),
    }
    model = context.data_model_manager[result]
    view = ir.Constant(model.get_value_type(), None)
    for name, value in fields.items():
        view = model.set(builder, view, value, name)
    return view


@jittable
def chosen(condition: bool, a: int, b: int):
    """Return a where the condition holds, else b."""
    return where(condition, a, b)


@jittable
def lesser(a: int, b: int):
    """Return the lesser of two integers."""
    return at_most(a, b)


@intrinsic
def vector(typing_context, array, start, length):
    """Return `length` elements of a C-contiguous array from element `start` on, as (length,)."""
    result = types.Array(array.dtype, 1, "C")

    def emit(context, builder, signature, values):
        place = _place(context, builder, array, *values[:2])
        return view(context, builder, result, place, values[2:])

    return result(array, types.intp, types.intp), emit


@intrinsic
def span(typing_context, array, first, last):
    """Return the elements [first, last) of a C-contiguous array, as (last - first,)."""
    result = types.Array(array.dtype, 1, "C")

    def emit(context, builder, signature, values):
        place = _place(context, builder, array, *values[:2])
        return view(context, builder, result, place, [builder.sub(values[2], values[1])])

    return result(array, types.intp, types.intp), emit


@intrinsic
def matrix(typing_context, array, start, rows, columns):
    """Return the elements of a C-contiguous array from element `start` on, as (rows, columns)."""
    result = types.Array(array.dtype, 2, "C")

    def emit(context, builder, signature, values):
        place = _place(context, builder, array, *values[:2])
        return view(context, builder, result, place, values[2:])

    return result(array, types.intp, types.intp, types.intp), emit


@intrinsic
def columns_of(typing_context, array, start, count):
    """Return columns [start, start + count) of a C-contiguous matrix, whose rows stay as far apart."""
    result = types.Array(array.dtype, 2, "A")

    def emit(context, builder, signature, values):
        whole = context.make_array(array)(context, builder, values[0])
        rows, strides = builder.extract_value(whole.shape, 0), cgutils.unpack_tuple(builder, whole.strides)
        place = _place(context, builder, array, *values[:2])
        return view(context, builder, result, place, [rows, values[2]], strides)

    return result(array, types.intp, types.intp), emit


@intrinsic
def column_of(typing_context, memory, start, place, number, rows, units):
    """Return the units of column `number` of a block of inputs, which lie together, as (rows, units).

    start : of the buffer; place : of the block in a row of it
    """
    result = types.Array(memory.dtype, 2, "C")

    def emit(context, builder, signature, values):
        memory_, start_, place_, number_, rows_, units_ = values
        before = builder.mul(builder.add(place_, builder.mul(number_, units_)), rows_)
        own = _place(context, builder, memory, memory_, builder.add(start_, before))
        return view(context, builder, result, own, [rows_, units_])

    return result(memory, *(types.intp,) * 5), emit


def _field(context, builder, record, value, name):
    """Return an int64 of a record."""
    place = builder.gep(value, [ir.Constant(ir.IntType(32), i) for i in (0, record.offset(name))])
    return builder.load(builder.bitcast(place, INT.as_pointer()))


def _of_layer(name, rows, columns):
    """The intrinsic (array, layer): the view that begins at a place in a flat array; an OPERATION's field has the place."""

    @intrinsic
    def part(typing_context, array, layer):
        result = types.Array(array.dtype, 2 if rows else 1, "C")

        def emit(context, builder, signature, values):
            field = lambda name: _field(context, builder, layer, values[1], name)
            place = _place(context, builder, array, values[0], field(name))
            return view(context, builder, result, place, [field(n) for n in (rows, columns) if n])

        return result(array, layer), emit

    return part


weights_of = _of_layer("weights", "n_in", "n_out")
"""weights_of(vector, layer): a layer's weights in a flat vector (P,) of parameters or gradients."""

biases_of = _of_layer("biases", None, "n_out")
"""biases_of(vector, layer): its biases."""


@intrinsic
def units_of(typing_context, memory, start, layer, rows):
    """Return a layer's units as (rows, width); the buffer with the units of all layers begins at element `start`."""
    result = types.Array(memory.dtype, 2, "C")

    def emit(context, builder, signature, values):
        memory_, start_, layer_, rows_ = values
        units, width = (_field(context, builder, layer, layer_, name) for name in ("units", "width"))
        place = _place(context, builder, memory, memory_, builder.add(start_, builder.mul(units, rows_)))
        return view(context, builder, result, place, [rows_, width])

    return result(memory, types.intp, layer, types.intp), emit


@intrinsic
def output_of(typing_context, memory, activations, dropped, operation, rows):
    """Return what an operation gives to those that read it, (rows, width): after dropout, where it has one.

    activations, dropped : the places of both buffers, with the units of all operations
    """
    result = types.Array(memory.dtype, 2, "C")

    def emit(context, builder, signature, values):
        memory_, activations_, dropped_, operation_, rows_ = values
        units, width = (_field(context, builder, operation, operation_, name) for name in ("units", "width"))
        # The bits of a positive number are a positive integer.
        drops = _field(context, builder, operation, operation_, "dropout")
        start = builder.select(builder.icmp_signed(">", drops, INT(0)), dropped_, activations_)
        place = _place(context, builder, memory, memory_, builder.add(start, builder.mul(units, rows_)))
        return view(context, builder, result, place, [rows_, width])

    return result(memory, types.intp, types.intp, operation, types.intp), emit


@intrinsic
def part_of(typing_context, array, start, length, number):
    """Return number `number` of equal parts, as (length,); the first part begins at element `start`."""
    result = types.Array(array.dtype, 1, "C")

    def emit(context, builder, signature, values):
        place = builder.add(values[1], builder.mul(values[2], values[3]))
        return view(context, builder, result, _place(context, builder, array, values[0], place), [values[2]])

    return result(array, types.intp, types.intp, types.intp), emit


@intrinsic
def no_order(typing_context):
    """Return an empty order, (0,) int64."""
    result = types.Array(types.int64, 1, "C")

    def emit(context, builder, signature, values):
        nowhere = ir.Constant(context.get_data_type(types.CPointer(types.int64)), None)
        return view(context, builder, result, nowhere, [INT(0)])

    return result(), emit


@intrinsic
def rows_of(typing_context, array, first, last):
    """Return the rows [first, last) of a C-contiguous (rows, columns) array."""
    result = types.Array(array.dtype, 2, "C")

    def emit(context, builder, signature, values):
        shape = context.data_model_manager[array].get(builder, values[0], "shape")
        columns, rows = builder.extract_value(shape, 1), builder.sub(values[2], values[1])
        place = _place(context, builder, array, values[0], builder.mul(values[1], columns))
        return view(context, builder, result, place, [rows, columns])

    return result(array, types.intp, types.intp), emit


@intrinsic
def each_member(typing_context, array, members, units):
    """Return rows (rows, members * units) as rows of each member, (rows * members, units)."""
    result = types.Array(array.dtype, 2, "C")

    def emit(context, builder, signature, values):
        fields = context.data_model_manager[array]
        data, shape = (fields.get(builder, values[0], name) for name in ("data", "shape"))
        rows = builder.mul(builder.extract_value(shape, 0), values[1])
        return view(context, builder, result, data, [rows, values[2]])

    return result(array, types.intp, types.intp), emit


def _floats(field, record):
    """Return the signature, and the code, of the view of a record's float64 numbers."""
    result = types.Array(types.float64, 1, "C")

    def emit(context, builder, signature, values):
        length = INT(record.typeof(field).nitems)
        return view(context, builder, result, _within(builder, values[0], record.offset(field)), [length])

    return result(record), emit


@intrinsic
def constants_of(typing_context, rule):
    """Return a RULE's constants, float64."""
    return _floats("constants", rule)


@intrinsic
def numbers_of(typing_context, operation):
    """Return the hyperparameters of an OPERATION, float64."""
    return _floats("numbers", operation)


@intrinsic
def parameters_of(typing_context, objective, count):
    """Return the parameters of an OBJECTIVE's loss (count,), float64."""
    result = types.Array(types.float64, 1, "C")

    def emit(context, builder, signature, values):
        return view(context, builder, result, _within(builder, values[0], objective.size), [values[1]])

    return result(objective, types.intp), emit


def _within(builder, record, offset):
    """Return the place of float64 numbers that lie `offset` bytes after the begin of a record."""
    place = builder.gep(builder.bitcast(record, ir.IntType(8).as_pointer()), [INT(offset)])
    return builder.bitcast(place, ir.DoubleType().as_pointer())
