"""The buffers of a program, allocated once for a call."""

from __future__ import annotations

import array
import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.records import APART, SLICE_ROWS, WORDS, words_of
from fastmlp.kernels.thresholds import BLOCK_BYTES, BLOCK_ROWS, CROWDED_ROWS, SOME_ROWS, value
from fastmlp.kernels.variant import Buffers
from fastmlp.model.embeddings import Grouped
from fastmlp.model.layout import ALIGNMENT, aligned
from fastmlp.model.network import Network

Products = tuple[tuple[int, int], ...]
"""The (n_in, n_out) of products."""

SCRATCH_BYTES = 256
"""Bytes of scratch for each term of a matmul's sums: a row of a panel, 3 wide vectors, and a distance."""

SCRATCH_ROWS = 32
"""Rows of scratch besides the panel: more than a register tile has."""

SLICE_BYTES = 1 << 16
"""The least bytes of a slice of the gradient, in L1 or near it.

With batches of 32 and 64 rows Adam takes 1.1 times as long by slices of 256 rows of 1024 and 2048 units.
"""

BLOCKED_SIDE = 256
"""No operands are packed of layers with shorter sides: the weights take less than 1 MiB, in float64 too."""


def scratch_length(widest: int, rows: int, itemsize: int, outputs: int = 0) -> int:
    """Return the length of a worker's scratch, for up to `widest` units, `rows` rows and so many outputs.

    The scratch has room for a panel of units or rows, for blocks of packed operands, and for a loss
    (`fastmlp.kernels.elementwise.losses`).
    """
    depth = max(widest, rows)
    panel = (depth + SCRATCH_ROWS) * SCRATCH_BYTES // itemsize
    blocks = BLOCK_BYTES // itemsize + min(rows, BLOCK_ROWS) * widest
    return max(panel if depth < BLOCKED_SIDE else panel + blocks, 3 * LOSS_ROWS * (outputs + 1))


def slice_length(products: Sequence[tuple[int, int]], rows: int, workers: int, itemsize: int) -> int:
    """Return the length of a slice of the gradient: `slice_rows` rows of the weights of any product."""
    # Fewer rows for a worker with fewer rows, and SLICE_ROWS for a batch of too few rows for panels, with
    # deltas read from L2; more rows where a slice takes less than `SLICE_BYTES`.
    is_long = rows >= min(SOME_ROWS, CROWDED_ROWS)
    length, required = SLICE_BYTES // itemsize, value("slice_rows") if is_long else SLICE_ROWS
    for n_in, n_out in products:
        most = max(1, -(-n_in // (SLICE_ROWS * workers))) * SLICE_ROWS  # of the product, for one worker
        length = max(length, min(required, most) * n_out)
    return length


def apart(numbers: int, itemsize: int, line: int = APART) -> int:
    """Return a length rounded up to whole cache lines, in pairs if not given."""
    together = line // itemsize
    return -(-numbers // together) * together


def lengths(
    network: Network,
    sparse: bool,
    rows: int,
    workers: int,
    itemsize: int,
    private: int = 0,
    predicting: bool = False,
    least: Buffers | None = None,
    more: Products = (),
) -> dict[str, int]:
    """Return the lengths of the buffers for batches of up to `rows` rows, by names of `records.BUFFERS`.

    sparse : for sparse inputs, with columns neither gathered nor packed
    private : the length of each worker's private buffer, whole cache lines
    predicting : for logits, activations and scratch only
    least : `variant.Variant.buffers`, the least lengths of a worker's buffers
    more : products besides those of the network
    """
    operations = network.operations
    # (n_in, n_out) of every product, the first n_in without sparse columns; (1, width) of tables.
    products = [(op.n_in - sparse * op.sparse_in, op.n_out) for op in operations if op.is_dense]
    products += [(block.inputs, block.units) for op in operations if isinstance(block := op.layer, Grouped)]
    products += [(1, table.width) for table in network.tables]
    units, every = rows * max(op.saved + op.saved_units for op in operations), rows * network.members
    outputs, widest = 0 if predicting else network.n_out, max(map(max, [*products, *more]))
    scratch = workers * apart(scratch_length(widest, every, itemsize, outputs), itemsize)
    buffers = {"logits": units, "activations": units, "scratch": scratch}
    if not predicting:
        masked = any(head.masked for head in network.heads.values())  # entries of targets count unlike
        sums = sum(op.trained - op.weights for op in operations if op.is_fused)  # of gains and shifts
        buffers = {
            "batch_inputs": rows * (network.n_in - sparse * network.sparse_in),
            "batch_targets": every * network.n_out,
            "batch_weights": every * (5 if masked else 1),
            **dict.fromkeys(("logits", "activations", "dropped", "deltas"), units),
            "scratch": scratch,
            "slices": workers * apart(slice_length(products, every, workers, itemsize), itemsize),
            "part_sums": -(-rows // LOSS_ROWS) * sums,
            "private": workers * private,
        }
    for name, numbers in (least([*products, *more], every) if least else {}).items():
        if name in buffers:
            buffers[name] = max(buffers[name], workers * apart(numbers, itemsize))
    return buffers


def workspace(
    network: Network, sparse: bool, rows: int, workers: int, dtype: np.dtype[Any], *options: Any
) -> tuple[NDArray[Any], NDArray[np.float64], array.array[int]]:
    """Return all buffers of a program, and a call's words with their offsets, shared and read-only.

    The buffers have the lengths of `lengths` of the same arguments, each at a cache line, in an array (n,)
    floating, with an array (rows + LOSS_ROWS,) float64 for partial sums of a batch's losses.

    Raises
    ------
    ValueError
        If no operation takes sparse inputs, or if blocks of inputs must be sparse.
    """
    total, words = _layout(network, sparse, rows, workers, dtype.itemsize, value("slice_rows"), *options)
    memory = aligned(total, dtype)
    memory[words[WORDS["private"]] or total :] = 0
    return memory, np.empty(rows + LOSS_ROWS), words


@functools.lru_cache(maxsize=64)
def _layout(
    network: Network, sparse: bool, rows: int, workers: int, itemsize: int, slice_rows: int, *options: Any
) -> tuple[int, array.array[int]]:
    """Return the memory's length, and call words with the buffers' offsets."""
    network.check_sparse(sparse)
    buffers = lengths(network, sparse, rows, workers, itemsize, *options)
    padded = [apart(length, itemsize, ALIGNMENT) for length in buffers.values()]
    starts = dict(zip(buffers, accumulate(padded, initial=0), strict=False))
    return sum(padded), words(buffers, starts, rows, workers)


def words(buffers: dict[str, int], starts: dict[str, int], rows: int, workers: int) -> array.array[int]:
    """Return call words for buffers of some lengths at some starts."""
    parts = {"scratch": "scratch_length", "slices": "slice_length", "private": "private_length"}
    shared = {name: buffers.get(buffer, 0) // workers for buffer, name in parts.items()}
    return words_of({**starts, **shared, "batch": rows})
