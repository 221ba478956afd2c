"""The networks of an ensemble: their time limit, and their trainings on parts of a table's rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple, Self

import numpy as np

from fastmlp.backend.choice import is_ready
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import EarlyStopping
from fastmlp.many.training import InterruptedMany, fit_many
from fastmlp.model.optimizers import keeping_signs
from fastmlp.model.state import is_bfloat16
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.interrupts import BY_SIGINT
from fastmlp.system.notices import Bar
from fastmlp.tables.columns import Array
from fastmlp.tables.held_out import ALONE, Dependence, Part, folds
from fastmlp.tables.recipe import Recipe, inputs_of, predicted, rows_for
from fastmlp.tables.tasks import Classification, Task
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError

# --- time limit --------------------------------------------------------------------------------------------

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


# --- networks -------------------------------------------------------------------------------------------

TOGETHER_BYTES = 1 << 24  # bytes of the rows of all trainings of a call; beyond, trainings follow one another

Fitted = Model | DivergenceError | None
"""The result of a training; None after Ctrl-C."""


class Planned(NamedTuple):
    """A network to train.

    part : rows to train on, and rows held out; number : among the networks of the recipe
    epochs : the last epoch without rows held out; the rate falls as with the recipe's number of epochs
    initial : the member to begin from, None for new parameters
    """

    recipe: Recipe
    part: Part
    number: int = 0
    epochs: int | None = None
    initial: Model | None = None


@dataclass(eq=False)
class TableTraining:
    """The encoded rows of a table, with the options of all trainings.

    X : (rows, n), dense or CSR; targets : (rows,), as the task encodes them; weights : (rows,) or None
    several : columns of X to embed, as for `inputs_of`; signs : (n,), as for `Network(monotone=)`
    bar : moved by visited rows; visited : rows of earlier trainings
    """

    X: Any
    targets: Array
    weights: Array | None
    task: Task
    seed: int
    several: Array
    signs: Array
    deadline: Deadline
    dependence: Dependence = ALONE
    backend: str = "auto"
    threads: int | None = None
    dtype: Any = None
    shown: bool | None = False
    bar: Bar | None = None
    visited: float = 0.0

    def parts(self, most: int) -> list[Part]:
        """Return at most so many pairs of rows to train on and rows held out."""
        return [*islice(folds(self.targets, self.task, self.seed, self.dependence), most)]

    def networks(self, planned: Sequence[Planned], callbacks: Sequence[Callback] = ()) -> list[Fitted]:
        """Return trained networks, with the parameters of the best epoch by the rows held out.

        All networks have the patience of the first recipe. A diverged network is replaced by the error, and a
        network after Ctrl-C by None; InterruptedMany if no network is left.
        """
        size = (self.X if isinstance(self.X, np.ndarray) else self.X.data).nbytes
        is_small, found = len(planned) * size <= TOGETHER_BYTES, list[Fitted]()
        for some in filter(None, [planned] if is_small else [[one] for one in planned]):
            is_over = self.deadline.interrupted or None in found
            found += [None] * len(some) if is_over else self._at_once(some, callbacks)
        if None in found and not any(isinstance(one, Model) for one in found):
            raise InterruptedMany(found)
        return found

    def network(self, recipe: Recipe, part: Part, callbacks: Sequence[Callback] = ()) -> Model:
        """Return one trained network; errors as of `networks`, and DivergenceError."""
        (found,) = self.networks([Planned(recipe, part)], callbacks)
        return trained(found)

    def _at_once(self, planned: Sequence[Planned], callbacks: Sequence[Callback]) -> list[Fitted]:
        rows: dict[Any, tuple[Any, ...]] = {}
        options = [self._options(one, rows) for one in planned]
        stopping = [EarlyStopping(planned[0].recipe.patience)] if len(planned[0].part[1]) else []
        visits = [] if self.bar is None else [Visits(self, planned)]
        given: dict[str, Any] = {name: [one[name] for one in options] for name in options[0]}
        try:
            found: list[Fitted] = [*fit_many(
                **given, callbacks=[*stopping, *visits, *callbacks], progress=False, threads=self.threads,
                dtype=self.dtype,
            )]  # fmt: skip
        except InterruptedMany as error:
            found = error.models
        return [None if isinstance(one, Model) and one.stop_reason == BY_SIGINT else one for one in found]

    def _options(self, planned: Planned, known: dict[Any, tuple[Any, ...]]) -> dict[str, Any]:
        """Return the options of `fit_many` for a network; known : arrays of rows, which networks share."""
        recipe, (rows, held), index, epochs, initial = planned
        inputs = inputs_of(self.X.shape[1], recipe, self.several)
        network = recipe.network(inputs, self.task, self.signs) if initial is None else initial.network
        backend = self.backend
        if backend == "auto" and self.deadline.left <= COMPILING:  # without the time to compile
            given = network, keeping_signs(recipe.optimizer_of(1), network), recipe.batch_size
            ready = is_ready(*given, self.X.dtype, self.threads, is_bfloat16(self.dtype))
            backend = "auto" if ready else "reference"
        for indices in (rows, held):
            key = network.blocks, id(indices)
            if key not in known:
                known[key] = self._rows(network.blocks, indices)
        X, y, *weights = known[network.blocks, id(rows)]
        steps = recipe.epochs * -(-len(rows) // min(recipe.batch_size, len(rows)))
        return {
            "networks": network,
            "X": X,
            "y": y,
            **({"sample_weight": weights[0]} if weights else {}),
            "optimizer": recipe.optimizer_of(steps),
            "epochs": epochs or recipe.epochs,
            "batch_size": recipe.batch_size,
            "seed": self.seed + index,
            "initial": initial,
            "validation": known[network.blocks, id(held)] if len(held) else None,
            "backend": backend,
        }

    def _rows(self, blocks: Any, indices: Array) -> tuple[Any, ...]:
        """Return X, targets by heads, and weights if there are any, of some rows."""
        every = len(indices) == len(self.targets)
        X, y = (one if every else one[indices] for one in (self.X, self.targets))
        heads = {name: y[name] for name in y.dtype.names} if y.dtype.names else y
        return (rows_for(blocks, X), heads, *([] if self.weights is None else [self.weights[indices]]))


class Visits(SharedCallback):
    """Moves the bar of a `TableTraining` by visited rows; after an early end by all planned rows."""

    def __init__(self, training: TableTraining, planned: Sequence[Planned]) -> None:
        self.training, self.before, self.planned = training, training.visited, planned
        self.rows = [len(training.targets) * one.recipe.epochs for one in planned]
        self.visited = [0.0] * len(planned)
        training.visited += sum(self.rows)

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar; stop a training that began after Ctrl-C."""
        if self.training.deadline.interrupted and run.stop_reason is None:
            run.stop(BY_SIGINT)
        index = run.model_index or 0
        recipe, number = self.planned[index].recipe, self.planned[index].number
        name = f"network {number + 1}/{recipe.members}" if recipe.members > 1 else "network"
        shown = {key: f"{values[-1]:.4g}" for key, values in run.history.items() if values}
        self._move(index, run.rows_seen, f"{name}, epoch {run.epoch}/{run.epochs}", **shown)

    def on_train_end(self, run: Run) -> None:
        """Count the epochs after an early end."""
        self._move(run.model_index or 0, self.rows[run.model_index or 0])

    def _move(self, index: int, rows: float, *name: str, **shown: str) -> None:
        assert self.training.bar is not None
        self.visited[index] = rows
        self.training.bar.move(self.before + sum(self.visited), *name, **shown)


