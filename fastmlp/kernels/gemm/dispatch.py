"""Chooses, for each operation of a layer, the way to form the product.

Each function computes a slice of the result's rows (of samples, or of weights). Any slicing gives the same bits, so
workers share a product without communication. `panel` is a worker's scratch, with a row for each term of the sums.
Arrays should be aligned to 64 bytes: otherwise an 8x2 tile falls from 0.89 of peak to 0.75.

A jitted caller should pass no literal number: Numba compiles the callee again for each.
"""

from numba import njit

from fastmlp.formulas.numbers import where
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.views import chosen, lesser
from fastmlp.kernels.gemm.macrokernel import IN_PLACE, PACKED
from fastmlp.kernels.gemm.microkernel import RELU, ROW_VECTORS, STORE, UPDATE, VECTOR_BYTES, VECTORS
from fastmlp.kernels.gemm.operands import product_by_transposed, product_of_columns, product_of_rows
from fastmlp.kernels.gemm.transposed import (
    narrow_affine,
    narrow_ordered_weight_gradient,
    narrow_weight_gradient,
    pays_backward,
    pays_forward,
)
from fastmlp.kernels.thresholds import ROW_BYTES, threshold

compiled = njit(error_model="numpy", inline="always")

# Copying a panel of B takes about as long as one tile; it pays when at least this many rows use the panel.
pack_rows, pack_always_rows = threshold("pack_rows"), threshold("pack_always_rows")
pack_delta_rows, crowded_bytes = threshold("pack_delta_rows"), threshold("crowded_bytes")

PAGED_BYTES, FAR_WORK = 1 << 22, 1 << 28
"""A B of PAGED_BYTES has a page of memory for every row of a panel: the copy pays where its bytes times the rows of the
result are FAR_WORK. With 2000 x 2000 weights 32 rows took 0.72 of the time, with 1000 x 1500 64 rows 0.88."""

CACHED_BYTES, MOST_TERMS, DEPTH = 1 << 20, 2048, 512
"""Rows of x of more than CACHED_BYTES and MOST_TERMS inputs leave L2 before the next panel of W: there sums run over DEPTH
inputs at a time. 2000 x 20000 x 100 went from 0.64 of peak to 0.86, while 1024 x 2048 x 2048 would lose 0.03.
"""

HELD_BYTES, LEAST_TERMS = 1 << 19, 512
"""Bytes of rows of x and delta in a slice of a weight gradient's sums, of LEAST_TERMS rows at least: with 256 inputs and
units 1024 rows took 0.88 of their time. Of rows of x longer than ROW_BYTES nothing was gained.
"""


def is_crowded(depth, row_bytes, most):
    """Return whether a panel of `depth` rows this far apart does not stay in L2, for too few sets.

    The power of two in the distance says how few; beside other reads a panel may fill about half of L2, `most`.
    """
    return depth * (row_bytes & (0 - row_bytes)) >= most


@jittable
def packing_for(rows: int, depth: int, row_bytes: int, least: int, crowded: int, always: int):
    """Return how tiles read B, IN_PLACE or PACKED; least, crowded, always : the thresholds"""
    total = depth * row_bytes
    far = (total >= PAGED_BYTES) & (total * rows >= FAR_WORK)
    pays = (rows >= least) & (is_crowded(depth, row_bytes, crowded) | far)
    return where(pays | (rows >= always), rows.number(PACKED), IN_PLACE)


@jittable
def across(rows: int, ordered: int):
    """Return the vectors across a tile: more for a single row of x, to hide the latency of FMAs."""
    return where(rows.equals(1) & ordered.equals(0), rows.number(ROW_VECTORS), VECTORS)


@jittable
def terms_together(n_in: int, x_bytes: int):
    """Return how many inputs the sums run over before the next panel of W: n_in, or DEPTH."""
    return where((x_bytes > CACHED_BYTES) & (n_in > MOST_TERMS), DEPTH, n_in)


@compiled
def rows_together(depth, x_row, delta_row):
    """Return the rows of a slice of a weight gradient's sums, from the bytes of two rows."""
    row_bytes = x_row + delta_row
    if depth * row_bytes > CACHED_BYTES and x_row <= ROW_BYTES:
        return min(depth, max(HELD_BYTES // row_bytes, LEAST_TERMS))
    return depth


@compiled
def affine_rows(x, order, w, b, out, start, stop, relu, panel):
    """out[start:stop] = x[order][start:stop] @ w + b; where `relu`, max(., 0) of the sums.

    x (samples, n_in), w (n_in, n_out), b (n_out,) or None, out (rows, n_out), all C-contiguous
    order : (rows,) int64, the sample of each row of `out`; empty, row i is sample i
    """
    rows, n_out = stop - start, w.shape[1]
    if len(order) == 0 and pays_forward(n_out, rows, VECTOR_BYTES // out.itemsize):
        narrow_affine(x, w, b, out, start, stop, relu, panel)
    else:
        n_in = w.shape[0]
        packing = packing_for(
            rows, n_in, n_out * out.itemsize, pack_rows(), crowded_bytes(), pack_always_rows()
        )
        together = terms_together(n_in, rows * n_in * out.itemsize)
        for k in range(0, n_in, together):
            terms = lesser(together, n_in - k)
            finish = chosen(relu & (k + terms == n_in), RELU, STORE)
            wide = across(rows, len(order))
            product_of_rows(x, order, start, rows, w, (k, terms), packing, panel, b, out, finish, wide)


@compiled
def input_gradient_rows(delta, w, hidden, out, start, stop, relu, panel):
    """out[start:stop] = (delta @ w.T)[start:stop], times the derivative of the relu that made `hidden`.

    delta (rows, n_out), w (n_in, n_out), out (rows, n_in), and like out `hidden`, which is read only where `relu`
    """
    product_by_transposed(delta, start, stop - start, w, panel, hidden, out, relu)


@compiled
def weight_gradient_in_place(x, order, delta, out, part, update, sums, panel):
    """out = (x[order].T @ delta)[start:stop]; where `apply`, out -= rate * (that + l2 * out), with no gradient stored.

    x (samples, n_in), delta (rows, n_out); order as of `affine_rows`
    out : (.., n_out); unfinished sums lie here
    part : (first, start, stop), where row i - first of out is row i of the gradient; update : (apply, rate, l2)
    sums : like out, for unfinished sums where `apply`
    """
    (first, start, stop), (apply, rate, l2) = part, update
    rows, n_out = stop - start, delta.shape[1]
    narrow = pays_backward(n_out, rows, VECTOR_BYTES // out.itemsize)
    if narrow and len(order) == 0:
        narrow_weight_gradient(x, delta, out, part, update, panel)
    elif narrow and len(delta) * rows * out.itemsize > CACHED_BYTES:
        narrow_ordered_weight_gradient(x, order, delta, out, part, update, sums, panel)
    else:
        depth, row = len(delta), n_out * out.itemsize
        together = rows_together(depth, x.shape[1] * out.itemsize, row)
        packing = packing_for(rows, together, row, pack_rows(), crowded_bytes(), pack_delta_rows())
        waiting = sums if apply else out
        k = 0
        while True:  # once at least: of no rows the sums are 0
            terms = lesser(together, depth - k)
            steps = apply and k + terms == depth
            target, finish = out if steps else waiting, chosen(steps, UPDATE, STORE)
            product_of_columns(
                x, order, start, rows, delta, (k, terms), packing, panel, waiting, target, start - first,
                (finish, rate, l2),
            )  # fmt: skip
            k += terms
            if k == depth:
                break
