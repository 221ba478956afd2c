"""What `fit` was given besides the rows, checked, and what a training goes by before it sees a number.

That is the optimiser and the backend of its steps. It is kept for trainings of the same descriptions. These
never change, so that the same object needs no second check. What lies in arrays, and what the training before
has left, is looked at each time.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.backend.choice import calls_blas, choose, lasting
from fastmlp.backend.registry import is_exact, is_mixed
from fastmlp.model.averages import EMA, SWA, Average, with_average
from fastmlp.model.backend import Backend
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer, as_optimizer
from fastmlp.model.pieces import Piece
from fastmlp.model.state import is_bfloat16
from fastmlp.system.budget import share
from fastmlp.system.notices import is_watched
from fastmlp.training.callbacks import Callback, Progress
from fastmlp.training.model import Model
from fastmlp.training.more import Continuation
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.sparse_data import may_become_sparse
from fastmlp.training.start import Initial

if TYPE_CHECKING:
    from fastmlp.backend.auto import Auto
    from fastmlp.training.checkpoint import Saved

Validation = float | tuple[Any, ArrayLike] | tuple[Any, ArrayLike, ArrayLike]

STAYS = (
    *("optimizer", "batch_size", "shuffle", "window", "seed", "backend", "threads", "dtype", "metrics"),
    *("training_metrics", "accumulate", "mixup"),
)
"""The options that `Model.fit_more` goes on with."""


ADAM = Adam()
"""The optimiser of trainings that are given none: what they have in common is kept by its identity."""


class FitOptions(NamedTuple):
    """What `fit` was given besides the network, the rows and the communicator; see there.

    Once it is checked there is an `Optimizer` and a list of callbacks, and `resume` is what a file or a model
    holds; the seed is drawn later. Those before `seed` are descriptions, whose checks are kept by their
    identities; those from it on are looked at in each call (`setup.VALUES`).

    fit : `fastmlp.fit` itself, which is above this module, for `Model.fit_more`
    """

    fit: Callable[..., Model]
    optimizer: Any
    epochs: int
    batch_size: int | None
    shuffle: bool
    window: int | None
    callbacks: Any
    progress: bool | None
    backend: str
    threads: int | None
    dtype: DTypeLike | None
    average: Average | None
    metrics: Any
    training_metrics: bool
    accumulate: int
    mixup: float | None
    seed: Any
    initial: Model | Initial | None
    sample_weight: ArrayLike | None
    validation: Validation | Any
    resume: Any

    @property
    def earlier(self) -> tuple[Continuation | None, Saved | None]:
        """The training of a model that goes on, or that of a file, once options are checked."""
        resume = self.resume
        if resume is None:
            return None, None
        return (resume, None) if isinstance(resume, Continuation) else (None, resume)

    def staying(self, optimizer: Optimizer, dtype: np.dtype[Any]) -> dict[str, Any]:
        """Return the options that `Model.fit_more` goes on with; optimizer, dtype : that steps have"""
        found = dict(zip(STAYS, _staying(self), strict=True))
        found["optimizer"], found["dtype"] = optimizer, dtype
        return found


_staying = operator.attrgetter(*STAYS)


def checked(network: Network, options: FitOptions, first: bool = True) -> FitOptions:
    """Return options that can be trained with, as far as the rows have no part in it; errors as of `fit`.

    There may be no seed yet. first : whether this process reads the file to resume from, and shows a
        progress bar
    """
    checks.instance("network", network, Network, "a Network")
    optimizer = ADAM if options.optimizer is None else as_optimizer("optimizer", options.optimizer)
    optimizer.check_layers(network)
    changed: dict[str, Any] = {} if optimizer is options.optimizer else {"optimizer": optimizer}
    for name, low, may_be_none in WHOLE_NUMBERS:
        number = getattr(options, name)
        if (type(number) is int and number >= low) or (number is None and may_be_none):
            continue
        changed[name] = checks.whole(name, number, low)
    if options.shuffle is not True:
        changed["shuffle"] = checks.flag("shuffle", options.shuffle)
    callbacks = check_callbacks(options.callbacks, options.progress if first else False)
    if callbacks or type(options.callbacks) is not tuple:
        changed["callbacks"] = callbacks
    if type(options.metrics) is not tuple or options.metrics:
        from fastmlp.training.metrics import checked_metrics

        changed["metrics"] = checked_metrics(options.metrics, network)
    resume = options.resume
    if resume is not None and not isinstance(resume, Continuation):
        from fastmlp.training.checkpoint import Saved, read_training

        if not isinstance(resume, Saved):
            changed["resume"] = read_training(resume, own_pieces(network)) if first else None
    return options._replace(**changed) if changed else options


WHOLE_NUMBERS = (
    ("epochs", 0, False), ("threads", 1, True), ("accumulate", 1, False), ("batch_size", 1, True),
    ("seed", 0, True),
)  # fmt: skip
"""Options that are whole numbers: the least of each, and whether it may be None."""


def drawn_seed(options: FitOptions) -> int:
    """Return the seed of the training that goes on, or a new one."""
    saved = options.resume
    return int(saved.seed if saved else int.from_bytes(os.urandom(16), "little"))


def step_rows(batch_size: int, accumulate: int, rows: int) -> tuple[int, int]:
    """Return the rows of a step, of so many batches, and of its microbatches; 0 of these where it has one."""
    together = min(batch_size * accumulate, rows)
    return together, batch_size if batch_size < together else 0


class BackendRequest(NamedTuple):
    """Which backend a training is to have.

    backend : its name, or "auto"; mixed : whether it multiplies bfloat16 numbers
    goes_on : whether it must have the bits of the fast backends
    """

    backend: str
    goes_on: bool
    mixed: bool


def backend_request(options: FitOptions) -> BackendRequest:
    """Return which backend a training is to have; ValueError where that cannot go on with the one before."""
    backend, saved, (_, file) = options.backend, options.resume, options.earlier
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
    return BackendRequest(
        earlier if earlier and backend == "auto" and not goes_on else backend, goes_on, mixed
    )


def own_pieces(network: Network) -> list[Piece]:
    """Return the activations, the layers and the loss of a network that a user has written."""
    given = (
        *(part for one in network.operations for part in (one.activation, one.kind.piece)),
        *network.losses,
    )
    return [piece for piece in given if isinstance(piece, Piece)]


def check_callbacks(callbacks: Iterable[Callback], progress: bool | None) -> list[Callback]:
    """Return the callbacks as a new list, with a progress bar if one is requested."""
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
"""Where options begin that are looked at in each call; those before it are descriptions."""

FROZEN = (type(None), bool, int, float, str, type, np.dtype, FunctionType, Optimizer, EMA, SWA)
"""The types of descriptions that nobody can change; of callbacks and metrics only the empty tuple goes."""

MOST_KEPT = 32
"""The most setups that are kept, and of each the most that differ in rows, steps or threads."""


class StepSetup(NamedTuple):
    """How steps are taken, of so many rows of one dtype.

    optimizer : with the average, if there is one
    backend : as `choose` gives it
    calls_blas : whether it may; becomes_sparse : see `sparse_data.may_become_sparse`
    staying : options of which `fit_more` goes on with all but the seed
    """

    optimizer: Optimizer
    backend: Backend | Auto
    calls_blas: bool
    becomes_sparse: bool
    staying: dict[str, Any]

    @classmethod
    def on(
        cls,
        backend: Backend | Auto,
        network: Network,
        optimizer: Optimizer,
        options: FitOptions,
        rows: int,
        dtype: np.dtype[Any],
    ) -> Self:
        """Return how a backend takes steps; rows : of a batch"""
        sparse = may_become_sparse(backend, network, optimizer, rows, dtype)
        return cls(optimizer, backend, calls_blas(backend), sparse, options.staying(optimizer, dtype))


class Setup(NamedTuple):
    """What trainings of the same descriptions have in common.

    described : the options up to `VALUES`, checked; requested : the backend that it is to have
    steps : how they are taken, by all that differs between such trainings
    held : the descriptions as they were given: what is held has an id that is no other's
    """

    described: tuple[Any, ...]
    requested: BackendRequest
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
        """Return how steps are taken; ValueError if the average or the backend does not go with the rest.

        rows : of a batch; steps : of all trainings like this one; averaged : steps of this one, for its
            average; None if they are not known before rows are read
        """
        threads = options.threads
        if threads is None and self.requested.backend == "auto":
            threads = share()  # the choice goes by the cores that are left
        key = rows, dtype, steps, averaged, threads
        if (known := self.steps.get(key)) is not None:
            return known
        optimizer = options.optimizer
        if options.average is not None:
            optimizer = with_average(optimizer, options.average, averaged)
        requested = self.requested
        backend = choose(
            requested.backend, network, optimizer, rows, dtype, threads, steps, requested.goes_on,
            requested.mixed,
        )  # fmt: skip
        lasts = lasting(backend)
        found = StepSetup.on(lasts or backend, network, optimizer, options, rows, dtype)
        if lasts:
            if len(self.steps) >= MOST_KEPT:
                self.steps.clear()
            self.steps[key] = found
        return found


kept: dict[Any, Setup] = {}
"""Setups by the identities of their descriptions, the oldest first."""


def setup_of(network: Network, options: FitOptions, ranks: Ranks) -> tuple[FitOptions, Setup]:
    """Return checked options, and the setup that goes with them; errors as of `fit`."""
    key = _key(network, options) if ranks is ALONE else None
    if key is not None and (known := kept.get(key)) is not None:
        return known.options_of(options), known
    given, options = options, ranks.agreed(network, options, checked)
    with ranks.raise_on_all_ranks():
        setup = Setup(options[:VALUES], backend_request(options), {}, (network, *given[:VALUES]))
    if key is not None and all(map(_is_frozen, (*given[:VALUES], *options[:VALUES]))):
        if len(kept) >= MOST_KEPT:
            oldest, *_ = kept
            kept.pop(oldest, None)
        kept[key] = setup
    return options, setup


def _key(network: Network, options: FitOptions) -> tuple[Any, ...] | None:
    """Return what a setup is kept by; None for one that may be another in the next call."""
    resume = options.resume
    if registry.given() or not (resume is None or isinstance(resume, Continuation)):
        return None
    watched = options.progress is None and is_watched()
    return id(network), *map(id, options[:VALUES]), resume and resume.backend, watched


def _is_frozen(one: Any) -> bool:
    return isinstance(one, FROZEN) or (type(one) is tuple and not one)
