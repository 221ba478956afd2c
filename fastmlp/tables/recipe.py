"""The settings of a training on a table, with defaults by measurement: docs/tables.md has the tables."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME, AdamW, Optimizer
from fastmlp.model.schedules import Cosine
from fastmlp.tables.tasks import Task

VISITS = 20_000_000
"""Rows that a member visits at most, unless epochs are given: an epoch of a large table counts for many."""

MEMBER_VISITS = 40_000_000
"""Rows that all members visit together at most, unless their number is given."""


@dataclass(frozen=True)
class Recipe:
    """How the members of an ensemble are trained. None: what `resolved` makes of the number of rows.

    decay : weight decay of adamw
    patience : epochs without a lower loss on the rows held out that end a training
    balanced : whether all classes count the same
    """

    hidden: tuple[int, ...] = (128, 128)
    activation: str = "silu"
    optimizer: str = "adamw"
    learning_rate: float = 0.003
    epochs: int | None = None
    batch_size: int | None = None
    dropout: float = 0.1
    l2: float = 0.0
    decay: float = 1.0
    patience: int = 20
    members: int | None = None
    balanced: bool = False

    def resolved(self, rows: int) -> Recipe:
        """Return the recipe with numbers for everything, for so many training rows."""
        epochs = self.epochs or max(8, min(200, VISITS // rows))
        members = self.members or max(1, min(8, MEMBER_VISITS // (rows * epochs)))
        batch_size = self.batch_size or min(256, max(16, 1 << max(1, rows // 32).bit_length() - 1))
        return replace(self, epochs=epochs, members=members, batch_size=batch_size)

    def network(self, n_in: int, task: Task) -> Network:
        """Return the network of a member."""
        return Network(
            [n_in, *self.hidden, task.n_out],
            self.activation,
            task.output,
            task.loss,
            dropout=self.dropout,
            l2=self.l2,
            weight_init="he_normal",
        )

    def optimizer_of(self, steps: int) -> Optimizer:
        """Return the optimiser of a training of so many steps, over which the rate falls to 0."""
        kind = BY_NAME[self.optimizer]
        rate = Cosine(self.learning_rate, steps, unit="step")
        return AdamW(rate, weight_decay=self.decay) if kind is AdamW else kind(rate)
