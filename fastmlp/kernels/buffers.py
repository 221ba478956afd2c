"""The buffers that a program works in, allocated once a call so that no step allocates."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.program import Workspace
from fastmlp.layout import ALIGNMENT, aligned
from fastmlp.network import Network

SCRATCH_BYTES = 256
"""Bytes of scratch for each term that a matmul contracts over: a panel of up to 4 wide vectors."""

SCRATCH_ROWS = 32
"""Rows of scratch beside the panel: a register tile's worth, and some."""

BLOCKED_SIDE = 256
"""The side from which on `packed` may pack a layer: 1 MiB holds any weights below it, in float64 too."""

BLOCK_BYTES, BLOCK_ROWS = 1 << 20, 512
"""What `fastmlp.kernels.blocked` packs at a time: bytes of one operand, rows of the other."""

SLICE_BYTES = 1 << 16
"""Gradient that is formed before the optimiser is applied to it: a share of L2."""

SLICE_ROWS = 8
"""Rows of weights that a slice of gradient holds at least."""


def scratch_length(widest: int, rows: int, itemsize: int) -> int:
    """Return the numbers of scratch that a slot needs for layers of at most so many units, and rows.

    Room for a panel of as many terms as either has, and for the blocks that packed operands come in.
    """
    depth = max(widest, rows)
    panel = (depth + SCRATCH_ROWS) * SCRATCH_BYTES // itemsize
    return panel if depth < BLOCKED_SIDE else panel + BLOCK_BYTES // itemsize + BLOCK_ROWS * widest


def prediction_memory(network: Network, rows: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what `program.predict` works in: logits and activations of so many rows, and scratch."""
    line = ALIGNMENT // dtype.itemsize
    units = 2 * rows * sum(network.sizes[1:])
    return aligned(units + line + scratch_length(max(network.sizes), rows, dtype.itemsize), dtype)


def slice_length(n_out: int, itemsize: int) -> int:
    """Return the numbers of a slice of gradient: 8 rows of weights, or SLICE_BYTES if that is more."""
    return max(SLICE_BYTES // itemsize, SLICE_ROWS * n_out)


def workspace(network: Network, rows: int, workers: int, dtype: np.dtype[Any], private: int = 0) -> Workspace:
    """Return buffers for batches of up to `rows` rows, shared by `workers` workers.

    private : numbers that a worker has to itself, whole cache lines
    """
    sizes, itemsize = network.sizes, dtype.itemsize
    scratch = scratch_length(max(sizes), rows, itemsize)
    slices = slice_length(max(sizes[1:]), itemsize)
    units = rows * sum(sizes[1:])
    own = [workers * length for length in (scratch, slices, private)]
    lengths = (rows * sizes[0], rows * sizes[-1], rows, *(4 * [units]), *own)
    # One allocation for all, each part at a cache line: a call for one row costs little more.
    line = ALIGNMENT // itemsize
    padded = [-(-length // line) * line for length in lengths]
    memory = aligned(sum(padded), dtype)
    starts = [0, *accumulate(padded)]
    parts = [memory[start : start + length] for start, length in zip(starts, lengths, strict=False)]
    inputs, targets, weights, logits, activations, dropped, deltas, scratches, sliced, privates = parts
    return Workspace(
        inputs=inputs,
        targets=targets,
        weights=weights,
        losses=np.empty(rows),
        logits=logits,
        activations=activations,
        dropped=dropped,
        deltas=deltas,
        scratch=scratches.reshape(workers, scratch),
        slices=sliced.reshape(workers, slices),
        private=privates.reshape(workers, private),
    )
