"""Recipes of networks on a table, with measured defaults (docs/measured/tables.md), and their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import numpy as np

from fastmlp.model.averages import EMA, with_average
from fastmlp.model.component import Part
from fastmlp.model.descriptions import described
from fastmlp.model.embeddings import NumberEmbedding, Periodic, PiecewiseLinear
from fastmlp.model.inputs import Blocks, Numbers, SparseNumbers, sparse_columns
from fastmlp.model.layers import Dense, Dropout
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME, AdamW, Optimizer
from fastmlp.model.schedules import Cosine
from fastmlp.tables.columns import Array, BelowOne, Count, Size, Whole
from fastmlp.tables.tasks import Several, Task
from fastmlp.trained.model import Model

MOST_EPOCHS = 400  # most epochs of a network by default; nearly all networks end before

VISITS = 3_000_000
"""Most rows in all epochs of a network by default: an epoch of a large table has many steps."""

MEMBER_VISITS = 60_000_000  # most rows in all epochs of all networks by default

MANY_ROWS, ENOUGH_ROWS = 3500, 5000
"""From the first number of rows on, recipes have two networks; from the second on, one; see `search`."""


@dataclass(frozen=True)
class Recipe:
    """The options of the networks of an ensemble. Numbers of 0 follow from the rows, see `resolved`.

    layers : hidden layers in place of hidden, activation and dropout
    decay : weight decay of adamw
    patience : epochs without a lower loss on rows held out before the end of a training
    balanced : True for equal sums of the weights of all classes
    bins : of each number, whose indices replace the number; 0 for none
    sigma : deviation of the frequencies of each number's cosines, further inputs; 0 for none
    width : outputs of each number's linear layer on the bins or cosines
    average : decay of the moving average of adamw's weights, for predictions and validation; 0 for none
    most_members, members_of_many : by default, for few rows and for many
    """

    hidden: tuple[Count, ...] = (128, 128)
    activation: str = "silu"
    optimizer: str = "adamw"
    learning_rate: Size = 0.003
    epochs: Whole = 0
    batch_size: Whole = 0
    dropout: Size = 0.1
    l2: Size = 0.0
    decay: Size = 1.0
    patience: Count = 20
    members: Whole = 0
    balanced: bool = False
    layers: tuple[Part, ...] | None = None
    bins: Whole = 0
    sigma: Size = 0.0
    width: Whole = 0
    average: BelowOne = 0.0
    most_members: Count = 7
    members_of_many: Count = 1

    @property
    def embeds(self) -> bool:
        """True if bins replace numbers, or cosines are added to numbers."""
        return bool(self.bins or self.sigma)

    @property
    def described(self) -> dict[str, Any]:
        """The settings in JSON's types."""
        layers = {} if self.layers is None else {"layers": described(self.layers)}
        return {name: value for name, value in vars(self).items() if name != "layers"} | layers

    def resolved(self, rows: int) -> Recipe:
        """Return the recipe with all numbers above 0, for a number of training rows."""
        epochs = self.epochs or max(8, min(MOST_EPOCHS, VISITS // rows))
        few = self.members_of_many + (rows < ENOUGH_ROWS)
        most = min(self.most_members, few if rows >= MANY_ROWS else self.most_members)
        members = self.members or max(1, min(most, MEMBER_VISITS // (rows * epochs)))
        batch_size = self.batch_size or min(256, max(16, 1 << max(1, rows // 32).bit_length() - 1))
        return replace(self, epochs=epochs, members=members, batch_size=batch_size)

    def network(self, inputs: int | Blocks, task: Task, signs: Array | None = None) -> Network:
        """Return a network with inputs as of `inputs_of`; signs : (n,), as for `Network(monotone=)`."""
        monotone = None if signs is None or not signs.any() else signs.astype(int).tolist()
        options: dict[str, Any] = {"l2": self.l2, "monotone": monotone}
        if isinstance(task, Several):
            return Network(inputs=inputs, layers=self._hidden, heads=task.heads, **options)
        options |= {"output": task.output, "loss": task.loss}
        if self.layers is not None or not isinstance(inputs, int):
            return Network(inputs=inputs, layers=[*self._hidden, Dense(task.n_out)], **options)
        sizes = [inputs, *self.hidden, task.n_out]
        return Network(sizes, self.activation, dropout=self.dropout, weight_init="he_normal", **options)

    @property
    def _hidden(self) -> list[Part]:
        """The hidden layers, as a list."""
        if self.layers is not None:
            return [*self.layers]
        dense = (Dense(width, self.activation, weight_init="he_normal") for width in self.hidden)
        return [part for layer in dense for part in (layer, Dropout(self.dropout))]

    def optimizer_of(self, steps: int) -> Optimizer:
        """Return the optimiser; the rate falls to 0 over so many steps."""
        kind = BY_NAME[self.optimizer]
        rate = Cosine(self.learning_rate, steps, unit="step")
        if kind is not AdamW:
            return kind(rate)
        adamw = AdamW(rate, weight_decay=self.decay)
        return with_average(adamw, EMA(self.average), steps) if self.average else adamw


PLAIN = Recipe()  # numbers as inputs, and a large decay: for noisy tables; see docs/measured/tables.md

BINNED = Recipe(dropout=0.0, decay=0.01, bins=64, width=16, average=0.99, learning_rate=0.0045)
"""A linear layer on the bins of each number: for tables with a signal."""

WIDE = replace(BINNED, hidden=(256, 256))  # the same in a larger network

WAVES = replace(BINNED, bins=0, sigma=0.1, width=8, dropout=0.2, learning_rate=0.006)
"""A linear layer on the cosines of each number, beside the number: for numbers that interact."""

PRESETS = {
    "fast": (replace(WAVES, most_members=1),),
    "good": (PLAIN, BINNED, WAVES),
    "best": tuple(replace(one, members_of_many=3) for one in (PLAIN, BINNED, WAVES, WIDE)),
}
"""Recipes for the choice by rows held out, from the shortest training to the least loss."""


def candidates(preset: str, given: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """Return the different recipes of a preset with given settings in place of the recipes' settings.

    With layers there is a single recipe: the layers stand on the columns of X without embeddings.
    """
    recipes = PRESETS[preset]
    if "layers" in given:
        recipes = (replace(PLAIN, most_members=recipes[0].most_members),)
    return tuple(dict.fromkeys(replace(recipe, **given) for recipe in recipes))


# --- inputs of networks ------------------------------------------------------------------------------------

MOST_UNITS = 512  # units of all columns of X together, about: many columns have fewer units each
LEAST_WIDTH = 2  # the least outputs of a column's linear layer
NUMBERS_AT_ONCE = 1 << 20  # numbers of X looked at together, for a small memory


def may_embed(X: Any, numbers: int) -> bool:
    """Return whether X (rows, n) has numbers to embed; numbers : as for `have_three`."""
    return bool(numbers or isinstance(X, np.ndarray))


def have_three(X: Any, numbers: int) -> Array:
    """Return for each column of X (rows, n) to embed whether there are three different numbers.

    X : dense, or CSR; of CSR the columns before the mostly empty columns may be embedded, so many numbers
    """
    columns = X.shape[1] if isinstance(X, np.ndarray) else numbers
    step = max(1, NUMBERS_AT_ONCE // max(1, columns))

    def batches() -> Iterator[Array]:
        for start in range(0, X.shape[0], step):
            rows = X[start : start + step, :columns]
            yield rows if isinstance(rows, np.ndarray) else rows.toarray()

    low, high = (np.array([extreme(rows, axis=0) for rows in batches()]) for extreme in (np.min, np.max))
    low, high = low.min(axis=0), high.max(axis=0)
    several: Array = np.any([((low < rows) & (rows < high)).any(axis=0) for rows in batches()], axis=0)
    return several


def inputs_of(columns: int, recipe: Recipe, several: Array, in_blocks: bool = False) -> int | Blocks:
    """Return the inputs of a network for X: blocks of columns, or the number of columns.

    Columns of three different numbers and more are embedded, other columns are inputs as they are.

    columns : of X; several : as `have_three` returns it; the columns behind are a sparse block
    in_blocks : True for blocks without embeddings, too, as several heads read sparse X
    """
    sparse = [SparseNumbers(columns - len(several))] if columns > len(several) else []
    if not recipe.embeds or not several.any():
        dense = [Numbers(len(several))] if len(several) else []
        return (*dense, *sparse) if in_blocks else columns
    width = max(LEAST_WIDTH, min(recipe.width, MOST_UNITS // int(several.sum())))
    embedding: NumberEmbedding
    embedding = Periodic(width, recipe.sigma) if recipe.sigma else PiecewiseLinear(recipe.bins, width)
    groups = ((embedded, len(list(group))) for embedded, group in groupby(several))
    blocks = [Numbers(count, embedding if embedded else None) for embedded, count in groups]
    return (*blocks, *sparse)


def rows_for(inputs: int | Blocks, X: Any) -> Any:
    """Return X (rows, n) for a network with such inputs: a CSR matrix block by block."""
    if isinstance(inputs, int) or not inputs or isinstance(X, np.ndarray):
        return X
    numbers = X.shape[1] - sparse_columns(inputs)
    ends = [*accumulate(block.columns for block in inputs if isinstance(block, Numbers))]
    dense = np.split(X[:, :numbers].toarray(), ends[:-1], axis=1) if ends else []
    return [*dense, X[:, numbers:]] if numbers < X.shape[1] else dense


def predicted(model: Model, X: Any) -> Array:
    """Return a network's outputs (rows, n_out) for X (rows, n), dense or CSR."""
    found = model.predict(rows_for(model.network.blocks, X))
    return np.hstack([*found.values()]) if isinstance(found, dict) else found


def mean_outputs(models: Sequence[Model], X: Any) -> Array:
    """Return the mean of the networks' outputs (rows, n_out), float64; probabilities of a row sum to 1."""
    total: Array = np.zeros((X.shape[0], models[0].network.n_out))
    for model in models if len(total) else ():
        total += predicted(model, X)
    whole = total.sum(axis=1, keepdims=True) if models[0].network.output == "softmax" else len(models)
    mean: Array = total / whole
    return mean


def balanced(targets: Array, weights: Array | None, classes: int) -> Array:
    """Return weights of rows (rows,), with equal sums for all classes; targets : (rows,) whole numbers"""
    given: Array = np.ones(len(targets)) if weights is None else weights
    sums = np.bincount(targets, given, classes)
    return given / np.where(sums > 0, sums, 1)[targets] * given.sum() / classes
