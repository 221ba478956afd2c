"""Views of arrays, made without the checks of NumPy's slices and reshapes.

Numba compiles code for each check of bounds and strides: a third of a program's compile time. Here nothing is
checked. `lesser` has a like reason: Numba compiles a function of `min` for each pair of types.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas.numbers import at_most, where
from fastmlp.kernels.codegen.symbols import INT, Symbol, intrinsic_like, jittable


def view(context, builder, result, data, shape, strides=None):
    """Emit an array of the type `result` from address `data` on, C-contiguous without strides."""
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


class _Viewed:
    """An array under a view."""

    def __init__(self, context, builder, kind, value):
        self._builder = builder
        self._field = functools.partial(context.data_model_manager[kind].get, builder, value)

    def at(self, start):
        """The address of an element."""
        return self._builder.gep(self.data, [start.value])

    @property
    def data(self):
        return self._field("data")

    @property
    def shape(self):
        return [Symbol(self._builder, n) for n in cgutils.unpack_tuple(self._builder, self._field("shape"))]

    @property
    def strides(self):
        return cgutils.unpack_tuple(self._builder, self._field("strides"))


class _Record:
    """A record; its int64 fields are attributes."""

    def __init__(self, context, builder, kind, value):
        self._builder, self._kind, self._value = builder, kind, value

    def __getattr__(self, name):
        build, offset = self._builder, self._kind.offset(name)
        address = build.gep(self._value, [ir.Constant(ir.IntType(32), i) for i in (0, offset)])
        return Symbol(build, build.load(build.bitcast(address, INT.as_pointer())))

    def floats(self, name):
        """Return the address and the count of a field's float64 numbers."""
        build, kind = self._builder, self._kind
        address = build.gep(build.bitcast(self._value, ir.IntType(8).as_pointer()), [INT(kind.offset(name))])
        address = build.bitcast(address, ir.DoubleType().as_pointer())
        return address, [Symbol(build, INT(kind.typeof(name).nitems))]


OPERANDS = {types.Array: _Viewed, types.Record: _Record}


def _viewing(ndim, layout="C"):
    """Return a decorator: write(*arguments) gives a view's address, shape and perhaps strides; the intrinsic views.

    Numbers come as `Symbol`s. The view has the dtype of the first argument, an array; of a record float64.
    """

    def decorate(write):
        def call(typing_context, *kinds):
            makers = [OPERANDS.get(type(kind)) for kind in kinds]
            dtype = kinds[0].dtype if makers[0] is _Viewed else types.float64
            result = types.Array(dtype, ndim, layout)

            def emit(context, builder, signature, values):
                operands = [
                    maker(context, builder, kind, value) if maker else Symbol(builder, value)
                    for maker, kind, value in zip(makers, kinds, values, strict=True)
                ]
                address, shape, *strides = write(*operands)
                return view(context, builder, result, address, [n.value for n in shape], *strides)

            return result(*(kind if maker else types.intp for kind, maker in zip(kinds, makers))), emit

        return intrinsic_like(write, call)

    return decorate


@_viewing(1)
def vector(array, start, length):
    """Return `length` elements of a C-contiguous array from element `start` on, as (length,)."""
    return array.at(start), [length]


@_viewing(1)
def span(array, first, last):
    """Return the elements [first, last) of a C-contiguous array, as (last - first,)."""
    return array.at(first), [last - first]


@_viewing(2)
def matrix(array, start, rows, columns):
    """Return the elements of a C-contiguous array from element `start` on, as (rows, columns)."""
    return array.at(start), [rows, columns]


@_viewing(2, "A")
def columns_of(array, start, count):
    """Return columns [start, start + count) of a C-contiguous matrix, with the matrix's row stride."""
    return array.at(start), [array.shape[0], count], array.strides


@_viewing(2)
def column_of(memory, start, offset, number, rows, units):
    """Return the units of a block's column, contiguous, as (rows, units); offset : of the block in a row"""
    return memory.at(start + (offset + number * units) * rows), [rows, units]


