"""Square roots and quotients by multiplications, where the machine approximates them.

A loop with a square root and a division waits for a core's only divider, 0.39 ns an element: 60 us of a step of
784-128-10 by Adam. AVX-512 has approximations of 1/sqrt(x) and 1/x to 14 bits. A Newton step doubles these bits by
multiplications: 0.14 ns an element. Vectors of another width, and other machines, use the divider.
"""

# mypy: ignore-errors

from llvmlite import ir

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.types import declare

NEWTON_STEPS = {True: 1, False: 2}
"""Newton steps by `Symbol.single`: for float32 from 14 bits to 28, for float64 to 56."""

LEAST = {True: 2.0**-126, False: 2.0**-1022}


def _approximates(x):
    return host().approximates_roots and x.lanes * (4 if x.single else 8) == host().vector_bytes


def _guess(name, x):
    kind, mask = "ps" if x.single else "pd", ir.IntType(x.lanes)
    taken = [x.value.type, x.value.type, mask]
    call = declare(x.builder.module, f"llvm.x86.avx512.{name}.{kind}.512", x.value.type, taken)
    values = [x.value, x.like(0.0), ir.Constant(mask, -1)]
    return type(x)(x.builder, x.builder.call(call, values))


def sqrt(x):
    """The square root of x >= 0, a `Symbol`, within 2 ulp. A subnormal x is returned as it is, which stands for 0."""
    if not _approximates(x):
        return x.sqrt()
    guess = _guess("rsqrt14", x)
    root, half = x * guess, guess * 0.5
    for step in range(NEWTON_STEPS[x.single]):
        # 1/2 - root * half is half the relative error of both
        error = x.multiply_add(-root, half, 0.5)
        root = x.multiply_add(root, error, root)
        if step + 1 < NEWTON_STEPS[x.single]:
            half = x.multiply_add(half, error, half)
    normal = (x >= LEAST[x.single]) & (x < float("inf"))
    return x.choose(normal, root, x)


def quotient(a, b):
    """a / b for b > 0, `Symbol`s of one type, within 2 ulp; infinities and NaN as the division gives them."""
    if not _approximates(b):
        return a / b
    inverse = _guess("rcp14", b)
    for _ in range(NEWTON_STEPS[b.single]):
        inverse = b.multiply_add(inverse, b.multiply_add(-inverse, b, 1.0), inverse)
    return a * b.choose(b.equals(float("inf")), 0.0, inverse)
