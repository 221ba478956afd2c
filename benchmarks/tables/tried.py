"""What was tried in the recipes of the learner of tables: a name for each, in words, and its recipes.

Separate from `recipes`, which measures them. What is no option of `Recipe` is one of a subclass here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from fastmlp.model.embeddings import PiecewiseLinear
from fastmlp.model.inputs import Blocks, sparse_columns
from fastmlp.model.layers import Dense, Dropout, LayerNorm, Members, Part, PReLU, Residual, Scale, Swish
from fastmlp.model.network import Network
from fastmlp.model.optimizers import AdamW, Optimizer
from fastmlp.model.own_losses import CrossEntropy
from fastmlp.model.schedules import BEGINNING, Constant, Since
from fastmlp.tables.recipe import BINNED, PLAIN, PRESETS, WAVES, Recipe

LEAST_ROWS = 10
"""Of a bin by the target."""


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

    def network(self, inputs: int | Blocks, task: Any) -> Network:
        """Return the network; sparse columns need a `Dense` before all else."""
        if self.smoothing and task.loss == "cross_entropy":
            loss = CrossEntropy(self.smoothing)
            task = SimpleNamespace(n_out=task.n_out, output=task.output, loss=loss)
        if self.layers and isinstance(self.layers[0], Scale) and sparse_columns(inputs):
            return replace(self, layers=self.layers[1:]).network(inputs, task)
        return super().network(inputs, task)

    def optimizer_of(self, steps: int) -> Optimizer:
        """Return the optimiser."""
        adamw = super().optimizer_of(steps)
        assert isinstance(adamw, AdamW)
        rate = self.schedule(self.learning_rate, steps) if self.schedule else adamw.learning_rate
        return replace(adamw, learning_rate=rate, layer_rates=self.rates)


@dataclass(frozen=True)
class ByTarget(Recipe):
    """A recipe whose bins are the leaves of a tree of each column, which predicts the target.

    edges : of each column that may be embedded, as `learned` finds them
    """

    edges: tuple[tuple[float, ...], ...] = ()

    def learned(self, X: Any, y: np.ndarray) -> "ByTarget":
        """Return the recipe with edges for these columns (rows, n), dense or CSR, and the target."""
        kind = DecisionTreeRegressor if y.dtype.kind == "f" else DecisionTreeClassifier
        X = X if isinstance(X, np.ndarray) else X.toarray()
        edges = []
        for column in X.T:
            tree = kind(max_leaf_nodes=self.bins, min_samples_leaf=LEAST_ROWS, random_state=0)
            tree = tree.fit(column[:, None], y).tree_
            inner = tree.threshold[tree.children_left >= 0]
            edges.append(tuple(np.unique([column.min(), *inner, column.max()]).tolist()))
        return replace(self, edges=tuple(edges))

    def network(self, inputs: int | Blocks, task: Any) -> Network:
        """Return the network with these bins."""
        if not isinstance(inputs, int):
            ends = accumulate(block.columns for block in inputs)
            inputs = tuple(
                replace(block, embedding=PiecewiseLinear(self.edges[end - block.columns : end], own.width))
                if isinstance(own := getattr(block, "embedding", None), PiecewiseLinear)
                else block
                for block, end in zip(inputs, ends, strict=True)
            )
        return super().network(inputs, task)


def with_layers(recipe: Recipe, hidden: Callable[[int, Dropout], list[Part]], *first: Part) -> Recipe:
    """Return a recipe with layers made of each width and a dropout, behind some first ones."""
    made = (hidden(width, Dropout(recipe.dropout)) for width in recipe.hidden)
    return extended(recipe, layers=(*first, *(part for one in made for part in one)))


def silu(units: int, dropout: Dropout) -> list[Part]:
    """Return the layers of the presets."""
    return [_dense(units, "silu"), dropout]


def residual(recipe: Recipe) -> Recipe:
    """Return a recipe whose layers but the first one are residual."""
    drop = Dropout(recipe.dropout)
    first, *others = (silu(width, drop) for width in recipe.hidden)
    return extended(recipe, layers=(*first, *(Residual(*one) for one in others)))


def extended(recipe: Recipe, **more: Any) -> Extended:
    """Return a recipe with options of `Extended`."""
    return Extended(**(vars(recipe) | more))


def _dense(units: int, activation: str = "identity") -> Dense:
    return Dense(units, activation, weight_init="he_normal")


class Tried(NamedTuple):
    """What is in place of the recipes of `good`.

    says : in words
    """

    says: str
    recipes: tuple[Recipe, ...]


def _of_all(says: str, change: Callable[[Recipe], Recipe]) -> Tried:
    return Tried(says, tuple(map(change, PRESETS["good"])))


def _of_embedded(says: str, change: Callable[[Recipe], Recipe]) -> Tried:
    return Tried(says, (PLAIN, change(BINNED), change(WAVES)))


SLOW = {"Grouped": 0.1, "Periodic": 0.1}
"""Of what embeds numbers: RealMLP's factor of their rates."""

