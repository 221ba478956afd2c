"""Blocks of inputs: the columns of X as numbers and categories.

Blocks lie side by side in X, which stays a single array (rows, columns), or dense columns and sparse columns.
Codes of categories are whole numbers in the dtype of the network. So rows are shuffled, read in parts, and
sent between processes as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.component import INPUTS, MOST_UNITS, Part
from fastmlp.model.embeddings import BLOCKS as BLOCKS
from fastmlp.model.embeddings import Embedding, Grouped, NumberEmbedding, block, kinds_of
from fastmlp.model.rows import MOST_COLUMNS

if TYPE_CHECKING:
    from fastmlp.model.builder import Builder

Array = NDArray[Any]

MOST_LEVELS = 2**24 - 2
"""The most levels: float32 holds codes up to here exactly."""


class InputBlock(Part):
    """A block of columns of X.

    codes : the levels of each column of codes, whole numbers from -1; () for numbers
    is_sparse : True for a sparse matrix of SciPy's
    made_by : the embedding of the columns; None if the columns are the units
    """

    count: int
    codes: tuple[int, ...] = ()
    is_sparse: bool = False
    made_by: Embedding | None = None

    @property
    def columns(self) -> int:
        """Columns of X."""
        return len(self.codes) or self.count

    @property
    def outputs(self) -> int:
        """Units of the block."""
        n, made = self.columns, self.made_by
        if made is None:
            return n
        return n * made.keeps_numbers + (
            made.units_of(n) if made.linear_units is None else n * made.linear_units
        )

    def lower_columns(self, builder: Builder, column: int) -> list[int]:
        """Append columns of X from `column` on, and the embedding; return the operations of the units."""
        n, embedding = self.columns, self.made_by
        source = builder.append("copy", (INPUTS,), n, None, n_in=n, column=column)
        if embedding is None:
            return [source]
        units, width, tables = embedding.units_of(n), embedding.linear_units, builder.tables
        builder.tables += len(embedding.tables)
        made = builder.append(embedding.kind, (source,), units, embedding, column=tables)
        if width is not None:
            linear = Grouped(units // n, width)
            made = builder.append(linear.kind, (made,), n * width, linear)
        return [*[source] * embedding.keeps_numbers, made]


@block(made_by=lambda one: one.embedding)
@checks.listing(embeddings=[kind.__name__ for kind in kinds_of(NumberEmbedding)])
class Numbers(InputBlock):
    """A block of numbers.

    Parameters
    ----------
    count : int
        Columns in X.
    embedding : optional
        The embedding of each number; None for the numbers themselves:
        {embeddings}.
    name : str, optional
        The block's name in a dict of blocks.
    """

    count: int = checks.count(1, MOST_UNITS)
    embedding: NumberEmbedding | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding is None:
            return
        kinds = kinds_of(NumberEmbedding)
        checks.instance("embedding", self.embedding, kinds, " or ".join(kind.__name__ for kind in kinds))
        self.embedding.check(self.count)


@block(
    "categories",
    codes=lambda one: one.levels,
    made_by=lambda one: one,
    tables=lambda one: tuple(zip(one.levels, one.width, strict=True)),
)
class Categories(InputBlock, Embedding):
    """A block of categories: columns of codes with trained units (``torch.nn.Embedding``).

    Codes are whole numbers from 0; -1 means a missing category, with separate units. `fit` refuses other
    codes; in `predict` other codes get the mean of the rows of all levels.

    Parameters
    ----------
    levels : sequence of int
        The number of levels of each column, at least 1.
    width : int or sequence of int, optional
        Units for each column. None: min(600, round(1.6 levels^0.56)), fastai's rule.
    sparse : bool
        True: with any optimiser a step changes only the rows of codes in the batch. False: only plain SGD and
        SparseAdam do so, and other optimisers move all rows, as ``torch.nn.Embedding``.
    name : str, optional
        The block's name in a dict of blocks.
    """

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
        elif checks.sequence(width) is None:
            width = (checks.whole("width", width, 1, MOST_UNITS),) * len(levels)
        if len(width) != len(levels):
            raise ValueError(f"width must be one number or {len(levels)} of them, got {len(width)}")
        widths = tuple(checks.whole("every one of width", one, 1, MOST_UNITS) for one in width)
        self._set(levels=levels, width=widths)


@block(is_sparse=lambda one: True)
class SparseNumbers(InputBlock):
    """A block of numbers, mostly zeros: a sparse matrix of SciPy's, next to dense blocks.

    The first layer is a `Dense`. The rows of the weights for these columns come last, as if this block were
    the last block. With `SparseAdam` a step changes only the rows of columns with a number in the batch.

    Parameters
    ----------
    count : int
        Columns of the block.
    name : str, optional
        The block's name in a dict of blocks.
    """

    count: int = checks.count(1, MOST_COLUMNS)
    name: str | None = None


Blocks = tuple[InputBlock, ...]

BLOCK_KINDS = kinds_of(InputBlock)
NAMES = [kind.__name__ for kind in BLOCK_KINDS]


def columns_of(inputs: int | Blocks) -> int:
    """Return the number of columns of X."""
    return inputs if isinstance(inputs, int) else sum(block.columns for block in inputs)


def sparse_columns(inputs: int | Blocks) -> int:
    """Return the number of columns of `SparseNumbers`."""
    return 0 if isinstance(inputs, int) else sum(b.columns for b in inputs if b.is_sparse)


def checked_inputs(given: Any, most: int) -> int | Blocks:
    """Return a number of columns, or blocks; TypeError or ValueError for bad values."""
    if isinstance(given, Mapping):
        given = [replace(_checked(block), name=name) for name, block in given.items()]
    if isinstance(given, Sequence) and checks.sequence(given) is not None:
        if not given:
            raise ValueError("inputs must hold at least one block")
        names = [_checked(block).name for block in given]
        if any(names) and (None in names or len({*names}) < len(names)):
            raise ValueError("every block of inputs has a name of its own, or none has one")
        return tuple(given)
    if isinstance(given, InputBlock):
        raise TypeError(f"inputs must be a number of columns, or a list or dict of blocks, got {given!r}")
    return checks.whole("inputs", given, 1, most)


def _checked(given: Any) -> Any:
    checks.instance("a block of inputs", given, BLOCK_KINDS, f"{', '.join(NAMES[:-1])} or {NAMES[-1]}")
    return given


def _sequence(what: str, given: Any) -> Sequence[Any]:
    if (found := checks.sequence(given)) is None:
        raise TypeError(f"{what} must be a sequence of whole numbers, got {checks.shown(given)}")
    return found
