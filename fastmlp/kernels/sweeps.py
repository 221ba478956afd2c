"""The matrix products of a layer, as sweeps of register tiles over arrays.

Each takes the slice of rows (of samples, or of weights) it is to do: any slicing gives the
same bits, so workers share one product without talking. `panel` is scratch of a worker's own,
aligned to 64 bytes: `buffers.scratch_length`, for the depth that the sweep contracts over.
Weights, deltas and outputs should begin on 64 bytes too: off them every vector is two lines,
and an 8x2 tile fell from 0.89 of peak to 0.75.

Pass no number as a literal from a jitted caller: Numba compiles a callee anew for each.
"""

from numba import njit

from fastmlp.kernels.panels import pack, transpose
from fastmlp.kernels.products import product, product_of_depth, product_of_rows
from fastmlp.kernels.sideways import narrow_affine, narrow_weight_gradient, pays_backward, pays_forward
from fastmlp.kernels.symbols import at_most, jittable, where
from fastmlp.kernels.tiles import GATE, MACHINE, RELU, ROW_VECTORS, STORE, UPDATE, VECTOR_BYTES, VECTORS
from fastmlp.kernels.vectors import AVX512, address
from fastmlp.kernels.views import lesser

compiled = njit(error_model="numpy", inline="always")

# Copying B into a panel costs about one tile of work; it pays when this many rows use it.
PACK_ROWS = 128

# For so many rows W is copied wherever its rows lie. A tile of AVX-512 does enough with each vector of W that
# it may come from L2; 4x3 tiles of 8 lanes went from 0.75 of peak to 0.88 at 128 x 784 x 128. At 32 rows the copy pays
# for itself (in float64 the product takes 0.89 of the time), at 16 it costs a tenth.
PACK_ALWAYS_ROWS = 1 << 62 if MACHINE == AVX512 else 32


@jittable
def conflicting(row_bytes: int) -> bool:
    """Whether rows this far apart crowd into few sets of the caches."""
    return (row_bytes >= 2048) & (row_bytes % 1024).equals(0)


@jittable
def next_vectors(left: int, lanes: int):
    """Vectors across the next panel: the most, or two where that would leave a sliver of one."""
    vectors = (left + lanes - 1) // lanes
    return where(vectors.equals(VECTORS + 1), 2, at_most(vectors, VECTORS))


@compiled
def affine(x, order, w, b, out, start, stop, relu, panel):
    """out[start:stop] = x[order][start:stop] @ w + b, and max(., 0) of it where `relu`.

    x : (samples, n_in) floating, C-contiguous
    order : (rows,) int64, the sample of each row of `out`; empty, row i is sample i
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
    packed = packed or stop - start >= PACK_ALWAYS_ROWS
    alone = stop - start == 1 and len(order) == 0
    left = 0
    if len(order) == 0 and pays_forward(n_out, stop - start, lanes):
        narrow_affine(x, w, b, out, start, stop, relu, panel)
        left = n_out
    while left < n_out:
        vectors = next_vectors(n_out - left, lanes)
        if alone:
            vectors = lesser((n_out - left + lanes - 1) // lanes, ROW_VECTORS)
        columns = lesser(vectors * lanes, n_out - left)
        if packed:
            pack(n_in, columns, w, left, n_out, panel, 0, vectors * lanes)
        place = address(panel, 0) if packed else address(w, left)
        row = vectors * lanes if packed else n_out
        at = start * n_out + left
        if len(order) == 0:
            product(
                stop - start, columns, n_in, x, start * n_in, n_in, 1, None, 0, 0, place, 0, row,
                b, left, 0, out, at, n_out, finish, zero, zero,
            )  # fmt: skip
        else:
            known = order.size - start if left == 0 else 0
            product_of_rows(
                stop - start, columns, n_in, x, 0, n_in, 1, order, start, known, place, 0, row,
                b, left, 0, out, at, n_out, finish, zero, zero,
            )  # fmt: skip
        left += columns


@compiled
def input_gradient(delta, w, hidden, out, start, stop, relu, panel):
    """out[start:stop] = (delta @ w.T)[start:stop], times the derivative of the relu that made `hidden`.

    delta : (rows, n_out) floating, C-contiguous
    w : (n_in, n_out) floating, C-contiguous
    hidden : (rows, n_in) floating, C-contiguous; read only where `relu`
    out : (rows, n_in) floating, C-contiguous, rows start to stop overwritten
    panel : scratch for a depth of n_out
    """
    finish = GATE if relu else STORE
    n_in, n_out = w.shape
    lanes = VECTOR_BYTES // out.itemsize
    zero = out.dtype.type(0)
    left = 0
    while left < n_in:
        vectors = next_vectors(n_in - left, lanes)
        columns = lesser(vectors * lanes, n_in - left)
        transpose(columns, n_out, w, left * n_out, n_out, panel, 0, vectors * lanes)
        at = start * n_in + left
        gate, gate_row = (address(hidden, at), n_in) if relu else (0, 0)
        product(
            stop - start, columns, n_out, delta, start * n_out, n_out, 1, None, 0, 0, panel, 0, vectors * lanes,
            gate, 0, gate_row, out, at, n_in, finish, zero, zero,
        )  # fmt: skip
        left += columns


@compiled
def weight_gradient(x, order, delta, out, out_first, start, stop, descend, rate, keep, panel):
    """out = (x[order].T @ delta)[start:stop]; where `descend`, out = keep * out - rate * that.

    A panel of delta stays in L1 while the columns of x pass by. The descent never lets the gradient
    leave its registers: keep = 1 - rate * l2 is gradient descent with or without weight decay.

    x : (samples, n_in) floating, C-contiguous
    order : (rows,) int64, the sample of each row of `delta`; empty, row i is sample i
    delta : (rows, n_out) floating, C-contiguous
    out : (.., n_out) floating, C-contiguous, its row i - out_first being row i of the gradient
    panel : scratch for a depth of `rows`
    """
    finish = UPDATE if descend else STORE
    n_in, n_out = x.shape[1], delta.shape[1]
    depth = delta.shape[0]
    lanes = VECTOR_BYTES // out.itemsize
    left = 0
    if len(order) == 0 and pays_backward(n_out, stop - start, lanes):
        narrow_weight_gradient(x, delta, out, out_first, start, stop, descend, rate, keep, panel)
        left = n_out
    while left < n_out:
        vectors = next_vectors(n_out - left, lanes)
        columns = lesser(vectors * lanes, n_out - left)
        # a panel, or delta itself where too few tiles would use the copy
        packed = stop - start >= PACK_ROWS
        if packed:
            pack(depth, columns, delta, left, n_out, panel, 0, vectors * lanes)
        place = address(panel, 0) if packed else address(delta, left)
        row = vectors * lanes if packed else n_out
        at = (start - out_first) * n_out + left
        if len(order) == 0:
            product(
                stop - start, columns, depth, x, start, 1, n_in, None, 0, 0, place, 0, row,
                None, 0, 0, out, at, n_out, finish, -rate, keep,
            )  # fmt: skip
        else:
            product_of_depth(
                stop - start, columns, depth, x, start, 1, n_in, order, 0, 0, place, 0, row,
                None, 0, 0, out, at, n_out, finish, -rate, keep,
            )  # fmt: skip
        left += columns
