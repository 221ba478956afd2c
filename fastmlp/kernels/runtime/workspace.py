"""The buffers of a program, allocated once a call so that no step allocates."""

from __future__ import annotations

import array
import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.records import APART, SLICE_ROWS, WORDS, words_of
from fastmlp.kernels.tuning.table import BLOCK_BYTES, BLOCK_ROWS, CROWDED_ROWS, SOME_ROWS, value
from fastmlp.kernels.variant import Buffers
from fastmlp.model.embeddings import Grouped
from fastmlp.model.layout import ALIGNMENT, aligned
from fastmlp.model.network import Network

SCRATCH_BYTES = 256
"""Bytes of scratch for each term of a matmul's sums: a row of a panel, 3 wide vectors, and a distance."""

SCRATCH_ROWS = 32
"""Rows of scratch besides the panel: more than a register tile has."""

SLICE_BYTES = 1 << 16
"""The least bytes of a slice of the gradient, in L1 or near it.

With batches of 32 and 64 rows Adam takes 1.1 times as long by slices of 256 rows of 1024 and 2048 units.
"""

BLOCKED_SIDE = 256
"""`packed` packs no layer whose sides are all shorter: its weights take less than 1 MiB, in float64 too."""


class Extent(NamedTuple):
    """What a workspace has room for, of a network.

    n_in, n_out : of its rows; n_in is without sparse columns, because these are not gathered or packed
    units : numbers of a row, of all operations
    products : (n_in, n_out) of every product, the first n_in without them, too; and (1, width) of tables
    masked : whether entries of targets count unlike
    members : rows of products that a row is
    sums : derivatives by gains and shifts of all runs of unitwise operations
    """

    n_in: int
    n_out: int
    units: int
    products: tuple[tuple[int, int], ...]
    masked: bool = False
    members: int = 1
    sums: int = 0

    @classmethod
    def of(cls, network: Network, sparse: bool = False) -> Extent:
        """Return that of a network; sparse : of its inputs."""
        operations = network.operations
        products = [(one.n_in - sparse * one.sparse_in, one.n_out) for one in operations if one.is_dense]
        products += [(own.inputs, own.units) for one in operations if isinstance(own := one.layer, Grouped)]
        products += [(1, table.width) for table in network.tables]
        units = max(one.kept + one.kept_units for one in operations)
        masked = any(head.masked for head in network.heads.values())
        n_in = network.n_in - sparse * network.sparse_in
        sums = sum(one.trained - one.weights for one in operations if one.in_run)
        return cls(n_in, network.n_out, units, tuple(products), masked, network.members, sums)


def scratch_length(widest: int, rows: int, itemsize: int, outputs: int = 0) -> int:
    """Return the length of a worker's scratch, for layers of up to `widest` units and `rows` rows.

    It has room for a panel whose terms are units or rows, for the blocks of packed operands, and for the loss
    of so many outputs (`fastmlp.kernels.elementwise.losses`).
    """
    depth = max(widest, rows)
    panel = (depth + SCRATCH_ROWS) * SCRATCH_BYTES // itemsize
    blocks = BLOCK_BYTES // itemsize + min(rows, BLOCK_ROWS) * widest
    return max(panel if depth < BLOCKED_SIDE else panel + blocks, 3 * LOSS_ROWS * (outputs + 1))


def slice_length(products: Sequence[tuple[int, int]], rows: int, workers: int, itemsize: int) -> int:
    """Return the length of a slice of the gradient: `slice_rows` rows of the weights of any product.

    Fewer where a worker has fewer, and SLICE_ROWS of a batch of too few rows for panels, whose deltas are
    read from L2; more where they take less than `SLICE_BYTES`.
    """
    is_long = rows >= min(SOME_ROWS, CROWDED_ROWS)
    length, required = SLICE_BYTES // itemsize, value("slice_rows") if is_long else SLICE_ROWS
    for n_in, n_out in products:
        most = max(1, -(-n_in // (SLICE_ROWS * workers))) * SLICE_ROWS  # of the product, for one worker
        length = max(length, min(required, most) * n_out)
    return length


def apart(numbers: int, itemsize: int) -> int:
    """Return a length rounded up such that the next worker's numbers lie on other cache lines."""
    together = APART // itemsize
    return -(-numbers // together) * together


def lengths(
    extent: Extent,
    rows: int,
    workers: int,
    itemsize: int,
    private: int = 0,
    predicting: bool = False,
    least: Buffers | None = None,
) -> dict[str, int]:
    """Return the lengths of a workspace's buffers, by their names in `records.BUFFERS`.

    They serve batches of up to `rows` rows, shared by `workers` workers.

    private : the length of each worker's private buffer, whole cache lines
    predicting : whether only logits, activations and scratch are needed
    least : `variant.Choice.buffers`, the least lengths that a worker needs of some buffers
    """
    units, every = rows * extent.units, rows * extent.members
    outputs, widest = 0 if predicting else extent.n_out, max(map(max, extent.products))
    scratch = workers * apart(scratch_length(widest, every, itemsize, outputs), itemsize)
    found = {"logits": units, "activations": units, "scratch": scratch}
    if not predicting:
        found = {
            "batch_inputs": rows * extent.n_in,
            "batch_targets": every * extent.n_out,
            "batch_weights": every * (5 if extent.masked else 1),
            **dict.fromkeys(("logits", "activations", "dropped", "deltas"), units),
            "scratch": scratch,
            "slices": workers * apart(slice_length(extent.products, every, workers, itemsize), itemsize),
            "part_sums": -(-rows // LOSS_ROWS) * extent.sums,
            "private": workers * private,
        }
    for name, numbers in (least(extent.products, every) if least else {}).items():
        if name in found:
            found[name] = max(found[name], workers * apart(numbers, itemsize))
    return found


class Workspace(NamedTuple):
    """All buffers of a program, allocated once a call.

    memory : (n,) floating, all buffers but the sums
    sums : (rows + LOSS_ROWS,) float64, for partial sums of a batch's loss and those of its heads
    words : a call's words with the places and lengths of the buffers; shared, so nothing may write to them
    """

    memory: NDArray[Any]
    sums: NDArray[np.float64]
    words: array.array[int]


def workspace(
    extent: Extent,
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
        extent, rows, workers, dtype.itemsize, private, predicting,
        0 if predicting else value("slice_rows"), buffers,
    )  # fmt: skip
    memory = aligned(total, dtype)
    if private:
        memory[words[WORDS["private"]] :] = 0
    return Workspace(memory, np.empty(rows + LOSS_ROWS), words)


@functools.lru_cache(maxsize=64)
def _layout(
    extent: Extent,
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
    buffers = lengths(extent, rows, workers, itemsize, private, predicting, least)
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
