"""Which networks of which recipes predict: rows that are held out and the time that there is choose.

The first networks of a recipe hold out rows, which say how good it is and how many epochs are best. The
others are trained on all rows for so many epochs. The mean of all networks predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastmlp.callbacks.callback import Callback, Run
from fastmlp.many.training import InterruptedMany
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.interrupts import deferred
from fastmlp.system.notices import Bar
from fastmlp.tables.deadline import SLOWEST, Allowance, Deadline, Part, SharedCallback, within
from fastmlp.tables.errors import TableError
from fastmlp.tables.held_out import ALONE, FOLDS, Dependence, folds
from fastmlp.tables.inputs import predicted
from fastmlp.tables.members import (
    Fitted,
    MemberSettings,
    Planned,
    Visits,
    best_epoch,
    train_members,
    weights_of,
)
from fastmlp.tables.recipe import MANY_ROWS, MEMBER_VISITS, Recipe
from fastmlp.tables.tasks import Task
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError

Array = NDArray[Any]

TOGETHER_BYTES = 1 << 24
"""Trainings whose rows take more together follow one another: each has copies of its rows."""

LEAST_FOLDS, HELD_ROWS = 1, 1000
"""So many members hold out rows at least, and more while they hold out fewer rows, or groups, together. By a
time one does."""

NETWORK_ROWS, LEAST_NETWORKS = 500_000, 2
"""Networks that predict at least, if none are given: the cube root of the first number over the rows."""

MARGIN = 2.5
"""By how many times 1 / sqrt(n) the loss of n rows held out may be greater than that of the best recipe."""

FIRST_LAP = 8
"""Epochs after which a first network of many rows may end; recipes are compared then, and after 16, 32.."""

VAIN = 0.4
"""Epochs without a lower loss that end a first network of many rows, as a share of those before."""

MORE_RATE = 0.1
"""Of a recipe's learning rate, for networks that go on on other rows."""


@dataclass(eq=False)
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
    if its loss is less. Ctrl-C ends the time, and networks under way are left out.

    X : (rows, n_in), dense or CSR; targets : (rows,) as the task encodes them; weights : (rows,) or None

    Raises
    ------
    DivergenceError
        If the training of a last recipe diverges.
    InterruptedMany
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
        before, size = 0, (X if isinstance(X, np.ndarray) else X.data).nbytes

        def members(planned: Sequence[Planned], more: Sequence[Callback]) -> list[Fitted]:
            nonlocal before
            if len(planned) > 1 and len(planned) * size > TOGETHER_BYTES:
                return one_by_one(members, planned, more)
            names = [
                f"network {one.place + 1}/{one.recipe.members}" if one.recipe.members != 1 else "network"
                for one in planned
            ]
            rows = [len(targets) * (one.recipe.epochs or 1) for one in planned]
            callbacks = [Visits(bar, before, names, rows, settings.deadline), *more]
            before += sum(rows)
            return train_members(X, targets, weights, task, planned, settings, callbacks)

        def outputs(model: Model, held: Array) -> Array:
            # within the time of the networks: the first prediction loads code, and may compile some
            return predicted(model, X[held])

        groups, begun = _firsts(planned, parts[0], members, outputs, settings.deadline)
        is_whole = groups[0].rows == len(targets)
        goes_on = is_whole
        for place in range(1, len(parts)):
            groups = near_best(groups, dependence)
            goes_on = goes_on and _followed(
                groups, parts[place], [place], members, outputs, settings.deadline
            )
        groups = near_best(groups, dependence)
        if goes_on:
            if recipes[0].members is None:
                most = _share(groups)
            places = range(len(parts), most)
            goes_on = _followed(groups, whole, places, members, outputs, settings.deadline)
        if goes_on or not is_whole:
            groups = _longest(near_best(groups, dependence), parts[0], members, outputs, settings.deadline)
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
        slower = replace(recipe, learning_rate=MORE_RATE * recipe.learning_rate)
        own = Group(recipe, recipe, 0)
        balanced = weights_of(targets, weights, task, recipe)
        planned = [
            Planned(slower, part, place, None, model)
            for place, (part, model) in enumerate(zip(parts, models, strict=False))
        ]
        own.models += map(_checked, train_members(X, targets, balanced, task, planned, settings, []))
        own.held += [one.part[1] for one in planned]
        own.outputs += [predicted(model, X[rows]) for model, rows in zip(own.models, own.held, strict=True)]
        if rest := [*enumerate(models)][len(parts) :]:
            planned = [Planned(slower, whole, place, own.epochs, model) for place, model in rest]
            own.models += map(_checked, train_members(X, targets, balanced, task, planned, settings, []))
        found.append(own)
    return found


