"""Callbacks that end the worse of several trainings: by their median, or by Optuna."""

from __future__ import annotations

import copy
import math
from typing import Any, Self

from fastmlp import checks
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import Monitor, checked_monitor


class MedianStopping(Callback):
    """End a training with a best value worse than the median of other trainings.

    Each other training counts with the mean of the values up to the same epoch (Golovin and others, "Google
    Vizier", 2017).

    Parameters
    ----------
    first_epoch : int
        No training ends before; at least 1.
    least : int
        The number of other trainings at an epoch before a training ends there; at least 1.
    monitor : str, optional
        A name in the history, as of `EarlyStopping`: by default "validation_loss" where there is
        validation, else "loss".
    mode : str
        "min" or "max": the direction of better values.

    Notes
    -----
    All copies of a callback share their values: copies for the models of `fit_many`, and for the candidates
    and folds of a search. Concurrent trainings are compared as far as trained, so another run on several
    threads may end other trainings. NaN is the worst value.
    """

    def __init__(
        self, first_epoch: int = 10, least: int = 5, monitor: str | None = None, mode: str = "min"
    ) -> None:
        self.first_epoch = checks.whole("first_epoch", first_epoch, 1)
        self.least = checks.whole("least", least, 1)
        self.monitor = checked_monitor(monitor)
        self.mode = checks.choice("mode", mode, ("min", "max"))
        self._means: dict[int, list[float]] = {}
        """The means of all trainings by epoch; all copies write here."""

    def on_train_begin(self, run: Run) -> None:
        """Find the curve; forget any earlier training of this copy."""
        self._curve = Monitor(type(self).__name__, self.monitor, run.history)
        self._best, self._total, self._values = math.inf, 0.0, 0

    def on_epoch_end(self, run: Run) -> None:
        """Compare the best value so far with other trainings; note the mean so far."""
        value = self._curve.latest(run.epoch)
        value = math.inf if math.isnan(value) else value if self.mode == "min" else -value
        self._best, self._total, self._values = min(self._best, value), self._total + value, self._values + 1
        others = self._means.setdefault(run.epoch, [])
        if run.epoch >= self.first_epoch and len(others) >= self.least:
            import statistics  # fractions and decimals, which no other callback needs

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
    """Report each epoch's value to an Optuna trial, and end the training when pruned.

    Parameters
    ----------
    trial : optuna.Trial
        The trial given to the objective of a study.
    monitor : str, optional
        A name in the history, as of `EarlyStopping`: by default "validation_loss" where there is
        validation, else "loss". The study minimises or maximises the value, by the study's direction.
    every : int
        How many epochs lie between two reports. Studies on files take some milliseconds for each.

    Raises
    ------
    optuna.TrialPruned
        Out of `fit`, for the study to catch.

    Notes
    -----
    scikit-learn copies estimators and callbacks for every fit. A copy reports to the same trial.
    """

    def __init__(self, trial: Any, monitor: str | None = None, every: int = 1) -> None:
        if not (hasattr(trial, "report") and hasattr(trial, "should_prune")):
            raise TypeError(f"trial must be an Optuna trial, got {checks.shown(trial)}")
        self.trial = trial
        self.monitor = checked_monitor(monitor)
        self.every = checks.whole("every", every, 1)

    def on_train_begin(self, run: Run) -> None:
        """Find the curve."""
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
