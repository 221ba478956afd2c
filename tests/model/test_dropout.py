"""Dropout: the masks are the same bits everywhere, and keep about 1 - p."""

import numpy as np
import pytest
from support import naive
from support.problems import COMPILED_DTYPES
from support.selection import crossed, some_backends

import fastmlp
from fastmlp.backend import reference_operations, registry
from fastmlp.model.backend import Data
from fastmlp.model.layout import dense_views, flatten

PLACES = [
    (0, 0, 0, 0.5), (7, 1, 2, 0.1), (2**32 - 1, 2**32 - 1, 1, 0.9), (123456789, 2**33 + 5, 0, 1e-9),
    (5, 10**12, 3, 0.999),
]  # fmt: skip


@pytest.mark.parametrize(("key", "step", "layer", "p"), PLACES)
def test_the_mask_is_the_transcribed_hash(key, step, layer, p):
    got = reference_operations.dropout_mask(key, step, layer, (9, 7), p)
    np.testing.assert_array_equal(got, naive.mask(key, step, layer, 9, 7, p))


@crossed(
    backend=registry.backends(), place=[place for place in PLACES if place[2] < 2], dtype=COMPILED_DTYPES
)
def test_the_units_that_a_backend_drops_are_the_masks(backend, place, dtype):
    key, step, layer, p = place
    # With ones everywhere and an identity, the last weights' gradient by row shows what was kept.
    dropout = [0.0, 0.0]
    dropout[layer] = p
    network = fastmlp.Network([1, 7, 7, 7], hidden="identity", dropout=dropout)
    weights = [np.ones((1, 7)), np.eye(7), np.eye(7)]
    parameters = flatten(weights, [np.zeros(7)] * 3, network, np.dtype(dtype))
    for rows in (1, 5):
        one = Data(np.ones((rows, 1), dtype), np.zeros((rows, 7), dtype), np.eye(rows, dtype=dtype)[-1])
        gradients = np.empty_like(parameters)
        registry.get(backend).gradient(network, parameters, one, key, step, gradients)
        kept = dense_views(gradients, network)[-1][1] != 0
        np.testing.assert_array_equal(kept, naive.mask(key, step, layer, rows, 7, p)[-1])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_a_mask_keeps_its_share_and_differs_by_step_layer_and_key(p):
    shape = (200, 100)
    masks = [
        reference_operations.dropout_mask(key, step, layer, shape, p)
        for key, step, layer in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))
    ]
    five_sigma = 5 * np.sqrt(p * (1 - p) / masks[0].size)
    for mask in masks:
        assert abs(mask.mean() - (1 - p)) < five_sigma
    for other in masks[1:]:
        together = (masks[0] & other).mean()
        assert abs(together - (1 - p) ** 2) < five_sigma


@some_backends
def test_prediction_and_validation_drop_nothing(backend):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    runs = [
        fastmlp.fit(fastmlp.Network([3, 8, 1], dropout=p), X, y, epochs=0, seed=1, backend=backend).predict(X)
        for p in (0.0, 0.9)
    ]
    np.testing.assert_array_equal(*runs)
    model = fastmlp.fit(
        fastmlp.Network([3, 8, 1], dropout=0.9), X, y, epochs=1, seed=1, backend=backend, validation=(X, y)
    )
    mean = np.mean((model.predict(X)[:, 0] - y) ** 2)
    assert model.history["validation_loss"][0] == pytest.approx(mean, rel=1e-13)
