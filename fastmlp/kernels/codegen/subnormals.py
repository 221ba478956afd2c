"""Numbers below the smallest normal one, taken for 0 while a program trains.

A training that has nearly converged fills Adam's moments with them, and x86 takes some hundred cycles
for each: 30-100-1 slowed from 14 to 27 us a step. The processor's own switch does it, per thread; it
is set where a chunk, a gradient or an update begins, and put back where it ends.
"""

# mypy: ignore-errors

from __future__ import annotations

import llvmlite.binding
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

SWITCHES = 1 << 15 | 1 << 6
"""Flush to zero, and denormals are zero: bits of MXCSR.

Intel, "64 and IA-32 Architectures Software Developer's Manual", volume 1, 10.2.3.
"""

X86 = llvmlite.binding.get_process_triple().startswith(("x86_64", "i386", "i686"))
"""Elsewhere nothing is done: the cores that matter there are not slowed."""

WORD = ir.IntType(32)


def _call(builder, name, place):
    kind = ir.FunctionType(ir.VoidType(), [place.type])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [place])


def normal_arithmetic(builder):
    """Emit what heeds subnormal numbers from here on; return what `arithmetic` wants to undo that."""
    return _switch(builder, lambda before: builder.and_(before, ir.Constant(WORD, ~SWITCHES)))


def arithmetic(builder, before):
    """Emit what treats subnormal numbers as they were treated before."""
    if X86:
        place = cgutils.alloca_once(builder, WORD)
        builder.store(before, place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)


def _switch(builder, change):
    if not X86:
        return ir.Constant(WORD, 0)
    place = cgutils.alloca_once(builder, WORD)
    _call(builder, "llvm.x86.sse.stmxcsr", place)
    before = builder.load(place)
    after = change(before)
    # A chunk of steps flushes once, and its gradients and updates find it done: to load the word again and
    # again was 2 % of a step of 3-4-1.
    with builder.if_then(builder.icmp_unsigned("!=", before, after)):
        builder.store(after, place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)
    return before


@intrinsic
def flush_subnormals(typing_context):
    """Take subnormal numbers for 0 from here on; return what `restore_subnormals` wants."""

    def emit(context, builder, signature, arguments):
        return _switch(builder, lambda before: builder.or_(before, ir.Constant(WORD, SWITCHES)))

    return types.int32(), emit


@intrinsic
def restore_subnormals(typing_context, before):
    """Treat subnormal numbers again as `flush_subnormals` found them treated."""

    def emit(context, builder, signature, arguments):
        switches = ir.Constant(WORD, SWITCHES)
        flushed = builder.icmp_unsigned("==", builder.and_(arguments[0], switches), switches)
        with builder.if_then(builder.not_(flushed)):
            arithmetic(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int32), emit


@intrinsic
def _heed(typing_context):
    def emit(context, builder, signature, arguments):
        normal_arithmetic(builder)
        return context.get_dummy_value()

    return types.void(), emit


@njit(_nrt=False)
def heed_subnormals():
    """Heed subnormal numbers in this thread from here on; compiled when something has gone wrong."""
    _heed()
