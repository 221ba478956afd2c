"""CSV and TSV files as columns: in blocks, with the row and the column of every mistake.

A file is cut into blocks at line ends that stand outside quotes, and polars parses each. So the bar moves
with the bytes, a mistake is looked for in one block only, and columns of numbers never lie in memory as
texts.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmlp import checks
from fastmlp.system.notices import Bar
from fastmlp.tables.errors import TableError, different
from fastmlp.tables.read_options import (
    ReadOptions,
    WrittenOtherwise,
    columns_to_read,
    parsed_as,
    typed,
)

if TYPE_CHECKING:
    import polars as pl

BLOCK = 1 << 24
"""Bytes of text that are parsed together."""

SEPARATORS = ",;\t|"
"""Delimiters of a CSV file: the one that its first line has most of is taken."""

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

QUOTES = 'a field with quotes must stand in quotes, and they are doubled in it, as "5"" pipe"'

LONGEST = 1 << 26
"""Bytes from which on a row is parsed though it has no end: a quote in it is never closed."""


def read_csv(path: Path, read_options: ReadOptions) -> pl.DataFrame:
    """Return the table in a file of text, its columns parsed as numbers, dates or texts.

    Raises
    ------
    TableError
        With file, row and column of what is no such table.
    """
    known = parsed_as(read_options)
    while True:
        try:
            return _read_once(path, read_options, known)
        except WrittenOtherwise as column:
            known[str(column)] = "text"  # earlier blocks have numbers in place of texts: they are read again
            (read_options.words or {}).clear()


def _read_once(path: Path, read_options: ReadOptions, known: dict[str, str | None]) -> pl.DataFrame:
    import polars as pl

    parts: list[pl.DataFrame] = []
    with open(path, "rb") as file, Bar(path.stat().st_size, "B", "reading", read_options.shown) as bar:
        blocks = blocks_of_file(file, _size(file))
        first = next(blocks, b"")
        header, separator = _header(first, path.suffix.lower() == ".tsv")
        columns = columns_to_read(header, read_options)
        rows = done = 0
        for number, block in enumerate(itertools.chain([first], blocks)):
            done += len(block)
            try:
                part = _parsed_block(block, header, separator, read_options.missing, skip=int(number == 0))
                parts.append(typed(part.select(columns), known, True, separator == ";", read_options.learns))
                texts = parts[-1].select(pl.col(pl.String))
                _count_words(texts, block, header, separator, read_options, skip=int(number == 0))
            except TableError as error:
                raise error.within(str(path), rows) from None
            rows += len(part)
            bar.move(done)
    # A column may have held nothing in the first blocks: then its kind is known only now.
    return pl.concat([typed(part, known) for part in parts], rechunk=False)


def _size(file: Any) -> int:
    """Return the bytes of a file without empty lines at its end."""
    size: int = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - BLOCK))
    tail = file.read()
    file.seek(0)
    ends = tail[len(tail.rstrip(b"\r\n")) :]
    return size - len(ends) + ends.find(b"\n") + 1


def blocks_of_file(file: Any, size: int) -> Iterator[bytes]:
    """Yield a file's first bytes, so many, in pieces that end where a line does, outside quotes."""
    rest = b""
    while piece := file.read(min(max(BLOCK, len(rest)), size - file.tell())):  # more for a quote without end
        rest += piece
        end = last_line_end(rest) or (len(rest) if len(rest) >= LONGEST else 0)
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def last_line_end(text: bytes) -> int:
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
    if (stray := _stray_quote(text, separator, rows=1)) is not None:
        raise TableError(f"a quote in {checks.shown(stray[2])} of its first line: {QUOTES}")
    names = next(_rows(text, separator), [])
    if not names:
        raise TableError(f"its {'first line' if text.strip() else 'text'} is empty; {FIRST}")
    if any("\ufffd" in name for name in names):
        raise TableError("its first line is no UTF-8; save the table as UTF-8")
    names = [name.strip() or f"column {place + 1}" for place, name in enumerate(names)]
    return different(names, f"; {FIRST}"), separator


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
        part = _texts_of_block(block, header, separator, missing, skip)
    except pl.exceptions.NoDataError:
        return pl.DataFrame(schema=dict.fromkeys(header, pl.String))
    except pl.exceptions.PolarsError as error:
        _explain(block, header, separator, skip)
        raise TableError(str(error).splitlines()[0]) from None
    # A row of too few fields has nothing in the last column; counting shows whether there may be one.
    if part[:, -1].null_count() and block.count(separator.encode()) != (len(part) + skip) * (part.width - 1):
        _explain(block, header, separator, skip)
    return part


def _texts_of_block(
    block: bytes, header: list[str], separator: str, missing: Sequence[str], skip: int
) -> pl.DataFrame:
    import polars as pl

    return pl.read_csv(
        block,
        has_header=False,
        skip_rows=skip,
        new_columns=header,
        separator=separator,
        schema=dict.fromkeys(header, pl.String),
        null_values=list(missing),
    )


def _count_words(
    texts: pl.DataFrame, block: bytes, header: list[str], separator: str, read_options: ReadOptions, skip: int
) -> None:
    """Add to `read_options.words` how often each word of a block was read as missing.

    texts : the block's columns of texts without those words; where they lack some, it is parsed once more
    """
    names = [one.name for one in texts.get_columns() if one.null_count()]
    if not names or read_options.words is None:
        return
    whole = _texts_of_block(block, header, separator, (), skip)
    for name in names:
        words = whole[name].alias("word")
        words = words.filter(words.is_in(read_options.missing) & (words != ""))  # an empty field is no word
        read_options.words.setdefault(name, Counter()).update(dict(words.value_counts(name="rows").rows()))


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


def _stray_quote(text: str, separator: str, rows: float = math.inf) -> tuple[int, int, str] | None:
    """Return the row and the field of the first quote that does not enclose a field, and the field's text.

    Only so many rows are looked at. Rows and fields are counted from 0, as polars counts them: an empty line
    is one.
    """
    sound = re.compile(
        rf'(?:"(?:[^"]|"")*+"|[^"{re.escape(separator)}\r\n]*+)(?P<end>{re.escape(separator)}|\r?\n|\Z)'
    )
    row = place = at = 0
    while at < len(text) and row < rows:
        field = sound.match(text, at)
        if field is None:
            end = re.compile(rf"[{re.escape(separator)}\r\n]|\Z").search(text, at)
            assert end is not None
            return row, place, text[at : end.start()]
        at, place = field.end(), place + 1
        if field["end"] != separator:
            row, place = row + 1, 0
    return None
