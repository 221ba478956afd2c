"""LLVM's types that kernels name; and the declaration of functions at their first call."""

from llvmlite import ir
from numba import types

INT = ir.IntType(64)
INT32 = ir.IntType(32)
BIT = ir.IntType(1)
BYTE = ir.IntType(8)
POINTER = ir.PointerType()
FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
ITEMSIZE = {types.float32: 4, types.float64: 8}


def declare(module, name, result, arguments):
    """The function `name` of the module, declared on first use."""
    if name in module.globals:
        return module.globals[name]
    return ir.Function(module, ir.FunctionType(result, arguments), name)
