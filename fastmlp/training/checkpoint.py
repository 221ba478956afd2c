"""Models and trainings on disk: `save` and `load`, the callback `Checkpoint`, and what `fit(resume=)` reads.

This module says what a file consists of. `fastmlp.files.archive` writes and reads it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from datetime import timedelta
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.distributed.fingerprints import BY_ROWS
from fastmlp.files import archive
from fastmlp.files.archive import CheckpointError
from fastmlp.model.initializers import Normal
from fastmlp.model.layout import aligned, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.pieces import Piece
from fastmlp.model.state import Snapshot
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.model import Model

Array = NDArray[Any]
Path = str | os.PathLike[str]

MOST_BLAS_THREADS = 1 << 12
"""The largest number that a file may hold: a BLAS might start as many threads."""

FORMAT = 1
"""A change of what is written increases it. Older formats stay readable, newer ones are refused."""


def save(model: Model, path: Path) -> None:
    """Write a model to one file, flushed to the disk; after a failure the old file is still there.

    The file is an uncompressed `.npz` with a JSON header and a checksum. It holds no code.

    Raises
    ------
    OSError
        If the file cannot be written; nothing is left behind then.
    """
    checks.instance("model", model, Model, "a Model")
    _write(path, model, {}, None)


def load(path: Path, pieces: Iterable[Piece] = ()) -> Model:
    """Return the model in a file that `save` or a `Checkpoint` wrote.

    For an unfinished training it is the model that `fit` would return if it ended there: with `EarlyStopping`
    the best one so far.

    Parameters
    ----------
    pieces : the activations and the loss of your own in its network; the file holds only their names

    Raises
    ------
    CheckpointError
        If the file is damaged, of a newer format, or not finite; if there is no such backend here; or if a
        piece of your own that it was trained with is not given, or has changed since.
    OSError
        If it cannot be read.
    TypeError
        If `pieces` holds anything else.
    """
    return _read(path, pieces).model


class Checkpoint(Callback):
    """Write the training to a file as it goes on, for `load` and for `fit(resume=)`.

    The file is also written when training ends or is interrupted. A training that is resumed from it
    continues bit for bit, whatever interrupted it.

    Parameters
    ----------
    path : path of the file. Each one replaces the one before it; at every moment there is a whole file
    every : int or timedelta
        Write after so many epochs, at least 1, or after so much time: then at the end of a chunk of about
        0.2 s, also within an epoch.
    """

    def __init__(self, path: Path, every: int | timedelta = 1) -> None:
        self.path = os.fspath(path)
        if isinstance(every, timedelta):
            checks.real("every", every.total_seconds(), 0, open_low=True)
        else:
            every = checks.whole("every", every, 1)
        self.every = every

    def on_train_begin(self, run: Run) -> None:
        """Count from here."""
        self.epoch, self.time = run.epoch, time.monotonic()

    def on_epoch_end(self, run: Run) -> None:
        """Do nothing; being overridden makes every epoch's end the end of a chunk."""

    def on_chunk_end(self, run: Run) -> None:
        """Write if it is time, or if this is the end."""
        if isinstance(self.every, timedelta):
            due = time.monotonic() - self.time >= self.every.total_seconds()
        else:
            due = run.epoch - self.epoch >= self.every
        if due or run.stop_reason is not None or run.epoch == run.epochs:
            _write_training(self.path, run)
            self.epoch, self.time = run.epoch, time.monotonic()


# --- descriptions -----------------------------------------------------------------------------------------

YOUNGER = {
    "convention": "torch",
    "epsilon_hat": False,
    "layer_rates": None,
    "layer_decays": None,
    "input_scale": 1.0,
}
"""Fields that were added after the format was made, with their values in files that lack them."""


def described(value: object) -> Any:
    """Return a frozen description (a network, an optimiser, their fields) in JSON's types.

    A user's piece is described by its name and digest: a file holds no code.
    """
    if isinstance(value, Piece):
        return {"piece": value.name, "digest": value.digest}
    if is_dataclass(value):
        named = {field.name: getattr(value, field.name) for field in fields(value)}
        told = {k: described(v) for k, v in named.items() if k not in YOUNGER or v != YOUNGER[k]}
        return {"type": type(value).__name__, **told}
    match value:
        case None | str():
            return value
        case bool() | np.bool_():
            return bool(value)
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case tuple():
            return [described(one) for one in value]
    raise AssertionError(value)


