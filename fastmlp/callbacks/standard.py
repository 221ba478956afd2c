"""Callbacks of the package: early stopping, lower rates, a time limit, a progress bar."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from fastmlp import checks
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.checks import CheckpointError
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.notices import Notices, in_notebook, say

if TYPE_CHECKING:
    from tqdm import tqdm


def checked_monitor(monitor: str | None) -> str | None:
    """Return the name of a monitored curve, or None; TypeError for other values."""
    if monitor is None:
        return None
    checks.instance("monitor", monitor, str, "a name that is in the history")
    return checks.plain(monitor)


class Monitor:
    """A curve of the history, read by a callback.

    reader : the callback's class, for errors
    name : of the curve; None takes "validation_loss" where there is validation, else "loss"
    history : of the run, the live one
    """

    def __init__(self, reader: str, name: str | None, history: dict[str, list[float]]) -> None:
        validated = "validation_loss" in history
        if name == "validation_loss" and not validated:
            raise ValueError(f"{reader}(monitor='validation_loss') needs fit(validation=...)")
        self.name = ("validation_loss" if validated else "loss") if name is None else name
        self._reader, self._history = reader, history
        self._seen = len(history.get(self.name, []))

    def latest(self, epoch: int) -> float:
        """Return the value of the epoch just ended; ValueError without a new value."""
        values = self._history.get(self.name, [])
        if len(values) <= self._seen:
            raise ValueError(
                f"{self._reader}(monitor={self.name!r}) finds no value of epoch {epoch}: a callback that "
                f"writes it comes before {self._reader}; the history has: {', '.join(self._history)}"
            )
        self._seen = len(values)
        return float(values[-1])


class BestValue(Callback):
    """Base of callbacks of the best value of a curve.

    key : the curve's name; best : the best value so far, infinitely bad before the first value
    """

    def __init__(self, monitor: str | None, mode: str) -> None:
        self.monitor = checked_monitor(monitor)
        self.mode = checks.choice("mode", mode, ("min", "max"))

    def on_train_begin(self, run: Run) -> None:
        """Forget any earlier training."""
        self._curve = Monitor(type(self).__name__, self.monitor, run.history)
        self.key = self._curve.name
        self.best = self._worst

    @property
    def _worst(self) -> float:
        return math.inf if self.mode == "min" else -math.inf

    def state_dict(self) -> dict[str, Any]:
        """Return the best so far; JSON has no infinity for the value before the first epoch."""
        best = None if self.best == self._worst else self.best
        return {"monitor": self.key, "mode": self.mode, "best": best}

    def load_state_dict(self, run: Run, state: dict[str, Any]) -> None:
        """Go on from the best so far."""
        then, now = (state["monitor"], state.get("mode", "min")), (self.key, self.mode)
        if then != now:
            raise CheckpointError(
                f"{type(self).__name__} watched {then} before the checkpoint, and now {now}"
            )
        self.best = self._worst if state["best"] is None else checks.real("best", state["best"])


class EarlyStopping(BestValue):
    """Stop when a monitored value has not improved, and restore the best parameters.

    Parameters
    ----------
    patience : int
        Training stops after so many epochs in a row without an improvement; at least 1.
    min_delta : float
        An improvement is a change by more than this beyond the best so far; at least 0.
    monitor : str, optional
        A name in the history: "validation_loss", "loss", the name of a metric of `fit(metrics=)`, as
        "validation_roc_auc", or a name written in every epoch by an earlier callback, as by
        `run.history.setdefault("accuracy", []).append(value)`. By default
        "validation_loss" where there is validation, else "loss".
    mode : str
        "min" or "max": the direction of better values.

    Notes
    -----
    "validation_loss" belongs to the parameters at the epoch's end. "loss" is measured while the
    epoch runs, before each update, so the parameters kept belong to the epoch's end. NaN is no
    improvement.
    """

    def __init__(
        self, patience: int = 10, min_delta: float = 0.0, monitor: str | None = None, mode: str = "min"
    ) -> None:
        self.patience = checks.whole("patience", patience, 1)
        self.min_delta = checks.real("min_delta", min_delta, 0)
        super().__init__(monitor, mode)

    def on_train_begin(self, run: Run) -> None:
        """Forget any earlier training."""
        super().on_train_begin(run)
        self.best_epoch = 0
        self.best_parameters = run.parameters.copy()

    def on_epoch_end(self, run: Run) -> None:
        """Keep the best parameters so far; stop if patience is at its end."""
        value = self._curve.latest(run.epoch)
        gain = self.best - value if self.mode == "min" else value - self.best
        if gain > self.min_delta:
            self.best, self.best_epoch = value, run.epoch
            self.best_parameters[...] = run.parameters
        self._stop_if_out_of_patience(run)

    def _stop_if_out_of_patience(self, run: Run) -> None:
        if run.epoch - self.best_epoch >= self.patience:
            run.stop(f"{self.key} has not improved for {self.patience} epochs")

    def on_train_end(self, run: Run) -> None:
        """Put the best parameters back."""
        if self.best_epoch:
            run.parameters[...] = self.best_parameters

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the best parameters."""
        found = super().state_dict()
        return found | {"best_epoch": self.best_epoch, "best_parameters": self.best_parameters}

    def load_state_dict(self, run: Run, state: dict[str, Any]) -> None:
        """Go on from the best so far; stop at once if patience was at its end."""
        super().load_state_dict(run, state)
        self.best_epoch = checks.whole("best_epoch", state["best_epoch"], 0, run.epoch)
        self.best_parameters[...] = state["best_parameters"]
        self._stop_if_out_of_patience(run)


