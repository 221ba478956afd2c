"""Tables in files: CSV and TSV in blocks, Parquet and Arrow in slices, NumPy's arrays. FORMATS has them all.

A file of text is cut into blocks at line ends that stand outside quotes, and polars parses each. So the bar
moves with the bytes, a mistake is looked for in one block only, and columns of numbers never lie in memory as
texts.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.exchange.packages import needed
from fastmlp.tables.arrays import column_of
from fastmlp.tables.bars import Bar
from fastmlp.tables.errors import TableError
from fastmlp.tables.kinds import KINDS
from fastmlp.tables.texts import MISSING, guessed, parsed

if TYPE_CHECKING:
    import polars as pl

BLOCK = 1 << 24
"""Bytes of text that are parsed together."""

NO_TEXTS = {
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"PK\x03\x04": "a zip file, as those of Excel's are; save the table as CSV",
    b"\xff\xfe": "in UTF-16; save the table as UTF-8",
    b"\xfe\xff": "in UTF-16; save the table as UTF-8",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"ARROW1": "an Arrow file; let its name end in .arrow",
}
"""What files that are no table of text start with."""

FIRST = "the first line must name the columns"

DECIMAL_COMMA = r"^(\s*[+-]?\d+),(\d+(?:[eE][+-]?\d+)?\s*)$"
"""Numbers like 3,25 where fields are separated by semicolons."""

LONGEST = 1 << 26
"""Bytes from which on a row is parsed though it has no end: a quote in it is never closed."""

SLICE = 1 << 18
"""Rows of a file of columns that are read together."""

SEPARATORS = ",;\t|"
"""Of a CSV file, the one that its first line has most of."""


@dataclass(frozen=True)
class Asked:
    """How a file is to be read.

    kinds : of columns by name, as told or as a model learned them; those of others are guessed
    only : the columns that are wanted; None for all
    missing : texts that say that there is no value
    shown : whether there is a progress bar; None if stderr is a terminal
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    only: Sequence[str] | None = None
    missing: Sequence[str] = MISSING
    shown: bool | None = False


ASKED = Asked()
"""Nothing in particular."""


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
        frame = _typed(FORMATS[path.suffix.lower()](path, asked), _told(asked), guess=False)
    except TableError as error:
        raise error.within(str(path)) from None
    if not frame.width:
        raise TableError("it has no columns", source=str(path))
    return frame


# --- text -------------------------------------------------------------------------------------------------


def _read_csv(path: Path, asked: Asked) -> pl.DataFrame:
    import polars as pl

    parts: list[pl.DataFrame] = []
    known = _told(asked)
    with open(path, "rb") as file, Bar(path.stat().st_size, "B", "reading", asked.shown) as bar:
        blocks = _blocks(file, _size(file))
        first = next(blocks, b"")
        header, separator = _header(first, path.suffix.lower() == ".tsv")
        wanted = _wanted(header, asked)
        rows = done = 0
        for number, block in enumerate(itertools.chain([first], blocks)):
            done += len(block)
            try:
                part = _parsed_block(block, header, separator, asked.missing, skip=int(number == 0))
                parts.append(_typed(part.select(wanted), known))
            except TableError as error:
                raise error.within(str(path), rows) from None
            rows += len(part)
            bar.move(done)
    # A column may have held nothing in the first blocks: then its kind is known only now.
    return pl.concat([_typed(part, known) for part in parts], rechunk=False)


def _size(file: Any) -> int:
    """Return the bytes of a file without empty lines at its end."""
    size: int = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - BLOCK))
    tail = file.read()
    file.seek(0)
    ends = tail[len(tail.rstrip(b"\r\n")) :]
    return size - len(ends) + ends.find(b"\n") + 1


def _blocks(file: Any, size: int) -> Iterator[bytes]:
    """Yield a file's first bytes, so many, in pieces that end where a line does, outside quotes."""
    rest = b""
    while piece := file.read(min(max(BLOCK, len(rest)), size - file.tell())):  # more for a quote without end
        rest += piece
        end = _last_line_end(rest) or (len(rest) if len(rest) >= LONGEST else 0)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _last_line_end(text: bytes) -> int:
    """Return where the last line ends that is complete, 0 if none is; quotes within it come in pairs."""
    end = text.rfind(b"\n") + 1
    quotes = text.count(b'"', 0, end)
    while end and quotes % 2:
        before = text.rfind(b"\n", 0, end - 1) + 1
        quotes -= text.count(b'"', before, end)
        end = before
    return end


def _header(block: bytes, is_tsv: bool) -> tuple[list[str], str]:
    """Return the names in the first line, and the separator."""
    for start, what in NO_TEXTS.items():
        if block.startswith(start):
            raise TableError(f"it is no text in UTF-8, but {what}")
    text = block.decode("utf-8-sig", "replace")
    if "\0" in text:
        raise TableError("it is no text: there are zero bytes in it")
    first = re.sub(r'"[^"]*"', "", text).partition("\n")[0]
    if "\r" in first.removesuffix("\r"):
        raise TableError("its lines end in carriage returns alone; they must end in line feeds")
    separator = "\t" if is_tsv else max(SEPARATORS, key=first.count)
    names = next(_rows(text, separator), [])
    if not names:
        raise TableError(f"its {'first line' if text.strip() else 'text'} is empty; {FIRST}")
    if any("\ufffd" in name for name in names):
        raise TableError("its first line is no UTF-8; save the table as UTF-8")
    names = [name.strip() or f"column {place + 1}" for place, name in enumerate(names)]
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise TableError(f"two columns have the name {name!r}; {FIRST}")
        seen.add(name)
    return names, separator


