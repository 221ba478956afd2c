"""scikit-learn's stopping rules: curves, printed lines, warnings, lower rates and the end of a training."""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import get_scorer

from fastmlp.callbacks.callback import LOSS_CURVES, Callback, Run
from fastmlp.estimators.rows import ScoredRows
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import SparseRows, unpacked
from fastmlp.system.interrupts import LeftBehind
from fastmlp.training.threads import interruptible

LEAST_RATE = 1e-6
"""Where "adaptive" stops instead of dividing the rate by 5 once more."""

WARNING_MODULE = "sklearn.neural_network._multilayer_perceptron"
"""The module of warnings of scikit-learn's estimators. scikit-learn's examples silence these warnings by
`warnings.filterwarnings("ignore", category=ConvergenceWarning, module="sklearn")`. That must still work when
only the import has changed. So a filter sees this module, and the message shows the line of the caller."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn from `WARNING_MODULE`, at the user's line."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("fastmlp.", "sklearn.base")):
        frame = frame.f_back
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, WARNING_MODULE)


@dataclass
class OptimizerState:
    """An optimiser with its state from a partial_fit to the next.

    rule : Optimizer, of the beginning of training; later changes of the parameters do not count
    schedule : "constant", "invscaling" or "adaptive"; power : of "invscaling"
    initial_rate, learning_rate : float, the schedule's first rate and the current rate. A rate does not fall
        below the first rate divided by the root of the dtype's greatest number: such steps are lost in
        rounding, and the velocity scaled by `change_rate` stays finite
    moments : (rows, P) floating; step : updates done
    """

    rule: Optimizer
    schedule: str
    power: float
    initial_rate: float
    learning_rate: float
    moments: NDArray[Any]
    step: int = 0

    def apply_to(self, run: Run) -> None:
        """Set the run's rate factor to the current rate."""
        run.rate_factor = self.learning_rate / self.initial_rate

    def change_rate(self, rate: float, run: Run) -> None:
        """Go on with another rate.

        scikit-learn's velocity is a step, rate included; the trainer's is multiplied by the rate of
        every step. Scaled so, the velocity gathered so far is the same step as before.
        """
        rate = max(rate, self.initial_rate / math.sqrt(np.finfo(self.moments.dtype).max))
        self.moments[0] *= self.learning_rate / rate
        others = run.rate_factor / (
            self.learning_rate / self.initial_rate
        )  # a callback's factor, exactly 1 without
        self.learning_rate = rate
        self.apply_to(run)
        run.rate_factor *= others


