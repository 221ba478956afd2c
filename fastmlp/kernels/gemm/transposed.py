"""Transposed products for few output columns, which become rows of a tile.

A tile of 2 columns fills 2 of 16 lanes: the last layer of 28-256-256-2 took as long as one eight times as wide. Here
each lane holds a sample, or an input. Every sum is the same chain as in `fastmlp.kernels.gemm.dispatch`.
"""

from __future__ import annotations

from numba import njit

from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.views import lesser, vector
from fastmlp.kernels.gemm.microkernel import RELU, ROW_VECTORS, STORE, VECTOR_BYTES, VECTORS
from fastmlp.kernels.gemm.operands import product
from fastmlp.kernels.gemm.packing import pack, transpose
from fastmlp.kernels.jit.lazy import apart
from fastmlp.kernels.program.arithmetic import sgd_step, with_decay

compiled = njit(error_model="numpy", inline="always")

COPIED_BYTES = 1 << 18
"""Bytes of rows of x that `narrow_ordered_weight_gradient` copies together, and L2 holds."""

TERMS = 128
"""Inputs that `narrow_affine` transposes together, and L1 holds with a panel's sums."""

step, penalised = jittable(sgd_step), jittable(with_decay)


@jittable
def pays_forward(n_out: int, rows: int, lanes: int) -> bool:
    """Whether `narrow_affine` is faster: to transpose x takes as long as six columns."""
    return (3 * n_out <= lanes) & (rows >= lanes)


@jittable
def pays_backward(n_out: int, rows: int, lanes: int) -> bool:
    """Whether `narrow_weight_gradient` is faster, for `rows` rows of weights."""
    return (4 * n_out <= 3 * lanes) & (rows >= lanes)


@apart
def narrow_affine(x, w, b, out, start, stop, relu, panel):
    """`dispatch.affine_rows` without an order; blocks of samples are transposed into `panel` in order."""
    n_in, n_out = w.shape
    zero = out.dtype.type(0)
    width = VECTORS * (VECTOR_BYTES // out.itemsize)
    turned = lesser(n_in, TERMS) * width
    for i in range(start, stop, width):
        columns = lesser(width, stop - i)
        for m in range(n_out):
            bias = zero if b is None else b[m]
            for j in range(width):
                panel[turned + m * width + j] = bias
        for k in range(0, n_in, TERMS):
            terms = lesser(TERMS, n_in - k)
            transpose(columns, terms, x, i * n_in + k, n_in, panel, 0, width)
            # Only the last terms complete the sums.
            finish = RELU if relu and k + terms == n_in else STORE
            sums = panel, turned, width
            product(
                (w, k * n_out, 1, n_out), (panel, 0, width), sums, sums, (n_out, columns, terms),
                (finish, zero, zero), VECTORS,
            )  # fmt: skip
        transpose(n_out, columns, panel, turned, width, out, i * n_out, n_out)


@compiled
def narrow_sums(inputs, delta, samples, waiting, out, part, update, panel):
    """`dispatch.weight_gradient_in_place` of some rows of delta; fewer than four outputs use tiles of one row.

    inputs : (x, at, row), the offset of column `start` in the first row, and the distance of rows
    samples : (k, terms), the first row of delta, and the number of rows
    waiting : like out, for unfinished sums, continued if k > 0
    """
    x, at, row = inputs
    (k, terms), (first, start, stop), (apply, rate, l2) = samples, part, update
    n_out = delta.shape[1]
    zero = out.dtype.type(0)
    across = ROW_VECTORS if n_out < 4 else VECTORS
    width = across * (VECTOR_BYTES // out.itemsize)
    flat, held = vector(out, 0, out.size), vector(waiting, 0, waiting.size)
    for i in range(start, stop, width):
        columns = lesser(width, stop - i)
        offset, size = (i - first) * n_out, columns * n_out
        if k > 0:
            transpose(columns, n_out, held, offset, n_out, panel, 0, width)
        else:
            for j in range(n_out * width):
                panel[j] = 0
        sums = panel, 0, width
        product(
            (delta, k * n_out, 1, n_out), (x, at + i - start, row), sums, sums, (n_out, columns, terms),
            (STORE, zero, zero), across,
        )  # fmt: skip
        if not apply:
            transpose(n_out, columns, panel, 0, width, held, offset, n_out)
            continue
        turned = n_out * width
        transpose(n_out, columns, panel, 0, width, panel, turned, n_out)
        for j in range(size):
            g = panel[turned + j]
            if l2 > 0:
                g = penalised(g, l2, flat[offset + j])
            flat[offset + j] = step(flat[offset + j], rate, g)


@apart
def narrow_weight_gradient(x, delta, out, part, update, panel):
    """`dispatch.weight_gradient_in_place` without an order."""
    narrow_sums((x, part[1], x.shape[1]), delta, (0, len(delta)), out, out, part, update, panel)


@apart
def narrow_ordered_weight_gradient(x, order, delta, out, part, update, sums, panel):
    """`dispatch.weight_gradient_in_place` with an order: rows of x are copied behind the panel, COPIED_BYTES at a time."""
    (_, start, stop), (apply, rate, l2) = part, update
    columns, depth, n_in = stop - start, len(delta), x.shape[1]
    before = 2 * delta.shape[1] * ROW_VECTORS * (VECTOR_BYTES // out.itemsize)
    together = max(1, lesser(COPIED_BYTES // out.itemsize, panel.size - before) // columns)
    waiting = sums if apply else out
    for k in range(0, depth, together):
        terms = lesser(together, depth - k)
        for i in range(terms):
            sample = order[k + i]
            # Rows of an order lie anywhere: they are copied once, and read by every output.
            pack(1, columns, x, sample * n_in + start, n_in, panel, before + i * columns, columns)
        ends = apply and k + terms == depth
        inputs, samples = (panel, before, columns), (k, terms)
        narrow_sums(inputs, delta, samples, waiting, out, part, (ends, rate, l2), panel)
