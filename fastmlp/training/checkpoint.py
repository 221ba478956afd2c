"""Trainings on disk: the callback `Checkpoint`, and the content of files.

`fastmlp.files.archive` writes and reads files; `save` and `load` are in `saving.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple, cast

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.callbacks.callback import LOSS_CURVES, AtIntervals, Run
from fastmlp.checks import CheckpointError
from fastmlp.data.ranks import BY_ROWS
from fastmlp.files import archive
from fastmlp.model.custom import Component
from fastmlp.model.descriptions import described, restored
from fastmlp.model.layout import aligned_copy, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.state import Array, Snapshot
from fastmlp.trained.model import Model

Path = str | os.PathLike[str]

MOST_BLAS_THREADS = 1 << 12
"""The largest number in a file: a BLAS might start as many threads."""

FORMAT = 1
"""The version of files; files of another version are refused."""


class Checkpoint(AtIntervals):
    """Write the training to a file at intervals, for `load` and for `fit(resume=)`.

    The file is also written when training ends or is interrupted. A training resumed from the file continues
    bit for bit, whatever the interruption.

    Parameters
    ----------
    path : path of the file. Each file replaces the file before; at every moment there is a whole file
    every : int or timedelta
        Write after so many epochs, at least 1, or after so much time: then at the end of a chunk of about
        0.2 s, also within an epoch.
    """

    writes_training = True

    def __init__(self, path: Path, every: int | timedelta = 1) -> None:
        super().__init__(every)
        self.path = os.fspath(path)

    def on_chunk_end(self, run: Run) -> None:
        """Write at the interval's end, or at the training's end."""
        if self.is_due(run):
            archive.write(self.path, *content_of_training(run))
            self.count(run)


# --- resuming ---------------------------------------------------------------------------------------------


class Saved(NamedTuple):
    """A training in a file."""

    path: Path
    snapshot: Snapshot

    @property
    def seed(self) -> int:
        """The seed of the training."""
        seed: int = self.snapshot.setting["seed"]
        return seed

    @property
    def backend(self) -> str:
        """The name of the training's backend."""
        backend: str = self.snapshot.setting["backend"]
        return backend

    @property
    def by_rows(self) -> bool:
        """True if the data are identified row by row, as with `fit(communicator=)`."""
        return str(self.snapshot.setting.get("data")).startswith(BY_ROWS)

    @property
    def blas_threads(self) -> int | None:
        """The limit for the BLAS; None if unknown."""
        threads: int | None = self.snapshot.setting.get("blas_threads")
        return threads


def read_training(path: Path, components: Iterable[Component] = ()) -> Saved:
    """Return the training in a file of a `Checkpoint`; CheckpointError without a training."""
    content = read(path, components)
    if content.snapshot is None or content.is_of_stepper:
        raise CheckpointError(
            f"{os.fspath(path)!r} holds a model without its training; resume what a Checkpoint wrote"
        )
    return Saved(path, content.snapshot)


# --- the file ---------------------------------------------------------------------------------------------


class Content(NamedTuple):
    """The content of a file: a model, and a training to go on with, if any."""

    model: Model
    snapshot: Snapshot | None

    @property
    def is_of_stepper(self) -> bool:
        """True for a file of a `Stepper`."""
        return self.snapshot is not None and "rule" in self.snapshot.setting


Written = tuple[dict[str, Any], dict[str, Array]]
"""A header in JSON's types, and arrays by name."""


def content_of(model: Model) -> Written:
    """Return a model as a file's header and arrays.

    ValueError for a parameter that is not finite: `load` would refuse the file, and the old file would be
    gone.
    """
    if not checks.finite(model.parameters):
        raise ValueError("a parameter of the model is not finite, and no file holds such a model")
    header = {
        "format": FORMAT,
        "network": described(model.network),
        "backend": model.backend,
        "stop_reason": model.stop_reason,
        "history": list(model.history),
        "training": None,
    }
    return header, {"parameters": model.parameters, **curves_of(model.history)}


def curves_of(history: dict[str, list[float]]) -> dict[str, Array]:
    """Return a history as arrays, by names in a file."""
    return {f"history/{name}": np.array(values, float) for name, values in history.items()}