def _rows(text: str, separator: str, first: int = 0) -> Iterator[list[str]]:
    """Yield the fields of each row, of which the first has this number; TableError for what is no row."""
    row = first
    try:
        for fields in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            yield fields
            row += 1
    except csv.Error as error:
        raise TableError(f"it cannot be read: {error}; is a quote never closed?", row=row or None) from None


def _parsed_block(
    block: bytes, header: list[str], separator: str, missing: Sequence[str], skip: int
) -> pl.DataFrame:
    """Return a block as columns of texts; TableError with the row of what is no row of the table."""
    import polars as pl

    try:
        part = pl.read_csv(
            block,
            has_header=False,
            skip_rows=skip,
            new_columns=header,
            separator=separator,
            schema=dict.fromkeys(header, pl.String),
            null_values=list(missing),
        )
    except pl.exceptions.NoDataError:
        return pl.DataFrame(schema=dict.fromkeys(header, pl.String))
    except pl.exceptions.PolarsError as error:
        _explain(block, header, separator, skip)
        raise TableError(str(error).splitlines()[0]) from None
    if separator == ";":
        part = part.with_columns(pl.all().str.replace(DECIMAL_COMMA, "$1.$2"))
    # A row of too few fields has nothing in the last column; counting tells whether there may be one.
    if part[:, -1].null_count() and block.count(separator.encode()) != (len(part) + skip) * (part.width - 1):
        _explain(block, header, separator, skip)
    return part


def _explain(block: bytes, header: list[str], separator: str, skip: int) -> None:
    """Raise TableError for the first row with a stray quote, too many or too few fields, or no UTF-8."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        row = block.count(b"\n", 0, error.start) + 1 - skip
        raise TableError(
            f"byte {block[error.start]:#x} is no UTF-8; save the table as UTF-8", row=row
        ) from None
    stray = _stray_quote(text, separator)
    rows = enumerate(_rows(text, separator, 1 - skip), 1 - skip)
    for row, fields in rows if stray is None else itertools.islice(rows, stray[0]):
        if fields and len(fields) != len(header):
            raise TableError(f"it has {len(fields)} fields, and the header {len(header)}", row=row)
    if stray is not None:
        row, place, field = stray
        name = header[place] if place < len(header) else None
        raise TableError(f"a quote in {checks.shown(field)}: {QUOTES}", name, row + 1 - skip)


QUOTES = 'a field with quotes must stand in quotes, and they are doubled in it, as "5"" pipe"'


def _stray_quote(text: str, separator: str) -> tuple[int, int, str] | None:
    """Return the row and the field of the first quote that does not enclose a field, and the field's text.

    Rows and fields are counted from 0, as polars counts them: an empty line is one.
    """
    sound = re.compile(
        rf'(?:"(?:[^"]|"")*+"|[^"{re.escape(separator)}\r\n]*+)(?P<end>{re.escape(separator)}|\r?\n|\Z)'
    )
    row = place = at = 0
    while at < len(text):
        field = sound.match(text, at)
        if field is None:
            end = re.compile(rf"[{re.escape(separator)}\r\n]|\Z").search(text, at)
            assert end is not None
            return row, place, text[at : end.start()]
        at, place = field.end(), place + 1
        if field["end"] != separator:
            row, place = row + 1, 0
    return None


def _wanted(names: list[str], asked: Asked) -> list[str]:
    """Return the columns that are to be read; TableError if one of them is not there."""
    if asked.only is None:
        return names
    for name in asked.only:
        if name not in names:
            raise TableError(f"there is no such column; there are: {', '.join(names)}", name)
    return [name for name in names if name in asked.only]


def _told(asked: Asked) -> dict[str, str | None]:
    """Return what columns of text are to be parsed as, by name."""
    return {name: KINDS[kind].read_as for name, kind in asked.kinds.items() if kind in KINDS}


def _typed(part: pl.DataFrame, known: dict[str, str | None], guess: bool = True) -> pl.DataFrame:
    """Return a part with its texts parsed as they are known to be; what is unknown is guessed, and kept."""
    import polars as pl

    columns = []
    for series in part.get_columns():
        if series.dtype == pl.String:
            if guess and known.get(series.name) is None:
                known[series.name] = guessed(series)
            kind = known.get(series.name)
            if kind in ("number", "date"):
                series = parsed(series, kind)
        columns.append(series)
    return pl.DataFrame(columns)


# --- columns ----------------------------------------------------------------------------------------------


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
        table = table.select(_wanted(table.collect_schema().names(), asked))
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
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
}
"""What reads a file, by the end of its name."""
