"""Any number of workers computes the same bits."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from problems import COMPILED_DTYPES

import fastmlp
from fastmlp import registry
from fastmlp.kernels.variant import Work

OF_SEVERAL_WORKERS = [name for name, variant in registry.variants().items() if variant.workers is not None]
"""The others compute in one thread; what a BLAS below them does with its own is its affair."""

TRAININGS = {
    "adam, dropout": ({"hidden": ["gelu", "relu"], "dropout": 0.2}, fastmlp.Adam(0.01)),
    "sgd": ({"hidden": "relu"}, fastmlp.SGD(0.05)),
    "clipping, penalties": (
        {"hidden": "tanh", "l1": 1e-4, "l2": 1e-3},
        fastmlp.SGD(0.05, 0.9, clip_norm=0.1),
    ),
}


@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("backend", OF_SEVERAL_WORKERS)
def test_one_worker_or_several_compute_the_same_bits(backend, name, dtype):
    options, optimizer = TRAININGS[name]
    rng = np.random.default_rng(0)
    # Large enough that every variant finds work for three, the last batch excepted.
    X, y = rng.standard_normal((300, 65)).astype(dtype), rng.integers(0, 10, 300)
    network = fastmlp.Network([65, 129, 66, 10], output="softmax", loss="cross_entropy", **options)
    one, *others = (
        fastmlp.fit(
            network,
            X,
            y,
            optimizer=optimizer,
            epochs=2,
            batch_size=128,
            seed=0,
            threads=threads,
            backend=backend,
        )
        for threads in (1, 2, 3)
    )
    for other in others:
        np.testing.assert_array_equal(other.parameters, one.parameters)
        assert other.history == one.history


def test_a_process_of_joblib_takes_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1)  # as its environment has it
    network = fastmlp.Network([784, 128, 10])
    work = Work.of(network, fastmlp.SGD(0.1), 128, np.dtype(np.float32), None)
    assert work.threads == 1
    assert Work.of(network, fastmlp.SGD(0.1), 128, np.dtype(np.float32), 5).threads == 5


@pytest.mark.parametrize("backend", registry.variants())
def test_a_training_leaves_the_processor_treating_subnormals_as_before(backend):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((64, 3)), rng.standard_normal(64)
    smallest = np.float64(5e-324)
    fastmlp.fit(fastmlp.Network([3, 4, 1]), X, y, epochs=2, seed=0, backend=backend, threads=2)
    assert smallest * 2 > 0
    assert np.array([smallest])[0] + smallest > smallest


def test_a_worker_without_a_share_of_a_layer_of_few_inputs():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1000, 4)), rng.standard_normal((1000, 300))
    network, rule = fastmlp.Network([4, 300, 300]), fastmlp.SGD(0.01)
    options = {"optimizer": rule, "epochs": 1, "batch_size": 500, "seed": 0, "backend": "fused"}
    alone, two = (fastmlp.fit(network, X, y, threads=threads, **options) for threads in (1, 2))
    np.testing.assert_array_equal(alone.parameters, two.parameters)
