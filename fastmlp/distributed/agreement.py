"""Callbacks by which all ranks stop after the same chunk, and compare their parameters."""

from __future__ import annotations

from collections.abc import Sequence

from fastmlp.distributed.ranks import SeveralRanks
from fastmlp.system.interrupts import BY_SIGINT
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.checkpoint import Checkpoint


class Agreement(Callback):
    """Stops all ranks where a callback or a signal stops one; compares them after every epoch.

    moment_rows : how many rows of the moments the optimiser uses
    """

    def __init__(self, ranks: SeveralRanks, moment_rows: int) -> None:
        self._ranks, self._moment_rows = ranks, moment_rows

    def on_train_begin(self, run: Run) -> None:
        """Agree: another callback may have stopped already."""
        self._agree(run)

    def on_epoch_end(self, run: Run) -> None:
        """Raise RankError on all ranks if their parameters or moments are not the same bits."""
        self._ranks.check_equal(run.parameters, run.moments[: self._moment_rows])

    def on_chunk_end(self, run: Run) -> None:
        """Agree."""
        self._agree(run)

    def _agree(self, run: Run) -> None:
        received = self._ranks.all_of((self._ranks.stop_requested, run.stop_reason))
        reasons = [reason for each in zip(*received, strict=True) for reason in each if reason is not None]
        if reasons:  # a signal's before a callback's, and then that of the lowest rank
            run.stop(reasons[0])
            run.interrupted = reasons[0] == BY_SIGINT


class FilesWritten(Callback):
    """Waits, where all stop, until rank 0 has written its files.

    A rank that a signal ends has the others killed, by some kinds of mpiexec and of job schedulers at once.
    """

    def __init__(self, ranks: SeveralRanks) -> None:
        self._ranks = ranks

    def on_chunk_end(self, run: Run) -> None:
        """Wait for rank 0, which comes here after its checkpoint."""
        if run.stop_reason is not None:
            self._ranks.communicator.barrier()


def agreeing(callbacks: Sequence[Callback], ranks: SeveralRanks, moment_rows: int) -> list[Callback]:
    """Return this rank's callbacks with an `Agreement`; rank 0 alone has those that write checkpoints.

    They come last: what they write must be what all ranks have agreed on.
    """
    others = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    writing = [callback for callback in callbacks if isinstance(callback, Checkpoint) and ranks.first]
    return [*others, Agreement(ranks, moment_rows), *writing, FilesWritten(ranks)]
