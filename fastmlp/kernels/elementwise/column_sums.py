"""Sums down the columns of a matrix: the gradients of biases.

Separate because a loop that LLVM vectorises has tails and a narrower vector, and took 0.3 s to compile.
"""

# mypy: ignore-errors

from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.vectors import INT, Vectors, counted, data_pointer
from fastmlp.kernels.gemm.microkernel import MACHINE

ROWS = 8
"""Rows that join the sum in one pass over it: one load and store of it for eight."""


def emit_sums(build, dtype, rows, columns, a, out):
    """Write what `column_sums` does, given places."""
    v = Vectors(build, dtype, MACHINE.vector_bytes)
    row_bytes = build.mul(columns, INT(v.itemsize))

    def add(first, count):
        source = v.shift(a, build.mul(first, row_bytes))

        def column(j, mask):
            at = build.mul(j, INT(v.itemsize))
            place = v.shift(out, at)
            total = v.load(place, mask)
            for m in range(count):
                row = v.shift(source, build.mul(row_bytes, INT(m)))
                total = build.fadd(total, v.load(v.shift(row, at), mask))
            v.store(total, place, mask)

        v.over(columns, column)

    v.over(columns, lambda j, mask: v.store(v.zero, v.shift(out, build.mul(j, INT(v.itemsize))), mask))
    rest = build.srem(rows, INT(ROWS))
    whole = build.sub(rows, rest)
    with counted(build, whole, ROWS) as i:
        add(i, ROWS)
    with counted(build, rest) as i:
        add(build.add(whole, i), 1)


@intrinsic
def column_sums(typing_context, a, out):
    """out (columns,) = the sum of a (rows, columns) over its rows, both C-contiguous."""

    def emit(context, build, signature, arguments):
        shape = context.make_array(a)(context, build, arguments[0]).shape
        rows, columns = (build.extract_value(shape, axis) for axis in range(2))
        places = [
            data_pointer(context, build, *array) for array in zip(signature.args, arguments, strict=True)
        ]
        emit_sums(build, a.dtype, rows, columns, *places)
        return context.get_dummy_value()

    return types.void(a, out), emit
