"""Predictions of many models: those of a compiled backend in one call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fastmlp.backend import registry
from fastmlp.model.backend import Backend, PredictArguments
from fastmlp.system.budget import share

THREAD_FLOPS = 1e6
"""Multiply-adds that are worth a thread, counted as 2: it takes 50 us to start."""


class OfBackend(NamedTuple):
    """The predictions of one backend."""

    backend: Backend
    predictions: list[PredictArguments]


def predict_all(models: Iterable[tuple[Backend, PredictArguments]]) -> None:
    """Write the outputs of all models, each with the bits of its backend's `predict`."""
    found: dict[int, OfBackend] = {}
    for backend, one in models:
        of_backend = found.get(id(backend))
        if of_backend is None:
            of_backend = found[id(backend)] = OfBackend(backend, [])
        of_backend.predictions.append(one)
    for backend, predictions in found.values():
        # One that was registered anew has another backend's name.
        if registry.is_reference(backend.name) or registry.get(backend.name) is not backend:
            for one in predictions:
                backend.predict(*one)
        else:
            _predict_compiled(backend.name, predictions)


def _predict_compiled(name: str, predictions: list[PredictArguments]) -> None:
    from fastmlp.kernels.runtime.predictions import predict_all

    flops = sum(2.0 * len(inputs) * parameters.size for _, parameters, inputs, _ in predictions)
    threads = max(1, min(share(), len(predictions), int(flops / THREAD_FLOPS)))
    predict_all(registry.entries(name), registry.choice_of(name).buffers, predictions, threads)
