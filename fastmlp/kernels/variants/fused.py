"""fused: rows of the batch first, then rows of the weights; results stay in the caches in between.

Rows of X are read in place, through the row order. Bias and relu are applied to a tile in registers. The
optimiser is applied to each slice of the gradient, so that no gradient array is written. Several workers
share a step. It wins wherever a step takes more than a few microseconds.

Where a layer's weights are larger than 1 MB, half of L2, or a batch's long rows outgrow L2, the operands of
the weight gradient are packed (`fastmlp.kernels.gemm.blocked`): the columns of the batch, read 4 or 8 KB
apart, would evict each other from the caches. That doubles the speed of the product.
"""

from fastmlp.kernels.estimates import BUILT_IN
from fastmlp.kernels.gemm import blocked, dispatch, sparse
from fastmlp.kernels.variants import tiled


def streams():
    """Return True: products read rows of X in place, and gradients are applied slice by slice."""
    return True


SLOTS = (
    *(streams, dispatch.affine_rows, dispatch.input_gradient_rows, blocked.weight_gradient_rows),
    *(sparse.affine_sparse_rows, sparse.add_sparse_rows, sparse.weight_gradient_sparse_rows),
)

VARIANT = BUILT_IN["fused"]._replace(
    base=tiled.VARIANT, slots={getattr(slot, "py_func", slot).__name__: slot for slot in SLOTS}
)
