"""Which networks of which recipes predict: rows that are held out and the time that there is choose.

The first networks of a recipe hold out rows, which say how good it is and how many epochs are best. The
others are trained on all rows for so many epochs. The mean of all networks predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.callbacks.callback import Callback
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.interrupts import Interrupted, deferred
from fastmlp.system.notices import Bar
from fastmlp.tables.deadline import SLOWEST, Allowance, Deadline, Part, within
from fastmlp.tables.errors import TableError
from fastmlp.tables.held_out import ALONE, FOLDS, Dependence, folds
from fastmlp.tables.inputs import predicted
from fastmlp.tables.members import MemberSettings, Visits, best_epoch, train_member, weights_of
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Task
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError

Array = NDArray[Any]

LEAST_FOLDS, HELD_ROWS = 2, 1000
"""So many members hold out rows at least, and more while they hold out fewer rows, or groups, together. By a
time one does."""

MARGIN = 2.5
"""By how many times 1 / sqrt(n) the loss of n rows held out may be greater than that of the best recipe."""

MORE_RATE = 0.1
"""Of a recipe's learning rate, for networks that go on on other rows."""


@dataclass
class Group:
    """The networks that follow one recipe.

    planned, recipe : as it was meant, and as they follow it in the time that there is
    rows : that each of them is trained on or holds out
    models : those that hold out rows first; held, outputs : for each of these, the rows that it held out, and
        what it predicts of them, (rows, n_out)
    seconds : that the last one took, without compiling
    """

    planned: Recipe
    recipe: Recipe
    rows: int
    models: list[Model] = field(default_factory=list)
    held: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
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
        return round(float(np.mean([*map(best_epoch, self.validated)])))


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
    if its loss is less. Ctrl-C ends the time, and the network under way is left out.

    X : (rows, n_in), dense or CSR; targets : (rows,) as the task encodes them; weights : (rows,) or None

    Raises
    ------
    DivergenceError
        If the training of a last recipe diverges.
    Interrupted
        After Ctrl-C before a first network is done, or at once after a second one.
    TableError
        If a part of the rows has no weight.
    """
    planned = [recipe.resolved(len(targets)) for recipe in recipes]
    weights = weights_of(targets, weights, task, planned[0])
    most = max(recipe.members or 1 for recipe in planned)
    dependence = settings.dependence
    whole = np.arange(len(targets)), np.empty(0, int)
    few = max(LEAST_FOLDS, -(-HELD_ROWS * FOLDS // dependence.independent(whole[0])))
    parts = [*islice(folds(targets, task, settings.seed, dependence), min(most, few))]
    if weights is not None and not all(weights[rows].any() for part in parts for rows in part):
        raise TableError("too few rows have a weight: a fifth that networks hold out, or the rest, has none")
    visits = sum(len(targets) * (recipe.epochs or 1) * (recipe.members or 1) for recipe in planned)
    with Bar(visits, "row", "training", settings.shown) as bar, deferred(settings.deadline.interrupt):
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
            return train_member(X, targets, weights, task, recipe, seeded, *part, [moving, *more], epochs)

        def outputs(model: Model, held: Array) -> Array:
            # within the time of the networks: the first prediction loads code, and may compile some
            return predicted(model, X[held])

        groups, begun = _firsts(planned, parts[0], member, outputs, settings.deadline)
        is_whole = groups[0].rows == len(targets)
        for place in range(1, most if is_whole else 1):
            groups = near_best(groups, dependence)
            part = parts[place] if place < len(parts) else whole
            if not _followed(groups, part, place, member, outputs, settings.deadline):
                break
        else:
            groups = _longest(near_best(groups, dependence), parts[0], member, outputs, settings.deadline)
        groups = near_best(groups, dependence)
    less = next(filter(None, (_less(group, len(targets)) for group in groups)), [])
    words = [f"{begun} of {len(planned)} recipes"] * (begun < len(planned)) + less
    until = " before Ctrl-C" * (settings.deadline.interrupted and bool(words))
    return groups, ", ".join(words) + until or None


def more(
    X: Any, targets: Array, weights: Array | None, task: Task, groups: Sequence[tuple[Recipe, list[Model]]],
    settings: MemberSettings,
) -> list[Group]:  # fmt: skip
    """Return groups whose networks go on on other rows, at a part of their rate.

    As many networks as held out rows before hold out parts of these, which choose their epochs.

    X, targets, weights : as for `train`
    """
    held = max(sum("validation_loss" in model.history for model in models) for _, models in groups)
    parts: list[Part] = [*islice(folds(targets, task, settings.seed, settings.dependence), held)]
    whole, found = (np.arange(len(targets)), np.empty(0, int)), []
    for recipe, models in groups:
        slower, own = (
            replace(recipe, learning_rate=MORE_RATE * recipe.learning_rate),
            Group(recipe, recipe, 0),
        )
        balanced = weights_of(targets, weights, task, recipe)
        for place, model in enumerate(models):
            seeded, part = (
                settings._replace(seed=settings.seed + place),
                [*parts, whole][min(place, len(parts))],
            )
            epochs = None if len(part[1]) else own.epochs
            own.models.append(
                train_member(X, targets, balanced, task, slower, seeded, *part, [], epochs, initial=model)
            )
            if len(part[1]):
                own.held.append(part[1])
                own.outputs.append(predicted(own.models[-1], X[part[1]]))
        found.append(own)
    return found


def near_best(groups: Sequence[Group], dependence: Dependence = ALONE) -> list[Group]:
    """Return the groups whose loss is not clearly greater than the least one, by rising loss.

    Chance alone makes 1 / sqrt(n) of n independent losses, about.
    """
    ordered = sorted(groups, key=lambda group: group.loss)
    margin = MARGIN / np.sqrt(dependence.independent(np.concatenate(ordered[0].held)))
    return [group for group in ordered if group.loss <= (1 + margin) * ordered[0].loss]


def _firsts(
    recipes: Sequence[Recipe], part: Part, trained: Callable[[Recipe, Part, Sequence[Callback]], Model],
    outputs: Callable[[Model, Array], Array], deadline: Deadline,
) -> tuple[list[Group], int]:  # fmt: skip
    """Return a group of one network for each recipe whose training does not diverge, and how many there were.

    A recipe was not there if the time had no room for it.

    outputs : returns what a network predicts of rows
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
        except Interrupted:
            if not groups:
                raise
            return groups, place
        if found is not None:
            own, part, model = found  # where there is no time for all rows others have as few
            groups.append(
                Group(recipe, own, sum(map(len, part)), [model], [part[1]], [outputs(model, part[1])])
            )
        lap = stopwatch.lap()
        whole -= lap.compiling
        if found is None:
            return groups, place
        groups[-1].seconds = lap.working
    return groups, len(recipes)


