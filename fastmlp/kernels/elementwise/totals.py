"""The penalties on a layer's weights, and the norm of a gradient, by whole vectors.

Separate because a sum in the order of the weights is a chain of additions, each of which waits for the one before:
2 million weights took 2 ms of a step of 7. Here 64 vectors at a time are summed in four chains, in the dtype, or in
float64 for the norm; their totals are summed in float64.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas.numbers import fma, where
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import FLOATS, INT32
from fastmlp.kernels.codegen.vectors import Vectors, carried, counted, data_pointer, smaller
from fastmlp.kernels.gemm.microkernel import MACHINE
from fastmlp.kernels.program.arithmetic import with_decay

CHAINS, TOGETHER = 4, 64
"""The number of chains, and the vectors that they sum before their total is added to the whole."""


def emit_sum(v, count, place, zero, add):
    """Write a sum over `count` numbers at a place; return it, a float64.

    zero : what a chain begins with, in every lane; add : add(numbers, value) gives a value with these numbers added
    """
    build, double = v.builder, FLOATS[types.float64]
    total = cgutils.alloca_once_value(build, ir.Constant(double, 0.0))

    def added(at, value, mask=None):
        numbers = Symbol(build, v.load(v.shift(place, at * v.itemsize), mask))
        return add(numbers, Symbol(build, value)).value

    step = CHAINS * v.lanes
    with counted(build, count, TOGETHER * v.lanes) as start:
        numbers = smaller(count - start, count.number(TOGETHER * v.lanes))
        rest = numbers % step
        each = lambda i, values: [added(start + i + c * v.lanes, value) for c, value in enumerate(values)]
        chains = carried(build, 0, numbers - rest, [zero.value] * CHAINS, each, step)
        edge = lambda i, values: [added(start + i, *values, v.first(numbers - i))]
        chains[0] = carried(build, numbers - rest, numbers, chains[:1], edge, v.lanes)[0]
        lanes = chains[0]
        for chain in chains[1:]:
            lanes = build.fadd(lanes, chain)
        for lane in range(v.lanes):
            term = build.extract_element(lanes, INT32(lane))
            term = term if zero.lane == double else build.fpext(term, double)
            build.store(build.fadd(build.load(total), term), total)
    return build.load(total)


def emit_penalty(v, count, w, l1, l2):
    """Write l1 * sum|w| + l2 / 2 * sum w^2 of `count` numbers; return it, a float64. l1, l2 : vectors"""
    half = l2 * 0.5
    add = lambda weights, value: fma(l1, weights.magnitude(), fma(half * weights, weights, value))
    return emit_sum(v, count, w, Symbol(v.builder, v.zero), add)


@intrinsic
def squares_of(typing_context, numbers):
    """Return the sum of the squares of a C-contiguous array, in float64."""

    def emit(context, build, signature, values):
        v = Vectors(build, numbers.dtype, MACHINE.vector_bytes)
        wide = ir.VectorType(FLOATS[types.float64], v.lanes)

        def add(some, value):
            exact = some if numbers.dtype == types.float64 else Symbol(build, build.fpext(some.value, wide))
            return fma(exact, exact, value)

        count = Symbol(build, context.make_array(numbers)(context, build, values[0]).nitems)
        place = data_pointer(context, build, numbers, values[0])
        zero = Symbol(build, ir.Constant(wide, [0.0] * v.lanes))
        return emit_sum(v, count, place, zero, add)

    return types.float64(numbers), emit


def _given(context, build, kind, values):
    """Vectors of the arrays' dtype, the places of the arrays, the length of the first; l1 and l2 in every lane."""
    v = Vectors(build, kind.dtype, MACHINE.vector_bytes)
    l1, l2 = (Symbol(build, v.zero).number(Symbol(build, value)) for value in values[:2])
    count = Symbol(build, context.make_array(kind)(context, build, values[2]).nitems)
    return v, count, l1, l2


@intrinsic
def penalty_of(typing_context, l1, l2, w):
    """Return l1 * sum|w| + l2 / 2 * sum w^2 of a C-contiguous array, float64; l1 and l2 of its dtype."""

    def emit(context, build, signature, values):
        v, count, *both = _given(context, build, w, values)
        return emit_penalty(v, count, data_pointer(context, build, w, values[2]), *both)

    return types.float64(w.dtype, w.dtype, w), emit


@intrinsic
def add_penalty_gradient(typing_context, l1, l2, w, dw):
    """dw += l2 * w, then, where l1 > 0, l1 * sign(w); C-contiguous arrays, l1 and l2 of their dtype."""

    def emit(context, build, signature, values):
        v, count, first, second = _given(context, build, w, values)
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