TRIED = {
    "good": Tried("columns as they are, bins and cosines: the default", PRESETS["good"]),
    "fast": Tried("the preset `fast`", PRESETS["fast"]),
    "best": Tried("the preset `best`", PRESETS["best"]),
    "plain": Tried("columns as they are alone", (PLAIN,)),
    "bins": Tried("bins alone (`PiecewiseLinear`)", (BINNED,)),
    "cosines": Tried("cosines alone (`Periodic`)", (WAVES,)),
    "no-plain": Tried("without columns as they are", (BINNED, WAVES)),
    "no-bins": Tried("without bins", (PLAIN, WAVES)),
    "no-cosines": Tried("without cosines", (PLAIN, BINNED)),
    "bins-32": Tried("32 bins in place of 64", (PLAIN, replace(BINNED, bins=32), WAVES)),
    "bins-by-target": Tried(
        "bins are the leaves of a tree of the target", (PLAIN, ByTarget(**vars(BINNED)), WAVES)
    ),
    "units-8": Tried("8 units for each number behind bins, not 16", (PLAIN, replace(BINNED, width=8), WAVES)),
    "cosines-dropout-0.1": Tried(
        "dropout 0.1 behind cosines, not 0.2", (PLAIN, BINNED, replace(WAVES, dropout=0.1))
    ),
    "scale": _of_embedded("`Scale` before the first layer", lambda one: with_layers(one, silu, Scale())),
    "residual": _of_all("the second layer is `Residual`", residual),
    "prelu": _of_all(
        "`PReLU`, a trained slope, in place of silu",
        lambda one: with_layers(one, lambda units, drop: [_dense(units), PReLU(), drop]),
    ),
    "swish": _of_all(
        "`Swish`, a trained factor, in place of silu",
        lambda one: with_layers(one, lambda units, drop: [_dense(units), Swish(), drop]),
    ),
    "layer-norm": _of_all(
        "`LayerNorm` before each silu",
        lambda one: with_layers(one, lambda units, drop: [_dense(units), LayerNorm(), "silu", drop]),
    ),
    "three-layers": _of_all("three layers of 128", lambda one: replace(one, hidden=(128, 128, 128))),
    "layers-64": _of_all("two layers of 64", lambda one: replace(one, hidden=(64, 64))),
    "no-average": _of_embedded("weights are not averaged", lambda one: replace(one, average=0.0)),
    "average-0.995": _of_embedded("`EMA(0.995)`, not 0.99", lambda one: replace(one, average=0.995)),
    "decay-1": _of_embedded("weight decay 1, not 0.01", lambda one: replace(one, decay=1.0)),
    "smoothing": _of_all("labels smoothed by 0.1", lambda one: extended(one, smoothing=0.1)),
    "coslog4": _of_all("RealMLP's schedule", lambda one: extended(one, schedule=CosLog4)),
    "flat-cos": _of_all(
        "the rate falls in the second half only", lambda one: extended(one, schedule=FlatCos)
    ),
    "slow-embeddings": Tried(
        "a tenth of the rate for bins and cosines, as RealMLP",
        (PLAIN, extended(BINNED, rates={"Grouped": 0.1}), extended(WAVES, rates=SLOW)),
    ),
    "members": _of_all(
        "one network with `Members(8)` (TabM), not five networks",
        lambda one: replace(with_layers(one, silu, Members(8)), most_members=1),
    ),
    "patience-10": _of_all("a patience of 10 epochs, not 20", lambda one: replace(one, patience=10)),
    "two-parts": _of_all("two networks of each recipe, not five", lambda one: replace(one, most_members=2)),
}
