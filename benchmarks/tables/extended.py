"""Recipes with more options than `Recipe` has: schedules, rates by layer, bins by the target, embeddings.

A recipe that learns from the encoded columns is a `Learning`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import accumulate, groupby
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fastmlp.model.embeddings import PiecewiseLinear
from fastmlp.model.inputs import Blocks, Categories, InputBlock
from fastmlp.model.losses import CrossEntropy
from fastmlp.model.network import Network
from fastmlp.model.optimizers import AdamW, Optimizer
from fastmlp.model.schedules import BEGINNING, Constant, Since
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import Cells
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.recipe import Recipe

LEAST_ROWS = 10
"""Of a bin by the target."""

FEW_LEVELS, LEVEL_UNITS = 8, 8
"""Categories of more levels have so many trained units, as in RealMLP."""


@dataclass(frozen=True)
class Falling(Constant):
    """A rate by the share of all steps that is done."""

    length: int

    def rates(self, steps: np.ndarray, steps_per_epoch: int, since: Since = BEGINNING) -> np.ndarray:
        """Return the rates (n,) of n updates."""
        return self.initial * self._factor(np.minimum(steps / self.length, 1.0))

    def _factor(self, done: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class CosLog4(Falling):
    """Four cosines, each twice as long as the one before: Holzmüller and others (2024)."""

    def _factor(self, done: np.ndarray) -> np.ndarray:
        return 0.5 * (1 - np.cos(2 * np.pi * np.log2(1 + 15 * done)))


class FlatCos(Falling):
    """The whole rate for the first half, then a cosine."""

    def _factor(self, done: np.ndarray) -> np.ndarray:
        return 0.5 * (1 + np.cos(np.pi * np.maximum(2 * done - 1, 0.0)))


@dataclass(frozen=True)
class Extended(Recipe):
    """A recipe with more options.

    schedule : of the rate, in place of a cosine; made of the rate and the number of steps
    rates : factors of the rates by kinds of layers
    smoothing : of the labels of a classification
    """

    schedule: Callable[[float, int], Falling] | None = None
    rates: Mapping[str, float] | None = None
    smoothing: float = 0.0

    def network(self, inputs: int | Blocks, task: Any, signs: np.ndarray | None = None) -> Network:
        """Return the network."""
        if self.smoothing and task.loss == "cross_entropy":
            loss = CrossEntropy(self.smoothing)
            task = SimpleNamespace(n_out=task.n_out, output=task.output, loss=loss)
        return super().network(inputs, task, signs)

    def optimizer_of(self, steps: int) -> Optimizer:
        """Return the optimiser."""
        adamw = super().optimizer_of(steps)
        assert isinstance(adamw, AdamW)
        rate = self.schedule(self.learning_rate, steps) if self.schedule else adamw.learning_rate
        return replace(adamw, learning_rate=rate, layer_rates=self.rates)


@dataclass(frozen=True)
class Learning(Recipe):
    """A recipe that learns something from the encoded columns before it is trained."""

    def learned(self, X: Any, y: np.ndarray, encoding: Encoding) -> Self:
        """Return the recipe for X (rows, n), dense or CSR, the target (rows,), and what X is."""
        raise NotImplementedError


@dataclass(frozen=True)
class ByTarget(Learning):
    """A recipe whose bins are the leaves of a tree of each column, which predicts the target.

    edges : of each column that may be embedded
    """

    edges: tuple[tuple[float, ...], ...] = ()

    def learned(self, X: Any, y: np.ndarray, encoding: Encoding) -> Self:
        """Return the recipe with edges."""
        kind = DecisionTreeRegressor if y.dtype.kind == "f" else DecisionTreeClassifier
        edges = []
        for column in (X if isinstance(X, np.ndarray) else X[:, : encoding.numbers].toarray()).T:
            tree = kind(max_leaf_nodes=self.bins, min_samples_leaf=LEAST_ROWS, random_state=0)
            tree = tree.fit(column[:, None], y).tree_
            inner = tree.threshold[tree.children_left >= 0]
            edges.append(tuple(np.unique([column.min(), *inner, column.max()]).tolist()))
        return replace(self, edges=tuple(edges))

    def network(self, inputs: int | Blocks, task: Any, signs: np.ndarray | None = None) -> Network:
        """Return the network with these bins."""
        if not isinstance(inputs, int):
            ends = accumulate(block.columns for block in inputs)
            inputs = tuple(
                replace(block, embedding=PiecewiseLinear(self.edges[end - block.columns : end], own.width))
                if isinstance(own := getattr(block, "embedding", None), PiecewiseLinear)
                else block
                for block, end in zip(inputs, ends, strict=True)
            )
        return super().network(inputs, task, signs)


@dataclass(frozen=True)
class EmbeddedLevels(Learning):
    """A recipe with trained units for categories of more than a few levels, of an X that is dense.

    levels : by the place in X of such a category
    """

    levels: Mapping[int, int] | None = None

    def learned(self, X: Any, y: np.ndarray, encoding: Encoding) -> Self:
        """Return the recipe with the numbers of levels."""
        ends = accumulate(column.width for column in encoding.used)
        coded = [
            (end - 1, column.count)
            for column, end in zip(encoding.used, ends, strict=True)
            if isinstance(column, CodedCategory)
        ]
        return replace(self, levels=dict(coded))

    def network(self, inputs: int | Blocks, task: Any, signs: np.ndarray | None = None) -> Network:
        """Return the network with these units."""
        blocks = inputs if isinstance(inputs, int) else (*self._blocks(inputs),)
        return super().network(blocks, task, signs)

    def _blocks(self, inputs: Blocks) -> Iterator[InputBlock]:
        first = 0
        for block in inputs:
            places = range(first, first := first + block.columns)
            for is_code, found in groupby(places, self.levels.__contains__):
                group = [*found]
                levels = [self.levels[place] for place in group] if is_code else []
                yield Categories(levels, LEVEL_UNITS) if is_code else replace(block, count=len(group))


@dataclass(frozen=True)
class CodedCategory(Category):
    """A category whose one column of X is the place of the level; -1 where there is none."""

    mostly_zeros = False

    @property
    def count(self) -> int:
        """Levels, with what is no level."""
        return len(super().parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """A name for the column."""
        return (self.name,)

    def encoded(self, series: Any) -> Cells:
        """Return the places of levels."""
        places, there = super().encoded(series)
        return Cells(np.zeros(1, np.int64), np.where(there > 0, places, -1.0))


class InDense(Encoding):
    """An encoding whose X is dense."""

    is_sparse = False

    @classmethod
    def of(cls, encoding: Encoding, changed: Callable[[Any], Any] = lambda column: column) -> Self:
        """Return that of an encoding; changed : returns what is in place of each column"""
        columns, codes = (tuple(map(changed, own)) for own in (encoding.columns, encoding.codes))
        return cls(columns, encoding.numbers_first, codes)


def coded(column: Any) -> Any:
    """Return what has a code for each level in place of a category of more than a few."""
    if not (isinstance(column, Category) and column.width > FEW_LEVELS):
        return column
    return CodedCategory(**{field.name: getattr(column, field.name) for field in fields(column)})
