"""The call out of a program, in the middle of a step, to what sums gradients over ranks.

Separate from the barrier, which joins the workers of one process. The other end is Python's
(`fastmlp.kernels.runtime.summing`): whatever sums over processes is a library of Python's.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.types import INT


@intrinsic
def call_back(typing_context, address, step, first, last):
    """Call the function at an address, of three whole numbers, which returns nothing."""

    def emit(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [INT, INT, INT])
        builder.call(builder.inttoptr(values[0], kind.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.intp), emit
