"""Compiles ahead of time, so that no later training on this machine waits for it: `fastmlp warmup`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, product
from typing import Any, NamedTuple

import numpy as np
from numba.core import event
from numpy.typing import NDArray
from scipy.sparse import csr_array

from fastmlp.backend.registry import get, variants
from fastmlp.kernels.gemm.microkernel import compile_tiles
from fastmlp.kernels.gemm.sparse import compile_sums
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.losses import LOSSES
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam, Optimizer, RMSprop, SparseAdam
from fastmlp.model.sparse import SparseRows
from fastmlp.training.trainer import fit

ROWS = 32
"""Rows of the batches that are trained: enough for every kind of matrix product."""


class Ready(NamedTuple):
    """A compiled program that the disk cache now holds.

    use : training, prediction or validation
    compiled : whether it was compiled just now; if not, it was there already
    seconds : how long compiling or loading took
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
    """Compile what training, predicting and validating need, or load it from the disk cache; yield each.

    A backend that has a program for each network trains none here. Such a program has the sizes, activations,
    loss, optimiser and batch of its network as constants, so it serves no other. `fit` with epochs=1 compiles
    it.
    """
    backends = list(backends)
    for dtype in dtypes:
        for backend in backends:
            for use, call in _uses(backend, dtype):
                # Numba has an event for what it compiles, and none for what it loads.
                began = time.perf_counter()
                with event.install_recorder("numba:compile") as recorder:
                    call()
                yield Ready(backend, dtype, use, bool(recorder.buffer), time.perf_counter() - began)


def _uses(backend: str, dtype: str) -> list[tuple[str, Callable[[], object]]]:
    """Return each use of a backend, with a call that uses it so with every kind of network."""
    uses: list[tuple[str, Callable[[], object]]] = [
        ("training", partial(_train, backend, dtype)),
        ("prediction", partial(_predict, backend, dtype)),
        ("validation", partial(_evaluate, backend, dtype)),
    ]
    return uses[1:] if variants()[backend].specialize is not None else uses


def _networks() -> Iterator[tuple[Network, Optimizer]]:
    """Yield networks and optimisers that together call everything that there is to compile.

    Kernels differ for few and for many outputs, and for few outputs after a wide layer.
    """
    hidden = cycle(HIDDEN)
    optimizers = cycle(
        (SGD(0.1), SGD(0.1, 0.9), SGD(0.1, 0.9, True), RMSprop(), Adam(clip_norm=1.0), SparseAdam())
    )
    for loss, entry in LOSSES.items():
        for output, units in product(entry.outputs, (1, 2, 100)):
            if output != "softmax" or units > 1:
                layers, chosen = (3, 32, 32, units), (next(hidden), next(hidden))
                network = Network(layers, chosen, output, loss, dropout=0.1, l1=0.1, l2=0.1)
                yield network, next(optimizers)


def _rows(network: Network, dtype: str) -> Data:
    targets = np.ones((ROWS, network.sizes[-1]), dtype) / network.sizes[-1]
    return Data(np.ones((ROWS, network.sizes[0]), dtype), targets, np.ones(ROWS, dtype))


def _train(backend: str, dtype: str) -> None:
    compile_tiles(dtype)
    compile_sums(dtype)
    for network, optimizer in _networks():
        rows = _rows(network, dtype)
        for inputs in (rows.inputs, csr_array(rows.inputs)):
            fit(
                network, inputs, rows.targets, optimizer=optimizer, epochs=1, batch_size=None, seed=0,
                backend=backend, dtype=dtype, threads=1, progress=False,
            )  # fmt: skip


def _predict(backend: str, dtype: str) -> None:
    compile_tiles(dtype)
    compile_sums(dtype)
    for network, _ in _networks():
        out = np.empty((ROWS, network.sizes[-1]), dtype)
        inputs: Any = _rows(network, dtype).inputs
        for given in (inputs, SparseRows.of(inputs)):
            get(backend).predict(network, _zeros(network, dtype), given, out)


def _evaluate(backend: str, dtype: str) -> None:
    for network, _ in _networks():
        rows: Any = _rows(network, dtype)
        for given in (rows, rows._replace(inputs=SparseRows.of(rows.inputs))):
            get(backend).evaluate(network, _zeros(network, dtype), given)


def _zeros(network: Network, dtype: str) -> NDArray[Any]:
    return np.zeros(parameter_count(network.sizes), dtype)
