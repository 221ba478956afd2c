"""The trainings of a call of `fit_many` on worker threads, and the call's file."""

from __future__ import annotations

import contextvars
import copy
import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from fastmlp import checks
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.checkpoints.checkpoint import Checkpoint, Record, record_of_training
from fastmlp.checks import CheckpointError
from fastmlp.many.blocks import BlockMembers, BlockTraining, Pattern, ScheduleError
from fastmlp.many.files import read_list, record_of, write_records
from fastmlp.many.lanes import Lanes, LaneTraining, ModelGroup
from fastmlp.model.component import Component
from fastmlp.system.interrupts import POLL, Interrupted
from fastmlp.system.notices import Bar
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.snapshot import Snapshot

Ended = Model | DivergenceError


class Trainings:
    """The trainings of a call, taken by worker threads.

    results : of all models; None for unfinished trainings
    reason : the first reason for a stop of all trainings; None while trainings go on
    """

    def __init__(self, results: list[Ended | None]) -> None:
        self.results = results
        self.reason: str | None = None
        self._running: dict[int, Run | BlockTraining] = {}
        self._error: BaseException | None = None
        self._taking = threading.Lock()

    def stop(self, reason: str) -> None:
        """Stop all trainings after the present chunks, and begin no more.

        A signal's handler may call this.
        """
        self.reason = self.reason or reason
        for run in list(self._running.values()):
            _stop(run, self.reason)

    def run(
        self,
        groups: Sequence[ModelGroup],
        workers: int,
        prepare: Callable[[int], Any],
        bar: Bar,
        members: Callable[[list[int], list[Pattern]], BlockMembers] | None = None,
    ) -> None:
        """Train the models without a result, group after group, with no workers in this thread.

        prepare(index) gives a model's training, with `begun` and `ended` as of a `Training`
        members(indices, patterns) gives the models of a block, of groups with patterns

        Raises the error of a callback, once other trainings have stopped.
        """
        self._groups = [
            (group, iter([i for i, index in enumerate(group.indices) if self.results[index] is None]))
            for group in groups
        ]
        self._prepare, self._members = prepare, members
        self._bar, self._done = bar, sum(one is not None for one in self.results)
        threads, parts = [], sum(group.parts for group in groups)
        looked_into = any(not group.patterns for group in groups)
        for _ in range(min(workers, parts) if parts > 1 or looked_into else 0):
            thread = threading.Thread(target=contextvars.copy_context().run, args=(self._work,))
            try:
                thread.start()
            except RuntimeError:  # "can't start new thread"
                break
            threads.append(thread)
        if not threads:  # a short block: another core would read all of its memory anew
            self._work(by_lanes=False)
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(POLL)  # without a timeout Windows would not hear Ctrl-C
        except BaseException:
            self.stop("another error")
            raise
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # whose frames hold this one, and the rows

    def _work(self, by_lanes: bool = True) -> None:
        """Take trainings until none is left, or all stop.

        by_lanes : True to take several trainings at a time; False in the main thread, where each training has
            handlers of signals, to be removed in reverse order
        """
        try:
            for group, left in self._groups:
                while group.patterns and (indices := self._next(left, group.at_once)):
                    if not (group.has_program and self._trained(group, indices)):
                        self._train_each(group, iter(indices), by_lanes)
                self._train_each(group, left, by_lanes)
        except BaseException as error:  # of no training, which keep theirs
            self._error = self._error or error
            self.stop("another error")

    def _train_each(self, group: ModelGroup, left: Iterator[int], by_lanes: bool) -> None:
        """Train models, each alone or in a lane. left : indices in the group"""
        take, lanes = functools.partial(self._take, group, left), group.lanes if by_lanes else 1
        Lanes(take, self._begin, self._end, group, lanes).run()

    def _trained(self, group: ModelGroup, indices: list[int]) -> bool:
        """Train models as a block; return False if each must train alone, as after a failure."""
        models = [group.indices[index] for index in indices]
        patterns = [group.patterns[index] for index in models]
        assert self._members is not None
        try:
            block = self._running[models[0]] = BlockTraining(self._members(models, patterns))
            if self.reason is not None:
                block.stop(self.reason)
            block.run()
            for index, model in block.models():
                self.results[index] = model
        except (MemoryError, ScheduleError):
            return False
        finally:
            self._running.pop(models[0], None)
        self._count(len(indices))
        return True

    def _next(self, left: Iterator[int], most: int) -> list[int]:
        """Return the next indices of a group, at most so many; none if all stop."""
        with self._taking:
            return [] if self.reason is not None else [*itertools.islice(left, most)]

    def _take(self, group: ModelGroup, left: Iterator[int]) -> tuple[int, Any] | None:
        """Return the next model of a group with a training; None at the end."""
        for at in self._next(left, 1):
            index = group.indices[at]
            try:
                return index, self._prepare(index)
            except BaseException as error:
                self._end(index, error)
        return None

    def _begin(self, index: int, training: LaneTraining) -> None:
        self._running[index] = training.run
        if self.reason is not None:
            _stop(training.run, self.reason)

    def fail(self, index: int, error: BaseException) -> None:
        """Let an error other than a divergence end the other trainings."""
        error.add_note(f"in the training of model {index}")
        self._error = self._error or error
        self.stop(f"the training of model {index} raised an error")

    def _end(self, index: int, result: Model | BaseException) -> None:
        """Take over the result of a training among several."""
        self._take_over(index, result, self._running.pop(index, None))
        if self.results[index] is not None:
            self._count(1)

    def _take_over(self, index: int, result: Model | BaseException, run: Any) -> None:
        """Take over the result of a training; run : of the training, None before the beginning

        An error may be of another training, made by a callback.
        """
        context = result.__context__ if isinstance(result, KeyboardInterrupt) else None
        # See `deferred`; the call itself raises after Ctrl-C.
        diverged = _divergence_of(run, context) or _divergence_of(run, result)
        if diverged is not None:
            self.results[index] = diverged.with_traceback(None)  # whose frames hold the rows
            diverged.__context__ = None
        elif isinstance(result, Interrupted) and run and result.model.parameters is run.parameters:
            self.results[index] = result.model  # of a training in the main thread
        elif isinstance(result, BaseException):
            self.fail(index, result)
        else:
            self.results[index] = result

    def _count(self, ended: int) -> None:
        """Show so many more ended trainings."""
        with self._taking:
            self._done += ended
            self._bar.move(self._done)


