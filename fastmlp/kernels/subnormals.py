"""Numbers below the smallest normal one, taken for 0 while a program trains.

A training that has nearly converged fills Adam's moments with them, and x86 takes some hundred cycles
for each: 30-100-1 slowed from 14 to 27 us a step. The processor's own switch does it, per thread; it
is set where a chunk begins and put back where it ends.
"""

# mypy: ignore-errors

from __future__ import annotations

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FLUSH_TO_ZERO, DENORMALS_ARE_ZERO = 1 << 15, 1 << 6
"""Bits of MXCSR: Intel, "64 and IA-32 Architectures Software Developer's Manual", volume 1, 10.2.3."""

X86 = llvmlite.binding.get_process_triple().startswith(("x86_64", "i386", "i686"))
"""Elsewhere nothing is done: the cores that matter there are not slowed."""

WORD = ir.IntType(32)


def _call(builder, name, place):
    kind = ir.FunctionType(ir.VoidType(), [place.type])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [place])


@intrinsic
def flush_subnormals(typing_context):
    """Take subnormal numbers for 0 from here on; return what `restore_subnormals` wants."""

    def emit(context, builder, signature, arguments):
        if not X86:
            return ir.Constant(WORD, 0)
        place = cgutils.alloca_once(builder, WORD)
        _call(builder, "llvm.x86.sse.stmxcsr", place)
        before = builder.load(place)
        builder.store(builder.or_(before, ir.Constant(WORD, FLUSH_TO_ZERO | DENORMALS_ARE_ZERO)), place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return before

    return types.int32(), emit


@intrinsic
def restore_subnormals(typing_context, before):
    """Treat subnormal numbers again as `flush_subnormals` found them treated."""

    def emit(context, builder, signature, arguments):
        if X86:
            place = cgutils.alloca_once(builder, WORD)
            builder.store(arguments[0], place)
            _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return context.get_dummy_value()

    return types.void(types.int32), emit
