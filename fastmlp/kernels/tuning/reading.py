"""Loads of measured constants in compiled code, from the array `table.VALUES`."""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.symbols import INT
from fastmlp.kernels.tuning.table import PLACES, SYMBOL


def tuned(name):
    """Return an intrinsic without arguments that reads a constant of the table."""
    place = PLACES[name]

    @intrinsic
    def read(typing_context):
        def emit(context, builder, signature, values):
            return emit_tuned(builder, place)

        return types.intp(), emit

    return read


def emit_tuned(builder, place):
    """Write the load of the constant at an index."""
    module = builder.module
    if SYMBOL not in module.globals:
        ir.GlobalVariable(module, INT, SYMBOL)  # the array's first element; the loader defines the symbol
    return builder.load(builder.gep(module.globals[SYMBOL], [INT(place)], source_etype=INT))
