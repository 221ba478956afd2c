"""A limit of the time of a whole training on a table: what is left of it, and which networks end in it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.choice import is_ready
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.model.network import Network
from fastmlp.model.optimizers import keeping_signs
from fastmlp.system.compiling import Stopwatch
from fastmlp.tables.recipe import Recipe
from fastmlp.trained.model import Model

Array = NDArray[Any]
Part = tuple[Array, Array]
"""Rows to train on, and rows held out."""

NETWORKS_SHARE = 0.93
"""Of the time, which networks may take with all that comes before: the rest is for scores and files."""

JUDGED_AFTER = 0.1
"""Share of a network's time after which its pace is known."""

RESERVE = 0.9
"""Of the epochs that the pace suggests, so many are trained: another epoch may take longer."""

LEAST_ROWS = 1000
"""Rows that a network is trained on however short the time is."""

LARGE, PILOT_ROWS = 200_000, 20_000
"""Of more rows than the first, with those held out, so many as the second show the pace before a training."""

SLOWEST = 6
"""How many times as long as the first recipe others take at most, about, for the same rows."""

COMPILING = 20.0
"""Seconds that compiling may take on a busy machine, with the compiler's own start."""


class Deadline:
    """When a training on a table ends.

    seconds : that it may take; None for no limit; began : by `time.monotonic`, None if that is now
    interrupted : whether a signal has ended it
    """

    def __init__(self, seconds: float | None = None, began: float | None = None) -> None:
        self.seconds, self.interrupted = seconds, False
        self._began = time.monotonic() if began is None else began

    def interrupt(self, reason: str) -> None:
        """End it now, for `system.interrupts.deferred`."""
        self.interrupted = True

    @property
    def left(self) -> float:
        """Seconds that networks may still take; below 0 once they are over, infinite without a limit."""
        if self.interrupted:
            return -math.inf
        whole = math.inf if self.seconds is None else NETWORKS_SHARE * self.seconds
        return self._began + whole - time.monotonic()


class SharedCallback(Callback):
    """A callback that `fit_many` does not copy: all trainings have the one that is read afterwards."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Allowance(SharedCallback):
    """Ends a training when some seconds are over, or as soon as its pace shows that it takes more.

    The first epoch is left out by its pace alone: a network without a loss on rows held out is none.

    Parameters
    ----------
    seconds : of the training, without what it compiles
    left : seconds until it must end, with all that it compiles
    judging : whether its pace ends it

    Attributes
    ----------
    fitting : float or None, how many of the training's epochs take what was left when its pace ended it
    is_over : bool, whether the training was ended for its time
    working : float, seconds that it took so far, without what it compiled
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
        """Stop the training if time is up, or will be before its last epoch."""
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
    seconds: float, left: float, recipe: Recipe, part: Part,
    trained: Callable[[Recipe, Part, Sequence[Callback]], Model], must: bool, room: float = 1.0,
) -> tuple[Recipe, Part, Model] | None:  # fmt: skip
    """Return a network that is trained in so many seconds, its recipe with as many epochs, and its rows.

    seconds, left : as for `Allowance`; trained : trains a network, with callbacks
    must : whether there are fewer rows where not even one epoch fits; if not, None is returned
    room : share of the time that an epoch takes at most; where one of all rows takes more it has fewer rows
    """
    began = time.monotonic()
    fitting, working = _by_a_pilot(seconds, left, recipe, part, trained)
    if fitting is None:
        allowance = Allowance(seconds - working, began + left - time.monotonic())
        model = trained(recipe, part, [allowance])
        if allowance.fitting is None:
            return _as_trained(recipe, allowance, model), part, model
        fitting, working = allowance.fitting, working + allowance.working
    fitting *= RESERVE
    if fitting < 1 and not must:
        return None
    shorter = replace(recipe, epochs=max(1, int(fitting)))
    if room * fitting < 1:
        shorter, part = replace(recipe, epochs=1), fewer(part, room * fitting)
    last = Allowance(seconds - working, began + left - time.monotonic(), judging=False)
    model = trained(shorter, part, [last])
    return _as_trained(shorter, last, model), part, model


def _by_a_pilot(
    seconds: float, left: float, recipe: Recipe, part: Part,
    trained: Callable[[Recipe, Part, Sequence[Callback]], Model],
) -> tuple[float | None, float]:  # fmt: skip
    """Return how many epochs of a large table take so many seconds, and the seconds that it took to know.

    None instead of epochs if the recipe's own end in time, or if a table is not large.
    """
    rows = len(part[0])
    if sum(map(len, part)) <= LARGE:
        return None, 0.0
    assert recipe.epochs is not None
    pilot = Allowance(seconds, left, judging=False)
    trained(replace(recipe, epochs=1), fewer(part, PILOT_ROWS / rows), [pilot])
    epoch, remaining = pilot.working / PILOT_ROWS * rows, seconds - pilot.working
    return None if recipe.epochs * epoch <= remaining else max(0.0, remaining) / epoch, pilot.working


def _as_trained(recipe: Recipe, allowance: Allowance, model: Model) -> Recipe:
    """Return a recipe with the epochs that a network has had if its time ended before its epochs."""
    return replace(recipe, epochs=len(model.history["loss"])) if allowance.is_over else recipe


def fewer(part: Part, share: float) -> Part:
    """Return a share of the rows to train on and of those held out, evenly spread."""
    trained, held = (_spread(rows, min(len(rows), max(LEAST_ROWS, int(share * len(rows))))) for rows in part)
    return trained, held


def _spread(rows: Array, count: int) -> Array:
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)]


def backend_in(
    seconds: float,
    recipe: Recipe,
    network: Network,
    dtype: np.dtype[Any],
    threads: int | None,
    mixed: bool,
) -> str:
    """Return the backend of a network that has so many seconds: "reference" where "auto" compiles first.

    network, dtype : of the recipe, and of its X; mixed : whether products are of bfloat16 numbers
    """
    assert recipe.batch_size is not None
    if seconds > COMPILING:
        return "auto"
    optimizer = keeping_signs(recipe.optimizer_of(1), network)
    ready = is_ready(network, optimizer, recipe.batch_size, dtype, threads, mixed)
    return "auto" if ready else "reference"
