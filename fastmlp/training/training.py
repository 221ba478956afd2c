"""`Training`: the arguments of `fit`, prepared; it trains, and makes the model."""

from __future__ import annotations

import copy
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from typing import Any

from fastmlp.backend.choice import current_backend
from fastmlp.callbacks.callback import Callback, Pause, Run, no_snapshot, states_of, with_state
from fastmlp.callbacks.standard import Progress
from fastmlp.checks import CheckpointError
from fastmlp.model.backend import Data
from fastmlp.model.layout import aligned_copy
from fastmlp.model.state import Array
from fastmlp.system import budget
from fastmlp.system.interrupts import Interrupted, deferred
from fastmlp.trained.model import Model
from fastmlp.training.loop import Kind, TrainingLoop
from fastmlp.training.snapshot import Snapshot, fingerprint, sample_of

HARMLESS = (Callback.on_train_end, Progress.on_train_end)
"""Methods of callbacks without effect on parameters."""

NO_CONTEXT = nullcontext()
"""The BLAS limit of a training without a BLAS; the context of rows in memory."""

LEFT = "its loop was left"
"""The stop reason after a user has left the loop."""


class Training(TrainingLoop):
    """A prepared training.

    given_data : Data, the rows as given, where steps visit a sparse form
    rows, sample : as of `Snapshot`, "" for an unknown sample
    opened : a context, which ends the thread of blocks
    """

    given_data: Data
    rows: int | None = None
    sample: str = ""
    opened: AbstractContextManager[Any] = NO_CONTEXT

    def train(self) -> Model:
        """Take all steps; return the model. Errors as of `fit`."""
        return self.ended(self.finished())

    def finished(self) -> Run:
        """Take all steps; return the run, with the state for a later training in `left`.

        DivergenceError if a loss or a parameter is no longer finite, unless infinite numbers are allowed.
        """
        self.begin()
        with self.under_way():
            for _ in self.chunks():
                pass
        return self.run

    def begin(self) -> None:
        """Make the run, which makes models where one process trains for `fit`."""
        unbegun = self.having(
            Training
        )  # a method of the training itself would be a cycle, which keeps the rows
        super().begin()
        # One of several ranks cannot make a model that goes on, nor can an estimator.
        if self.ranks.size == 1 and self.options.fit is not None:
            vars(self.run)["_model"] = unbegun.model_now

    def begun(self, kind: type[Kind]) -> Kind:
        """Return the training as a kind, before the first step."""
        training = self.having(kind)
        training.begin()
        return training

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Begin the training's surroundings, and end them after a `with` block with all chunks."""
        with (
            self.opened,
            deferred(self.stop) as signals,
            _Callbacks(self),
            budget.training(),
            self._blas_limit(),
        ):
            yield
        if signal.SIGINT in signals:
            self.run.interrupted = True

    def iterate(self, pause: Pause) -> Generator[Run]:
        """Take all steps, and yield the run as `fastmlp.iter_fit` does."""
        self.callbacks = [*self.callbacks, pause]
        self.begin()
        with closing(self._turns()) as runs:
            for run in runs:
                if pause.is_due(run):
                    yield run
                    pause.count(run)
        if self.run.interrupted:
            raise Interrupted(self.run.model())

    def _turns(self) -> Generator[Run]:
        """Take the chunks, and yield the run after each.

        While the run is out, signals are the program's, and the BLAS has all threads.
        """
        run, held = self.run, deferred(self.stop)
        with self.opened, held as signals, _Callbacks(self):
            chunks, is_left = self.chunks(), False
            while not is_left:
                with budget.training(), self._blas_limit():
                    if next(chunks, None) is None or signals:
                        break
                stopped = run.stop_reason is not None
                with held.suspended():
                    try:
                        yield run
                    except GeneratorExit:
                        is_left = True
                if is_left and not stopped and run.epoch < run.epochs:
                    run.stop(LEFT)
                if run.stop_reason is not None and not stopped:
                    self.end_chunk()  # a Checkpoint writes here
        run.interrupted |= signal.SIGINT in signals

    def _blas_limit(self) -> AbstractContextManager[Any]:
        """Return a context with the BLAS limited to the training's threads."""
        return budget.blas_threads(self.blas_threads or self.threads) if self.calls_blas else NO_CONTEXT

    # --- what a training leaves ---------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return the state that determines the rest of the training."""
        return Snapshot(
            parameters=self.state.parameters,
            moments=self.state.moments[: self.optimizer.moment_rows],
            step=self.run.step,
            epoch_step=self.losses.steps,
            sums=self.losses.sums,
            history=self.run.history,
            callbacks=states_of(self.callbacks) if self.callbacks else [],
            backend=current_backend(self.backend).name,  # type: ignore[arg-type]  # as for the run
            seed=self.options.seed,
            rate_factor=self.run.rate_factor,
            setting=self.setting,
            since=self.since,
            other_steps=self.other_steps,
            earlier={} if self.resumed is None else self.resumed.earlier,
        )

    def left(self) -> Snapshot:
        """Return a snapshot unchanged by callbacks at the training's end."""
        snapshot = self.snapshot()
        if not self.callbacks:
            return snapshot
        if snapshot.callbacks:
            # `on_train_end` may still change a callback's state, and `EarlyStopping` writes the best
            # parameters.
            snapshot = snapshot._replace(callbacks=copy.deepcopy(snapshot.callbacks))
        if all(type(callback).on_train_end in HARMLESS for callback in self.callbacks):
            return snapshot
        return snapshot._replace(parameters=snapshot.parameters.copy())

    def ended(self, run: Run) -> Model:
        """Return the model, once all steps were taken; Interrupted, with the model, after Ctrl-C."""
        assert run.left is not None
        self.ranks.check_equal(self.state.parameters)  # callbacks may change them at the very end
        snapshot = run.left
        if self.callbacks:  # which may keep curves, or have put some of their own there
            run.history.update({name: [*values] for name, values in run.history.items()})
            snapshot = snapshot._replace(history=run.history)
        model = self._model(run, snapshot, self.state.parameters)
        vars(run)["_model"] = None  # which would keep the rows
        if run.interrupted:
            raise Interrupted(model)
        return model

    def model_now(self, run: Run) -> Model:
        """Return the model between two chunks or at the end, with copies of all arrays."""
        snapshot, parameters = run.left or run.snapshot(), aligned_copy(run.parameters)
        last = parameters if snapshot.parameters is run.parameters else aligned_copy(snapshot.parameters)
        snapshot = snapshot._replace(
            parameters=last, moments=snapshot.moments.copy(), callbacks=copy.deepcopy(snapshot.callbacks),
            history={name: [*values] for name, values in run.history.items()},
        )  # fmt: skip
        return self._model(run, snapshot, parameters)

    def _model(self, run: Run, snapshot: Snapshot, parameters: Array) -> Model:
        """Return a model with a snapshot's history, to go on from the snapshot."""
        sample, ended = self.sample, ""
        if self.ranks.any_of(bool(snapshot.callbacks)) and not sample:
            sample = sample_of(self.given_data, in_memory(self.held_out), self.ranks)
        if snapshot.callbacks or snapshot.parameters is not parameters:
            ended = fingerprint(parameters)
        # The model has the same lists: a copy takes 4 ns an epoch, a twentieth of the smallest steps.
        history = {**snapshot.whole_history}
        left = snapshot._replace(
            setting={}, options=self.kept_options(), rows=self.rows, sample=sample, ended=ended,
            lengths={name: len(values) for name, values in snapshot.history.items()},
        )  # fmt: skip
        now = current_backend(self.backend)  # type: ignore[arg-type]  # Steps are, or have one
        return Model(self.network, parameters, history, now, run.stop_reason, left, run.threads)

    def kept_options(self) -> Any:
        """Return the options kept for `fit_more`."""
        return self.options.kept(self.optimizer, self.state.parameters.dtype)


