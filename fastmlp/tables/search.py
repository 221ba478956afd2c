"""The recipes and networks of an ensemble, chosen by the loss of rows held out and the time.

The first networks of a recipe hold out rows: the loss of these rows ranks recipes, and chooses the number of
epochs. The other networks are trained on all rows for the mean number of epochs. The mean of all networks
predicts.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self, cast

import numpy as np

from fastmlp.backend.choice import is_ready
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import EarlyStopping
from fastmlp.many.training import InterruptedMany, fit_many
from fastmlp.model.optimizers import keeping_signs
from fastmlp.model.state import is_bfloat16
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.interrupts import BY_SIGINT, deferred
from fastmlp.system.notices import Bar
from fastmlp.tables.columns import Array
from fastmlp.tables.frames import TableError
from fastmlp.tables.held_out import ALONE, FOLDS, Dependence, Part, folds
from fastmlp.tables.recipe import MANY_ROWS, MEMBER_VISITS, Recipe, inputs_of, predicted, rows_for
from fastmlp.tables.tasks import Several, Task
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError

HELD_ROWS = 1000  # networks hold out rows until so many rows or groups have a loss

NETWORK_ROWS, LEAST_NETWORKS = 400_000, 2
"""Networks of all remaining recipes, unless given, are the cube root of the first number over the rows."""

FIRST_LAP = 8  # epochs before the first comparison of recipes of many rows; the next comparisons double them
VAIN = 0.4  # epochs without a lower loss that end a first network of many rows, over the epochs before
MARGIN = 2.5  # greatest loss of a remaining recipe over the least loss is 1 + MARGIN / sqrt(rows held out)
MORE_RATE = 0.1  # fraction of the learning rate for more training on other rows

NETWORKS_FRACTION = 0.93  # of the limit, for networks and all work before; the rest is for scores and files
JUDGED_AFTER = 0.1  # fraction of a network's time after which the pace is known
RESERVE = 0.9  # fraction of the epochs by the pace: another epoch may take longer
LEAST_PART = 1000  # fewest training rows of a network, however short the time
SLOWEST = 6  # time of the slowest recipe over that of the first recipe, at most, for the same rows
COMPILING = 20.0  # seconds of compiling on a busy machine, with the compiler's start

HIDDEN = Bar(None, "", "", False)  # of trainings without a bar

Fitted = Model | DivergenceError | None
"""The result of a training; None after Ctrl-C."""


class Deadline:
    """The end of a training on a table, after some seconds since `began`, or after a signal."""

    def __init__(self, seconds: float | None = None, began: float | None = None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self.interrupted = False
        self._began = time.monotonic() if began is None else began

    def interrupt(self, reason: str) -> None:
        """End the time now, for `system.interrupts.deferred`."""
        self.interrupted = True

    @property
    def is_limited(self) -> bool:
        """True with a time limit."""
        return self.seconds < math.inf

    @property
    def left(self) -> float:
        """Seconds left for networks, perhaps below 0; infinite without a limit."""
        if self.interrupted:
            return -math.inf
        return self._began + NETWORKS_FRACTION * self.seconds - time.monotonic()


class Planned(NamedTuple):
    """A network to train.

    part : rows to train on, and rows held out; number : among the networks of the recipe
    epochs : the last epoch without rows held out; the rate falls as with the recipe's number of epochs
    initial : the network to begin from, None for new parameters
    """

    recipe: Recipe
    part: Part
    number: int = 0
    epochs: int | None = None
    initial: Model | None = None


class Stop(Callback):
    """Ends trainings at the end of their time, or in a race behind others; moves the bar.

    Only the pace ends a training within the first epoch: a network needs a loss on rows held out.

    seconds : of the trainings, without compiling; with compiling they have the time left of `training`
    judging : True to end a training as soon as its pace shows a later end
    race : of the trainings on a part, which these join; None for none
    jobs : of the trainings
    fitting : the number of epochs in the time left, once the pace ended a training; else None
    is_over : True if the time ended a training; working : seconds so far, without compiling
    """

    def __init__(
        self, training: TableTraining, seconds: float, judging: bool = False, race: Race | None = None
    ) -> None:
        self.fitting: float | None = None
        self.is_over, self.working = False, 0.0
        self._training, self._seconds, self._judging, self._race = training, seconds, judging, race
        self._end = time.monotonic() + training.deadline.left
        self._seen: dict[int, float] = {}
        self.jobs: Sequence[Planned] = ()

    def __deepcopy__(self, memo: object) -> Self:
        return self  # all trainings of a call of `fit_many` share the object

    def on_train_begin(self, run: Run) -> None:
        """Start the clock, and a curve of the race."""
        self._stopwatch = Stopwatch()
        if self._race is not None:
            self._race.curves.append([])

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar; stop a training at the end of the time, or if its pace is too slow."""
        index = run.model_index or 0
        self._seen[index] = run.rows_seen
        done, job = self._training.visited + sum(self._seen.values()), self.jobs[index]
        name = f"network {job.number + 1}/{job.recipe.members}"
        self._training.bar.move(done, f"{name}, epoch {run.epoch}/{run.epochs}")
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

    def on_epoch_end(self, run: Run) -> None:
        """Stop a training that is far behind in its race, or long after its last lower loss."""
        reason = None if self._race is None else self._race.ended(run.history["validation_loss"][-1])
        if reason is not None:
            run.stop(reason)


