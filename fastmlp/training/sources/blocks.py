"""Sources of rows: a user's blocks, slices of arrays; and which columns of a table are inputs and targets."""

from __future__ import annotations

import functools
import itertools
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
        """Rows of an epoch; None if that is not known before one is over."""

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the blocks of an epoch, each of them (X, y) or (X, y, weight)."""


def of_each_head(y: Any, function: Callable[[Any], Any]) -> Any:
    """Return function(y), with heads for the targets of each, in a dict of their names."""
    if isinstance(y, Mapping):
        return {name: function(of_head) for name, of_head in y.items()}
    return function(y)


class IterableSource:
    """Blocks that a user's iterable or function gives."""

    rows = None

    def __init__(self, blocks: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self._blocks = blocks
        self.walks = 0
        """How often they have been walked through, or will have been."""

    def __iter__(self) -> Iterator[Any]:
        self.walks += 1
        made = self._blocks() if callable(self._blocks) else self._blocks
        if not isinstance(made, Iterable):
            raise TypeError(
                f"the function must return an iterable of blocks {SHAPE}, got {checks.shown(made)}"
            )
        return iter(made)


def given(what: str, blocks: Any) -> IterableSource:
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
    return IterableSource(blocks)


def named_blocks(source: Source, name_of: Callable[[int], str]) -> Iterator[tuple[str, Any]]:
    """Yield the blocks of an epoch, each with its name: name_of(1), name_of(2), ..

    What goes wrong in a source of ours becomes one line with the name. An error of a user's, who may wait for
    this kind of error, comes as it is, with a note.
    """
    blocks: Iterator[Any] | None = None
    for number in itertools.count(1):
        name = name_of(number)
        try:
            blocks = iter(source) if blocks is None else blocks
            block = next(blocks)
        except StopIteration:
            return
        except Exception as error:
            if isinstance(source, IterableSource):
                error.add_note(f"while fastmlp waited for {name}")
                raise
            said = str(error).strip() or type(error).__name__
            raise ValueError(f"{name}: {said.splitlines()[0]}") from error
        yield name, block


def check_rows(what: str, X: Any, y: Any) -> None:
    """Raise TypeError where y is given with blocks that hold their y, or one of the two is a name."""
    if isinstance(X, (str, os.PathLike)):
        raise TypeError(
            f"{what} must be rows, got the path {checks.shown(X)}; "
            "open it, as with pyarrow.dataset.dataset(path) or np.load(path, mmap_mode='r')"
        )
    if isinstance(y, str):
        raise TypeError(
            f"y names a column, {checks.shown(y)}, of tables of Arrow's and Dask's only, and {what} is "
            f"{checks.shown(type(X))}; give the numbers"
        )
    pairs = isinstance(X, (list, tuple)) and len(X) > 0 and _is_block(X[0])
    rows = isinstance(X, (list, tuple, Iterator)) or hasattr(X, "__array__") or hasattr(X, "toarray")
    if pairs or (not (rows or hasattr(X, "__getitem__")) and (callable(X) or isinstance(X, Iterable))):
        raise TypeError(f"blocks {SHAPE} hold their y, so no other can be given; got {checks.shown(y)}")


def _is_block(one: Any) -> bool:
    """Whether one of a list is (X, y) or (X, y, weight), and not a row."""
    return isinstance(one, tuple) and len(one) in (2, 3) and getattr(one[0], "ndim", 0) == 2


class Slices:
    """The rows of arrays, a memory map or a sparse matrix, some at a time.

    Parameters
    ----------
    X : (rows, n_in); y : (rows,) or (rows, n_out), or a dict of them; weights : (rows,) or None
    chosen : (n,) int64, ascending, the rows to give; None for all
    """

    def __init__(self, X: Any, y: Any, weights: Any = None, chosen: NDArray[np.int64] | None = None) -> None:
        self._arrays = (X, y) if weights is None else (X, y, weights)
        self._chosen = chosen

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
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
            some: Any = slice(start, start + together)
            take = functools.partial(_rows_of, some if self._chosen is None else self._chosen[some])
            yield tuple(of_each_head(array, take) for array in self._arrays)


def _rows_of(rows: Any, array: Any) -> Any:
    check_file(array)
    return array[rows]


BLOCK_BYTES = 1 << 22
"""Rows of X that are looked at, or of a table turned into an array, together."""


def check_file(array: Any) -> None:
    """Raise ValueError if the file of a memory map is shorter than it was: reading would kill the process."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.size:
        return
    # A slice has the offset of the map that it is cut from, which is not where its own bytes are.
    mapping = np.frombuffer(array._mmap, np.uint8).ctypes.data  # type: ignore[attr-defined]
    begins = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    expected = begins + byte_bounds(array)[1] - mapping
    size = os.stat(array.filename).st_size
    if size < expected:
        raise ValueError(f"the file {str(array.filename)!r} ends short: it has {size} bytes of {expected}")


# --- columns of tables ------------------------------------------------------------------------------------


def names_of(targets: Any) -> list[str]:
    """Return the names of all columns of targets, which `chosen_columns` returned."""
    if isinstance(targets, Mapping):
        targets = [name for of_head in targets.values() for name in of_head]
    return [*dict.fromkeys(targets)]


def chosen_columns(what: str, columns: Sequence[str], y: Any, weights: Any) -> tuple[list[str], Any]:
    """Return the names of the inputs' columns, in the table's order, and of the targets', with heads of each.

    Raises
    ------
    TypeError, ValueError
        If y, or weights unless they are None, name no columns, or name all, or if two columns have one name.
    """
    if len({*columns}) < len(columns):
        twice = next(name for place, name in enumerate(columns) if name in columns[:place])
        raise ValueError(f"{what} has two columns of the name {twice!r}")
    targets = of_each_head(y, _listed)
    if not targets or not all(isinstance(name, str) for name in names_of(targets)):
        raise TypeError(
            f"of a table y must be the name of a column, or a list of names, got {checks.shown(y)}; "
            "with heads it is a dict of these"
        )
    if weights is not None and not isinstance(weights, str):
        raise TypeError(f"of a table sample_weight must be the name of a column, got {checks.shown(weights)}")
    named = [*names_of(targets), *([] if weights is None else [weights])]
    for name in named:
        checks.choice(f"column of {what}", name, columns)
    inputs = [name for name in columns if name not in named]
    if not inputs:
        raise ValueError(f"{what} has no columns besides {', '.join(named)}")
    return inputs, targets


def _listed(y: Any) -> list[Any]:
    listed = [y] if isinstance(y, str) else list(y) if isinstance(y, Sequence) else []
    return listed or [None]
