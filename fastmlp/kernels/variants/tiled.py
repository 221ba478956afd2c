"""tiled: register tiles for matrix products, losses and steps by whole vectors; all else as baseline.

It beats BLAS where a layer's product has less than some million operations: a tile has no call's overhead,
masked edges without padding, and eight rows of three vectors of accumulators for both FMA units. Functions
such as exp are polynomials vectorised by LLVM, where libm's are calls.

There is no estimate for "auto": among 100 random works tiled beat `fused`, its extension, by more than 5 %
only in single layers of a few units (by a quarter at most).
"""

from fastmlp.kernels.codegen.scalars import activation, activation_backward, wide_vectors
from fastmlp.kernels.codegen.views import no_order, vector
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.elementwise.by_vectors import (
    add_penalty_gradient,
    column_sums,
    drop_units,
    penalty_of,
    squares_of,
    take_steps,
)
from fastmlp.kernels.elementwise.losses import output_loss
from fastmlp.kernels.elementwise.losses import softmax_of_rows as softmax
from fastmlp.kernels.estimates import BUILT_IN
from fastmlp.kernels.gemm import dispatch, sparse
from fastmlp.kernels.variants import baseline


def affine(x, w, b, scratch, out):
    """out (rows, n_out) = x (rows, n_in) @ w (n_in, n_out) + b (n_out,)."""
    dispatch.affine_rows(x, no_order(), w, b, out, 0, x.shape[0], False, scratch)


def weight_gradient(x, delta, scratch, out):
    """out (n_in, n_out) = x.T @ delta, for x (rows, n_in) and delta (rows, n_out)."""
    one = out.dtype.type(1)
    dispatch.weight_gradient_in_place(
        x, no_order(), delta, out, (0, 0, x.shape[1]), (False, one, one), out, scratch
    )


def affine_sparse(indptr, indices, values, order, w, b, out):
    """Contract of baseline's slot, with sums in registers."""
    sparse.affine_sparse_rows(indptr, indices, values, order, w, b, out, False)


def weight_gradient_sparse(starts, samples, numbers, columns, delta, out):
    """Contract of baseline's slot, with sums in registers."""
    one = out.dtype.type(1)
    sparse.weight_gradient_sparse_rows(starts, samples, numbers, columns, delta, out, (False, one, one))


def input_gradient(delta, w, scratch, out):
    """out (rows, n_in) = delta (rows, n_out) @ w.T."""
    dispatch.input_gradient_rows(delta, w, out, out, 0, delta.shape[0], False, scratch)


def bias_gradient(delta, out):
    """out (n_out,) = the sum of delta (rows, n_out) over its rows."""
    column_sums(delta, out)


def activate(code, z, out):
    """Contract of baseline's slot, by 512-bit vectors in a single loop."""
    wide_vectors()  # of rows of 30 units, a loop for each row would compute 14 as scalars
    if code == SOFTMAX:
        softmax(z, out)
        return
    logits, outputs = vector(z, 0, z.size), vector(out, 0, out.size)
    for i in range(len(logits)):
        outputs[i] = activation(code, logits[i])


def activate_gradient(code, z, a, delta):
    """Contract of baseline's slot, by vectors as in `activate`."""
    wide_vectors()
    logits, outputs, deltas = vector(z, 0, z.size), vector(a, 0, a.size), vector(delta, 0, delta.size)
    for i in range(len(deltas)):
        deltas[i] = activation_backward(code, deltas[i], logits[i], outputs[i])


def penalty(l1, l2, w):
    """Contract of baseline's slot, by whole vectors."""
    return penalty_of(w.dtype.type(l1), w.dtype.type(l2), w)


def penalty_gradient(l1, l2, w, dw):
    """Contract of baseline's slot, by whole vectors."""
    add_penalty_gradient(w.dtype.type(l1), w.dtype.type(l2), w, dw)


def apply_rule(code, rate, constants, t, g, p, moments):
    """Contract of baseline's slot, by whole vectors and without the divider."""
    take_steps(code, rate, constants, t, g, p, moments)


SLOTS = (
    *(activate, activate_gradient, affine, affine_sparse, bias_gradient, apply_rule, input_gradient),
    *(output_loss, penalty, penalty_gradient, weight_gradient, weight_gradient_sparse),
)
INTRINSICS = {"drop_units": drop_units, "softmax": softmax, "sum_of_squares": squares_of}

VARIANT = BUILT_IN["tiled"]._replace(
    base=baseline.VARIANT, slots={slot.__name__: slot for slot in SLOTS} | INTRINSICS
)
