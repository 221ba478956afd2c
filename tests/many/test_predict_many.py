"""`predict_many`: one call of machine code, and of each model what its `predict` gives."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from scipy import sparse
from support.problems import data_set

from fastmlp import Dense, LayerNorm, Network, fit, predict_many
from fastmlp.kernels.jit.engine import _SIGNATURE, each, table_of
from fastmlp.many import predicting

X, Y = data_set("diabetes", 60)
NETWORKS = [
    Network([10, 4, 1], hidden="tanh"),
    Network([10, 70, 1], dropout=0.3),
    Network(inputs=10, layers=[Dense(5), LayerNorm(), Dense(1)]),
]


def models(backends, dtypes):
    return [
        fit(network, X, Y, epochs=1, seed=0, backend=backend, dtype=dtype, progress=False)
        for network in NETWORKS
        for backend in backends
        for dtype in dtypes
    ]


def assert_as_each_does(some, rows):
    outputs = predict_many(some, rows)
    assert outputs.shape == (len(some), rows.shape[0], 1)
    for model, output in zip(some, outputs, strict=True):
        np.testing.assert_array_equal(output, model.predict(rows))


def test_models_of_every_backend_and_dtype_predict_as_each_does(monkeypatch):
    monkeypatch.setattr(predicting, "THREAD_FLOPS", 1.0)  # on as many threads as there are cores
    some = models(["reference", "fused"], ["f4", "f8"])
    assert_as_each_does(some, np.tile(X, (30, 1)))  # more rows than are predicted at a time
    assert_as_each_does(some[:1], X[:1])


def test_sparse_rows_are_predicted_as_each_does():
    assert_as_each_does(models(["fused"], ["f8"])[:2], sparse.csr_array(np.where(X > 0, X, 0)))


def test_parameters_of_another_network_are_refused():
    some = models(["fused"], ["f8"])
    some[1].parameters = some[0].parameters
    with pytest.raises(ValueError, match="parameters must be a C-contiguous float64 array of shape"):
        predict_many(some, X)


def test_each_worker_runs_its_calls_up_to_the_first_error():
    ran = []
    error = ZeroDivisionError("in call 7")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))  # whoever returns it gives it away

    def run(call, worker, workers):
        ran.append((call, worker, workers))
        return id(error) if call == 7 else None

    function = _SIGNATURE(run)
    address = ctypes.cast(function, ctypes.c_void_p).value
    table = table_of([address] * 8, np.arange(1, 9))
    each()(table.ctypes.data, 1, 3)
    assert ran == [(2, 0, 1), (5, 0, 1), (8, 0, 1)]
    ran.clear()
    with pytest.raises(ZeroDivisionError, match="in call 7"):
        each()(table.ctypes.data, 0, 2)
    assert [call for call, *_ in ran] == [1, 3, 5, 7]
