"""Tables in files: text in blocks, Parquet, Arrow, NumPy's arrays; every mistake has a location.

A file of text is cut into blocks at line ends outside quotes, for polars to parse. So the bar moves with the
bytes, and a mistake is looked for in a single block.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.system.notices import Bar
from fastmlp.tables.columns import MISSING, as_numbers, guessed, moments, parsed
from fastmlp.tables.frames import (
    TableError,
    check_schema,
    column_of,
    different,
    frame_in_memory,
    frame_of,
    pl,
)
from fastmlp.tables.kinds import COLUMN_KINDS
from fastmlp.tables.writings import writing_of


@dataclass(frozen=True)
class ReadOptions:
    """The options for reading a file.

    kinds : of columns by name, given or learned; other kinds are guessed
    only : the expected columns; None for all
    missing : texts for a missing value
    shown : whether there is a progress bar; None on a terminal and in a notebook
    words : filled by reading text: by column of texts, the count of each word read as missing; None for none
    learns : whether to learn from the file: texts that may be other writings of numbers or dates stay texts
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    only: Sequence[str] | None = None
    missing: Sequence[str] = MISSING
    shown: bool | None = False
    words: dict[str, dict[str, int]] | None = None
    learns: bool = False

    def columns(self, names: list[str]) -> list[str]:
        """Return the columns to read; TableError for a missing column."""
        if self.only is None:
            return names
        there, only = set(names), set(self.only)
        for name in self.only:
            if name not in there:
                raise TableError(f"there is no such column; there are: {checks.listed(names)}", name)
        return [name for name in names if name in only]

    def read_as(self) -> dict[str, str]:
        """Return the kinds of the values of texts, by column: number, date or text."""
        return {name: COLUMN_KINDS[kind].read_as for name, kind in self.kinds.items() if kind in COLUMN_KINDS}


DEFAULTS = ReadOptions()


def as_frame(X: Any, read_options: ReadOptions = DEFAULTS) -> pl.DataFrame:
    """Return a table as polars' frame.

    X : a path, a frame of polars or pandas, a table of Arrow, a mapping of columns, or an array (rows, n),
        with columns named x0, x1, ..
    TypeError for another object, TableError for an unreadable table
    """
    needed("polars", "table", "a table")
    return read(X, read_options) if isinstance(X, (str, os.PathLike)) else frame_in_memory(X)


def read(path: str | os.PathLike[str], read_options: ReadOptions = DEFAULTS) -> pl.DataFrame:
    """Return the table in a file, by the end of the file's name; TableError has file, row and column."""
    needed("polars", "table", "a table")
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise TableError(f"files of tables end in {', '.join(FORMATS)}", source=str(path))
    with open(path, "rb"):  # the operating system's error, and not a library's
        pass
    try:
        frame = FORMATS[path.suffix.lower()](path, read_options)
        if not read_options.learns:  # columns of text become the given numbers or dates in every format
            frame = typed(frame, dict.fromkeys(frame.columns, "text") | read_options.read_as())
    except TableError as error:
        raise error.within(str(path)) from None
    if not frame.width:
        raise TableError("it has no columns", source=str(path))
    return frame


def typed(
    frame: pl.DataFrame, kinds: Mapping[str, str], comma: bool = False, learns: bool = False
) -> pl.DataFrame:
    """Return a table with texts parsed by the kinds of the values; unknown kinds are guessed.

    comma : whether 3,25 is a number; learns : as of `ReadOptions`
    """
    texts = [name for name in frame.select(pl.col(pl.String)).columns if kinds.get(name) != "text"]
    plain = pl.col(texts).str.replace(DECIMAL_COMMA, "$1.$2") if comma else pl.col(texts)
    # All at once: for each column alone an expression of polars' takes 60 us, and one thread.
    numbers = {series.name: series for series in frame.select(as_numbers(plain)).get_columns()}
    columns = []
    for series in frame.get_columns():
        kind = kinds.get(series.name)
        if kind is None and series.name in numbers:
            kind = guessed(series, numbers[series.name])
        if series.name in numbers and kind in ("number", "date"):
            found = moments(series) if kind == "date" else numbers[series.name]
            strange = found.null_count() > series.null_count()  # texts, perhaps of another writing
            if not (learns and strange and writing_of(series.filter(found.is_null()))):
                series = parsed(series, kind, found=found)
        columns.append(series)
    return frame_of(columns)


# --- text -----------------------------------------------------------------------------------------------

BLOCK = 1 << 24  # bytes of text parsed together
SEPARATORS = ",;\t|"  # delimiters of a CSV file; the most frequent in the first line is taken

