"""Factors of rates and decays for each layer: what they do to a step, and what a frozen layer keeps."""

from __future__ import annotations

import numpy as np
import pytest
from problems import data_set
from selection import some_backends

import fastmlp
from fastmlp import SGD, Adam, AdamW, Network, RMSprop, Rule

X, Y = data_set("diabetes", 40)
NETWORK = Network([10, 6, 5, 1], hidden="tanh", l2=0.01)

LION = Rule(
    "lion",
    lambda p, g, m, rate, c, t: (p - rate * np.sign(c.beta * m[0] + (1 - c.beta) * g), c.beta * m[0] + g),
    moments=1,
    constants={"beta": 0.9},
)

OPTIMIZERS = {
    "sgd": SGD(0.05, layer_rates=(1, 0.5, 0)),
    "momentum": SGD(0.05, 0.9, layer_rates=(0, 1, 2)),
    "rmsprop": RMSprop(0.01, layer_rates=(1, 0, 1)),
    "adam, clipped": Adam(0.01, clip_norm=0.5, layer_rates=(1, 0, 2)),
    "adamw": AdamW(0.01, weight_decay=0.5, layer_rates=(1, 1, 0.5), layer_decays=(0, 1, 3)),
    "a rule": LION(0.01, weight_decay=0.5, layer_decays=(1, 0, 1), layer_rates=(1, 0, 1)),
}


def train(optimizer, backend, network=NETWORK, **options):
    given = {"epochs": 3, "batch_size": 16, "seed": 0, "optimizer": optimizer, "backend": backend}
    return fastmlp.fit(network, X, Y, **given, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
@some_backends
def test_every_backend_takes_the_reference_s_steps(backend, name):
    got, wanted = train(OPTIMIZERS[name], backend), train(OPTIMIZERS[name], "reference")
    np.testing.assert_allclose(got.parameters, wanted.parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got.history["loss"], wanted.history["loss"], rtol=1e-12)


@some_backends
def test_factors_are_those_of_rate_and_decay(backend):
    """A single layer with factors is a network with other rates."""
    network = Network([10, 1])
    grouped = AdamW(0.01, weight_decay=0.1, layer_rates=(3,), layer_decays=(2,))
    got, wanted = train(grouped, backend, network), train(AdamW(0.03, weight_decay=0.2), backend, network)
    np.testing.assert_allclose(got.parameters, wanted.parameters, rtol=1e-12)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@some_backends
def test_a_frozen_layer_stays_and_its_gradient_does_not_clip(backend, clip_norm):
    """All but the last layer frozen: the last one trains on features, as a network of its own would."""
    optimizer = Adam(0.01, clip_norm=clip_norm, layer_rates=(0, 0, 1))
    start = train(optimizer, backend, Network([10, 6, 5, 1], "tanh"), initial=None)
    first = fastmlp.fit(Network([10, 6, 5, 1], "tanh"), X, Y, epochs=0, seed=0, backend=backend)
    for layer in range(2):
        np.testing.assert_array_equal(start.weights[layer], first.weights[layer])
        np.testing.assert_array_equal(start.biases[layer], first.biases[layer])
    features = X
    for w, b in zip(first.weights[:2], first.biases[:2], strict=True):
        features = np.tanh(features @ w + b)
    alone = fastmlp.fit(
        Network([5, 1]), features, Y, optimizer=Adam(0.01, clip_norm=clip_norm), epochs=3, batch_size=16,
        seed=0, initial=([first.weights[2]], [first.biases[2]]), backend=backend,
    )  # fmt: skip
    np.testing.assert_allclose(start.weights[2], alone.weights[0], rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: SGD(0.1, layer_rates=3), "layer_rates must hold a number for each layer, got 3"),
        (lambda: SGD(0.1, layer_rates=(1, -1)), r"layer_rates\[1\] must be at least 0, got -1"),
        (lambda: SGD(0.1, layer_decays=(1,)), "layer_decays needs a weight_decay, and SGD has none"),
        (
            lambda: train(SGD(0.1, layer_rates=(1, 1)), "reference"),
            "must hold 3 numbers, one for each layer, got 2",
        ),
    ],
)
def test_mistakes(make, told):
    with pytest.raises((TypeError, ValueError), match=told):
        make()


def test_a_checkpoint_knows_of_them(tmp_path):
    path = tmp_path / "c"
    train(OPTIMIZERS["sgd"], "reference", callbacks=[fastmlp.Checkpoint(path)])
    with pytest.raises(fastmlp.CheckpointError, match="optimizer"):
        train(SGD(0.05), "reference", resume=path)
