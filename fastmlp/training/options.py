"""The options of `fit`, checked: each with its type, its default and its check in a line.

Trainings with the same descriptions share the checks and the choice of a backend. Descriptions never change,
so the same object needs no second check: that is 14 % of the smallest training. Options in `OF_CALL`, as
arrays, are checked in each call.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Real
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.backend.choice import cacheable_backend, calls_blas, choose
from fastmlp.backend.registry import is_exact, is_mixed
from fastmlp.callbacks.callback import Callback
from fastmlp.callbacks.standard import Progress
from fastmlp.checks import CheckedFields, checked, count, number
from fastmlp.data.sparse import may_become_sparse
from fastmlp.model.averages import EMA, SWA, Average, with_average
from fastmlp.model.backend import Backend
from fastmlp.model.component import Component
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer, as_optimizer, keeping_signs
from fastmlp.model.state import is_bfloat16
from fastmlp.system.budget import available_cores
from fastmlp.system.notices import is_watched
from fastmlp.trained import format_of
from fastmlp.trained.model import Model
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.snapshot import Snapshot
from fastmlp.training.start import Initial

if TYPE_CHECKING:
    from fastmlp.backend.auto import Auto

Validation = float | tuple[Any, ArrayLike] | tuple[Any, ArrayLike, ArrayLike]

ADAM = Adam()
"""The default optimiser."""


def _rows_or_all(what: str, given: Any) -> int | None:
    return None if given is None else checks.whole(what, given, 1)


@dataclass(frozen=True)
class FitOptions(CheckedFields):
    """The options of `fit`, without network, rows and communicator.

    After `options_of` there is an `Optimizer`, callbacks are checked, and `resume` is the `Snapshot` of a
    file or a model.

    fit : `fastmlp.fit` itself, which is above this module, for `Model.fit_more`
    """

    fit: Callable[..., Model] | None = None
    optimizer: Any = checked(as_optimizer, None)
    epochs: int = count(0, default=100)
    batch_size: int | None = checked(_rows_or_all, 32)
    shuffle: bool = True
    window: int | None = count(1, default=None)
    callbacks: Any = ()
    progress: bool | None = None
    backend: str = "auto"
    threads: int | None = count(1, default=None)
    dtype: DTypeLike | None = None
    average: Average | None = None
    metrics: Any = ()
    training_metrics: bool = False
    accumulate: int = count(1, default=1)
    mixup: float | None = number(None, 0, open_low=True)
    seed: int = count(0, default=None)  # drawn later where None
    initial: Model | Initial | None = None
    sample_weight: ArrayLike | None = None
    validation: Validation | Any = None
    resume: Any = None

    def having(self, **changed: Any) -> Self:
        """Return the options with other values, which need no check."""
        made = object.__new__(type(self))
        vars(made).update(vars(self), **changed)
        return made

    @property
    def mixed(self) -> bool:
        """True to multiply bfloat16 numbers; a training goes on as it was."""
        mixed = self.dtype is not None and is_bfloat16(self.dtype)
        begun = self.resume is not None and is_mixed(self.resume.backend)
        return mixed or (begun and self.backend in ("auto", "reference"))

    @property
    def file(self) -> Snapshot | None:
        """The training of the file to resume from."""
        return self.resume if self.resume is not None and self.resume.path is not None else None

    def kept(self, optimizer: Optimizer, dtype: np.dtype[Any]) -> Self:
        """Return the options kept for `Model.fit_more`; optimizer, dtype : of the steps"""
        validation = self.validation
        return self.having(
            optimizer=optimizer, dtype=dtype, callbacks=(), progress=None, average=None, initial=None,
            sample_weight=None, resume=None,
            validation=float(validation) if isinstance(validation, Real) else None,
        )  # fmt: skip

    def of_steps(self) -> dict[str, Any]:
        """Return the options with an effect on a step's numbers; None for defaults."""
        given = ((name, getattr(self, name)) for name in OF_STEPS)
        return {name: None if value == USUAL[name] else value for name, value in given}


