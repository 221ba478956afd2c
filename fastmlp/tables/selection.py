"""The recipes and networks of an ensemble, chosen by the loss of rows held out and the time.

The first networks of a recipe hold out rows: the loss of these rows ranks recipes, and chooses the number of
epochs. The other networks are trained on all rows for the mean number of epochs. The mean of all networks
predicts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import numpy as np

from fastmlp.callbacks.callback import Run
from fastmlp.callbacks.standard import TimeLimit
from fastmlp.many.training import InterruptedMany
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.interrupts import deferred
from fastmlp.system.notices import Bar
from fastmlp.tables.columns import Array
from fastmlp.tables.deadline import SLOWEST, Allowance, SharedCallback, within
from fastmlp.tables.frames import TableError
from fastmlp.tables.held_out import ALONE, FOLDS, Dependence, Part
from fastmlp.tables.members import Fitted, Planned, TableTraining, best_epoch, trained
from fastmlp.tables.recipe import MANY_ROWS, MEMBER_VISITS, Recipe, predicted
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError

LEAST_FOLDS, HELD_ROWS = 1, 1000
"""Fewest networks with rows held out; more networks hold out rows, until these are so many rows or groups."""

NETWORK_ROWS, LEAST_NETWORKS = 400_000, 2
"""Networks of all remaining recipes, unless given, are the cube root of the first number over the rows."""

FIRST_LAP = 8  # epochs before the first comparison of recipes of many rows; the next comparisons double them
VAIN = 0.4  # epochs without a lower loss that end a first network of many rows, over the epochs before
MARGIN = 2.5  # greatest loss of a remaining recipe over the least loss is 1 + MARGIN / sqrt(rows held out)
MORE_RATE = 0.1  # fraction of the learning rate for more training on other rows


@dataclass(eq=False)
class RecipeGroup:
    """The networks of a recipe.

    planned, recipe : the recipe, and the recipe of the networks in the time
    rows : to train on and held out, of the first network
    models : networks with rows held out before other networks
    held, outputs : rows held out by each of the first networks, and the outputs (rows, n_out) for them
    seconds : of the last network, without compiling
    """

    planned: Recipe
    recipe: Recipe
    rows: int
    models: list[Model] = field(default_factory=list)
    held: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, training: TableTraining, model: Model, held: Array) -> None:
        """Add a network. held : rows held out, empty for a network of all rows"""
        self.models.append(model)
        if len(held):
            # within the time of the networks: the first prediction loads code, and may compile some
            self.held.append(held)
            self.outputs.append(predicted(model, training.X[held]))

    @property
    def validated(self) -> list[Model]:
        """The networks with rows held out."""
        return self.models[: len(self.held)]

    @property
    def loss(self) -> float:
        """The mean loss on rows held out."""
        return float(np.mean([min(model.history["validation_loss"]) for model in self.validated]))

    @property
    def epochs(self) -> int:
        """The mean number of the best epoch."""
        return round(float(np.mean([*map(best_epoch, self.validated)])))


def train(training: TableTraining, recipes: Sequence[Recipe]) -> tuple[list[RecipeGroup], str | None]:
    """Return the networks of the best recipes, the best first, and in words what the time left out.

    Networks of all recipes hold out the same part of the rows, then the next part. Between parts, recipes
    with a clearly greater loss are left out. The remaining recipes train networks on all rows.

    With a time limit, half of the time is for a first network of each recipe: with fewer epochs if the recipe
    takes longer, and with fewer rows for all recipes if an epoch of a slower recipe would not fit. A recipe
    without time for an epoch is not begun. More networks follow while another network is expected to end in
    time. At the end a network of the best recipe has all of the time left if its networks had fewer epochs or
    rows than planned, and predicts alone if its loss is less. Ctrl-C ends the time; InterruptedMany before
    the end of a first network, and DivergenceError if all networks diverge.
    """
    rows, deadline, dependence = len(training.targets), training.deadline, training.dependence
    planned = [recipe.resolved(rows) for recipe in recipes]
    most = max(recipe.members for recipe in planned)
    whole = np.arange(rows), np.empty(0, int)
    # With few rows one part held out says little: more networks hold out parts, until HELD_ROWS rows have a
    # loss.
    few = max(LEAST_FOLDS, -(-HELD_ROWS * FOLDS // dependence.independent(whole[0])))
    parts = training.parts(min(most, few))
    weights = training.weights
    if weights is not None and not all(weights[indices].any() for part in parts for indices in part):
        raise TableError("too few rows have a weight: a fifth that networks hold out, or the rest, has none")
    visits = sum(rows * recipe.epochs * recipe.members for recipe in planned)
    with Bar(visits, "row", "training", training.shown) as training.bar, deferred(deadline.interrupt):
        groups, begun = _first_networks(training, planned, parts[0])
        is_whole = goes_on = groups[0].rows == rows
        for index in range(1, len(parts)):
            # Before each further part, so that its time goes to recipes that may still win.
            groups = near_best(groups, dependence)
            goes_on = goes_on and _followed(training, groups, parts[index], [index])
        groups = near_best(groups, dependence)
        if goes_on:
            most = most if recipes[0].members else _add_networks(groups)
            # These networks train on all rows: the parts before have chosen recipes and epochs.
            goes_on = _followed(training, groups, whole, range(len(parts), most))
        if goes_on or not is_whole:
            groups = _longest(training, near_best(groups, dependence), parts[0])
        groups = near_best(groups, dependence)
    less = next(filter(None, (_less(group, rows) for group in groups)), [])
    words = [f"{begun} of {len(planned)} recipes"] * (begun < len(planned)) + less
    until = " before Ctrl-C" * (deadline.interrupted and bool(words))
    return groups, ", ".join(words) + until or None


def more(training: TableTraining, groups: Sequence[tuple[Recipe, list[Model]]]) -> list[RecipeGroup]:
    """Return groups whose networks go on on the rows of a training, at a fraction of their rate.

    As many networks as before hold out parts of the rows, which choose the number of epochs.
    """
    held = max(sum("validation_loss" in model.history for model in models) for _, models in groups)
    parts, found = training.parts(held), []
    whole = np.arange(len(training.targets)), np.empty(0, int)
    for recipe, models in groups:
        slower = replace(recipe, learning_rate=MORE_RATE * recipe.learning_rate)
        found.append(group := RecipeGroup(recipe, recipe, len(whole[0])))
        pairs = [*enumerate(models)]
        planned = [
            Planned(slower, part, index, None, model)
            for part, (index, model) in zip(parts, pairs, strict=False)
        ]
        for one, model in zip(planned, training.networks(planned), strict=True):
            group.add(training, trained(model), one.part[1])
        rest = [Planned(slower, whole, index, group.epochs, model) for index, model in pairs[len(parts) :]]
        group.models += map(trained, training.networks(rest))
    return found


def near_best(groups: Sequence[RecipeGroup], dependence: Dependence = ALONE) -> list[RecipeGroup]:
    """Return the groups with a loss that is not clearly greater than the least loss, by rising loss.

    Chance alone makes about 1 / sqrt(n) of n independent losses.
    """
    ordered = sorted(groups, key=lambda group: group.loss)
    margin = MARGIN / np.sqrt(dependence.independent(np.concatenate(ordered[0].held)))
    return [group for group in ordered if group.loss <= (1 + margin) * ordered[0].loss]


def _first_networks(
    training: TableTraining, recipes: Sequence[Recipe], part: Part
) -> tuple[list[RecipeGroup], int]:
    """Return a group of one network for each recipe without a divergence, and the number of recipes begun."""
    deadline, groups = training.deadline, list[RecipeGroup]()

    def begin(planned: Recipe, recipe: Recipe, part: Part, model: Model) -> None:
        groups.append(RecipeGroup(planned, recipe, sum(map(len, part))))
        groups[-1].add(training, model, part[1])

    if deadline.seconds is None:
        if sum(map(len, part)) < MANY_ROWS:
            found = training.networks([Planned(recipe, part) for recipe in recipes])
        else:
            # With many rows an epoch is long: a recipe far behind ends early, and cannot train together with
            # the others.
            found = _raced(training, recipes, part)
        for recipe, one in zip(recipes, found, strict=True):
            if isinstance(one, Model):
                begin(recipe, recipe, part, one)
        if not groups:
            raise cast(DivergenceError, found[-1])
        return groups, sum(one is not None for one in found)
    whole = deadline.left
    for index, recipe in enumerate(recipes):
        # Half of the time is for these first networks, in equal parts of what is left of it.
        seconds = (deadline.left - whole / 2) / (len(recipes) - index)
        if groups and seconds <= 0:
            return groups, index
        stopwatch = Stopwatch()
        room = 1.0 if groups or len(recipes) == 1 else 1 / SLOWEST
        try:
            fitted = within(seconds, deadline.left, recipe, part, training.network, not groups, room)
        except DivergenceError:
            if recipe is recipes[-1] and not groups:
                raise
            continue
        except InterruptedMany:
            if not groups:
                raise
            return groups, index
        if fitted is None:
            return groups, index
        part = fitted[1]  # without time for all rows, the next recipes have as few rows
        begin(recipe, *fitted)
        lap = stopwatch.lap()
        # Compiling is no part of a recipe's time: the half is of the rest.
        whole -= lap.compiling
        groups[-1].seconds = lap.working
    return groups, len(recipes)


def _raced(training: TableTraining, recipes: Sequence[Recipe], part: Part) -> list[Fitted]:
    """Return the first network of each recipe of many rows; errors as of `TableTraining.networks`."""
    found: list[Fitted] = [None] * len(recipes)
    pace = _Pace(training, part)
    # Embedded numbers learn faster from many rows: their losses soon end the training of plain numbers.
    for index in sorted(range(len(recipes)), key=lambda index: not recipes[index].embeds):
        try:
            (found[index],) = training.networks([Planned(recipes[index], part)], [pace])
        except InterruptedMany:
            break
    if all(one is None for one in found):
        raise InterruptedMany(found)
    return found


class _Pace(SharedCallback):
    """Ends a training far behind an earlier training of the part, or long after the last lower loss."""

    def __init__(self, training: TableTraining, part: Part) -> None:
        # fraction of the loss of the earlier training, after as many epochs
        self.margin = 2 * MARGIN / np.sqrt(training.dependence.independent(part[1]))
        self.curves = list[list[float]]()

    def on_train_begin(self, run: Run) -> None:
        """Begin a curve of the least losses so far."""
        self.curves.append([])

    def on_epoch_end(self, run: Run) -> None:
        """Continue the curve; compare the curves after 8, 16, 32.. epochs."""
        *others, curve = self.curves
        curve.append(min([*curve[-1:], run.history["validation_loss"][-1]]))
        epochs, best = len(curve), curve.index(curve[-1]) + 1
        if epochs - best >= max(FIRST_LAP, VAIN * best):
            run.stop("the loss on rows held out has long not fallen")
        if epochs >= FIRST_LAP and not epochs & (epochs - 1):
            least = min((other[min(epochs, len(other)) - 1] for other in others), default=np.inf)
            if curve[-1] > (1 + self.margin) * least:
                run.stop("another recipe leads")


def _followed(training: TableTraining, groups: list[RecipeGroup], part: Part, indices: Sequence[int]) -> bool:
    """Train more networks of each group, on a part; return True if there was time for all networks.

    indices : of the networks in each group; a group with a divergence is removed
    """
    left = [(one, index) for index in indices for one in groups if index < one.recipe.members]
    deadline = training.deadline
    is_limited = deadline.seconds is not None
    is_raced = not is_limited and len(part[1]) > 0 and sum(map(len, part)) >= MANY_ROWS
    pace = [_Pace(training, part)] if is_raced else []
    # All train together, on all threads; network by network in a race, or as long as there is time.
    for some in [[one] for one in left] if is_limited or is_raced else filter(None, [left]):
        if deadline.left < some[0][0].seconds:
            return False
        stopwatch, allowance = Stopwatch(), Allowance(deadline.left, deadline.left, judging=False)
        planned = [
            Planned(group.recipe, part, index, None if len(part[1]) else group.epochs)
            for group, index in some
        ]
        try:
            found = training.networks(planned, [*[allowance] * is_limited, *pace])
        except InterruptedMany:
            return False
        if allowance.is_over:
            return False
        for (group, _), one in zip(some, found, strict=True):
            if isinstance(one, DivergenceError):
                # The last recipe: nothing else could predict.
                if groups == [group]:
                    raise one
                groups[:] = [other for other in groups if other is not group]
            if isinstance(one, Model):
                group.add(training, one, part[1])
                group.seconds = stopwatch.lap().working
        if None in found:
            return False
    return True


def _longest(training: TableTraining, groups: list[RecipeGroup], part: Part) -> list[RecipeGroup]:
    """Return one network of the best recipe in all of the time left, if its loss is less; else the groups."""
    best, deadline = groups[0], training.deadline
    is_whole = (best.recipe.epochs, best.rows) == (best.planned.epochs, sum(map(len, part)))
    if is_whole or deadline.left < best.seconds:
        return groups
    try:
        found = within(deadline.left, deadline.left, best.planned, part, training.network, must=True)
    except (DivergenceError, InterruptedMany):
        return groups
    assert found is not None
    recipe, part, model = found
    longest = RecipeGroup(best.planned, recipe, sum(map(len, part)))
    longest.add(training, model, part[1])
    # Alone: the other networks had fewer epochs or rows.
    return [longest] if longest.loss < best.loss else groups


def _add_networks(groups: Sequence[RecipeGroup]) -> int:
    """Give more networks to the best group, the first; return the greatest number of a group."""
    best, recipe = groups[0], groups[0].recipe
    networks = max(LEAST_NETWORKS, round((NETWORK_ROWS / best.rows) ** (1 / 3)))
    others = sum(group.recipe.members for group in groups[1:])
    # More networks cost a fixed number of visited rows at most, however many rows there are.
    most = min(recipe.most_members, MEMBER_VISITS // (best.rows * recipe.epochs))
    members = max(recipe.members, min(most, networks - others))
    best.planned, best.recipe = (replace(one, members=members) for one in (best.planned, recipe))
    return max(group.recipe.members for group in groups)


def _less(group: RecipeGroup, rows: int) -> list[str]:
    """Return in words the networks, epochs and rows of a recipe that are fewer than planned."""
    counts = {
        "networks": (len(group.models), group.planned.members),
        "epochs": (group.recipe.epochs, group.planned.epochs),
        "rows": (group.rows, rows),
    }
    return [f"{used} of {whole} {what}" for what, (used, whole) in counts.items() if used != whole]


# --- search ---------------------------------------------------------------------------------------------

HIDDEN = ((), (32,), (128,), (64, 64), (128, 128), (256, 256), (128, 128, 128), (256, 256, 256), (512, 512))

RATES = (0.1, 0.3, 1.0, 3.0)  # factors of the recipe's rate
LEAST_SECONDS = 1e-6  # shortest limit of a trial: a limit is above 0


class SearchTrial(NamedTuple):
    """Settings of a trial, and the least loss on rows held out; NaN after a divergence."""

    hidden: tuple[int, ...]
    learning_rate: float
    loss: float
    seconds: float


def searched(
    training: TableTraining, recipe: Recipe, seconds: float, given: Collection[str] = ()
) -> tuple[Recipe, list[SearchTrial]]:
    """Return the recipe with the hidden layers and the rate of the best trial, and all trials.

    The recipe's settings are the first trial, however short the time; other settings follow in an order drawn
    by the seed. A later trial that the end of the time cuts short does not count.

    given : hidden or learning_rate, if to remain as in the recipe
    """
    whole, (part,) = recipe.resolved(len(training.targets)), training.parts(1)
    layers = (whole.hidden,) if "hidden" in given else HIDDEN
    rates = (1.0,) if "learning_rate" in given else RATES
    rest = [(hidden, whole.learning_rate * by) for hidden, by in itertools.product(layers, rates)]
    np.random.default_rng(training.seed).shuffle(rest)
    first = whole.hidden, whole.learning_rate
    trials: list[SearchTrial] = []
    began = time.monotonic()
    with Bar(seconds, "s", "search", training.shown) as bar:
        for hidden, rate in [first, *(one for one in rest if one != first)]:
            start = time.monotonic()
            left = began + seconds - start
            if left <= 0 and trials:
                break
            bar.move(start - began, f"search, trial {len(trials) + 1}")
            tried = Planned(replace(whole, hidden=hidden, learning_rate=rate), part)
            (model,) = training.networks([tried], [TimeLimit(max(left, LEAST_SECONDS))])
            loss = float("nan")
            if isinstance(model, Model):
                # A trial cut short has a loss of too few epochs, and no settings should be chosen by it.
                if model.stop_reason is not None and "time limit" in model.stop_reason and trials:
                    break
                loss = min(model.history["validation_loss"], default=loss)
            trials.append(SearchTrial(hidden, rate, loss, time.monotonic() - start))
    best = min(trials, key=lambda trial: np.inf if np.isnan(trial.loss) else trial.loss)
    return replace(recipe, hidden=best.hidden, learning_rate=best.learning_rate), trials
