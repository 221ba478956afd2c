"""Steps of optimisers on a parameter, or on whole vectors.

A loop that LLVM vectorises has narrower vectors and scalar tails.
"""

from fastmlp.formulas.numbers import fma
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.vectors import NumberArray, VectorArray, Vectors, of_code
from fastmlp.model.rules import ROOM_FOR_CONSTANTS


def constants_at(constants):
    """Return a rule's constants, scalars, from a float64 `Matrix`."""
    build = constants.builder
    # Nothing writes to constants while a program runs. With the hint LLVM computes their functions once a chunk.
    never_changes = build.module.add_metadata([])
    found = [constants[i] for i in range(ROOM_FOR_CONSTANTS)]
    for number in found:
        number.value.set_metadata("invariant.load", never_changes)
    return found


def arrays_of_step(entry, g, p, moments):
    """Return the arrays of a rule's step: gradient, parameters, and each row of moments."""
    rows = (NumberArray(g.builder, g.dtype, moments.at(row)) for row in range(entry.moments))
    return g, p, *rows


def take_step(entry, rate, constants, t, arrays, i, penalty=None):
    """Write a rule's step of parameter i, or of a vector of parameters.

    arrays : of gradients, parameters and each moment
    penalty : penalty * parameter is added to the gradient, if given
    """
    g, p, *moments = (array[i] for array in arrays)
    if penalty is not None:
        g = fma(penalty, p, g)
    new, moments = entry.formula(p, g, moments, rate, constants, t)
    for array, symbol in zip(arrays[1:], [new, *moments], strict=True):
        array[i] = p.number(symbol)  # a formula may return one number for all parameters


@of_code("rule", results=0)
def step_element(entry, i, rate, constants, t, g, p, moments):
    """Take the step of parameter i of arrays (n,), with moments (rows, n)."""
    take_step(entry, rate, constants_at(constants), t, arrays_of_step(entry, g, p, moments), i)


def emit_steps(entry, n, arrays, rate, constants, t, penalty=None):
    """Write a step of a rule over n numbers.

    arrays : of gradients, parameters and moments, n numbers each; the others as in `take_step`
    """
    v = Vectors(arrays[0].builder, arrays[0].dtype, host().vector_bytes)

    def step(i, mask):
        vectors = [VectorArray(v, array.data, apart=v.itemsize, mask=mask) for array in arrays]
        take_step(entry, rate, constants, t, vectors, i, penalty)

    v.over(n, step)


@of_code("rule", results=0)
def take_steps(entry, rate, constants, t, g, p, moments):
    """Take a step of all parameters and moments, as `apply_rule`."""
    arrays = arrays_of_step(entry, g, p, moments)
    emit_steps(entry, g.units, arrays, rate, constants_at(constants), t)
