"""Options for reading a file of any format: which columns, and how their texts are parsed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastmlp import checks
from fastmlp.tables.arrays import frame_of
from fastmlp.tables.errors import TableError
from fastmlp.tables.kinds import KINDS
from fastmlp.tables.texts import MISSING, as_numbers, guessed, moments, parsed
from fastmlp.tables.writings import writing_of

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class ReadOptions:
    """How a file is to be read.

    kinds : of columns by name, as given or as a model learned them; those of others are guessed
    only : the columns that are expected; None for all
    missing : texts that say that there is no value
    shown : whether there is a progress bar; None on a terminal and in a notebook
    words : what reading text adds to: by column of texts, how often each word was read as missing; None if
        nobody asks
    learns : whether the file is to learn from: texts that are no plain numbers or dates may be written
        otherwise, and remain texts
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    only: Sequence[str] | None = None
    missing: Sequence[str] = MISSING
    shown: bool | None = False
    words: dict[str, Counter[str]] | None = None
    learns: bool = False


DECIMAL_COMMA = r"^(\s*[+-]?\d+),(\d+(?:[eE][+-]?\d+)?\s*)$"
"""Numbers like 3,25 where fields are separated by semicolons."""

DEFAULTS = ReadOptions()
"""Nothing in particular."""


def columns_to_read(names: list[str], read_options: ReadOptions) -> list[str]:
    """Return the columns that are to be read; TableError if one of them is not there."""
    if read_options.only is None:
        return names
    there, only = set(names), set(read_options.only)
    for name in read_options.only:
        if name not in there:
            raise TableError(f"there is no such column; there are: {checks.listed(names)}", name)
    return [name for name in names if name in only]


def parsed_as(read_options: ReadOptions) -> dict[str, str | None]:
    """Return what columns of text are to be parsed as, by name."""
    return {name: KINDS[kind].read_as for name, kind in read_options.kinds.items() if kind in KINDS}


class WrittenOtherwise(Exception):
    """The texts of a column are no plain numbers or dates, and may be numbers or dates all the same."""


def typed(
    part: pl.DataFrame,
    known: dict[str, str | None],
    guess: bool = True,
    decimal_comma: bool = False,
    learns: bool = False,
) -> pl.DataFrame:
    """Return a part with its texts parsed as they are known to be; what is unknown is guessed, and kept.

    decimal_comma : whether 3,25 is a number; learns : whether to raise WrittenOtherwise, before TableError
    """
    import polars as pl

    kinds = ("number", None) if guess else ("number",)
    texts = [
        one.name for one in part.get_columns() if one.dtype == pl.String and known.get(one.name) in kinds
    ]
    # All at once: for each column alone an expression of polars' takes 60 us, however few rows there are.
    plain = pl.col(texts).str.replace(DECIMAL_COMMA, "$1.$2") if decimal_comma else pl.col(texts)
    numbers = {one.name: one for one in part.select(as_numbers(plain)).get_columns()}
    columns = []
    for series in part.get_columns():
        name = series.name
        if series.dtype == pl.String:
            if guess and known.get(name) is None:
                known[name] = guessed(series, numbers[name])
            if (kind := known.get(name)) in ("number", "date"):
                found = numbers[name] if kind == "number" else moments(series)
                is_sound = found.null_count() == series.null_count()
                if learns and not is_sound and writing_of(series.filter(found.is_null())) is not None:
                    raise WrittenOtherwise(name)
                series = parsed(series, kind, found=found)
        columns.append(series)
    return frame_of(columns)
