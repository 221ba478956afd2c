"""Embeddings, which make units of the columns of a block of inputs, and the registry of both.

`inputs` has the blocks that X consists of. From what a class says of itself all else derives: layout, which
rows of tables a step moves, what exports write, and what is public.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.part import MOST_UNITS, Class, Part

Array = NDArray[Any]

TERMS = 16
"""Cosines of a number in front of the linear layer of `Periodic`, as in RealMLP."""

BLOCKS: dict[str, type[Part]] = {}
"""All blocks of inputs and embeddings of numbers that a user may name, by the names of their classes."""


@dataclass_transform(frozen_default=True)
def block(
    kind: str = "",
    public: bool = True,
    keeps: str = "",
    sections: Mapping[str, str] | None = None,
    **facts: Callable[[Any], Any],
) -> Callable[[Class], Class]:
    """Return a decorator that makes a block or an embedding of a class: a frozen dataclass, in the registry.

    Parameters
    ----------
    kind : str
        The name of its operation, by which the program and the reference have it; "" without one.
    public : bool
        Whether users may name it.
    keeps : str
        The array of which a row keeps as many numbers for gradients; "" where a row keeps none.
    sections : dict of str to str, optional
        The arrays that are "biases", or a "state", which no optimiser steps. All others are "weights".
    **facts : callable
        What it has in the place of the attributes of `Embedding` and `InputBlock`, as functions of itself.
    """

    def decorate(made: Class) -> Class:
        made.kind, made.keeps, made.sections = kind, keeps, sections or {}
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
    """Units that are each a formula of one of the units before, as exports write them.

    gathered : (n_out,) int64, for each unit the place of the one that it reads
    formula : formula(z, *arrays), which is traced
    arrays : the formula's, by name, (n_out,) floating
    fixed : whether they are not trained
    """

    gathered: NDArray[np.int64]
    formula: Callable[..., Any]
    arrays: Mapping[str, Array]
    fixed: bool = False


class Embedding(Part):
    """What makes units of the columns of a block.

    n_in, units : of each column; linear_units : after a linear layer of its own, which follows, or None
    keeps_numbers : whether the columns themselves are units, too
    tables : (levels, units) of each column of codes, which has a row of units for each level; () of numbers
    sparse : whether a step moves only those rows of tables that its batch has, whatever the optimiser
    settles : whether its state follows from the rows that it is trained on
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
        """Return the shapes of its arrays by name, in the order of the flat vector.

        Those of tables have a row for each level, and before these that of what is missing.
        """
        return {f"column{i}": (levels + 1, units) for i, (levels, units) in enumerate(self.tables)}

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw its arrays: normal numbers, as ``torch.nn.Embedding``."""
        for array in arrays.values():
            array[...] = rng.standard_normal(array.shape)

    def check(self, columns: int) -> None:
        """Raise ValueError unless it is for so many columns."""

    def settle(self, arrays: Mapping[str, Array], rows: Array) -> None:
        """Write the state that follows from rows (rows, columns)."""

    def formulas(self, arrays: Mapping[str, Array]) -> list[UnitFormula]:
        """Return the formulas that exports write, one after another; none of what every format has."""
        return []


class NumberEmbedding(Embedding):
    """What makes units of each number of a block, in front of a linear layer of its own if it has one."""


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

    With the linear layer they are the number x itself and width - 1 outputs of a linear layer of 16 cosines
    cos(2 pi c x + b), of its own for each number, as in RealMLP (Holzmüller and others, "Better by default",
    2024). Without, sin(2 pi c x) and cos(2 pi c x) of width / 2 frequencies (Gorishniy and others, "On
    embeddings for numerical features", 2022).

    Parameters
    ----------
    width : int
        Units for each number; at least 2, and even without the linear layer.
    sigma : float, above 0
        The frequencies c are drawn from a normal distribution of this deviation, b between -pi and pi.
    linear : bool
    name : str, optional
    """

    width: int = 8
    sigma: float = 0.1
    linear: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        width, linear = checks.whole("width", self.width, 2, MOST_UNITS), checks.flag("linear", self.linear)
        if not linear and width % 2:
            raise ValueError(f"width must be even without the linear layer, got {width}")
        self._set(width=width, linear=linear, sigma=checks.real("sigma", self.sigma, 0, open_low=True))

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its arrays by name."""
        terms = TERMS if self.linear else self.width // 2
        return dict.fromkeys(("frequencies", "phases")[: 1 + self.linear], (columns, terms))

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw initial frequencies and phases."""
        frequencies = arrays["frequencies"]
        frequencies[...] = self.sigma * rng.standard_normal(frequencies.shape)
        if self.linear:
            arrays["phases"][...] = rng.uniform(-math.pi, math.pi, frequencies.shape)

    def formulas(self, arrays: Mapping[str, Array]) -> list[UnitFormula]:
        """Return the cosines; or the angles, and then the sines and cosines of these."""
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
    """The place of each number in its bins.

    As in Gorishniy and others, "On embeddings for numerical features" (2022), a bin gives 0 below it, 1 above
    it, and within it the share that lies below the number. The first one goes on to -1 below and the last one
    to 2 above, so that a number that is far beyond short bins is not far off. With `width` a linear layer of
    its own for each number follows.

    Parameters
    ----------
    bins : int, or sequence of numbers, or one sequence for each column
        Edges, ascending; or how many bins there are, at least 1: their edges are quantiles of the rows that
        `fit` gets (of the first window, where rows come in parts), closer ones where some coincide. If
        there are no more different numbers than edges, every number is an edge, and other bins give 0.
    width : int, optional
        Units for each number; one for each bin if None.
    name : str, optional
    """

    bins: Any = 16
    width: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        width = None if self.width is None else checks.whole("width", self.width, 1, MOST_UNITS)
        self._set(bins=_checked_bins(self.bins), width=width)

    def check(self, columns: int) -> None:
        """Raise ValueError unless it has one sequence of edges, or one for each column."""
        if not self.settles and len(self.bins) not in (1, columns):
            raise ValueError(
                f"bins must be one sequence of edges, or {columns} of them, got {len(self.bins)}"
            )

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its arrays by name."""
        return dict.fromkeys(("edges", "slopes"), (columns, self.units))

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Write the edges that are given; quantiles are written by `settle`."""
        for array in arrays.values():
            array[...] = 0
        if not self.settles:
            columns = len(arrays["edges"])
            given = self.bins * columns if len(self.bins) == 1 else self.bins
            self.write(arrays, [np.array(one) for one in given])

    def settle(self, arrays: Mapping[str, Array], rows: Array) -> None:
        """Write the edges and slopes of bins by quantiles of rows (rows, columns)."""
        self.write(arrays, [_quantiles(column.astype(np.float64), self.units + 1) for column in rows.T])

    def write(self, arrays: Mapping[str, Array], edges: Sequence[Array]) -> None:
        """Write lower edges and 1 / lengths of bins; empty ones, put in the middle, have a slope of 0."""
        for column, own in enumerate(edges):
            own = np.append(own, own[-1]) if len(own) == 1 else own
            missing = self.units + 1 - len(own)
            inner = len(own) // 2
            all_edges = np.insert(own, inner, np.full(missing, own[inner]))
            lengths = np.diff(all_edges)
            arrays["edges"][column] = all_edges[:-1]
            long = lengths >= np.finfo(arrays["slopes"].dtype).tiny  # or the slope would be infinite
            arrays["slopes"][column] = np.divide(1.0, lengths, out=np.zeros(len(lengths)), where=long)

    def formulas(self, arrays: Mapping[str, Array]) -> list[UnitFormula]:
        """Return the share of each bin that lies below the number."""
        columns, bins = arrays["edges"].shape
        lowest, highest = np.zeros_like(arrays["edges"]), np.ones_like(arrays["edges"])
        lowest[:, 0], highest[:, -1] = -1, 2
        named = {**arrays, "lowest": lowest, "highest": highest}

        def share(z: Any, edges: Any, slopes: Any, lowest: Any, highest: Any) -> Any:
            return np.minimum(np.maximum((z - edges) * slopes, lowest), highest)

        flat = {name: array.reshape(-1) for name, array in named.items()}
        return [UnitFormula(np.repeat(np.arange(columns), bins), share, flat, True)]


