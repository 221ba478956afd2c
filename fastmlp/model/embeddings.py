"""Embeddings of input columns, and the registry of embeddings and input blocks.

`inputs` has the blocks of X. Layout, sparse steps of tables, exports and public names derive from the
attributes of a class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.component import MOST_UNITS, Class, Kind, Part

Array = NDArray[Any]

TERMS = 16
"""Cosines of a number before the linear layer of `Periodic`, as in RealMLP."""

BLOCKS: dict[str, type[Part]] = {}
"""The public input blocks and number embeddings, by class name."""


@dataclass_transform(frozen_default=True)
def block(
    kind: str = "",
    public: bool = True,
    keeps: str = "",
    sections: Mapping[str, str] | None = None,
    **facts: Callable[[Any], Any],
) -> Callable[[Class], Class]:
    """Return a decorator for a block or an embedding: a frozen dataclass, in the registry.

    Parameters
    ----------
    kind : str
        The name of the operation, in programs and in the reference; "" without an operation.
    public : bool
        True if users may name the class.
    keeps : str
        The array with as many numbers as a row saves for backward; "" if a row saves none.
    sections : dict of str to str, optional
        The arrays in the sections "biases" and "state" (no optimiser steps a state). Other arrays are
        "weights".
    **facts : callable
        Attributes of `Embedding` and `InputBlock`, as functions of the object.
    """

    def decorate(made: Class) -> Class:
        made.kind, made.keeps, made.sections = Kind(kind), keeps, sections or {}
        for name, fact in facts.items():
            setattr(made, name, property(fact))
        frozen: Any = dataclass(frozen=True, repr=False)(made)
        if public:
            BLOCKS[frozen.__name__] = frozen
        return frozen

    return decorate


def kinds_of(base: type[Any]) -> tuple[type[Any], ...]:
    """Return the public classes of blocks, or of embeddings."""
    return tuple(kind for kind in BLOCKS.values() if issubclass(kind, base))


class UnitFormula(NamedTuple):
    """A layer of units, each a formula of a single source unit, for exports.

    gathered : (n_out,) int64, the source unit of each unit
    formula : formula(z, *arrays), to be traced
    arrays : the formula's arrays, by name, (n_out,) floating
    fixed : True if the arrays are not trained
    """

    gathered: NDArray[np.int64]
    formula: Callable[..., Any]
    arrays: Mapping[str, Array]
    fixed: bool = False


class Embedding(Part):
    """A map from the columns of a block to units.

    n_in, units : of each column; linear_units : after a separate linear layer for each column, or None
    keeps_numbers : True if the columns themselves are units, too
    tables : (levels, units) of each column of codes, with a row of units for each level; () for numbers
    sparse : True if a step moves only the rows of tables in the batch, with any optimiser
    settles : True if a state is fitted to the training rows before the first step
    """

    keeps: ClassVar[str]
    sections: ClassVar[Mapping[str, str]]
    n_in: int = 1
    units: int
    linear_units: int | None = None
    keeps_numbers: bool = False
    tables: tuple[tuple[int, int], ...] = ()
    sparse: bool = False
    settles: bool = False

    def units_of(self, columns: int) -> int:
        """Return the units of all columns, before the linear layer."""
        return sum(units for _, units in self.tables) or columns * self.units

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays by name, in the order of the flat vector.

        A table has a row for missing codes, and then a row for each level.
        """
        return {f"column{i}": (levels + 1, units) for i, (levels, units) in enumerate(self.tables)}

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw the arrays: normal numbers, as ``torch.nn.Embedding``."""
        for array in arrays.values():
            array[...] = rng.standard_normal(array.shape)

    def check(self, columns: int) -> None:
        """Raise ValueError unless the embedding fits so many columns."""

    def settle(self, arrays: Mapping[str, Array], rows: Array) -> None:
        """Write the fitted state, given rows (rows, columns)."""

    def formulas(self, arrays: Mapping[str, Array]) -> list[UnitFormula]:
        """Return formulas for exports, layer after layer; empty for embeddings known to every format."""
        return []


def checked_bins(what: str, given: Any) -> Any:
    """Return a number of bins, or edges (bins + 1,) in a tuple; ValueError or TypeError otherwise."""
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        return checks.whole(what, given, 1, MOST_UNITS)
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray)) or not len(given):
        raise TypeError(f"bins must be a number of them, or edges, got {checks.shown(given)}")
    several = isinstance(given[0], (Sequence, np.ndarray)) and not isinstance(given[0], str)
    found = []
    for one in given if several else [given]:
        try:
            edges = np.asarray(one, np.float64)
        except (TypeError, ValueError):
            edges = np.empty(0)
        if edges.ndim != 1 or len(edges) < 2 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
            raise ValueError(
                f"edges of bins must be two numbers at least, ascending, got {checks.shown(one)}"
            )
        found.append(tuple(edges.tolist()))
    return tuple(found)


class NumberEmbedding(Embedding):
    """An embedding of each number of a block, perhaps with a linear layer for each column."""


@block(
    "periodic",
    keeps="frequencies",
    sections={"phases": "biases"},
    units=lambda one: TERMS if one.linear else one.width,
    linear_units=lambda one: one.width - 1 if one.linear else None,
    keeps_numbers=lambda one: one.linear,
)
class Periodic(NumberEmbedding):
    """Cosines of each number, of trained frequencies.

    With the linear layer: the number x itself, and width - 1 outputs of a linear layer of 16 cosines cos(2 pi
    c x + b), separate for each column, as in RealMLP (Holzmüller and others, "Better by default", 2024).
    Without: sin(2 pi c x) and cos(2 pi c x) of width / 2 frequencies (Gorishniy and others, "On embeddings
    for numerical features", 2022).

    Parameters
    ----------
    width : int
        Units for each number; at least 2, and even without the linear layer.
    sigma : float, above 0
        The deviation of the normal distribution of frequencies c; b is drawn between -pi and pi.
    linear : bool
    name : str, optional
    """

    width: int = checks.count(2, MOST_UNITS, 8)
    sigma: float = checks.positive(0.1)
    linear: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.linear and self.width % 2:
            raise ValueError(f"width must be even without the linear layer, got {self.width}")

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays by name."""
        terms = TERMS if self.linear else self.width // 2
        return dict.fromkeys(("frequencies", "phases")[: 1 + self.linear], (columns, terms))

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw initial frequencies and phases."""
        frequencies = arrays["frequencies"]
        frequencies[...] = self.sigma * rng.standard_normal(frequencies.shape)
        if self.linear:
            arrays["phases"][...] = rng.uniform(-math.pi, math.pi, frequencies.shape)

    def formulas(self, arrays: Mapping[str, Array]) -> list[UnitFormula]:
        """Return the cosines; or the angles, and then sines and cosines of the angles."""
        (columns, terms), dtype = arrays["frequencies"].shape, arrays["frequencies"].dtype
        flat = {name: array.reshape(-1) for name, array in arrays.items()}
        of_numbers = np.repeat(np.arange(columns), terms)
        if self.linear:
            return [UnitFormula(of_numbers, lambda z, c, b: np.cos(2 * np.pi * z * c + b), flat)]
        angles = np.tile(np.arange(columns * terms).reshape(columns, terms), 2).reshape(-1)
        cosine = {"cosine": np.tile(np.repeat([0.0, 1.0], terms), columns).astype(dtype)}
        return [
            UnitFormula(of_numbers, lambda z, c: 2 * np.pi * z * c, flat),
            UnitFormula(angles, lambda z, cosine: np.where(cosine > 0.5, np.cos(z), np.sin(z)), cosine, True),
        ]


@block(
    "piecewise_linear",
    sections={"edges": "state", "slopes": "state"},
    units=lambda one: one.bins if one.settles else max(map(len, one.bins)) - 1,
    linear_units=lambda one: one.width,
    settles=lambda one: isinstance(one.bins, int),
)
class PiecewiseLinear(NumberEmbedding):
    """The position of each number in bins: a piecewise linear encoding.

    As in Gorishniy and others, "On embeddings for numerical features" (2022), a bin gives 0 for numbers below
    the bin, 1 above, and within the bin the fraction below the number. The first bin goes on to -1 below and
    the last bin to 2 above, so that a number far beyond short bins is not far off. With `width` a separate
    linear layer for each number follows.

    Parameters
    ----------
    bins : int, or sequence of numbers, or a sequence for each column
        Edges, ascending; or the number of bins, at least 1: the edges are quantiles of the rows of `fit` (of
        the first window, for rows in parts), closer quantiles where some coincide. With fewer different
        numbers than edges every number is an edge, and the remaining bins give 0.
    width : int, optional
        Units for each number; a unit for each bin if None.
    name : str, optional
    """

    bins: Any = checks.checked(checked_bins, 16)
    width: int | None = checks.count(1, MOST_UNITS, None)
    name: str | None = None

    def check(self, columns: int) -> None:
        """Raise ValueError unless the edges are for all columns, or for each column."""
        if not self.settles and len(self.bins) not in (1, columns):
            raise ValueError(
                f"bins must be one sequence of edges, or {columns} of them, got {len(self.bins)}"
            )

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays by name."""
        return dict.fromkeys(("edges", "slopes"), (columns, self.units))

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Write the given edges; `settle` writes quantiles."""
        for array in arrays.values():
            array[...] = 0
        if not self.settles:
            columns = len(arrays["edges"])
            given = self.bins * columns if len(self.bins) == 1 else self.bins
            self.write(arrays, [np.array(one) for one in given])

    def settle(self, arrays: Mapping[str, Array], rows: Array) -> None:
        """Write edges and slopes of bins, by quantiles of rows (rows, columns)."""
        self.write(arrays, [_quantiles(column.astype(np.float64), self.units + 1) for column in rows.T])

    def write(self, arrays: Mapping[str, Array], edges: Sequence[Array]) -> None:
        """Write lower edges and 1 / lengths of bins; empty bins, in the middle, have slope 0."""
        for column, given in enumerate(edges):
            given = np.append(given, given[-1]) if len(given) == 1 else given
            missing = self.units + 1 - len(given)
            inner = len(given) // 2
            all_edges = np.insert(given, inner, np.full(missing, given[inner]))
            lengths = np.diff(all_edges)
            arrays["edges"][column] = all_edges[:-1]
            long = lengths >= np.finfo(arrays["slopes"].dtype).tiny  # or the slope would be infinite
            arrays["slopes"][column] = np.divide(1.0, lengths, out=np.zeros(len(lengths)), where=long)

    def formulas(self, arrays: Mapping[str, Array]) -> list[UnitFormula]:
        """Return the fraction of each bin below the number."""
        columns, bins = arrays["edges"].shape
        lowest, highest = np.zeros_like(arrays["edges"]), np.ones_like(arrays["edges"])
        lowest[:, 0], highest[:, -1] = -1, 2
        named = {**arrays, "lowest": lowest, "highest": highest}

        def fraction(z: Any, edges: Any, slopes: Any, lowest: Any, highest: Any) -> Any:
            return np.minimum(np.maximum((z - edges) * slopes, lowest), highest)

        flat = {name: array.reshape(-1) for name, array in named.items()}
        return [UnitFormula(np.repeat(np.arange(columns), bins), fraction, flat, True)]


@block("grouped", public=False, keeps="biases", sections={"biases": "biases"}, n_in=lambda one: one.inputs)
class Grouped(Embedding):
    """A separate linear layer for each column's units, at the end of `Periodic` and `PiecewiseLinear`.

    inputs, units : of each column
    """

    inputs: int
    units: int
    name: str | None = None

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the arrays by name."""
        return {"weights": (columns, self.inputs, self.units), "biases": (columns, self.units)}

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw uniform numbers within 1 / sqrt(inputs), as ``torch.nn.Linear``."""
        bound = 1 / math.sqrt(self.inputs)
        for array in arrays.values():
            array[...] = rng.uniform(-bound, bound, array.shape)


def _quantiles(values: Array, most: int) -> Array:
    """Return different quantiles of equal fractions of values (n,), ascending, at most so many.

    Where quantiles coincide, bisection finds more fractions.
    """
    ordered = np.sort(values)
    different: Array = ordered[np.insert(np.diff(ordered) > 0, 0, True)]
    if len(different) <= most:
        return different

    def of_fractions(count: int) -> Array:
        positions = np.linspace(0, len(ordered) - 1, count)
        lower, part = positions.astype(int), positions % 1
        found = ordered[lower]
        between = part > 0
        found[between] += part[between] * (ordered[lower[between] + 1] - found[between])
        return np.unique(found)

    few, many = most, 2 * most
    while many < len(ordered) and len(of_fractions(many)) <= most:
        few, many = many, 2 * many
    while many - few > 1:
        count = (few + many) // 2
        few, many = (count, many) if len(of_fractions(count)) <= most else (few, count)
    return of_fractions(few)
