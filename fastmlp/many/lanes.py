"""Trainings in lanes: chunks are taken together, a network in each lane of a vector."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import lanes
from fastmlp.backend.choice import current_backend
from fastmlp.backend.lanes import LaneProgram
from fastmlp.many.blocks import MOST, Pattern
from fastmlp.model.backend import Chunk
from fastmlp.model.state import TrainState
from fastmlp.system.compiling import Stopwatch
from fastmlp.trained.model import Model
from fastmlp.training.training import Training

if TYPE_CHECKING:
    from fastmlp.kernels.lanes.training import LaneBlocks

SECONDS_OF_A_THREAD = 4e-3
"""Estimated seconds of steps worth a further thread, which starts late, and prepares another block."""


def program_of(training: Training) -> LaneProgram | None:
    """Return the lane program of a training; None if the training goes alone."""
    as_usual = all(value is None for value in training.options.of_steps().values())
    if not (isinstance(training.data.inputs, np.ndarray) and as_usual) or training.optimizer.whole:
        return None
    name = current_backend(training.backend).name  # type: ignore[arg-type]  # Steps are, or have one
    rows, dtype = len(training.data.weights), training.data.weights.dtype
    given = name, training.network, training.optimizer, rows, training.step_rows, dtype
    return lanes.program_of(*given, training.orders is not None)


def saved_together(training: Training, program: LaneProgram | None, as_one: bool) -> float:
    """Return the seconds saved by lanes for a training, about. as_one : as of `saved_by`"""
    steps = training.epochs * -(-len(training.data.weights) // training.step_rows)
    return 0.0 if program is None else program.saved_by(steps, as_one)


class ModelGroup:
    """Models for joint training.

    program : of lanes, for joint steps; None to train each model alone
    workers : the threads that train models
    indices : indices in the call
    patterns : by these indices, for trainings in blocks, which nothing looks into; else empty
    """

    def __init__(self, program: LaneProgram | None, workers: int) -> None:
        self.program, self.workers = program, workers
        self.indices: list[int] = []
        self.patterns: dict[int, Pattern] = {}
        self._saved = 0.0
        """Seconds saved by joint training, about."""
        self._seconds = 0.0
        """Seconds of a model in a block, about."""

    def add(self, indices: Sequence[int], pattern: Pattern | None, saved: float) -> None:
        """Add models. saved : of each, as of `saved_together`"""
        self.indices += indices
        if pattern is not None:
            self._seconds = pattern.seconds
            self.patterns.update(dict.fromkeys(indices, pattern))
        self._saved += len(indices) * saved / self.workers

    @property
    def lanes(self) -> int:
        """The most models in lanes; 1 if lanes save nothing: more models would fill the cache."""
        return 1 if self.program is None or self._saved <= 0 else min(self.program.lanes, len(self.indices))

    @property
    def at_once(self) -> int:
        """The number of models taken at a time: with a program a block, some for each thread."""
        if not self.has_program:
            return self.lanes
        fewest = math.ceil(SECONDS_OF_A_THREAD / max(self._seconds, 1e-9))
        most = min(MOST, max(fewest, -(-len(self.indices) // self.workers)))
        return -(-most // self.lanes) * self.lanes

    @property
    def parts(self) -> int:
        """The number of parts of the models, for threads."""
        models = len(self.indices)
        if not (self.patterns and self.has_program):
            return models
        return min(-(-models // self.at_once), math.ceil(models * self._seconds / SECONDS_OF_A_THREAD))

    @property
    def has_program(self) -> bool:
        """True if the lane program exists, or may be compiled now."""
        return self.lanes > 1 and self.program is not None and self.program.is_worth(self._saved)

    def lose(self, seconds: float) -> None:
        """Count seconds lost without the lane program, if the program would save time."""
        if self.lanes > 1 and self.program is not None:
            self.program.lose(seconds)


class LaneTraining(Training):
    """A training with chunks taken in lanes where possible.

    taken : the chunk, the lanes' block and objectives, and the network's index there; None without
    """

    taken: tuple[Chunk, LaneBlocks, NDArray[np.float64], int] | None = None

    def advance(self, state: TrainState, chunk: Chunk) -> tuple[TrainState, NDArray[np.float64]]:
        """Take the chunk's steps in place; return the state and the objectives (steps,)."""
        taken, self.taken = self.taken, None
        if taken is None or taken[0] is not chunk:  # alone, or again after a loss that is not finite
            return super().advance(state, chunk)
        _, block, objectives, lane = taken
        state.parameters[...], moments = block.of_model(lane)
        state.moments[: len(moments)] = moments
        return state.at(state.step + len(chunk.starts)), objectives[lane].copy()


