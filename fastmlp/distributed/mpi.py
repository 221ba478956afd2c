"""MPI by mpi4py: collectives that are polled, so that a rank that has stalled ends all ranks in time.

A blocking collective waits for ever for a rank that was stopped, and hears no signal meanwhile.
"""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from numpy.typing import NDArray

from fastmlp.distributed.communicator import all_of
from fastmlp.system.budget import affinity
from fastmlp.system.notices import say

SPINS = 1000
"""Polls, 0.2 ms of them, before the core is offered to others between two polls; 0 on a crowded machine.

Beside other work two ranks on two cores took 36 us for a step with as many, and 340 with none; four ranks on
two cores 1.7 ms with as many, 0.7 with none, and 13 where the core was never offered.
"""

YIELD = getattr(os, "sched_yield", partial(time.sleep, 0))
"""Offers the core to others; Windows and macOS have another way."""

PATIENCE = 0.05
"""Seconds of polling without a pause."""

SLOWEST = 1e8
"""Bytes a second of a network at least; what moves at that pace is polled without a pause."""

POKE = 3e-4
"""Seconds from one poke to the next: the sums that are poked take milliseconds, a poke some microseconds."""

PAUSE = 1e-3
"""Seconds between two polls after that: a rank that waits for long leaves its core alone."""

HEARD = 0.3
"""Seconds from a last message to the end of all: mpiexec drops what it has not passed on by then."""

FAILED = 1
"""The exit code of all ranks if one fails."""


def is_mpi(value: object) -> bool:
    """Return whether it is a communicator of mpi4py's, without importing that."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and isinstance(value, mpi.Comm)


class MPI:
    """A `Communicator` (`fastmlp.distributed.communicator`) of mpi4py's.

    communicator : mpi4py.MPI.Intracomm
    timeout : seconds that one collective may take, waiting for the slowest rank included
    """

    def __init__(self, communicator: Any, timeout: float) -> None:
        self._mpi = sys.modules["mpi4py.MPI"]
        if not isinstance(communicator, self._mpi.Intracomm) or communicator == self._mpi.COMM_NULL:
            raise ValueError(f"communicator must be one group of processes, got {communicator.name!r}")
        self._communicator, self._timeout = communicator, timeout
        self._under_way: list[Any] = []
        self.rank: int = communicator.rank
        self.size: int = communicator.size
        self._spins = SPINS
        if self._is_crowded():
            self._spins = 0

    def allreduce(self, array: NDArray[Any]) -> None:
        """Replace an array by the sum over all ranks."""
        self._complete(self._communicator.Iallreduce(self._mpi.IN_PLACE, array), array.nbytes)

    def start_allreduce(self, array: NDArray[Any]) -> Callable[[], None]:
        """Begin to replace an array by the sum over all ranks; return what waits for that."""
        request = self._communicator.Iallreduce(self._mpi.IN_PLACE, array)
        if not self._under_way and self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE:
            threading.Thread(target=self._poke, args=(self._under_way,), daemon=True).start()
        self._under_way.append(request)

        def complete() -> None:
            self._complete(request, array.nbytes)
            self._under_way.remove(request)
            if not self._under_way:
                self._under_way = []  # the thread keeps the one that is empty now, and ends

        return complete

    def _poke(self, under_way: list[Any]) -> None:
        """Let sums get on while they are under way and nobody waits for them.

        An MPI moves data only while it is called. Over TCP at 10 Gbit/s a step of 1024-2048-2048-10 by two
        ranks took 217 ms without this, 166 with it, and 205 to 230 without overlap.
        """
        while True:
            self._communicator.Iprobe()
            time.sleep(POKE)
            if not under_way:
                return

    def broadcast(self, array: NDArray[Any]) -> None:
        """Replace an array by that of rank 0."""
        self._complete(self._communicator.Ibcast(array), array.nbytes)

    def barrier(self) -> None:
        """Return when all ranks have called it."""
        self._complete(self._communicator.Ibarrier(), 0)

    def abort(self, message: str) -> NoReturn:
        """End all ranks, with a message, and an exit code that is not 0."""
        say(message)
        time.sleep(HEARD)
        self._communicator.Abort(FAILED)
        os._exit(FAILED)  # MPICH returns; nothing else may run here, as handlers that wait for other ranks

    def _is_crowded(self) -> bool:
        """Return whether this machine has fewer cores than ranks: then one that waits holds up another."""
        machine, told = platform.node(), all_of(self, (platform.node(), affinity()))
        here = [usable for there, usable in told if there == machine]
        return len(set().union(*here)) < len(here)

    def _complete(self, request: Any, size: int) -> None:
        began = time.monotonic()
        patience, polls = PATIENCE + size / SLOWEST, 0
        while not request.Test():
            polls += 1
            waited = time.monotonic() - began
            if waited > self._timeout:
                me, limit = f"rank {self.rank} of {self.size}", f"{self._timeout:g} s"
                self.abort(
                    f"fastmlp: {me} has waited {limit} for the others: one has stalled or ended, and all "
                    "are ended"
                )
            if waited > patience:
                time.sleep(PAUSE)
            elif polls > self._spins:
                YIELD()
