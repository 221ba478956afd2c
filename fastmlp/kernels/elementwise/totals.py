"""The norm of a gradient, by whole vectors.

Separate because a sum in the order of the numbers is a chain of additions, each of which waits for the one before.
Here 64 vectors at a time are summed in four chains; their totals are summed one by one.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas.numbers import fma
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import FLOATS, INT32
from fastmlp.kernels.codegen.vectors import Vectors, carried, counted, data_pointer, smaller

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


@intrinsic
def squares_of(typing_context, numbers):
    """Return the sum of the squares of a C-contiguous array, in float64."""

    def emit(context, build, signature, values):
        v = Vectors(build, numbers.dtype, host().vector_bytes)
        wide = ir.VectorType(FLOATS[types.float64], v.lanes)

        def add(some, value):
            exact = some if numbers.dtype == types.float64 else Symbol(build, build.fpext(some.value, wide))
            return fma(exact, exact, value)

        count = Symbol(build, context.make_array(numbers)(context, build, values[0]).nitems)
        place = data_pointer(context, build, numbers, values[0])
        zero = Symbol(build, ir.Constant(wide, [0.0] * v.lanes))
        return emit_sum(v, count, place, zero, add)

    return types.float64(numbers), emit
