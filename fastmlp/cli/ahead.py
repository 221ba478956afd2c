"""Ahead-of-time compiling, for `fastmlp warmup` and `fastmlp cache`."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import cycle, product
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.fitting import fit
from fastmlp.kernels.jit import engine
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.losses import LOSSES, loss_of
from fastmlp.model.network import Network
from fastmlp.model.optimizers import NAMED, SGD, Adam, Optimizer, SparseAdam
from fastmlp.model.rows import ByteRows, SparseRows, unpacked
from fastmlp.model.state import BFLOAT16
from fastmlp.system import notices
from fastmlp.system.budget import cores

ROWS = 32
"""Rows of training batches: enough for every kind of matrix product without packing."""

LARGE = (((600, 700, 2), 160), ((130, 140, 130, 20), 2304))
"""Layers, and rows, with packed operands: weights beyond half of L2, many rows."""


class CompileTask(NamedTuple):
    """A task for a compiling process: a use of a backend for a dtype.

    use : training, prediction, validation or gradient
    network, optimizer, batch : of a single training; None for every kind of network
    """

    backend: str
    dtype: str
    use: str
    network: Network | None = None
    optimizer: Optimizer | None = None
    batch: int = ROWS


def choices_of_auto() -> tuple[str, ...]:
    """Return the names of the compiled backends for the choice of `backend="auto"`."""
    return tuple(name for name, choice in registry.choices().items() if choice.seconds is not None)


def pairs(backends: Iterable[str], dtypes: Iterable[str]) -> list[tuple[str, str]]:
    """Return (backend, dtype) pairs to compile; "auto" stands for all candidates of a dtype.

    ValueError for an unknown compiled backend for a dtype, or a processor without its instructions.
    """
    found: list[tuple[str, str]] = []
    for name, dtype in product(list(backends), list(dtypes)):
        available = registry.mixed() if dtype == BFLOAT16 else registry.backends()
        compiled = [one for one in available if not registry.is_reference(one)]
        what = "compiled backend" + (f" for {dtype}" if dtype == BFLOAT16 else "")
        checks.choice(what, name, ("auto", *compiled))
        if dtype == BFLOAT16:
            found.append((registry.mixed_backend(name).name, dtype))
        else:
            found += [(one, dtype) for one in (choices_of_auto() if name == "auto" else [name])]
    return list(dict.fromkeys(found))


def tasks(backends: Iterable[str], dtypes: Iterable[str]) -> list[CompileTask]:
    """Return the tasks of training, predicting, validating and single gradients, the longest first.

    A backend with a program for each network trains nothing here. Such a program has the sizes, activations,
    loss, optimiser and batch of a network as constants and serves no other network: see `tasks_of_network`.
    """
    every = [CompileTask(*pair, use) for use, pair in product(USES, pairs(backends, dtypes))]
    return [one for one in every if one.use != "training" or not registry.choice_of(one.backend).specialize]


def tasks_of_network(
    backends: Iterable[str], dtypes: Iterable[str], network: Network, optimizer: Optimizer, batch: int
) -> list[CompileTask]:
    """Return the tasks of the specialised programs for a network."""
    return [
        CompileTask(backend, dtype, "training", network, optimizer, batch)
        for backend, dtype in pairs(backends, dtypes)
        if (specialize := registry.choice_of(backend).specialize) is not None
        and specialize(network, optimizer, batch, np.dtype(dtype)) is not None
    ]


def compile_ahead(
    tasks: Iterable[CompileTask], processes: int | None = None
) -> Iterator[tuple[CompileTask, int, float]]:
    """Compile, or load from the disk cache, the code of tasks; yield each result of `made_ready`.

    processes : at a time; None for the number of cores. Processes share compiled code.
    """
    tasks = list(tasks)
    processes = min(len(tasks), cores() if processes is None else processes)
    if processes <= 1:
        yield from map(made_ready, tasks)
        return
    context = multiprocessing.get_context("spawn")
    silence, silent = notices.silence, (notices.silent,)
    with ProcessPoolExecutor(processes, context, silence, silent) as pool:
        running = [pool.submit(made_ready, task) for task in tasks]
        for future in as_completed(running):
            yield future.result()


def made_ready(task: CompileTask) -> tuple[CompileTask, int, float]:
    """Run a task in this process; return the task, the number of functions compiled, and seconds."""
    began, before = time.perf_counter(), len(engine.compiled)
    if task.network is None:
        dtype = "float32" if task.dtype == BFLOAT16 else task.dtype
        if task.use != "validation":
            from fastmlp.kernels.gemm.microkernel import compile_tiles
            from fastmlp.kernels.gemm.sparse import compile_sums

            compile_tiles(dtype)
            compile_sums(dtype)
        _use(task.use, task.backend, dtype)
    else:
        assert task.optimizer is not None
        _fit(task.backend, task.dtype, task.network, task.optimizer, task.batch)
    return task, len(engine.compiled) - before, time.perf_counter() - began


def _networks() -> Iterator[tuple[Network, Optimizer, int]]:
    """Yield networks, optimisers and rows with calls to all compiled code together.

    Kernels differ for few and for many outputs, and for few outputs after a wide layer.
    """
    for sizes, rows in LARGE:
        yield Network(sizes), SGD(0.1), rows
    hidden = cycle(HIDDEN)
    others = SGD(0.1, 0.9), SGD(0.1, 0.9, True), Adam(clip_norm=1.0)
    optimizers = cycle((*(kind(0.1) for kind in NAMED), *others))
    for loss, entry in LOSSES.items():
        for output, targets in product(entry.outputs, (1, 2, 100)):
            if output != "softmax" or targets > 1:
                units = targets * entry.outputs_per_target
                layers, chosen = (3, 32, 32, units), (next(hidden), next(hidden))
                network = Network(layers, chosen, output, loss, dropout=0.1, l1=0.1, l2=0.1)
                yield network, next(optimizers), ROWS


def _rows(network: Network, dtype: str, rows: int) -> list[Any]:
    """Return `Data` with dense inputs, in bytes, sparse in every column, and with few non-zeros."""
    targets = np.ones((rows, network.n_out), dtype) / network.n_out
    dense, few = np.ones((rows, network.n_in), dtype), np.eye(rows, network.n_in, dtype=dtype)
    inputs: Any = dense, ByteRows(dense.astype(np.uint8), dense.dtype, 1.0), *map(SparseRows.of, (dense, few))
    return [Data(one, targets, np.ones(rows, dtype)) for one in inputs]


USES = ("training", "gradient", "prediction", "validation")
"""The uses of a backend; a gradient is lbfgs's."""


