"""The processes that train together, as a training sees them: here this one alone.

What several answer is built on this (`fastmlp.distributed`): all that another process of the training could
know or change, its rows, sums, what fails, and the steps themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.backend import Array, Backend, Data, Evaluate, TrainChunk
from fastmlp.model.network import Network
from fastmlp.training.callbacks import Callback

T = TypeVar("T")
_NOTHING = nullcontext()


class ChunkRunner(Protocol):
    """The steps of a backend, as a training takes them: see `fastmlp.model.backend.Backend`."""

    @property
    def train_chunk(self) -> TrainChunk:
        """Take the steps of a chunk."""

    @property
    def evaluate(self) -> Evaluate:
        """Return the loss over all rows."""


class Ranks:
    """The ranks of a training that has one process: this one's answers are those of all.

    rank : which of them this is, from 0; size : how many there are
    first : whether this rank reads and writes files and shows what is shown
    by_rows : whether rows are known by what does not depend on how they are spread, so that a checkpoint goes
        on at any size
    average_every : see `fastmlp.DataParallel`
    """

    rank = 0
    size = 1
    first = True

    def __init__(self, by_rows: bool = False, average_every: int | None = None) -> None:
        self.by_rows, self.average_every = by_rows, average_every

    # --- what they say to one another ---------------------------------------------------------------------

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        """Raise on all ranks what one raises in a `with` block, within which nothing may be exchanged."""
        return _NOTHING

    def of_first(self, own: T) -> T:
        """Return rank 0's object."""
        return own

    def all_of(self, own: T) -> list[T]:
        """Return the objects of all ranks, by rank."""
        return [own]

    def any_of(self, own: bool) -> bool:
        """Return whether something holds on one of all ranks."""
        return own

    def total(self, numbers: Array) -> Array:
        """Replace numbers by their sums over all ranks; return them."""
        return numbers

    # --- their rows -----------------------------------------------------------------------------------------

    def place(self, rows: int) -> int:
        """Say how many rows this rank has; return how many there are."""
        return rows

    def own(self, visited: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (rows, places): of visited rows of all ranks this rank's, and where they stand there."""
        return visited, np.arange(len(visited))

    def weights(self, data: Data) -> Array:
        """Return the weights (rows,) of the rows of all ranks."""
        return data.weights

    def of_all_rows(self, own: Array) -> Array:
        """Return numbers (.., rows) of the rows of all ranks, given those of this rank's."""
        return own

    def gathered(self, own: Array) -> Array:
        """Return rows (rows, ..) of any kind of all ranks, one rank's after another's."""
        return own

    # --- the training ---------------------------------------------------------------------------------------

    def check_equal(self, *arrays: Array) -> None:
        """Raise RankError on all ranks unless these have the same bits on all of them."""

    def agreed(self, network: Network, options: Any, check: Callable[..., Any]) -> Any:
        """Return options, an `options.FitOptions`, that `options.checked` finds right on all ranks."""
        return check(network, options)

    def started(
        self, chosen: Any, parameters: Array, callbacks: list[Callback], moment_rows: int
    ) -> tuple[Any, list[Callback]]:
        """Return the backend of all ranks, and this rank's callbacks with what all need to stop together.

        chosen : the backend that was chosen here; parameters : which become those of rank 0
        """
        return chosen, callbacks

    @property
    def begin(self) -> Callable[..., Any] | None:
        """What makes the object that takes the chunks; None for the usual `loop.Training`."""
        return None

    def runner(self, backend: Backend, per_epoch: int, data: Data, since: int) -> ChunkRunner:
        """Return how the ranks take steps.

        per_epoch : steps to an epoch; data : this rank's rows; since : steps before the first such epoch
        """
        return backend


ALONE = Ranks()
