"""`Callback` and `Run`: the base of callbacks, and the training seen by callbacks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.backend import Backend
from fastmlp.model.layout import dense_views
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.trained.model import Model


def no_snapshot() -> Any:
    """Raise RuntimeError."""
    raise RuntimeError("this training is over, or cannot be resumed, and has no snapshot")


LOSS_CURVES = ("loss", "validation_loss")
"""Curves of a training, all finite; callbacks may write further curves."""


SETTABLE = {
    *("epoch", "step", "rows", "rows_seen", "rate_factor", "stop_reason", "interrupted", "threads"),
    *("snapshot", "left"),
}
"""The attributes of a `Run` set by the training; `rate_factor` is set by callbacks."""


class Run:
    """A training under way, for callbacks.

    Attributes
    ----------
    network : Network
    parameters : (P,) floating, the live vector; keep copies only
    moments : (rows, P) floating, the optimiser's live vectors (see `fastmlp.model.state`)
    epochs : int, requested; `epoch` : int, complete so far; `step` : int, updates so far
    rows : int, training rows in an epoch, 0 in the first epoch of blocks; `rows_seen` : int, visited so far
    history : dict of lists, a value for every complete epoch; callbacks may add lists of numbers
    stop_reason : str or None, the last argument of `stop`; `interrupted` : bool, by Ctrl-C
    threads : int or None, of the last steps; None before the first step
    model_index : int or None, the index of the model in `fit_many`; None in `fit`
    snapshot : function, returns the `fastmlp.training.snapshot.Snapshot` of the training, between chunks
    left : Snapshot or None, the state after the last chunk
    rate_factor : float, the factor of all later learning rates; 1 unless set
    learning_rate : float, of the next step's weights, with the factor

    Setting an attribute without effect raises AttributeError.
    """

    network: Network
    parameters: NDArray[Any]
    moments: NDArray[Any]
    epochs: int
    rows: int
    history: dict[str, list[float]]
    snapshot: Callable[[], Any]
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
    left: Any = None

    def __init__(
        self,
        network: Network,
        parameters: NDArray[Any],
        moments: NDArray[Any],
        epochs: int,
        rows: int,
        history: dict[str, list[float]],
        backend: Callable[[], Backend],
        *,
        snapshot: Callable[[], Any] = no_snapshot,
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
        """Set the attributes changed by a chunk."""
        vars(self).update(step=step, rows_seen=rows_seen, epoch=epoch, threads=threads)

    @property
    def layers(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Live views (weights, biases) of every layer."""
        self.network.check_chain()
        return dense_views(self.parameters, self.network)

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
        """Return the output for X (rows, n_in) by the current parameters; see `Model.predict`."""
        return Model(self.network, self.parameters, self.history, self._backend(), None).predict(X)

    def model(self) -> Model:
        """Return a model with a copy of the current parameters, for `fit_more` too.

        The model has no `fit_more` in the estimators, with a communicator, before all callbacks have begun,
        after an error, and once `fit` has ended.
        """
        if self._model is not None and (self.left is not None or self.snapshot is not no_snapshot):
            return self._model(self)
        history = {name: [*values] for name, values in self.history.items()}
        return Model(self.network, self.parameters.copy(), history, self._backend(), self.stop_reason)

    def stop(self, reason: str) -> None:
        """Request the training to end now; the model keeps the reason."""
        self.stop_reason = reason


class Callback:
    """Base of callbacks; override methods as needed.

    A chunk is at most about 0.2 s of compiled work. If `on_epoch_end` is overridden, every epoch
    ends a chunk, unless `next_epoch` allows more; other methods cost nothing per epoch.

    writes_training : for callbacks with a file of the training, the last to see a chunk
    """

    writes_training: ClassVar[bool] = False

    def on_train_begin(self, run: Run) -> None:
        """Run before the first step."""

    def on_chunk_end(self, run: Run) -> None:
        """Run after every chunk, also within an epoch, and after a step left behind by Ctrl-C."""

    def on_epoch_end(self, run: Run) -> None:
        """Run after every epoch; `run.history` has the epoch's values."""

    def next_epoch(self, run: Run) -> int:
        """Return the next epoch for `on_epoch_end`; called before chunks without validation.

        Each epoch within a chunk saves about 0.1 ms. `on_epoch_end` then finds the values of several epochs
        in the history, and may run earlier because of another callback. A past epoch, as `run.epoch`, ends
        the training with a ValueError.
        """
        return run.epoch + 1

    def on_train_end(self, run: Run) -> None:
        """Run after the last step, however training ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return the callback's state by names: values for JSON, or arrays.

        Arrays are of float32, float64 or int64. Other values hold no NaN or infinity. {} for no state.
        """
        return {}

    def load_state_dict(self, run: Run, state: dict[str, Any]) -> None:
        """Take over a `state_dict`; a resumed training calls this after `on_train_begin`."""


class AtIntervals(Callback):
    """Base of callbacks at intervals of epochs or of time, and at the end.

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
        """Return True once the interval or the training is over."""
        if isinstance(self.every, timedelta):
            due = time.monotonic() - self.time >= self.every.total_seconds()
        else:
            due = run.epoch - self.epoch >= self.every
        return due or run.stop_reason is not None or run.epoch == run.epochs


class Pause(AtIntervals):
    """Ends chunks where a user's loop looks at the training."""

    def next_epoch(self, run: Run) -> int:
        """Return the epoch of the next look; none where time decides."""
        later = run.epochs if isinstance(self.every, timedelta) else self.epoch + self.every
        return max(run.epoch + 1, later)


Metric = str | Callable[[NDArray[Any], NDArray[Any]], float]
"""A metric: a name of scikit-learn's, or a function of y and the outputs (`fastmlp.metrics`)."""


def with_state(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks with a state to save."""
    return [c for c in callbacks if type(c).state_dict is not Callback.state_dict]


def states_of(callbacks: Sequence[Callback]) -> list[tuple[str, dict[str, Any]]]:
    """Return the names and states of callbacks, for a `Snapshot`."""
    return [(type(c).__name__, c.state_dict()) for c in with_state(callbacks)]
