"""Adam over whole vectors, without the divider.

The plain loop waits for one square root and one division an element, 0.39 ns of a core's only divider:
60 us of a step of 784-128-10. AVX-512 has approximations of 1/sqrt(x) and 1/x to 14 bits, which a Newton
step doubles on the multipliers: 0.14 ns. Other machines divide.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.tiles import MACHINE
from fastmlp.kernels.vectors import AVX512, INT, Vectors, data_pointer, declare

NEWTON_STEPS = {4: 1, 8: 2}
"""By itemsize: from 14 bits to 28, and to 56."""


class Roots:
    """Emits square roots and quotients, within 2 ulp; zeros, infinities and NaN as the instructions give them."""

    def __init__(self, build, vectors, machine):
        self.build, self.v = build, vectors
        self.divides = machine != AVX512
        self.steps = NEWTON_STEPS[vectors.itemsize]
        self.one, self.half = (ir.Constant(vectors.type, [x] * vectors.lanes) for x in (1.0, 0.5))
        self.infinity = ir.Constant(vectors.type, [float("inf")] * vectors.lanes)
        self.least = ir.Constant(
            vectors.type, [{4: 2.0**-126, 8: 2.0**-1022}[vectors.itemsize]] * vectors.lanes
        )

    def _guess(self, name, x):
        kind = "ps" if self.v.itemsize == 4 else "pd"
        mask = ir.IntType(self.v.lanes)
        call = declare(
            self.v.module, f"llvm.x86.avx512.{name}.{kind}.512", self.v.type, [self.v.type, self.v.type, mask]
        )
        return self.build.call(call, [x, self.v.zero, ir.Constant(mask, -1)])

    def sqrt(self, x):
        """The root of x >= 0. Below the least normal number, x itself: as good as 0."""
        if self.divides:
            return self.v.sqrt(x)
        build, fma = self.build, self.v.fma
        guess = self._guess("rsqrt14", x)
        root, half = build.fmul(x, guess), build.fmul(guess, self.half)
        for step in range(self.steps):
            # 1/2 - root * half is half the relative error of both
            error = fma(build.fneg(root), half, self.half)
            root = fma(root, error, root)
            if step + 1 < self.steps:
                half = fma(half, error, half)
        normal = build.and_(
            build.fcmp_ordered(">=", x, self.least), build.fcmp_ordered("<", x, self.infinity)
        )
        return build.select(normal, root, x)

    def quotient(self, a, b):
        """a / b for b > 0."""
        if self.divides:
            return self.build.fdiv(a, b)
        build, fma = self.build, self.v.fma
        inverse = self._guess("rcp14", b)
        for _ in range(self.steps):
            inverse = fma(inverse, fma(build.fneg(b), inverse, self.one), inverse)
        infinite = build.fcmp_ordered("==", b, self.infinity)
        return build.fmul(a, build.select(infinite, self.v.zero, inverse))


def emit_adam(build, dtype, n, pointers, scalars):
    """Write one step over n numbers; pointers and scalars as `adam` names them."""
    v = Vectors(build, dtype, MACHINE.vector_bytes)
    roots = Roots(build, v, MACHINE)
    r, keep1, take1, keep2, take2, shrink, unbias, epsilon = map(v.splat, scalars)

    def step(i, mask):
        places = [v.shift(pointer, build.mul(i, INT(v.itemsize))) for pointer in pointers]
        g, p, first, second = (v.load(place, mask) for place in places)
        first = v.fma(keep1, first, build.fmul(take1, g))
        second = v.fma(keep2, second, build.fmul(build.fmul(take2, g), g))
        move = roots.quotient(first, v.fma(roots.sqrt(second), unbias, epsilon))
        p = v.fma(build.fneg(r), move, build.fmul(shrink, p))
        for value, place in zip((p, first, second), places[1:]):
            v.store(value, place, mask)

    v.over(n, step)


@intrinsic
def adam(typing_context, g, p, first, second, r, keep1, take1, keep2, take2, shrink, unbias, epsilon):
    """One step over all of g, p, first and second, flat and as long as g; scalars have their dtype.

    first = keep1 * first + take1 * g; second = keep2 * second + take2 * g * g;
    p = shrink * p - r * first / (sqrt(second) * unbias + epsilon)
    """

    def emit(context, build, signature, arguments):
        arrays = list(zip(signature.args, arguments))[:4]
        n = build.extract_value(context.make_array(g)(context, build, arguments[0]).shape, 0)
        pointers = [data_pointer(context, build, *array) for array in arrays]
        emit_adam(build, g.dtype, n, pointers, arguments[4:])
        return context.get_dummy_value()

    return types.void(g, p, first, second, *[g.dtype] * 8), emit