@dataclass
class Race:
    """The trainings of recipes on a part of many rows, where an epoch is long: those far behind end early.

    margin : greatest loss over the least loss after as many epochs, less 1
    curves : of each training so far the least loss after each epoch
    """

    margin: float
    curves: list[list[float]] = field(default_factory=list)

    def ended(self, loss: float) -> str | None:
        """Continue the last curve; return why it ends, or None.

        Curves are compared after 8, 16, 32.. epochs.
        """
        *others, curve = self.curves
        curve.append(min([*curve[-1:], loss]))
        epochs, best = len(curve), curve.index(curve[-1]) + 1
        if epochs - best >= max(FIRST_LAP, VAIN * best):
            return "the loss on rows held out has long not fallen"
        is_lap = epochs >= FIRST_LAP and not epochs & (epochs - 1)
        least = min((other[min(epochs, len(other)) - 1] for other in others if other), default=np.inf)
        return "another recipe leads" if is_lap and curve[-1] > (1 + self.margin) * least else None


@dataclass(eq=False)
class TableTraining:
    """The encoded rows of a table, with the options of all trainings.

    X : (rows, n), dense or CSR; targets : (rows,), as the task encodes them; weights : (rows,) or None
    several : columns of X to embed, as for `inputs_of`; signs : (n,), as for `Network(monotone=)`
    bar : moved by visited rows; visited : rows of earlier trainings, as planned
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
    bar: Bar = HIDDEN
    visited: float = 0.0

    def parts(self, most: int) -> list[Part]:
        """Return at most so many pairs of rows to train on and rows held out."""
        return [*itertools.islice(folds(self.targets, self.task, self.seed, self.dependence), most)]

    def networks(self, jobs: Sequence[Planned], stop: Stop | None = None) -> list[Fitted]:
        """Return trained networks, with the parameters of the best epoch by the rows held out.

        All networks have the patience of the first recipe. A diverged network is replaced by the error, and a
        network after Ctrl-C by None; InterruptedMany if no network is left.
        """
        found: list[Fitted] = [None] * len(jobs)
        if jobs and not self.deadline.interrupted:
            rows: dict[Any, tuple[Any, ...]] = {}
            options = [self._options(job, rows) for job in jobs]
            stop = Stop(self, math.inf) if stop is None else stop
            stop.jobs = jobs
            callbacks: list[Callback] = [stop]
            if len(jobs[0].part[1]):
                callbacks.insert(0, EarlyStopping(jobs[0].recipe.patience))
            lists: dict[str, Any] = {name: [one[name] for one in options] for name in options[0]}
            lists |= {"callbacks": callbacks, "progress": False, "threads": self.threads, "dtype": self.dtype}
            try:
                found = [*fit_many(**lists)]
            except InterruptedMany as error:
                found = error.models
            found = [None if getattr(one, "stop_reason", None) == BY_SIGINT else one for one in found]
        self.visited += sum(len(self.targets) * job.recipe.epochs for job in jobs)
        if None in found and not any(isinstance(one, Model) for one in found):
            raise InterruptedMany(found)
        return found

    def _options(self, job: Planned, known: dict[Any, tuple[Any, ...]]) -> dict[str, Any]:
        """Return the options of `fit_many` for a network; known : arrays of rows, which networks share."""
        recipe, (rows, held), index, epochs, initial = job
        in_blocks = isinstance(self.task, Several) and not isinstance(self.X, np.ndarray)
        inputs = inputs_of(self.X.shape[1], recipe, self.several, in_blocks)
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
    rows: int = 0
    models: list[Model] = field(default_factory=list)
    held: list[Array] = field(default_factory=list)
    outputs: list[Array] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, training: TableTraining, job: Planned, model: Model) -> None:
        """Add the network of a job."""
        held = job.part[1]
        if not self.models:  # perhaps with fewer epochs or rows than planned
            self.recipe, self.rows = job.recipe, sum(map(len, job.part))
        self.models.append(model)
        if len(held):
            # within the time of the networks: the first prediction loads code, and may compile some
            self.held.append(held)
            self.outputs.append(predicted(model, training.X[held]))

    @property
    def _judged(self) -> list[Array]:
        """The losses by epoch of the networks with rows held out."""
        return [np.array(model.history["validation_loss"]) for model in self.models[: len(self.held)]]

    @property
    def loss(self) -> float:
        """The mean loss on rows held out."""
        return float(np.mean([losses.min() for losses in self._judged]))

    @property
    def epochs(self) -> int:
        """The mean number of the best epoch."""
        return round(float(np.mean([losses.argmin() + 1 for losses in self._judged])))

    def less(self, rows: int) -> list[str]:
        """Return in words the networks, epochs and rows that are fewer than planned."""
        counts = {
            "networks": (len(self.models), self.planned.members),
            "epochs": (self.recipe.epochs, self.planned.epochs),
            "rows": (self.rows, rows),
        }
        return [f"{used} of {whole} {what}" for what, (used, whole) in counts.items() if used != whole]


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
    groups = [RecipeGroup(one, one) for one in (recipe.resolved(rows) for recipe in recipes)]
    most = max(group.planned.members for group in groups)
    whole = np.arange(rows), np.empty(0, int)
    # With few rows one part held out says little: more networks hold out parts, until HELD_ROWS have a loss.
    few = max(1, -(-HELD_ROWS * FOLDS // dependence.independent(whole[0])))
    parts = training.parts(min(most, few))
    weights = training.weights
    if weights is not None and not all(weights[indices].any() for part in parts for indices in part):
        raise TableError("too few rows have a weight: a fifth that networks hold out, or the rest, has none")
    visits = sum(rows * group.planned.epochs * group.planned.members for group in groups)
    with Bar(visits, "row", "training", training.shown) as training.bar, deferred(deadline.interrupt):
        begun, _ = _followed(training, groups, parts[0], [0])
        is_whole = goes_on = groups[0].rows == rows
        for index in range(1, len(parts)):
            # Before each further part, so that its time goes to recipes that may still win.
            groups = near_best(groups, dependence)
            goes_on = goes_on and _followed(training, groups, parts[index], [index])[1]
        groups = near_best(groups, dependence)
        if goes_on:
            most = most if recipes[0].members else _add_networks(groups)
            # These networks train on all rows: the parts before have chosen recipes and epochs.
            _, goes_on = _followed(training, groups, whole, range(len(parts), most))
        if goes_on or not is_whole:
            groups = _longest(training, near_best(groups, dependence), parts[0])
        groups = near_best(groups, dependence)
    less = next(filter(None, (group.less(rows) for group in groups)), [])
    words = [f"{begun} of {len(recipes)} recipes"] * (begun < len(recipes)) + less
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
        numbered = [*enumerate(models)]
        for batch, epochs in ((numbered[: len(parts)], False), (numbered[len(parts) :], True)):
            jobs = [
                Planned(
                    slower, whole if epochs else parts[index], index, group.epochs if epochs else None, model
                )
                for index, model in batch
            ]
            for job, model in zip(jobs, training.networks(jobs), strict=True):
                group.add(training, job, _trained(model))
        group.recipe = recipe
    return found


def near_best(groups: Sequence[RecipeGroup], dependence: Dependence = ALONE) -> list[RecipeGroup]:
    """Return the groups with a loss that is not clearly greater than the least loss, by rising loss.

    Chance alone makes about 1 / sqrt(n) of n independent losses.
    """
    ordered = sorted(groups, key=lambda group: group.loss)
    margin = MARGIN / np.sqrt(dependence.independent(np.concatenate(ordered[0].held)))
    return [group for group in ordered if group.loss <= (1 + margin) * ordered[0].loss]


def _followed(
    training: TableTraining, groups: list[RecipeGroup], part: Part, numbers: Sequence[int]
) -> tuple[int, bool]:
    """Train networks of each group on a part; return how many, and whether there was time for all.

    Groups without a network, and those with a divergence, are removed.

    numbers : of the networks in each group
    """
    deadline, race, begun = training.deadline, None, 0
    if len(part[1]) and sum(map(len, part)) >= MANY_ROWS:
        race = Race(2 * MARGIN / np.sqrt(training.dependence.independent(part[1])))
    queue = [(group, number) for number in numbers for group in groups if number < group.recipe.members]
    if race is not None and not deadline.is_limited and not groups[0].models:
        # Embedded numbers learn faster from many rows: their losses soon end the training of plain numbers.
        queue.sort(key=lambda pair: not pair[0].recipe.embeds)
    whole, alone = deadline.left, deadline.is_limited or race is not None
    # All train together, on all threads; network by network in a race, or as long as there is time.
    for turn, batch in enumerate([[one] for one in queue] if alone else filter(None, [queue])):
        jobs = [
            Planned(group.recipe, part, number, None if len(part[1]) else group.epochs)
            for group, number in batch
        ]
        is_first, must = not batch[0][0].models, not any(group.models for group in groups)
        stopwatch = Stopwatch()
        try:
            if alone and is_first:
                # Half of the time is for these first networks, in equal parts of what is left of it.
                seconds = math.inf
                if deadline.is_limited:
                    seconds = (deadline.left - whole / 2) / (len(queue) - turn)
                room = 1 / SLOWEST if must and len(queue) > 1 else 1.0
                fitted = within(training, seconds, jobs[0], must, room, race) if must or seconds > 0 else None
                if fitted is None:
                    break
                jobs, found = [fitted[0]], [fitted[1]]
                part = jobs[0].part  # without time for all rows, the next recipes have as few rows
            else:
                stop = Stop(training, deadline.left, race=race)
                if deadline.left < batch[0][0].seconds:
                    return begun, False
                found = training.networks(jobs, stop)
                if stop.is_over:
                    return begun, False
        except InterruptedMany:
            if must:
                raise
            break
        for (group, _), job, model in zip(batch, jobs, found, strict=True):
            begun += model is not None
            if isinstance(model, DivergenceError):
                # The last recipe: nothing else could predict.
                if groups == [group]:
                    raise model
                groups.remove(group)
            elif model is not None:
                group.add(training, job, model)
        lap = stopwatch.lap()
        # Compiling is no part of a recipe's time: the half is of the rest.
        whole -= lap.compiling
        batch[0][0].seconds = lap.working
        if None in found:
            break
    else:
        return begun, True
    groups[:] = [group for group in groups if group.models]
    return begun, False


def _longest(training: TableTraining, groups: list[RecipeGroup], part: Part) -> list[RecipeGroup]:
    """Return one network of the best recipe in all of the time left, if its loss is less; else the groups."""
    best, left = groups[0], training.deadline.left
    is_whole = (best.recipe.epochs, best.rows) == (best.planned.epochs, sum(map(len, part)))
    if is_whole or left < best.seconds:
        return groups
    longest = RecipeGroup(best.planned, best.planned)
    try:
        job, model = cast(tuple[Planned, Fitted], within(training, left, Planned(best.planned, part)))
        longest.add(training, job, _trained(model))
    except (DivergenceError, InterruptedMany):
        return groups
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


def within(
    training: TableTraining,
    seconds: float,
    job: Planned,
    must: bool = True,
    room: float = 1.0,
    race: Race | None = None,
) -> tuple[Planned, Fitted] | None:
    """Return a job with the epochs and rows that fit into some seconds, and what has come of the job.

    seconds : without compiling; must : True for fewer rows if no epoch fits; else None is returned
    room : fraction of the time for an epoch; a longer epoch has fewer rows; race : of the part
    """

    def allowed(job: Planned, judging: bool) -> tuple[Stop, Planned, Fitted]:
        nonlocal seconds
        stop = Stop(training, seconds, judging, race)
        (found,) = training.networks([job], stop)
        seconds -= stop.working
        if stop.is_over and isinstance(found, Model):
            job = job._replace(recipe=replace(job.recipe, epochs=len(found.history["loss"])))
        return stop, job, found

    stop, tried, found = allowed(job, True)
    if stop.fitting is None:
        return tried, found
    epochs, part = RESERVE * stop.fitting, job.part
    if epochs < 1 and not must:
        return None
    if room * epochs < 1:
        epochs, part = 1, fewer(part, room * epochs)
    shorter = replace(job.recipe, epochs=max(1, int(epochs)))
    return allowed(job._replace(recipe=shorter, part=part), False)[1:]


def fewer(part: Part, fraction: float) -> Part:
    """Return a fraction of the rows to train on and of those held out, evenly spread."""
    counts = (min(len(rows), max(LEAST_PART, int(fraction * len(rows)))) for rows in part)
    trained, held = (
        rows[np.linspace(0, len(rows) - 1, count).astype(int)]
        for rows, count in zip(part, counts, strict=True)
    )
    return trained, held


def _trained(found: Fitted) -> Model:
    """Return a trained network; raise the error of a divergence, or of Ctrl-C."""
    if not isinstance(found, Model):
        raise found or InterruptedMany([found])
    return found
