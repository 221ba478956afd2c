"""The buffers that a program works in, allocated once a call so that no step allocates."""

from __future__ import annotations

import array
import functools
import weakref
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.program.records import APART, SLICE_ROWS, words_of
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Buffers
from fastmlp.model.layout import ALIGNMENT, aligned

SCRATCH_BYTES = 256
"""Bytes of scratch for each term that a matmul contracts over: a panel of up to 4 wide vectors."""

SCRATCH_ROWS = 32
"""Rows of scratch beside the panel: a register tile's worth, and some."""

BLOCKED_SIDE = 256
"""The side from which on `packed` may pack a layer: 1 MiB holds any weights below it, in float64 too."""

BLOCK_BYTES, BLOCK_ROWS = 1 << 19, 1024
"""What `fastmlp.kernels.gemm.blocked` packs at a time: bytes of one operand, rows of the other."""


def scratch_length(widest: int, rows: int, itemsize: int) -> int:
    """Return the numbers of scratch that a slot needs for layers of at most so many units, and rows.

    Room for a panel of as many terms as either has, and for the blocks that packed operands come in.
    """
    depth = max(widest, rows)
    panel = (depth + SCRATCH_ROWS) * SCRATCH_BYTES // itemsize
    blocks = BLOCK_BYTES // itemsize + min(rows, BLOCK_ROWS) * widest
    return panel if depth < BLOCKED_SIDE else panel + blocks


def slice_length(n_out: int, itemsize: int) -> int:
    """Return the numbers of a slice of gradient: 8 rows of weights, or `slice_bytes` if that is more."""
    return max(value("slice_bytes") // itemsize, SLICE_ROWS * n_out)


def apart(numbers: int, itemsize: int) -> int:
    """Return so many numbers, or some more: the next worker's are on other cache lines."""
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
    """Return the numbers in each of a workspace's buffers, by their names in `records.BUFFERS`.

    For batches of up to `rows` rows, shared by `workers` workers.

    sizes : of a network's layers; the first is 0 where inputs are sparse, which nothing gathers or packs
    private : numbers that a worker has to itself, whole cache lines
    predicting : whether it needs logits, activations and scratch only
    least : of `variant.Choice.buffers`, what a worker must have of some buffers
    """
    units = rows * sum(sizes[1:])
    scratch = workers * apart(scratch_length(max(sizes), rows, itemsize), itemsize)
    found = {"logits": units, "activations": units, "scratch": scratch}
    if not predicting:
        found = {
            "batch_inputs": rows * sizes[0],
            "batch_targets": rows * sizes[-1],
            "batch_weights": rows,
            **dict.fromkeys(("logits", "activations", "dropped", "deltas"), units),
            "scratch": scratch,
            "slices": workers * apart(slice_length(max(sizes[1:]), itemsize), itemsize),
            "private": workers * private,
        }
    for name, numbers in (least(sizes, rows) if least else {}).items():
        if name in found:
            found[name] = max(found[name], workers * apart(numbers, itemsize))
    return found


class Workspace(NamedTuple):
    """What a program works in, allocated once a call.

    memory : (n,) floating, all buffers
    sums : (rows,) float64, for partial sums of a batch's loss
    words : of a call, told where each begins and how much there is; not to be changed
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
    """Return buffers as `lengths` says, each at a cache line, in one allocation but for the sums.

    buffers : of `variant.Choice`, what its slots need
    """
    slice_bytes = 0 if predicting else value("slice_bytes")
    total, words = _layout(
        tuple(sizes), rows, workers, dtype.itemsize, private, predicting, slice_bytes, buffers
    )
    return Workspace(aligned(total, dtype), np.empty(rows), words)


KEPT_BYTES = 1 << 17
"""Of a workspace that a training keeps from one chunk to the next. The system gives memory of this size away
page by page, zeroed: where a chunk is one step, at 1024-2048-2048-10 and 1024 rows, that was 2.4 % of it."""


class Kept(NamedTuple):
    """A workspace between two chunks of a training.

    asked : what it was made by; watch : takes it away when the training's gradients go
    """

    asked: tuple[Any, ...]
    work: Workspace
    watch: weakref.ref[NDArray[Any]]


_kept: dict[int, Kept] = {}
"""By the ids of the gradients of trainings, which live as long as these."""


def workspace_of(gradients: NDArray[Any], *asked: Any) -> Workspace:
    """Return the workspace of the training that has these gradients (P,); asked : as `workspace`.

    Two chunks of one training never run at once: both would write to its gradients.
    """
    key = id(gradients)
    kept = _kept.get(key)
    if kept is not None and kept.asked == asked:
        return kept.work
    work = workspace(*asked)
    if work.memory.nbytes >= KEPT_BYTES:
        all_kept = _kept  # the module's names are gone when a process ends
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
    slice_bytes: int,
    least: Buffers | None,
) -> tuple[int, array.array[int]]:
    """Return how many numbers all buffers take, and a call's words."""
    buffers = lengths(sizes, rows, workers, itemsize, private, predicting, least)
    line = ALIGNMENT // itemsize
    padded = [-(-length // line) * line for length in buffers.values()]
    starts = dict(zip(buffers, accumulate(padded, initial=0), strict=False))
    return sum(padded), words(buffers, starts, sum(padded), rows, workers)


def words(
    buffers: dict[str, int], starts: dict[str, int], total: int, rows: int, workers: int
) -> array.array[int]:
    """Return a call's words that are told of buffers of these lengths, which begin there."""
    shares = {"scratch": "scratch_length", "slices": "slice_length", "private": "private_length"}
    shared = {name: buffers.get(buffer, 0) // workers for buffer, name in shares.items()}
    return words_of({**starts, **shared, "length": total, "batch": rows})
