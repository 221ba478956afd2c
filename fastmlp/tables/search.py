"""A search for hidden layers and a rate in a given time: each trial is a member, and the least loss wins."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import TimeLimit
from fastmlp.system.notices import Bar
from fastmlp.tables.deadline import SharedCallback
from fastmlp.tables.held_out import folds
from fastmlp.tables.members import MemberSettings, Planned, train_members
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Task
from fastmlp.trained.model import Model

Array = NDArray[Any]

HIDDEN = ((), (32,), (128,), (64, 64), (128, 128), (256, 256), (128, 128, 128), (256, 256, 256), (512, 512))

RATES = (0.1, 0.3, 1.0, 3.0)
"""Times the recipe's own rate."""

LEAST_SECONDS = 1e-6
"""Of a trial: a limit is above 0."""


class SearchTrial(NamedTuple):
    """Settings that were tried, and the least loss on the rows held out; NaN if the training diverged."""

    hidden: tuple[int, ...]
    learning_rate: float
    loss: float
    seconds: float


class _Seconds(SharedCallback):
    """Moves a bar with the clock."""

    def __init__(self, bar: Bar, began: float, what: str) -> None:
        self.bar, self.began, self.what = bar, began, what

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar."""
        self.bar.move(time.monotonic() - self.began, self.what)


def searched(
    X: Any, targets: Array, weights: Array | None, task: Task, recipe: Recipe, seconds: float,
    settings: MemberSettings, given: Collection[str] = (),
) -> tuple[Recipe, list[SearchTrial]]:  # fmt: skip
    """Return the recipe with the best of the settings that were tried, and the trials.

    The recipe's own settings are tried first, however short the time is, then others in an order that the
    seed draws. A trial that the end of the time cuts short counts only if it is the first.

    targets : (rows,) as the task encodes them
    given : hidden or learning_rate, if they are to remain as the recipe has them
    """
    whole = recipe.resolved(len(targets))
    part = next(folds(targets, task, settings.seed, settings.dependence))
    layers = (whole.hidden,) if "hidden" in given else HIDDEN
    rates = (1.0,) if "learning_rate" in given else RATES
    rest = [(hidden, whole.learning_rate * by) for hidden, by in itertools.product(layers, rates)]
    np.random.default_rng(settings.seed).shuffle(rest)
    own = whole.hidden, whole.learning_rate
    trials: list[SearchTrial] = []
    began = time.monotonic()
    with Bar(seconds, "s", "search", settings.shown) as bar:
        for hidden, rate in [own, *(one for one in rest if one != own)]:
            left = began + seconds - time.monotonic()
            if left <= 0 and trials:
                break
            tried = replace(whole, hidden=hidden, learning_rate=rate)
            what = f"search, trial {len(trials) + 1}"
            start = time.monotonic()
            callbacks: list[Callback] = [TimeLimit(max(left, LEAST_SECONDS)), _Seconds(bar, began, what)]
            plan = [Planned(tried, part)]
            (model,) = train_members(X, targets, weights, task, plan, settings, callbacks)
            loss = float("nan")
            if isinstance(model, Model):
                if model.stop_reason is not None and "time limit" in model.stop_reason and trials:
                    break
                loss = min(model.history["validation_loss"], default=loss)
            trials.append(SearchTrial(hidden, rate, loss, time.monotonic() - start))
    best = min(trials, key=lambda trial: np.inf if np.isnan(trial.loss) else trial.loss)
    return replace(recipe, hidden=best.hidden, learning_rate=best.learning_rate), trials