class Lanes:
    """Trainings that go on together; at a training's end the next takes over the lane.

    take() gives the index of a model to train and a training, None at the end
    begin(index, training) takes note of a training; end(index, result or error) takes the result
    group : of the models; lanes : the most trainings at a time
    """

    def __init__(
        self,
        take: Callable[[], tuple[int, Any] | None],
        begin: Callable[[int, LaneTraining], None],
        end: Callable[[int, Model | BaseException], None],
        group: ModelGroup,
        lanes: int,
    ) -> None:
        self._take, self._begin, self._end, self._group = take, begin, end, group
        self._stopwatch, self._most = Stopwatch(), lanes
        self._lanes: dict[LaneTraining, Generator[LaneTraining, None, None]] = {}
        """Trainings under way, each with its `_life`; an error that ends a training goes there."""

    def run(self) -> None:
        """Take all trainings, until none is left."""
        while True:
            while len(self._lanes) < self._most and (given := self._take()) is not None:
                self._enter(*given)
            if not self._lanes:
                return
            if steps := self._steps_now():
                try:
                    self._go_on(steps)
                except BaseException as error:  # of no single training: it ends all that are under way
                    for training in [*self._lanes]:
                        self._leave(training, error)

    def _enter(self, index: int, prepared: Any) -> None:
        life = self._life(index, prepared)
        if (training := next(life, None)) is not None:
            self._lanes[training] = life

    def _life(self, index: int, prepared: Any) -> Generator[LaneTraining, None, None]:
        """Yield a training under way; end the training when over."""
        result: Model | BaseException
        try:
            training = prepared.begun(LaneTraining)
            self._begin(index, training)
            with training.under_way():
                yield training
            result = prepared.ended(training.run)
        except BaseException as error:
            result = error
        try:
            self._end(index, result)
        finally:
            del result  # an error's frames hold this one, and the rows

    def _leave(self, training: LaneTraining, error: BaseException | None = None) -> None:
        """End a training; error : of a failed training"""
        life = self._lanes.pop(training)
        try:
            with suppress(StopIteration):
                next(life) if error is None else life.throw(error)
        finally:
            del error  # whose frames hold this one, from Python 3.12 on

    def _steps_now(self) -> int:
        """Return the number of the next steps; finished trainings leave."""
        steps = []
        for training in [*self._lanes]:
            try:
                steps_of_one = training.steps_now()  # calls callbacks
            except BaseException as error:
                self._leave(training, error)
                continue
            if steps_of_one:
                steps.append(steps_of_one)
            else:
                self._leave(training)
        return min(steps, default=0)

    def _go_on(self, steps: int) -> None:
        """Take the next steps of all trainings, in lanes where possible."""
        together = defaultdict(list)
        chunks, stopwatch = {}, Stopwatch()
        program = self._group.program if self._group.has_program else None
        for training in [*self._lanes]:
            try:
                chunk = chunks[training] = training.next_chunk(steps)  # calls a user's schedule
            except BaseException as error:
                self._leave(training, error)
                continue
            if program is not None:
                # Of unequal rows an order is longer, where the steps are the first ones of an epoch.
                visits = len(chunk.order) or len(training.data.weights)
                together[chunk.starts.tobytes(), chunk.stops.tobytes(), visits].append(training)
        for members in together.values():
            if program is not None and len(members) > 1:
                _take_together(program, members, [chunks[training] for training in members])
        seconds = stopwatch.lap().working
        for training in [*self._lanes]:
            is_taken = training.taken is not None
            try:
                training.take_chunk(chunks[training])
            except BaseException as error:
                self._leave(training, error)
            if is_taken:
                training.pace = seconds / steps
        taken = self._stopwatch.lap().working
        if program is None:
            self._group.lose(taken)


def _take_together(program: LaneProgram, members: Sequence[LaneTraining], chunks: Sequence[Chunk]) -> None:
    """Take the chunks of trainings in lanes; all chunks have the same starts and stops."""
    every, first = np.arange(len(members)), chunks[0]
    moment_rows = max(1, members[0].optimizer.moment_rows)
    block = lanes.blocks_of(
        program, [(one.network, one.optimizer) for one in members], every,
        [one.data for one in members], every,
        np.array([one.dropout_key for one in members]), np.stack([one.state.parameters for one in members]),
        np.stack([one.state.moments[:moment_rows].ravel() for one in members]),
    )  # fmt: skip
    visited = zip(chunks, members, strict=True)
    orders = [
        chunk.order if len(chunk.order) else np.arange(len(training.data.weights))
        for chunk, training in visited
    ]
    totals, rates = [one.totals for one in chunks], [one.rates for one in chunks]
    steps = np.array([one.state.step for one in members])
    objectives = block.take(steps, orders, first.starts, first.stops, totals, rates)
    for lane, (training, chunk) in enumerate(zip(members, chunks, strict=True)):
        training.taken = chunk, block, objectives, lane
