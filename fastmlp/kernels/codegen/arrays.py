"""Arrays in code that is being written: their elements as numbers, and jitted functions that take them."""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.kernels.codegen.symbols import Symbol, intrinsic_of
from fastmlp.kernels.codegen.types import BYTE, FLOATS, INT, POINTER
from fastmlp.kernels.codegen.vectors import data_pointer, integer

NOTHING = ir.Constant(POINTER, None)
"""The place of an array that is not there."""


def shifted(build, pointer, offset):
    """The pointer moved by `offset` bytes."""
    return build.gep(pointer, [offset], source_etype=BYTE)


class VectorNumbers:
    """An array (n,) of a dtype or of int64, whose elements are numbers in code that is being written."""

    units = None
    """How many there are, of an argument of jitted code."""

    def __init__(self, builder, dtype, pointer):
        self.builder, self.kind, self.pointer = builder, FLOATS.get(dtype, INT), pointer

    @classmethod
    def of_array(cls, context, builder, kind, value):
        """The numbers of an array that jitted code gives."""
        made = cls(builder, kind.dtype, data_pointer(context, builder, kind, value))
        shape = context.make_array(kind)(context, builder, value).shape
        made.units = Symbol(builder, builder.extract_value(shape, 0))
        return made

    def _place(self, unit):
        return self.builder.gep(self.pointer, [integer(unit)], source_etype=self.kind)

    def __getitem__(self, unit):
        return Symbol(self.builder, self.builder.load(self._place(unit), typ=self.kind))

    def __setitem__(self, unit, symbol):
        self.builder.store(symbol.value, self._place(unit))


class RepeatedNumber:
    """An array whose elements are all the same number."""

    def __init__(self, number):
        self.number = number

    def __getitem__(self, unit):
        return self.number


class Matrix:
    """An array (rows, columns) or (columns,) in a product that is being written; for None the place is null."""

    def __init__(self, context, builder, kind, value):
        self.builder, self.kind, self.data = builder, kind, NOTHING
        if kind != types.none:
            self.data = data_pointer(context, builder, kind, value)
            shape = cgutils.unpack_tuple(builder, context.make_array(kind)(context, builder, value).shape)
            self.rows, self.columns = (Symbol(builder, n) for n in [INT(1), *shape][-2:])
            self.itemsize = kind.dtype.bitwidth // 8
            self.row = self.columns * self.itemsize

    def at(self, row, column=0):
        """The place of an element."""
        return shifted(self.builder, self.data, (self.row * row + column * self.itemsize).value)


def of_arrays(emit):
    """Return the intrinsic of `emit`: jitted code gives arrays and numbers, `emit` takes `Matrix`es and `Symbol`s."""

    def operand(context, builder, kind, value):
        if isinstance(kind, (types.Number, types.Boolean)):
            return Symbol(builder, value)
        return Matrix(context, builder, kind, value)

    return intrinsic_of(emit, operand)
