"""Square roots and quotients by multiplications, where the machine approximates them.

A loop with a square root and a division waits for a core's only divider, 0.39 ns an element: 60 us of a step of
784-128-10 by Adam. AVX-512 has approximations of 1/sqrt(x) and 1/x to 14 bits. A Newton step doubles these bits by
multiplications: 0.14 ns an element. Vectors of another width, and other machines, use the divider.
"""

# mypy: ignore-errors

from llvmlite import ir

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.types import INT32, declare

NEWTON_STEPS = {True: 1, False: 2}
"""Newton steps by `Symbol.single`: for float32 from 14 bits to 28, for float64 to 56."""

KEEPS_NORMAL = 0x01110121
"""What `vfixupimm` does with an element, a digit for each class of x: 0 keeps the result, 1 takes x, 2 x as a quiet NaN.
From the lowest: quiet and signalling NaN, zero, one, -inf, inf, negative, positive."""


def _approximates(x):
    return host().approximates_roots and x.lanes * (4 if x.single else 8) == host().vector_bytes


def _guess(name, x):
    kind, mask = "ps" if x.single else "pd", ir.IntType(x.lanes)
    taken = [x.value.type, x.value.type, mask]
    call = declare(x.builder.module, f"llvm.x86.avx512.{name}.{kind}.512", x.value.type, taken)
    values = [x.value, x.like(0.0), ir.Constant(mask, -1)]
    return type(x)(x.builder, x.builder.call(call, values))


def _unless_special(result, x):
    """The result where x is a normal number from 0 on, else x: one instruction, where comparisons took five."""
    kind, integers = ("ps", ir.IntType(32)) if x.single else ("pd", ir.IntType(64))
    mask, table = ir.IntType(x.lanes), ir.VectorType(integers, x.lanes)
    taken = [x.value.type, x.value.type, table, INT32, mask, INT32]
    call = declare(x.builder.module, f"llvm.x86.avx512.mask.fixupimm.{kind}.512", x.value.type, taken)
    table = ir.Constant(table, [KEEPS_NORMAL] * x.lanes)
    # 0: no exception for any class; 4: rounding as it is
    values = [result.value, x.value, table, INT32(0), ir.Constant(mask, -1), INT32(4)]
    return type(x)(x.builder, x.builder.call(call, values))


def sqrt(x):
    """The root of x >= 0, a `Symbol`, within 2 ulp; zero, infinity and NaN are their own."""
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
    return _unless_special(root, x)


def quotient(a, b):
    """a / b for b > 0, `Symbol`s of one type, within 2 ulp; infinities and NaN as the division gives them."""
    if not _approximates(b):
        return a / b
    inverse = _guess("rcp14", b)
    for _ in range(NEWTON_STEPS[b.single]):
        inverse = b.multiply_add(inverse, b.multiply_add(-inverse, b, 1.0), inverse)
    return a * b.choose(b.equals(float("inf")), 0.0, inverse)