USUAL: dict[str, Any] = {field.name: field.default for field in fields(FitOptions)}
"""The defaults."""

ELSEWHERE = {
    "fit", "epochs", "callbacks", "progress", "average", "initial", "sample_weight", "validation", "resume",
    "optimizer", "batch_size", "shuffle", "window", "seed", "backend", "threads", "dtype", "metrics",
    "training_metrics",
}  # fmt: skip
"""The options with another form in a setting, or without effect on the bits.

Any other option changes the numbers of a step: the option is in a training's file, and steps are taken alone.
"""

OF_STEPS = tuple(name for name in USUAL if name not in ELSEWHERE)


def options_of(network: Network, given: Mapping[str, Any], first: bool = True) -> FitOptions:
    """Return the options of arguments, checked as far as no rows are needed; errors as of `fit`.

    There may be no seed yet. first : True if this process reads the file to resume from, and shows a bar
    """
    checks.instance("network", network, Network, "a Network")
    options = FitOptions(**given)
    optimizer = keeping_signs(options.optimizer or ADAM, network)
    optimizer.check_layers(network)
    if optimizer.whole:
        _check_whole(optimizer, options)
    if options.mixup is not None and (coded := [block for block in network.blocks if block.codes]):
        kind = type(coded[0]).__name__
        raise ValueError(f"mixup mixes numbers, and the codes of {kind} cannot be mixed; leave out mixup")
    changed: dict[str, Any] = {"optimizer": optimizer}
    called = check_callbacks(options.callbacks, options.progress if first else False)
    if called or type(options.callbacks) is not tuple:
        changed["callbacks"] = called
    if type(options.metrics) is not tuple or options.metrics:
        changed["metrics"] = format_of("metrics").checked_metrics(options.metrics, network)
    if options.resume is not None and not isinstance(options.resume, Snapshot):
        read = format_of("checkpoint").read_training
        changed["resume"] = read(options.resume, components_of(network)) if first else None
    options = options.having(**changed)
    file, dtype = options.file, options.dtype
    if dtype is not None and file is not None and is_bfloat16(dtype) != is_mixed(file.backend):
        then = "bfloat16" if is_mixed(file.backend) else "not bfloat16"
        raise ValueError(
            f"the training to go on has products that are {then}, got dtype {checks.shown(dtype)}"
        )
    return options


def _check_whole(optimizer: Optimizer, options: FitOptions) -> None:
    """Raise ValueError for an option without support for steps on all rows."""
    for name in ("average", "window", "accumulate", "mixup"):
        if getattr(options, name) != USUAL[name]:
            raise ValueError(f"{type(optimizer).__name__} reads all rows in each step; leave out {name}")
    if options.dtype is not None and is_bfloat16(options.dtype):
        raise ValueError(f"{type(optimizer).__name__} computes in float64; leave out dtype='bfloat16'")


def drawn_seed(options: FitOptions) -> int:
    """Return the seed of the resumed training, or a new seed."""
    return int(options.resume.seed if options.resume else int.from_bytes(os.urandom(16), "little"))


def backend_request(options: FitOptions) -> tuple[str, bool]:
    """Return the name of a backend for `choose`, and whether "auto" must keep the bits of fast backends."""
    earlier = options.resume.backend if options.resume else None
    exact = earlier is not None and is_exact(earlier)
    return earlier if earlier and options.backend == "auto" and not exact else options.backend, exact


def components_of(network: Network) -> list[Component]:
    """Return the user-defined activations, layers and losses of a network."""
    given = (
        *(part for one in network.operations for part in (one.activation, one.kind)),
        *network.losses,
    )
    return [part for part in given if isinstance(part, Component) and part.digest]


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


# --- shared by trainings with the same descriptions --------------------------------------------------------

OF_CALL = ("seed", "initial", "sample_weight", "validation", "resume")
"""The options checked in each call; all others are descriptions."""