def _use(use: str, name: str, dtype: str) -> None:
    """Train, differentiate, predict or validate rows of every kind, by every kind of network."""
    backend = registry.get(name)
    for network, optimizer, rows in _networks():
        if use == "training":
            _fit(name, dtype, network, optimizer, rows)
            continue
        parameters = np.zeros(parameter_count(network), dtype)
        for data in _rows(network, dtype, rows):
            if use == "prediction":
                backend.predict(network, parameters, unpacked(data.inputs), np.empty_like(data.targets))
            elif use == "validation":
                backend.evaluate(network, parameters, data)
            else:
                backend.gradient(network, parameters, data, 0, 0, np.empty_like(parameters))
    if use == "training":
        _fit(name, dtype, Network((3, 32, 1)), SparseAdam(), ROWS, accumulate=2)


def _fit(
    backend: str, dtype: str, network: Network, optimizer: Optimizer, batch: int, accumulate: int = 1
) -> None:
    columns = network.n_out // loss_of(network.loss).outputs_per_target
    dense, _, *sparse = _rows(network, dtype, batch)  # machine code of bytes is that of a gradient
    for X in (dense.inputs, *(data.inputs.matrix() for data in sparse)):
        fit(
            network, X, dense.targets[:, :columns], optimizer=optimizer, epochs=1,
            batch_size=batch // accumulate, accumulate=accumulate, seed=0, backend=backend,
            dtype=BFLOAT16 if registry.is_mixed(backend) else dtype, threads=1, progress=False,
        )  # fmt: skip


def train_and_predict(network: Network, rows: int, dtype: str, backend: str) -> None:
    """Train for an epoch with validation, and predict several rows and a single row."""
    X, y, _ = _rows(network, dtype, rows)[0]
    model = fit(
        network, X, y, optimizer=Adam(), epochs=1, batch_size=rows, validation=0.1, dtype=dtype,
        backend=backend, progress=False,
    )  # fmt: skip
    model.predict(X), model.predict(X[:1])