def trained(found: Fitted) -> Model:
    """Return a trained network; raise the error of a divergence, or of Ctrl-C."""
    if not isinstance(found, Model):
        raise found or InterruptedMany([found])
    return found


def best_epoch(model: Model) -> int:
    """Return the epoch of a network's parameters: the best by rows held out, or the last."""
    held = model.history.get("validation_loss")
    return len(model.history["loss"]) if held is None else int(np.argmin(held)) + 1


def outputs(models: Sequence[Model], X: Any) -> Array:
    """Return the mean of the networks' outputs (rows, n_out), float64; probabilities of a row sum to 1."""
    total: Array = np.zeros((X.shape[0], models[0].network.n_out))
    for model in models if len(total) else ():
        total += predicted(model, X)
    whole = total.sum(axis=1, keepdims=True) if models[0].network.output == "softmax" else len(models)
    mean: Array = total / whole
    return mean


def weights_of(targets: Array, weights: Array | None, task: Task, recipe: Recipe) -> Array | None:
    """Return the weights of rows (rows,), of a balanced recipe with equal sums for all classes."""
    if not (recipe.balanced and isinstance(task, Classification)):
        return weights
    given = np.ones(len(targets)) if weights is None else weights
    sums = np.bincount(targets, given, task.n_out)
    return given / np.where(sums > 0, sums, 1)[targets] * given.sum() / task.n_out
