"""The ranks of one training: which rows each has, what they must have in common, and how they fail together.

A rank is a process. The rows of all ranks, one rank's after another's, are numbered through; orders, batches
and splits are drawn over all of them, the same on all ranks.
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
    """Processes that call the same methods in the same order. Arrays are C-contiguous, equally large.

    rank : int, which process this is, from 0; size : int, how many there are

    One that can end all processes has a method `abort(message)` too, which does that and does not return. One
    that can sum in the background has `start_allreduce(array)`, which begins an `allreduce` and returns a
    function that waits for it; several may be under way, which all ranks begin in the same order.
    """

    rank: int
    size: int

    def allreduce(self, array: NDArray[Any]) -> None:
        """Replace an array by the sum over all ranks, which has the same bits on all of them."""

    def broadcast(self, array: NDArray[Any]) -> None:
        """Replace an array by that of rank 0."""

    def barrier(self) -> None:
        """Return when all ranks have called it."""


def place_of(communicator: Any) -> tuple[int, int]:
    """Return (rank, size) of a communicator; TypeError or ValueError in one line if they are none."""
    size = checks.whole("the communicator's size", communicator.size, 1)
    return checks.whole("the communicator's rank", communicator.rank, 0, size - 1), size


def check_sums(communicator: Communicator) -> None:
    """Raise ValueError unless a communicator sums and broadcasts in place; what follows would be noise."""
    size = int(communicator.size)
    for method, own, expected in (("allreduce", 1, size), ("broadcast", int(communicator.rank), 0)):
        array = np.array([own])
        getattr(communicator, method)(array)
        if array[0] != expected:
            raise ValueError(
                f"the communicator's {method}(array) must write what it comes to into the array: "
                f"{own} became {array[0]}, and {expected} was expected of {size} ranks"
            )


def all_of(communicator: Communicator, own: T) -> list[T]:
    """Return the objects of all ranks, by rank; small ones, which pickle takes."""
    packed = np.frombuffer(pickle.dumps(own), np.uint8)
    lengths = np.zeros(communicator.size, np.int64)
    lengths[communicator.rank] = len(packed)
    communicator.allreduce(lengths)
    # The sum of arrays in which each rank fills a row of its own.
    table = np.zeros((communicator.size, lengths.max()), np.uint8)
    table[communicator.rank, : len(packed)] = packed
    communicator.allreduce(table)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(table, lengths, strict=True)]


def of_first(communicator: Communicator, own: T) -> T:
    """Return rank 0's object, which pickle takes; those of the others are not looked at."""
    first = communicator.rank == 0
    packed = np.frombuffer(pickle.dumps(own if first else None), np.uint8)
    length = np.array([len(packed)])
    communicator.broadcast(length)
    received = packed.copy() if first else np.empty(length[0], np.uint8)
    communicator.broadcast(received)
    sent: T = pickle.loads(received.tobytes())
    return sent


T = TypeVar("T")


class RankError(RuntimeError):
    """The ranks of a training cannot go on together: one has failed, or they differ."""


class SeveralRanks(Ranks):
    """This rank among others.

    at : where this rank's rows begin among those of all
    stop_requested : the signal that requested this rank to stop, which the others learn of at the chunk's end
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
        """End all ranks at an error in a `with` block that not all have. expected : errors that all have"""
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
        """Raise on all ranks what one raises in a `with` block, within which nothing may be exchanged."""
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

    def of_first(self, own: T) -> T:
        """Return rank 0's object."""
        return of_first(self.communicator, own)

    def all_of(self, own: T) -> list[T]:
        """Return the objects of all ranks, by rank."""
        return all_of(self.communicator, own)

    def gathered(self, own: Array) -> Array:
        """Return rows (rows, ..) of any kind of all ranks, one rank's after another's."""
        counts = self.all_of(len(own))
        numbers, at = np.zeros((sum(counts), *own.shape[1:]), own.dtype), sum(counts[: self.rank])
        numbers[at : at + len(own)] = own
        return self.total(numbers)

    def any_of(self, own: bool) -> bool:
        """Return whether something holds on one of all ranks."""
        return any(self.all_of(own))

    def total(self, numbers: Array) -> Array:
        """Replace numbers by their sums over all ranks; return them."""
        self.communicator.allreduce(numbers)
        return numbers

    @property
    def overlaps(self) -> bool:
        """Whether sums can be under way while this rank computes."""
        return hasattr(self.communicator, "start_allreduce")

    def begin_total(self, numbers: Array) -> Callable[[], Any]:
        """Begin to replace numbers by their sums over all ranks; return what waits for that."""
        if self.overlaps:
            begun: Callable[[], Any] = self.communicator.start_allreduce(numbers)  # type: ignore[attr-defined]
            return begun
        return partial(self.total, numbers)

    def place(self, rows: int) -> int:
        """Say how many rows this rank has; return how many there are."""
        self.counts = np.array(self.all_of(rows))
        self.at = int(self.counts[: self.rank].sum())
        self._weights = None
        return int(self.counts.sum())

    def own(self, visited: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (rows, places): of visited rows of all ranks this rank's, and where they stand there.

        visited : counted through all ranks; rows : from this rank's first
        """
        rows = visited - self.at
        places = np.flatnonzero((rows >= 0) & (rows < self.counts[self.rank]))
        return rows[places], places

    def threads(self, threads: int | None) -> int | None:
        """Return how many threads this rank may use: `threads`, or its share of the cores that it may use."""
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

    def of_all_rows(self, own: Array) -> Array:
        """Return numbers (.., rows) of the rows of all ranks, given those of this rank's."""
        numbers = np.zeros((*own.shape[:-1], int(self.counts.sum())), own.dtype)
        numbers[..., self.at : self.at + own.shape[-1]] = own
        return self.total(numbers)

    def check_same(self, **settings: Any) -> None:
        """Raise RankError on all ranks unless they have the same settings."""
        first, *others = self.all_of(settings)
        for rank, other in enumerate(others, 1):
            for name in settings:
                if other[name] != first[name]:
                    said = (
                        f"{checks.shown(first[name])} on rank 0, {checks.shown(other[name])} on rank {rank}"
                    )
                    raise RankError(f"all ranks must have the same {name}, got {said}")

    def check_equal(self, *arrays: Array) -> None:
        """Raise RankError on all ranks unless these have the same bits on all of them."""
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
        """Remember that a signal requested this rank to stop; all stop at the end of the chunk."""
        self.stop_requested = reason

    def steps(self, steps: int, done: int, per_epoch: int) -> int:
        """Return the least of what the ranks would take, up to where parameters are averaged if they are."""
        within = done % per_epoch
        end = min(within + min(self.all_of(steps)), per_epoch)
        if (every := self.average_every) is not None and end < per_epoch:
            # Between two averages the ranks' parameters differ, and nobody shall see them.
            end = min(max(end // every, within // every + 1) * every, per_epoch)
        return end - within
