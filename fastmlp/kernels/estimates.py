"""What a step takes on each backend of fastmlp's own: backend="auto" goes by it, and loads no kernel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from fastmlp.kernels.mixed.room import buffers
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.small.eligible import GROUPED_ROWS, GROUPS, specialize
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Choice, Work


def fused_seconds(work: Work) -> float:
    """About 85 % of peak, split over the workers, a few passes over the units, and 80 ns a row.

    A row of 1-1-1-1 or 9-6 takes 90 to 130 ns, nearly all of it for its loss and its place in tiles.
    """
    busy = work.flops * work.itemsize / 4 / 9e10 + work.rows * (8e-8 + 5e-10 * work.units)
    return 1.5e-6 + busy / workers(work)


def workers(work: Work) -> int:
    """Return how many threads a step is worth: each needs 16 rows, and work to share."""
    most = min(work.threads, work.rows // LOSS_ROWS)
    if most <= 1:
        return 1
    microseconds = work.flops * work.itemsize / 4 / 9e4
    return max(1, min(most, int(microseconds / value("thread_us"))))


def packed_seconds(work: Work) -> float:
    """As fused, but a third less where weights are large and rows enough to pack for, or rows are many."""
    largest = max(n_in * n_out for n_in, n_out in pairwise(work.sizes)) * work.itemsize
    packs = work.rows >= (128 if largest >= value("large_bytes") else value("many_rows"))
    gain = 0.7 if packs else 1.02
    return gain * fused_seconds(work)


def specialized_seconds(work: Work) -> float:
    """What a step takes on 512-bit vectors: near peak, and some passes over rows, units and parameters.

    Within 30 % of measurements from 4-32-16-4 to 64-128-10, within a factor of 2 for smaller networks:
    close enough, as `fused` takes several times as long there.
    """
    dtype = np.dtype(f"f{work.itemsize}")
    if work.network is None or specialize(work.network, work.optimizer, work.rows, dtype) is None:
        return float("inf")
    parameters = sum((n_in + 1) * n_out for n_in, n_out in pairwise(work.sizes))
    wide = work.itemsize / 4
    busy = wide * (work.flops / 1.5e11 + 2e-10 * work.rows * work.units) + 5e-9 * work.rows
    sharing = min(workers(work), GROUPS if work.rows >= GROUPED_ROWS else 1)
    return 5e-8 + busy / sharing + 2.5e-10 * wide * parameters


def saved_by_sparse_rows(work: Work, density: float) -> float:
    """Return the seconds a row that a step of `fused` saves where it passes over the zeros of dense inputs.

    Of the first layer's two products, with W in L2. A number, zero or not, takes tiles 0.56 ns for each 64
    bytes of W's row; one that is not zero takes 1 ns for each, and 2.1 to be listed by its column.
    """
    n_in, n_out = work.sizes[:2]
    lines = -(-n_out * work.itemsize // 64)
    return n_in * (0.56e-9 * lines - density * (2.1e-9 + 1e-9 * lines))


OWN = {
    "baseline": Choice(),
    "blas": Choice(libraries=("scipy.linalg.cython_blas",)),
    "tiled": Choice(exact=True),
    "fused": Choice(fused_seconds, workers, exact=True),
    "packed": Choice(packed_seconds, workers, exact=True),
    "specialized": Choice(specialized_seconds, workers, specialize, exact=True),
}
"""By name, bases first."""

MIXED = dict.fromkeys(("bfloat16_amx", "bfloat16_avx512"), Choice(None, workers, buffers=buffers))
"""By name, those that a dtype chooses."""
