"""`DataParallel`: how `fit(communicator=)` spreads a training over processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastmlp import checks
from fastmlp.distributed.mpi import MPI, is_mpi
from fastmlp.distributed.ranks import Communicator, check_sums, place_of


@dataclass(frozen=True)
class DataParallel:
    """One training by all processes of a communicator, each with rows of its own.

    Parameters
    ----------
    communicator : mpi4py.MPI.Intracomm, or an object with the methods of
        `fastmlp.distributed.ranks.Communicator`
    average_every : int, optional
        None sums the gradients of all processes in every step. k lets each process take k steps by itself, on
        its own rows of each batch, and then averages parameters and moments: local SGD (Stich 2019). They are
        averaged at every epoch's end too.
    timeout : float
        Seconds that a process waits for the others, above 0. When they are over it ends all processes. It
        must be longer than the slowest step, compilation or write of a checkpoint. For mpi4py's only. With
        MPICH a process that has ended is not waited for as long: 10 s or so.
    """

    communicator: Any
    average_every: int | None = None
    timeout: float = 300.0

    def __post_init__(self) -> None:
        if not is_mpi(self.communicator) and not isinstance(self.communicator, Communicator):
            raise TypeError(
                "communicator must be one of mpi4py's, as MPI.COMM_WORLD, or have rank, size, allreduce, "
                f"broadcast and barrier, got {checks.shown(self.communicator)}"
            )
        if self.average_every is not None:
            checks.whole("average_every", self.average_every, 1)
        checks.real("timeout", self.timeout, 0, open_low=True)

    def opened(self) -> Communicator:
        """Return the communicator as trainings take it."""
        communicator: Communicator = self.communicator
        if is_mpi(communicator):
            return MPI(communicator, self.timeout)
        if place_of(communicator)[1] > 1:
            check_sums(communicator)
        return communicator
