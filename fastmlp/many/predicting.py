"""`predict_many`: the outputs of many models for the same rows, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.data.arrays import clean_rows_of
from fastmlp.model.backend import Backend, PredictArguments
from fastmlp.model.network import Network
from fastmlp.system.budget import available_cores
from fastmlp.trained.model import Model

THREAD_FLOPS = 1e6
"""Multiply-adds worth a thread, counted as 2: a thread takes 50 us to start."""


def predict_all(models: Iterable[tuple[Backend, PredictArguments]]) -> None:
    """Write the outputs of all models, with the bits of `Model.predict`."""
    found: dict[int, tuple[Backend, list[PredictArguments]]] = {}
    for backend, one in models:
        found.setdefault(id(backend), (backend, []))[1].append(one)
    for backend, predictions in found.values():
        # A name may have been registered anew since, for another backend.
        if registry.is_reference(backend.name) or registry.get(backend.name) is not backend:
            for one in predictions:
                backend.predict(*one)
            continue
        from fastmlp.kernels.runtime import session as compiled

        flops = sum(2.0 * len(inputs) * parameters.size for _, parameters, inputs, _ in predictions)
        threads = max(1, min(available_cores(), len(predictions), int(flops / THREAD_FLOPS)))
        compiled.predict_all(registry.entries(backend.name), predictions, threads)


def predict_many(models: Sequence[Model], X: Any) -> Any:
    """Return the outputs of all models for every row.

    Parameters
    ----------
    models : list of Model, with the same numbers of inputs and outputs; at least one
    X : (rows, n_in), as for `Model.predict`

    Returns
    -------
    (models, rows, n_out) array of the models' dtype, float64 for several dtypes; of models with heads a dict
    of such arrays by the heads' names. Each model's outputs are equal to its `predict`.

    Raises
    ------
    ValueError, TypeError
        If a model is no Model, as a `DivergenceError`, or has another number of inputs or outputs or other
        heads than the first model; or as `Model.predict`.
    """
    return outputs_of(models, X, None)


def outputs_of(models: Sequence[Model], X: Any, columns: Sequence[Any] | None) -> Any:
    """Return the outputs of models, as `predict_many`. columns : of X, read by each model; None for all"""
    models = checked_models(models, columns is None)
    inputs: list[Any] = []
    known: dict[Any, Any] = {}
    cleaned: dict[tuple[int, np.dtype[Any], int | None], Any] = {}
    for index, model in enumerate(models):
        network, dtype_of = model.network, model.parameters.dtype
        part = None if columns is None else index
        key = id(network), dtype_of, part
        if key not in cleaned:
            like = dtype_of, id(network) if network.blocks else network.input_scale, part
            if like not in known:
                read = X if columns is None else X[:, columns[index]]
                known[like] = clean_rows_of("X", network, read, dtype_of, known=False)
            cleaned[key] = known[like]
        inputs.append(cleaned[key])
    dtype = np.result_type(*{dtype for _, dtype, _ in cleaned})
    out = np.empty((len(models), len(inputs[0]), models[0].network.n_out), dtype)
    parts = [*out]
    for index, model in enumerate(models):
        if model.parameters.dtype != dtype:
            parts[index] = np.empty(parts[index].shape, model.parameters.dtype)
    predict_all([one.prediction(*both) for one, *both in zip(models, inputs, parts, strict=True)])
    for index, part in enumerate(parts):
        if part.dtype != dtype:
            out[index] = part
    return models[0].named(out)


def checked_models(models: Sequence[Model], same_inputs: bool = True) -> list[Model]:
    """Return models with the same outputs, and the same inputs if asked; else ValueError or TypeError."""
    if isinstance(models, Model) or not isinstance(models, Sequence) or not models:
        raise TypeError(f"models must be a list of Model, at least one, got {checks.shown(models)}")
    networks: dict[int, Network] = {}
    for index, model in enumerate(models):
        checks.instance(f"models[{index}]", model, Model, "a Model")
        network = model.network
        if id(network) not in networks:
            networks[id(network)] = network
            _check_like(index, network, models[0].network, same_inputs)
    return [*models]


def _check_like(index: int, network: Network, first: Network, same_inputs: bool) -> None:
    """Raise ValueError unless a network has the first network's outputs, and inputs if asked."""
    if (network.n_out, [*network.heads]) != (first.n_out, [*first.heads]) or (
        same_inputs and network.n_in != first.n_in
    ):
        raise ValueError(
            f"models[{index}] has {network.n_in} inputs and {network.n_out} outputs, and models[0] has "
            f"{first.n_in} and {first.n_out}; all must have the same, and the same heads"
        )