def one_by_one(trained: Trained, planned: Sequence[Planned], callbacks: Sequence[Callback]) -> list[Fitted]:
    """Return the members of trainings one after the other; errors as of `train_members`."""
    found: list[Fitted] = []
    for one in planned:
        try:
            found += trained([one], callbacks)
        except InterruptedMany:
            found.append(None)
    if None in found and not any(isinstance(one, Model) for one in found):
        raise InterruptedMany(found)
    return found


def near_best(groups: Sequence[Group], dependence: Dependence = ALONE) -> list[Group]:
    """Return the groups whose loss is not clearly greater than the least one, by rising loss.

    Chance alone makes 1 / sqrt(n) of n independent losses, about.
    """
    ordered = sorted(groups, key=lambda group: group.loss)
    margin = MARGIN / np.sqrt(dependence.independent(np.concatenate(ordered[0].held)))
    return [group for group in ordered if group.loss <= (1 + margin) * ordered[0].loss]


Trained = Callable[[Sequence[Planned], Sequence[Callback]], list[Fitted]]
"""What trains networks, with callbacks, as `train_members` does."""

Outputs = Callable[[Model, Array], Array]
"""What a network predicts of rows, by their places."""


def _firsts(
    recipes: Sequence[Recipe], part: Part, trained: Trained, outputs: Outputs, deadline: Deadline
) -> tuple[list[Group], int]:
    """Return a group of one network for each recipe whose training does not diverge, and how many there were.

    A recipe was not there if the time had no room for it.
    """
    groups: list[Group] = []
    if deadline.seconds is None:
        found = _raced(recipes, part, trained)
        for recipe, one in zip(recipes, found, strict=True):
            if isinstance(one, Model):
                groups.append(_group(recipe, recipe, part, one, outputs))
        if not groups:
            raise cast(DivergenceError, found[-1])
        return groups, sum(one is not None for one in found)
    whole = deadline.left
    for place, recipe in enumerate(recipes):
        seconds = (deadline.left - whole / 2) / (len(recipes) - place)
        if groups and seconds <= 0:
            return groups, place
        stopwatch = Stopwatch()
        try:
            room = 1.0 if groups or len(recipes) == 1 else 1 / SLOWEST
            fitted = within(seconds, deadline.left, recipe, part, _single(trained), not groups, room)
        except DivergenceError:
            if recipe is recipes[-1] and not groups:
                raise
            continue
        except InterruptedMany:
            if not groups:
                raise
            return groups, place
        if fitted is not None:
            own, part, model = fitted  # where there is no time for all rows others have as few
            groups.append(_group(recipe, own, part, model, outputs))
        lap = stopwatch.lap()
        whole -= lap.compiling
        if fitted is None:
            return groups, place
        groups[-1].seconds = lap.working
    return groups, len(recipes)


def _raced(recipes: Sequence[Recipe], part: Part, trained: Trained) -> list[Fitted]:
    """Return the first network of each recipe, as `train_members` does.

    Of few rows, they train at once. Of many, they train one by one, and end where another recipe leads.
    """
    if sum(map(len, part)) < MANY_ROWS:
        return trained([Planned(recipe, part) for recipe in recipes], [])
    pace = _Pace(2 * MARGIN / np.sqrt(len(part[1])))
    # Numbers that are embedded learn faster from many rows: their losses end the plain recipe soon.
    order = sorted(range(len(recipes)), key=lambda place: not recipes[place].embeds)
    found = one_by_one(trained, [Planned(recipes[place], part) for place in order], [pace])
    return [found[order.index(place)] for place in range(len(recipes))]


class _Pace(SharedCallback):
    """Ends a training that trails another recipe's, or whose loss is clearly not falling any more.

    margin : share of the loss by which a training trails after as many epochs
    """

    def __init__(self, margin: float) -> None:
        self.margin, self.curves = margin, list[list[float]]()

    def on_train_begin(self, run: Run) -> None:
        """Begin the curve of the least losses so far."""
        self.curves.append([])

    def on_epoch_end(self, run: Run) -> None:
        """Compare the curves after 8, 16, 32.. epochs."""
        *others, curve = self.curves
        curve.append(min([*curve[-1:], run.history["validation_loss"][-1]]))
        epochs, best = len(curve), curve.index(curve[-1]) + 1
        if epochs - best >= max(FIRST_LAP, VAIN * best):
            run.stop("the loss on rows held out has long not fallen")
        if epochs >= FIRST_LAP and not epochs & (epochs - 1):
            least = min((other[min(epochs, len(other)) - 1] for other in others), default=np.inf)
            if curve[-1] > (1 + self.margin) * least:
                run.stop("another recipe leads")


