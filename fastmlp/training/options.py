"""What `fit` was given besides the rows, checked: for rows in memory, in blocks, and of several processes."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastmlp import checks
from fastmlp.backend.registry import is_exact, is_mixed
from fastmlp.model.averages import Average
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer, as_optimizer
from fastmlp.model.pieces import Piece
from fastmlp.model.precision import is_bfloat16
from fastmlp.system.notices import is_watched
from fastmlp.training.callbacks import Callback, Progress
from fastmlp.training.checkpoint import Checkpoint, Saved, read_training
from fastmlp.training.metrics import checked_metrics
from fastmlp.training.model import Model
from fastmlp.training.more import Continuation
from fastmlp.training.start import Initial

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
        changed["metrics"] = checked_metrics(options.metrics, network)
    resume = options.resume
    if resume is not None and not isinstance(resume, (Continuation, Saved)):
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
    backend, saved = options.backend, options.resume
    earlier: str | None = saved.backend if saved else None
    mixed = options.dtype is not None and is_bfloat16(options.dtype)
    goes_on = earlier is not None and is_exact(earlier)
    if options.dtype is not None and isinstance(saved, Saved) and mixed != is_mixed(saved.backend):
        then = "bfloat16" if is_mixed(saved.backend) else "not bfloat16"
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
    # A Checkpoint comes last: it writes the states of the others, which must have seen the chunk.
    return checked and sorted(checked, key=lambda callback: isinstance(callback, Checkpoint))