@_viewing(1)
def weights_of_column(array, block, column):
    """Return the weights of a block's column in a flat vector of parameters or gradients, (n,)."""
    length = (block.biases - block.weights) // block.columns
    return array.at(block.weights + column * length), [length]


@_viewing(1)
def biases_of_column(array, block, column):
    """Return the biases of a block's column in a flat vector of parameters or gradients, (n,)."""
    length = (block.trained - block.biases) // block.columns
    return array.at(block.biases + column * length), [length]


@_viewing(2)
def weights_of(array, layer):
    """Return a layer's weights in a flat vector (P,) of parameters or gradients."""
    return array.at(layer.weights), [layer.n_in, layer.n_out]


@_viewing(1)
def biases_of(array, layer):
    """Return a layer's biases in a flat vector (P,) of parameters or gradients."""
    return array.at(layer.biases), [layer.n_out]


@_viewing(2)
def units_of(memory, start, layer, rows):
    """Return a layer's units as (rows, width); the buffer of all layers' units begins at element `start`."""
    units, width = layer.units, layer.width
    return memory.at(start + units * rows), [rows, width]


@_viewing(2)
def outputs_of(memory, start, output, head, rows, members):
    """Return the units of a head's last layer, a row for each member: (rows * members, units of the head)."""
    return memory.at(start + output.units * rows), [rows * members, head.units]


@_viewing(2)
def units_in_columns(memory, start, layer, rows):
    """Return the same units as (width, rows), where a row of the batch is a column."""
    units, width = layer.units, layer.width
    return memory.at(start + units * rows), [width, rows]


@_viewing(2)
def output_of(memory, activations, dropped, operation, rows):
    """Return an operation's output (rows, width) in one of both buffers: after dropout if any."""
    units, width = operation.units, operation.width
    # The bits of a positive number are a positive integer.
    start = where(operation.dropout > 0, dropped, activations)
    return memory.at(start + units * rows), [rows, width]


@_viewing(2)
def saved_of(memory, logits, operation, rows):
    """Return the numbers of an operation saved for backward, as (rows * subrows, numbers of a subrow)."""
    parts = operation.subrows
    return memory.at(logits + operation.saved * rows), [rows * parts, operation.saved_units // parts]


@_viewing(2)
def panel_of(array, start, side, left, columns):
    """Return a panel of the upper half of a symmetric matrix, (right, right - left): columns from `left` on.

    The first panel begins at element `start`; each but the last has so many columns. left : a multiple of columns
    """
    right = at_most(left + columns, side)
    return array.at(start + left * (left + columns) // 2), [right, right - left]


@_viewing(1)
def part_of(array, start, length, number):
    """Return equal part `number` as (length,); part 0 begins at element `start`."""
    return array.at(start + length * number), [length]


@intrinsic
def no_order(typing_context):
    """Return an empty order, (0,) int64."""
    result = types.Array(types.int64, 1, "C")

    def emit(context, builder, signature, values):
        nowhere = ir.Constant(context.get_data_type(types.CPointer(types.int64)), None)
        return view(context, builder, result, nowhere, [INT(0)])

    return result(), emit


@_viewing(2)
def rows_of(array, first, last):
    """Return the rows [first, last) of a C-contiguous (rows, columns) array."""
    columns = array.shape[1]
    return array.at(first * columns), [last - first, columns]


@_viewing(2)
def subrows_of(array, count, units):
    """Return rows (rows, count * units), each cut in `count` rows: (rows * count, units)."""
    return array.data, [array.shape[0] * count, units]


@_viewing(1)
def constants_of(rule):
    """Return a RULE's constants, float64."""
    return rule.floats("constants")


@_viewing(1)
def numbers_of(operation):
    """Return the hyperparameters of an OPERATION, float64."""
    return operation.floats("numbers")
