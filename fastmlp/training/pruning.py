"""Callbacks that end a training because others are better: `MedianStopping`, and `OptunaPruning`."""

from __future__ import annotations

import copy
import math
import statistics
from typing import Any, Self

from fastmlp import checks
from fastmlp.training.callbacks import Callback, Monitor, Run, checked_monitor


class MedianStopping(Callback):
    """End a training whose best value so far is worse than the median of what others had on the way.

    Of each other training counts the mean of its values up to the same epoch (Golovin and others, "Google
    Vizier", 2017).

    Parameters
    ----------
    first_epoch : int
        No training ends before; at least 1.
    least : int
        How many others must have come to an epoch before one ends there; at least 1.
    monitor : str, optional
        A name that is in the history, as of `EarlyStopping`: by default "validation_loss" where there is
        validation, else "loss".
    mode : str
        Whether "min" or "max" is the best value.

    Notes
    -----
    All copies of one of these know of one another: those of the models of `fit_many`, and of the candidates
    and folds of a search. Trainings that run beside one another are compared as far as they have come, so
    that on several threads another one may end in another run. NaN is the worst value.
    """

    def __init__(
        self, first_epoch: int = 10, least: int = 5, monitor: str | None = None, mode: str = "min"
    ) -> None:
        self.first_epoch = checks.whole("first_epoch", first_epoch, 1)
        self.least = checks.whole("least", least, 1)
        self.monitor = checked_monitor(monitor)
        self.mode = checks.choice("mode", mode, ("min", "max"))
        self._means: dict[int, list[float]] = {}
        """The means of all trainings by the epochs that they came to; all copies write to it."""

    def on_train_begin(self, run: Run) -> None:
        """Find the value that there is; forget any earlier training of this copy."""
        self._curve = Monitor(type(self).__name__, self.monitor, run.history)
        self._best, self._total, self._values = math.inf, 0.0, 0

    def on_epoch_end(self, run: Run) -> None:
        """Compare the best value so far with those of the others; note the mean so far."""
        value = self._curve.latest(run.epoch)
        value = math.inf if math.isnan(value) else value if self.mode == "min" else -value
        self._best, self._total, self._values = min(self._best, value), self._total + value, self._values + 1
        others = self._means.setdefault(run.epoch, [])
        if run.epoch >= self.first_epoch and len(others) >= self.least:
            median = statistics.median(others)
            if self._best > median:
                sign = 1 if self.mode == "min" else -1
                run.stop(
                    f"the best {self._curve.name}, {sign * self._best:.4g}, is worse than the median of "
                    f"{len(others)} other trainings at epoch {run.epoch}, {sign * median:.4g}"
                )
        others.append(self._total / self._values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return copy.copy(self)


class OptunaPruning(Callback):
    """Report a value of every epoch to an Optuna trial, and end the training where its pruner says so.

    Parameters
    ----------
    trial : optuna.Trial
        What the study gives to its objective.
    monitor : str, optional
        A name that is in the history, as of `EarlyStopping`: by default "validation_loss" where there is
        validation, else "loss". The study minimises it, or what falls as it falls, or maximises a value that
        a callback writes, as the study's direction says.
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
        self._curve = Monitor(type(self).__name__, self.monitor, run.history)

    def next_epoch(self, run: Run) -> int:
        """Return the epoch of the next report."""
        return run.epoch + self.every - run.epoch % self.every

    def on_epoch_end(self, run: Run) -> None:
        """Report the value; end the trial if the pruner says so."""
        if run.epoch % self.every:
            return  # another callback needed this epoch
        value = self._curve.latest(run.epoch)
        self.trial.report(value, run.epoch)
        if self.trial.should_prune():
            from optuna import TrialPruned

            raise TrialPruned(f"{self._curve.name} {value:.4g} after epoch {run.epoch} of {run.epochs}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
