"""fused: rows, then weights, and between them nothing that leaves the caches.

Inputs are read where they lie, through the row order, and bias and relu end the tile while it is in
registers; gradients are formed in slices and the optimiser is applied at once, so that no gradient array is
written. Several workers share a step. It wins wherever a step is more than a few microseconds.
"""

# mypy: ignore-errors

from __future__ import annotations

from fastmlp.kernels.estimates import OWN
from fastmlp.kernels.gemm import dispatch, sparse
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import tiled


def streams():
    """Whether products read rows where they lie, and gradients are applied slice by slice: here they do."""
    return True


VARIANT = Variant(
    "fused",
    tiled.VARIANT,
    {
        "streams": streams,
        "affine_rows": dispatch.affine,
        "input_gradient_rows": dispatch.input_gradient,
        "weight_gradient_rows": dispatch.weight_gradient,
        "affine_sparse_rows": sparse.affine,
        "weight_gradient_sparse_rows": sparse.weight_gradient,
    },
    *OWN["fused"],
)
