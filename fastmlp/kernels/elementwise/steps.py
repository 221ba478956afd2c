"""Steps of optimisers over whole vectors; a loop that LLVM vectorises has scalar tails and narrower vectors."""

# mypy: ignore-errors

from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.scalars import constants_at, literal, step_pointers, take_step
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import Vectors
from fastmlp.kernels.codes import RULE_CODES


class VectorPlace:
    """The place of a vector; the memory of lanes outside the mask is not read or written."""

    def __init__(self, vectors, pointer, mask):
        self.v, self.pointer, self.mask = vectors, pointer, mask

    def load(self):
        return Symbol(self.v.builder, self.v.load(self.pointer, self.mask))

    def store(self, symbol):
        self.v.store(symbol.value, self.pointer, self.mask)


def emit_steps(build, dtype, entry, n, pointers, rate, constants, t, penalty=None):
    """Write one step of a rule over n numbers.

    pointers : of a gradient, parameters and moments, n numbers each; the others as in `scalars.take_step`
    """
    v = Vectors(build, dtype, host().vector_bytes)

    def step(i, mask):
        at = i * v.itemsize
        take_step(
            entry,
            rate,
            constants,
            t,
            [VectorPlace(v, v.shift(pointer, at), mask) for pointer in pointers],
            penalty,
        )

    v.over(n, step)


@intrinsic
def take_steps(typing_context, code, rate, constants, t, g, p, moments):
    """Take a step of all of p and its moments, as `apply_rule`; code : the rule's, a constant."""
    if literal(code):
        entry = RULE_CODES[code.literal_value]

        def emit(context, build, signature, values):
            n = Symbol(build, build.extract_value(context.make_array(g)(context, build, values[4]).shape, 0))
            pointers = step_pointers(context, build, entry, (g, p, moments), values[4:])
            numbers_at = constants_at(context, build, constants, values[2])
            emit_steps(
                build,
                g.dtype,
                entry,
                n,
                pointers,
                Symbol(build, values[1]),
                numbers_at,
                Symbol(build, values[3]),
            )
            return context.get_dummy_value()

        return types.void(code, types.float64, constants, types.float64, g, p, moments), emit
