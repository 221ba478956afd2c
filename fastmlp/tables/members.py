"""The members of an ensemble: networks that differ by their start and by the rows that they learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import EarlyStopping
from fastmlp.fitting import fit
from fastmlp.many.training import InterruptedMany, fit_many
from fastmlp.model.state import is_bfloat16
from fastmlp.system.interrupts import BY_SIGINT, Interrupted
from fastmlp.system.notices import Bar
from fastmlp.tables.deadline import Deadline, Part, SharedCallback, backend_in
from fastmlp.tables.held_out import ALONE, Dependence
from fastmlp.tables.inputs import inputs_of, predicted, rows_for
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Classification, Task
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError

Array = NDArray[Any]


class MemberSettings(NamedTuple):
    """Where a training runs, and how long: as for `fit`.

    several : columns of X, as for `inputs_of`; dependence : of the rows, as for `folds`
    signs : (n,) 1, -1 or 0 for each column of X, as for `Network(monotone=)`
    """

    seed: int
    several: Array
    deadline: Deadline
    backend: str = "auto"
    threads: int | None = None
    shown: bool | None = False
    dtype: Any = None
    dependence: Dependence = ALONE
    signs: Array | None = None


Fitted = Model | DivergenceError | None
"""What has come of a training; None if Ctrl-C has left it out."""


class Planned(NamedTuple):
    """A network to train, as its recipe says.

    part : rows to train on, and rows held out; place : of the network among those of its recipe
    epochs : after which it ends, if no rows are held out; its rate falls as if it went on
    initial : a member to begin from, whose network it has
    """

    recipe: Recipe
    part: Part
    place: int = 0
    epochs: int | None = None
    initial: Model | None = None


def train_members(
    X: Any, targets: Array, weights: Array | None, task: Task, planned: Sequence[Planned],
    settings: MemberSettings, callbacks: Sequence[Callback],
) -> list[Fitted]:  # fmt: skip
    """Return members that train at once, each of the epoch after which its rows held out had the least loss.

    All have the patience of the first one's recipe. In the place of one that diverges is its error, and None
    for those that Ctrl-C has left out.

    targets : (rows,) as the task encodes them; callbacks : copied for each, but for `SharedCallback` ones

    Raises
    ------
    InterruptedMany
        If Ctrl-C has left out all.
    """
    options = [_options(X, targets, weights, task, one, settings) for one in planned]
    given: dict[str, Any] = {name: [one[name] for one in options] for name in options[0]}
    stopping = [EarlyStopping(planned[0].recipe.patience)] if len(planned[0].part[1]) else []
    common: dict[str, Any] = {
        "callbacks": [*stopping, *callbacks], "progress": False, "threads": settings.threads,
        "dtype": settings.dtype,
    }  # fmt: skip
    found: list[Fitted] = []
    try:
        if len(planned) == 1:
            found.append(_alone(X, targets, weights, planned[0].part[0], {**options[0], **common}))
        else:
            blocks = {network.blocks for network in given["network"]}
            inputs = {one: rows_for(one, X) for one in blocks}
            found += fit_many(
                given.pop("network"),
                X=[inputs[one["network"].blocks] for one in options],
                y=_by_head(targets),
                rows=[one.part[0] for one in planned],
                sample_weight=weights,
                **common,
                **given,
            )
    except InterruptedMany as error:
        found = error.models
    found = [None if isinstance(one, Model) and one.stop_reason == BY_SIGINT else one for one in found]
    if None in found and not any(isinstance(one, Model) for one in found):
        raise InterruptedMany(found)
    return found


def _alone(X: Any, targets: Array, weights: Array | None, rows: Array, options: dict[str, Any]) -> Fitted:
    """Return a member that trains alone, with one copy of its rows, its divergence, or None after Ctrl-C."""
    inputs, own = rows_for(options["network"].blocks, X[rows]), None if weights is None else weights[rows]
    try:
        return fit(X=inputs, y=_by_head(targets[rows]), sample_weight=own, **options)
    except DivergenceError as error:
        return error
    except Interrupted:
        return None


def _options(
    X: Any, targets: Array, weights: Array | None, task: Task, planned: Planned, settings: MemberSettings
) -> dict[str, Any]:
    """Return the network of a member, and its own options of `fit`."""
    recipe, (rows, held), place, epochs, initial = planned
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    steps = recipe.epochs * -(-len(rows) // min(recipe.batch_size, len(rows)))
    inputs = inputs_of(X.shape[1], recipe, settings.several)
    network = recipe.network(inputs, task, settings.signs) if initial is None else initial.network
    backend, left = settings.backend, settings.deadline.left
    if backend == "auto" and settings.deadline.seconds is not None:
        mixed = is_bfloat16(settings.dtype)
        backend = backend_in(left, recipe, network, X.dtype, settings.threads, mixed)
    validation = None
    if len(held):
        own = () if weights is None else (weights[held],)
        validation = rows_for(network.blocks, X[held]), _by_head(targets[held]), *own
    return {
        "network": network,
        "optimizer": recipe.optimizer_of(steps),
        "epochs": epochs or recipe.epochs,
        "batch_size": recipe.batch_size,
        "seed": settings.seed + place,
        "initial": initial,
        "validation": validation,
        "backend": backend,
    }


def _by_head(targets: Array) -> Any:
    """Return targets (rows,) as `fit` takes them: those of several heads in a dict."""
    return {name: targets[name] for name in targets.dtype.names} if targets.dtype.names else targets


class Visits(SharedCallback):
    """Moves a bar by the rows that trainings have visited.

    before : rows that were visited before; names, rows : of each training, the rows as which it counts
        once it ends
    deadline : which Ctrl-C may end while trainings are prepared
    """

    def __init__(
        self, bar: Bar, before: float, names: Sequence[str], rows: Sequence[float], deadline: Deadline
    ) -> None:
        self.bar, self.before, self.names, self.rows, self.deadline = bar, before, names, rows, deadline
        self.visited = [0.0] * len(names)

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar; stop the training after a Ctrl-C that came before it began."""
        if self.deadline.interrupted and run.stop_reason is None:
            run.stop(BY_SIGINT)
        place = run.model_index or 0
        self.visited[place] = run.rows_seen
        shown = {key: f"{values[-1]:.4g}" for key, values in run.history.items() if values}
        name = f"{self.names[place]}, epoch {run.epoch}/{run.epochs}"
        self.bar.move(self.before + sum(self.visited), name, **shown)

    def on_train_end(self, run: Run) -> None:
        """Count what an early end leaves out."""
        place = run.model_index or 0
        self.visited[place] = self.rows[place]
        self.bar.move(self.before + sum(self.visited))


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
