"""Windows of rows, filled from blocks by a thread while the window before is trained on.

A window is an ordinary `Data` of whole batches, so batches are those of an array. At most two windows are in
memory, the used window and the next.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp import checks
from fastmlp.backend.choice import may_take_bytes
from fastmlp.blocks.sources import SHAPE, IterableSource, Slices, Source, named_blocks
from fastmlp.data.arrays import (
    check_codes,
    checked_weights,
    clean_blocks,
    clean_targets,
    convert,
    floating_dtype,
    joined,
)
from fastmlp.data.sparse import clean_rows, is_sparse
from fastmlp.model.backend import Array, Data, counts_of, evaluated, losses_of_part
from fastmlp.model.inputs import sparse_columns
from fastmlp.model.network import Network
from fastmlp.model.rows import ByteRows, Inputs, SparseRows, stacked
from fastmlp.system.interrupts import LeftBehind


class Block(NamedTuple):
    """A checked block.

    name : for errors; inputs : (rows, n_in), sparse ones clean, dense ones not yet converted
    targets, weights : (rows, n_out) and (rows,), clean
    """

    name: str
    inputs: Any
    targets: Array
    weights: Array


class Window:
    """Rows in memory, whole batches but for an epoch's last.

    first, last : True at an epoch's beginning, or end
    """

    def __init__(
        self,
        sparse: bool,
        n_in: int,
        n_out: int,
        rows: int,
        batch: int,
        dtype: np.dtype[Any],
        most_bytes: int | None = None,
        scale: float | None = None,
    ) -> None:
        """Make an empty window for so many rows, and for a single last row beside them.

        rows : a multiple of `batch`, or all rows
        most_bytes : of sparse rows; the batch that reaches the bound ends the window. None for no bound
        scale : of kept bytes; None for numbers of the dtype
        """
        self._scale, self._batch = scale, batch
        self._most_bytes, self._bytes = most_bytes, 0
        self._most, self.rows, room = rows, 0, rows + 1
        self._targets, self._weights = np.empty((room, n_out), dtype), np.empty(room, dtype)
        self._inputs = None if sparse else np.empty((room, n_in), dtype if scale is None else np.uint8)
        self._sparse_blocks: list[SparseRows] = []
        self.first = self.last = False

    def taking(self, block: Block, start: int) -> int:
        """Return the number of rows from `start` on with room in the window."""
        rows = min(self._most - self.rows, len(block.targets) - start)
        if self._most_bytes is None or not rows:
            return rows
        if self._bytes >= self._most_bytes:
            return min(rows, -self.rows % self._batch)
        held = self._bytes + bytes_up_to(block, start, start + rows)
        reached = self.rows + 1 + int(np.searchsorted(held, self._most_bytes))
        return min(rows, reached + -reached % self._batch - self.rows)

    def put(self, block: Block, start: int, stop: int, scale: float) -> None:
        """Append some rows of a block."""
        at = slice(self.rows, self.rows + stop - start)
        if self._inputs is None:
            self._sparse_blocks.append(block.inputs[start:stop])
            self._bytes += int(bytes_up_to(block, start, stop)[-1])
        elif self._scale is not None:
            self._inputs[at] = block.inputs[start:stop]
        else:
            try:
                convert("X", block.inputs[start:stop], scale, self._inputs[at], start)
            except ValueError as error:
                raise ValueError(f"{block.name}: {error}") from None
        self._targets[at], self._weights[at] = block.targets[start:stop], block.weights[start:stop]
        self.rows += stop - start

    @property
    def data(self) -> Data:
        """All rows."""
        at = slice(self.rows)
        inputs: Inputs | ByteRows
        if self._inputs is None:
            self._sparse_blocks = [stacked(self._sparse_blocks)]
            inputs = self._sparse_blocks[0]
        else:
            inputs = self._inputs[at]
            if self._scale is not None:
                inputs = ByteRows(inputs, self._weights.dtype, self._scale)
        return Data(inputs, self._targets[at], self._weights[at])

    def empty(self) -> None:
        """Forget the rows."""
        self.rows = self._bytes = 0
        self._sparse_blocks.clear()


def bytes_up_to(block: Block, start: int, stop: int) -> NDArray[np.int64]:
    """Return the bytes of a sparse block's rows in a window, summed from `start` on."""
    indptr, size = block.inputs.indptr, block.targets.itemsize
    numbers, rows = indptr[start + 1 : stop + 1] - indptr[start], np.arange(1, stop - start + 1)
    columns = block.inputs.dense.shape[1] + block.targets.shape[1] + 1
    bytes_: NDArray[np.int64] = numbers * (4 + size) + rows * (8 + size * columns)
    return bytes_


