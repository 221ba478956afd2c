"""Sources of rows block by block: a user's blocks, slices of arrays, tables of Arrow's and of Dask's."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp import checks
from fastmlp.data.arrays import floating_dtype
from fastmlp.data.sparse import is_sparse

SHAPE = "(X, y) or (X, y, weight)"
"""The form of every block."""


class Source(Protocol):
    """A source of rows, block by block; each iterator begins with the first block."""

    @property
    def rows(self) -> int | None:
        """Rows of an epoch; None if unknown before the end of an epoch."""

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over an epoch's blocks, (X, y) or (X, y, weight)."""


def of_each_head(y: Any, function: Callable[[Any], Any]) -> Any:
    """Return function(y), with heads a dict of function(targets) by head."""
    if isinstance(y, Mapping):
        return {name: function(of_head) for name, of_head in y.items()}
    return function(y)


class IterableSource:
    """Blocks of a user's iterable or function."""

    rows = None

    def __init__(self, blocks: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        self._blocks = blocks
        self.walks = 0
        """The number of walks begun."""

    def __iter__(self) -> Iterator[Any]:
        self.walks += 1
        made = self._blocks() if callable(self._blocks) else self._blocks
        if not isinstance(made, Iterable):
            raise TypeError(
                f"the function must return an iterable of blocks {SHAPE}, got {checks.shown(made)}"
            )
        return iter(made)


def given(what: str, blocks: Any) -> IterableSource:
    """Return a user's blocks; TypeError for other values, or for blocks with a single walk."""
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
    """Yield the blocks of an epoch, each with a name: name_of(1), name_of(2), ..

    An error of a source of ours becomes a line with the name. A user's error comes unchanged, with a note:
    the user may wait for this kind of error.
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
    """Raise TypeError for a y beside blocks with targets, or for a path or column name."""
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
    """Return True if a list's element is a block, (X, y) or (X, y, weight), and not a row."""
    return isinstance(one, tuple) and len(one) in (2, 3) and getattr(one[0], "ndim", 0) == 2


class Slices:
    """Rows of arrays, memory maps or sparse matrices, as blocks.

    X : (rows, n_in); y : (rows,) or (rows, n_out), or a dict of targets; weights : (rows,) or None
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
        """True if all rows are bytes, which a window may keep."""
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
    checks.whole_file(array)
    return array[rows]


BLOCK_BYTES = 1 << 22
"""Rows of X checked together, or made of a table together."""


# --- columns of tables --------------------------------------------------------------------------------


def names_of(targets: Any) -> list[str]:
    """Return the names of all columns of targets, given as by `chosen_columns`."""
    if isinstance(targets, Mapping):
        targets = [name for of_head in targets.values() for name in of_head]
    return [*dict.fromkeys(targets)]


def chosen_columns(what: str, columns: Sequence[str], y: Any, weights: Any) -> tuple[list[str], Any]:
    """Return the names of the input columns in the table's order, and of the target columns.

    Raises
    ------
    TypeError, ValueError
        If y, or weights unless None, name no columns, or name all, or if two columns have one name.
    """
    if len({*columns}) < len(columns):
        twice = next(name for index, name in enumerate(columns) if name in columns[:index])
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


# --- Arrow's tables, and datasets of many files -------------------------------------------------------

AHEAD = {"batch_readahead": 1, "fragment_readahead": 1}
"""Arrow's default reads 16 blocks of 4 files ahead, most of a training's memory."""


class ArrowRows:
    """The rows of a table or dataset; a column of lists of equal length gives as many input columns."""

    def __init__(self, table: Any, inputs: list[str], targets: Any, weights: str | None) -> None:
        self._table, self._inputs, self._targets, self._weights = table, inputs, targets, weights
        widths = [_width(table.schema.field(name)) for name in inputs]
        self._together = max(1, BLOCK_BYTES // (8 * sum(widths)))

    @property
    def rows(self) -> int | None:
        """Rows of a table; None for files."""
        rows: int | None = getattr(self._table, "num_rows", None)
        return rows

    def __iter__(self) -> Iterator[Any]:
        names = [*self._inputs, *names_of(self._targets), *([] if self._weights is None else [self._weights])]
        if self.rows is not None:
            table = self._table.select(names)
            batches = table.to_batches(max_chunksize=self._together)
            if not batches:  # one without rows still has the dtypes
                import pyarrow

                batches = [pyarrow.RecordBatch.from_pylist([], schema=table.schema)]
        else:
            batches = self._table.to_batches(columns=names, batch_size=self._together, **AHEAD)
        for batch in batches:
            X = np.hstack([_numbers(batch, name) for name in self._inputs])
            y = of_each_head(self._targets, functools.partial(_targets, batch))
            yield (X, y) if self._weights is None else (X, y, _labels(batch, self._weights))


def arrow_source(what: str, X: Any, y: Any, weights: Any) -> ArrowRows:
    """Return the rows of a `pyarrow.Table` or `pyarrow.dataset.Dataset`; y and weights name columns."""
    import pyarrow.dataset

    if not isinstance(X, (pyarrow.Table, pyarrow.dataset.Dataset)):
        raise TypeError(
            f"{what} must be a pyarrow.Table or a pyarrow.dataset.dataset(...), which can be read again, "
            f"got {checks.shown(X)}"
        )
    inputs, targets = chosen_columns(what, X.schema.names, y, weights)
    return ArrowRows(X, inputs, targets, weights)


def _width(field: Any) -> int:
    """Return the number of a column's input columns; TypeError for other values than numbers."""
    from pyarrow import types

    kind = field.type
    several = types.is_fixed_size_list(kind)
    value = kind.value_type if several else kind
    if not (types.is_integer(value) or types.is_floating(value) or types.is_boolean(value)):
        raise TypeError(
            f"column {field.name!r} is of type {kind}; inputs must be numbers, or lists of so many numbers"
        )
    return int(kind.list_size) if several else 1


def _numbers(batch: Any, name: str) -> NDArray[Any]:
    """Return a column as a (rows, width) array."""
    column = _without_nulls(batch, name)
    width = 1
    if hasattr(column.type, "list_size"):
        width, column = column.type.list_size, column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(batch.num_rows, width))


