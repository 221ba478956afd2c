"""Products with few output columns, computed as their transpose: the columns become rows of a tile.

A tile of 2 columns fills 2 of 16 lanes, and the last layer of 28-256-256-2 took as long as one eight times as wide.
Here each lane holds a sample, or an input. Every sum is the same chain as in `fastmlp.kernels.gemm.dispatch`, so the
choice between the two changes no bit.
"""

# mypy: ignore-errors

from __future__ import annotations

from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.views import lesser, vector
from fastmlp.kernels.gemm.microkernel import RELU, ROW_VECTORS, STORE, VECTOR_BYTES, VECTORS
from fastmlp.kernels.gemm.operands import product
from fastmlp.kernels.gemm.packing import transpose
from fastmlp.kernels.jit.lazy import apart
from fastmlp.kernels.program.arithmetic import sgd_step, with_decay

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
    """`dispatch.affine` without an order; blocks of samples are transposed into `panel` one after another."""
    n_in, n_out = w.shape
    zero = out.dtype.type(0)
    width = VECTORS * (VECTOR_BYTES // out.itemsize)
    turned = n_in * width
    for i in range(start, stop, width):
        columns = lesser(width, stop - i)
        transpose(columns, n_in, x, i * n_in, n_in, panel, 0, width)
        for m in range(n_out):
            bias = zero if b is None else b[m]
            for j in range(width):
                panel[turned + m * width + j] = bias
        finish = RELU if relu else STORE
        product(
            w, 0, 1, n_out, panel, 0, width, panel, turned, width, panel, turned, width,
            n_out, columns, n_in, finish, zero, zero, VECTORS,
        )  # fmt: skip
        transpose(n_out, columns, panel, turned, width, out, i * n_out, n_out)


@apart
def narrow_weight_gradient(x, delta, out, out_first, start, stop, apply, rate, l2, panel):
    """`dispatch.weight_gradient` without an order; fewer than four outputs use tiles of one row."""
    n_in, n_out = x.shape[1], delta.shape[1]
    zero = out.dtype.type(0)
    lanes = VECTOR_BYTES // out.itemsize
    across = ROW_VECTORS if n_out < 4 else VECTORS
    width = lanes * across
    flat = vector(out, 0, out.size)
    for i in range(start, stop, width):
        columns = lesser(width, stop - i)
        for j in range(n_out * width):
            panel[j] = 0
        product(
            delta, 0, 1, n_out, x, i, n_in, panel, 0, width, panel, 0, width,
            n_out, columns, len(delta), STORE, zero, zero, across,
        )  # fmt: skip
        at, size = (i - out_first) * n_out, columns * n_out
        if not apply:
            transpose(n_out, columns, panel, 0, width, out, at, n_out)
            continue
        turned = n_out * width
        transpose(n_out, columns, panel, 0, width, panel, turned, n_out)
        for j in range(size):
            g = panel[turned + j]
            if l2 > 0:
                g = penalised(g, l2, flat[at + j])
            flat[at + j] = step(flat[at + j], rate, g)
