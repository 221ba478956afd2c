"""The checked options of `fit`, and the common setup of trainings with equal descriptions.

A setup is the optimiser and the backend of steps, kept for later trainings with the same descriptions.
Descriptions never change, so the same object needs no second check. Arrays, and the state of an earlier
training, are checked in each call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from numbers import Real
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.backend.choice import cacheable_backend, calls_blas, choose
from fastmlp.backend.registry import is_exact, is_mixed
from fastmlp.callbacks.callback import Callback
from fastmlp.callbacks.standard import Progress
from fastmlp.data.ranks import ALONE, Ranks
from fastmlp.data.sparse import may_become_sparse
from fastmlp.model.averages import EMA, SWA, Average, with_average
from fastmlp.model.backend import Backend
from fastmlp.model.custom import Component
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer, as_optimizer, keeping_signs
from fastmlp.model.state import is_bfloat16
from fastmlp.system.budget import available_cores
from fastmlp.system.notices import is_watched
from fastmlp.trained.model import Model
from fastmlp.training.snapshot import Snapshot
from fastmlp.training.start import Initial

if TYPE_CHECKING:
    from fastmlp.backend.auto import Auto

Validation = float | tuple[Any, ArrayLike] | tuple[Any, ArrayLike, ArrayLike]

ADAM = Adam()
"""The default optimiser, a single object: setups are found by identity."""


class FitOptions(NamedTuple):
    """The options of `fit`, without network, rows and communicator; defaults as of `fit`.

    After the check there is an `Optimizer` and a list of callbacks, and `resume` is the `Snapshot` of a
    file or a model; the seed is drawn later. Options before `seed` are descriptions, whose checks are kept by
    identity; `seed` and later options are checked in each call (`VALUES`).

    fit : `fastmlp.fit` itself, which is above this module, for `Model.fit_more`
    """

    fit: Callable[..., Model] | None = None
    optimizer: Any = None
    epochs: int = 100
    batch_size: int | None = 32
    shuffle: bool = True
    window: int | None = None
    callbacks: Any = ()
    progress: bool | None = None
    backend: str = "auto"
    threads: int | None = None
    dtype: DTypeLike | None = None
    average: Average | None = None
    metrics: Any = ()
    training_metrics: bool = False
    accumulate: int = 1
    mixup: float | None = None
    seed: Any = None
    initial: Model | Initial | None = None
    sample_weight: ArrayLike | None = None
    validation: Validation | Any = None
    resume: Any = None

    @property
    def file(self) -> Snapshot | None:
        """The training of the file to resume from, after the check of options."""
        return self.resume if self.resume is not None and self.resume.path is not None else None

    def kept(self, optimizer: Optimizer, dtype: np.dtype[Any]) -> Self:
        """Return the options kept for `Model.fit_more`; optimizer, dtype : of the steps"""
        validation = self.validation
        return self._replace(
            optimizer=optimizer, dtype=dtype, callbacks=(), progress=None, average=None, initial=None,
            sample_weight=None, resume=None,
            validation=float(validation) if isinstance(validation, Real) else None,
        )  # fmt: skip

    def of_steps(self) -> dict[str, Any]:
        """Return the options with an effect on a step's numbers; None for defaults."""
        given = ((name, getattr(self, name)) for name in OF_STEPS)
        return {name: None if value == USUAL[name] else value for name, value in given}


USUAL = FitOptions._field_defaults
"""The defaults."""

ELSEWHERE = {
    "fit", "epochs", "callbacks", "progress", "average", "initial", "sample_weight", "validation", "resume",
    "optimizer", "batch_size", "shuffle", "window", "seed", "backend", "threads", "dtype", "metrics",
    "training_metrics",
}  # fmt: skip
"""The options with another form in a setting, or without effect on the bits.

Any other option changes the numbers of a step: the option is in a training's file, and steps are taken alone.
"""

OF_STEPS = tuple(name for name in FitOptions._fields if name not in ELSEWHERE)


class OptionsOfEach(TypedDict, total=False):
    """The options of `fit` that may be lists in `fit_many`."""

    optimizer: Optimizer | str | list[Optimizer | str] | None
    epochs: int | list[int]
    batch_size: int | list[int | None] | None
    shuffle: bool | list[bool]
    initial: Any
    sample_weight: Any
    validation: Any
    backend: str | list[str]
    dtype: DTypeLike | list[DTypeLike | None] | None
    average: Average | list[Average | None] | None
    training_metrics: bool | list[bool]
    accumulate: int | list[int]
    mixup: float | list[float | None] | None


