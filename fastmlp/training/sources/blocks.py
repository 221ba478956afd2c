"""Blocks as a user makes them: an iterable of (X, y) or (X, y, weight), or a function that makes one."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from fastmlp import checks

SHAPE = "(X, y) or (X, y, weight)"
"""What every block is."""


class Source(Protocol):
    """What gives the rows of every epoch, block by block; each iterator begins with the first block.

    rows : of an epoch, None if that is not known before one is over
    """

    @property
    def rows(self) -> int | None:
        """See above."""

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the blocks of an epoch, each of them (X, y) or (X, y, weight)."""


class Given:
    """Blocks that a user's iterable or function gives."""

    rows = None

    def __init__(self, blocks: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[Any]:
        made = self._blocks() if callable(self._blocks) else self._blocks
        if not isinstance(made, Iterable):
            raise TypeError(
                f"the function must return an iterable of blocks {SHAPE}, got {checks.shown(made)}"
            )
        return iter(made)


def given(what: str, blocks: Any) -> Given:
    """Return a user's blocks; TypeError if they are none, or can be walked once only."""
    if isinstance(blocks, Iterator):
        raise TypeError(
            f"{what} can be walked once only, got {checks.shown(blocks)}; "
            "give a function that makes it, which is called for every epoch"
        )
    array = hasattr(blocks, "__array__") or hasattr(blocks, "toarray")
    if (
        array
        or isinstance(blocks, (str, bytes, dict))
        or not (callable(blocks) or isinstance(blocks, Iterable))
    ):
        raise TypeError(
            f"y must be given, unless {what} is an iterable of blocks {SHAPE} or a function that makes one, "
            f"got {checks.shown(blocks)}"
        )
    return Given(blocks)


class Slices:
    """The rows of arrays, a memory map or a sparse matrix, some at a time.

    Parameters
    ----------
    X : (rows, n_in); y : (rows,) or (rows, n_out); weights : (rows,) or None
    chosen : (n,) int64, ascending, the rows to give; None for all
    """

    def __init__(self, X: Any, y: Any, weights: Any = None, chosen: NDArray[np.int64] | None = None) -> None:
        self._arrays = (X, y) if weights is None else (X, y, weights)
        self._chosen = chosen

    @property
    def rows(self) -> int:
        """Of an epoch."""
        return int(self._arrays[0].shape[0]) if self._chosen is None else len(self._chosen)

    @property
    def bytes(self) -> bool:
        """Whether all rows are bytes, which a window may keep."""
        return bool(self._arrays[0].dtype == np.uint8) and not hasattr(self._arrays[0], "tocsr")

    def take(self, rows: NDArray[np.int64]) -> Slices:
        """Return some of the rows."""
        X, y, *rest = self._arrays
        return Slices(X, y, rest[0] if rest else None, rows)

    def __iter__(self) -> Iterator[Any]:
        X = self._arrays[0]
        together = max(1, BLOCK_BYTES // max(1, X.dtype.itemsize * X.shape[1]))
        for start in range(0, self.rows, together):
            for array in self._arrays:
                check_file(array)
            rows: Any = slice(start, start + together)
            yield tuple(array[rows if self._chosen is None else self._chosen[rows]] for array in self._arrays)


BLOCK_BYTES = 1 << 22
"""Of X, that are looked at, or of a table turned into an array, together."""


def check_file(array: Any) -> None:
    """Raise ValueError if the file of a memory map is shorter than it was: reading would kill the process."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.size:
        return
    # A slice has the offset of the map that it is cut from, which is not where its own bytes are.
    mapping = np.frombuffer(array._mmap, np.uint8).ctypes.data  # type: ignore[attr-defined]
    begins = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    wanted = begins + byte_bounds(array)[1] - mapping
    size = os.stat(array.filename).st_size
    if size < wanted:
        raise ValueError(f"the file {str(array.filename)!r} ends short: it has {size} bytes of {wanted}")
