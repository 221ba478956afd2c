"""Small networks of one schedule, into whose trainings nothing looks: they take their steps as one training.

A training of its own for each (`fastmlp.many.lanes`) takes Python ten times as long as a thousand steps of a
network 3-4-1. So what is done for one is done here for all at once; and what nobody may ask for, as the lists
of a history, is made when somebody does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import lanes
from fastmlp.backend.choice import settled
from fastmlp.backend.lanes import LaneProgram
from fastmlp.model.backend import Backend, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import Snapshot
from fastmlp.system import budget
from fastmlp.system.compiling import Stopwatch
from fastmlp.training.batches import Batches, Orders
from fastmlp.training.epoch_losses import EpochLosses
from fastmlp.training.loop import CHUNK_SECONDS, MAX_CHUNK_VISITS
from fastmlp.training.model import Model
from fastmlp.training.more import Beginning, Continuation
from fastmlp.training.pace import most_seconds
from fastmlp.training.prepared import Prepared
from fastmlp.training.start import Streams, drawn_starts, dropout_key, orders_of

Array = NDArray[Any]

MOST = 128
"""Models of a block: with more, what each costs Python hardly becomes less."""

MOST_LOSSES = 1 << 20
"""Bounds the losses of a chunk, of all models, to 8 MiB."""


class Pattern(NamedTuple):
    """What models have in common that differ in seeds, rows and initial parameters only.

    backend : that predicts; epochs, rows, batch_size : of the training, of an epoch, of a step
    shuffles : whether orders are drawn; kept : what a model keeps of its training, but for seed and beginning
    """

    network: Network
    optimizer: Optimizer
    backend: Backend
    program: LaneProgram
    epochs: int
    rows: int
    batch_size: int
    shuffles: bool
    kept: Continuation

    @classmethod
    def of(cls, training: Prepared, program: LaneProgram) -> Pattern | None:
        """Return that of a training; None if something looks into it, or its rows are of unlike weight."""
        plan, kept = training.plan, training.training
        if training.callbacks or plan.held_out is not None or plan.setting or kept.beginning != Beginning():
            return None
        if (plan.data.weights != 1).any():
            return None
        rows, now = len(plan.data.weights), settled(plan.backend)  # type: ignore[arg-type]  # no `Steps`
        return cls(
            plan.network, plan.optimizer, now, program, plan.epochs, rows, plan.batch_size,
            plan.orders is not None, kept,
        )  # fmt: skip

    @property
    def schedule(self) -> tuple[Any, ...]:
        """What is the same for all models of a block."""
        return self.program.bound, self.epochs, self.rows, self.batch_size, self.shuffles

    def takes(self, data: Data) -> bool:
        """Return whether a model with these rows may be trained in one block with the others."""
        return isinstance(data.inputs, np.ndarray) and bool((data.weights == 1).all())


class Member(NamedTuple):
    """One of the models.

    model : its place in the call; initial : its first parameters (P,), None draws them
    """

    model: int
    seed: int
    pattern: Pattern
    data: Data
    initial: Array | None


class BlockTraining:
    """The trainings of a block's models.

    stop_reason : why they stop before their last epoch
    """

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._pattern = pattern = members[0].pattern
        self.stop_reason: str | None = None
        self._step = 0
        orders = orders_of([one.seed for one in members]) if pattern.shuffles else [None]
        self._batches = [Batches(pattern.rows, pattern.batch_size, one) for one in orders]
        self._per_epoch = self._batches[0].per_epoch
        self._losses = EpochLosses(self._per_epoch, len(members) - 1)
        self._curves: list[Array] = []
        given = [
            (
                one.pattern.network,
                one.pattern.optimizer,
                one.data,
                dropout_key(one.pattern.network, Streams(one.seed)),
            )
            for one in members
        ]
        self._lanes = lanes.blocks_of(pattern.program, given, _beginnings(members))
        weights = pattern.program.network.operations[-1].end
        self._pace = len(members) * most_seconds(weights, pattern.batch_size)
        self._finite = np.ones(len(members), np.bool_)

    def run(self) -> None:
        """Take all steps, or those up to a stop."""
        with budget.training():
            while steps := self._steps_now():
                self.take_steps(steps)

    def stop(self, reason: str) -> None:
        """End them after their chunk."""
        self.stop_reason = reason

    def _steps_now(self) -> int:
        if self.stop_reason is not None:
            return 0
        models, visits = len(self._members), MAX_CHUNK_VISITS // len(self._members)
        timely = int(CHUNK_SECONDS / max(self._pace, 1e-9))
        left = self._pattern.epochs * self._per_epoch - self._step
        most = min(timely, MOST_LOSSES // models, self._batches[0].steps_within(visits))
        return min(max(1, most), left)

    def take_steps(self, steps: int) -> None:
        """Take the next steps of all models."""
        stopwatch = Stopwatch()
        visits = [one.visit(self._step, steps) for one in self._batches]
        _, starts, stops, rows = visits[0]
        rates = {id(one.pattern): one.pattern for one in self._members}
        numbers = np.arange(self._step, self._step + steps)
        of_pattern = {
            key: pattern.optimizer.rates(numbers, self._per_epoch) for key, pattern in rates.items()
        }
        objectives = self._lanes.take(
            self._step, [order for order, *_ in visits], starts, stops, rows,
            [of_pattern[id(one.pattern)] for one in self._members],
        )  # fmt: skip
        self._step += steps
        self._pace = stopwatch.lap().working / steps
        self._curves.append(self._losses.means(rows, objectives))
        self._finite &= np.isfinite(objectives).all(axis=1)

    def models(self) -> Iterator[tuple[int, Model]]:
        """Yield the place of each model, and the model; those that have diverged are left out."""
        pattern, step = self._pattern, self._step
        parameters, moments = self._lanes.parameters, self._lanes.moments
        rows = pattern.optimizer.moment_rows
        curves = self._curves
        if len(curves) != 1:
            curves = [np.concatenate([np.empty((len(parameters), 0)), *curves], axis=1)]
        ended = EndedBlock(
            step,
            moments.reshape(len(moments), -1, parameters.shape[1])[:, :rows],
            [(one.under_way(step), one.draws) for one in self._batches],
            self._losses.pending,
            curves[0],
        )
        finite = (self._finite & np.isfinite(parameters).all(axis=1)).tolist()
        threads = 1 if step else None
        for place, (one, own, sound) in enumerate(zip(self._members, parameters, finite, strict=True)):
            if sound:
                trained = one.pattern
                kept = Kept(ended, place, trained.kept, one.seed, own)
                made = Model(
                    trained.network, own, kept.history, trained.backend, self.stop_reason, kept, threads
                )
                yield one.model, made


class EndedBlock(NamedTuple):
    """What the trainings of a block came to.

    step : updates; moments : (models, rows, P)
    orders : of each model, or one of all, that of the epoch under way and what draws the later ones
    pending : as of `EpochLosses`; curves : (models, epochs) the losses
    """

    step: int
    moments: Array
    orders: list[tuple[NDArray[np.int64], Orders | None]]
    pending: NDArray[np.float64]
    curves: NDArray[np.float64]


class Kept(NamedTuple):
    """The end of a training, as its model keeps it: a `Continuation` when somebody goes on from it.

    place : of the model in the block
    like : what all models of the pattern keep; parameters : (P,) of this one
    """

    block: EndedBlock
    place: int
    like: Continuation
    seed: int
    parameters: Array

    def history(self) -> dict[str, list[float]]:
        """Return a history of its own."""
        return {"loss": self.block.curves[self.place].tolist()}

    def continuation(self) -> Continuation:
        """Return the training to go on with."""
        block, place = self.block, self.place
        order, draws = block.orders[place if len(block.orders) > 1 else 0]
        order_state = {} if draws is None else draws.state
        snapshot = Snapshot(
            {}, self.parameters, block.moments[place], block.step, order, order_state,
            block.pending[[place, -1]], self.history(), [],
        )  # fmt: skip
        return self.like._replace(
            options=self.like.options | {"seed": self.seed}, beginning=Beginning(snapshot)
        )

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, options: dict[str, Any]) -> Model:
        """Return the model that more epochs of the training come to."""
        return self.continuation().go_on(model, X, y, epochs, options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.continuation(),)  # the arrays of its own alone


def _itself(continuation: Continuation) -> Continuation:
    return continuation


def _beginnings(members: Sequence[Member]) -> Array:
    """Return the parameters (members, P) that the models begin with."""
    dtype = members[0].data.targets.dtype
    drawn: dict[int, list[int]] = {}
    for place, one in enumerate(members):
        drawn.setdefault(id(one.pattern.network) if one.initial is None else -1, []).append(place)
    found = np.empty((len(members), parameter_count(members[0].pattern.network)), dtype)
    for key, places in drawn.items():
        if key == -1:
            found[places] = [members[place].initial for place in places]
        else:
            network = members[places[0]].pattern.network
            found[places] = drawn_starts(network, [members[place].seed for place in places], dtype)
    return found
