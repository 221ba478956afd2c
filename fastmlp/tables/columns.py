"""The base of all kinds of columns: a record of JSON's types, learned from a column, that encodes it."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self

from numpy.typing import NDArray

try:
    from msgspec import Meta
except ImportError:  # without the extra no file is read
    Meta = dict  # type: ignore[misc,assignment]

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

Whole = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
BelowOne = Annotated[float, Meta(ge=0, lt=1)]
Size = Annotated[float, Meta(ge=0, le=sys.float_info.max)]
Positive = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""Numbers with the bounds that msgspec checks when it reads a file."""

Mean = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""A mean target in deviations, so near to 0 that the squares of all means have a sum."""

MOST_LEVELS = 5000
"""Levels of a category that get a column of their own, the most frequent first, where nobody says."""


class Cells(NamedTuple):
    """What some rows have in the columns of X that one column of a table becomes.

    places : (k,) for the same columns in every row, or (rows, k); from 0, ascending in a row
    values : (rows, k) float64; a row has nothing where its value is 0
    """

    places: Array
    values: Array


@dataclass(frozen=True)
class Column:
    """Base of the kinds: a column by its name, with what was learned from it.

    kind : the name of the kind; words_for : what such a column holds, in words
    read_as : what texts in a file are parsed as: number, date or text
    mostly_zeros : whether most columns of X that it becomes are 0 in a row
    """

    name: str
    kind: ClassVar[str]
    words_for: ClassVar[str]
    read_as: ClassVar[str] = "text"
    mostly_zeros: ClassVar[bool] = False

    @classmethod
    def learned(cls, series: pl.Series, most_levels: int = MOST_LEVELS) -> Self:
        """Return the column as a training part has it, a category with at most so many levels."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[str, ...]:
        """A name for each column of X that it becomes."""
        raise NotImplementedError

    @cached_property
    def width(self) -> int:
        """How many columns of X it becomes; kept, as thousands of names are made for it."""
        return len(self.parts)

    def encoded(self, series: pl.Series) -> Cells | Any:
        """Return Cells, or a CSR matrix of SciPy's, of a column's rows."""
        raise NotImplementedError

    @property
    def linear(self) -> Column:
        """The column as a linear model gets it: with numbers as they are, and nothing clipped."""
        return self

    def remarks(self, series: pl.Series) -> list[str]:
        """Return in words what sets rows to predict apart from those that were learned from."""
        return []

    @property
    def summary(self) -> str:
        """What it does, in words."""
        raise NotImplementedError

    @property
    def described(self) -> dict[str, Any]:
        """The column in JSON's types."""
        return {"kind": self.kind, **asdict(self)}


def or_missing(missing: bool) -> str:
    """Return what `summary` ends with."""
    return ", or missing" if missing else ""
