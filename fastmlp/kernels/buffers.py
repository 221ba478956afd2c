"""The buffers that a program works in, allocated once a call so that no step allocates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp.kernels.program import Workspace
from fastmlp.network import Network

ALIGNMENT = 64
"""Bytes: one cache line, and the widest vector register."""

SCRATCH_BYTES = 256
"""Bytes of scratch for each term that a matmul contracts over: a panel of up to 4 wide vectors."""

SCRATCH_ROWS = 32
"""Rows of scratch beside the panel: a register tile's worth, and some."""

SLICE_BYTES = 1 << 16
"""Gradient that is formed before the optimiser is applied to it: a share of L2."""

SLICE_ROWS = 8
"""Rows of weights that a slice of gradient holds at least."""


def aligned(length: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised vector that starts at a cache line; its pages are mapped when used."""
    dtype = np.dtype(dtype)
    raw = np.empty(length * dtype.itemsize + ALIGNMENT, np.uint8)
    offset = -raw.ctypes.data % ALIGNMENT
    return raw[offset : offset + length * dtype.itemsize].view(dtype)


def scratch_length(depth: int, itemsize: int) -> int:
    """Return the numbers of scratch that a matmul slot needs to contract over up to `depth` terms."""
    return (depth + SCRATCH_ROWS) * SCRATCH_BYTES // itemsize


def slice_length(n_out: int, itemsize: int) -> int:
    """Return the numbers of a slice of gradient: 8 rows of weights, or SLICE_BYTES if that is more."""
    return max(SLICE_BYTES // itemsize, SLICE_ROWS * n_out)


def workspace(network: Network, rows: int, workers: int, dtype: np.dtype[Any]) -> Workspace:
    """Return buffers for batches of up to `rows` rows, shared by `workers` workers."""
    n_in, n_out = network.sizes[0], network.sizes[-1]
    units = rows * sum(network.sizes[1:])
    scratch = scratch_length(max(*network.sizes, rows), dtype.itemsize)
    slices = slice_length(max(network.sizes[1:]), dtype.itemsize)
    return Workspace(
        inputs=aligned(rows * n_in, dtype),
        targets=aligned(rows * n_out, dtype),
        weights=aligned(rows, dtype),
        losses=aligned(rows, np.float64),
        logits=aligned(units, dtype),
        activations=aligned(units, dtype),
        dropped=aligned(units, dtype),
        deltas=aligned(units, dtype),
        scratch=aligned(workers * scratch, dtype).reshape(workers, scratch),
        slices=aligned(workers * slices, dtype).reshape(workers, slices),
    )
