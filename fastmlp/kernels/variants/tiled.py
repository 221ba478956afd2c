"""tiled: register tiles for the matmuls, polynomials for exp and its like; all else as baseline.

It wins over BLAS where a layer's matmul is short of some megaflops: a tile starts without a call's
overhead, its edges are masked and not padded, and three vectors by eight rows of accumulators keep
both FMA units busy. The scalars are polynomials that LLVM vectorises, where libm's are calls.

It gives no estimate for "auto": over 100 random works it was ahead of `fused`, which is made of it, by more
than 5 % only in single layers of a few units.
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from fastmlp.kernels import polynomials, sweeps
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

NO_ORDER = np.empty(0, np.int64)


def affine(x, w, b, scratch, out):
    """out (rows, n_out) = x (rows, n_in) @ w (n_in, n_out) + b (n_out,)."""
    sweeps.affine(x, NO_ORDER, w, b, out, 0, x.shape[0], False, scratch)


def weight_gradient(x, delta, scratch, out):
    """out (n_in, n_out) = x.T @ delta, for x (rows, n_in) and delta (rows, n_out)."""
    one = out.dtype.type(1)
    sweeps.weight_gradient(x, NO_ORDER, delta, out, 0, 0, x.shape[1], False, one, one, scratch)


def input_gradient(delta, w, scratch, out):
    """out (rows, n_in) = delta (rows, n_out) @ w.T."""
    sweeps.input_gradient(delta, w, out, out, 0, delta.shape[0], False, scratch)


def tanh(z):
    """The hyperbolic tangent."""
    return polynomials.tanh(z)


def elu(z):
    """z above 0, exp(z) - 1 below."""
    return polynomials.elu(z, type(z)(1))


def elu_slope(z):
    """The derivative of `elu`."""
    return polynomials.elu_derivative(z, type(z)(1))


VARIANT = Variant(
    "tiled",
    baseline.VARIANT,
    {
        "affine": affine,
        "weight_gradient": weight_gradient,
        "input_gradient": input_gradient,
        "exp": polynomials.exp,
        "root": polynomials.sqrt,
        "tanh": tanh,
        "logistic": polynomials.sigmoid,
        "softplus": polynomials.softplus,
        "elu": elu,
        "elu_slope": elu_slope,
        "silu": polynomials.silu,
        "silu_slope": polynomials.silu_derivative,
        "gelu": polynomials.gelu,
        "gelu_slope": polynomials.gelu_derivative,
    },
)
