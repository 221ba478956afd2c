"""Trainings on disk: the callback `Checkpoint`, and the content of files.

`fastmlp.files.archive` writes and reads files; `save` and `load` are in `saving.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, cast

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.callbacks.callback import LOSS_CURVES, AtIntervals, Run
from fastmlp.checks import CheckpointError
from fastmlp.files import archive
from fastmlp.model.component import Component
from fastmlp.model.descriptions import described, restored
from fastmlp.model.layout import aligned_copy, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.state import Array
from fastmlp.trained.model import Model
from fastmlp.training.snapshot import Snapshot

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
            archive.write(self.path, *archive.separated(record_of_training(run)))
            self.count(run)


# --- the file ---------------------------------------------------------------------------------------------

Record = dict[str, Any]
"""A model in JSON's types and arrays, as `files.archive.separated` takes them."""

IN_FILE = ("setting", "seed", "step", "epoch_step", "rate_factor", "moments", "sums", "callbacks")
"""The fields of a `Snapshot` in a file; parameters, history and backend are the model's."""


def record_of(model: Model, snapshot: Snapshot | None = None) -> Record:
    """Return a model, and the training to go on with, for a file.

    ValueError for a parameter that is not finite: `load` would refuse the file, and the old file would be
    gone.
    """
    if not checks.finite(model.parameters):
        raise ValueError("a parameter of the model is not finite, and no file holds such a model")
    return {
        "format": FORMAT,
        "network": described(model.network),
        "backend": model.backend,
        "stop_reason": model.stop_reason,
        "parameters": model.parameters,
        "history": curves_of(model.history),
        "training": snapshot and {name: getattr(snapshot, name) for name in IN_FILE},
    }


def curves_of(history: dict[str, list[float]]) -> dict[str, Array]:
    """Return a history's curves as arrays."""
    return {name: np.array(values, float) for name, values in history.items()}


def record_of_training(run: Run) -> Record:
    """Return a training between two chunks, with live arrays."""
    snapshot = run.snapshot()
    backend = registry.get(snapshot.backend)
    model = Model(run.network, snapshot.parameters, snapshot.history, backend, run.stop_reason)
    return record_of(model, snapshot)


def read(path: Path, components: Iterable[Component]) -> tuple[Model, Snapshot | None]:
    """Return the model in a file, and the training to go on with; components and errors as of `load`."""
    header, arrays, given = opened(path, components)
    check_format(path, header)
    with file_errors_of(path):
        _expect("models" not in header, "it holds a list of models; fit_many(resume=) goes on with such")
        return parsed(archive.joined(header, arrays), given, path)


def read_training(path: Path, components: Iterable[Component] = ()) -> Snapshot:
    """Return the training in a file of a `Checkpoint`; CheckpointError without a training."""
    _, snapshot = read(path, components)
    if snapshot is None or "rule" in snapshot.setting:  # of a `Stepper`
        raise CheckpointError(
            f"{os.fspath(path)!r} holds a model without its training; resume what a Checkpoint wrote"
        )
    return snapshot


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
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        missing = "it lacks " if isinstance(error, KeyError) else ""
        raise CheckpointError(f"{os.fspath(path)!r} is not a sound checkpoint: {missing}{reason}") from None


def parsed(record: Record, components: list[Component], path: Path) -> tuple[Model, Snapshot | None]:
    """Return the model and the training of a record; `file_errors_of` names the errors."""
    network = network_of(record["network"], components)
    model = model_of(network, record, record["backend"], record["stop_reason"])
    if record["training"] is None:
        return model, None
    last = model.parameters
    snapshot = _snapshot(record["training"], model, components)._replace(
        parameters=last.copy(),  # because the best parameters are written over the model's
        path=os.fspath(path),
    )
    # The model of an unfinished training with `EarlyStopping` is the best so far; the training goes on from
    # the last.
    for _, state in snapshot.callbacks:
        if state.get("best_epoch"):
            best = state["best_parameters"]
            _expect(best.shape == last.shape and np.isfinite(best).all(), "no best parameters")
            last[...] = best
    return model, snapshot


def model_of(network: Network, record: Record, backend: str, reason: str | None) -> Model:
    """Return the model of a record's parameters and history; `file_errors_of` names the errors."""
    parameters, curves = numbers_of(record)
    _expect(parameters.size == parameter_count(network), "the parameters are not the network's")
    _expect(reason is None or isinstance(reason, str), "the reason for stopping is no text")
    return Model(network, parameters, curves, registry.restored(backend), reason)


def numbers_of(record: Record) -> tuple[Array, dict[str, list[float]]]:
    """Return a record's parameters and history."""
    parameters = record["parameters"]
    _expect(parameters.ndim == 1 and parameters.dtype.kind == "f", "the parameters are not the network's")
    _expect(np.isfinite(parameters).all(), "a parameter is not finite")
    curves = {}
    for name, values in record["history"].items():
        finite = name not in LOSS_CURVES or np.isfinite(values).all()
        _expect(values.ndim == 1 and finite, "the history is not finite")
        curves[name] = values.astype(float).tolist()
    _expect("loss" in curves, "the history lacks the loss")
    return aligned_copy(parameters), curves


def network_of(description: Any, components: list[Component]) -> Network:
    """Return the network of a description, with a user's components."""
    network = restored(description, lambda component: _component(component, components))
    _expect(isinstance(network, Network), "it describes no network")
    return cast(Network, network)


def components_of(network: Network) -> list[Component]:
    """Return the user-defined activations, layers and losses of a network."""
    given = (
        *(part for one in network.operations for part in (one.activation, one.kind)),
        *network.losses,
    )
    return [part for part in given if isinstance(part, Component) and part.digest]


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


def _snapshot(training: dict[str, Any], model: Model, components: list[Component]) -> Snapshot:
    """Return the training of a file."""
    setting, network, parameters = training["setting"], model.network, model.parameters
    _expect(network_of(setting["network"], components) == network, "the training is of another network")
    if setting.get("blas_threads") is not None:
        checks.whole("blas_threads", setting["blas_threads"], 1, MOST_BLAS_THREADS)
    # A moment may be infinite while parameters are finite: a square overflowed, and the weight stands still.
    moments = training["moments"]
    _expect(moments.ndim == 2 and moments.shape[1] == parameters.size, "no moments")
    _expect(moments.dtype == parameters.dtype and not np.isnan(moments).any(), "a moment is not a number")
    sums = training["sums"]
    sound = sums.shape == (2 + len(network.heads),) and sums.dtype == np.float64
    _expect(sound and np.isfinite(sums).all(), "no losses of an epoch")
    return Snapshot(
        parameters,
        moments,
        step=checks.whole("step", training["step"], 0),
        epoch_step=checks.whole("epoch_step", training["epoch_step"], 0),
        sums=sums,
        history=model.history,
        callbacks=[(str(name), dict(state)) for name, state in training["callbacks"]],
        backend=model.backend,
        seed=checks.whole("seed", training["seed"], 0),
        rate_factor=checks.real("rate_factor", training["rate_factor"], 0),
        setting=setting,
    )


def _expect(holds: bool | np.bool_, otherwise: str) -> None:
    if not holds:
        raise CheckpointError(otherwise)
