"""The ranks of a training: rows, agreement, and failures.

A rank is a process. Rows are numbered through the ranks in their order; orders, batches and splits are drawn
over all rows, the same on all ranks.
"""

from __future__ import annotations

import hashlib
import pickle
import platform
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.backend import Array, Data
from fastmlp.system.budget import affinity, cores
from fastmlp.training.ranks import Ranks


@runtime_checkable
class Communicator(Protocol):
    """Processes with the same calls in the same order, with C-contiguous arrays of equal size.

    rank : int, this process's number, from 0; size : int, the number of processes

    A communicator able to end all processes has a method `abort(message)` too, which does not return. A
    communicator able to sum in the background has `start_allreduce(array)`: begins an `allreduce` and returns
    a function for waiting; several sums may be under way, begun by all ranks in the same order.
    """

    rank: int
    size: int

    def allreduce(self, array: NDArray[Any]) -> None:
        """Replace an array by the sum over all ranks, the same bits on every rank."""

    def broadcast(self, array: NDArray[Any]) -> None:
        """Replace an array by rank 0's array."""

    def barrier(self) -> None:
        """Return after the calls of all ranks."""


def rank_and_size(communicator: Any) -> tuple[int, int]:
    """Return (rank, size) of a communicator; TypeError or ValueError for bad values."""
    size = checks.whole("the communicator's size", communicator.size, 1)
    return checks.whole("the communicator's rank", communicator.rank, 0, size - 1), size


def check_sums(communicator: Communicator) -> None:
    """Raise ValueError unless a communicator sums and broadcasts in place."""
    size = int(communicator.size)
    for method, value, expected in (("allreduce", 1, size), ("broadcast", int(communicator.rank), 0)):
        array = np.array([value])
        getattr(communicator, method)(array)
        if array[0] != expected:
            raise ValueError(
                f"the communicator's {method}(array) must write what it comes to into the array: "
                f"{value} became {array[0]}, and {expected} was expected of {size} ranks"
            )


def all_of(communicator: Communicator, value: T) -> list[T]:
    """Return the objects of all ranks, by rank; pickle must take them."""
    packed = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = np.zeros(communicator.size, np.int64)
    lengths[communicator.rank] = len(packed)
    communicator.allreduce(lengths)
    # The sum of arrays in which each rank fills another row.
    table = np.zeros((communicator.size, lengths.max()), np.uint8)
    table[communicator.rank, : len(packed)] = packed
    communicator.allreduce(table)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(table, lengths, strict=True)]


def of_first(communicator: Communicator, value: T) -> T:
    """Return rank 0's object, which pickle must take."""
    first = communicator.rank == 0
    packed = np.frombuffer(pickle.dumps(value if first else None), np.uint8)
    length = np.array([len(packed)])
    communicator.broadcast(length)
    received = packed.copy() if first else np.empty(length[0], np.uint8)
    communicator.broadcast(received)
    sent: T = pickle.loads(received.tobytes())
    return sent


T = TypeVar("T")


class RankError(RuntimeError):
    """The ranks of a training cannot go on together: a rank has failed, or ranks differ."""


