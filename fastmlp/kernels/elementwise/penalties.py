"""The penalties on a layer's weights, and their derivative, by whole vectors.

Separate because one chain of additions in the order of the weights, each of which waits for the one before, took 2 ms
of a step of 7 at 2 million weights. The order of the sum is one that rows of any stride can follow
(`fastmlp.kernels.program.arithmetic`): the programs of single networks keep theirs a whole number of vectors apart.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import FLOATS, ITEMSIZE
from fastmlp.kernels.codegen.vectors import Vectors, carried, data_pointer, folded, smaller
from fastmlp.kernels.program.arithmetic import (
    PENALTY_LANES,
    PENALTY_ROWS,
    PENALTY_TERMS,
    rows_as_one,
    with_decay,
    with_penalty,
)


class Penalty:
    """Writes the sum of a layer's penalties: groups of terms in the dtype, and their sums in float64.

    v : vectors of `PENALTY_LANES` lanes; l1 : None if there is none; l1, l2 : floats of the dtype
    """

    def __init__(self, v, l1, l2):
        self.v, self.builder, self.l1, self.half = v, v.builder, l1, l2 * 0.5
        self.none = ir.Constant(ir.VectorType(FLOATS[types.float64], PENALTY_LANES), [0.0] * PENALTY_LANES)
        """The total of no groups."""

    def added(self, weights, chain):
        """A chain, a vector, with the terms of a vector of weights."""
        weights, chain = Symbol(self.builder, weights), Symbol(self.builder, chain)
        return with_penalty(self.l1, self.half, weights, chain).value

    def grouped(self, total, chains):
        """The total of a layer's groups, float64, added to the chains of the layers before."""
        build, lanes = self.builder, chains[0]
        for chain in chains[1:]:
            lanes = build.fadd(lanes, chain)
        return build.fadd(total, lanes if lanes.type == total.type else build.fpext(lanes, total.type))

    def whole(self, total):
        """The layer's penalty, float64, of the total of its groups."""
        return folded(self.builder, Symbol(self.builder, total), lambda a, b: a + b).value


def emit_penalty(penalty, place, rows, columns, stride, count):
    """Write the penalty of rows of weights; return it, a float64.

    rows : a `Symbol`; columns, stride : of a row, and from one to the next, integers or `Symbol`s
    count : numbers in all: the last row may be shorter
    """
    v, build = penalty.v, penalty.builder
    terms = rows.number(PENALTY_TERMS) // ((columns + v.lanes - 1) // v.lanes)
    group, complete = where(terms > 1, terms, 1) * PENALTY_ROWS, rows.number(count) // columns
    full = columns - columns % v.lanes

    def block(row, chains, lengths=None):
        """The chains with the terms of `PENALTY_ROWS` rows; lengths : of each, where some are not whole."""
        places = [v.shift(place, (row + c) * stride * v.itemsize) for c in range(PENALTY_ROWS)]

        def vectors(lengths):
            masks = lambda j: [None] * PENALTY_ROWS if lengths is None else [v.first(n - j) for n in lengths]
            return lambda j, chains: [
                penalty.added(v.load(v.shift(start, j * v.itemsize), mask), chain)
                for start, mask, chain in zip(places, masks(j), chains, strict=True)
            ]

        chains = carried(build, 0, full, chains, vectors(lengths), v.lanes)
        return carried(build, full, columns, chains, vectors(lengths or [columns] * PENALTY_ROWS), v.lanes)

    def each_group(row, total):
        last = smaller(row + group, rows)
        whole = row + (smaller(last, complete) - row) // PENALTY_ROWS * PENALTY_ROWS
        lengths = lambda k: [
            smaller(rows.number(columns), count - (k + c) * columns) for c in range(PENALTY_ROWS)
        ]
        chains = carried(build, row, whole, [v.zero] * PENALTY_ROWS, block, PENALTY_ROWS)
        chains = carried(
            build, whole, last, chains, lambda k, chains: block(k, chains, lengths(k)), PENALTY_ROWS
        )
        return [penalty.grouped(*total, chains)]

    return penalty.whole(*carried(build, 0, rows, [penalty.none], each_group, group))


@intrinsic
def penalty_of(typing_context, l1, l2, w):
    """Return l1 * sum|w| + l2 / 2 * sum w^2 of a layer's C-contiguous weights, float64; l1 and l2 of its dtype."""

    def emit(context, build, signature, values):
        v = Vectors(build, w.dtype, PENALTY_LANES * ITEMSIZE[w.dtype])
        array = context.make_array(w)(context, build, values[2])
        n_in, n_out = (Symbol(build, build.extract_value(array.shape, axis)) for axis in range(2))
        columns, count = n_out * rows_as_one(n_out), n_in * n_out
        rows = (count + columns - 1) // columns
        penalty = Penalty(v, *(Symbol(build, value) for value in values[:2]))
        place = data_pointer(context, build, w, values[2])
        return emit_penalty(penalty, place, rows, columns, columns, count)

    return types.float64(w.dtype, w.dtype, w), emit


@intrinsic
def add_penalty_gradient(typing_context, l1, l2, w, dw):
    """dw += l2 * w, then, where l1 > 0, l1 * sign(w); C-contiguous arrays, l1 and l2 of their dtype."""

    def emit(context, build, signature, values):
        v = Vectors(build, w.dtype, host().vector_bytes)
        first, second = (Symbol(build, v.zero).number(Symbol(build, value)) for value in values[:2])
        count = Symbol(build, context.make_array(w)(context, build, values[2]).nitems)
        weights, gradients = (
            data_pointer(context, build, *pair) for pair in zip(signature.args[2:], values[2:])
        )

        def each(add):
            def at(place, mask):
                weight = Symbol(build, v.load(v.shift(weights, place * v.itemsize), mask))
                target = v.shift(gradients, place * v.itemsize)
                gradient = with_decay(Symbol(build, v.load(target, mask)), second, weight)
                v.store(add(gradient, weight).value, target, mask)

            v.over(count, at)

        with build.if_else((Symbol(build, values[0]) > 0.0).value) as (both, one):
            with both:
                sign = lambda weight: where(weight > 0.0, 1.0, where(weight < 0.0, -1.0, weight))
                each(lambda gradient, weight: gradient + first * sign(weight))
            with one:
                each(lambda gradient, weight: gradient)
        return context.get_dummy_value()

    return types.void(w.dtype, w.dtype, w, dw), emit
