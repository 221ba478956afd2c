"""The members of an ensemble: networks that differ by their start and by the rows that validate them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.fitting import fit
from fastmlp.system.bars import Bar
from fastmlp.tables.inputs import inputs_of
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Classification, Task
from fastmlp.training.callbacks import Callback, EarlyStopping, Run
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.model import Model

Array = NDArray[Any]

FOLDS = 5
"""A member is validated on a fifth of the rows, or on less where there are more members."""


class MemberSettings(NamedTuple):
    """Where a training runs: as for `fit`."""

    seed: int
    backend: str = "auto"
    threads: int | None = None
    shown: bool | None = False
    dtype: Any = None


def train(
    X: Any, targets: Array, weights: Array | None, task: Task, recipes: Sequence[Recipe],
    settings: MemberSettings,
) -> tuple[Recipe, list[Model], list[Array]]:  # fmt: skip
    """Return the recipe of the least loss on the first rows held out, its members, and the rows of each.

    X : (rows, n_in), dense or CSR; targets : (rows,) as the task encodes them; weights : (rows,) or None

    Raises
    ------
    DivergenceError
        If no recipe's training ends, or one of those that follow does not.
    """
    recipes = [recipe.resolved(len(targets)) for recipe in recipes]
    weights = _weights(targets, weights, task, recipes[0])
    most = max(recipe.members or 1 for recipe in recipes)
    parts = islice(folds(targets, task, most, settings.seed), most)
    visits = [len(targets) * (recipe.epochs or 1) for recipe in recipes]
    with Bar(sum(visits) + (most - 1) * max(visits), "row", "training", settings.shown) as bar:
        before = 0

        def member(recipe: Recipe, place: int, part: tuple[Array, Array]) -> Model:
            nonlocal before
            what = f"network {place + 1}/{recipe.members}" if recipe.members != 1 else "network"
            moving = Visits(bar, what, before)
            before += len(targets) * (recipe.epochs or 1)
            seeded = settings._replace(seed=settings.seed + place)
            return one(X, targets, weights, task, recipe, seeded, *part, [moving])

        first = next(parts)
        chosen, model = _best(recipes, functools.partial(member, place=0, part=first))
        models, held = [model], [first[1]]
        for place, part in zip(range(1, chosen.members or 1), parts, strict=False):
            models.append(member(chosen, place, part))
            held.append(part[1])
    return chosen, models, held


def _best(recipes: Sequence[Recipe], trained: Callable[[Recipe], Model]) -> tuple[Recipe, Model]:
    """Return the recipe whose member has the least loss on the rows held out, and that member."""
    found: list[tuple[Recipe, Model]] = []
    for recipe in recipes:
        try:
            found.append((recipe, trained(recipe)))
        except DivergenceError:
            if recipe is recipes[-1] and not found:
                raise
    return min(found, key=lambda pair: min(pair[1].history["validation_loss"]))


def one(
    X: Any, targets: Array, weights: Array | None, task: Task, recipe: Recipe, settings: MemberSettings,
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
        recipe.network(inputs_of(X, recipe.bins), task),
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


class Visits(Callback):
    """Moves a bar by the rows that a training has visited.

    before : rows that earlier trainings visited; whole : rows that this one visits if nothing ends it early
    """

    def __init__(self, bar: Bar, what: str, before: float) -> None:
        self.bar, self.what, self.before = bar, what, before

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar."""
        shown = {key: f"{values[-1]:.4g}" for key, values in run.history.items() if values}
        self.bar.move(self.before + run.rows_seen, f"{self.what}, epoch {run.epoch}/{run.epochs}", **shown)

    def on_train_end(self, run: Run) -> None:
        """Count what an early end leaves out."""
        self.bar.move(self.before + run.rows * run.epochs)


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
    """Return the mean of the members' outputs (rows, n_out), float64; probabilities of a row sum to 1."""
    total: Array = np.zeros((X.shape[0], models[0].network.n_out))
    for model in models:
        total += model.predict(X)
    whole = total.sum(axis=1, keepdims=True) if models[0].network.output == "softmax" else len(models)
    mean: Array = total / whole
    return mean


def _weights(targets: Array, weights: Array | None, task: Task, recipe: Recipe) -> Array | None:
    """Return the rows' weights, with those of their classes if they shall count the same."""
    if not (recipe.balanced and isinstance(task, Classification)):
        return weights
    own = np.ones(len(targets)) if weights is None else weights
    sums = np.bincount(targets, own, task.n_out)
    return own / np.where(sums > 0, sums, 1)[targets] * own.sum() / task.n_out