DECIMAL_COMMA = r"^(\s*[+-]?\d+),(\d+(?:[eE][+-]?\d+)?\s*)$"
"""Numbers like 3,25 where semicolons separate fields."""

NO_TEXTS = {
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"PK\x03\x04": "a zip file, as those of Excel's are; save the table as CSV",
    b"\xff\xfe": "in UTF-16; save the table as UTF-8",
    b"\xfe\xff": "in UTF-16; save the table as UTF-8",
    b"PAR1": "a Parquet file; let its name end in .parquet",
    b"ARROW1": "an Arrow file; let its name end in .arrow",
}
"""First bytes of other files than text."""

FIRST = "the first line must name the columns"

QUOTES = 'a field with quotes must stand in quotes, and they are doubled in it, as "5"" pipe"'

LONGEST = 1 << 26  # the most bytes of a row; a longer row has a quote without an end, and is parsed as it is
LONGEST_FIELD = 1 << 17  # the most characters of a field that a search for a mistake takes


def _read_csv(path: Path, read_options: ReadOptions) -> pl.DataFrame:
    """Return the table in a file of text, with columns parsed as numbers, dates or texts."""
    parts, done, kinds, words = list[pl.DataFrame](), 0, read_options.read_as(), read_options.words

    def parse(texts: pl.DataFrame) -> pl.DataFrame:
        known = texts.select(pl.all().replace(missing, None)) if missing else texts
        return typed(known, kinds, separator == ";", read_options.learns)

    with open(path, "rb") as file, Bar(path.stat().st_size, "B", "reading", read_options.shown) as bar:
        blocks, missing = blocks_of_file(file, _size(file)), [*read_options.missing]
        first = next(blocks, b"")
        header, separator = _header(first, path.suffix.lower() == ".tsv")
        columns = read_options.columns(header)
        # In a prediction all kinds are known: texts of a block are parsed while they are in the cache.
        is_known = words is None and kinds.keys() >= {*columns}
        for block in itertools.chain([first], blocks):
            done += len(block)
            try:
                texts = _texts_of(block, header, separator, skip=int(not parts)).select(columns)
                parts.append(parse(texts) if is_known else texts)
            except TableError as error:
                raise error.within(str(path), sum(map(len, parts))) from None
            bar.move(done)
    whole = pl.concat(parts, rechunk=False)
    frame = whole if is_known else parse(whole)
    if words is not None:
        for name in frame.select(pl.col(pl.String)).columns:
            found = whole[name].filter(frame[name].is_null() & (whole[name] != ""))  # "" is no word
            words[name] = dict(found.alias("word").value_counts(name="rows").rows())
    return frame


def _size(file: Any) -> int:
    """Return the bytes of a file without empty lines at the end."""
    size: int = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - BLOCK))
    tail = file.read()
    file.seek(0)
    ends = tail[len(tail.rstrip(b"\r\n")) :]
    return size - len(ends) + ends.find(b"\n") + 1


def blocks_of_file(file: Any, size: int) -> Iterator[bytes]:
    """Yield the first bytes of a file, `size` in all, in blocks with an end at a line end outside quotes."""
    rest = b""
    while part := file.read(min(max(BLOCK, len(rest)), size - file.tell())):  # more for a quote without end
        rest += part
        end = last_line_end(rest) or (len(rest) if len(rest) >= LONGEST else 0)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def last_line_end(text: bytes) -> int:
    """Return the end of the last complete line, 0 without such a line; quotes in the line come in pairs."""
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
    names = next(_rows(text, separator), [""])
    if names == [""]:
        raise TableError(f"its {'first line' if text.strip() else 'text'} is empty; {FIRST}")
    names = [name[1:-1].replace('""', '"') if name[:1] == '"' else name for name in names]
    if any("\ufffd" in name for name in names):
        raise TableError("its first line is no UTF-8; save the table as UTF-8")
    names = [name.strip() or f"column {index + 1}" for index, name in enumerate(names)]
    return different(names, f"; {FIRST}"), separator


def _texts_of(block: bytes, header: list[str], separator: str, skip: int) -> pl.DataFrame:
    """Return a block as columns of texts; TableError with the row of a mistake."""
    schema: Any = dict.fromkeys(header, pl.String)
    try:
        part = pl.read_csv(
            block, has_header=False, skip_rows=skip, new_columns=header, separator=separator, schema=schema
        )
    except pl.exceptions.NoDataError:
        return pl.DataFrame(schema=schema)
    except pl.exceptions.PolarsError as error:
        _explain(block, header, separator, skip)
        raise TableError(str(error).splitlines()[0]) from None
    # A row of too few fields has nothing in the last column; counting shows whether there may be one.
    if part[:, -1].null_count() and block.count(separator.encode()) != (len(part) + skip) * (part.width - 1):
        _explain(block, header, separator, skip)
    return part


