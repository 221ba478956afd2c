"""Ranks, the processes of a training.

Here is a single process; `fastmlp.distributed`, built on this, has several: everything another process could
know or change, as rows, sums, failures, and the steps themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.backend import Array, Backend, Data, Evaluate, TrainChunk

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
    """The ranks of a training in a single process.

    rank : this process's number, from 0; size : the number of processes
    request_stop : takes the name of a signal, in place of `Run.stop`; None for that
    first : True if this rank reads and writes files and shows messages
    by_rows : True if rows are identified however spread, so that a checkpoint goes on at any size
    average_every : see `fastmlp.DataParallel`
    """

    rank = 0
    size = 1
    first = True
    request_stop: Callable[[str], None] | None = None

    def __init__(self, by_rows: bool = False, average_every: int | None = None) -> None:
        self.by_rows, self.average_every = by_rows, average_every

    # --- what they say to one another ---------------------------------------------------------------------

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        """Raise any rank's error in a `with` block on all ranks; within, ranks may exchange nothing."""
        return _NOTHING

    def of_first(self, value: T) -> T:
        """Return rank 0's object."""
        return value

    def all_of(self, value: T) -> list[T]:
        """Return the objects of all ranks, by rank."""
        return [value]

    def any_of(self, value: bool) -> bool:
        """Return True if a flag is set on any rank."""
        return value

    def total(self, numbers: Array) -> Array:
        """Sum numbers over all ranks in place; return the sums."""
        return numbers

    # --- their rows -----------------------------------------------------------------------------------------

    def count_rows(self, rows: int) -> int:
        """Say how many rows this rank has; return how many there are."""
        return rows

    def rank_rows(self, visited: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (rows, positions): this rank's rows among all visited rows, and their positions there."""
        return visited, np.arange(len(visited))

    def weights(self, data: Data) -> Array:
        """Return the weights (rows,) of the rows of all ranks."""
        return data.weights

    def of_all_rows(self, numbers: Array) -> Array:
        """Return numbers (.., rows) for the rows of all ranks, given this rank's numbers."""
        return numbers

    def gathered(self, array: Array) -> Array:
        """Return rows (rows, ..) of all ranks, rank after rank."""
        return array

    # --- the training ---------------------------------------------------------------------------------------

    def check_equal(self, *arrays: Array) -> None:
        """Raise RankError on all ranks unless all ranks have the same bits."""

    def started(
        self, chosen: Any, parameters: Array, callbacks: list[Any], moment_rows: int
    ) -> tuple[Any, list[Any]]:
        """Return the backend of all ranks, and this rank's callbacks, with a common stop.

        chosen : the backend chosen here; parameters : overwritten with rank 0's
        """
        return chosen, callbacks

    def steps(self, steps: int, done: int, per_epoch: int) -> int:
        """Return how many steps all ranks take next, given this rank's.

        done : steps before; per_epoch : steps to an epoch
        """
        return steps

    def runner(self, backend: Backend, per_epoch: int, data: Data, since: int) -> ChunkRunner:
        """Return how the ranks take steps.

        per_epoch : steps to an epoch; data : this rank's rows; since : steps before the first such epoch
        """
        return backend


ALONE = Ranks()