def in_memory(held_out: Any) -> Data | None:
    """Return the validation rows if in memory, else None."""
    return held_out if isinstance(held_out, Data) else None


class _Callbacks:
    """A context that begins the callbacks of a training, and ends them however a `with` block ends."""

    def __init__(self, training: Training) -> None:
        self._training, self._begun = training, list[Callback]()

    def __enter__(self) -> None:
        training = self._training
        run, callbacks = training.run, training.callbacks
        try:
            for callback in callbacks:
                callback.on_train_begin(run)
                self._begun.append(callback)
            if (resumed := training.resumed) is not None and resumed.callbacks:
                for callback, (_, saved) in zip(with_state(callbacks), resumed.callbacks, strict=True):
                    if saved:
                        _take_over(callback, run, saved)
        except BaseException:
            self._end()
            raise
        vars(run)["snapshot"] = training.snapshot  # a third of the time of a checked attribute

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            if kind is None:
                vars(self._training.run)["left"] = self._training.left()
        finally:
            self._end()

    def _end(self) -> None:
        run = self._training.run
        try:
            if self._begun:
                _end(self._begun, run)
        finally:
            # At the very end the run drops its reference to the training. The cycle would keep every
            # array until the garbage collector runs, which goes by numbers of objects and not by bytes.
            vars(run)["snapshot"] = no_snapshot


def _end(begun: Sequence[Callback], run: Run) -> None:
    """End every callback that began, in order, even after an error."""
    try:
        begun[0].on_train_end(run)
    finally:
        if len(begun) > 1:
            _end(begun[1:], run)


def _take_over(callback: Callback, run: Run, saved: dict[str, Any]) -> None:
    try:
        callback.load_state_dict(run, copy.deepcopy(saved))  # it may change what another model keeps
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"the checkpoint's state of {type(callback).__name__} is not sound: {reason}"
        ) from error
