"""Dropout by whole vectors.

Separate because LLVM leaves a loop scalar whose result may be its argument: where deltas were dropped in place, a unit
took 3 ns.
"""

from llvmlite import ir

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import INT32, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, broadcast, counted, of_arrays


def scramble(bits):
    """`baseline.scramble` of a `Symbol`."""
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)


def row_word(word, row):
    """The hash of a row of a batch; word : of the step and the layer, integers of 32 bits as all here"""
    return scramble(word + row * 0x9E3779B9)


def is_kept(row_word, unit, threshold):
    """Whether a unit of a row is kept."""
    bits = scramble(row_word + unit * 0x85EBCA6B)
    return Symbol(bits.builder, bits.builder.icmp_unsigned(">=", bits.value, bits.like(threshold)))


def emit_drop(v, rows, units, word, first, threshold, scale, source, target):
    """Write rows of target = source times the scale where a unit is kept, else 0.

    rows, units : integers or `Symbol`s; source(i), target(i) : the place of row i; the others as of `drop_units`
    """
    build = v.builder
    spread = lambda symbol: Symbol(build, broadcast(build, symbol.value, v.lanes))
    short = lambda symbol: Symbol(build, build.trunc(symbol.value, INT32))
    lane = Symbol(build, ir.Constant(ir.VectorType(INT32, v.lanes), list(range(v.lanes))))
    with counted(build, rows) as i:
        row = spread(row_word(word, first + short(i)))

        def drop(j, mask):
            at = j if isinstance(j, int) else spread(short(j))
            kept = Symbol(build, v.load(v.shift(source(i), j * v.itemsize), mask)) * scale
            dropped = where(is_kept(row, lane + at, threshold), kept, 0.0)
            v.store(dropped.value, v.shift(target(i), j * v.itemsize), mask)

        v.over(units, drop)


@of_arrays
def drop_units(word, first, threshold, scale, a, out):
    """out (rows, units) = a * scale where a unit is kept, else 0; out may be a.

    word, threshold : uint32, of the step and layer; first : the batch's row that is row 0 of a
    """
    v = Vectors(a.builder, a.dtype, host().vector_bytes)
    first = Symbol(a.builder, a.builder.trunc(first.value, INT32))
    emit_drop(v, a.rows, a.columns, word, first, threshold, scale, a.at, out.at)