# --- resuming ---------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    """A training as a file holds it."""

    path: Path
    snapshot: Snapshot

    @property
    def seed(self) -> int:
        """The seed of its random generators."""
        seed: int = self.snapshot.setting["seed"]
        return seed

    @property
    def backend(self) -> str:
        """The name of the backend that trained."""
        backend: str = self.snapshot.setting["backend"]
        return backend

    @property
    def by_rows(self) -> bool:
        """Whether it was one of `fit(communicator=)`, and tells its data as such do."""
        return str(self.snapshot.setting.get("data")).startswith(BY_ROWS)

    @property
    def blas_threads(self) -> int | None:
        """The limit for its BLAS; None if that was unknown, or if the file is older than this entry."""
        threads: int | None = self.snapshot.setting.get("blas_threads")
        return threads


def read_training(path: Path, pieces: Iterable[Piece] = ()) -> Saved:
    """Return the training in a file that a `Checkpoint` wrote; CheckpointError if there is none."""
    content = _read(path, pieces)
    if content.snapshot is None:
        raise CheckpointError(
            f"{os.fspath(path)!r} holds a model without its training; resume what a Checkpoint wrote"
        )
    return Saved(path, content.snapshot)


# --- the file ---------------------------------------------------------------------------------------------


class _Content(NamedTuple):
    model: Model
    snapshot: Snapshot | None


def _write(path: Path, model: Model, arrays: archive.Arrays, training: dict[str, Any] | None) -> None:
    header = {
        "format": FORMAT,
        "network": described(model.network),
        "backend": model.backend,
        "stop_reason": model.stop_reason,
        "history": list(model.history),
        "training": training,
    }
    history = {f"history/{name}": np.array(values, float) for name, values in model.history.items()}
    archive.write(path, header, {"parameters": model.parameters, **history, **arrays})


def _write_training(path: Path, run: Run) -> None:
    snapshot = run.snapshot()
    arrays = {name: getattr(snapshot, name) for name in ("moments", "order", "pending")}
    states = []
    for place, (name, state) in enumerate(snapshot.callbacks):
        own = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        arrays |= {f"callbacks/{place}/{key}": value for key, value in own.items()}
        states.append([name, {key: value for key, value in state.items() if key not in own}])
    training = {
        "setting": snapshot.setting,
        "step": snapshot.step,
        "order_state": snapshot.order_state,
        "callbacks": states,
    }
    backend = registry.get(snapshot.setting["backend"])
    model = Model(run.network, snapshot.parameters, snapshot.history, backend, run.stop_reason)
    _write(path, model, arrays, training)


def _read(path: Path, pieces: Iterable[Piece]) -> _Content:
    if isinstance(pieces, Piece) or not isinstance(pieces, Iterable):
        raise TypeError(f"pieces must be a list of your own, got {checks.shown(pieces)}")
    pieces = list(pieces)
    for piece in pieces:
        checks.instance("every one of pieces", piece, Piece, "an Activation, a Loss or a RowLoss")
    header, arrays = archive.read(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)!r} has format {checks.shown(header.get('format'))}; "
            f"this fastmlp reads format {FORMAT}"
        )
    with told_of(path):
        return _parse(header, arrays, pieces)