def checked(network: Network, options: FitOptions, first: bool = True) -> FitOptions:
    """Return checked options, as far as no rows are needed; errors as of `fit`.

    There may be no seed yet. first : True if this process reads the file to resume from, and shows a bar
    """
    checks.instance("network", network, Network, "a Network")
    optimizer = ADAM if options.optimizer is None else as_optimizer("optimizer", options.optimizer)
    optimizer = keeping_signs(optimizer, network)
    optimizer.check_layers(network)
    if optimizer.whole:
        _check_whole(optimizer, options)
    changed: dict[str, Any] = {"optimizer": optimizer}
    for name, check in CHECKS.items():
        if (value := getattr(options, name)) is not USUAL[name]:
            changed[name] = check(name, value)
    if options.mixup is not None and (coded := [block for block in network.blocks if block.codes]):
        kind = type(coded[0]).__name__
        raise ValueError(f"mixup mixes numbers, and the codes of {kind} cannot be mixed; leave out mixup")
    callbacks = check_callbacks(options.callbacks, options.progress if first else False)
    if callbacks or type(options.callbacks) is not tuple:
        changed["callbacks"] = callbacks
    if type(options.metrics) is not tuple or options.metrics:
        from fastmlp.callbacks.metrics import checked_metrics

        changed["metrics"] = checked_metrics(options.metrics, network)
    resume = options.resume
    if resume is not None and not isinstance(resume, Snapshot):
        from fastmlp.training.checkpoint import read_training

        changed["resume"] = read_training(resume, components_of(network)) if first else None
    return options._replace(**changed)


def _check_whole(optimizer: Optimizer, options: FitOptions) -> None:
    """Raise ValueError for an option without support for steps on all rows."""
    for name in ("average", "window", "accumulate", "mixup"):
        if getattr(options, name) != USUAL[name]:
            raise ValueError(f"{type(optimizer).__name__} reads all rows in each step; leave out {name}")
    if options.dtype is not None and is_bfloat16(options.dtype):
        raise ValueError(f"{type(optimizer).__name__} computes in float64; leave out dtype='bfloat16'")


def _whole(low: int) -> Callable[[str, Any], int]:
    """Return the check of a whole number of at least `low`."""
    return lambda name, value: checks.whole(name, value, low)


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "epochs": _whole(0),
    "threads": _whole(1),
    "accumulate": _whole(1),
    "batch_size": lambda name, value: None if value is None else checks.whole(name, value, 1),
    "seed": _whole(0),
    "window": _whole(1),
    "shuffle": checks.flag,
    "training_metrics": checks.flag,
    "mixup": lambda name, value: checks.real(name, value, 0, open_low=True),
}
"""check(name, value) of options without the default value; returns the value for the training."""


def drawn_seed(options: FitOptions) -> int:
    """Return the seed of the resumed training, or a new seed."""
    return int(options.resume.seed if options.resume else int.from_bytes(os.urandom(16), "little"))


def backend_request(options: FitOptions) -> tuple[str, bool, bool]:
    """Return (backend, goes_on, mixed) of a `Setup`; ValueError where the file is of another dtype."""
    backend, saved, file = options.backend, options.resume, options.file
    earlier: str | None = saved.backend if saved else None
    mixed = options.dtype is not None and is_bfloat16(options.dtype)
    goes_on = earlier is not None and is_exact(earlier)
    if options.dtype is not None and file is not None and mixed != is_mixed(file.backend):
        then = "bfloat16" if is_mixed(file.backend) else "not bfloat16"
        raise ValueError(
            f"the training to go on has products that are {then}, got dtype {checks.shown(options.dtype)}"
        )
    if earlier is not None and backend in ("auto", "reference"):
        mixed = mixed or is_mixed(earlier)
    return earlier if earlier and backend == "auto" and not goes_on else backend, goes_on, mixed


def components_of(network: Network) -> list[Component]:
    """Return the user-defined activations, layers and losses of a network."""
    given = (
        *(part for one in network.operations for part in (one.activation, one.kind.component)),
        *network.losses,
    )
    return [component for component in given if isinstance(component, Component)]


def check_callbacks(callbacks: Iterable[Callback], progress: bool | None) -> list[Callback]:
    """Return the callbacks as a new list, with a progress bar if requested."""
    # The check of the abstract class takes 1 us, and a tuple is iterable.
    if type(callbacks) is not tuple and (
        isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable)
    ):
        raise TypeError(f"callbacks must be a list of Callback, got {checks.shown(callbacks)}")
    checked = list(callbacks)
    for callback in checked:
        checks.instance("every callback", callback, Callback, "a Callback")
    if progress is None:
        progress = is_watched()
    if progress is not False and checks.flag("progress", progress):
        checked.append(Progress())
    # What writes the training comes last: with the states of the others, which must have seen the chunk.
    return checked and sorted(checked, key=lambda callback: callback.writes_training)


VALUES = FitOptions._fields.index("seed")
"""The index of the first option checked in each call; earlier options are descriptions."""

