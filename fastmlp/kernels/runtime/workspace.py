"""The buffers of a program, allocated once a call so that no step allocates."""

from __future__ import annotations

import array
import functools
import weakref
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.records import APART, SLICE_ROWS, words_of
from fastmlp.kernels.tuning.pays import SOME_ROWS
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Buffers
from fastmlp.model.layout import ALIGNMENT, aligned

SCRATCH_BYTES = 256
"""Bytes of scratch for each term of a matmul's sums: a row of a panel, up to 4 wide vectors."""

SCRATCH_ROWS = 32
"""Rows of scratch beside the panel: more than a register tile has."""

SLICE_BYTES = 1 << 16
"""The least bytes of a slice of the gradient, in L1 or near it.

With batches of 32 and 64 rows Adam takes 1.1 times as long by slices of 256 rows of 1024 and 2048 units.
"""

BLOCKED_SIDE = 256
"""`packed` packs no layer whose sides are all shorter: its weights take less than 1 MiB, in float64 too."""

BLOCK_BYTES, BLOCK_ROWS = 1 << 19, 1024
"""What `fastmlp.kernels.gemm.blocked` packs at a time: the bytes of one operand, the rows of the other."""


def scratch_length(widest: int, rows: int, itemsize: int, outputs: int = 0) -> int:
    """Return the length of a worker's scratch, for layers of up to `widest` units and `rows` rows.

    It has room for a panel whose terms are units or rows, for the blocks of packed operands, and for the loss
    of so many outputs (`fastmlp.kernels.elementwise.losses`).
    """
    depth = max(widest, rows)
    panel = (depth + SCRATCH_ROWS) * SCRATCH_BYTES // itemsize
    blocks = BLOCK_BYTES // itemsize + min(rows, BLOCK_ROWS) * widest
    return max(panel if depth < BLOCKED_SIDE else panel + blocks, 3 * LOSS_ROWS * (outputs + 1))