class ReduceLROnPlateau(BestValue):
    """Lower the learning rate when a monitored value stops improving (torch.optim.lr_scheduler's).

    Parameters
    ----------
    mode : str
        "min" or "max": the direction of better values.
    factor : float
        In [0, 1); the factor of the rate.
    patience : int
        The rate falls after more than so many epochs in a row without an improvement; at least 0.
    threshold : float
        An improvement goes beyond the best value by more than this, at least 0.
    threshold_mode : str
        "rel" measures the threshold in fractions of the best value, "abs" as it is.
    cooldown : int
        Epochs after a fall, not counted as epochs without an improvement; at least 0.
    min_lr : float
        The least rate of a fall; at least 0. A schedule of the optimiser may go below.
    eps : float
        A fall by no more than this is left out; at least 0.
    monitor : str, optional
        As of `EarlyStopping`.

    Notes
    -----
    `run.rate_factor` falls: a schedule of the optimiser goes on, times the factor, and the rate of
    biases falls along. NaN is no improvement. PyTorch's takes the value from `step(value)` after an epoch.
    """

    def __init__(
        self,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
        *,
        monitor: str | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.factor = checks.real("factor", factor, 0, 1, open_high=True)
        self.patience = checks.whole("patience", patience, 0)
        self.threshold = checks.real("threshold", threshold, 0)
        self.threshold_mode = checks.choice("threshold_mode", threshold_mode, ("rel", "abs"))
        self.cooldown = checks.whole("cooldown", cooldown, 0)
        self.min_lr, self.eps = checks.real("min_lr", min_lr, 0), checks.real("eps", eps, 0)

    def on_train_begin(self, run: Run) -> None:
        """Forget any earlier training."""
        super().on_train_begin(run)
        self._bad_epochs = self._cooling = 0
        _ = run.learning_rate  # raises where there is none

    def on_epoch_end(self, run: Run) -> None:
        """Lower the rate if there was no improvement for too long."""
        value = self._curve.latest(run.epoch)
        if self._is_better(value):
            self.best, self._bad_epochs = value, 0
        else:
            self._bad_epochs += 1
        if self._cooling:
            self._cooling, self._bad_epochs = self._cooling - 1, 0
        if self._bad_epochs > self.patience:
            self._lower_rate(run)
            self._cooling, self._bad_epochs = self.cooldown, 0

    def _is_better(self, value: float) -> bool:
        bound, beyond = self.best, -self.threshold if self.mode == "min" else self.threshold
        if bound != self._worst:
            bound = bound * (1 + beyond) if self.threshold_mode == "rel" else bound + beyond
        return value < bound if self.mode == "min" else value > bound

    def _lower_rate(self, run: Run) -> None:
        rate = run.learning_rate
        if rate - max(rate * self.factor, self.min_lr) > self.eps:
            run.rate_factor *= max(self.factor, self.min_lr / rate)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the counts; the rate is in the training's state."""
        return super().state_dict() | {"bad_epochs": self._bad_epochs, "cooling": self._cooling}

    def load_state_dict(self, run: Run, state: dict[str, Any]) -> None:
        """Go on from the best value and the counts."""
        super().load_state_dict(run, state)
        self._bad_epochs = checks.whole("bad_epochs", state["bad_epochs"], 0)
        self._cooling = checks.whole("cooling", state["cooling"], 0)


class TimeLimit(Callback):
    """Stop after `seconds` of wall-clock time, or up to a chunk later: 0.2 s, or a longer step.

    The time is counted for each call of `fit`. A resumed training has the whole time again.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = checks.real("seconds", seconds, 0, open_low=True)

    def on_train_begin(self, run: Run) -> None:
        """Start the clock."""
        self.end = time.monotonic() + self.seconds

    def on_chunk_end(self, run: Run) -> None:
        """Stop if time is up."""
        if time.monotonic() >= self.end:
            run.stop(f"time limit of {self.seconds:g} s reached")


class Progress(Callback):
    """A progress bar on stderr or in a notebook: epoch, loss, and rows per second.

    The bar opens at the first chunk's end; compilation before is announced on a separate line. Rates and the
    time left count the work alone, without compilation.
    """

    bar: tqdm[Any] | None = None

    def on_train_begin(self, run: Run) -> None:
        """Start the clock."""
        self._stopwatch = Stopwatch()
        self._rows_before = run.rows_seen

    def on_chunk_end(self, run: Run) -> None:
        """Move or open the bar, if there is a stderr."""
        if sys.stderr is None:
            return
        lap = self._stopwatch.lap()
        if self.bar is None:
            self.bar = _opened(run, self._rows_before)
            self.bar.start_t -= lap.working
            self.bar.last_print_t -= lap.working
        else:
            # What tqdm takes for working time began so much later.
            self.bar.start_t += lap.compiling
            self.bar.last_print_t += lap.compiling
        self.bar.total = run.epochs * run.rows or None  # blocks may not say beforehand
        self.bar.set_description(f"epoch {run.epoch}/{run.epochs}", refresh=False)
        if run.history["loss"]:
            shown = {key: f"{values[-1]:.4g}" for key, values in run.history.items() if values}
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update(run.rows_seen - self.bar.n)

    def on_train_end(self, run: Run) -> None:
        """Close the bar; say why training ended early, if it did."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
            if run.stop_reason is not None:
                say(f"fastmlp: stopped after epoch {run.epoch} of {run.epochs}: {run.stop_reason}")


def _opened(run: Run, rows_before: int) -> tqdm[Any]:
    """Return a bar of all rows of a training."""
    if in_notebook():
        from tqdm.auto import tqdm  # imports asyncio, 17 ms, which a kernel has imported
    else:
        from tqdm import tqdm
    # With stderr itself as its file, tqdm would fail where stderr has no width, or cannot be flushed.
    return tqdm(
        total=run.epochs * run.rows or None, initial=rows_before, unit="row", unit_scale=True, file=Notices(),
        dynamic_ncols=True,
    )  # fmt: skip