class SeveralRanks(Ranks):
    """This rank among others.

    at : the number of this rank's first row
    stop_requested : the signal with a request to stop; other ranks learn of the signal at the chunk's end
    counts : (size,) rows of each rank
    """

    at = 0

    def __init__(self, communicator: Communicator, average_every: int | None) -> None:
        super().__init__(by_rows=True, average_every=average_every)
        self.communicator = communicator
        self.rank, self.size = int(communicator.rank), int(communicator.size)
        self.first = self.rank == 0
        self.stop_requested: str | None = None
        self.counts = np.zeros(self.size, np.int64)
        self._weights: Array | None = None
        self._shared: BaseException | None = None

    @contextmanager
    def abort_all_ranks(self, *expected: type[BaseException]) -> Iterator[None]:
        """End all ranks at a rank's error in a `with` block. expected : errors common to all ranks"""
        try:
            yield
        except BaseException as error:
            abort = getattr(self.communicator, "abort", None)
            if (
                abort is not None
                and error is not self._shared
                and not isinstance(error, (RankError, *expected))
            ):
                said = "".join(traceback.format_exception(error))
                abort(f"{said}fastmlp: rank {self.rank} of {self.size} has failed, and so all are ended")
            raise

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Raise a rank's error in a `with` block on all ranks; within, ranks may exchange nothing."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = self._shared = error
        said = self.all_of(None if failure is None else f"{type(failure).__name__}: {failure}")
        if failure is not None:
            raise failure
        for rank, text in enumerate(said):
            if text is not None:
                raise RankError(f"rank {rank} of {self.size} has failed: {text}")

    def of_first(self, value: T) -> T:
        """Return rank 0's object."""
        return of_first(self.communicator, value)

    def all_of(self, value: T) -> list[T]:
        """Return the objects of all ranks, by rank."""
        return all_of(self.communicator, value)

    def gathered(self, array: Array) -> Array:
        """Return the rows (rows, ..) of all ranks, in the order of ranks."""
        counts = self.all_of(len(array))
        numbers, at = np.zeros((sum(counts), *array.shape[1:]), array.dtype), sum(counts[: self.rank])
        numbers[at : at + len(array)] = array
        return self.total(numbers)

    def any_of(self, value: bool) -> bool:
        """Return True if a condition holds on any rank."""
        return any(self.all_of(value))

    def total(self, numbers: Array) -> Array:
        """Replace numbers by sums over all ranks; return the sums."""
        self.communicator.allreduce(numbers)
        return numbers

    @property
    def overlaps(self) -> bool:
        """True if sums can be under way while this rank computes."""
        return hasattr(self.communicator, "start_allreduce")

    def begin_total(self, numbers: Array) -> Callable[[], Any]:
        """Begin a `total`; return the function for waiting."""
        if self.overlaps:
            begun: Callable[[], Any] = self.communicator.start_allreduce(numbers)  # type: ignore[attr-defined]
            return begun
        return partial(self.total, numbers)

    def count_rows(self, rows: int) -> int:
        """Tell other ranks this rank's number of rows; return the number of all rows."""
        self.counts = np.array(self.all_of(rows))
        self.at = int(self.counts[: self.rank].sum())
        self._weights = None
        return int(self.counts.sum())

    def rank_rows(self, visited: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (rows, positions): this rank's rows among visited rows, and their positions there.

        visited : numbered through all ranks; rows : numbered from this rank's first row
        """
        rows = visited - self.at
        positions = np.flatnonzero((rows >= 0) & (rows < self.counts[self.rank]))
        return rows[positions], positions

    def threads(self, threads: int | None) -> int | None:
        """Return this rank's threads: `threads`, or the rank's part of the machine's cores."""
        machine, usable = platform.node(), affinity()
        said = self.all_of((machine, usable))
        sharing = sum(there == machine and not usable.isdisjoint(theirs) for there, theirs in said)
        return max(1, cores() // sharing) if threads is None else threads

    def weights(self, data: Data) -> Array:
        """Return the weights (rows,) of the rows of all ranks."""
        if self._weights is None:
            if all(self.all_of(bool((data.weights == 1).all()))):
                self._weights = np.broadcast_to(data.weights.dtype.type(1), (int(self.counts.sum()),))
            else:
                self._weights = self.of_all_rows(data.weights)
        return self._weights

    def of_all_rows(self, part: Array) -> Array:
        """Return numbers (.., rows) of all ranks' rows, given the numbers of this rank's rows."""
        numbers = np.zeros((*part.shape[:-1], int(self.counts.sum())), part.dtype)
        numbers[..., self.at : self.at + part.shape[-1]] = part
        return self.total(numbers)

    def check_same(self, **settings: Any) -> None:
        """Raise RankError on all ranks unless all have the same settings."""
        first, *others = self.all_of(settings)
        for rank, other in enumerate(others, 1):
            for name in settings:
                if other[name] != first[name]:
                    said = (
                        f"{checks.shown(first[name])} on rank 0, {checks.shown(other[name])} on rank {rank}"
                    )
                    raise RankError(f"all ranks must have the same {name}, got {said}")

    def check_equal(self, *arrays: Array) -> None:
        """Raise RankError on all ranks unless arrays have the same bits on all ranks."""
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array.reshape(-1).view(np.uint8).data)
        first, *others = self.all_of(digest.digest())
        if off := [str(rank) for rank, other in enumerate(others, 1) if other != first]:
            raise RankError(
                f"the parameters of rank {', '.join(off)} are not those of rank 0; do all have the same "
                "callbacks, releases and kind of processor?"
            )

    def request_stop(self, reason: str) -> None:
        """Note a signal's request to stop; all ranks stop at the end of the chunk."""
        self.stop_requested = reason

    def steps(self, steps: int, done: int, per_epoch: int) -> int:
        """Return the least of all ranks' steps, up to the next average of parameters."""
        within = done % per_epoch
        end = min(within + min(self.all_of(steps)), per_epoch)
        if (every := self.average_every) is not None and end < per_epoch:
            # Between two averages the ranks' parameters differ, and callbacks must not see them.
            end = min(max(end // every, within // every + 1) * every, per_epoch)
        return end - within
