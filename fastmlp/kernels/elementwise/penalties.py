"""The penalties on a layer's weights by whole vectors.

Separate because a sum in the order of the weights is a chain of additions, each of which waits for the one before:
2 million weights took 2 ms of a step of 7. Here 64 vectors at a time are summed in four chains, in the dtype, and
what they come to in float64.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import FLOATS, INT, INT32, Vectors, counted, data_pointer, smaller
from fastmlp.kernels.gemm.microkernel import MACHINE
from fastmlp.kernels.program.arithmetic import with_decay

CHAINS, TOGETHER = 4, 64
"""Chains, and vectors that they sum before what they come to is added to the whole."""


def emit_penalty(build, dtype, count, w, l1, l2):
    """Write l1 * sum|w| + l2 / 2 * sum w^2 of so many numbers; return it, a float64."""
    v = Vectors(build, dtype, MACHINE.vector_bytes)
    first, half = (
        Symbol(build, v.splat(number)) for number in (l1, build.fmul(l2, ir.Constant(v.scalar, 0.5)))
    )
    double = FLOATS[types.float64]
    total = cgutils.alloca_once_value(build, ir.Constant(double, 0.0))
    chains = [cgutils.alloca_once(build, v.type) for _ in range(CHAINS)]

    def add(chain, at, mask):
        weights = Symbol(build, v.load(v.shift(w, build.mul(at, INT(v.itemsize))), mask))
        value = Symbol(build, build.load(chain, typ=v.type))
        value = value.multiply_add(half * weights, weights, value)
        build.store(value.multiply_add(first, weights.magnitude(), value).value, chain)

    with counted(build, count, TOGETHER * v.lanes) as start:
        for chain in chains:
            build.store(v.zero, chain)
        numbers = smaller(build, build.sub(count, start), INT(TOGETHER * v.lanes))
        step = CHAINS * v.lanes
        whole = build.mul(build.sdiv(numbers, INT(step)), INT(step))
        with counted(build, whole, step) as i:
            for c, chain in enumerate(chains):
                add(chain, build.add(build.add(start, i), INT(c * v.lanes)), None)
        with counted(build, build.sub(numbers, whole), v.lanes) as i:
            at = build.add(whole, i)
            add(chains[0], build.add(start, at), v.first(build.sub(numbers, at)))
        lanes = build.load(chains[0], typ=v.type)
        for chain in chains[1:]:
            lanes = build.fadd(lanes, build.load(chain, typ=v.type))
        for lane in range(v.lanes):
            term = build.extract_element(lanes, INT32(lane))
            term = term if v.scalar == double else build.fpext(term, double)
            build.store(build.fadd(build.load(total), term), total)
    return build.load(total)


@intrinsic
def penalty_of(typing_context, l1, l2, w):
    """Return l1 * sum|w| + l2 / 2 * sum w^2 of a C-contiguous array, float64; l1 and l2 of its dtype."""

    def emit(context, build, signature, arguments):
        count = context.make_array(w)(context, build, arguments[2]).nitems
        place = data_pointer(context, build, w, arguments[2])
        return emit_penalty(build, w.dtype, count, place, *arguments[:2])

    return types.float64(w.dtype, w.dtype, w), emit


@intrinsic
def add_penalty_gradient(typing_context, l1, l2, w, dw):
    """dw += l2 * w, then, where l1 > 0, l1 * sign(w); C-contiguous arrays, l1 and l2 of their dtype."""

    def emit(context, build, signature, arguments):
        v = Vectors(build, w.dtype, MACHINE.vector_bytes)
        count = context.make_array(w)(context, build, arguments[2]).nitems
        weights, gradients = (
            data_pointer(context, build, *pair) for pair in zip(signature.args[2:], arguments[2:])
        )
        first, second = (Symbol(build, v.splat(number)) for number in arguments[:2])
        signs = build.fcmp_ordered(">", arguments[0], ir.Constant(v.scalar, 0.0))

        def each(add):
            def at(place, mask):
                offset = build.mul(place, INT(v.itemsize))
                weight = Symbol(build, v.load(v.shift(weights, offset), mask))
                target = v.shift(gradients, offset)
                gradient = Symbol(build, v.load(target, mask))
                v.store(add(with_decay(gradient, second, weight), weight).value, target, mask)

            v.over(count, at)

        with build.if_else(signs) as (both, one):
            with both:
                sign = lambda weight: where(weight > 0.0, 1.0, where(weight < 0.0, -1.0, weight))
                each(lambda gradient, weight: gradient + first * sign(weight))
            with one:
                each(lambda gradient, weight: gradient)
        return context.get_dummy_value()

    return types.void(w.dtype, w.dtype, w, dw), emit
