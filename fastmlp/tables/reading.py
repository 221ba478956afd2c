"""Tables in files: text in blocks, Parquet and Arrow in slices, NumPy's arrays. FORMATS has them all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp.exchange.packages import needed
from fastmlp.tables.arrays import column_of
from fastmlp.tables.asked import ASKED, Asked, told, typed, wanted
from fastmlp.tables.bars import Bar
from fastmlp.tables.delimited import read_csv
from fastmlp.tables.errors import TableError

if TYPE_CHECKING:
    import polars as pl

SLICE = 1 << 18
"""Rows of a file of columns that are read together."""


def read(path: str | os.PathLike[str], asked: Asked = ASKED) -> pl.DataFrame:
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
        # Columns of text that are told to be numbers or dates become so in every format.
        frame = typed(FORMATS[path.suffix.lower()](path, asked), told(asked), guess=False)
    except TableError as error:
        raise error.within(str(path)) from None
    if not frame.width:
        raise TableError("it has no columns", source=str(path))
    return frame


def _read_parquet(path: Path, asked: Asked) -> pl.DataFrame:
    import polars as pl

    return _sliced(lambda: pl.scan_parquet(path), "a Parquet file", asked)


def _read_arrow(path: Path, asked: Asked) -> pl.DataFrame:
    import polars as pl

    with open(path, "rb") as file:
        is_file = file.read(6) == b"ARROW1"
    if is_file:
        return _sliced(lambda: pl.scan_ipc(path), "an Arrow file", asked)
    return _sliced(lambda: pl.read_ipc_stream(path).lazy(), "an Arrow stream", asked)


def _sliced(scan: Callable[[], pl.LazyFrame], what: str, asked: Asked) -> pl.DataFrame:
    import polars as pl

    try:
        table = scan()
        table = table.select(wanted(table.collect_schema().names(), asked))
        rows = table.select(pl.len()).collect().item()
        with Bar(rows, "row", "reading", asked.shown) as bar:
            parts = []
            for start in range(0, max(1, rows), SLICE):
                parts.append(table.slice(start, SLICE).collect())
                bar.move(min(rows, start + SLICE))
    except TableError:
        raise
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise TableError(f"it is not {what}: {str(error).splitlines()[0]}") from None
    return pl.concat(parts)


def _read_numpy(path: Path, asked: Asked) -> pl.DataFrame:
    """Return arrays as columns: (rows,) by its name, (rows, n) as name0, name1, ..; of .npy as x0, x1, .."""
    import zipfile

    import polars as pl

    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise TableError(f"it holds no arrays of NumPy's: {str(error).splitlines()[0]}") from None
    columns: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.dtype.names:
            columns |= {field: array[field] for field in array.dtype.names}
        elif array.ndim == 2:
            columns |= {f"{name}{place}": array[:, place] for place in range(array.shape[1])}
        elif array.ndim == 1:
            columns[name] = array
        else:
            raise TableError(f"it must be of shape (rows,) or (rows, n), is {array.shape}", name)
    for name, column in columns.items():
        first = next(iter(columns))
        if len(column) != len(columns[first]):
            raise TableError(f"it has {len(column)} rows, and {first!r} has {len(columns[first])}", name)
    return pl.DataFrame([column_of(name, column) for name, column in columns.items()])


FORMATS: dict[str, Callable[[Path, Asked], Any]] = {
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
}
"""What reads a file, by the end of its name."""
