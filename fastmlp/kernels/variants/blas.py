"""blas: matrix products through Numba's BLAS (SciPy's OpenBLAS), the rest as baseline.

It beats plain loops from layers of some tens of units on, and fastmlp's products are compared with it. There
is no estimate for "auto": blas beats `fused` only in layers of one or two units, by 7 to 13 % (at most 31 %,
1-2-635-1 in float64).
"""

import numpy as np

from fastmlp.kernels.estimates import BUILT_IN
from fastmlp.kernels.variant import allocating
from fastmlp.kernels.variants import baseline


@allocating
def affine(x, w, b, scratch, out):
    """out (rows, n_out) = x (rows, n_in) @ w (n_in, n_out) + b (n_out,)."""
    np.dot(x, w, out)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += b[j]


@allocating
def weight_gradient(x, delta, scratch, out):
    """out (n_in, n_out) = x.T @ delta, for x (rows, n_in) and delta (rows, n_out)."""
    np.dot(x.T, delta, out)


@allocating
def input_gradient(delta, w, scratch, out):
    """out (rows, n_in) = delta (rows, n_out) @ w.T."""
    np.dot(delta, w.T, out)


VARIANT = BUILT_IN["blas"]._replace(
    base=baseline.VARIANT,
    slots={"affine": affine, "weight_gradient": weight_gradient, "input_gradient": input_gradient},
)
