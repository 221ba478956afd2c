"""The interface of a communicator, five methods, and the exchanges that are made of them.

Separate from MPI, so that any library that can sum an array over processes will do.
"""

from __future__ import annotations

import pickle
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks

T = TypeVar("T")


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
