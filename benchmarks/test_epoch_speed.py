"""Whole trainings and predictions on every backend, held to the reference's numbers, then timed.

Every row of a table has the same number of threads: one, and trainings that are worth two also two.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_digits

import fastmlp
from fastmlp.lab.steps import StepRow, workers
from fastmlp.model.optimizers import Optimizer
from fastmlp.system.budget import usable_cores


class Work(NamedTuple):
    """A training on so many rows; `data` names where they come from."""

    name: str
    data: str
    rows: int
    network: fastmlp.Network
    optimizer: Optimizer
    batch_size: int
    epochs: int

    def __str__(self) -> str:
        return self.name


def classifier(*sizes, **options):
    return fastmlp.Network(sizes, output="softmax", loss="cross_entropy", **options)


NOTEBOOK = fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse")

WORKS = (
    Work("notebook 3-4-1 x1000", "notebook", 4, NOTEBOOK, fastmlp.SGD(1.2, bias_learning_rate=0.3), 4, 1000),
    Work("digits 64-128-10 b32 x5", "digits", 1797, classifier(64, 128, 10), fastmlp.Adam(), 32, 5),
    Work("784-128-10 b128", "normal", 3200, classifier(784, 128, 10), fastmlp.SGD(0.1), 128, 1),
    Work("28-256-256-2 b256", "normal", 2560, classifier(28, 256, 256, 2), fastmlp.Adam(), 256, 1),
    Work("20-32-5 l2 b1024 x20", "normal", 4096, classifier(20, 32, 5, l2=1e-4), fastmlp.Adam(), 1024, 20),
)


@functools.cache
def data_of(work, dtype):
    if work.data == "notebook":
        X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], dtype)
        return X, np.array([0, 1, 1, 0], dtype)
    if work.data == "digits":
        X, y = load_digits(return_X_y=True)
        return (X / 16).astype(dtype), y
    rng = np.random.default_rng(0)
    n_in, *_, n_out = work.network.widths
    X = rng.standard_normal((work.rows, n_in))
    labels = (X @ rng.standard_normal((n_in, n_out))).argmax(axis=1)
    return X.astype(dtype), labels


def rows():
    """Works, dtypes, threads and backends: with two threads the backends that give a step of the work two."""
    for work, dtype in itertools.product(WORKS, ("float32", "float64")):
        for threads in range(1, 1 + min(2, usable_cores())):
            for backend in fastmlp.backends():
                row = StepRow(work.network, work.optimizer, work.batch_size, dtype, threads)
                if threads == 1 or workers(row, backend) == threads:
                    yield pytest.param(
                        work, dtype, threads, backend, id=f"{work}-{dtype}-{threads}-{backend}"
                    )


def train(work, dtype, backend, threads=1):
    return fastmlp.fit(
        work.network, *data_of(work, dtype), optimizer=work.optimizer, epochs=work.epochs,
        batch_size=work.batch_size, seed=0, progress=False, backend=backend, threads=threads,
    )  # fmt: skip


@functools.cache
def trained_reference(work, dtype):
    return train(work, dtype, "reference")


def tolerance(work, dtype, steps):
    """Rounding of dot products over the widest layer, gathered at random over the steps, 8 sigma."""
    return 8 * np.finfo(dtype).eps * np.sqrt(max(work.network.widths) * steps)


@pytest.mark.parametrize(("work", "dtype", "threads", "backend"), list(rows()))
def test_epochs(benchmark, rounds, work, dtype, threads, backend):
    model = train(work, dtype, backend, threads)
    expected = trained_reference(work, dtype).history["loss"]
    steps = work.epochs * -(-work.rows // work.batch_size)
    np.testing.assert_allclose(model.history["loss"], expected, rtol=tolerance(work, dtype, steps))

    benchmark.group = f"epochs {work} {dtype}, threads {threads}"
    benchmark.extra_info["rows"] = work.epochs * work.rows
    call = functools.partial(train, work, dtype, backend, threads)
    benchmark.pedantic(call, rounds=rounds(call), warmup_rounds=1)


@pytest.mark.parametrize("backend", fastmlp.backends())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("work", WORKS[1:3], ids=str)
def test_predict(benchmark, rounds, work, dtype, backend):
    X, y = data_of(work, dtype)
    reference = trained_reference(work, dtype)
    initial = reference.weights, reference.biases
    few = reference.network, X[:1], y[:1]
    model = fastmlp.fit(*few, initial=initial, epochs=0, backend=backend, progress=False)
    np.testing.assert_allclose(model.predict(X), reference.predict(X), atol=tolerance(work, dtype, 1))

    sizes = "-".join(map(str, work.network.widths))
    benchmark.group = f"predict {sizes} {work.rows} rows {dtype}, threads 1"
    benchmark.extra_info["rows"] = work.rows
    call = functools.partial(model.predict, X)
    benchmark.pedantic(call, rounds=rounds(call), warmup_rounds=1)
