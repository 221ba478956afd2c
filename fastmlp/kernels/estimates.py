"""Estimates of a step's time on built-in backends, for backend="auto"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.small.eligible import specialize
from fastmlp.kernels.thresholds import is_blocked, value
from fastmlp.kernels.variant import Variant, Work


def fused_seconds(work: Work) -> float:
    """Return the seconds of a step of `fused`: products, passes over units, 80 ns a row."""
    limits = value("large_bytes"), value("many_bytes")
    packs = any(is_blocked(work.rows, *layer, work.itemsize, *limits) for layer in pairwise(work.sizes))
    # Products run at about 85 % of peak. A row of 1-1-1-1 or 9-6 takes 90 to 130 ns, nearly all of it for the
    # loss and for setting up tiles.
    busy = work.flops * work.itemsize / 4 / 9e10 + work.rows * (8e-8 + 5e-10 * work.units)
    return 1.5e-6 + (0.7 if packs else 1.0) * busy / workers(work)


def workers(work: Work) -> int:
    """Return the best number of threads for a step: each needs 16 rows, and `thread_us` of work."""
    most = min(work.threads, work.rows // LOSS_ROWS)
    if most <= 1:
        return 1
    microseconds = work.flops * work.itemsize / 4 / 9e4
    return max(1, min(most, int(microseconds / value("thread_us"))))


def specialized_seconds(work: Work) -> float:
    """Return the seconds of a step of `specialized`, on 512-bit vectors and a single thread."""
    dtype = np.dtype(f"f{work.itemsize}")
    if work.network is None or specialize(work.network, work.optimizer, work.rows, dtype) is None:
        return float("inf")
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(work.sizes))
    wide = work.itemsize / 4
    # Within 30 % of measurements from 4-32-16-4 to 64-128-10, and within a factor of 2 for smaller networks:
    # close enough, because `fused` takes several times as long there.
    busy = wide * (work.flops / 1.5e11 + 2e-10 * work.rows * work.units) + 5e-9 * work.rows
    return 5e-8 + busy + 2.5e-10 * wide * parameters


def lane_seconds(work: Work) -> float:
    """Return the seconds of a network's step in a lane."""
    return 8e-9 + work.itemsize / 4 * (work.flops / 8e10 + 1e-10 * work.rows * work.units)


def saved_by_sparse_rows(work: Work, density: float) -> float:
    """Return the seconds a row that `fused` saves by treating dense inputs as sparse inputs."""
    n_in, n_out = work.sizes[:2]
    lines = -(-n_out * work.itemsize // 64)
    return n_in * (0.56e-9 * lines - density * (2.1e-9 + 1e-9 * lines))


def _buffers(products: Sequence[tuple[int, int]], rows: int) -> dict[str, int]:
    """Return `mixed.tiles.buffers`, a module that trainings in float32 and float64 do without."""
    from fastmlp.kernels.mixed.tiles import buffers

    return buffers(products, rows)


_FUSED = Variant("fused", seconds=fused_seconds, workers=workers, exact=True)

_BY_NAME = (
    Variant("baseline"),
    Variant("blas", libraries=("scipy.linalg.cython_blas",)),
    Variant("tiled", exact=True),
    _FUSED,
    Variant("specialized", _FUSED, {}, specialized_seconds, workers, specialize, exact=True),
)

BUILT_IN = {variant.name: variant for variant in _BY_NAME}
"""Each built-in variant by name, bases first, without slots, whose import takes long.

A base stands here only where the variant has no slots: then the variant runs the base's programs.
"""

MIXED = {
    name: Variant(name, workers=workers, buffers=_buffers) for name in ("bfloat16_amx", "bfloat16_avx512")
}
"""The same of each variant chosen by a dtype and not by name."""
