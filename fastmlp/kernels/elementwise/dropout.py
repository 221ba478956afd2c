"""Dropout by whole vectors.

Separate because LLVM leaves a loop scalar whose result may be its argument: where deltas were dropped in place, a unit
took 3 ns.
"""

# mypy: ignore-errors

from llvmlite import ir

from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import INT32
from fastmlp.kernels.codegen.vectors import Vectors, broadcast, counted
from fastmlp.kernels.gemm.microkernel import MACHINE
from fastmlp.kernels.gemm.operands import of_arrays


def scramble(bits):
    """As `baseline.scramble`, of a `Symbol`."""
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


@of_arrays
def drop_units(word, first, threshold, scale, a, out):
    """out (rows, units) = a * scale where a unit's hash is not below the threshold, else 0; out may be a.

    word, threshold : uint32, of the step and layer; first : the batch's row that is row 0 of a
    """
    build = a.builder
    v = Vectors(build, a.kind.dtype, MACHINE.vector_bytes)
    spread = lambda symbol: Symbol(build, broadcast(build, symbol.value, v.lanes))
    short = lambda symbol: Symbol(build, build.trunc(symbol.value, INT32))
    lane = Symbol(build, ir.Constant(ir.VectorType(INT32, v.lanes), list(range(v.lanes))))
    thresholds, scales = spread(threshold), spread(scale)
    with counted(build, a.rows) as i:
        row = spread(scramble(word + short(first + i) * 0x9E3779B9))

        def drop(j, mask):
            bits = scramble(row + (spread(short(j)) + lane) * 0x85EBCA6B)
            keeps = build.icmp_unsigned(">=", bits.value, thresholds.value)
            at = j * v.itemsize
            kept = Symbol(build, v.load(v.shift(a.at(i), at), mask)) * scales
            v.store(build.select(keeps, kept.value, v.zero), v.shift(out.at(i), at), mask)

        v.over(a.columns, drop)
