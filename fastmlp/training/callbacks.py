"""Callbacks, which run between compiled chunks: early stopping, lower rates, a time limit, a progress bar."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import CheckpointError
from fastmlp.model.backend import Backend
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.state import Snapshot
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.notices import Notices, in_notebook, say
from fastmlp.training.model import Model

if TYPE_CHECKING:
    from tqdm import tqdm


def no_snapshot() -> Snapshot:
    """Raise RuntimeError."""
    raise RuntimeError("this training is over, or cannot be resumed, and has no snapshot")


OWN_CURVES = ("loss", "validation_loss")
"""What a training itself writes into its history, all finite; callbacks may write more."""

SETTABLE = {
    *("epoch", "step", "rows", "rows_seen", "rate_factor", "stop_reason", "interrupted", "threads"),
    *("snapshot", "left"),
}
"""The attributes of a `Run` that the training sets as it goes on; `rate_factor` is for callbacks to set."""


class Run:
    """A training as its callbacks see it.

    Attributes
    ----------
    network : Network
    parameters : (P,) floating, the live vector; copy what you keep
    moments : (rows, P) floating, the optimiser's live vectors (see `fastmlp.model.state`)
    epochs : int, requested; `epoch` : int, complete so far; `step` : int, updates so far
    rows : int, training rows in an epoch, 0 in the first one of blocks; `rows_seen` : int, visited so far
    history : dict of lists, one value for every complete epoch; callbacks may add lists of numbers
    stop_reason : str or None, the last argument of `stop`; `interrupted` : bool, by Ctrl-C
    threads : int or None, that shared the last steps; None before the first
    model_index : int or None, the place of its model among those of `fit_many`; None in `fit`
    snapshot : function that returns all that the rest of the training depends on, between chunks
    left : Snapshot or None, what the training left when its last chunk was over
    rate_factor : float, what all later learning rates are multiplied with; 1 unless you set it
    learning_rate : float, of the next step's weights, with that factor

    Setting an attribute that a training would not read raises AttributeError.
    """

    network: Network
    parameters: NDArray[Any]
    moments: NDArray[Any]
    epochs: int
    rows: int
    history: dict[str, list[float]]
    snapshot: Callable[[], Snapshot]
    model_index: int | None
    _backend: Callable[[], Backend]
    _optimizer: Optimizer | None
    _since: tuple[int, int]
    _model: Callable[[Run], Model] | None = None
    epoch: int = 0
    step: int = 0
    rows_seen: int = 0
    rate_factor: float = 1.0
    stop_reason: str | None = None
    interrupted: bool = False
    threads: int | None = None
    left: Snapshot | None = None

    def __init__(
        self,
        network: Network,
        parameters: NDArray[Any],
        moments: NDArray[Any],
        epochs: int,
        rows: int,
        history: dict[str, list[float]],
        backend: Callable[[], Backend],
        snapshot: Callable[[], Snapshot] = no_snapshot,
        model_index: int | None = None,
        optimizer: Optimizer | None = None,
        since: tuple[int, int] = BEGINNING,
    ) -> None:
        vars(self).update(
            network=network,
            parameters=parameters,
            moments=moments,
            epochs=epochs,
            rows=rows,
            history=history,
            snapshot=snapshot,
            model_index=model_index,
            _backend=backend,
            _optimizer=optimizer,
            _since=since,
        )

    def __setattr__(self, name: str, value: object) -> None:
        if name not in SETTABLE:
            raise AttributeError(
                f"run.{name} cannot be set; to end the training call run.stop(reason), "
                "to change parameters or moments write into them: run.parameters[...] = values"
            )
        object.__setattr__(self, name, value)

    def advance(self, step: int, rows_seen: int, epoch: int, threads: int | None) -> None:
        """Set what a chunk has changed."""
        vars(self).update(step=step, rows_seen=rows_seen, epoch=epoch, threads=threads)

    @property
    def layers(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Live views (weights, biases) of every layer."""
        return layer_views(self.parameters, self.network)

    @property
    def learning_rate(self) -> float:
        """Rate of the next step's weights, with `rate_factor`; ValueError of "lbfgs"."""
        if self._optimizer is None:
            raise ValueError("solver='lbfgs' has no learning rate")
        epoch = min(self.epoch, max(0, self.epochs - 1))  # a function may know no rate after the last one
        now = Since(self._since[0] + self.step, self._since[1] + epoch)
        rates = self._optimizer.rates(np.array([now.step]), sys.maxsize, now)
        return float(rates[0, 0]) * self.rate_factor

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the output for X (rows, n_in) by the parameters as they are now; see `Model.predict`."""
        return Model(self.network, self.parameters, self.history, self._backend(), None).predict(X)

    def model(self) -> Model:
        """Return a model of the parameters as they are now, a copy, which `fit_more` goes on from.

        It has no `fit_more` in the estimators, with a communicator, before all callbacks have begun, after an
        error, and once `fit` has ended.
        """
        if self._model is not None and (self.left is not None or self.snapshot is not no_snapshot):
            return self._model(self)
        history = {name: [*values] for name, values in self.history.items()}
        return Model(self.network, self.parameters.copy(), history, self._backend(), self.stop_reason)

    def stop(self, reason: str) -> None:
        """Request the training to end now; the model keeps the reason."""
        self.stop_reason = reason


RENAMED = "deprecated: its name is next_epoch"


class Callback:
    """Base of callbacks; override what you need.

    A chunk is at most about 0.2 s of compiled work. If `on_epoch_end` is overridden, every epoch
    ends a chunk, unless `next_epoch` allows more; the others cost nothing per epoch.

    writes_training : whether it writes the training to a file, and so must be the last to see a chunk
    """

    writes_training: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Take over `hear_by`, the former name of `next_epoch`."""
        super().__init_subclass__(**options)
        if "hear_by" in vars(cls) and "next_epoch" not in vars(cls):
            warnings.warn(f"{cls.__name__}.hear_by is {RENAMED}", DeprecationWarning, stacklevel=2)
            cls.next_epoch = cls.hear_by  # type: ignore[method-assign]

    def on_train_begin(self, run: Run) -> None:
        """Run before the first step."""

    def on_chunk_end(self, run: Run) -> None:
        """Run after every chunk, also within an epoch; after a step that Ctrl-C left behind, too."""

    def on_epoch_end(self, run: Run) -> None:
        """Run after every epoch, once its values stand in `run.history`."""

    def next_epoch(self, run: Run) -> int:
        """Return the epoch after which `on_epoch_end` must run next; called before chunks without validation.

        Each epoch that need not end a chunk saves about 0.1 ms. `on_epoch_end` then finds the values of
        several epochs in the history. It may run earlier than that, because of another callback. An epoch
        that is over, as `run.epoch` is, ends the training with a ValueError.
        """
        return run.epoch + 1

    def hear_by(self, run: Run) -> int:
        """Return `next_epoch`, whose former name this is."""
        warnings.warn(f"Callback.hear_by is {RENAMED}", DeprecationWarning, stacklevel=2)
        return run.epoch + 1 if type(self).hear_by is not Callback.hear_by else self.next_epoch(run)

    def on_train_end(self, run: Run) -> None:
        """Run after the last step, however training ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs, by name: values that JSON can write, or arrays.

        Arrays are of float32, float64 or int64. Other values hold no NaN or infinity. {} if it needs nothing.
        """
        return {}

    def load_state_dict(self, run: Run, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; a resumed training calls it after `on_train_begin`."""


class AtIntervals(Callback):
    """Base of what happens after so many epochs or so much time, and at a training's end.

    every : int epochs, at least 1, or a timedelta: then at the end of a chunk of about 0.2 s
    """

    def __init__(self, every: int | timedelta) -> None:
        if isinstance(every, timedelta):
            checks.real("every", every.total_seconds(), 0, open_low=True)
        else:
            every = checks.whole("every", every, 1)
        self.every = every

    def on_train_begin(self, run: Run) -> None:
        """Count from here."""
        self.count(run)

    def on_epoch_end(self, run: Run) -> None:
        """Do nothing; being overridden makes every epoch's end the end of a chunk."""

    def count(self, run: Run) -> None:
        """Count from here."""
        self.epoch, self.time = run.epoch, time.monotonic()

    def is_due(self, run: Run) -> bool:
        """Return whether it is time, or the training is over."""
        if isinstance(self.every, timedelta):
            due = time.monotonic() - self.time >= self.every.total_seconds()
        else:
            due = run.epoch - self.epoch >= self.every
        return due or run.stop_reason is not None or run.epoch == run.epochs


class Pause(AtIntervals):
    """Has chunks end where a loop of the user's own looks at the training."""

    def next_epoch(self, run: Run) -> int:
        """Return the epoch of the next look; none where time decides."""
        later = run.epochs if isinstance(self.every, timedelta) else self.epoch + self.every
        return max(run.epoch + 1, later)


Metric = str | Callable[[NDArray[Any], NDArray[Any]], float]
"""A metric: a name of scikit-learn's, or a function of y and the outputs (`fastmlp.training.metrics`)."""


def with_state(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks that have a state to save."""
    return [c for c in callbacks if type(c).state_dict is not Callback.state_dict]


def states_of(callbacks: Sequence[Callback]) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and the states of callbacks, as a `Snapshot` has them."""
    return [(type(c).__name__, c.state_dict()) for c in with_state(callbacks)]


def checked_monitor(monitor: str | None) -> str | None:
    """Return the name of a curve that a callback is to go by, or None; TypeError for what is no name."""
    if monitor is None:
        return None
    checks.instance("monitor", monitor, str, "a name that is in the history")
    return checks.plain(monitor)


class Monitor:
    """A curve of the history as one callback reads it.

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
        """Return the value of the epoch that has just ended; ValueError if there is no new one."""
        values = self._history.get(self.name, [])
        if len(values) <= self._seen:
            raise ValueError(
                f"{self._reader}(monitor={self.name!r}) finds no value of epoch {epoch}: a callback that "
                f"writes it comes before {self._reader}; the history has: {', '.join(self._history)}"
            )
        self._seen = len(values)
        return float(values[-1])


class BestValue(Callback):
    """Base of callbacks that go by the best value of a curve of the history.

    key : the curve's name; best : its best value so far, the worst one there is before the first
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
        A name that is in the history: "validation_loss", "loss", that of a metric of `fit(metrics=)`, as
        "validation_roc_auc", or one that a callback before this one writes in every epoch, as by
        `run.history.setdefault("accuracy", []).append(value)`. By default
        "validation_loss" where there is validation, else "loss".
    mode : str
        Whether "min" or "max" is the best value.

    Notes
    -----
    "validation_loss" belongs to the parameters at the epoch's end. "loss" is measured while the
    epoch runs, before each update, so the parameters kept with it are those at that epoch's end. NaN is no
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
        """Keep the parameters if they are the best so far; stop if patience is at its end."""
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
        """Return the best value and its parameters."""
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
        Whether "min" or "max" is the best value.
    factor : float
        In [0, 1); what the rate is multiplied with.
    patience : int
        The rate falls after more than so many epochs in a row without an improvement; at least 0.
    threshold : float
        An improvement goes beyond the best value by more than this, at least 0.
    threshold_mode : str
        "rel" measures the threshold in shares of the best value, "abs" as it is.
    cooldown : int
        Epochs after a fall that do not count as epochs without an improvement; at least 0.
    min_lr : float
        What no fall goes below; at least 0. A schedule of the optimiser may.
    eps : float
        A fall by no more than this is left out; at least 0.
    monitor : str, optional
        As of `EarlyStopping`.

    Notes
    -----
    What falls is `run.rate_factor`: a schedule of the optimiser goes on, times that factor, and the rate of
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
        """Return the best value and the counts; the training keeps its rate."""
        return super().state_dict() | {"bad_epochs": self._bad_epochs, "cooling": self._cooling}

    def load_state_dict(self, run: Run, state: dict[str, Any]) -> None:
        """Go on from the best value and the counts."""
        super().load_state_dict(run, state)
        self._bad_epochs = checks.whole("bad_epochs", state["bad_epochs"], 0)
        self._cooling = checks.whole("cooling", state["cooling"], 0)


class TimeLimit(Callback):
    """Stop after `seconds` of wall-clock time, or up to a chunk later: 0.2 s, or a step if that takes longer.

    The time is that of one call of `fit`. A resumed training has all of it again.
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
    """A tqdm bar on stderr, or in a notebook, with the epoch, its loss and the rows per second.

    It opens when the first chunk ends: what the backend compiles before that is announced on a line of its
    own. Rates and the time left are those of the work alone, whatever has been compiled meanwhile.
    """

    bar: tqdm[Any] | None = None

    def on_train_begin(self, run: Run) -> None:
        """Start the clock."""
        self._stopwatch = Stopwatch()
        self._rows_before = run.rows_seen

    def on_chunk_end(self, run: Run) -> None:
        """Move the bar, or open it, if there is a stderr to show it on."""
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
    """Return a bar of all the rows that a training visits."""
    if in_notebook():
        from tqdm.auto import tqdm  # imports asyncio, 17 ms, which a kernel has imported
    else:
        from tqdm import tqdm
    # With stderr itself as its file, tqdm would fail where stderr has no width, or cannot be flushed.
    return tqdm(
        total=run.epochs * run.rows or None, initial=rows_before, unit="row", unit_scale=True, file=Notices(),
        dynamic_ncols=True,
    )  # fmt: skip
