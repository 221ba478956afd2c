"""The networks of an ensemble, trained on parts of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend.choice import is_ready
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import EarlyStopping
from fastmlp.many.training import InterruptedMany, fit_many
from fastmlp.model.optimizers import keeping_signs
from fastmlp.model.state import is_bfloat16
from fastmlp.system.interrupts import BY_SIGINT
from fastmlp.system.notices import Bar
from fastmlp.tables.columns import Array
from fastmlp.tables.deadline import COMPILING, Deadline, SharedCallback
from fastmlp.tables.held_out import ALONE, Dependence, Part, folds
from fastmlp.tables.recipe import Recipe, inputs_of, predicted, rows_for
from fastmlp.tables.tasks import Classification, Task
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError

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