FROZEN = (type(None), bool, int, float, str, type, np.dtype, FunctionType, Optimizer, EMA, SWA)
"""The types of immutable descriptions; of callbacks and metrics only the empty tuple counts."""

MOST_CACHED = 32
"""The most cached setups, and the most steps in a setup, by rows, steps or threads."""


class StepSetup(NamedTuple):
    """The optimiser and backend of steps, for a batch size and dtype.

    optimizer : with the average, if any; backend : as `choose` gives
    calls_blas : True if steps may call the BLAS; becomes_sparse : see `fastmlp.data.sparse.may_become_sparse`
    """

    optimizer: Optimizer
    backend: Backend | Auto
    calls_blas: bool
    becomes_sparse: bool

    @classmethod
    def on(
        cls, backend: Backend | Auto, network: Network, optimizer: Optimizer, rows: int, dtype: np.dtype[Any]
    ) -> Self:
        """Return how a backend takes steps; rows : of a batch"""
        sparse = not optimizer.whole and may_become_sparse(backend, network, optimizer, rows, dtype)
        return cls(optimizer, backend, calls_blas(backend), sparse)


class Setup(NamedTuple):
    """The common part of trainings with the same descriptions.

    described : the options up to `VALUES`, checked
    backend : the name of the requested backend, or "auto"
    goes_on : True to require the bits of the fast backends
    mixed : True to multiply bfloat16 numbers
    steps : by all differences between such trainings
    held : the given descriptions, referenced here so that no id is used again
    """

    described: tuple[Any, ...]
    backend: str
    goes_on: bool
    mixed: bool
    steps: dict[Any, StepSetup]
    held: tuple[Any, ...]

    def options_of(self, given: FitOptions) -> FitOptions:
        """Return the options of another call of the same descriptions, checked."""
        seed = given.seed
        if seed is not None:
            seed = checks.whole("seed", seed, 0)
        return FitOptions._make((*self.described, seed, *given[VALUES + 1 :]))

    def steps_of(
        self,
        network: Network,
        options: FitOptions,
        rows: int,
        dtype: np.dtype[Any],
        steps: int | None,
        averaged: int | None,
    ) -> StepSetup:
        """Return how steps are taken; ValueError if average or backend do not suit the options.

        rows : of a batch; steps : of all such trainings; averaged : steps of this training, for an average;
        None if unknown before rows are read
        """
        threads = options.threads
        if threads is None and self.backend == "auto":
            threads = available_cores()  # the choice goes by the cores that are left
        key = rows, dtype, steps, averaged, threads
        if (known := self.steps.get(key)) is not None:
            return known
        optimizer = options.optimizer
        if options.average is not None:
            optimizer = with_average(optimizer, options.average, averaged)
        # What reads all rows calls the backend for losses and gradients only, whatever the rule.
        rule = SGD(0.0) if optimizer.whole else optimizer
        backend = choose(
            self.backend, network, rule, rows, dtype, threads,
            steps=steps, exact=self.goes_on, mixed=self.mixed,
        )  # fmt: skip
        lasts = cacheable_backend(backend)
        found = StepSetup.on(lasts or backend, network, optimizer, rows, dtype)
        if lasts:
            if len(self.steps) >= MOST_CACHED:
                self.steps.clear()
            self.steps[key] = found
        return found


cached: dict[Any, Setup] = {}
"""Setups by the identities of descriptions, the oldest first."""


def setup_of(network: Network, options: FitOptions, ranks: Ranks) -> tuple[FitOptions, Setup]:
    """Return checked options and the setup; errors as of `fit`."""
    key = _key(network, options) if ranks is ALONE else None
    if key is not None and (known := cached.get(key)) is not None:
        return known.options_of(options), known
    given, options = options, ranks.agreed(network, options, checked)
    with ranks.raise_on_all_ranks():
        setup = Setup(options[:VALUES], *backend_request(options), {}, (network, *given[:VALUES]))
    if key is not None and all(map(_is_frozen, (*given[:VALUES], *options[:VALUES]))):
        if len(cached) >= MOST_CACHED:
            oldest, *_ = cached
            cached.pop(oldest, None)
        cached[key] = setup
    return options, setup


def _key(network: Network, options: FitOptions) -> tuple[Any, ...] | None:
    """Return the key of a setup; None if the next call may need another setup."""
    resume = options.resume
    if registry.given() or not (resume is None or (isinstance(resume, Snapshot) and resume.path is None)):
        return None
    watched = options.progress is None and is_watched()
    return id(network), *map(id, options[:VALUES]), resume and resume.backend, watched


def _is_frozen(one: Any) -> bool:
    return isinstance(one, FROZEN) or (type(one) is tuple and not one)
