"""Slots by rows, by default calls of the slots of every variant.

Templates as in `step_templates`. A variant that works by rows, as `fused`, overrides these slots.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from fastmlp.kernels.codegen.views import no_order, rows_of, vector
from fastmlp.kernels.codes import RELU


def streams():
    """Return whether products read rows of X in place, and gradients are applied slice by slice.

    Otherwise the rows of a batch are gathered first, and every gradient is formed whole.
    """
    return False


def affine_rows(x, order, w, b, out, first, last, relu, scratch):
    """Rows [first, last) of out = x @ w + b, then relu where `relu`; order : empty."""
    z = rows_of(out, first, last)
    affine(rows_of(x, first, last), w, b, scratch, z)
    if relu:
        activate(RELU, z, z)


def input_gradient_rows(delta, w, a, out, first, last, relu, scratch):
    """Rows [first, last) of out = delta @ w.T; where `relu`, times the derivative of the relu that made a."""
    below, a = rows_of(out, first, last), rows_of(a, first, last)
    input_gradient(rows_of(delta, first, last), w, scratch, below)
    if relu:
        activate_gradient(RELU, a, a, below)


def weight_gradient_rows(x, order, delta, out, out_first, start, stop, apply, rate, l2, sums, scratch):
    """out = x.T @ delta, for all inputs; never with a step: `apply` is false."""
    weight_gradient(x, delta, scratch, out)


def affine_sparse_rows(indptr, indices, values, order, w, b, out, relu):
    """`affine_sparse`, then relu where `relu`."""
    affine_sparse(indptr, indices, values, order, w, b, out)
    if relu:
        activate(RELU, out, out)


def add_sparse_rows(indptr, indices, values, order, w, out):
    """out (rows, n_out) += x @ w, of sparse rows x: the chains of `affine_sparse` continue from out."""
    for i in range(out.shape[0]):
        row = order[i] if len(order) > 0 else i
        own = rows_of(out, i, i + 1)
        bounds, start = vector(indptr, row, 2), vector(own, 0, out.shape[1])
        affine_sparse_rows(bounds, indices, values, no_order(), w, start, own, False)


def weight_gradient_sparse_rows(starts, samples, numbers, columns, delta, out, apply, rate, l2):
    """`weight_gradient_sparse`, never with a step: `apply` is false."""
    weight_gradient_sparse(starts, samples, numbers, columns, delta, out)
