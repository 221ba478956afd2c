"""`fit_many`: the trainings of many networks in one call."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from inspect import Parameter, Signature, signature
from typing import Any, cast

from fastmlp import checks
from fastmlp.callbacks.callback import Callback, Metric
from fastmlp.checkpoints.checkpoint import Checkpoint, components_of
from fastmlp.fitting import ADAM, USUAL, FitOptions, check_callbacks
from fastmlp.many.lanes import ModelGroup
from fastmlp.many.preparing import Arguments, Preparation
from fastmlp.many.trainings import CallFile, Ended, Resumed, Trainings
from fastmlp.model.component import Component
from fastmlp.model.network import Network
from fastmlp.system.budget import usable_cores
from fastmlp.system.interrupts import deferred
from fastmlp.system.notices import Bar
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.training import Training


class InterruptedMany(KeyboardInterrupt):
    """Ctrl-C ended a call of `fit_many`.

    Attributes
    ----------
    models : list of Model, DivergenceError or None
        Finished models, the present state of trainings under way, and None for trainings without a step.
    """

    def __init__(self, models: list[Ended | None]) -> None:
        super().__init__(models)
        self.models = models

    def __str__(self) -> str:
        begun = sum(one is not None for one in self.models)
        return f"{begun} of {len(self.models)} trainings had begun; this error's .models has them"


def fit_many(
    networks: Network | list[Network],
    X: Any,
    y: Any,
    *,
    n_models: int | None = None,
    seed: int | list[int] | None = None,
    rows: Any = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
    threads: int | None = None,
    resume: str | os.PathLike[str] | None = None,
    communicator: None = None,
    metrics: Iterable[Metric] | Mapping[str, Iterable[Metric]] = (),
    **options: Any,
) -> list[Model | DivergenceError]:
    """Train many networks, each as `fit` alone would.

    The arguments are those of `fit`. A list has an item for each model, of `networks`, `X` and `y` too;
    everything else is common to all models. `callbacks` and `metrics` are lists for all models.

    Parameters
    ----------
    networks : Network, or list of networks, with any differences
    X : as for `fit`, an array, sparse matrix or blocks in memory; a list has an X for each model
        A common X is in memory once. A list of the blocks of a network's inputs is a single X, too.
    y : as for `fit`; a list has a y for each model
    n_models : int, optional
        The number of models, if no argument is a list.
    seed : int, list of int, optional
        An int s gives the models s, s + 1, ..; None draws the first seed.
    rows : (chosen,) integer array, or list of such arrays, optional
        Indices in X of a model's rows, to train on and to validate on by a fraction: of a fold, a bootstrap
        with repeats, a subset. X, y and sample_weight are those of all rows.
    callbacks : iterable of Callback
        Each model has deep copies, which may find the model's index in `run.model_index`; copies run in the
        training's thread. A `Checkpoint` keeps the whole call in a file; `every`, if an int, counts the
        epochs of all models in the mean.
    progress : bool, optional
        A bar for all models; None as for `fit`.
    threads : int, optional
        Upper bound for the threads of all trainings together, at least 1; None takes the cores. Each training
        has one thread, if there are at least as many models.
    resume : path, optional
        A file of a `Checkpoint` in the same call, with everything else as before; all models continue from
        there bit for bit. Finished models are unchanged.
    communicator : None
        Anything else is refused: give each process its models.
    **options : as for `fit`, but `window`; a list has a value for each model

    Returns
    -------
    list of Model or DivergenceError
        Each model has the bits of `fit` alone, on an exact backend. In the place of a diverged model is the
        error, with the last finite parameters; other models go on.

    Raises
    ------
    ValueError, TypeError
        For a mistake in the arguments, in one line with the model's index, before anything is trained.
    CheckpointError
        If the file to resume from is damaged, or of other data or another call.
    InterruptedMany
        After Ctrl-C, a KeyboardInterrupt with the models; a `Checkpoint` has been written.
    Exception
        An error of a callback ends the call; a note names the model.
    """
    if communicator is not None:
        raise ValueError("fit_many trains in one process; leave out communicator, and give each its models")
    for name in options.keys() - OF_EACH.keys():
        raise TypeError(f"fit_many() got an unexpected keyword argument {name!r}")
    given: dict[str, Any] = {
        **OF_EACH, **options, "network": networks, "X": X, "y": y, "rows": rows, "seed": seed
    }  # fmt: skip
    if given["optimizer"] is None:
        given["optimizer"] = ADAM
    threads = None if threads is None else checks.whole("threads", threads, 1)
    shown = None if progress is None else checks.flag("progress", progress)
    called = check_callbacks(callbacks, False)
    files = [one for one in called if isinstance(one, Checkpoint)]
    if len(files) > 1:
        raise ValueError(f"callbacks must hold one Checkpoint at most, got {len(files)}")
    measured = [*metrics] if isinstance(metrics, Iterator) else metrics
    arguments = Arguments(given, n_models)
    count = arguments.count
    if not count:
        return []
    resumed = None if resume is None else Resumed(resume, _components(arguments.networks), count)
    seeds = arguments.seeds() if resumed is None or given["seed"] is not None else resumed.seeds
    trainings = Trainings([None] * count if resumed is None else resumed.diverged())
    file = CallFile(files[0], seeds, resumed, trainings) if files else None
    usable = threads or (usable_cores() if count > 1 else 1)
    workers = min(count, usable)
    each = threads if workers == 1 else usable // workers
    copied = [one for one in called if one not in files]
    preparation = Preparation(arguments, seeds, copied, measured, each, resumed, file)
    prepare: Callable[[int], Training] = preparation.training
    if count > 1:
        groups = preparation.groups(workers)
    else:  # trains in this thread, as by `fit`
        prepare, groups, workers = [prepare(0)].__getitem__, [ModelGroup(None, 1)], 0
        groups[0].add([0], None, 0.0)
    with Bar(count, "model", "training", shown) as bar, deferred(trainings.stop) as signals:
        try:
            trainings.run(groups, workers, prepare, bar, preparation.members)
        finally:
            if file is not None:
                file.write()
    if signal.SIGINT in signals:
        raise InterruptedMany(trainings.results)
    return cast(list[Ended], trainings.results)


COMMON = {"fit", "seed", "window", "callbacks", "progress", "threads", "resume", "metrics"}
"""Options without a list for models; of seeds and metrics other lists."""

OF_EACH = {name: usual for name, usual in USUAL.items() if name not in COMMON}
"""Options with a list for models, with defaults."""


def _components(networks: list[Any]) -> list[Component]:
    """Return the user-defined components of networks; other values are refused later."""
    return [component for one in networks if isinstance(one, Network) for component in components_of(one)]


def _with_options(taken: Signature) -> Signature:
    """Return a signature with the options, for `help`, the documentation and editors."""
    types = {one.name: one.type for one in fields(FitOptions)}
    listed = [
        Parameter(
            name, Parameter.KEYWORD_ONLY, default=usual, annotation=f"{types[name]} | list[{types[name]}]"
        )
        for name, usual in OF_EACH.items()
    ]
    *parameters, _ = taken.parameters.values()
    return taken.replace(parameters=[*parameters, *listed])


fit_many.__signature__ = _with_options(signature(fit_many))  # type: ignore[attr-defined]
