"""packed: fused, with the weight gradients of large layers and large batches from packed operands.

It wins where a layer's weights are larger than 1 MB, half of L2. There the columns of the batch, read 4 or 8
KB apart, evict each other from the caches. Both operands are copied once in the order of the tiles' reads,
which doubles the speed of the product. The same holds for batches whose long rows outgrow L2 (see
`fastmlp.kernels.tuning` and `fastmlp.kernels.gemm.blocked`).
"""

from fastmlp.kernels.estimates import BUILT_IN
from fastmlp.kernels.gemm.blocked import weight_gradient_rows
from fastmlp.kernels.variants import fused

VARIANT = BUILT_IN["packed"]._replace(
    base=fused.VARIANT, slots={"weight_gradient_rows": weight_gradient_rows}
)