def content_of_training(run: Run) -> Written:
    """Return a training between two chunks as header and live arrays."""
    return content_of_state(run.network, run.snapshot(), run.stop_reason)


def content_of_state(network: Network, snapshot: Snapshot, stop_reason: str | None) -> Written:
    """Return a snapshot of a training or `Stepper` as header and arrays."""
    backend = registry.get(snapshot.setting["backend"])
    header, arrays = content_of(Model(network, snapshot.parameters, snapshot.history, backend, stop_reason))
    arrays |= {"moments": snapshot.moments, "sums": snapshot.sums}
    states = []
    for index, (name, state) in enumerate(snapshot.callbacks):
        in_arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
        arrays |= {f"callbacks/{index}/{key}": value for key, value in in_arrays.items()}
        states.append([name, {key: value for key, value in state.items() if key not in in_arrays}])
    # The setting is in JSON, so that a file can be read without executing anything.
    header["training"] = {
        "setting": snapshot.setting,
        "step": snapshot.step,
        "epoch_step": snapshot.epoch_step,
        "rate_factor": snapshot.rate_factor,
        "callbacks": states,
    }
    return header, arrays


def read(path: Path, components: Iterable[Component]) -> Content:
    """Return the content of a model's file; components and errors as of `load`."""
    header, arrays, given = read_file(path, components)
    with file_errors_of(path):
        return parse(header, arrays, given)


def opened(
    path: Path, components: Iterable[Component]
) -> tuple[dict[str, Any], dict[str, Array], list[Component]]:
    """Return a file's header and arrays, and the components as a list; errors as of `load`."""
    if isinstance(components, Component) or not isinstance(components, Iterable):
        raise TypeError(f"components must be a list of your own, got {checks.shown(components)}")
    components = list(components)
    for component in components:
        checks.instance(
            "every one of components", component, Component, "an Activation, a Layer, a Loss or a RowLoss"
        )
    return *archive.read(path), components


def read_file(
    path: Path, components: Iterable[Component]
) -> tuple[dict[str, Any], dict[str, Array], list[Component]]:
    """Return header, arrays and components of a file; errors as of `load`."""
    header, arrays, components = opened(path, components)
    check_format(path, header)
    return header, arrays, components


def check_format(path: Path, header: dict[str, Any]) -> None:
    """Raise CheckpointError unless a file is of FORMAT."""
    if str(header.get("format")).startswith("table "):  # as of `fastmlp.tables.storage`
        opens = "fastmlp.load, TableClassifier.load or TableRegressor.load opens it"
        raise CheckpointError(f"{os.fspath(path)!r} is the model of a table; {opens}")
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)!r} has format {checks.shown(header.get('format'))}; "
            f"this fastmlp reads format {FORMAT}"
        )


