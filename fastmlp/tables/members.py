"""The members of an ensemble: networks that differ by their start and by the rows that validate them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.tables.bars import Bar, Visits
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Classification, Task
from fastmlp.training.callbacks import Callback, EarlyStopping
from fastmlp.training.model import Model
from fastmlp.training.trainer import fit

Array = NDArray[Any]

FOLDS = 5
"""A member is validated on a fifth of the rows, or on less where there are more members."""


class Settings(NamedTuple):
    """Where a training runs: as for `fit`."""

    seed: int
    backend: str = "auto"
    threads: int | None = None
    shown: bool | None = False
    dtype: Any = None


def train(
    X: Any, targets: Array, weights: Array | None, task: Task, recipe: Recipe, settings: Settings
) -> list[Model]:
    """Return trained members, one for each fold as far as `recipe.members` goes.

    X : (rows, n_in), dense or CSR; targets : (rows,) as the task encodes them; weights : (rows,) or None
    """
    recipe = recipe.resolved(len(targets))
    assert recipe.members is not None
    assert recipe.epochs is not None
    weights = _weights(targets, weights, task, recipe)
    whole = len(targets) * recipe.members * recipe.epochs
    models: list[Model] = []
    with Bar(whole, "row", "training", settings.shown) as bar:
        parts = islice(folds(targets, task, recipe.members, settings.seed), recipe.members)
        for member, (rows, held) in enumerate(parts):
            what = f"network {member + 1}/{recipe.members}" if recipe.members > 1 else "network"
            visits = Visits(bar, what, member * len(targets) * recipe.epochs)
            seeded = settings._replace(seed=settings.seed + member)
            models.append(one(X, targets, weights, task, recipe, seeded, rows, held, [visits]))
    return models


def one(
    X: Any, targets: Array, weights: Array | None, task: Task, recipe: Recipe, settings: Settings,
    rows: Array, held: Array, callbacks: Sequence[Callback],
) -> Model:  # fmt: skip
    """Return one member, of the epoch after which the rows `held` had the least loss.

    targets : (rows,) as the task encodes them
    """
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    steps = recipe.epochs * -(-len(rows) // min(recipe.batch_size, len(rows)))
    validation = (X[held], targets[held]) if weights is None else (X[held], targets[held], weights[held])
    stopping = EarlyStopping(recipe.patience)
    return fit(
        recipe.network(X.shape[1], task),
        X[rows],
        targets[rows],
        optimizer=recipe.optimizer_of(steps),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=settings.seed,
        sample_weight=None if weights is None else weights[rows],
        validation=validation,
        callbacks=[stopping, *callbacks],
        progress=False,
        backend=settings.backend,
        threads=settings.threads,
        dtype=settings.dtype,
    )


def folds(targets: Array, task: Task, members: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Yield (rows to train on, rows held out), each ascending; stratified where every class has two rows."""
    from sklearn.model_selection import KFold, StratifiedKFold

    count = min(max(members, FOLDS), len(targets))
    if isinstance(task, Classification):
        least = int(np.bincount(targets).min())
        if least >= 2:
            folds = StratifiedKFold(min(count, least), shuffle=True, random_state=seed)
            yield from folds.split(targets, targets)
            return
    yield from KFold(count, shuffle=True, random_state=seed).split(targets)


def outputs(models: Sequence[Model], X: Any) -> Array:
    """Return the mean of the members' outputs (rows, n_out), float64."""
    total: Array = np.zeros((X.shape[0], models[0].network.sizes[-1]))
    for model in models:
        total += model.predict(X)
    return total / len(models)


def _weights(targets: Array, weights: Array | None, task: Task, recipe: Recipe) -> Array | None:
    """Return the rows' weights, with those of their classes if they shall count the same."""
    if not (recipe.balanced and isinstance(task, Classification)):
        return weights
    own = np.ones(len(targets)) if weights is None else weights
    sums = np.bincount(targets, own, task.n_out)
    return own / np.where(sums > 0, sums, 1)[targets] * own.sum() / task.n_out