@contextlib.contextmanager
def told_of(path: Path) -> Iterator[None]:
    """Name the file in every error that arises while it is parsed, and make it a CheckpointError."""
    try:
        yield
    except _OtherPiece as error:
        raise CheckpointError(f"{os.fspath(path)!r} {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        missing = "it lacks " if isinstance(error, KeyError) else ""
        raise CheckpointError(f"{os.fspath(path)!r} is not a sound checkpoint: {missing}{reason}") from None


def _parse(header: dict[str, Any], arrays: dict[str, Array], pieces: list[Piece]) -> _Content:
    network = network_of(header["network"], pieces)
    model = model_of(network, arrays, "", header["history"], header["backend"], header["stop_reason"])
    snapshot = None
    if header["training"] is not None:
        own = model.parameters
        snapshot = _snapshot(header["training"], arrays, network, own.copy(), model.history)
        for _, state in snapshot.callbacks:
            if state.get("best_epoch"):
                best = state["best_parameters"]
                _expect(best.shape == own.shape and np.isfinite(best).all(), "no best parameters")
                own[...] = best
    return _Content(model, snapshot)


def model_of(
    network: Network,
    arrays: archive.Arrays,
    prefix: str,
    history: Iterable[str],
    backend: str,
    reason: str | None,
) -> Model:
    """Return the model whose arrays have names that begin with `prefix`; `told_of` names the errors.

    history : the names of its curves
    """
    parameters = arrays[f"{prefix}parameters"]
    count = parameter_count(network.sizes)
    _expect(
        parameters.shape == (count,) and parameters.dtype.kind == "f", "the parameters are not the network's"
    )
    _expect(np.isfinite(parameters).all(), "a parameter is not finite")
    curves = {}
    for name in history:
        values = arrays[f"{prefix}history/{name}"]
        _expect(values.ndim == 1 and np.isfinite(values).all(), "the history is not finite")
        curves[name] = values.astype(float).tolist()
    _expect("loss" in curves and set(curves) <= {"loss", "validation_loss"}, "the history lacks the loss")
    _expect(reason is None or isinstance(reason, str), "the reason for stopping is no text")
    own = aligned(count, parameters.dtype)
    own[...] = parameters
    return Model(network, own, curves, registry.restored(backend), reason)


def network_of(description: dict[str, Any], pieces: list[Piece]) -> Network:
    """Return the network that `described` describes, with a user's pieces."""
    given = {name: value for name, value in description.items() if name != "type"}
    given["hidden"] = [_piece(one, pieces) for one in given["hidden"]]
    given["loss"] = _piece(given["loss"], pieces)
    for name in ("weight_init", "bias_init"):
        if isinstance(given[name], dict):
            given[name] = Normal(given[name]["scale"])
    return Network(**given)


class _OtherPiece(Exception):
    """A piece of the user's is missing, or is not the one that the file was trained with."""


def _piece(description: Any, pieces: list[Piece]) -> Any:
    """Return the user's piece that is described; a name of fastmlp's own as it is."""
    if isinstance(description, str):
        return description
    name, digest = str(description["piece"]), description["digest"]
    named = [piece for piece in pieces if piece.name == name]
    if not named:
        raise _OtherPiece(f"was trained with {name!r}, a piece of your own: give it in pieces=[...]")
    same = [piece for piece in named if piece.digest == digest]
    if not same:
        raise _OtherPiece(
            f"was trained with another {name!r} than is given: their formulas or parameters differ"
        )
    return same[0]


def _snapshot(
    training: dict[str, Any],
    arrays: dict[str, Array],
    network: Network,
    parameters: Array,
    history: dict[str, list[float]],
) -> Snapshot:
    setting, step = training["setting"], checks.whole("step", training["step"], 0)
    _expect(setting["network"] == described(network), "the training is of another network")
    checks.whole("seed", setting["seed"], 0)
    registry.restored(setting["backend"])  # that there is such a backend
    if setting.get("blas_threads") is not None:
        checks.whole("blas_threads", setting["blas_threads"], 1, MOST_BLAS_THREADS)
    # A moment may be infinite while parameters are finite: a square overflowed, and the weight stands still.
    moments = arrays["moments"]
    _expect(moments.ndim == 2 and len(moments) <= 2 and moments.shape[1] == parameters.size, "no moments")
    _expect(moments.dtype == parameters.dtype and not np.isnan(moments).any(), "a moment is not a number")
    order = arrays["order"]
    _expect(order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(order.size)), "no order")
    pending = arrays["pending"]
    _expect(pending.ndim == 2 and len(pending) == 2 and np.isfinite(pending).all(), "no pending losses")
    if training["order_state"]:  # empty if no orders are drawn
        np.random.PCG64().state = training["order_state"]  # raises if it is no state
    callbacks = [
        (str(name), {**state, **_under(f"callbacks/{place}/", arrays)})
        for place, (name, state) in enumerate(training["callbacks"])
    ]
    return Snapshot(
        setting=setting,
        parameters=parameters,
        moments=moments,
        step=step,
        order=order,
        order_state=training["order_state"],
        pending=pending,
        history=history,
        callbacks=callbacks,
    )


def _under(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _expect(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise CheckpointError(otherwise)
