"""The file of a call of `fit_many`: models that have ended, and those under way as they were last kept."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.checks import CheckpointError
from fastmlp.many.trainings import Ended, Trainings
from fastmlp.model.pieces import Piece
from fastmlp.training.checkpoint import Checkpoint, Content, Saved, Written, content_of_training
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.saving import StoredList, read_list, write_list, written

KEEP_SECONDS = 0.2
"""A training under way is kept no more often: describing it takes as long as an epoch of a small one."""


class CallFile:
    """The file of a call, written at intervals and at the end.

    checkpoint : the user's, whose path and time it takes; int epochs are those of all models in the mean
    seeds : of all models; resumed : what is in it from the beginning, of a call that goes on
    """

    def __init__(
        self, checkpoint: Checkpoint, seeds: list[int], resumed: Resumed | None, trainings: Trainings
    ) -> None:
        self.path, self.every = checkpoint.path, checkpoint.every
        self._seeds, self._trainings = seeds, trainings
        self._kept: list[Written | None] = [None] * len(seeds) if resumed is None else [*resumed.kept]
        self._epochs, self._time = 0, time.monotonic()
        self._writing = threading.RLock()

    def keep(self, index: int, run: Run) -> None:
        """Keep a training between two chunks."""
        header, arrays = content_of_training(run)
        # A callback's stop is kept, the call's own is not.
        header["stopped"] = run.stop_reason is not None and run.stop_reason != self._trainings.reason
        if run.epoch == run.epochs and not header["stopped"]:
            header["stop_reason"] = None  # the call was stopped when this one had ended
        # Parameters and moments are the live ones.
        self._kept[index] = header, {name: np.array(array) for name, array in arrays.items()}

    def count(self, epochs: int) -> None:
        """Count epochs that a training has completed; write if that is due."""
        with self._writing:
            self._epochs += epochs
            if isinstance(self.every, timedelta):
                due = time.monotonic() - self._time >= self.every.total_seconds()
            else:
                due = self._epochs >= self.every * len(self._seeds)
            if due:
                self.write()

    def write(self) -> None:
        """Write all that is kept."""
        with self._writing:
            for index, ended in enumerate(self._trainings.results):
                if isinstance(ended, DivergenceError):
                    self._kept[index] = written(ended)
            write_list(self.path, self._kept, {"seeds": self._seeds})
            self._epochs, self._time = 0, time.monotonic()


class KeepInCallFile(Checkpoint):
    """Keeps a training in the call's file, in place of the user's `Checkpoint`."""

    def __init__(self, file: CallFile, index: int) -> None:
        self.file, self.index = file, index

    on_epoch_end = Callback.on_epoch_end  # it needs no chunk to end there

    def on_chunk_end(self, run: Run) -> None:
        """Keep the training at its end, and at intervals."""
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
    """A call that goes on: what its file holds of each model; CheckpointError if it is none of so many."""

    def __init__(self, path: str | os.PathLike[str], pieces: Iterable[Piece], count: int) -> None:
        self._path = path
        self._stored: StoredList = read_list(path, pieces)
        self.kept = self._stored.written
        held = len(self.kept)
        if held != count:
            raise CheckpointError(f"{os.fspath(path)!r} holds {held} models, and this call has {count}")
        seeds: Any = self._stored.more.get("seeds")
        if not isinstance(seeds, list) or len(seeds) != held:
            raise CheckpointError(f"{os.fspath(path)!r} holds models without their trainings")
        self.seeds = [checks.whole("seed", seed, 0) for seed in seeds]

    def diverged(self) -> list[Ended | None]:
        """Return the errors of diverged models, None for other models."""
        return [one if isinstance(one, DivergenceError) else None for one in self._stored.models]

    def of(self, index: int) -> tuple[Saved | None, list[Callback]]:
        """Return a model's saved training, if any, and a callback that ends an ended training."""
        content, kept = self._stored.models[index], self.kept[index]
        if not isinstance(content, Content) or kept is None or content.snapshot is None:
            return None, []
        reason = content.model.stop_reason
        return Saved(self._path, content.snapshot), (
            [StayEnded(reason)] if reason is not None and kept[0].get("stopped") else []
        )
