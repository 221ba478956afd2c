"""The matrix products of a layer, as sweeps of register tiles over arrays.

Each takes the slice of rows (of samples, or of weights) it is to do: any slicing gives the
same bits, so workers share one product without talking. `panel` is scratch of a worker's own,
aligned to 64 bytes: panel_size(depth) elements, where depth is what the sweep contracts over.
"""

from numba import njit
from numba.extending import register_jitable

from fastmlp.kernels.panels import pack, transpose
from fastmlp.kernels.tiles import GATE, MACHINE, RELU, STORE, UPDATE, first_rows, tile, tile_of_depth, tile_of_rows
from fastmlp.kernels.vectors import address

VECTOR_BYTES = MACHINE.vector_bytes
VECTORS = MACHINE.vectors
FIRST_ROWS = first_rows(MACHINE, "strided")
FIRST_ROWS_OF_ORDER = first_rows(MACHINE, "rows")
BEYOND = FIRST_ROWS.shape[1] - 1
MOST_ROWS = int(FIRST_ROWS.max())
# Copying B into a panel costs about one tile of work; it pays when this many rows use it.
PACK_ROWS = 128


def panel_size(depth, itemsize):
    """Elements of scratch a sweep over `depth` terms needs: a panel and one tile."""
    lanes = VECTOR_BYTES // itemsize
    return (depth + MOST_ROWS) * VECTORS * lanes


@register_jitable
def conflicting(row_bytes):
    """Whether rows this far apart crowd into few sets of the caches."""
    return row_bytes >= 2048 and row_bytes % 1024 == 0


@register_jitable
def next_vectors(left, lanes):
    """Vectors across the next panel: the most, or two where that would leave a sliver of one."""
    vectors = (left + lanes - 1) // lanes
    return 2 if vectors == VECTORS + 1 else min(vectors, VECTORS)


@njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def affine(x, order, w, b, out, start, stop, relu, panel):
    """out[start:stop] = x[order][start:stop] @ w + b, and max(., 0) of it where `relu`.

    x : (samples, n_in) floating, C-contiguous
    order : (rows,) int64, the sample of each row of `out`; None, row i is sample i
    w : (n_in, n_out) floating, C-contiguous
    b : (n_out,) floating, or None
    out : (rows, n_out) floating, C-contiguous, rows start to stop overwritten
    panel : scratch for a depth of n_in
    """
    n_in, n_out = w.shape
    lanes = VECTOR_BYTES // out.itemsize
    zero = out.dtype.type(0)
    finish = RELU if relu else STORE
    packed = stop - start >= PACK_ROWS and conflicting(n_out * out.itemsize)
    left = 0
    while left < n_out:
        vectors = next_vectors(n_out - left, lanes)
        columns = min(vectors * lanes, n_out - left)
        if packed:
            pack(n_in, columns, w, left, n_out, panel, 0, vectors * lanes)
        place = address(panel, 0) if packed else address(w, left)
        row = vectors * lanes if packed else n_out
        i = start
        while i < stop:
            if order is None:
                rows = FIRST_ROWS[vectors, min(stop - i, BEYOND)]
                tile(
                    rows, columns, n_in, x, i * n_in, n_in, 1, None, 0, place, 0, row,
                    b, left, 0, out, i * n_out + left, n_out, finish, zero, zero,
                )  # fmt: skip
            else:
                rows = FIRST_ROWS_OF_ORDER[vectors, min(stop - i, BEYOND)]
                tile_of_rows(
                    rows, columns, n_in, x, 0, n_in, 1, order, i, place, 0, row,
                    b, left, 0, out, i * n_out + left, n_out, finish, zero, zero,
                )  # fmt: skip
            i += rows
        left += columns


@njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def input_gradient(delta, w, out, start, stop, panel):
    """out[start:stop] = (delta @ w.T)[start:stop].

    delta : (rows, n_out) floating, C-contiguous
    w : (n_in, n_out) floating, C-contiguous
    out : (rows, n_in) floating, C-contiguous, rows start to stop overwritten
    panel : scratch for a depth of n_out
    """
    propagate(delta, w, None, out, start, stop, STORE, panel)


@njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def input_gradient_relu(delta, w, hidden, out, start, stop, panel):
    """The same, times the derivative of the relu that made `hidden`, (rows, n_in)."""
    propagate(delta, w, hidden, out, start, stop, GATE, panel)


@register_jitable
def propagate(delta, w, gate, out, start, stop, finish, panel):
    n_in, n_out = w.shape
    lanes = VECTOR_BYTES // out.itemsize
    zero = out.dtype.type(0)
    left = 0
    while left < n_in:
        vectors = next_vectors(n_in - left, lanes)
        columns = min(vectors * lanes, n_in - left)
        transpose(columns, n_out, w, left * n_out, n_out, panel, 0, vectors * lanes)
        i = start
        while i < stop:
            rows = FIRST_ROWS[vectors, min(stop - i, BEYOND)]
            at = i * n_in + left
            tile(
                rows, columns, n_out, delta, i * n_out, n_out, 1, None, 0, panel, 0, vectors * lanes,
                gate, at, n_in, out, at, n_in, finish, zero, zero,
            )  # fmt: skip
            i += rows
        left += columns


@njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def weight_gradient(x, order, delta, out, start, stop, panel):
    """out[:stop - start] = (x[order].T @ delta)[start:stop].

    x : (samples, n_in) floating, C-contiguous
    order : (rows,) int64, the sample of each row of `delta`; None, row i is sample i
    delta : (rows, n_out) floating, C-contiguous
    out : (stop - start, n_out) floating, C-contiguous, overwritten
    panel : scratch for a depth of `rows`
    """
    one = out.dtype.type(1)
    contract(x, order, delta, out, start, start, stop, STORE, one, one, panel)


@njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
def descent_step(x, order, delta, w, start, stop, rate, keep, panel):
    """w[start:stop] = keep * w - rate * (x[order].T @ delta), the gradient never leaving registers.

    Plain gradient descent (keep = 1) and weight decay (keep = 1 - rate * decay). Arrays as in
    `weight_gradient`, but w : (n_in, n_out).
    """
    contract(x, order, delta, w, 0, start, stop, UPDATE, -rate, keep, panel)


@register_jitable
def contract(x, order, delta, out, out_first, start, stop, finish, alpha, beta, panel):
    """A panel of delta stays in L1 while the columns of x pass by; row 0 of out is row out_first."""
    n_in, n_out = x.shape[1], delta.shape[1]
    depth = delta.shape[0]
    lanes = VECTOR_BYTES // out.itemsize
    left = 0
    while left < n_out:
        vectors = next_vectors(n_out - left, lanes)
        columns = min(vectors * lanes, n_out - left)
        # a panel, or delta itself where too few tiles would use the copy
        packed = stop - start >= PACK_ROWS
        if packed:
            pack(depth, columns, delta, left, n_out, panel, 0, vectors * lanes)
        place = address(panel, 0) if packed else address(delta, left)
        row = vectors * lanes if packed else n_out
        i = start
        while i < stop:
            rows = FIRST_ROWS[vectors, min(stop - i, BEYOND)]
            at = (i - out_first) * n_out + left
            if order is None:
                tile(
                    rows, columns, depth, x, i, 1, n_in, None, 0, place, 0, row,
                    None, 0, 0, out, at, n_out, finish, alpha, beta,
                )  # fmt: skip
            else:
                tile_of_depth(
                    rows, columns, depth, x, i, 1, n_in, order, 0, place, 0, row,
                    None, 0, 0, out, at, n_out, finish, alpha, beta,
                )  # fmt: skip
            i += rows
        left += columns
