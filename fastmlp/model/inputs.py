"""Blocks of inputs: numbers and categories, of which X consists.

Blocks lie side by side in X, which stays one array (rows, columns), or dense columns and sparse ones. Codes
of categories are whole numbers in the dtype of the network. So rows are shuffled, read in parts, and sent
between processes as any others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.embeddings import OF_NUMBERS, Embedding, NumberEmbedding
from fastmlp.model.operations import Operation
from fastmlp.model.part import MOST_UNITS, Part
from fastmlp.model.sparse import MOST_COLUMNS

Array = NDArray[Any]

MOST_LEVELS = 2**24 - 2
"""Codes up to here are exact in float32."""


@dataclass(frozen=True, repr=False)
class Numbers(Part):
    """A block of numbers.

    Parameters
    ----------
    count : int
        Its columns in X.
    embedding : Periodic or PiecewiseLinear, optional
        What makes units of each number; the numbers themselves if None.
    name : str, optional
        By which a dict of blocks has it.
    """

    count: int
    embedding: NumberEmbedding | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(count=checks.whole("count", self.count, 1, MOST_UNITS))
        if self.embedding is None:
            return
        choices = " or ".join(kind.__name__ for kind in OF_NUMBERS)
        checks.instance("embedding", self.embedding, OF_NUMBERS, choices)
        bins = getattr(self.embedding, "bins", 1)
        if not isinstance(bins, int) and len(bins) not in (1, self.count):
            raise ValueError(f"bins must be one sequence of edges, or {self.count} of them, got {len(bins)}")

    @property
    def columns(self) -> int:
        """Columns of X."""
        return self.count

    @property
    def units(self) -> int:
        """Units that it gives."""
        own = self.embedding
        return self.count * (1 if own is None else own.keeps_numbers + (own.linear_units or own.units))


@dataclass(frozen=True, repr=False)
class Categories(Embedding):
    """A block of categories: columns of codes, of which each has trained units (``torch.nn.Embedding``).

    Codes are whole numbers from 0; -1 means that the category is missing, and has units of its own. `fit`
    refuses other codes; in `predict` they have the mean of the rows of all levels.

    Parameters
    ----------
    levels : sequence of int
        How many levels each column has, at least 1.
    width : int or sequence of int, optional
        Units for each column. None: min(600, round(1.6 levels^0.56)), fastai's rule.
    sparse : bool
        With any optimiser a step changes only the rows of codes that its batch has. Without, only plain SGD
        and SparseAdam do so, and others move all rows, as ``torch.nn.Embedding``.
    name : str, optional
        By which a dict of blocks has it.
    """

    kind: ClassVar[str] = "categories"
    levels: tuple[int, ...]
    width: Any = None
    sparse: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = tuple(
            checks.whole("every one of levels", one, 1, MOST_LEVELS)
            for one in _sequence("levels", self.levels)
        )
        if not levels:
            raise ValueError("levels must hold at least one number")
        width = self.width
        if width is None:
            width = tuple(min(600, round(1.6 * one**0.56)) for one in levels)
        elif not isinstance(width, (Sequence, np.ndarray)):
            width = (checks.whole("width", width, 1, MOST_UNITS),) * len(levels)
        if len(width) != len(levels):
            raise ValueError(f"width must be one number or {len(levels)} of them, got {len(width)}")
        widths = tuple(checks.whole("every one of width", one, 1, MOST_UNITS) for one in width)
        self._set(levels=levels, width=widths, sparse=checks.flag("sparse", self.sparse))

    @property
    def columns(self) -> int:
        """Columns of X."""
        return len(self.levels)

    @property
    def units(self) -> int:
        """Units that it gives."""
        return sum(self.width)

    def sizes(self, columns: int) -> tuple[int, int, int, int]:
        """Return counts of numbers: see `Embedding.sizes`."""
        numbers = sum((levels + 1) * width for levels, width in zip(self.levels, self.width, strict=True))
        return numbers, 0, 0, 0

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return shapes of arrays by name: a row for each level, the first one for what is missing."""
        both = zip(self.levels, self.width, strict=True)
        return {f"column{i}": (levels + 1, width) for i, (levels, width) in enumerate(both)}

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw normal numbers, as ``torch.nn.Embedding``."""
        for array in arrays.values():
            array[...] = rng.standard_normal(array.shape)


@dataclass(frozen=True, repr=False)
class SparseNumbers(Part):
    """A block of numbers that are mostly zeros: a sparse matrix of SciPy's, next to dense blocks.

    The first layer is a `Dense`. The rows of its weights for these columns come behind those for what the
    other blocks give, as if this block were the last one. With `SparseAdam` a step changes only the rows of
    columns that its batch has a number in.

    Parameters
    ----------
    count : int
        Its columns.
    name : str, optional
        By which a dict of blocks has it.
    """

    count: int
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(count=checks.whole("count", self.count, 1, MOST_COLUMNS))

    @property
    def columns(self) -> int:
        """Columns of X."""
        return self.count

    @property
    def units(self) -> int:
        """Units that it gives."""
        return self.count


Block = Numbers | Categories | SparseNumbers
Blocks = tuple[Block, ...]

KINDS_OF_BLOCKS = (Numbers, Categories, SparseNumbers)
NAMES_OF_BLOCKS = "Numbers, Categories or SparseNumbers"

BLOCKS = (Numbers, Categories, SparseNumbers, *OF_NUMBERS)


def columns_of(inputs: int | Blocks) -> int:
    """Return how many columns X has."""
    return inputs if isinstance(inputs, int) else sum(block.columns for block in inputs)


def sparse_columns(inputs: int | Blocks) -> int:
    """Return how many of them are those of `SparseNumbers`."""
    return 0 if isinstance(inputs, int) else sum(b.columns for b in inputs if isinstance(b, SparseNumbers))


def checked_inputs(given: Any, most: int) -> int | Blocks:
    """Return a number of columns, or blocks; TypeError or ValueError otherwise."""
    if isinstance(given, Mapping):
        given = [_named(block, name) for name, block in given.items()]
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        if not given:
            raise ValueError("inputs must hold at least one block")
        for block in given:
            checks.instance("a block of inputs", block, KINDS_OF_BLOCKS, NAMES_OF_BLOCKS)
        names = [block.name for block in given]
        if any(names) and (None in names or len({*names}) < len(names)):
            raise ValueError("every block of inputs has a name of its own, or none has one")
        return tuple(given)
    if isinstance(given, KINDS_OF_BLOCKS):
        raise TypeError(f"inputs must be a number of columns, or a list or dict of blocks, got {given!r}")
    return checks.whole("inputs", given, 1, most)


def _named(block: Any, name: Any) -> Any:
    checks.instance("a block of inputs", block, KINDS_OF_BLOCKS, NAMES_OF_BLOCKS)
    return replace(block, name=name)


def _sequence(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, np.ndarray) and given.ndim == 1:
        return given.tolist()
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise TypeError(f"{what} must be a sequence of whole numbers, got {checks.shown(given)}")
    return given


class Table(NamedTuple):
    """The rows of units of one column of categories: of what is missing, and of each level.

    start : its place in the flat vector; width : of a row; unit : the first unit that it gives
    mark : its first row among those of all tables
    """

    start: int
    levels: int
    width: int
    unit: int
    mark: int


def tables_of(operations: Sequence[Operation]) -> tuple[Table, ...]:
    """Return the tables of all columns of categories, in order."""
    found, mark = [], 0
    for one in operations:
        if isinstance(one.layer, Categories):
            start, unit = one.weights, 0
            for levels, width in zip(one.layer.levels, one.layer.width, strict=True):
                found.append(Table(start, levels, width, unit, mark))
                start, unit, mark = start + (levels + 1) * width, unit + width, mark + levels + 1
    return tuple(found)


def table_marks(operations: Sequence[Operation], inputs: Array) -> NDArray[np.int32]:
    """Return how often some inputs (rows, n_in) have each row of all tables, (rows of all tables,)."""
    found = []
    for one in operations:
        if isinstance(one.layer, Categories):
            first = operations[one.sources[0]].column
            for levels, column in zip(one.layer.levels, inputs[:, first : first + one.n_in].T, strict=True):
                rows = column[(column >= -1) & (column < levels)].astype(np.int64) + 1
                found.append(np.bincount(rows, minlength=levels + 1))
    return np.concatenate(found).astype(np.int32)
