"""The members of an ensemble: networks that differ by their start and by the rows that they are trained on.

The first ones hold out rows, which say how good a recipe is and how many epochs are best. The others are
trained on all rows for so many epochs. The mean of all predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.fitting import fit
from fastmlp.model.precision import is_bfloat16
from fastmlp.system.bars import Bar
from fastmlp.system.compiling import Stopwatch
from fastmlp.tables.deadline import SLOWEST, Allowance, Deadline, Part, backend_in, within
from fastmlp.tables.inputs import inputs_of, predicted, rows_for
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Classification, Task
from fastmlp.training.callbacks import Callback, EarlyStopping, Run
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.model import Model

Array = NDArray[Any]

FOLDS = 5
"""A member that holds out rows holds out a fifth of them."""

LEAST_FOLDS, HELD_ROWS = 2, 1000
"""So many members hold out rows at least, and more while they hold out fewer rows together."""

MARGIN = 2.5
"""By how many times 1 / sqrt(n) the loss of n rows held out may be greater than that of the best recipe."""


class MemberSettings(NamedTuple):
    """Where a training runs, and how long: as for `fit`; several : columns of X, as for `inputs_of`."""

    seed: int
    several: Array
    deadline: Deadline
    backend: str = "auto"
    threads: int | None = None
    shown: bool | None = False
    dtype: Any = None


@dataclass
class Group:
    """The networks that follow one recipe.

    planned, recipe : as it was meant, and as they follow it in the time that there is
    rows : that each of them is trained on or holds out
    models : those that hold out rows first; held : for each of these, the rows that it held out
    seconds : that the last one took, without compiling
    """

    planned: Recipe
    recipe: Recipe
    rows: int
    models: list[Model] = field(default_factory=list)
    held: list[Array] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def validated(self) -> list[Model]:
        """The networks that held out rows."""
        return self.models[: len(self.held)]

    @property
    def loss(self) -> float:
        """The mean loss on the rows held out."""
        return float(np.mean([min(model.history["validation_loss"]) for model in self.validated]))

    @property
    def epochs(self) -> int:
        """The mean number of epochs after which the rows held out had the least loss."""
        best = [np.argmin(model.history["validation_loss"]) + 1 for model in self.validated]
        return round(float(np.mean(best)))


def train(
    X: Any, targets: Array, weights: Array | None, task: Task, recipes: Sequence[Recipe],
    settings: MemberSettings,
) -> tuple[list[Group], str | None]:  # fmt: skip
    """Return the networks of the best recipes, the best one first, and in words what the deadline left out.

    Networks of all recipes hold out the same part of the rows, then the next one. In between recipes are left
    out that have a clearly greater loss so far. Those that remain train the other networks on all rows. The
    mean of all networks that remain predicts.

    Half of the time that is left without compiling is for a first network of each recipe: with fewer epochs
    where theirs take longer, all of them with fewer rows where an epoch of others would not fit otherwise.
    Other recipes are not begun where not even one epoch fits. If the first had all rows, more networks follow
    as long as one more is expected to end in time. After the last of them, or where there were fewer rows,
    one of the best recipe has all the time that is left if its epochs or rows were fewer. It predicts alone
    if its loss is less.

    X : (rows, n_in), dense or CSR; targets : (rows,) as the task encodes them; weights : (rows,) or None

    Raises
    ------
    DivergenceError
        If the training of a last recipe diverges.
    """
    planned = [recipe.resolved(len(targets)) for recipe in recipes]
    weights = _weights(targets, weights, task, planned[0])
    most = max(recipe.members or 1 for recipe in planned)
    few = max(LEAST_FOLDS, -(-HELD_ROWS * FOLDS // len(targets)))
    parts = [*islice(folds(targets, task, settings.seed), min(most, few))]
    whole = np.arange(len(targets)), np.empty(0, int)
    visits = sum(len(targets) * (recipe.epochs or 1) * (recipe.members or 1) for recipe in planned)
    with Bar(visits, "row", "training", settings.shown) as bar:
        before = 0

        def member(
            recipe: Recipe, part: Part, more: Sequence[Callback], place: int = 0, epochs: int | None = None
        ) -> Model:
            nonlocal before
            what = f"network {place + 1}/{recipe.members}" if recipe.members != 1 else "network"
            visited = before + len(targets) * (recipe.epochs or 1)
            moving = Visits(bar, what, before, visited)
            before = visited
            seeded = settings._replace(seed=settings.seed + place)
            return one(X, targets, weights, task, recipe, seeded, *part, [moving, *more], epochs)

        groups, begun = _firsts(planned, parts[0], member, settings.deadline)
        is_whole = groups[0].rows == len(targets)
        for place in range(1, most if is_whole else 1):
            groups = near_best(groups)
            part = parts[place] if place < len(parts) else whole
            if not _followed(groups, part, place, member, settings.deadline):
                break
        else:
            groups = _longest(near_best(groups), parts[0], member, settings.deadline)
        groups = near_best(groups)
    less = next(filter(None, (_less(group, len(targets)) for group in groups)), [])
    words = [f"{begun} of {len(planned)} recipes"] * (begun < len(planned)) + less
    return groups, ", ".join(words) or None


def near_best(groups: Sequence[Group]) -> list[Group]:
    """Return the groups whose loss is not clearly greater than the least one, by rising loss.

    Chance alone makes 1 / sqrt(n) of n losses, about.
    """
    ordered = sorted(groups, key=lambda group: group.loss)
    margin = MARGIN / np.sqrt(sum(map(len, ordered[0].held)))
    return [group for group in ordered if group.loss <= (1 + margin) * ordered[0].loss]


def _firsts(
    recipes: Sequence[Recipe], part: Part, trained: Callable[[Recipe, Part, Sequence[Callback]], Model],
    deadline: Deadline,
) -> tuple[list[Group], int]:  # fmt: skip
    """Return a group of one network for each recipe whose training does not diverge, and how many there were.

    A recipe was not there if the time had no room for it.
    """
    groups: list[Group] = []
    whole = 0.0 if deadline.seconds is None else deadline.left
    for place, recipe in enumerate(recipes):
        seconds = (deadline.left - whole / 2) / (len(recipes) - place)
        if groups and seconds <= 0:
            return groups, place
        stopwatch = Stopwatch()
        try:
            room = 1.0 if groups or len(recipes) == 1 else 1 / SLOWEST
            found = within(seconds, deadline.left, recipe, part, trained, not groups, room)
        except DivergenceError:
            if recipe is recipes[-1] and not groups:
                raise
            continue
        lap = stopwatch.lap()
        whole -= lap.compiling
        if found is None:
            return groups, place
        own, part, model = found  # where there is no time for all rows others have as few
        groups.append(Group(recipe, own, sum(map(len, part)), [model], [part[1]], lap.working))
    return groups, len(recipes)


def _longest(
    groups: list[Group], part: Part, trained: Callable[[Recipe, Part, Sequence[Callback]], Model],
    deadline: Deadline,
) -> list[Group]:  # fmt: skip
    """Return one network of the best recipe that has all the time that is left, if its loss is less.

    The groups are returned if not, and if the best one, which is the first, has all epochs and rows.
    """
    best = groups[0]
    is_whole = (best.recipe.epochs, best.rows) == (best.planned.epochs, sum(map(len, part)))
    if is_whole or deadline.left < best.seconds:
        return groups
    try:
        found = within(deadline.left, deadline.left, best.planned, part, trained, must=True)
    except DivergenceError:
        return groups
    assert found is not None
    own, used, model = found
    longest = Group(best.planned, own, sum(map(len, used)), [model], [used[1]])
    return [longest] if longest.loss < best.loss else groups


def _followed(
    groups: list[Group], part: Part, place: int, trained: Callable[..., Model], deadline: Deadline
) -> bool:
    """Train one more network in each group; return whether there was time for all.

    part : without rows held out for a network of all rows
    place : of the network in its group; trained : takes it and the epochs, too
    """
    for group in [group for group in groups if place < (group.recipe.members or 1)]:
        if deadline.left < group.seconds:
            return False
        stopwatch, allowance = Stopwatch(), Allowance(deadline.left, deadline.left, judging=False)
        try:
            model = trained(group.recipe, part, [allowance], place, None if len(part[1]) else group.epochs)
        except DivergenceError:
            if len(groups) == 1:
                raise
            groups.remove(group)
            continue
        if allowance.is_over:
            return False
        group.seconds = stopwatch.lap().working
        group.models.append(model)
        group.held += [part[1]] if len(part[1]) else []
    return True


def _less(group: Group, rows: int) -> list[str]:
    """Return in words what the networks of a recipe have less than planned."""
    counts = {
        "networks": (len(group.models), group.planned.members or 1),
        "epochs": (group.recipe.epochs, group.planned.epochs),
        "rows": (group.rows, rows),
    }
    return [f"{own} of {whole} {what}" for what, (own, whole) in counts.items() if own != whole]


def one(
    X: Any, targets: Array, weights: Array | None, task: Task, recipe: Recipe, settings: MemberSettings,
    rows: Array, held: Array, callbacks: Sequence[Callback], epochs: int | None = None,
) -> Model:  # fmt: skip
    """Return one member, of the epoch after which the rows `held` had the least loss.

    targets : (rows,) as the task encodes them
    epochs : after which it ends, if no rows are held out; its rate falls as if it went on
    """
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    steps = recipe.epochs * -(-len(rows) // min(recipe.batch_size, len(rows)))
    inputs = inputs_of(X.shape[1], recipe, settings.several)
    backend, left = settings.backend, settings.deadline.left
    if backend == "auto" and settings.deadline.seconds is not None:
        mixed = is_bfloat16(settings.dtype)
        backend = backend_in(left, recipe, inputs, task, X.dtype, settings.threads, mixed)
    validating: dict[str, Any] = {"callbacks": callbacks}
    if len(held):
        arrays = (rows_for(inputs, X[held]), targets[held], *(() if weights is None else (weights[held],)))
        validating = {"callbacks": [EarlyStopping(recipe.patience), *callbacks], "validation": arrays}
    return fit(
        recipe.network(inputs, task),
        rows_for(inputs, X[rows]),
        targets[rows],
        optimizer=recipe.optimizer_of(steps),
        epochs=epochs or recipe.epochs,
        batch_size=recipe.batch_size,
        seed=settings.seed,
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


def folds(targets: Array, task: Task, seed: int) -> Iterator[Part]:
    """Yield (rows to train on, rows held out), each ascending; stratified where every class has two rows."""
    from sklearn.model_selection import KFold, StratifiedKFold

    count = min(FOLDS, len(targets))
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
        total += predicted(model, X)
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