_described = operator.itemgetter(*(name for name in USUAL if name not in OF_CALL))

FROZEN = (type(None), bool, int, float, str, type, np.dtype, FunctionType, Optimizer, EMA, SWA)
"""The types of immutable descriptions; of callbacks and metrics only the empty tuple counts."""

MOST_CACHED = 32
"""The most cached descriptions, and the most choices of these, by rows, steps or threads."""

Choices = dict[Any, tuple[Optimizer, Any, bool, bool]]
"""How steps are taken, as `choice_of` returns, by all differences between trainings of the same options."""

cached: dict[Any, tuple[FitOptions, Choices, tuple[Any, ...]]] = {}
"""Options and choices by the identities of descriptions, the oldest first; the descriptions are kept, so that
no id is used again.
"""


def shared_options(network: Network, given: Mapping[str, Any], ranks: Ranks) -> tuple[FitOptions, Choices]:
    """Return checked options, and the choices of all trainings with the same descriptions.

    given : all of `USUAL`, unchecked; errors as of `fit`
    """
    described, resume = _described(given), given["resume"]
    known = key = None
    if ranks is ALONE and not registry.given() and (resume is None or not resume_of_file(resume)):
        watched = given["progress"] is None and is_watched()
        key = id(network), *map(id, described), resume and resume.backend, watched
        known = cached.get(key)
    if known is not None:
        options, choices, _ = known
        seed = given["seed"]
        return options.having(
            seed=seed if seed is None else checks.whole("seed", seed, 0),
            initial=given["initial"],
            sample_weight=given["sample_weight"],
            validation=given["validation"],
            resume=resume,
        ), choices
    options = ranks.agreed(network, given, options_of)
    kept = options.having(**dict.fromkeys(OF_CALL)), Choices(), (network, *described)
    if key is not None and all(map(_is_frozen, (*described, *_described(vars(options))))):
        if len(cached) >= MOST_CACHED:
            oldest, *_ = cached
            cached.pop(oldest, None)
        cached[key] = kept
    return options, kept[1]


def resume_of_file(resume: Any) -> bool:
    """Return True unless a training to resume is a model's."""
    return not isinstance(resume, Snapshot) or resume.path is not None


def _is_frozen(one: Any) -> bool:
    return isinstance(one, FROZEN) or (type(one) is tuple and not one)


def choice_of(
    choices: Choices,
    network: Network,
    options: FitOptions,
    rows: int,
    dtype: np.dtype[Any],
    steps: int | None,
    averaged: int | None,
) -> tuple[Optimizer, Backend | Auto, bool, bool]:
    """Return the optimiser and the backend of steps, and whether they call the BLAS, and take sparse rows.

    ValueError if average or backend do not suit the options.

    choices : of such trainings; rows : of a batch; steps : of all such trainings
    averaged : steps of this training, for an average; None if unknown before rows are read
    """
    threads = options.threads
    if threads is None and options.backend == "auto":
        threads = available_cores()  # the choice goes by the cores that are left
    key = rows, dtype, steps, averaged, threads
    if (known := choices.get(key)) is not None:
        return known
    optimizer, (name, exact) = options.optimizer, backend_request(options)
    if options.average is not None:
        optimizer = with_average(optimizer, options.average, averaged)
    # What reads all rows calls the backend for losses and gradients only, whatever the rule.
    rule = SGD(0.0) if optimizer.whole else optimizer
    backend = choose(name, network, rule, rows, dtype, threads, steps=steps, exact=exact, mixed=options.mixed)
    lasts = cacheable_backend(backend)
    backend = lasts or backend
    sparse = not optimizer.whole and may_become_sparse(backend, network, optimizer, rows, dtype)
    found = optimizer, backend, calls_blas(backend), sparse
    if lasts:
        if len(choices) >= MOST_CACHED:
            choices.clear()
        choices[key] = found
    return found
