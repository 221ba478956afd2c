"""Errors in a table's contents, with file, row and column."""

from __future__ import annotations

from collections.abc import Iterable


class TableError(ValueError):
    """The contents of a table cannot be used.

    reason : str, in words
    column : str or None, the column's name
    row : int or None, from 1, without the header
    source : str or None, the file
    """

    def __init__(
        self, reason: str, column: str | None = None, row: int | None = None, source: str | None = None
    ) -> None:
        self.reason, self.column, self.row, self.source = reason, column, row, source
        super().__init__(reason, column, row, source)

    def within(self, source: str | None, rows_before: int = 0) -> TableError:
        """Return the error for a part of a file, behind so many rows."""
        row = None if self.row is None else self.row + rows_before
        return TableError(self.reason, self.column, row, self.source or source)

    def __str__(self) -> str:
        row = None if self.row is None else f"row {self.row}"
        column = f"column {self.column!r}" if self.column else None  # a target beside X has no name
        where = ", ".join(part for part in (self.source, row, column) if part)
        return f"{where}: {self.reason}" if where else self.reason


def name_of(given: object) -> str:
    """Return a column's name as text; TableError for half a character, which no table holds."""
    name = str(given)
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise TableError(f"a column's name must be text of whole characters, got {name!r}")
    return name


def different(names: Iterable[object], hint: str = "") -> list[str]:
    """Return the names of columns as texts; TableError, with a hint, for two equal names."""
    seen: dict[str, None] = {}
    for name in map(name_of, names):
        if name in seen:
            raise TableError(f"two columns have the name {name!r}{hint}")
        seen[name] = None
    return list(seen)
