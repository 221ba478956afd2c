"""Blocks: small networks of equal schedules, trained as a single training.

A separate training for each (`fastmlp.many.lanes`) takes Python ten times as long as a thousand steps of a
network 3-4-1. So everything is done for all networks at once; rarely used values, as lists of a history, are
made when requested.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import lanes
from fastmlp.backend.choice import current_backend
from fastmlp.backend.lanes import LaneProgram
from fastmlp.data.batches import Batches, batches_of
from fastmlp.data.seeding import RowOrders
from fastmlp.model.backend import Backend, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import Array, initial_state
from fastmlp.system import budget
from fastmlp.system.compiling import Stopwatch
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.loop import CHUNK_SECONDS, MAX_CHUNK_VISITS, EpochLosses
from fastmlp.training.preparation import drawn_starts, dropout_key
from fastmlp.training.snapshot import Snapshot
from fastmlp.training.training import Training

T = TypeVar("T")

MOST = 256
"""Models of a block: beyond, Python's time for a model hardly falls."""

CHUNKS = 16
"""Chunks of a training, about, once the pace is known: lanes become free between two chunks."""

LEAST_SECONDS = 1e-2
"""The least seconds of a chunk, unless another bound is lower."""

FEWEST_STEPS = 8
"""The least steps of a chunk, likewise: to keep the state before takes less than a step."""

FREED_FRACTION = 0.75
"""Networks that fill at most this part of the vectors are laid out anew."""

MOST_LOSSES = 1 << 20
"""Bounds the losses of a chunk, of all models, to 8 MiB."""


class ScheduleError(Exception):
    """A user's schedule has raised an error in a block; the error is the cause."""


class Pattern(NamedTuple):
    """The common part of models with different seeds, rows and initial parameters.

    training : of a model, without rows and orders; backend : for predictions
    rows : of an epoch; shuffles : True to draw orders
    options : kept for `fit_more`, without the seed
    """

    network: Network
    optimizer: Optimizer
    training: Training
    backend: Backend
    rows: int
    shuffles: bool
    program: LaneProgram
    options: Any

    @classmethod
    def of(cls, training: Training, program: LaneProgram) -> Pattern | None:
        """Return a training's pattern; None if something looks into the training, or rows weigh unlike."""
        resumed, empty = training.resumed is not None, Data(*np.empty((3, 0)))
        if training.callbacks or training.held_out is not None or training.setting or resumed:
            return None
        if (training.data.weights != 1).any():
            return None
        rows, now = len(training.data.weights), current_backend(training.backend)  # type: ignore[arg-type]  # no `Steps`
        bare = training.having(
            Training, data=empty, given_data=empty, orders=None, start=None, state=None, backend=now
        )
        network, optimizer, shuffles = training.network, training.optimizer, training.orders is not None
        return cls(network, optimizer, bare, now, rows, shuffles, program, training.kept_options())

    def with_optimizer(self, optimizer: Optimizer) -> Pattern:
        """Return the pattern with another optimiser, of other rates."""
        return self._replace(optimizer=optimizer, options=self.options.having(optimizer=optimizer))

    @property
    def schedule(self) -> tuple[Any, ...]:
        """The common schedule of a block's models."""
        return (
            self.program.specialized,
            self.training.epochs,
            self.rows,
            self.training.step_rows,
            self.shuffles,
        )

    @property
    def seconds(self) -> float:
        """Seconds for a model of a block, about."""
        return (
            self.training.epochs
            * batches_of(self.rows, self.training.step_rows, False)
            * self.program.seconds
        )

    def takes(self, data: Data) -> bool:
        """Return True if a block may have a model with these rows."""
        return isinstance(data.inputs, np.ndarray) and bool((data.weights == 1).all())


class BlockMembers(NamedTuple):
    """The models of a block, as lists.

    models : indices in the call; initial : first parameters (P,), None to draw
    """

    models: list[int]
    seeds: list[int]
    patterns: list[Pattern]
    data: list[Data]
    initial: list[Array | None]

    def at(self, indices: Iterable[int]) -> BlockMembers:
        """Return the members at some indices."""
        lists: Any = ([one[index] for index in indices] for one in self)
        return BlockMembers(*lists)


