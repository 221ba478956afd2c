"""Trials of an adaptive search that end early: what Optuna's pruners are told, and what they say."""

from __future__ import annotations

from typing import Any, Self

from fastmlp import checks
from fastmlp.training.callbacks import Callback, Run, checked_monitor, monitored


class OptunaPruning(Callback):
    """Report a value of every epoch to an Optuna trial, and end the training where its pruner says so.

    Parameters
    ----------
    trial : optuna.Trial
        What the study gives to its objective.
    monitor : str, optional
        A key of the history: "validation_loss" or "loss". By default the former where there is validation,
        else the latter. The study minimises it, or what falls as it falls.
    every : int
        How many epochs lie between two reports. Studies on files take some milliseconds for each.

    Raises
    ------
    optuna.TrialPruned
        Out of `fit`, for the study to catch.

    Notes
    -----
    scikit-learn copies estimators and their callbacks for every fit. A copy of this one reports to its trial.
    """

    def __init__(self, trial: Any, monitor: str | None = None, every: int = 1) -> None:
        if not (hasattr(trial, "report") and hasattr(trial, "should_prune")):
            raise TypeError(f"trial must be an Optuna trial, got {checks.shown(trial)}")
        self.trial = trial
        self.monitor = checked_monitor(monitor)
        self.every = checks.whole("every", every, 1)

    def on_train_begin(self, run: Run) -> None:
        """Find the value that there is."""
        self.key = monitored(self, self.monitor, run)

    def hear_by(self, run: Run) -> int:
        """Return the epoch of the next report."""
        return run.epoch + self.every - run.epoch % self.every

    def on_epoch_end(self, run: Run) -> None:
        """Report, and ask."""
        if run.epoch % self.every:
            return  # another callback wanted this epoch
        value = run.history[self.key][-1]
        self.trial.report(value, run.epoch)
        if self.trial.should_prune():
            from optuna import TrialPruned

            raise TrialPruned(f"{self.key} {value:.4g} after epoch {run.epoch} of {run.epochs}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
