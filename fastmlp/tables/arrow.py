"""Arrow tables, in memory and in files: their schemas are looked at before polars takes them.

polars ends the process's thread with a trace of Rust's, and no error, where two columns have one name; of a
Parquet file its older releases read one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmlp.checks import needed
from fastmlp.tables.errors import TableError, different

if TYPE_CHECKING:
    import polars as pl


def from_arrow(table: Any) -> pl.DataFrame:
    """Return a table of Arrow's, or of another library that exports it as one (`__arrow_c_stream__`).

    Raises
    ------
    TableError
        If two columns have one name, or one is of a type that polars has not.
    """
    import polars as pl

    pyarrow = needed("pyarrow", "table", "a table of Arrow's")
    try:
        table = pyarrow.table(table)
    except pyarrow.ArrowInvalid:  # a series exports its values
        raise TableError(f"a table has columns with names, got one {type(table).__name__}") from None
    _check(table.schema)
    frame: pl.DataFrame = pl.from_arrow(table)
    return frame


def check_file(path: Path, is_stream: bool) -> None:
    """Raise what `from_arrow` raises for the table in a file, or ValueError or OSError if it is none."""
    pyarrow = needed("pyarrow", "table", "an Arrow file")
    with pyarrow.OSFile(str(path)) as file:
        _check((pyarrow.ipc.open_stream if is_stream else pyarrow.ipc.open_file)(file).schema)


def check_parquet(path: Path) -> None:
    """Raise what `from_arrow` raises for the table in a file; what is none is left to polars to name."""
    parquet = needed("pyarrow.parquet", "table", "a Parquet file")
    try:
        schema = parquet.read_schema(path)
    except (ValueError, OSError):
        return
    _check(schema)


def _check(schema: Any) -> None:
    different(schema.names)
    for field in schema:
        check_type(field.name, field.type)


def check_type(name: str, kind: Any) -> None:
    """Raise TableError if polars has not a type of Arrow's, of the column of this name."""
    import pyarrow

    if pyarrow.types.is_decimal256(kind):
        raise TableError(f"{kind} has more digits than can be read; make it float64", name)
