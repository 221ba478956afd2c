"""Tables in files: text in blocks, Parquet and Arrow in slices, NumPy's arrays. FORMATS has them all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.checks import needed
from fastmlp.system.notices import Bar
from fastmlp.tables.arrays import column_of, frame_of
from fastmlp.tables.arrow import check_file, check_parquet
from fastmlp.tables.delimited import read_csv
from fastmlp.tables.errors import TableError, different
from fastmlp.tables.read_options import DEFAULTS, ReadOptions, columns_to_read, parsed_as, typed

if TYPE_CHECKING:
    import polars as pl

SLICE = 1 << 18
"""Rows of a file of columns that are read together."""


def read(path: str | os.PathLike[str], read_options: ReadOptions = DEFAULTS) -> pl.DataFrame:
    """Return the table in a file, by the end of its name.

    Raises
    ------
    TableError
        With file, row and column, if it is not such a table.
    OSError
        If it cannot be read.
    ImportError
        If polars is not installed.
    """
    needed("polars", "table", "a table")
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise TableError(f"files of tables end in {', '.join(FORMATS)}", source=str(path))
    with open(path, "rb"):  # says what the operating system says, and not what a library makes of it
        pass
    try:
        # Columns of text that are set to be numbers or dates become so in every format.
        frame = FORMATS[path.suffix.lower()](path, read_options)
        if not read_options.learns:  # what learns finds out how they are written
            frame = typed(frame, parsed_as(read_options), guess=False)
    except TableError as error:
        raise error.within(str(path)) from None
    if not frame.width:
        raise TableError("it has no columns", source=str(path))
    return frame


def _read_parquet(path: Path, read_options: ReadOptions) -> pl.DataFrame:
    import polars as pl

    def scan() -> pl.LazyFrame:
        check_parquet(path)
        return pl.scan_parquet(path)

    return _sliced(scan, "a Parquet file", read_options)


def _read_arrow(path: Path, read_options: ReadOptions) -> pl.DataFrame:
    import polars as pl

    with open(path, "rb") as file:
        is_stream = file.read(6) != b"ARROW1"

    def scan() -> pl.LazyFrame:
        check_file(path, is_stream)
        return pl.read_ipc_stream(path).lazy() if is_stream else pl.scan_ipc(path)

    return _sliced(scan, "an Arrow stream" if is_stream else "an Arrow file", read_options)


def _sliced(scan: Callable[[], pl.LazyFrame], what: str, read_options: ReadOptions) -> pl.DataFrame:
    import polars as pl

    try:
        table = scan()
        table = table.select(columns_to_read(table.collect_schema().names(), read_options))
        rows = table.select(pl.len()).collect().item()
        with Bar(rows, "row", "reading", read_options.shown) as bar:
            parts = []
            for start in range(0, max(1, rows), SLICE):
                parts.append(table.slice(start, SLICE).collect())
                bar.move(min(rows, start + SLICE))
    except TableError:
        raise
    except pl.exceptions.DuplicateError:
        raise TableError("two columns have one name") from None
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise TableError(f"it cannot be read as {what}: {str(error).splitlines()[0]}") from None
    return pl.concat(parts)


def _read_numpy(path: Path, read_options: ReadOptions) -> pl.DataFrame:
    """Return arrays as columns: (rows,) by its name, (rows, n) as name0, name1, ..; of .npy as x0, x1, .."""
    import zipfile

    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, MemoryError, OverflowError) as error:
        raise TableError(f"it cannot be read as arrays of NumPy's: {str(error).splitlines()[0]}") from None
    columns: list[tuple[str, Any]] = []
    for name, array in arrays.items():
        if array.dtype.names:
            columns += [(field, array[field]) for field in array.dtype.names]
        elif array.ndim == 2:
            columns += [(f"{name}{place}", array[:, place]) for place in range(array.shape[1])]
        elif array.ndim == 1:
            columns.append((name, array))
        else:
            raise TableError(f"it must be of shape (rows,) or (rows, n), is {array.shape}", name)
    different(name for name, _ in columns)
    for name, column in columns:
        first, rows = columns[0][0], len(columns[0][1])
        if len(column) != rows:
            raise TableError(f"it has {len(column)} rows, and {first!r} has {rows}", name)
    return frame_of(column_of(name, column) for name, column in columns)


FORMATS: dict[str, Callable[[Path, ReadOptions], Any]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
}
"""What reads a file, by the end of its name."""
