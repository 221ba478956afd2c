"""The time limit of a training on a table: the seconds left, and networks that end in time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Self

import numpy as np

from fastmlp.callbacks.callback import Callback, Run
from fastmlp.system.compiling import Stopwatch
from fastmlp.tables.held_out import Part
from fastmlp.tables.recipe import Recipe
from fastmlp.trained.model import Model

NETWORKS_FRACTION = 0.93  # of the limit, for networks and all work before; the rest is for scores and files
JUDGED_AFTER = 0.1  # fraction of a network's time after which the pace is known
RESERVE = 0.9  # fraction of the epochs by the pace: another epoch may take longer
LEAST_ROWS = 1000  # fewest training rows of a network, however short the time

LARGE, PILOT_ROWS = 200_000, 20_000
"""Tables of more rows than the first number have a pilot training, on as many rows as the second number."""

SLOWEST = 6  # time of the slowest recipe over that of the first recipe, at most, for the same rows
COMPILING = 20.0  # seconds of compiling on a busy machine, with the compiler's start


class Deadline:
    """The end of a training on a table, after some seconds since `began`, or after a signal."""

    def __init__(self, seconds: float | None = None, began: float | None = None) -> None:
        self.seconds, self.interrupted = seconds, False
        self._began = time.monotonic() if began is None else began

    def interrupt(self, reason: str) -> None:
        """End the time now, for `system.interrupts.deferred`."""
        self.interrupted = True

    @property
    def left(self) -> float:
        """Seconds left for networks, perhaps below 0; infinite without a limit."""
        if self.interrupted:
            return -math.inf
        whole = math.inf if self.seconds is None else NETWORKS_FRACTION * self.seconds
        return self._began + whole - time.monotonic()


class SharedCallback(Callback):
    """A callback that `fit_many` does not copy: all trainings share the object."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Allowance(SharedCallback):
    """Ends a training after some seconds, or as soon as the pace shows a later end.

    Only the pace ends a training within the first epoch: a network needs a loss on rows held out.

    seconds, left : of the training, without compiling, and with compiling; judging : False to ignore the pace
    fitting : the number of epochs in the time left, once the pace ended the training; else None
    is_over : True if the training was ended; working : seconds so far, without compiling
    """

    def __init__(self, seconds: float, left: float, judging: bool = True) -> None:
        self.fitting: float | None = None
        self.is_over = False
        self.working = 0.0
        self._seconds, self._end, self._judging = seconds, time.monotonic() + left, judging

    def on_train_begin(self, run: Run) -> None:
        """Start the clock."""
        self._stopwatch = Stopwatch()

    def on_chunk_end(self, run: Run) -> None:
        """Stop the training at the end of the time, or if the pace is too slow."""
        self.working += self._stopwatch.lap().working
        left = min(self._seconds - self.working, self._end - time.monotonic())
        if self._judging and (self.working >= JUDGED_AFTER * self._seconds or left <= 0):
            self._judging = False
            epoch = self.working / run.rows_seen * run.rows
            if epoch * run.epochs - self.working > left:
                self.fitting = max(0.0, left) / epoch
        if self.fitting is not None or (left <= 0 and run.epoch and run.epoch < run.epochs):
            self.is_over = True
            run.stop("its time is over")


def within(
    seconds: float, left: float, recipe: Recipe, part: Part, network: Callable[..., Model], must: bool,
    room: float = 1.0,
) -> tuple[Recipe, Part, Model] | None:  # fmt: skip
    """Return a network that is trained in some seconds, with the epochs and rows that fit.

    seconds, left : as for `Allowance`; network : as of `TableTraining`
    must : True for fewer rows if no epoch fits; else None is returned
    room : fraction of the time for an epoch; a longer epoch has fewer rows
    """
    end = time.monotonic() + left

    def allowed(recipe: Recipe, part: Part, judging: bool) -> tuple[Allowance, tuple[Recipe, Part, Model]]:
        nonlocal seconds
        allowance = Allowance(seconds, end - time.monotonic(), judging)
        model = network(recipe, part, [allowance])
        seconds -= allowance.working
        if allowance.is_over:
            recipe = replace(recipe, epochs=len(model.history["loss"]))
        return allowance, (recipe, part, model)

    rows = len(part[0])
    fitting: float | None = None
    if sum(map(len, part)) > LARGE:
        pilot, _ = allowed(replace(recipe, epochs=1), fewer(part, PILOT_ROWS / rows), False)
        epoch = pilot.working / PILOT_ROWS * rows
        fitting = None if recipe.epochs * epoch <= seconds else max(0.0, seconds) / epoch
    if fitting is None:
        allowance, found = allowed(recipe, part, True)
        if allowance.fitting is None:
            return found
        fitting = allowance.fitting
    fitting *= RESERVE
    if fitting < 1 and not must:
        return None
    recipe = replace(recipe, epochs=max(1, int(fitting)))
    if room * fitting < 1:
        recipe, part = replace(recipe, epochs=1), fewer(part, room * fitting)
    return allowed(recipe, part, False)[1]


def fewer(part: Part, fraction: float) -> Part:
    """Return a fraction of the rows to train on and of those held out, evenly spread."""
    counts = (min(len(rows), max(LEAST_ROWS, int(fraction * len(rows)))) for rows in part)
    trained, held = (
        rows[np.linspace(0, len(rows) - 1, count).astype(int)]
        for rows, count in zip(part, counts, strict=True)
    )
    return trained, held
