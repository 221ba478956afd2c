"""Subnormal numbers count as 0 while a program trains.

A training that has nearly converged fills Adam's moments with subnormal numbers, and x86 takes some hundred
cycles for each: 30-100-1 slowed from 14 to 27 us a step. The processor has a switch for each thread. An entry
point sets the switch at its begin, and restores it at its end.
"""

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils

SWITCHES = 1 << 15 | 1 << 6
"""Flush to zero, and denormals are zero: bits of MXCSR.

Intel, "64 and IA-32 Architectures Software Developer's Manual", volume 1, 10.2.3.
"""

X86 = llvmlite.binding.get_process_triple().startswith(("x86_64", "i386", "i686"))
"""True on x86. Elsewhere nothing is done: other common processors are not slowed by subnormal numbers."""

WORD = ir.IntType(32)


def _call(builder, name, place):
    kind = ir.FunctionType(ir.VoidType(), [place.type])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [place])


def normal_arithmetic(builder):
    """Emit the switch to arithmetic with subnormal numbers; return the state before, for `arithmetic`."""
    return _switch(builder, lambda before: builder.and_(before, ir.Constant(WORD, ~SWITCHES)))


def arithmetic(builder, before):
    """Emit the return to the arithmetic before a switch."""
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
    builder.store(change(before), place)
    _call(builder, "llvm.x86.sse.ldmxcsr", place)
    return before


def flushing_arithmetic(builder):
    """Emit the switch to arithmetic with 0 for subnormal numbers; return the state before, for `arithmetic`."""
    return _switch(builder, lambda before: builder.or_(before, ir.Constant(WORD, SWITCHES)))
