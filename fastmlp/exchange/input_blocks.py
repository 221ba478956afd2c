"""Blocks of inputs in the parts that all formats have: units that are gathered, formulas, and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.inputs import Categories
from fastmlp.model.network import Network
from fastmlp.model.operations import INPUTS

Array = NDArray[Any]


class GraphInput(NamedTuple):
    """One input of a network's graph: X, or a block of it.

    number : the source that operations know it by, from -1 down
    name : the block's, "X0", "X1", .. without names, or "X"
    named : whether the block has a name
    levels : of a block of categories, which holds codes; empty for numbers
    """

    number: int
    name: str
    columns: int
    named: bool = False
    levels: tuple[int, ...] = ()


def inputs_of(network: Network) -> list[GraphInput]:
    """Return the inputs of a network's graph."""
    if not network.blocks:
        return [GraphInput(INPUTS, "X", network.n_in)]
    return [
        GraphInput(
            INPUTS - i,
            block.name or f"X{i}",
            block.columns,
            block.name is not None,
            block.levels if isinstance(block, Categories) else (),
        )
        for i, block in enumerate(network.blocks)
    ]


class UnitFormula(NamedTuple):
    """Units that are each a formula of one of the units before.

    gathered : (n_out,) int64, for each unit the place of the one that it reads
    formula : formula(z, *arrays), which is traced
    arrays : the formula's, by name, (n_out,) floating
    fixed : whether they are not trained
    """

    gathered: NDArray[np.int64]
    formula: Callable[..., Any]
    arrays: dict[str, Array]
    fixed: bool = False


def _periodic(own: Mapping[str, Array]) -> list[UnitFormula]:
    columns, terms = own["frequencies"].shape
    arrays = {name: array.reshape(-1) for name, array in own.items()}
    of_numbers = np.repeat(np.arange(columns), terms)
    if "phases" in own:
        return [UnitFormula(of_numbers, lambda z, c, b: np.cos(2 * np.pi * z * c + b), arrays)]
    angles = np.arange(columns * terms).reshape(columns, 1, terms)
    cosine = np.tile(np.repeat([0.0, 1.0], terms), columns).astype(own["frequencies"].dtype)
    return [
        UnitFormula(of_numbers, lambda z, c: 2 * np.pi * z * c, arrays),
        UnitFormula(
            np.repeat(angles, 2, axis=1).reshape(-1),
            lambda z, cosine: np.where(cosine > 0.5, np.cos(z), np.sin(z)),
            {"cosine": cosine},
            fixed=True,
        ),
    ]


def _piecewise_linear(own: Mapping[str, Array]) -> list[UnitFormula]:
    columns, bins = own["edges"].shape
    arrays = {name: array.reshape(-1) for name, array in own.items()}
    lowest, highest = np.zeros_like(own["edges"]), np.ones_like(own["edges"])
    lowest[:, 0], highest[:, -1] = -1, 2
    return [
        UnitFormula(
            np.repeat(np.arange(columns), bins),
            lambda z, edges, slopes, lowest, highest: np.minimum(
                np.maximum((z - edges) * slopes, lowest), highest
            ),
            {**arrays, "lowest": lowest.reshape(-1), "highest": highest.reshape(-1)},
            fixed=True,
        )
    ]


FORMULAS: dict[str, Callable[[Mapping[str, Array]], list[UnitFormula]]] = {
    "periodic": _periodic,
    "piecewise_linear": _piecewise_linear,
}
"""The kinds of operations on a block that are formulas, one after another, of the arrays of the operation.

A kind that is added here is in every format; others have an entry in the table of each."""


def with_unknown(table: Array) -> Array:
    """Return a table (levels + 1, width) as formats have it, (levels + 3, width).

    The mean of its rows without the first, which is that of what is missing, stands before and behind them:
    so any code has the row max(-2, min(code, levels)) + 2.
    """
    mean = table[1:].mean(axis=0, keepdims=True, dtype=np.float64).astype(table.dtype)
    return np.concatenate([mean, table, mean])


class Lookup(NamedTuple):
    """A column of codes with its table (levels + 3, width); unit : the first of those that it gives."""

    column: int
    levels: int
    width: int
    unit: int
    table: str


def lookups(layer: Any, tables: Sequence[str]) -> list[Lookup]:
    """Return the columns of a block of `Categories`; tables : what a format calls theirs."""
    units = np.cumsum([0, *layer.width[:-1]]).tolist()
    columns = range(len(tables))
    return [Lookup(*one) for one in zip(columns, layer.levels, layer.width, units, tables, strict=True)]
