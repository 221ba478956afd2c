"""`fit` with a communicator: the training of several ranks, and common decisions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from fastmlp import checks
from fastmlp.backend.choice import current_backend
from fastmlp.backend.registry import get
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.checks import CheckpointError, needed
from fastmlp.distributed.mpi import MPI, is_mpi
from fastmlp.distributed.ranks import Communicator, SeveralRanks, check_sums, rank_and_size
from fastmlp.distributed.steps import AveragedSteps, SynchronousSteps
from fastmlp.metrics.callback import Metrics
from fastmlp.model.backend import Backend, Data
from fastmlp.model.descriptions import described
from fastmlp.model.network import Network
from fastmlp.model.state import Array
from fastmlp.system.interrupts import BY_SIGINT, Interrupted
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.preparation import drawn_seed, prepare
from fastmlp.training.ranks import ChunkRunner, Ranks


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
        if rank_and_size(communicator)[1] > 1:
            check_sums(communicator)
        return communicator


class Agreement(Callback):
    """Stops all ranks where any rank stops, and compares ranks after every epoch.

    moment_rows : how many rows of the moments the optimiser uses
    """

    def __init__(self, ranks: SeveralRanks, moment_rows: int) -> None:
        self._ranks, self._moment_rows = ranks, moment_rows

    def on_epoch_end(self, run: Run) -> None:
        """Raise RankError on all ranks unless parameters and moments are the same bits."""
        self._ranks.check_equal(run.parameters, run.moments[: self._moment_rows])

    def on_chunk_end(self, run: Run) -> None:
        """Agree on a stop; another callback may have stopped before the first chunk already."""
        received = self._ranks.all_of((self._ranks.stop_requested, run.stop_reason))
        reasons = [reason for each in zip(*received, strict=True) for reason in each if reason is not None]
        if reasons:  # a signal's before a callback's, and then that of the lowest rank
            run.stop(reasons[0])
            run.interrupted = reasons[0] == BY_SIGINT

    on_train_begin = on_chunk_end


class FilesWritten(Callback):
    """Makes stopping ranks wait until rank 0 has written all files.

    When a signal ends a rank, some kinds of mpiexec and of job schedulers kill other ranks at once.
    """

    def __init__(self, ranks: SeveralRanks) -> None:
        self._ranks = ranks

    def on_chunk_end(self, run: Run) -> None:
        """Wait for rank 0's checkpoint where the training stops."""
        if run.stop_reason is not None:
            self._ranks.communicator.barrier()


def agreeing(callbacks: Sequence[Callback], ranks: SeveralRanks, moment_rows: int) -> list[Callback]:
    """Return this rank's callbacks with an `Agreement`, on rank 0 with the writers of checkpoints.

    Writers come last, since the state must be agreed on by all ranks.
    """
    others = [callback for callback in callbacks if not callback.writes_training]
    writing = [callback for callback in callbacks if callback.writes_training and ranks.first]
    return [*others, Agreement(ranks, moment_rows), *writing, FilesWritten(ranks)]


def fit_on_ranks(
    network: Network,
    X: Any,
    y: Any,
    given: Mapping[str, Any],
    communicator: Any,
    check: Callable[..., Any],
) -> Model:
    """Return the model of `fastmlp.fit`, trained with this rank's rows. check : `fitting.options_of`"""
    group = communicator if isinstance(communicator, DataParallel) else DataParallel(communicator)
    opened = group.opened()
    if opened.size == 1:
        return prepare(network, X, y, check(network, given), Ranks(True, group.average_every)).train()
    ranks = TrainingRanks(opened, group.average_every)
    with ranks.abort_all_ranks(DivergenceError, Interrupted):
        return prepare(network, X, y, ranks.agreed(network, given, check), ranks).train()


class TrainingRanks(SeveralRanks):
    """This rank among the ranks of a training."""

    def agreed(self, network: Network, given: Mapping[str, Any], check: Callable[..., Any]) -> Any:
        """Return checked options, the same on all ranks, with rank 0's seed."""
        with self.raise_on_all_ranks():
            options = check(network, given, self.first)
            self._check(network, options)
        file = self.of_first(options.file)
        if options.resume is None or options.file is not None:
            options = options.having(resume=file)
        self._compare(network, options)
        seed = options.seed
        if seed is None:
            seed = self.of_first(drawn_seed(options))
        return options.having(seed=seed, threads=self.threads(options.threads))

    def started(
        self, chosen: Any, parameters: Array, callbacks: list[Callback], moment_rows: int
    ) -> tuple[Backend, list[Callback]]:
        """Return the backend of all ranks, and this rank's callbacks; see `agreeing`."""
        names = [one.names for one in callbacks if isinstance(one, Metrics)]
        self.check_same(dtype=parameters.dtype.name, metrics=names)
        self.communicator.broadcast(parameters)
        return get(self.of_first(current_backend(chosen).name)), agreeing(callbacks, self, moment_rows)

    def _check(self, network: Network, options: Any) -> None:
        """Raise ValueError for an option without support for ranks."""
        if options.mixup is not None:
            raise ValueError("mixup does not go with a communicator, where each process has its rows")
        if options.average is not None and self.average_every is not None:
            raise ValueError("average does not go with average_every, where ranks take steps apart")

    def _compare(self, network: Network, options: Any) -> None:
        """Raise RankError for differing options, CheckpointError for a file of a single process."""
        saved, dtype, validation = options.resume, options.dtype, options.validation
        goes_on = saved is not None and options.file is None
        self.check_same(
            network=described(network), optimizer=described(options.optimizer), epochs=options.epochs,
            batch_size=options.batch_size, shuffle=options.shuffle, seed=options.seed,
            backend=options.backend, dtype=None if dtype is None else str(dtype),
            validation=validation if isinstance(validation, Real) else type(validation).__name__,
            average_every=self.average_every, fit_more=goes_on, average=repr(options.average),
            **options.of_steps(),
        )  # fmt: skip
        if goes_on:
            self.check_equal(saved.parameters, saved.moments)
        with self.raise_on_all_ranks():
            if options.file is not None and not options.file.by_rows:
                raise CheckpointError(
                    f"{options.file.path!r} is of a training without a communicator, which one process can "
                    "resume"
                )

    def runner(self, backend: Backend, per_epoch: int, data: Data, since: int) -> ChunkRunner:
        """Return the runner of the ranks' steps; see `training.ranks.Ranks.runner`."""
        if self.average_every is None:
            return SynchronousSteps(backend, self)
        return AveragedSteps(backend, self, per_epoch, since, self.weights(data))


# --- rows of a rank -----------------------------------------------------------------------------------

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
    rank, size = rank_and_size(communicator)
    lengths = []

    def part_of(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {name: part_of(part) for name, part in one.items()}
        if isinstance(one, (str, os.PathLike)):
            fragments = _row_groups(one)
            length = sum(map(_length, fragments))
            part = _read(fragments, *_bounds(rank, size, length))
        else:
            length, part = _part(one, rank, size)
        lengths.append(length)
        return part

    found = [part_of(one) for one in rows]
    if len(set(lengths)) > 1:
        raise ValueError(f"what is sharded together must have as many rows, got {lengths}")
    return found[0] if len(found) == 1 else tuple(found)


def _bounds(rank: int, size: int, rows: int) -> tuple[int, int]:
    return rank * rows // size, (rank + 1) * rows // size


def _part(rows: Any, rank: int, size: int) -> tuple[int, Any]:
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
