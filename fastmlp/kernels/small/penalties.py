"""The stage of a small network's penalty: the sum of `fastmlp.kernels.elementwise.penalties` in the padded layout.

Separate because rows of few weights, of which several count as one, lie apart here, and a last layer may lie transposed.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import INT, INT32
from fastmlp.kernels.codegen.vectors import carried
from fastmlp.kernels.elementwise.penalties import Penalty, emit_penalty
from fastmlp.kernels.jit.disposable import Intrinsic
from fastmlp.kernels.program.arithmetic import PENALTY_LANES, PENALTY_ROWS, PENALTY_TERMS, rows_as_one
from fastmlp.kernels.small.padded import up
from fastmlp.kernels.small.stages import Memory


def penalties(layers):
    """intrinsic(work, l2): return the sum of the layers' penalties, float64."""

    @Intrinsic
    def total(typingctx, work, l2):
        def codegen(context, builder, signature, values):
            memory = Memory(context, builder, work, values[0])
            v = memory.vectors(PENALTY_LANES)
            l2 = Symbol(builder, ir.Constant(v.scalar, 0.0)).number(Symbol(builder, values[1]))
            value = ir.Constant(ir.DoubleType(), 0.0)
            for layer in layers:
                value = builder.fadd(value, emit(memory, layer, Penalty(v, None, l2)))
            return value

        return types.float64(work, types.float64), codegen

    return total


def emit(memory, layer, penalty):
    """Write a layer's penalty; return it, a float64."""
    if layer.is_transposed or rows_as_one(layer.n_out) > 1:
        return emit_apart(memory, layer, penalty)
    columns = min(layer.out_stride, up(layer.n_out, PENALTY_LANES))
    rows = Symbol(memory.builder, INT(layer.n_in))
    place = memory.at(layer.weights)
    return emit_penalty(penalty, place, rows, columns, layer.out_stride, layer.n_in * columns)


def emit_apart(memory, layer, penalty):
    """Write the penalty of a layer that is transposed, or of rows of which several count as one.

    A vector holds the weights of one output in a round of the chains, or one row of weights.
    """
    builder, n_in, n_out = memory.builder, layer.n_in, layer.n_out
    as_one = rows_as_one(n_out)
    around = as_one * PENALTY_ROWS
    if layer.is_transposed:
        v, count = memory.vectors(around), n_out
        offset = lambda place, i: i + place * layer.in_stride
        held = lambda row, unit: (unit, row)
    else:
        v, count = memory.vectors(layer.out_stride), around
        offset = lambda place, i: (i + place) * layer.out_stride
        held = lambda row, unit: (row, unit)

    def added(i, values, edge=False):
        places = [memory.at(offset(place, i) + layer.weights) for place in range(count)]
        left = lambda place: n_in - i if layer.is_transposed else v.lanes if i + place < n_in else 0
        masks = [v.first(left(place)) if edge else None for place in range(count)]
        return [
            penalty.added(v.load(*pair), value) for *pair, value in zip(places, masks, values, strict=True)
        ]

    total = penalty.none
    for first in range(0, n_in, around * PENALTY_TERMS):
        last = min(first + around * PENALTY_TERMS, n_in)
        whole = last - (last - first) % around
        values = carried(builder, first, whole, [v.zero] * count, added, around)
        if whole < last:
            values = added(whole, values, True)
        chains = []
        for row in range(0, around, as_one):
            chain = penalty.v.zero
            for lane in range(as_one * n_out):
                vector, at = held(row + lane // n_out, lane % n_out)
                number = builder.extract_element(values[vector], INT32(at))
                chain = builder.insert_element(chain, number, INT32(lane))
            chains.append(chain)
        total = penalty.grouped(total, chains)
    return penalty.whole(total)