def _targets(batch: Any, names: list[str]) -> NDArray[Any]:
    """Return a column (rows,), or several columns side by side."""
    labels = [_labels(batch, name) for name in names]
    return labels[0] if len(labels) == 1 else np.column_stack(labels)


def _labels(batch: Any, name: str) -> NDArray[Any]:
    """Return a column as a (rows,) array."""
    column = _without_nulls(batch, name)
    if hasattr(column, "dictionary_decode"):
        column = column.dictionary_decode()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _without_nulls(batch: Any, name: str) -> Any:
    column = batch.column(name)
    nulls = column.null_count or (hasattr(column.type, "list_size") and column.flatten().null_count)
    if nulls:
        raise ValueError(f"column {name!r} has {nulls} nulls; fill or drop them first")
    return column


# --- Dask's arrays and data frames --------------------------------------------------------------------


class DaskRows:
    """Dask collections with equal chunks or partitions of rows.

    parts : parts[i] of each is its i-th chunk of rows; count : of chunks
    """

    def __init__(self, collections: tuple[Any, ...], count: int, rows: int | None) -> None:
        self._collections, self._count, self.rows = collections, count, rows

    def __iter__(self) -> Iterator[Any]:
        import dask

        for number in range(self._count):
            part = functools.partial(_part, number)
            X, *others = dask.compute(*(of_each_head(one, part) for one in self._collections))
            yield (X, *(of_each_head(other, np.asarray) for other in others))


def _part(number: int, collection: Any) -> Any:
    return (collection.partitions if _is_frame(collection) else collection.blocks)[number]


def _is_frame(collection: Any) -> bool:
    return type(collection).__module__.startswith("dask.dataframe")


def dask_source(what: str, X: Any, y: Any, weights: Any) -> DaskRows:
    """Return the source of a Dask array, or of a Dask data frame with named columns.

    Of an array, y and weights are arrays of Dask's or NumPy's; y of a data frame may be a series, too.
    """
    import dask.array

    if _is_frame(X) and hasattr(X, "columns"):
        return _frame_rows(what, X, y, weights)
    if not isinstance(X, dask.array.Array) or X.ndim != 2:
        raise TypeError(
            f"{what} must be an array (rows, columns) or a data frame of Dask's, got {checks.shown(X)}"
        )
    if y is None:
        raise TypeError(f"y must be given for {what}, an array of Dask's")
    targets = of_each_head(y, functools.partial(_like, X, "y"))
    parts = [X, targets, *([] if weights is None else [_like(X, "sample_weight", weights)])]
    rows = X.shape[0]
    return DaskRows(tuple(parts), X.numblocks[0], None if math.isnan(rows) else int(rows))


