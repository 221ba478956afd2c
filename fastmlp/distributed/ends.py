"""The end of a process of mpiexec, published, so that processes that wait for it learn of it.

Separate from `mpi`, because every process that has imported fastmlp publishes its end, trained or not: the
package's top calls `publish_end` when it ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


def publish_end(process: int) -> None:
    """Have the other processes of mpiexec know that this one has ended. process : only with this id

    MPICH keeps it in MPI_Finalize until all have come there, and one that waits for it in a collective never
    does. It sends no message, which a program's receive from any source would take for its own. mpiexec keeps
    published names, and whoever looks for one finds it.
    """
    mpi = sys.modules.get("mpi4py.MPI")
    if os.getpid() != process or mpi is None or not mpi.Is_initialized() or mpi.Is_finalized():
        return
    if are_published(mpi):
        with contextlib.suppress(mpi.Exception):
            mpi.Publish_name(_name(mpi.COMM_WORLD.rank), "ended")


def has_ended(mpi: Any, rank: int) -> bool:
    """Return whether a process of mpiexec has published its end. rank : in COMM_WORLD"""
    try:
        mpi.Lookup_name(_name(rank))
    except mpi.Exception:
        return False
    return True


def are_published(mpi: Any) -> bool:
    """Return whether processes publish their ends here: with MPICH, tried on 5.0, which answers in 1 ms."""
    started_by_mpiexec = mpi.Comm.Get_parent() == mpi.COMM_NULL  # others count their ranks from 0 again
    return started_by_mpiexec and mpi.COMM_WORLD.size > 1 and mpi.get_vendor()[0] == "MPICH"


def _name(rank: int) -> str:
    return f"fastmlp-end-of-rank-{rank}"  # a space would end it