class BlockTraining:
    """The trainings of a block's models.

    stop_reason : why all stop before the last epoch
    """

    def __init__(self, members: BlockMembers) -> None:
        self._members, self._pattern = members, members.patterns[0]
        self.stop_reason: str | None = None
        self._step, pattern, count = 0, members.patterns[0], len(members.models)
        orders = map(RowOrders, members.seeds) if pattern.shuffles else [None]
        self._batches = [Batches(pattern.rows, pattern.training.step_rows, one) for one in orders]
        self._per_epoch = self._batches[0].per_epoch
        self._losses = EpochLosses(self._per_epoch, count - 1)
        self._curves: list[Array] = []
        self._kinds, self._kind_of = distinct(members.patterns)
        self._keys = _dropout_keys(members)
        self._lanes = self._laid_out(_beginnings(members))
        self._pace = count * pattern.program.seconds
        """Seconds a step."""
        self._finite = np.ones(count, np.bool_)
        self._diverged: list[tuple[int, DivergenceError]] = []

    def _laid_out(self, parameters: Array, moments: Array | None = None) -> Any:
        """Return the models in lanes."""
        kinds = [(one.network, one.optimizer) for one in self._kinds]
        data = distinct(self._members.data)
        return lanes.blocks_of(
            self._pattern.program, kinds, self._kind_of, *data, self._keys, parameters, moments
        )

    def run(self) -> None:
        """Take all steps, or the steps up to a stop."""
        with budget.training():
            while steps := self._steps_now():
                self.take_steps(steps)

    def stop(self, reason: str) -> None:
        """Stop the block after a chunk."""
        self.stop_reason = reason

    def _steps_now(self) -> int:
        models, steps = len(self._finite), self._pattern.training.epochs * self._per_epoch
        if self.stop_reason is not None or not self._finite.any():
            return 0
        pace = max(self._pace, 1e-9)
        timely = min(int(CHUNK_SECONDS / pace), self._batches[0].steps_within(MAX_CHUNK_VISITS // models))
        part = steps // CHUNKS if self._step else 0  # at first the pace is an estimate
        most = min(timely, MOST_LOSSES // models, max(FEWEST_STEPS, int(LEAST_SECONDS / pace), part))
        return min(max(1, most), steps - self._step)

    def take_steps(self, steps: int) -> None:
        """Take the next steps of all models."""
        stopwatch = Stopwatch()
        visits = [one.visit(self._step, steps) for one in self._batches]
        _, starts, stops, rows = visits[0]
        numbers = np.arange(self._step, self._step + steps)
        try:
            rates = [one.optimizer.rates(numbers, self._per_epoch) for one in self._kinds]
        except Exception as error:  # a user's function may raise anything
            raise ScheduleError from error
        orders, before = [order for order, *_ in visits], self._lanes.snapshot()
        objectives = self._lanes.take(self._step, orders, starts, stops, [rows], rates)
        diverged = self._finite & ~self._are_finite(objectives)
        for index in np.flatnonzero(diverged).tolist():
            wrong = np.flatnonzero(~np.isfinite(objectives[index]))
            found = self._divergence_of(index, before, int(wrong[0]) + 1 if len(wrong) else steps)
            self._diverged.append((self._members.models[index], found))
        self._curves.append(self._losses.means(rows, objectives))
        self._step += steps
        if diverged.any():
            self._finite &= ~diverged
            self._free_lanes()
        self._pace = stopwatch.lap().working / steps

    def _are_finite(self, objectives: Array) -> NDArray[np.bool_]:
        """Return for each model True if objectives (models, steps) and parameters are finite."""
        with np.errstate(invalid="ignore", over="ignore"):
            finite: NDArray[np.bool_] = np.isfinite(objectives.sum(axis=1))
        if not finite.all():  # a sum of finite ones may overflow
            finite[~finite] = np.isfinite(objectives[~finite]).all(axis=1)
        return finite & self._lanes.finite

    def _divergence_of(self, index: int, before: tuple[Array, Array], steps: int) -> DivergenceError:
        """Return a diverged model's error, by the chunk's steps once more, alone.

        before : all numbers at the chunk's beginning; steps : up to the first objective that is not finite
        """
        pattern, (parameters, moments) = self._members.patterns[index], self._lanes.of_model(index, before)
        curve = [loss for curves in self._curves for loss in curves[index].tolist()]
        rows, sums = pattern.optimizer.moment_rows, self._losses.sums[[index, -1]]
        snapshot = Snapshot(parameters, moments[:rows], self._step, self._losses.steps, sums, {"loss": curve})
        orders = RowOrders(self._members.seeds[index]) if pattern.shuffles else None
        training = pattern.training.having(
            Training, optimizer=pattern.optimizer, data=self._members.data[index], orders=orders, threads=1,
            dropout_key=int(self._keys[index]), state=initial_state(np.empty_like(parameters), rows),
            resumed=snapshot,
        )  # fmt: skip
        training.begin()
        try:
            training.take_chunk(training.next_chunk(steps))
        except DivergenceError as diverged:
            return diverged.with_traceback(None)  # whose frames hold the rows
        raise AssertionError("a model has diverged in a block, and not by itself")

    def _free_lanes(self) -> None:
        """Lay the finite models out anew, if in fewer vectors."""
        left, count = np.flatnonzero(self._finite), len(self._finite)
        vectors = self._lanes.vectors_of
        if not len(left) or vectors(len(left)) > FREED_FRACTION * vectors(count):
            return
        numbers = self._lanes.parameters[left], self._lanes.moments[left]
        self._members = self._members.at(left)
        self._kind_of, self._keys, self._finite = self._kind_of[left], self._keys[left], self._finite[left]
        self._lanes = self._laid_out(*numbers)
        if len(self._batches) > 1:
            self._batches = [self._batches[index] for index in left]
        self._curves = [curves[left] for curves in self._curves]
        self._losses.sums = self._losses.sums[[*left, -1]]

    def models(self) -> Iterator[tuple[int, Model | DivergenceError]]:
        """Yield the index of each model, and the model or its divergence."""
        yield from self._diverged
        pattern, step = self._pattern, self._step
        parameters, moments = self._lanes.parameters, self._lanes.moments
        rows = pattern.optimizer.moment_rows
        curves = self._curves
        if len(curves) != 1:
            curves = [np.concatenate([np.empty((len(parameters), 0)), *curves], axis=1)]
        moments = moments.reshape(len(moments), -1, parameters.shape[1])[:, :rows]
        ended = EndedBlock(step, moments, self._losses.steps, self._losses.sums, curves[0])
        finite = self._finite.tolist()
        threads, reason = 1 if step else None, self.stop_reason
        models, seeds, patterns, *_ = self._members
        each = zip(models, seeds, patterns, parameters, strict=True)
        for index, (model, seed, like, weights) in enumerate(each):
            if finite[index]:
                snapshot = BlockSnapshot(ended, index, like, seed, weights)
                given = snapshot.history, like.backend, reason, snapshot, threads
                yield model, Model(like.network, weights, *given)


class EndedBlock(NamedTuple):
    """The end of a block's trainings.

    step : updates; moments : (models, rows, P)
    epoch_step, sums : steps and sums of `EpochLosses`; curves : (models, epochs) the losses
    """

    step: int
    moments: Array
    epoch_step: int
    sums: NDArray[np.float64]
    curves: NDArray[np.float64]


class BlockSnapshot(NamedTuple):
    """The end of a model's training; a `Snapshot` is made when needed.

    number : of the model in the block; parameters : (P,) of this model
    """

    block: EndedBlock
    number: int
    pattern: Pattern
    seed: int
    parameters: Array

    def history(self) -> dict[str, list[float]]:
        """Return the history, new lists."""
        return {"loss": self.block.curves[self.number].tolist()}

    def snapshot(self) -> Snapshot:
        """Return the training to go on with."""
        block, number, pattern = self.block, self.number, self.pattern
        return Snapshot(
            self.parameters, block.moments[number], block.step, block.epoch_step, block.sums[[number, -1]],
            self.history(), backend=pattern.backend.name, seed=self.seed, options=pattern.options,
            rows=pattern.rows,
        )  # fmt: skip

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, options: dict[str, Any]) -> Model:
        """Return the model after more epochs of the training."""
        return self.snapshot().go_on(model, X, y, epochs, options)

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self.snapshot(),)  # the arrays of its own alone


def _itself(snapshot: Snapshot) -> Snapshot:
    return snapshot


def distinct(objects: Sequence[T]) -> tuple[list[T], NDArray[np.intp]]:
    """Return the distinct objects, and the index (objects,) of each object among them."""
    found = {id(one): one for one in objects}
    if len(found) == 1:
        return [objects[0]], np.zeros(len(objects), np.intp)
    indices = {key: index for index, key in enumerate(found)}
    return [*found.values()], np.array([indices[id(one)] for one in objects])


def _dropout_keys(members: BlockMembers) -> NDArray[np.uint32]:
    """Return the keys of dropout masks (members,), 0 without dropout."""
    keys = np.zeros(len(members.seeds), np.uint32)
    if members.patterns[0].network.drops:
        keys[:] = [
            dropout_key(pattern.network, seed)
            for pattern, seed in zip(members.patterns, members.seeds, strict=True)
        ]
    return keys


def _beginnings(members: BlockMembers) -> Array:
    """Return the first parameters (members, P) of the models."""
    networks, kind_of = distinct([pattern.network for pattern in members.patterns])
    found = np.empty((len(kind_of), parameter_count(networks[0])), members.data[0].targets.dtype)
    draws = np.array([one is None for one in members.initial])
    for index, network in enumerate(networks):
        drawn = np.flatnonzero(draws & (kind_of == index))
        if len(drawn):
            found[drawn] = drawn_starts(network, [members.seeds[i] for i in drawn], found.dtype)
    for i in np.flatnonzero(~draws):
        found[i] = members.initial[i]
    return found
