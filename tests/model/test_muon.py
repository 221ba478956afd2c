"""Muon: PyTorch's steps, one result on every backend and number of threads, and what it leaves to AdamW."""

import numpy as np
import pytest
import scipy.sparse
from support import naive
from support.problems import eps
from support.selection import some_backends
from support.updates import update

import fastmlp
from fastmlp import EMA, AdamW, Dense, LayerNorm, Muon, Network
from fastmlp.model.layout import dense_views, flatten
from fastmlp.model.state import initial_state

RNG = np.random.default_rng(0)
NETWORK = Network([9, 20, 12, 3], "tanh")  # wide, tall, and of few columns
WEIGHTS = [RNG.standard_normal(pair) for pair in ((9, 20), (20, 12), (12, 3))]
BIASES = [RNG.standard_normal(n) for n in (20, 12, 3)]
PARAMETERS = flatten(WEIGHTS, BIASES, NETWORK, np.dtype(float))
GRADIENTS = np.random.default_rng(1).standard_normal((6, PARAMETERS.size))
X, Y = RNG.standard_normal((90, 9)), RNG.standard_normal((90, 3))


@pytest.mark.parametrize("nesterov", [True, False])
@some_backends
def test_steps_are_the_published_ones(backend, nesterov):
    optimizer = Muon(0.05, 0.9, nesterov, weight_decay=0.1)
    state = initial_state(PARAMETERS.copy(), optimizer.moment_rows)
    weights, momenta = [w.copy() for w in WEIGHTS], [np.zeros_like(w) for w in WEIGHTS]
    adam, biases = naive.Adam(decay=0.1), np.concatenate(BIASES)
    for gradient in GRADIENTS:
        state.gradients[...] = gradient
        state = update(backend, NETWORK, optimizer, state, (0.05, 0.05))
        by_layer = dense_views(gradient, NETWORK)
        for w, m, (g, _) in zip(weights, momenta, by_layer, strict=True):
            m += 0.1 * (g - m)
            step = naive.orthogonalised(0.1 * g + 0.9 * m if nesterov else m)
            w[...] = (1 - 0.05 * 0.1) * w - 0.05 * 0.2 * np.sqrt(max(w.shape)) * step
        biases = adam.step(biases, np.concatenate([b for _, b in by_layer]), 0.05)
    found = dense_views(state.parameters, NETWORK)
    # Products of up to 20 terms, five rounds of which each may double an error: some hundred ulp of a step.
    for (w, _), expected in zip(found, weights, strict=True):
        np.testing.assert_allclose(w, expected, rtol=0, atol=2000 * eps(float))
    np.testing.assert_allclose(np.concatenate([b for _, b in found]), biases, rtol=0, atol=100 * eps(float))


def test_orthogonal_matrices_are_pytorchs():
    muon = pytest.importorskip("torch.optim._muon")
    torch = pytest.importorskip("torch")
    for matrix in WEIGHTS:
        given = torch.tensor(matrix.T), (3.4445, -4.7750, 2.0315), 5, 1e-7
        expected = muon._zeropower_via_newtonschulz(*given).double().numpy().T
        # PyTorch's products are of bfloat16 numbers, of 8 bits.
        np.testing.assert_allclose(naive.orthogonalised(matrix), expected, rtol=0, atol=0.05)


def fit(backend="fused", network=NETWORK, X=X, **options):
    given = {"epochs": 3, "seed": 0, "batch_size": 32, "optimizer": Muon(0.01)} | options
    return fastmlp.fit(network, X, Y, backend=backend, **given)


@some_backends
def test_sparse_rows_norms_and_averages_go_with_it(backend):
    sparse = scipy.sparse.csr_array(X * (X > 0.5))
    got, expected = (fit(one, X=sparse).parameters for one in (backend, "reference"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
    network = Network(inputs=9, layers=[Dense(8), LayerNorm(), "relu", Dense(3)])
    options = {"network": network, "average": EMA(0.9), "optimizer": Muon(0.01, clip_norm=0.5)}
    got, expected = (fit(one, **options).parameters for one in (backend, "reference"))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)


def test_a_frozen_layer_stays_and_biases_take_adamws_steps():
    model = fit(epochs=0)
    frozen = fit(optimizer=Muon(0.01, groups={"dense1": fastmlp.Group(rate=0)}), initial=model)
    np.testing.assert_array_equal(frozen.weights[0], model.weights[0])
    single = {"batch_size": None, "epochs": 1, "initial": model}
    muon, adam = fit(**single), fit(optimizer=AdamW(0.01), **single)
    np.testing.assert_allclose(muon.biases[0], adam.biases[0], rtol=0, atol=1e-15)
    assert np.abs(muon.weights[0] - adam.weights[0]).max() > 1e-4