def _divergence_of(run: Run | None, error: object) -> DivergenceError | None:
    """Return an error if a divergence of this run, else None."""
    if isinstance(error, DivergenceError) and run is not None and error.history is run.history:
        return error
    return None


def _stop(run: Run | BlockTraining, reason: str) -> None:
    if run.stop_reason is None:  # one that a callback has stopped keeps its reason
        run.stop(reason)


# --- the file of a call -------------------------------------------------------------------------------

KEEP_SECONDS = 0.2
"""The least seconds between two descriptions of a training: one takes as long as a small network's epoch."""


class CallFile:
    """The file of a call, written at intervals and at the end.

    checkpoint : the user's, with path and interval; int epochs are those of all models in the mean
    seeds : of all models; resumed : the first content, for a resumed call
    """

    def __init__(
        self, checkpoint: Checkpoint, seeds: list[int], resumed: Resumed | None, trainings: Trainings
    ) -> None:
        self.path, self.every = checkpoint.path, checkpoint.every
        self._seeds, self._trainings = seeds, trainings
        self._written: list[Record | None] = [None] * len(seeds) if resumed is None else [*resumed.records]
        self._epochs, self._time = 0, time.monotonic()
        self._writing = threading.RLock()

    def keep(self, index: int, run: Run) -> None:
        """Keep a training between two chunks."""
        record = record_of_training(run)
        # A callback's stop is kept, the call's own is not.
        record["stopped"] = run.stop_reason is not None and run.stop_reason != self._trainings.reason
        if run.epoch == run.epochs and not record["stopped"]:
            record["stop_reason"] = None  # the call was stopped when this one had ended
        self._written[index] = copy.deepcopy(record)  # parameters and moments are the live ones

    def count(self, epochs: int) -> None:
        """Count a training's completed epochs; write if due."""
        with self._writing:
            self._epochs += epochs
            if isinstance(self.every, timedelta):
                due = time.monotonic() - self._time >= self.every.total_seconds()
            else:
                due = self._epochs >= self.every * len(self._seeds)
            if due:
                self.write()

    def write(self) -> None:
        """Write all kept models."""
        with self._writing:
            for index, ended in enumerate(self._trainings.results):
                if isinstance(ended, DivergenceError):
                    self._written[index] = record_of(ended)
            write_records(self.path, self._written, {"seeds": self._seeds})
            self._epochs, self._time = 0, time.monotonic()


class KeepInCallFile(Checkpoint):
    """Keeps a training in the call's file, in place of the user's `Checkpoint`."""

    def __init__(self, file: CallFile, index: int) -> None:
        self.file, self.index = file, index

    on_epoch_end = Callback.on_epoch_end  # it needs no chunk to end there

    def on_chunk_end(self, run: Run) -> None:
        """Keep the training at intervals, and at the end."""
        ends = run.stop_reason is not None or run.epoch == run.epochs
        if ends or time.monotonic() - self.time >= KEEP_SECONDS:
            self.file.keep(self.index, run)
            self.time = time.monotonic()
        self.file.count(run.epoch - self.epoch)
        self.epoch = run.epoch


class StayEnded(Callback):
    """Ends a resumed training that had ended before."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def on_train_begin(self, run: Run) -> None:
        """Stop before the first step."""
        run.stop(self.reason)


class Resumed:
    """The content of a call's file; CheckpointError for another number of models."""

    def __init__(self, path: str | os.PathLike[str], components: Iterable[Component], count: int) -> None:
        self._models, self.records, more = read_list(path, components)
        held = len(self.records)
        if held != count:
            raise CheckpointError(f"{os.fspath(path)!r} holds {held} models, and this call has {count}")
        seeds: Any = more.get("seeds")
        if not isinstance(seeds, list) or len(seeds) != held:
            raise CheckpointError(f"{os.fspath(path)!r} holds models without their trainings")
        self.seeds = [checks.whole("seed", seed, 0) for seed in seeds]

    def diverged(self) -> list[Ended | None]:
        """Return the errors of diverged models, None for other models."""
        return [one if isinstance(one, DivergenceError) else None for one, _ in self._models]

    def of(self, index: int) -> tuple[Snapshot | None, list[Callback]]:
        """Return a model's saved training, if any, and a callback that ends an ended training."""
        (model, snapshot), record = self._models[index], self.records[index]
        if not isinstance(model, Model) or record is None or snapshot is None:
            return None, []
        reason = model.stop_reason
        return snapshot, [StayEnded(reason)] if reason is not None and record.get("stopped") else []
