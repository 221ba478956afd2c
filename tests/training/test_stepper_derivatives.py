"""Derivatives that a `Stepper` gives: those of the reference, and differences of the objective."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.sparse import csr_array
from support.guarded_memory import guarded, guarded_workspaces
from support.problems import COMPILED_DTYPES, PAIRS, eps
from support.selection import few, matrix

from fastmlp import SGD, Adam, Network, Stepper
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Batch


def derivatives(network, dtype, backend, training):
    """The outputs, the gradient, and the derivative by X, of the same fixed loss of the outputs."""
    rng = np.random.default_rng(4)
    X, by_outputs = rng.normal(size=(7, network.n_in)), rng.normal(size=(7, network.n_out))
    stepper = Stepper(network, Adam(), seed=1, dtype=dtype, backend=backend)
    outputs = stepper.forward(X.astype(dtype), training=training)
    by_inputs = stepper.backward(by_outputs.astype(dtype))
    return outputs, stepper.gradients, by_inputs


@functools.cache
def expected(network, training):
    return derivatives(network, np.float64, "reference", training)


CASES = [
    *((Network((5, 6, 4, 3), hidden, dropout=0.3), True) for hidden in HIDDEN),
    *(
        (Network((3, 7, n_out), "tanh", output, loss, input_scale=2.0), False)
        for output, loss in {output: (output, loss) for output, loss in PAIRS}.values()
        for n_out in (2, 19)
    ),
    (Network((9, 1)), False),
]


@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize(
    "backend", ["fused", *(pytest.param(name, marks=matrix) for name in ("baseline", "packed"))]
)
@pytest.mark.parametrize(("network", "training"), CASES)
def test_derivatives_are_those_of_the_reference(network, training, backend, dtype):
    for got, correct in zip(
        derivatives(network, dtype, backend, training), expected(network, training), strict=True
    ):
        # sums of some dozen terms, each rounded
        np.testing.assert_allclose(got, correct, rtol=0, atol=60 * eps(dtype) * np.abs(correct).max())


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softmax", "exp"])
def test_derivatives_are_differences(output):
    loss = {"identity": "mse", "sigmoid": "mse", "softmax": "mse", "exp": "poisson"}[output]
    stepper = Stepper(
        Network((3, 5, 4), "tanh", output, loss, input_scale=0.5), SGD(), seed=0, dtype="f8",
        backend="reference",
    )  # fmt: skip
    rng = np.random.default_rng(1)
    X, by_outputs = rng.normal(size=(4, 3)), rng.normal(size=(4, 4))

    def value():
        return float((stepper.forward(X) * by_outputs).sum())

    def differences(array):
        flat, found = array.reshape(-1), []
        for i, number in enumerate(flat.tolist()):
            values = []
            for flat[i] in (number + 1e-6, number - 1e-6):
                values.append(value())
            flat[i] = number
            found.append((values[0] - values[1]) / 2e-6)
        return np.reshape(found, array.shape)

    correct = differences(stepper.parameters), differences(X)
    stepper.forward(X)
    got = stepper.backward(by_outputs)
    np.testing.assert_allclose(stepper.gradients, correct[0], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(got, correct[1], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("side", ["after", "before"])
@pytest.mark.parametrize("backend", few(["fused", "specialized"]))  # four programs, 8 s
def test_nothing_is_read_or_written_beyond_an_array(backend, side, monkeypatch):
    plain = Batch.of

    def walled(*given):
        return Batch(*(guarded(buffer, side) for buffer in plain(*given)))

    monkeypatch.setattr(Batch, "of", staticmethod(walled))
    rng = np.random.default_rng(0)
    for rows, sizes in ((1, (3, 5, 2)), (17, (17, 64, 6)), (70, (1, 9, 1)), (33, (130, 20, 11))):
        X, y = rng.normal(size=(rows, sizes[0])).astype("f"), rng.normal(size=(rows, sizes[-1])).astype("f")
        with guarded_workspaces(side):
            stepper = Stepper(Network(sizes), Adam(), seed=0, most_rows=rows, backend=backend)
            for inputs in (X, csr_array(X)):
                stepper.step(inputs, y)
                stepper.forward(inputs)
                stepper.backward(y, inputs=inputs is X)
                stepper.update()
        assert np.isfinite(stepper.parameters).all()
