"""The settings of a training on a table, with the defaults that docs/measured/tables.md measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastmlp.model.averages import EMA, with_average
from fastmlp.model.descriptions import described
from fastmlp.model.inputs import Blocks
from fastmlp.model.layers import Dense, Dropout
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME, AdamW, Optimizer
from fastmlp.model.part import Part
from fastmlp.model.schedules import Cosine
from fastmlp.model.state import Array
from fastmlp.tables.columns import BelowOne, Count, Size, Whole
from fastmlp.tables.tasks import Several, Task

MOST_EPOCHS = 400
"""Epochs of a member at most, unless they are given; nearly all end before."""

VISITS = 3_000_000
"""Rows that a member visits at most, unless epochs are given: an epoch of a large table counts for many."""

MEMBER_VISITS = 60_000_000
"""Rows that all members visit together at most, unless their number is given."""

MANY_ROWS, ENOUGH_ROWS = 3500, 5000
"""From so many rows on, recipes have two members, and one; their first members race (`selection`)."""

MOST_MEMBERS = 1000
"""Networks of a recipe at most."""


@dataclass(frozen=True)
class Recipe:
    """How the members of an ensemble are trained. None: what `resolved` makes of the number of rows.

    layers : the hidden layers, in the place of hidden, activation and dropout
    decay : weight decay of adamw
    patience : epochs without a lower loss on the rows held out that end a training
    balanced : whether all classes count the same
    bins : of each number, whose places in them stand in place of the number; 0 for none
    sigma : deviation of the frequencies of each number's cosines, which are inputs beside it; 0 for none
    width : outputs of a linear layer of its own, which each number has behind these
    average : decay of the moving average of adamw's weights, which predicts and is validated; 0 for none
    most_members, members_of_many : what `resolved` makes of few rows, and of many
    """

    hidden: tuple[Count, ...] = (128, 128)
    activation: str = "silu"
    optimizer: str = "adamw"
    learning_rate: Size = 0.003
    epochs: Count | None = None
    batch_size: Count | None = None
    dropout: Size = 0.1
    l2: Size = 0.0
    decay: Size = 1.0
    patience: Count = 20
    members: Count | None = None
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
        """Whether numbers are embedded: bins or waves replace them, or are added to them."""
        return bool(self.bins or self.sigma)

    @property
    def described(self) -> dict[str, Any]:
        """The settings in JSON's types."""
        layers = {} if self.layers is None else {"layers": described(self.layers)}
        return {name: value for name, value in vars(self).items() if name != "layers"} | layers

    def resolved(self, rows: int) -> Recipe:
        """Return the recipe with numbers for everything, for so many training rows."""
        epochs = self.epochs or max(8, min(MOST_EPOCHS, VISITS // rows))
        few = self.members_of_many + (rows < ENOUGH_ROWS)
        most = min(self.most_members, few if rows >= MANY_ROWS else self.most_members)
        members = self.members or max(1, min(most, MEMBER_VISITS // (rows * epochs)))
        batch_size = self.batch_size or min(256, max(16, 1 << max(1, rows // 32).bit_length() - 1))
        return replace(self, epochs=epochs, members=members, batch_size=batch_size)

    def network(self, inputs: int | Blocks, task: Task, signs: Array | None = None) -> Network:
        """Return the network of a member with such inputs, as `inputs_of` returns them.

        signs : (n,) of the columns of X, as for `Network(monotone=)`; None of none
        """
        monotone = None if signs is None or not signs.any() else signs.astype(int).tolist()
        own: dict[str, Any] = {"l2": self.l2, "monotone": monotone}
        if isinstance(task, Several):
            return Network(inputs=inputs, layers=self._hidden, heads=task.heads, **own)
        own |= {"output": task.output, "loss": task.loss}
        if self.layers is not None or not isinstance(inputs, int):
            return Network(inputs=inputs, layers=[*self._hidden, Dense(task.n_out)], **own)
        sizes = [inputs, *self.hidden, task.n_out]
        return Network(sizes, self.activation, dropout=self.dropout, weight_init="he_normal", **own)

    @property
    def _hidden(self) -> list[Part]:
        """The hidden layers, as a list."""
        if self.layers is not None:
            return [*self.layers]
        dense = (Dense(width, self.activation, weight_init="he_normal") for width in self.hidden)
        return [part for one in dense for part in (one, Dropout(self.dropout))]

    def optimizer_of(self, steps: int) -> Optimizer:
        """Return the optimiser of a training of so many steps, over which the rate falls to 0."""
        kind = BY_NAME[self.optimizer]
        rate = Cosine(self.learning_rate, steps, unit="step")
        if kind is not AdamW:
            return kind(rate)
        adamw = AdamW(rate, weight_decay=self.decay)
        return with_average(adamw, EMA(self.average), steps) if self.average else adamw


PLAIN = Recipe()
"""Numbers as they are, and much decay: where noise rules; see docs/measured/tables.md."""

BINNED = Recipe(dropout=0.0, decay=0.01, bins=64, width=16, average=0.99, learning_rate=0.0045)
"""A linear layer of the places of each number in bins: where there is signal."""

WIDE = replace(BINNED, hidden=(256, 256))
"""The same in a larger network."""

WAVES = replace(BINNED, bins=0, sigma=0.1, width=8, dropout=0.2, learning_rate=0.006)
"""A linear layer of each number's cosines, next to it: where numbers act together."""

PRESETS = {
    "fast": (replace(WAVES, most_members=1),),
    "good": (PLAIN, BINNED, WAVES),
    "best": tuple(replace(one, members_of_many=3) for one in (PLAIN, BINNED, WAVES, WIDE)),
}
"""Recipes that rows held out choose from, from the shortest training to the least loss."""


def candidates(preset: str, given: Mapping[str, Any]) -> tuple[Recipe, ...]:
    """Return the different recipes of a preset with what is given in place of their own.

    Layers are those of a single recipe: they say what stands on the columns of X as they are.
    """
    recipes = PRESETS[preset]
    if "layers" in given:
        recipes = (replace(PLAIN, most_members=recipes[0].most_members),)
    return tuple(dict.fromkeys(replace(recipe, **given) for recipe in recipes))
