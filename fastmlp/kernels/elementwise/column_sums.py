"""Sums down the columns of a matrix: the gradients of biases.

Separate because it is written with vectors: a loop that LLVM vectorises has scalar tails and narrower vectors, and took
0.3 s to compile.
"""

# mypy: ignore-errors

from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import Vectors, carried, counted, data_pointer

PANELS = 8, 4, 2, 1
"""Vectors side by side: several hide the latency of an addition."""


def emit_sums(v, rows, columns, a, a_row, out, started=False):
    """Write out (columns,) = the sums of a (rows, columns) over its rows, added one by one.

    rows, columns : integers or `Symbol`s; a_row : too, the bytes from one row to the next
    started : whether the sums begin with what is in `out`, and not with 0
    """
    build = v.builder

    def panel(left, vectors, mask=None):
        source, target = v.shift(a, left * v.itemsize), v.shift(out, left * v.itemsize)
        read = lambda place: [v.load(v.shift(place, j * v.bytes), mask) for j in range(vectors)]

        def add(k, values):
            place, *totals = values
            return [v.shift(place, a_row), *(build.fadd(*pair) for pair in zip(totals, read(place)))]

        totals = read(target) if started else [v.zero] * vectors
        for j, total in enumerate(carried(build, 0, rows, [source, *totals], add)[1:]):
            v.store(total, v.shift(target, j * v.bytes), mask)

    done = 0
    for vectors in PANELS:
        width = vectors * v.lanes
        rest = (columns - done) % width
        with counted(build, columns - done - rest, width) as left:
            panel(done + left, vectors)
        done = columns - rest
    v.edge(rest, lambda mask: panel(done, 1, mask))


@intrinsic
def column_sums(typing_context, a, out):
    """out (columns,) = the sum of a (rows, columns) over its rows, both C-contiguous."""

    def emit(context, build, signature, arguments):
        shape = context.make_array(a)(context, build, arguments[0]).shape
        rows, columns = (Symbol(build, build.extract_value(shape, axis)) for axis in range(2))
        source, target = (
            data_pointer(context, build, *array) for array in zip(signature.args, arguments, strict=True)
        )
        v = Vectors(build, a.dtype, host().vector_bytes)
        emit_sums(v, rows, columns, source, columns * v.itemsize, target)
        return context.get_dummy_value()

    return types.void(a, out), emit
