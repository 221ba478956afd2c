"""How a file is to be read: which columns, and what their texts are. Every kind of file goes by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastmlp.tables.errors import TableError
from fastmlp.tables.kinds import KINDS
from fastmlp.tables.texts import MISSING, guessed, parsed

if TYPE_CHECKING:
    import polars as pl


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


def wanted(names: list[str], asked: Asked) -> list[str]:
    """Return the columns that are to be read; TableError if one of them is not there."""
    if asked.only is None:
        return names
    for name in asked.only:
        if name not in names:
            raise TableError(f"there is no such column; there are: {', '.join(names)}", name)
    return [name for name in names if name in asked.only]


def told(asked: Asked) -> dict[str, str | None]:
    """Return what columns of text are to be parsed as, by name."""
    return {name: KINDS[kind].read_as for name, kind in asked.kinds.items() if kind in KINDS}


def typed(part: pl.DataFrame, known: dict[str, str | None], guess: bool = True) -> pl.DataFrame:
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
