"""MPI by mpi4py: polled collectives, so that a stalled rank ends all ranks in time.

A blocking collective waits for ever for a stopped rank, and no signal interrupts the wait.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from numpy.typing import NDArray

from fastmlp.system.budget import affinity
from fastmlp.system.notices import say

# --- the end of a process, which mpiexec publishes --------------------------------------------------

# Every process that has imported fastmlp publishes its end, trained or not, after Python has shut its threads
# down. Modules of trainings are not imported above, since `concurrent.futures` cannot be imported so late.


def publish_end(process: int) -> None:
    """Publish this process's end to other processes of mpiexec, if the process has this id.

    MPICH keeps a process in MPI_Finalize until all processes have come there, but a process waiting in a
    collective for this process never does. A message would not do: a program's receive from any source may
    take the message. mpiexec keeps published names, and every process finds them.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if os.getpid() != process or mpi is None or not mpi.Is_initialized() or mpi.Is_finalized():
        return
    if are_published(mpi):
        with contextlib.suppress(mpi.Exception):
            mpi.Publish_name(_name(mpi.COMM_WORLD.rank), "ended")


def has_ended(mpi: Any, rank: int) -> bool:
    """Return True if a process of mpiexec has ended. rank : in COMM_WORLD"""
    try:
        mpi.Lookup_name(_name(rank))
    except mpi.Exception:
        return False
    return True


def are_published(mpi: Any) -> bool:
    """Return True if processes publish their ends: with MPICH (5.0 answers in 1 ms)."""
    started_by_mpiexec = mpi.Comm.Get_parent() == mpi.COMM_NULL  # others count their ranks from 0 again
    return started_by_mpiexec and mpi.COMM_WORLD.size > 1 and mpi.get_vendor()[0] == "MPICH"


def _name(rank: int) -> str:
    return f"fastmlp-end-of-rank-{rank}"  # a space would end it


# --- collectives ------------------------------------------------------------------------------------

SPINS = 1000
"""Polls (0.2 ms) before offering the core to others after each poll; 0 on a crowded machine.

Beside other work two ranks on two cores took 36 us for a step with 1000 polls, and 340 with none; four ranks
on two cores 1.7 ms with 1000, 0.7 with none, and 13 without any offer of the core."""

YIELD = getattr(os, "sched_yield", partial(time.sleep, 0))
"""Offers the core to others; Windows and macOS have another way."""

PATIENCE = 0.05
"""Seconds of polling without a pause."""

SLOWEST = 1e8
"""Bytes a second of the slowest network; data within this time are polled without a pause."""

POKE = 3e-4
"""Seconds between pokes: poked sums take milliseconds, a poke some microseconds."""

PAUSE = 1e-3
"""Seconds between two polls after `PATIENCE`: a long wait leaves the core alone."""

LOOK = 1.0
"""Seconds between looks for an ended rank: a look takes mpiexec 1 ms."""

GRACE = 5.0
"""Seconds of polling after an ended rank is found, for the last messages under way."""

LAST_WORDS_SECONDS = 0.3
"""Seconds from a last message to the end of all ranks: mpiexec drops later output."""

FAILED = 1
"""The exit code of all ranks if any rank fails."""