def _like(X: Any, name: str, array: Any) -> Any:
    """Return an array in chunks of X's rows."""
    import dask.array

    known = not math.isnan(X.shape[0])
    if _is_frame(array):
        array = array.to_dask_array()
    if not isinstance(array, dask.array.Array):
        array = np.asarray(array)
        if not known:
            raise ValueError(
                f"X has chunks of unknown sizes, so {name} must be an array of Dask's in such chunks"
            )
        if array.shape[:1] != X.shape[:1]:
            raise ValueError(f"{name} must have {X.shape[0]} rows, as X has, got shape {array.shape}")
        return dask.array.from_array(array, chunks=(X.chunks[0], *array.shape[1:]))
    if not known or math.isnan(array.shape[0]):
        if array.numblocks[0] != X.numblocks[0]:
            raise ValueError(
                f"{name} must have {X.numblocks[0]} chunks of rows, as X has, got {array.numblocks[0]}"
            )
        return array
    if array.shape[0] != X.shape[0]:
        raise ValueError(f"{name} must have {X.shape[0]} rows, as X has, got shape {array.shape}")
    return array.rechunk({0: X.chunks[0]})


def _frame_rows(what: str, X: Any, y: Any, weights: Any) -> DaskRows:
    if _is_frame(y):
        if y.npartitions != X.npartitions:
            raise ValueError(f"y must have {X.npartitions} partitions, as {what} has, got {y.npartitions}")
        inputs, target = list(X.columns), y
        if weights is not None:
            raise TypeError("sample_weight with a data frame must name a column, as y must then")
    else:
        inputs, targets = chosen_columns(what, list(X.columns), y, weights)
        target = of_each_head(targets, lambda names: X[names[0] if len(names) == 1 else names])
    for name in inputs:
        kind = X.dtypes[name]
        if getattr(kind, "kind", "O") not in "buif":
            raise TypeError(f"column {name!r} is of dtype {kind}; inputs must be numbers")
    parts = [X[inputs], target, *([] if weights is None else [X[weights]])]
    return DaskRows(tuple(parts), X.npartitions, None)


# --- the source of any X ------------------------------------------------------------------------------


def _package(X: object) -> str:
    return type(X).__module__.partition(".")[0]


def source_of(
    what: str, X: Any, y: Any, weights: Any, dtype: DTypeLike | None, scale: float, window: int | None
) -> Source | None:
    """Return the source of an X's blocks; None for arrays in memory.

    what : the argument's name, for errors
    """
    if (package := _package(X)) == "pyarrow":
        return arrow_source(what, X, y, weights)
    if package == "dask":
        return dask_source(what, X, y, weights)
    if y is None:
        if weights is not None:
            raise ValueError(f"blocks hold their weights, as (X, y, weight); got others with {what}")
        return given(what, X)
    check_rows(what, X, y)
    rows_at_once = isinstance(X, np.ndarray) or is_sparse(X)
    if isinstance(X, np.memmap) and X.ndim == 2 and X.dtype.kind in "buif":
        as_it_is = X.dtype == floating_dtype(dtype, X) and X.flags.c_contiguous and scale == 1
        if not as_it_is or window is not None:
            return _slices(what, X, y, weights)
    if window is None:
        for array in (X, y, weights):
            of_each_head(array, checks.whole_file)
        return None
    if not rows_at_once or X.ndim != 2:
        raise TypeError(f"window is for blocks and arrays (rows, columns), got {checks.shown(X)}")
    return _slices(what, X.tocsr() if is_sparse(X) else X, y, weights)


def _slices(what: str, X: Any, y: Any, weights: Any) -> Slices:
    """Return the rows of arrays of the same length."""
    rows, name = X.shape[0], what.replace("X", "y")
    y = of_each_head(y, lambda array: array if isinstance(array, np.ndarray) else np.asarray(array))
    targets = {f"{name}[{head!r}]": array for head, array in y.items()} if isinstance(y, dict) else {name: y}
    others = {} if weights is None else {"sample_weight": np.asarray(weights)}
    for name, array in (targets | others).items():
        if array.shape[:1] != (rows,):
            raise ValueError(f"{name} must have {rows} rows, as {what} has, got shape {array.shape}")
    return Slices(X, y, *others.values())
