"""The members of an ensemble: networks that differ by their start and by the rows that validate them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.fitting import fit
from fastmlp.system.bars import Bar
from fastmlp.system.compiling import Stopwatch
from fastmlp.tables.deadline import Allowance, Deadline, Part, backend_in, within
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


class Trained(NamedTuple):
    """What a training on a table comes to.

    recipe : that the members follow; models : the members; held : for each, the rows that it held out
    shortened : in words what a limit of time has left out; None if nothing
    """

    recipe: Recipe
    models: list[Model]
    held: list[Array]
    shortened: str | None = None


def train(
    X: Any, targets: Array, weights: Array | None, task: Task, recipes: Sequence[Recipe],
    settings: MemberSettings, deadline: Deadline,
) -> Trained:  # fmt: skip
    """Return the members of the recipe that has the least loss on the first rows held out.

    Half of the time that is left is for a network of each recipe: with fewer epochs, and rows, where theirs
    take longer. The others follow as long as one more is expected to end in time.

    X : (rows, n_in), dense or CSR; targets : (rows,) as the task encodes them; weights : (rows,) or None

    Raises
    ------
    DivergenceError
        If no recipe's training ends, or one of those that follow does not.
    """
    planned = [recipe.resolved(len(targets)) for recipe in recipes]
    weights = _weights(targets, weights, task, planned[0])
    most = max(recipe.members or 1 for recipe in planned)
    parts = islice(folds(targets, task, most, settings.seed), most)
    visits = [len(targets) * (recipe.epochs or 1) for recipe in planned]
    with Bar(sum(visits) + (most - 1) * max(visits), "row", "training", settings.shown) as bar:
        before = 0

        def member(recipe: Recipe, part: Part, more: Sequence[Callback], place: int = 0) -> Model:
            nonlocal before
            what = f"network {place + 1}/{recipe.members}" if recipe.members != 1 else "network"
            moving = Visits(bar, what, before)
            before += len(targets) * (recipe.epochs or 1)
            seeded = settings._replace(seed=settings.seed + place)
            if settings.backend == "auto" and deadline.seconds is not None:
                inputs = inputs_of(X, recipe.bins)
                backend = backend_in(deadline.left, recipe, inputs, task, X.dtype, settings.threads)
                seeded = seeded._replace(backend=backend)
            return one(X, targets, weights, task, recipe, seeded, *part, [moving, *more])

        all_rows = next(parts)
        first = _best(planned, all_rows, member, deadline)
        models, held, seconds = [first.model], [first.part[1]], first.seconds
        for place, part in zip(range(1, first.recipe.members or 1), parts, strict=False):
            if deadline.left < seconds or first.part is not all_rows:
                break
            stopwatch, allowance = Stopwatch(), Allowance(deadline.left, judging=False)
            model = member(first.recipe, part, [allowance], place)
            if allowance.is_over:
                break
            seconds = stopwatch.lap().working
            models.append(model)
            held.append(part[1])
    whole = planned[first.place].epochs
    return Trained(first.recipe, models, held, _shortened(first, whole, len(models), len(targets)))


class First(NamedTuple):
    """The first network of a recipe.

    place : of the recipe; recipe : as the network follows it; part : its rows
    seconds : that it took, without compiling
    """

    place: int
    recipe: Recipe
    part: Part
    model: Model
    seconds: float


def _best(
    recipes: Sequence[Recipe], part: Part, trained: Callable[[Recipe, Part, Sequence[Callback]], Model],
    deadline: Deadline,
) -> First:  # fmt: skip
    """Return the first network of the recipe whose one has the least loss on the rows held out."""
    found: list[First] = []
    for place, recipe in enumerate(recipes):
        stopwatch, seconds = Stopwatch(), deadline.left / 2 / (len(recipes) - place)
        try:
            found.append(First(place, *within(seconds, recipe, part, trained), stopwatch.lap().working))
        except DivergenceError:
            if recipe is recipes[-1] and not found:
                raise
        if found and found[-1].part is not part:  # no time for all rows, and none for another recipe
            break
    return min(found, key=lambda first: min(first.model.history["validation_loss"]))


def _shortened(first: First, epochs: int | None, members: int, rows: int) -> str | None:
    """Return in words what a network and members have less than planned; None if nothing."""
    recipe, (trained, held) = first.recipe, first.part
    less = [f"{members} of {recipe.members} networks"] * (members < (recipe.members or 1))
    less += [f"{recipe.epochs} of {epochs} epochs"] * (recipe.epochs != epochs)
    used = len(trained) + len(held)
    return ", ".join([*less, *[f"{used} of {rows} rows"] * (used < rows)]) or None


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


def folds(targets: Array, task: Task, members: int, seed: int) -> Iterator[Part]:
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