def _group(planned: Recipe, recipe: Recipe, part: Part, model: Model, outputs: Outputs) -> Group:
    """Return the group of a first network."""
    return Group(planned, recipe, sum(map(len, part)), [model], [part[1]], [outputs(model, part[1])])


def _single(trained: Trained) -> Callable[[Recipe, Part, Sequence[Callback]], Model]:
    """Return what trains a first network alone, and raises its error."""

    def single(recipe: Recipe, part: Part, more: Sequence[Callback]) -> Model:
        (found,) = trained([Planned(recipe, part)], more)
        return _checked(found)

    return single


def _checked(found: Fitted) -> Model:
    """Return a network; its error, or that of Ctrl-C, is raised."""
    if not isinstance(found, Model):
        raise found or InterruptedMany([found])
    return found


def _longest(
    groups: list[Group], part: Part, trained: Trained, outputs: Outputs, deadline: Deadline
) -> list[Group]:
    """Return one network of the best recipe that has all the time that is left, if its loss is less.

    The groups are returned if not, and if the best one, which is the first, has all epochs and rows.
    """
    best = groups[0]
    is_whole = (best.recipe.epochs, best.rows) == (best.planned.epochs, sum(map(len, part)))
    if is_whole or deadline.left < best.seconds:
        return groups
    try:
        found = within(deadline.left, deadline.left, best.planned, part, _single(trained), must=True)
    except (DivergenceError, InterruptedMany):
        return groups
    assert found is not None
    longest = _group(best.planned, *found, outputs)
    return [longest] if longest.loss < best.loss else groups


def _followed(
    groups: list[Group], part: Part, places: Sequence[int], trained: Trained, outputs: Outputs,
    deadline: Deadline,
) -> bool:  # fmt: skip
    """Train more networks in each group; return whether there was time for all.

    part : without rows held out for networks of all rows; places : of the networks in each group
    """
    left = [(one, place) for place in places for one in groups if place < (one.recipe.members or 1)]
    is_limited = deadline.seconds is not None
    for some in [[one] for one in left] if is_limited else filter(None, [left]):
        if deadline.left < some[0][0].seconds:
            return False
        stopwatch, allowance = Stopwatch(), Allowance(deadline.left, deadline.left, judging=False)
        planned = [
            Planned(group.recipe, part, place, None if len(part[1]) else group.epochs)
            for group, place in some
        ]
        try:
            found = trained(planned, [allowance] * is_limited)
        except InterruptedMany:
            return False
        if allowance.is_over:
            return False
        for (group, _), one in zip(some, found, strict=True):
            if isinstance(one, DivergenceError):
                if groups == [group]:
                    raise one
                groups[:] = [other for other in groups if other is not group]
            if not isinstance(one, Model):
                continue
            group.models.append(one)
            if len(part[1]):
                group.held.append(part[1])
                group.outputs.append(outputs(one, part[1]))
            group.seconds = stopwatch.lap().working
        if None in found:
            return False
    return True


def _share(groups: Sequence[Group]) -> int:
    """Give more networks to the best group, which is the first, and return the most networks of a group.

    All groups together have as many as predict at least, if the recipe may have so many.
    """
    best, recipe = groups[0], groups[0].recipe
    networks = max(LEAST_NETWORKS, round((NETWORK_ROWS / best.rows) ** (1 / 3)))
    others = sum(group.recipe.members or 1 for group in groups[1:])
    most = min(recipe.most_members, MEMBER_VISITS // (best.rows * (recipe.epochs or 1)))
    members = max(recipe.members or 1, min(most, networks - others))
    best.planned, best.recipe = (replace(one, members=members) for one in (best.planned, recipe))
    return max(group.recipe.members or 1 for group in groups)


def _less(group: Group, rows: int) -> list[str]:
    """Return in words what the networks of a recipe have less than planned."""
    counts = {
        "networks": (len(group.models), group.planned.members or 1),
        "epochs": (group.recipe.epochs, group.planned.epochs),
        "rows": (group.rows, rows),
    }
    return [f"{own} of {whole} {what}" for what, (own, whole) in counts.items() if own != whole]