WINDOW_BYTES = 1 << 25
"""Bytes of a window by default: two windows are a training's memory for rows.

Kept bytes are counted as numbers, and take a quarter: a window of 8 MiB stays in the cache, unlike 32 MiB,
and an epoch was 4 % shorter (784-128-10, batch 128).
"""

POLL = 0.05
"""Seconds between two checks for a stop while waiting for rows."""

PATIENCE = 1.0
"""Seconds of waiting for the thread at the end; the thread may be in a user's code."""


class RowFormat(NamedTuple):
    """The form of rows in windows.

    network : takes the rows
    dtype : None follows the first block's X, as in `fit`
    batch_size : rows of a batch
    window : rows to a window, rounded up to whole batches; None for WINDOW_BYTES
    """

    network: Network
    dtype: DTypeLike | None
    batch_size: int
    window: int | None


class Windows:
    """The windows of several epochs, a context manager that ends the thread.

    A window belongs to one thread at a time. Queues hand windows over; locks of queues order the writes.

    epochs : how many there shall be; what : comes before "block" in errors; done : earlier epochs
    """

    def __init__(
        self, source: Source, row_format: RowFormat, epochs: int, what: str = "", done: int = 0
    ) -> None:
        self.source, self.row_format, self.epochs, self._done = source, row_format, epochs, done
        self.rows = source.rows
        """Rows of an epoch, once known."""
        self._what = what
        self._ready: queue.SimpleQueue[Window | BaseException] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Window | None] = queue.SimpleQueue()
        self._made = 0
        self._sparse: bool | None = None
        self._closed = threading.Event()
        # A daemon: it may wait in a user's code for what never comes.
        run = contextvars.copy_context().run
        self._thread = threading.Thread(
            target=run, args=(self._fill_all,), name="fastmlp windows", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        self._thread.join(PATIENCE)

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()
        self._free.put(None)

    def next(self, stopped: Callable[[], bool] = lambda: False) -> Window | None:
        """Return the next filled window; None if stopped() before."""
        while not stopped():
            over = not self._thread.is_alive()  # looked at first: what it put last is then there
            with contextlib.suppress(queue.Empty):
                found = self._ready.get(timeout=POLL)
                if isinstance(found, BaseException):
                    raise found
                return found
            if over:
                raise RuntimeError(f"the {self._what}blocks of all {self.epochs} epochs have been given")
        return None

    def release(self, window: Window) -> None:
        """Give a window back, to be filled anew."""
        self._free.put(window)

    # --- on the thread ------------------------------------------------------------------------------

    def _fill_all(self) -> None:
        try:
            for epoch in range(max(1, self.epochs)):
                self._fill_epoch(self._done + epoch)
        except _Closed:
            pass
        except BaseException as error:
            self._ready.put(error)

    def _fill_epoch(self, epoch: int) -> None:
        rows, at, ahead = 0, 0, None
        with contextlib.closing(self._blocks(epoch)) as blocks:
            block = next(blocks, None)
            if block is None:
                walked = isinstance(self.source, IterableSource) and self.source.walks > 1
                again = "; give a function that makes them anew for every epoch" if walked else ""
                raise ValueError(f"there is no row in the {self._what}blocks of epoch {epoch + 1}{again}")
            window = self._window(block)
            window.first = True
            while block is not None:
                take = window.taking(block, at)
                if not take and at == len(block.targets) - 1:
                    ahead = next(blocks, None)
                    take = int(ahead is None)  # a single last row may have to join the batch before
                if take:
                    window.put(block, at, at + take, self.row_format.network.input_scale)
                    rows, at = rows + take, at + take
                else:
                    self._ready.put(window)
                    window = self._window(block)
                if at == len(block.targets):
                    block, at, ahead = ahead or next(blocks, None), 0, None
        if self.rows is not None and rows != self.rows:
            raise ValueError(
                f"epoch {epoch + 1} has {rows} rows in its {self._what}blocks, and {self.rows} are required"
            )
        self.rows, window.last = rows, True
        self._ready.put(window)

    def _window(self, like: Block) -> Window:
        """Return an empty window; from the third call on, wait for a released window."""
        if self._made < 2:
            self._made += 1
            return self._new_window(like)
        window = self._free.get()
        if window is None or self._closed.is_set():
            raise _Closed
        window.empty()
        window.first = window.last = False
        return window

    def _new_window(self, like: Block) -> Window:
        (n_in, n_out), dtype = (like.inputs.shape[1], like.targets.shape[1]), like.targets.dtype
        sparse = isinstance(like.inputs, SparseRows)
        rows = self.row_format.window
        batch = self.row_format.batch_size
        most_bytes = WINDOW_BYTES if sparse and rows is None else None
        scale = self.row_format.network.input_scale if self._keeps_bytes(n_in) else None
        if rows is None:
            of_a_row = dtype.itemsize * (n_out + 1) + (8 if sparse else dtype.itemsize * n_in)
            rows = max(batch, WINDOW_BYTES // of_a_row)
        rows += -rows % batch
        if self.rows is not None:
            rows, batch = min(rows, self.rows), min(batch, self.rows)
        try:
            return Window(sparse, n_in, n_out, rows, batch, dtype, most_bytes, scale)
        except (MemoryError, ValueError, OverflowError):  # NumPy has no memory, or no such number
            raise ValueError(
                f"there is no memory for a window of {rows} rows and a batch of {batch}; "
                "choose a smaller window or batch_size"
            ) from None

    def _keeps_bytes(self, n_in: int) -> bool:
        """Return True if windows keep bytes."""
        of_bytes = isinstance(self.source, Slices) and self.source.bytes
        return of_bytes and self.row_format.network.input_scale <= 1 and may_take_bytes(n_in)

    def _blocks(self, epoch: int) -> Generator[Block]:
        """Yield the checked blocks of an epoch, without empty blocks."""
        row_format = self.row_format

        def name_of(number: int) -> str:
            if self._closed.is_set():
                raise _Closed
            return f"{self._what}block {number} of epoch {epoch + 1}"

        for name, given in named_blocks(self.source, name_of):
            try:
                block = _block(name, given, row_format)
            except (ValueError, TypeError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{name}: {error}") from None
            if block is None:
                continue
            row_format = self._keep(name, block, row_format)
            yield block

    def _keep(self, name: str, block: Block, row_format: RowFormat) -> RowFormat:
        """Return the form of later blocks, with the dtype of the first."""
        sparse = isinstance(block.inputs, SparseRows)
        if self._sparse not in (None, sparse):
            kinds = ("sparse", "dense") if sparse else ("dense", "sparse")
            raise ValueError(f"{name}: X is {kinds[0]}, and {kinds[1]} in the blocks before it")
        self._sparse = sparse
        self.row_format = row_format._replace(dtype=block.targets.dtype)
        return self.row_format


class _Closed(Exception):
    """Ends the thread of closed windows."""


def _block(name: str, given: Any, row_format: RowFormat) -> Block | None:
    """Return a checked block; None for a block without rows."""
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        got = f"{len(given)} parts" if isinstance(given, (tuple, list)) else checks.shown(given)
        raise TypeError(f"a block must be {SHAPE}, got {got}")
    X, y, *rest = given
    network = row_format.network
    sparse, mixes = is_sparse(X), sparse_columns(network.blocks) > 0
    if mixes:
        X = clean_blocks("X", network.blocks, X, row_format.dtype, least=0)
    elif network.blocks and not sparse:
        X, _ = joined("X", network.blocks, X)
    array = X if sparse or mixes else checks.real_array("X", X)
    n_in, dimensions = network.n_in, len(array.shape)
    if dimensions and not array.shape[0]:
        return None
    if dimensions != 2 or array.shape[1] != n_in:
        raise ValueError(f"X must have shape (rows, {n_in}), got {array.shape}")
    rows = array.shape[0]
    dtype = floating_dtype(row_format.dtype, array)
    inputs = clean_rows("X", array, dtype, network.input_scale) if sparse else array
    if network.blocks and not sparse and not mixes:
        check_codes("X", network.blocks, array)
    weights = np.ones(rows, dtype)  # all of them may be 0
    if rest and rest[0] is not None:
        weights = checked_weights("weight", rest[0], rows, dtype)
    return Block(name, inputs, clean_targets("y", y, network, rows, dtype), weights)


@dataclass(frozen=True)
class HeldOutBlocks:
    """Validation rows in blocks."""

    source: Source
    row_format: RowFormat

    def loss(
        self, network: Network, loss_of: Callable[[Data], Any], epoch: int, stopped: Callable[[], bool]
    ) -> Any:
        """Return the loss over all rows, by loss_of(a window's rows); LeftBehind once stopped()."""
        found = []
        with Windows(self.source, self.row_format, 1, "validation ", epoch) as windows:
            while (window := windows.next(stopped)) is not None:
                if (data := window.data).weights.any():
                    found.append((counts_of(network, data), loss_of(data)))
                if window.last:
                    if not found:
                        raise ValueError("the weights of the validation blocks are all zero")
                    totals = np.sum([counts for counts, _ in found], axis=0)
                    parts = [losses_of_part(counts, totals, loss) for counts, loss in found]
                    return evaluated(network, np.sum(parts, axis=0))
                windows.release(window)
        raise LeftBehind
