"""One window of rows that come block by block: what it takes, in which form it holds them, and as `Data`.

Separate from `fastmlp.training.windows`, which has the thread that fills one while another is trained on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.backend import Data
from fastmlp.model.byte_rows import ByteRows
from fastmlp.model.sparse import Inputs, SparseRows, stacked
from fastmlp.training.data import convert

Array = NDArray[Any]


class Block(NamedTuple):
    """A block whose form is checked.

    name : for errors; inputs : (rows, n_in), sparse ones clean, dense ones not yet converted
    targets, weights : (rows, n_out) and (rows,), clean
    """

    name: str
    inputs: Any
    targets: Array
    weights: Array


class Window:
    """Some rows, behind those that the window before has left over.

    first, last : whether an epoch begins, or ends, with it
    """

    def __init__(
        self,
        sparse: bool,
        n_in: int,
        n_out: int,
        rows: int,
        room: int,
        dtype: np.dtype[Any],
        most_bytes: int | None = None,
        scale: float | None = None,
    ) -> None:
        """Make an empty one for so many rows, and `room` before them, those of a batch.

        most_bytes : of sparse rows, which end it before it has so many, but for a batch; None for no bound
        scale : of bytes that stay bytes; None if they become numbers of the dtype
        """
        self._scale = scale
        self._most_bytes, self._bytes = most_bytes, 0
        self._room, self._most, self._carried, self.rows = room, rows, 0, 0
        self._targets, self._weights = np.empty((room + rows, n_out), dtype), np.empty(room + rows, dtype)
        self._inputs = None if sparse else np.empty((room + rows, n_in), dtype if scale is None else np.uint8)
        self._pieces: list[SparseRows] = []
        self.first = self.last = False

    def taking(self, block: Block, start: int) -> int:
        """Return how many rows of a block, from one on, it still takes."""
        rows = min(self._most - self.rows, len(block.targets) - start)
        if self._most_bytes is None:
            return rows
        held = self._bytes + bytes_up_to(block, start, start + rows)
        within = int(np.searchsorted(held, self._most_bytes, side="right"))
        return min(rows, max(within, self._room - self.rows))

    def put(self, block: Block, start: int, stop: int, scale: float) -> None:
        """Append some rows of a block."""
        at = slice(self._room + self.rows, self._room + self.rows + stop - start)
        if self._inputs is None:
            self._pieces.append(block.inputs[start:stop])
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

    def carry(self, left: Data) -> None:
        """Put rows before those that are here."""
        self._carried = len(left.weights)
        at = slice(self._room - self._carried, self._room)
        if self._inputs is None:
            self._pieces.insert(0, left.inputs)  # type: ignore[arg-type]
        else:
            self._inputs[at] = left.inputs.numbers if isinstance(left.inputs, ByteRows) else left.inputs
        self._targets[at], self._weights[at] = left.targets, left.weights

    @property
    def data(self) -> Data:
        """All rows."""
        at = slice(self._room - self._carried, self._room + self.rows)
        inputs: Inputs | ByteRows
        if self._inputs is None:
            self._pieces = [stacked(self._pieces)]
            inputs = self._pieces[0]
        else:
            inputs = self._inputs[at]
            if self._scale is not None:
                inputs = ByteRows(inputs, self._weights.dtype, self._scale)
        return Data(inputs, self._targets[at], self._weights[at])

    def empty(self) -> None:
        """Forget the rows."""
        self.rows = self._carried = self._bytes = 0
        self._pieces.clear()


def bytes_up_to(block: Block, start: int, stop: int) -> NDArray[np.int64]:
    """Return what the first row of [start, stop) takes in a window, the first two, .. of a sparse block."""
    indptr, size = block.inputs.indptr, block.targets.itemsize
    numbers, rows = indptr[start + 1 : stop + 1] - indptr[start], np.arange(1, stop - start + 1)
    columns = block.inputs.dense.shape[1] + block.targets.shape[1] + 1
    bytes_: NDArray[np.int64] = numbers * (4 + size) + rows * (8 + size * columns)
    return bytes_
