"""`DataParallel` and `shard`: a training, and its rows, over several processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.distributed.mpi import MPI, is_mpi
from fastmlp.distributed.ranks import Communicator, check_sums, place_of


@dataclass(frozen=True)
class DataParallel:
    """A training by all processes of a communicator, each with other rows.

    Parameters
    ----------
    communicator : mpi4py.MPI.Intracomm, or an object with the methods of
        `fastmlp.distributed.ranks.Communicator`
    average_every : int, optional
        None sums the gradients of all processes in every step. k lets each process take k separate steps, on
        the process's rows of each batch, and then averages parameters and moments: local SGD (Stich 2019).
        Every epoch ends with an average, too.
    timeout : float
        Seconds of a process of mpi4py waiting for others, above 0; then all processes are ended. The timeout
        must be longer than the slowest step, compilation or write of a checkpoint. With MPICH the wait for an
        ended process is 10 s or so.
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
        """Return the communicator in the form for trainings."""
        communicator: Communicator = self.communicator
        if is_mpi(communicator):
            return MPI(communicator, self.timeout)
        if place_of(communicator)[1] > 1:
            check_sums(communicator)
        return communicator


Path = str | os.PathLike[str]


def shard(communicator: Any, *rows: Any) -> Any:
    """Return this rank's rows of arrays, which all ranks have or can read.

    The rows of all ranks, in the order of ranks, are the rows of the array; the ranks' numbers of rows differ
    by 1 at most. A rank may have none. For several arrays a tuple is returned.

    Parameters
    ----------
    communicator : as for `fit`
    rows : array, memory map, data frame or Arrow table, returned as a view; a sparse matrix of SciPy's, as
        CSR; a dict of these, as of targets of heads; or the path of a Parquet file, or of a directory of such
        files, with the rows returned as a `pyarrow.Table`

    Raises
    ------
    ValueError
        If the arrays differ in numbers of rows.
    """
    if isinstance(communicator, DataParallel):
        communicator = communicator.communicator
    rank, size = place_of(communicator)
    lengths = []

    def share_of(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {name: share_of(part) for name, part in one.items()}
        if isinstance(one, (str, os.PathLike)):
            fragments = _row_groups(one)
            length = sum(map(_length, fragments))
            share = _read(fragments, *_bounds(rank, size, length))
        else:
            length, share = _share(one, rank, size)
        lengths.append(length)
        return share

    found = [share_of(one) for one in rows]
    if len(set(lengths)) > 1:
        raise ValueError(f"what is sharded together must have as many rows, got {lengths}")
    return found[0] if len(found) == 1 else tuple(found)


def _bounds(rank: int, size: int, rows: int) -> tuple[int, int]:
    return rank * rows // size, (rank + 1) * rows // size


def _share(rows: Any, rank: int, size: int) -> tuple[int, Any]:
    """Return the number of rows, and this rank's rows."""
    if hasattr(rows, "tocsr"):
        rows = rows.tocsr()  # itself, if it is CSR
    try:
        length = rows.shape[0]
    except (AttributeError, IndexError, TypeError):
        raise TypeError(
            f"rows must be an array, a sparse matrix, a table or the path of a Parquet file, "
            f"got {checks.shown(rows)}"
        ) from None
    first, last = _bounds(rank, size, length)
    return length, rows[first:last]


def _row_groups(path: Path) -> list[Any]:
    """Return the row groups of a Parquet file or directory, in order."""
    dataset = needed("pyarrow.dataset", "table", "a shard of a Parquet file").dataset
    try:
        files = sorted(dataset(os.fspath(path), format="parquet").get_fragments(), key=lambda one: one.path)
        groups = [group for file in files for group in file.split_by_row_group()]
    except ValueError as error:  # pyarrow.ArrowInvalid is one
        said = str(error).splitlines()[0]
        raise ValueError(f"{checks.shown(path)} cannot be read as Parquet: {said}") from None
    if not groups:
        raise ValueError(f"there are no rows of Parquet files in {checks.shown(path)}")
    return groups


def _length(group: Any) -> int:
    rows: int = group.row_groups[0].num_rows  # count_rows() would give those of the whole file
    return rows


def _read(groups: list[Any], first: int, last: int) -> Any:
    """Return rows [first, last) of row groups as a table, without reading other groups."""
    from pyarrow import concat_tables

    tables, at = [], 0
    for group in groups:
        count = _length(group)
        start, stop = max(first - at, 0), min(last - at, count)
        if start < stop:
            tables.append(group.to_table().slice(start, stop - start))
        at += count
    return concat_tables(tables) if tables else groups[0].to_table().slice(0, 0)
