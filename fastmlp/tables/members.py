"""The members of an ensemble: networks that differ by their start and by the rows that they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import EarlyStopping
from fastmlp.fitting import fit
from fastmlp.model.state import is_bfloat16
from fastmlp.system.notices import Bar
from fastmlp.tables.deadline import Deadline, backend_in
from fastmlp.tables.held_out import ALONE, Dependence
from fastmlp.tables.inputs import inputs_of, predicted, rows_for
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Classification, Task
from fastmlp.trained.model import Model

Array = NDArray[Any]


class MemberSettings(NamedTuple):
    """Where a training runs, and how long: as for `fit`.

    several : columns of X, as for `inputs_of`; dependence : of the rows, as for `folds`
    """

    seed: int
    several: Array
    deadline: Deadline
    backend: str = "auto"
    threads: int | None = None
    shown: bool | None = False
    dtype: Any = None
    dependence: Dependence = ALONE


def train_member(
    X: Any, targets: Array, weights: Array | None, task: Task, recipe: Recipe, settings: MemberSettings,
    rows: Array, held: Array, callbacks: Sequence[Callback], epochs: int | None = None,
    initial: Model | None = None,
) -> Model:  # fmt: skip
    """Return one member, of the epoch after which the rows `held` had the least loss.

    targets : (rows,) as the task encodes them
    epochs : after which it ends, if no rows are held out; its rate falls as if it went on
    initial : a member to begin from, whose network it has
    """
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    steps = recipe.epochs * -(-len(rows) // min(recipe.batch_size, len(rows)))
    inputs = inputs_of(X.shape[1], recipe, settings.several)
    network = recipe.network(inputs, task) if initial is None else initial.network
    inputs = network.blocks or network.n_in
    backend, left = settings.backend, settings.deadline.left
    if backend == "auto" and settings.deadline.seconds is not None:
        mixed = is_bfloat16(settings.dtype)
        backend = backend_in(left, recipe, inputs, task, X.dtype, settings.threads, mixed)
    validating: dict[str, Any] = {"callbacks": callbacks}
    if len(held):
        arrays = (rows_for(inputs, X[held]), targets[held], *(() if weights is None else (weights[held],)))
        validating = {"callbacks": [EarlyStopping(recipe.patience), *callbacks], "validation": arrays}
    return fit(
        network,
        rows_for(inputs, X[rows]),
        targets[rows],
        optimizer=recipe.optimizer_of(steps),
        epochs=epochs or recipe.epochs,
        batch_size=recipe.batch_size,
        seed=settings.seed,
        initial=initial,
        sample_weight=None if weights is None else weights[rows],
        **validating,
        progress=False,
        backend=backend,
        threads=settings.threads,
        dtype=settings.dtype,
    )


class Visits(Callback):
    """Moves a bar by the rows that a training has visited.

    before, after : rows that were visited before this one, and count as visited once it ends
    """

    def __init__(self, bar: Bar, what: str, before: float, after: float) -> None:
        self.bar, self.what, self.before, self.after = bar, what, before, after

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar."""
        shown = {key: f"{values[-1]:.4g}" for key, values in run.history.items() if values}
        self.bar.move(self.before + run.rows_seen, f"{self.what}, epoch {run.epoch}/{run.epochs}", **shown)

    def on_train_end(self, run: Run) -> None:
        """Count what an early end leaves out."""
        self.bar.move(self.after)


def best_epoch(model: Model) -> int:
    """Return the epoch whose parameters a member has: the best one by rows held out, or the last."""
    held = model.history.get("validation_loss")
    return len(model.history["loss"]) if held is None else int(np.argmin(held)) + 1


def outputs(models: Sequence[Model], X: Any) -> Array:
    """Return the mean of the members' outputs (rows, n_out), float64; probabilities of a row sum to 1."""
    total: Array = np.zeros((X.shape[0], models[0].network.n_out))
    for model in models:
        total += predicted(model, X)
    whole = total.sum(axis=1, keepdims=True) if models[0].network.output == "softmax" else len(models)
    mean: Array = total / whole
    return mean


def weights_of(targets: Array, weights: Array | None, task: Task, recipe: Recipe) -> Array | None:
    """Return the rows' weights, with those of their classes if they shall count the same."""
    if not (recipe.balanced and isinstance(task, Classification)):
        return weights
    own = np.ones(len(targets)) if weights is None else weights
    sums = np.bincount(targets, own, task.n_out)
    return own / np.where(sums > 0, sums, 1)[targets] * own.sum() / task.n_out