def _longest(
    groups: list[Group], part: Part, trained: Callable[[Recipe, Part, Sequence[Callback]], Model],
    outputs: Callable[[Model, Array], Array], deadline: Deadline,
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
    except (DivergenceError, Interrupted):
        return groups
    assert found is not None
    own, used, model = found
    longest = Group(best.planned, own, sum(map(len, used)), [model], [used[1]], [outputs(model, used[1])])
    return [longest] if longest.loss < best.loss else groups


def _followed(
    groups: list[Group], part: Part, place: int, trained: Callable[..., Model],
    outputs: Callable[[Model, Array], Array], deadline: Deadline,
) -> bool:  # fmt: skip
    """Train one more network in each group; return whether there was time for all.

    part : without rows held out for a network of all rows
    place : of the network in its group; trained : takes it and the epochs, too; outputs : as for `_firsts`
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
        except Interrupted:
            return False
        if allowance.is_over:
            return False
        group.models.append(model)
        if len(part[1]):
            group.held.append(part[1])
            group.outputs.append(outputs(model, part[1]))
        group.seconds = stopwatch.lap().working
    return True


def _less(group: Group, rows: int) -> list[str]:
    """Return in words what the networks of a recipe have less than planned."""
    counts = {
        "networks": (len(group.models), group.planned.members or 1),
        "epochs": (group.recipe.epochs, group.planned.epochs),
        "rows": (group.rows, rows),
    }
    return [f"{own} of {whole} {what}" for what, (own, whole) in counts.items() if own != whole]
