"""What `fit` is asked for beside rows, checked: alike by one process and by several."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from fastmlp import checks
from fastmlp.backend.registry import is_exact, is_mixed
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer, check_optimizer
from fastmlp.model.pieces import Piece
from fastmlp.model.precision import is_bfloat16
from fastmlp.system.notices import Notices, in_notebook
from fastmlp.training.callbacks import Callback, Progress
from fastmlp.training.checkpoint import Checkpoint


def check_options(
    network: Network, optimizer: Optimizer | None, epochs: int, shuffle: bool, threads: int | None
) -> tuple[Optimizer, int, bool, int | None]:
    """Return the optimiser, epochs, shuffle and threads that a training is to have; errors as of `fit`."""
    checks.instance("network", network, Network, "a Network")
    optimizer = Adam() if optimizer is None else optimizer
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(len(network.sizes) - 1)
    epochs = checks.whole("epochs", epochs, 0)
    shuffle = checks.flag("shuffle", shuffle)
    threads = None if threads is None else checks.whole("threads", threads, 1)
    return optimizer, epochs, shuffle, threads


class Wanted(NamedTuple):
    """Which backend a training is to have.

    backend : its name, or "auto"; mixed : whether it multiplies bfloat16 numbers
    goes_on : whether it must have the bits of the fast backends
    """

    backend: str
    goes_on: bool
    mixed: bool


def wanted_backend(backend: str, dtype: Any, earlier: str | None) -> Wanted:
    """Return which backend a training is to have. earlier : that of the training that goes on, if one does"""
    goes_on, mixed = earlier is not None and is_exact(earlier), is_bfloat16(dtype)
    if earlier is not None and backend in ("auto", "reference"):
        mixed = mixed or is_mixed(earlier)
    return Wanted(earlier if earlier and backend == "auto" and not goes_on else backend, goes_on, mixed)


def own_pieces(network: Network) -> list[Piece]:
    """Return the activations and the loss of a network that a user has written."""
    return [piece for piece in (*network.hidden, network.loss) if isinstance(piece, Piece)]


def check_callbacks(callbacks: Iterable[Callback], progress: bool | None) -> list[Callback]:
    """Return the callbacks as a new list, with a progress bar if one is wanted."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of Callback, got {checks.shown(callbacks)}")
    checked = list(callbacks)
    for callback in checked:
        checks.instance("every callback", callback, Callback, "a Callback")
    if progress is None:
        progress = in_notebook() or Notices().isatty()
    if checks.flag("progress", progress):
        checked.append(Progress())
    # A Checkpoint comes last: it writes the states of the others, which must have seen the chunk.
    return sorted(checked, key=lambda callback: isinstance(callback, Checkpoint))
