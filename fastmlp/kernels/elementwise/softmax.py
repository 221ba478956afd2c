"""Softmax of rows for predictions, by whole vectors of a row; in training it is part of the loss (`losses`).

Separate because it is written with vectors: LLVM leaves loops with a sum in order scalar, 3 ns a unit. Here each lane
has a maximum and a sum of its own, which are combined by halves.
"""

# mypy: ignore-errors

from fastmlp.formulas.elementary import exp_nonpositive
from fastmlp.formulas.numbers import at_least
from fastmlp.kernels.codegen.arrays import of_arrays
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import Vectors, broadcast, counted, folded


@of_arrays
def softmax_of_rows(z, out):
    """out (rows, classes) = exp(z) / its row sums; each row's maximum is subtracted from z first; out may be z."""
    build = z.builder
    v = Vectors(build, z.kind.dtype, host().vector_bytes)

    def within(mask, value, other):
        """The value in the lanes of a row, the other one beyond."""
        return value if mask is None else Symbol(build, build.select(mask, value.value, other.value))

    def of_all(value, combine):
        """The combination of all lanes, in every lane."""
        return Symbol(build, broadcast(build, folded(build, value, combine).value, v.lanes))

    with counted(build, z.rows) as i:
        source, target = z.at(i), out.at(i)
        first, none = Symbol(build, v.broadcast(source)), Symbol(build, v.zero)
        at = lambda row, j: v.shift(row, j * v.itemsize)
        load = lambda row, j, mask: Symbol(build, v.load(at(row, j), mask))
        top, total = Running(first), Running(none)

        def raise_top(j, mask):
            top.value = at_least(top.value, within(mask, load(source, j, mask), first))

        def add_term(j, mask):
            term = exp_nonpositive(load(source, j, mask) - highest)
            v.store(term.value, at(target, j), mask)
            total.value = total.value + within(mask, term, none)

        def divide(j, mask):
            v.store((load(target, j, mask) * inverse).value, at(target, j), mask)

        v.over(z.columns, raise_top)
        highest = of_all(top.value, at_least)
        v.over(z.columns, add_term)
        inverse = 1.0 / of_all(total.value, lambda a, b: a + b)
        v.over(z.columns, divide)