@block("grouped", public=False, keeps="biases", sections={"biases": "biases"}, n_in=lambda one: one.inputs)
class Grouped(Embedding):
    """A linear layer of its own for the units of each column, which ends `Periodic` and `PiecewiseLinear`.

    inputs, units : of each column
    """

    inputs: int
    units: int
    name: str | None = None

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its arrays by name."""
        return {"weights": (columns, self.inputs, self.units), "biases": (columns, self.units)}

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw numbers between -1 / sqrt(inputs) and that, as ``torch.nn.Linear``."""
        bound = 1 / math.sqrt(self.inputs)
        for array in arrays.values():
            array[...] = rng.uniform(-bound, bound, array.shape)


def _quantiles(values: Array, most: int) -> Array:
    """Return quantiles of equal shares of values (n,) that differ, ascending, at most so many.

    Where some coincide they are closer, by bisection of how many shares there are.
    """
    ordered = np.sort(values)
    different: Array = ordered[np.insert(np.diff(ordered) > 0, 0, True)]
    if len(different) <= most:
        return different

    def of_shares(count: int) -> Array:
        places = np.linspace(0, len(ordered) - 1, count)
        lower, part = places.astype(int), places % 1
        found = ordered[lower]
        between = part > 0
        found[between] += part[between] * (ordered[lower[between] + 1] - found[between])
        return np.unique(found)

    few, many = most, 2 * most
    while many < len(ordered) and len(of_shares(many)) <= most:
        few, many = many, 2 * many
    while many - few > 1:
        count = (few + many) // 2
        few, many = (count, many) if len(of_shares(count)) <= most else (few, count)
    return of_shares(few)


def _checked_bins(given: Any) -> Any:
    if isinstance(given, (int, np.integer)) and not isinstance(given, bool):
        return checks.whole("bins", given, 1, MOST_UNITS)
    if not isinstance(given, (Sequence, np.ndarray)) or isinstance(given, (str, bytes)) or not len(given):
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