def slice_length(sizes: Sequence[int], rows: int, workers: int, itemsize: int) -> int:
    """Return the length of a slice of the gradient: `slice_rows` rows of the weights of any layer.

    Fewer where a worker has fewer, and SLICE_ROWS of a batch of fewer than SOME_ROWS rows, whose deltas are
    read from L2; more where they take less than `SLICE_BYTES`.
    """
    length, wanted = SLICE_BYTES // itemsize, value("slice_rows") if rows >= SOME_ROWS else SLICE_ROWS
    for n_in, n_out in pairwise(sizes):
        most = max(1, -(-n_in // (SLICE_ROWS * workers))) * SLICE_ROWS  # of the layer, for one worker
        length = max(length, min(wanted, most) * n_out)
    return length


def apart(numbers: int, itemsize: int) -> int:
    """Return a length rounded up such that the next worker's numbers lie on other cache lines."""
    together = APART // itemsize
    return -(-numbers // together) * together


def lengths(
    sizes: Sequence[int],
    rows: int,
    workers: int,
    itemsize: int,
    private: int = 0,
    predicting: bool = False,
    least: Buffers | None = None,
) -> dict[str, int]:
    """Return the lengths of a workspace's buffers, by their names in `records.BUFFERS`.

    They serve batches of up to `rows` rows, shared by `workers` workers.

    sizes : of a network's layers; the first is 0 where inputs are sparse, because these are not gathered or
        packed
    private : the length of each worker's private buffer, whole cache lines
    predicting : whether only logits, activations and scratch are needed
    least : `variant.Choice.buffers`, the least lengths that a worker needs of some buffers
    """
    units = rows * sum(sizes[1:])
    outputs = 0 if predicting else sizes[-1]
    scratch = workers * apart(scratch_length(max(sizes), rows, itemsize, outputs), itemsize)
    found = {"logits": units, "activations": units, "scratch": scratch}
    if not predicting:
        found = {
            "batch_inputs": rows * sizes[0],
            "batch_targets": rows * sizes[-1],
            "batch_weights": rows,
            **dict.fromkeys(("logits", "activations", "dropped", "deltas"), units),
            "scratch": scratch,
            "slices": workers * apart(slice_length(sizes, rows, workers, itemsize), itemsize),
            "private": workers * private,
        }
    for name, numbers in (least(sizes, rows) if least else {}).items():
        if name in found:
            found[name] = max(found[name], workers * apart(numbers, itemsize))
    return found


class Workspace(NamedTuple):
    """All buffers of a program, allocated once a call.

    memory : (n,) floating, all buffers but the sums
    sums : (rows,) float64, for partial sums of a batch's loss
    words : a call's words with the places and lengths of the buffers; shared, so nothing may write to them
    """

    memory: NDArray[Any]
    sums: NDArray[np.float64]
    words: array.array[int]


def workspace(
    sizes: Sequence[int],
    rows: int,
    workers: int,
    dtype: np.dtype[Any],
    private: int = 0,
    predicting: bool = False,
    buffers: Buffers | None = None,
) -> Workspace:
    """Return buffers as long as `lengths` says, each at a cache line, in one array but for the sums.

    buffers : `variant.Choice.buffers`; the other arguments as in `lengths`
    """
    total, words = _layout(
        tuple(sizes), rows, workers, dtype.itemsize, private, predicting,
        0 if predicting else value("slice_rows"), buffers,
    )  # fmt: skip
    return Workspace(aligned(total, dtype), np.empty(rows), words)


KEPT_BYTES = 1 << 17
"""A training keeps a workspace of at least this size from one chunk to the next.

The system hands out memory of this size page by page, and clears each page first. At 1024-2048-2048-10 and
1024 rows, where a chunk is one step, that was 2.4 % of the step.
"""


class Kept(NamedTuple):
    """A workspace between two chunks of a training.

    asked : the arguments of `workspace` that it was made with
    watch : a weak reference that removes this when the training's gradients are deleted
    """

    asked: tuple[Any, ...]
    work: Workspace
    watch: weakref.ref[NDArray[Any]]


_kept: dict[int, Kept] = {}
"""By the ids of the trainings' gradients: a training has one array of gradients as long as it runs."""


def workspace_of(gradients: NDArray[Any], *asked: Any) -> Workspace:
    """Return the workspace of the training with these gradients (P,); asked : the arguments of `workspace`.

    No two chunks share it at one time: chunks of one training never run at once, since they write to its
    gradients.
    """
    key = id(gradients)
    kept = _kept.get(key)
    if kept is not None and kept.asked == asked:
        return kept.work
    work = workspace(*asked)
    if work.memory.nbytes >= KEPT_BYTES:
        all_kept = _kept  # a local name: the module's globals may be None already when a process ends
        _kept[key] = Kept(asked, work, weakref.ref(gradients, lambda _: all_kept.pop(key, None)))
    return work


@functools.lru_cache(maxsize=64)
def _layout(
    sizes: tuple[int, ...],
    rows: int,
    workers: int,
    itemsize: int,
    private: int,
    predicting: bool,
    slice_rows: int,
    least: Buffers | None,
) -> tuple[int, array.array[int]]:
    """Return the length of the memory, and a call's words with the places of the buffers in it.

    slice_rows : the measured constant that `slice_length` goes by
    """
    buffers = lengths(sizes, rows, workers, itemsize, private, predicting, least)
    line = ALIGNMENT // itemsize
    padded = [-(-length // line) * line for length in buffers.values()]
    starts = dict(zip(buffers, accumulate(padded, initial=0), strict=False))
    return sum(padded), words(buffers, starts, sum(padded), rows, workers)


def words(
    buffers: dict[str, int], starts: dict[str, int], total: int, rows: int, workers: int
) -> array.array[int]:
    """Return a call's words for buffers of these lengths at these starts, in a memory of `total` numbers."""
    shares = {"scratch": "scratch_length", "slices": "slice_length", "private": "private_length"}
    shared = {name: buffers.get(buffer, 0) // workers for buffer, name in shares.items()}
    return words_of({**starts, **shared, "length": total, "batch": rows})