@contextlib.contextmanager
def file_errors_of(path: Path) -> Iterator[None]:
    """Turn errors of parsing into a CheckpointError with the file's name."""
    try:
        yield
    except _OtherComponent as error:
        raise CheckpointError(f"{os.fspath(path)!r} {error}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        missing = "it lacks " if isinstance(error, KeyError) else ""
        raise CheckpointError(f"{os.fspath(path)!r} is not a sound checkpoint: {missing}{reason}") from None


def parse(header: dict[str, Any], arrays: dict[str, Array], components: list[Component]) -> Content:
    """Return the model and training of a header and arrays; `file_errors_of` names the errors."""
    _expect("models" not in header, "it holds a list of models; fit_many(resume=) goes on with such")
    network = network_of(header["network"], components)
    model = model_of(network, arrays, "", header["history"], header["backend"], header["stop_reason"])
    snapshot, training = None, header["training"]
    if training is not None:
        last = model.parameters
        # A copy, because the best parameters are written over the model's below.
        snapshot = _snapshot(training, arrays, network, last.copy(), model.history, components)
        # The model of an unfinished training with `EarlyStopping` is the best so far; the training goes on
        # from the last.
        for _, state in snapshot.callbacks:
            if state.get("best_epoch"):
                best = state["best_parameters"]
                _expect(best.shape == last.shape and np.isfinite(best).all(), "no best parameters")
                last[...] = best
    return Content(model, snapshot)


def model_of(
    network: Network,
    arrays: archive.Arrays,
    prefix: str,
    history: Iterable[str],
    backend: str,
    reason: str | None,
) -> Model:
    """Return the model of arrays with a prefix; `file_errors_of` names the errors.

    history : names of curves
    """
    parameters, curves = numbers_of(arrays, prefix, history)
    _expect(parameters.size == parameter_count(network), "the parameters are not the network's")
    _expect(reason is None or isinstance(reason, str), "the reason for stopping is no text")
    return Model(network, parameters, curves, registry.restored(backend), reason)


def numbers_of(
    arrays: archive.Arrays, prefix: str, history: Iterable[str]
) -> tuple[Array, dict[str, list[float]]]:
    """Return parameters and history of arrays with a prefix."""
    parameters = arrays[f"{prefix}parameters"]
    _expect(parameters.ndim == 1 and parameters.dtype.kind == "f", "the parameters are not the network's")
    _expect(np.isfinite(parameters).all(), "a parameter is not finite")
    curves = {}
    for name in history:
        values = arrays[f"{prefix}history/{name}"]
        finite = name not in LOSS_CURVES or np.isfinite(values).all()
        _expect(values.ndim == 1 and finite, "the history is not finite")
        curves[str(name)] = values.astype(float).tolist()
    _expect("loss" in curves, "the history lacks the loss")
    return aligned_copy(parameters), curves


def network_of(description: Any, components: list[Component]) -> Network:
    """Return the network of a description, with a user's components."""
    network = restored(description, lambda component: _component(component, components))
    _expect(isinstance(network, Network), "it describes no network")
    return cast(Network, network)


class _OtherComponent(Exception):
    """A user's component is missing, or differs from the component in the file."""


def _component(description: dict[str, Any], components: list[Component]) -> Component:
    """Return the user's component of a description."""
    name, digest = str(description["component"]), description["digest"]
    named = [component for component in components if component.name == name]
    if not named:
        raise _OtherComponent(
            f"was trained with {name!r}, a component of your own: give it in components=[...]"
        )
    same = [component for component in named if component.digest == digest]
    if not same:
        raise _OtherComponent(
            f"was trained with another {name!r} than is given: their formulas or parameters differ"
        )
    return same[0]


def _snapshot(
    training: dict[str, Any],
    arrays: dict[str, Array],
    network: Network,
    parameters: Array,
    history: dict[str, list[float]],
    components: list[Component],
) -> Snapshot:
    setting, step = training["setting"], checks.whole("step", training["step"], 0)
    _expect(network_of(setting["network"], components) == network, "the training is of another network")
    checks.whole("seed", setting["seed"], 0)
    registry.restored(setting["backend"])  # that there is such a backend
    if setting.get("blas_threads") is not None:
        checks.whole("blas_threads", setting["blas_threads"], 1, MOST_BLAS_THREADS)
    # A moment may be infinite while parameters are finite: a square overflowed, and the weight stands still.
    moments = arrays["moments"]
    _expect(moments.ndim == 2 and moments.shape[1] == parameters.size, "no moments")
    _expect(moments.dtype == parameters.dtype and not np.isnan(moments).any(), "a moment is not a number")
    sums = arrays["sums"]
    sound = sums.shape == (2 + len(network.heads),) and sums.dtype == np.float64
    _expect(sound and np.isfinite(sums).all(), "no losses of an epoch")
    callbacks = [
        (str(name), {**state, **_under(f"callbacks/{index}/", arrays)})
        for index, (name, state) in enumerate(training["callbacks"])
    ]
    return Snapshot(
        setting=setting,
        parameters=parameters,
        moments=moments,
        step=step,
        epoch_step=checks.whole("epoch_step", training["epoch_step"], 0),
        sums=sums,
        history=history,
        callbacks=callbacks,
        rate_factor=checks.real("rate_factor", training["rate_factor"], 0),
    )


def _under(prefix: str, arrays: dict[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}


def _expect(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise CheckpointError(otherwise)