class Convergence(Callback):
    """Keeps fitted attributes up to date, and stops by scikit-learn's rules.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor with n_iter_, loss_, t_, loss_curve_ and so on to keep
    score : score(run) scores the validation rows, greater is better; None where the training loss
        decides
    endless : bool, to ignore stopping rules: partial_fit takes as many epochs as requested
    """

    def __init__(self, estimator: Any, score: Callable[[Run], float] | None, endless: bool) -> None:
        self.estimator = estimator
        self.score = score
        self.endless = endless
        self.best_parameters: NDArray[Any] | None = None

    def on_train_begin(self, run: Run) -> None:
        """Take the rate over from an earlier call; keep the start, in case nothing is better."""
        estimator = self.estimator
        estimator.n_iter_ = 0
        estimator._optimizer.apply_to(run)
        if self.score is not None and not estimator.validation_scores_:
            self.best_parameters = run.parameters.copy()

    def next_epoch(self, run: Run) -> int:
        """Return the next epoch that may stop, score or print.

        An epoch adds at most one to the count of epochs without improvement. Training cannot stop before the
        count is full.
        """
        estimator = self.estimator
        watched = self.score is not None or estimator.verbose
        if watched or estimator._optimizer.schedule == "invscaling":
            return run.epoch + 1
        most = estimator.n_iter_no_change + 1 - estimator._no_improvement_count
        return int(max(run.epoch + 1, min(estimator.n_iter_ + most, run.epochs)))

    def on_epoch_end(self, run: Run) -> None:
        """Do scikit-learn's work after each epoch since the last call."""
        # After an error or Ctrl-C one of an epoch's values may be missing.
        # A curve that another callback writes is longer or shorter.
        curves = [run.history[name] for name in LOSS_CURVES if name in run.history]
        for epoch in range(self.estimator.n_iter_, min(map(len, curves))):
            self._take(epoch, run)

    def _take(self, epoch: int, run: Run) -> None:
        estimator = self.estimator
        estimator.n_iter_ = epoch + 1
        estimator.loss_ = np.float64(run.history["loss"][epoch])  # as scikit-learn's: loss_.round(3) works
        estimator.t_ += run.rows
        estimator.loss_curve_.append(estimator.loss_)
        if "validation_loss" in run.history:
            estimator.validation_loss_curve_.append(run.history["validation_loss"][epoch])
        if estimator.verbose:
            print(f"Iteration {epoch + 1}, loss = {estimator.loss_:.8f}")
        if self.score is None:
            self._judge_loss()
        else:
            try:
                score = self.score(run)
            except LeftBehind:  # as in scikit-learn, Ctrl-C leaves a loss without its score
                return
            self._judge_score(score, run)
        state = estimator._optimizer
        if state.schedule == "invscaling":
            state.change_rate(state.initial_rate * (estimator.t_ + 1.0) ** -state.power, run)
        if estimator._no_improvement_count > estimator.n_iter_no_change:
            self._stop_or_slow_down(run)

    def on_train_end(self, run: Run) -> None:
        """Do the rest of `on_epoch_end`, count updates, and restore the best parameters.

        After a warm start, as in scikit-learn, parameters are restored only for a score above the scores of
        earlier fits. If time was up before the first score, the parameters stay.
        """
        # Another callback's stop, or Ctrl-C, may have left epochs for which `on_epoch_end` did not run.
        self.on_epoch_end(run)
        self.estimator._optimizer.step += run.step
        if self.best_parameters is not None and self.estimator.validation_scores_:
            run.parameters[...] = self.best_parameters

    def _count(self, is_stalled: bool) -> None:
        count = self.estimator._no_improvement_count
        self.estimator._no_improvement_count = count + 1 if is_stalled else 0

    def _judge_loss(self) -> None:
        estimator = self.estimator
        self._count(estimator.loss_ > estimator.best_loss_ - estimator.tol)
        if estimator.loss_ < estimator.best_loss_:
            estimator.best_loss_ = estimator.loss_

    def _judge_score(self, score: float, run: Run) -> None:
        estimator = self.estimator
        estimator.validation_scores_.append(score)
        if estimator.verbose:
            print(f"Validation score: {score:f}")
        self._count(score < estimator.best_validation_score_ + estimator.tol)
        if score > estimator.best_validation_score_:
            estimator.best_validation_score_ = score
            self.best_parameters = run.parameters.copy()

    def _stop_or_slow_down(self, run: Run) -> None:
        estimator, state = self.estimator, self.estimator._optimizer
        what = "Training loss" if self.score is None else "Validation score"
        message = (
            f"{what} did not improve more than tol={estimator.tol:f} "
            f"for {estimator.n_iter_no_change:d} consecutive epochs."
        )
        if state.schedule == "adaptive" and state.learning_rate > LEAST_RATE:
            state.change_rate(state.learning_rate / 5.0, run)
            message += f" Setting learning rate to {state.learning_rate:f}"
            estimator._no_improvement_count = 0
        else:
            message += " Learning rate too small. Stopping." if state.schedule == "adaptive" else " Stopping."
            if not self.endless:
                run.stop(message)
        if estimator.verbose:
            print(message)


def fresh_curves(estimator: Any) -> None:
    """Reset the fitted attributes of curves and scores."""
    estimator.loss_ = np.float64(math.nan)
    estimator.loss_curve_ = []
    estimator.validation_loss_curve_ = []
    estimator._no_improvement_count = 0
    estimator.best_loss_ = None if estimator.early_stopping else math.inf
    estimator.validation_scores_ = [] if estimator.early_stopping else None
    estimator.best_validation_score_ = -math.inf if estimator.early_stopping else None


def scoring_of(estimator: Any, held_out: ScoredRows | None) -> Callable[[Run], float] | None:
    """Return a scoring function for the end of an epoch; None if the training loss decides.

    The function raises LeftBehind in a long score once the training shall stop.
    """
    if not estimator.early_stopping or held_out is None:
        return None
    (packed, targets, _), weights = held_out
    inputs, count = unpacked(packed), len(targets)
    metric = estimator.stopping_metric
    if metric == "loss":
        return lambda run: -run.history["validation_loss"][-1]
    y = estimator._decoded(targets)
    if metric is None:

        def score() -> float:
            return estimator._default_score(y, estimator._decoded(estimator._outputs(inputs)), weights)

        return lambda run: interruptible(run, count, score)
    scorer = get_scorer(metric)
    # The rows held out have no feature names, and an estimator with such names would warn of that. They
    # are scaled already.
    nameless = object.__new__(type(estimator))
    named = {name: value for name, value in vars(estimator).items() if name != "feature_names_in_"}
    nameless.__dict__ = named | {"_scale": 1.0}
    X = inputs.matrix() if isinstance(inputs, SparseRows) else inputs
    takes_weights = isinstance(metric, str) or "sample_weight" in inspect.signature(metric).parameters
    options = {"sample_weight": weights} if weights is not None and takes_weights else {}
    return lambda run: interruptible(run, count, lambda: float(scorer(nameless, X, y, **options)))
