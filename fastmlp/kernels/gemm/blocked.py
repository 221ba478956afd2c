"""The weight gradient of layers or batches that outgrow L2: both operands packed, a block of rows at a time.

`fastmlp.kernels.gemm.dispatch` reads the columns of x where they lie, one panel of delta after another. Where
rows of x lie 4 or 8 KB apart, their lines fall into the same few sets of every cache, and at 1024 x 2048 x 2048
that product fell to 0.38 of peak. Here delta is copied into panels once a block, and columns of x into strips,
which stay in L2 for all panels: 0.77.
"""

# mypy: ignore-errors

from __future__ import annotations

from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.views import lesser
from fastmlp.kernels.gemm import macrokernel
from fastmlp.kernels.gemm.dispatch import compiled, weight_gradient
from fastmlp.kernels.gemm.microkernel import STORE, UPDATE, VECTOR_BYTES, VECTORS
from fastmlp.kernels.gemm.operands import product
from fastmlp.kernels.gemm.packing import pack
from fastmlp.kernels.jit.lazy import helper
from fastmlp.kernels.tuning.reading import tuned

next_vectors = jittable(macrokernel.next_vectors)

large_bytes, many_rows = tuned("large_bytes"), tuned("many_rows")

DEPTH = 512
"""Rows of a block: the result is read and written once in so many terms."""

STRIP = 24
"""Columns of x side by side: three tiles of 8 rows of the gradient."""

STRIPS_BYTES = 1 << 20
"""Half of L2, for the strips of x."""


def scratch_length(n_out, itemsize):
    """Return the numbers of scratch that a product with n_out columns needs."""
    lanes = VECTOR_BYTES // itemsize
    return strip_rows(itemsize) * DEPTH + DEPTH * (n_out + VECTORS * lanes)


@helper
def strip_rows(itemsize):
    """Rows of the gradient whose strips of x fit into STRIPS_BYTES."""
    return STRIPS_BYTES // (DEPTH * itemsize) // STRIP * STRIP


@helper
def pack_strips(x, order, first, rows, left, columns, scratch):
    """Strip s of scratch = columns [left + s * STRIP, ..) of `rows` rows of x, row after row."""
    n_in = x.shape[1]
    for at in range(0, columns, STRIP):
        width = lesser(STRIP, columns - at)
        if len(order) == 0:
            pack(rows, width, x, first * n_in + left + at, n_in, scratch, at * rows, STRIP)
        else:
            for i in range(rows):
                place = order[first + i] * n_in + left + at
                pack(1, width, x, place, n_in, scratch, at * rows + i * STRIP, STRIP)


@helper
def pack_panels(delta, first, rows, scratch, at, lanes):
    """Panels of `rows` rows of delta side by side, copied by whole rows, which hardware prefetches."""
    n_out = delta.shape[1]
    group = 16
    for start in range(0, rows, group):
        count = lesser(group, rows - start)
        left = 0
        while left < n_out:
            columns = lesser(next_vectors(n_out - left, VECTORS, lanes) * lanes, n_out - left)
            row = (columns + lanes - 1) // lanes * lanes
            source = (first + start) * n_out + left
            pack(count, columns, delta, source, n_out, scratch, at + left * rows + start * row, row)
            left += columns


@compiled
def blocked_weight_gradient(x, order, delta, out, out_first, start, stop, descend, rate, l2, sums, scratch):
    """As `dispatch.weight_gradient`; scratch : `scratch_length`.

    Between blocks of DEPTH rows the sums wait in `out`, or in `sums` where `descend`.
    """
    rows, n_out = delta.shape
    lanes = VECTOR_BYTES // out.itemsize
    strips = strip_rows(out.itemsize)
    panels = strips * DEPTH
    waiting = sums if descend else out
    for k in range(0, rows, DEPTH):
        depth = lesser(DEPTH, rows - k)
        steps = descend and k + depth == rows
        target, finish = out if steps else waiting, UPDATE if steps else STORE
        pack_panels(delta, k, depth, scratch, panels, lanes)
        for top in range(start, stop, strips):
            bottom = lesser(top + strips, stop)
            pack_strips(x, order, k, depth, top, bottom - top, scratch)
            left = 0
            while left < n_out:
                vectors = next_vectors(n_out - left, VECTORS, lanes)
                columns = lesser(vectors * lanes, n_out - left)
                for i in range(top, bottom, STRIP):
                    height, place = lesser(STRIP, bottom - i), (i - out_first) * n_out + left
                    a = (i - top) * depth
                    if k > 0:
                        product(
                            scratch, a, 1, STRIP, scratch, panels + left * depth, vectors * lanes,
                            waiting, place, n_out, target, place, n_out, height, columns, depth, finish,
                            rate, l2, VECTORS,
                        )  # fmt: skip
                    else:
                        product(
                            scratch, a, 1, STRIP, scratch, panels + left * depth, vectors * lanes,
                            None, 0, 0, target, place, n_out, height, columns, depth, finish, rate,
                            l2, VECTORS,
                        )  # fmt: skip
                left += columns


@compiled
def weight_gradient_rows(x, order, delta, out, out_first, start, stop, descend, rate, l2, sums, scratch):
    """As `dispatch.weight_gradient`: blocked where weights are large or rows are many, else as there."""
    if x.shape[1] * delta.shape[1] * out.itemsize >= large_bytes() or delta.shape[0] >= many_rows():
        blocked_weight_gradient(
            x, order, delta, out, out_first, start, stop, descend, rate, l2, sums, scratch
        )
    else:
        weight_gradient(x, order, delta, out, out_first, start, stop, descend, rate, l2, sums, scratch)