def _explain(block: bytes, header: list[str], separator: str, skip: int) -> None:
    """Raise TableError for the first row with a stray quote, too many or too few fields, or no UTF-8."""
    try:
        text = block.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        row = block.count(b"\n", 0, error.start) + 1 - skip
        reason = f"byte {block[error.start]:#x} is no UTF-8; save the table as UTF-8"
        raise TableError(reason, row=row) from None
    for row, fields in enumerate(_rows(text, separator, header, 1 - skip), 1 - skip):
        if fields != [""] and len(fields) != len(header):  # an empty line is no mistake
            raise TableError(f"it has {len(fields)} fields, and the header {len(header)}", row=row)


def _rows(text: str, separator: str, header: Sequence[str] = (), row: int = 0) -> Iterator[list[str]]:
    """Yield the fields of each row, with their quotes; TableError for a quote within a field.

    header : the names of columns, for errors; row : the number of the first row, as polars counts rows
    """
    end = re.escape(separator)
    sound = re.compile(rf'("(?:[^"]|"")*+"|[^"{end}\r\n]*+)({end}|\r?\n|\Z)')
    at, fields = 0, list[str]()
    while at < len(text) or fields:
        found = sound.match(text, at)
        if found is None:
            stray = re.compile(rf"[^{end}\r\n]*").match(text, at)
            assert stray is not None
            name = header[len(fields)] if len(fields) < len(header) else None
            of = "" if header else " of its first line"
            raise TableError(f"a quote in {checks.shown(stray[0])}{of}: {QUOTES}", name, row or None)
        if len(found[1]) > LONGEST_FIELD:
            reason = f"field larger than field limit ({LONGEST_FIELD}); is a quote never closed?"
            raise TableError(f"it cannot be read: {reason}", row=row or None)
        at = found.end()
        fields.append(found[1])
        if found[2] != separator:
            yield fields
            fields, row = [], row + 1


# --- other formats --------------------------------------------------------------------------------------


def _read_columns(path: Path, read_options: ReadOptions) -> pl.DataFrame:
    """Return the table in a Parquet file, an Arrow file or an Arrow stream."""
    what = "a Parquet file"
    if path.suffix.lower() == ".arrow":
        with open(path, "rb") as file:
            what = "an Arrow file" if file.read(6) == b"ARROW1" else "an Arrow stream"
    pyarrow, parquet = needed("pyarrow", "table", what), needed("pyarrow.parquet", "table", what)
    schema_of, scan = {
        "a Parquet file": (parquet.read_schema, pl.scan_parquet),
        "an Arrow file": (lambda file: pyarrow.ipc.open_file(file).schema, pl.scan_ipc),
        "an Arrow stream": (
            lambda file: pyarrow.ipc.open_stream(file).schema,
            lambda path: pl.read_ipc_stream(path).lazy(),
        ),
    }[what]
    try:
        with pyarrow.OSFile(str(path)) as file:
            check_schema(schema_of(file))
        table = scan(path)
        table = table.select(read_options.columns(table.collect_schema().names()))
        with Bar(None, "", "reading", read_options.shown):
            frame: pl.DataFrame = table.collect()
    except TableError:
        raise
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise TableError(f"it cannot be read as {what}: {str(error).splitlines()[0]}") from None
    return frame


def _read_numpy(path: Path, read_options: ReadOptions) -> pl.DataFrame:
    """Return arrays as columns: (rows,) by name, (rows, n) as name0, name1, ..; of .npy as x0, x1, .."""
    import zipfile

    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"x": loaded}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, MemoryError, OverflowError) as error:
        raise TableError(f"it cannot be read as arrays of NumPy's: {str(error).splitlines()[0]}") from None
    columns: list[tuple[str, Any]] = []
    for name, array in arrays.items():
        if not array.nbytes:  # its shape may claim any number of columns, or of texts without letters
            raise TableError(f"it holds no values: its shape is {array.shape}, its dtype {array.dtype}", name)
        if array.dtype.names:
            columns += [(field, array[field]) for field in array.dtype.names]
        elif array.ndim == 2:
            columns += [(f"{name}{index}", column) for index, column in enumerate(array.T)]
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
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_columns,
    ".arrow": _read_columns,
    ".npz": _read_numpy,
    ".npy": _read_numpy,
}
"""The readers by the end of the file's name."""
