"""Embeddings: what makes units of each column of a block of inputs by itself.

Separate from `inputs`, which has the blocks that X consists of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.part import MOST_UNITS, Part

Array = NDArray[Any]

TERMS = 16
"""Cosines of a number in front of the linear layer of `Periodic`, as in RealMLP."""


class Embedding(Part):
    """What makes units of each column of a block by itself. It has parameters or a state of its own.

    `sizes` gives their numbers, `arrays` their shapes by name, in the order of the flat vector.
    """

    def sizes(self, columns: int) -> tuple[int, int, int, int]:
        """Return the numbers of weights, of biases, of the state, and of what a row keeps for gradients."""
        raise NotImplementedError

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of its arrays by name."""
        raise NotImplementedError

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Write how it starts to its arrays."""
        raise NotImplementedError


class NumberEmbedding(Embedding):
    """What makes units of each number of a block, in front of a linear layer of its own if it has one."""

    @property
    def units(self) -> int:
        """Units of each number, before the linear layer."""
        raise NotImplementedError

    @property
    def linear_units(self) -> int | None:
        """Units of each number after the linear layer; None without one."""
        return None

    @property
    def keeps_numbers(self) -> bool:
        """Whether the numbers themselves are units, too."""
        return False


@dataclass(frozen=True, repr=False)
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

    kind: ClassVar[str] = "periodic"
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

    @property
    def terms(self) -> int:
        """Frequencies of each number."""
        return TERMS if self.linear else self.width // 2

    @property
    def units(self) -> int:
        """Units of each number, before the linear layer."""
        return TERMS if self.linear else self.width

    @property
    def linear_units(self) -> int | None:
        """Units of each number after it; None without it."""
        return self.width - 1 if self.linear else None

    @property
    def keeps_numbers(self) -> bool:
        """Whether the numbers themselves are units, too."""
        return self.linear

    def sizes(self, columns: int) -> tuple[int, int, int, int]:
        """Return counts of numbers: see `Embedding.sizes`."""
        count = columns * self.terms
        return count, count * self.linear, 0, count

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return shapes of arrays by name: see `Embedding.arrays`."""
        names = ("frequencies", "phases")[: 1 + self.linear]
        return dict.fromkeys(names, (columns, self.terms))

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Draw initial frequencies and phases."""
        frequencies = arrays["frequencies"]
        frequencies[...] = self.sigma * rng.standard_normal(frequencies.shape)
        if self.linear:
            arrays["phases"][...] = rng.uniform(-math.pi, math.pi, frequencies.shape)


@dataclass(frozen=True, repr=False)
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

    kind: ClassVar[str] = "piecewise_linear"
    bins: Any = 16
    width: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        width = None if self.width is None else checks.whole("width", self.width, 1, MOST_UNITS)
        self._set(bins=_checked_bins(self.bins), width=width)

    @property
    def units(self) -> int:
        """Bins of each number: its units, before the linear layer."""
        return self.bins if isinstance(self.bins, int) else max(map(len, self.bins)) - 1

    @property
    def linear_units(self) -> int | None:
        """Units of each number after it; None without it."""
        return self.width

    def sizes(self, columns: int) -> tuple[int, int, int, int]:
        """Return counts of numbers: see `Embedding.sizes`."""
        return 0, 0, 2 * columns * self.units, 0

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return shapes of arrays by name: see `Embedding.arrays`."""
        return dict.fromkeys(("edges", "slopes"), (columns, self.units))

    def draw(self, arrays: Mapping[str, Array], rng: np.random.Generator) -> None:
        """Write zeros; quantiles are written by `settle`."""
        for array in arrays.values():
            array[...] = 0
        if not isinstance(self.bins, int):
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


@dataclass(frozen=True, repr=False)
class Grouped(Embedding):
    """A linear layer of its own for each of some groups of units, which end `Periodic` and `PiecewiseLinear`.

    inputs, units : of each group
    """

    kind: ClassVar[str] = "grouped"
    inputs: int
    units: int
    name: str | None = None

    def sizes(self, columns: int) -> tuple[int, int, int, int]:
        """Return counts of numbers: see `Embedding.sizes`; columns : groups"""
        return columns * self.inputs * self.units, columns * self.units, 0, columns * self.units

    def arrays(self, columns: int) -> dict[str, tuple[int, ...]]:
        """Return shapes of arrays by name: see `Embedding.arrays`."""
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


EMBEDDINGS = tuple(
    kind for kind in vars().copy().values() if isinstance(kind, type) and issubclass(kind, Embedding)
)[2:]
"""All kinds that this file defines, without their bases."""

OF_NUMBERS = tuple(kind for kind in EMBEDDINGS if issubclass(kind, NumberEmbedding))
"""The embeddings that `Numbers` may have."""