def is_mpi(value: object) -> bool:
    """Return True for a communicator of mpi4py's, without importing mpi4py."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and isinstance(value, mpi.Comm)


class MPI:
    """A `Communicator` (`fastmlp.distributed.ranks`) of mpi4py's.

    communicator : mpi4py.MPI.Intracomm
    timeout : seconds of a collective at most, waiting for the slowest rank included
    """

    def __init__(self, communicator: Any, timeout: float) -> None:
        self._mpi = sys.modules["mpi4py.MPI"]
        if not isinstance(communicator, self._mpi.Intracomm) or communicator == self._mpi.COMM_NULL:
            raise ValueError(f"communicator must be one group of processes, got {communicator.name!r}")
        self._communicator, self._timeout = communicator, timeout
        self._under_way: list[Any] = []
        self.rank: int = communicator.rank
        self.size: int = communicator.size
        self._others = self._handles_of_others() if are_published(self._mpi) else []
        self._spins = SPINS
        if self._is_crowded():  # a collective, which polls by `_spins` already
            self._spins = 0

    def allreduce(self, array: NDArray[Any]) -> None:
        """Replace an array by the sum over all ranks."""
        self._complete(self._communicator.Iallreduce(self._mpi.IN_PLACE, array), array.nbytes)

    def start_allreduce(self, array: NDArray[Any]) -> Callable[[], None]:
        """Begin an `allreduce`; return the function for waiting."""
        request = self._communicator.Iallreduce(self._mpi.IN_PLACE, array)
        if not self._under_way and self._mpi.Query_thread() == self._mpi.THREAD_MULTIPLE:
            threading.Thread(target=self._poke, args=(self._under_way,), daemon=True).start()
        self._under_way.append(request)

        def complete() -> None:
            self._complete(request, array.nbytes)
            self._under_way.remove(request)
            if not self._under_way:
                self._under_way = []  # the thread keeps the empty list, and ends

        return complete

    def _poke(self, under_way: list[Any]) -> None:
        """Keep sums moving while this rank computes.

        An MPI moves data only while called. Over TCP at 10 Gbit/s a step of 1024-2048-2048-10 by two ranks
        took 217 ms without this, 166 with, and 205 to 230 without overlap.
        """
        while True:
            self._communicator.Iprobe()
            time.sleep(POKE)
            if not under_way:
                return

    def broadcast(self, array: NDArray[Any]) -> None:
        """Replace an array by rank 0's array."""
        self._complete(self._communicator.Ibcast(array), array.nbytes)

    def barrier(self) -> None:
        """Return after the calls of all ranks."""
        self._complete(self._communicator.Ibarrier(), 0)

    def abort(self, message: str) -> NoReturn:
        """End all ranks with a message and the exit code `FAILED`."""
        say(message)
        time.sleep(LAST_WORDS_SECONDS)
        self._communicator.Abort(FAILED)
        os._exit(FAILED)  # MPICH returns; nothing else may run here, as handlers that wait for other ranks

    def _is_crowded(self) -> bool:
        """Return True if this machine has fewer cores than ranks, so that waiting ranks delay others."""
        from fastmlp.distributed.ranks import all_of

        machine, received = platform.node(), all_of(self, (platform.node(), affinity()))
        here = [usable for there, usable in received if there == machine]
        return len(set().union(*here)) < len(here)

    def _handles_of_others(self) -> list[tuple[int, int]]:
        """Return (rank, rank in COMM_WORLD) of the other ranks, from the next rank on."""
        ranks = [(self.rank + step) % self.size for step in range(1, self.size)]
        world = self._mpi.COMM_WORLD.group
        return list(zip(ranks, self._communicator.group.Translate_ranks(ranks, world), strict=True))

    def _ended(self, look: int) -> int | None:
        """Return the rank of this look after the rank's end.

        Waiting ranks look for different ranks, so that each look covers every rank.
        """
        rank, handle = self._others[look % len(self._others)]
        return rank if has_ended(self._mpi, handle) else None

    def _complete(self, request: Any, size: int) -> None:
        began = time.monotonic()
        patience, polls, looks = PATIENCE + size / SLOWEST, 0, 0
        ended, limit = None, self._timeout
        while not request.Test():
            polls += 1
            waited = time.monotonic() - began
            if waited > limit:
                self._abort_waiting(ended)
            if self._others and ended is None and waited > (looks + 1) * LOOK:
                ended = self._ended(looks)
                looks += 1
                if ended is not None:
                    limit = min(limit, waited + GRACE)
            if waited > patience:
                time.sleep(PAUSE)
            elif polls > self._spins:
                YIELD()

    def _abort_waiting(self, ended: int | None) -> NoReturn:
        me = f"fastmlp: rank {self.rank} of {self.size}"
        if ended is not None:
            self.abort(f"{me} waits for rank {ended}, which has ended, and so all are ended")
        self.abort(
            f"{me} has waited {self._timeout:g} s for the others: one has stalled or ended, and all are ended"
        )
