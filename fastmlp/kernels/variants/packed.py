"""packed: fused, with the weight gradients of large layers and large batches from packed operands.

It wins where a layer's weights pass 1 MB, half of L2: there the columns of the batch, read 4 or 8 KB
apart, evict one another, and copying both operands once into the order in which the tiles read them
doubles the speed of that product; so it does for batches of some thousand rows, whose deltas outgrow L2
(see `fastmlp.kernels.gemm.blocked`).
"""

# mypy: ignore-errors

from __future__ import annotations

from itertools import pairwise

from fastmlp.kernels.gemm.blocked import LARGE_BYTES, MANY_ROWS, weight_gradient_rows
from fastmlp.kernels.variant import Variant, Work
from fastmlp.kernels.variants import fused


def seconds(work: Work) -> float:
    """As fused, but a third less where weights are large and rows enough to pack for, or rows are many."""
    largest = max(n_in * n_out for n_in, n_out in pairwise(work.sizes)) * work.itemsize
    packs = work.rows >= (128 if largest >= LARGE_BYTES else MANY_ROWS)
    gain = 0.7 if packs else 1.02
    return gain * fused.seconds(work)


VARIANT = Variant(
    "packed",
    fused.VARIANT,
    {"weight_gradient_rows": weight_gradient_rows},
    seconds,
    fused.workers,
    exact=True,
)
