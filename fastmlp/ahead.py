"""Compiles ahead of time, so that no later training on this machine waits for it: `fastmlp warmup`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numba.core import event

from fastmlp.backend import Data
from fastmlp.network import Network
from fastmlp.registry import get, variants
from fastmlp.trainer import fit


class Ready(NamedTuple):
    """A compiled program that the disk cache now holds.

    use : training, prediction or validation
    compiled : whether it was compiled just now; if not, it was there already
    seconds : that compiling or loading it took
    """

    backend: str
    dtype: str
    use: str
    compiled: bool
    seconds: float


def choices_of_auto() -> tuple[str, ...]:
    """Return the names of the compiled backends that `backend="auto"` chooses among."""
    return tuple(name for name, variant in variants().items() if variant.seconds is not None)


def compile_ahead(backends: Iterable[str], dtypes: Iterable[str]) -> Iterator[Ready]:
    """Compile, or find in the disk cache, what training, predicting and validating need; one at a time.

    A backend that has a program for each network trains none here: such a program holds the sizes,
    activations, loss, optimiser and batch as constants, and serves nothing else. `fit` with epochs=1
    compiles it.
    """
    backends = list(backends)
    for dtype in dtypes:
        for backend in backends:
            for use, call in _uses(backend, dtype):
                # Numba tells of what it compiles and not of what it loads.
                began = time.perf_counter()
                with event.install_recorder("numba:compile") as recorder:
                    call()
                yield Ready(backend, dtype, use, bool(recorder.buffer), time.perf_counter() - began)


def _uses(backend: str, dtype: str) -> list[tuple[str, Callable[[], object]]]:
    """Return each use of a backend with a call that makes it, as `fit` and `Model.predict` make it."""
    network = Network([2, 3, 1])
    data = Data(np.ones((4, 2), dtype), np.ones((4, 1), dtype), np.ones(4, dtype))
    train = partial(
        fit, network, data.inputs, data.targets, backend=backend, dtype=dtype, threads=1, progress=False
    )
    start = train(epochs=0)
    uses: list[tuple[str, Callable[[], object]]] = [
        ("training", partial(train, epochs=1)),
        ("prediction", partial(start.predict, data.inputs)),
        ("validation", partial(get(backend).evaluate, network, start.parameters, data)),
    ]
    return uses[1:] if variants()[backend].specialize is not None else uses
