"""Networks of layers: PyTorch's definitions, one result on every backend and any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from support.layer_networks import BLOCK, INPUTS, LISTS, OUTPUTS, network, train

from fastmlp import (
    SGD,
    Activation,
    Adam,
    AdamW,
    Add,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    PReLU,
    Residual,
)
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.operations import KINDS

DROPPING = {
    "dropout of inputs": [Dropout(0.3), Dense(11, "relu"), Dense(OUTPUTS)],
    "dropout of a batch norm": [Dense(11, "tanh"), BatchNorm(), Dropout(0.4), Dense(OUTPUTS)],
    "dropout of a norm": [Dense(11, "relu"), LayerNorm(), Dropout(0.4), Dense(OUTPUTS)],
    "dropout with a residual": [
        Dense(11, "relu", name="low"), Dropout(0.4), BLOCK, Add("low"), Dense(OUTPUTS),
    ],
    "dropout at the end of one": [Residual(Dense(INPUTS), Dropout(0.3)), Dropout(0.1), Dense(OUTPUTS)],
    "dropout within one": [Dense(11, "gelu"), Residual(Dropout(0.3), Dense(11, "relu")), Dense(OUTPUTS)],
}  # fmt: skip

OPTIMIZERS = {"SGD": SGD(0.1), "AdamW": AdamW(0.01, weight_decay=0.1), "clipped": Adam(0.01, clip_norm=0.1)}


@pytest.mark.parametrize("name", [*LISTS, *DROPPING])
def test_backends_agree_with_the_reference(name, rows):
    layers = LISTS.get(name) or DROPPING[name]
    expected = train(layers, rows, backend="reference")
    got = train(layers, rows, backend="fused")
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=1e-12)
    np.testing.assert_allclose(got.predict(rows[0]), expected.predict(rows[0]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.matrix)])
@pytest.mark.parametrize(
    "name", ["Residual", "Concatenate", "PReLU", "BatchNorm in blocks", "dropout with a residual"]
)
def test_exact_backends_and_threads_have_the_same_bits(name, dtype, rows):
    layers = LISTS.get(name) or DROPPING[name]
    correct = train(layers, rows, backend="fused", dtype=dtype).parameters
    for backend, threads in (("fused", 2), ("packed", 1), ("packed", 3)):
        got = train(layers, rows, backend=backend, threads=threads, dtype=dtype).parameters
        np.testing.assert_array_equal(got, correct)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimiser_steps_gains(optimizer, rows):
    layers = [Dense(11, "relu"), BLOCK, PReLU(), Dense(OUTPUTS, bias=False)]
    ours, reference = (
        train(network(layers, l2=0.01), rows, optimizer=OPTIMIZERS[optimizer], backend=backend)
        for backend in ("fused", "reference")
    )
    np.testing.assert_allclose(ours.parameters, reference.parameters, rtol=1e-9, atol=1e-12)
    gains = ours.layers["layer_norm1"]["gain"], ours.layers["prelu1"]["gain"]
    assert all((gain != start).all() for gain, start in zip(gains, (1, 0.25), strict=True))


def test_a_list_of_like_layers_is_the_chain():
    chain = Network([INPUTS, 9, 8, OUTPUTS], ["tanh", "relu"], dropout=[0, 0.2], weight_init="he_normal")
    init = {"weight_init": "he_normal"}
    layers = [Dense(9, **init), "tanh", Dense(8, "relu", **init), Dropout(0.2), Dense(OUTPUTS, **init)]
    assert network(layers) == chain
    assert network(layers).sizes == chain.sizes


def test_penalties_of_a_layer_replace_those_of_the_network(rows):
    def layers(**own):
        return [Dense(11, "tanh", name="low", **own), Dense(OUTPUTS)]

    own, none, all_ = (
        train(network(made, l2=l2), rows, backend="fused").parameters
        for made, l2 in ((layers(l2=0.0), 0.1), (layers(), 0.0), (layers(), 0.1))
    )
    assert not np.allclose(own, none)
    assert not np.allclose(own, all_)
    reference = train(network(layers(l2=0.0), l2=0.1), rows, backend="reference").parameters
    np.testing.assert_allclose(own, reference, rtol=1e-9, atol=1e-12)


def test_rates_by_name_and_by_kind(rows):
    layers = [Dense(11, "relu", name="low"), LayerNorm(), Dense(OUTPUTS)]
    before = train(layers, rows, epochs=0)
    optimizer = Adam(0.01, layer_rates={"low": 0.0, "LayerNorm": 0.5})
    after, slow = (train(layers, rows, optimizer=optimizer, backend=name) for name in ("fused", "reference"))
    np.testing.assert_array_equal(after.layers["low"]["weights"], before.layers["low"]["weights"])
    assert (after.layers["layer_norm1"]["gain"] != 1).all()
    np.testing.assert_allclose(after.parameters, slow.parameters, rtol=1e-9, atol=1e-12)


def test_a_residual_s_name_is_for_what_is_in_it(rows):
    layers = [Dense(6, "relu"), Residual(LayerNorm(), Dense(6, name="deep"), name="block"), Dense(OUTPUTS)]
    before = train(layers, rows, epochs=0).layers
    for backend in ("fused", "reference"):
        optimizer = SGD(0.1, layer_rates={"block": 0, "deep": 1.0})
        after = train(layers, rows, optimizer=optimizer, backend=backend).layers
        np.testing.assert_array_equal(after["layer_norm1"]["shift"], before["layer_norm1"]["shift"])
        assert not np.array_equal(after["deep"]["weights"], before["deep"]["weights"])
        assert not np.array_equal(after["dense1"]["weights"], before["dense1"]["weights"])


def test_biases_of_another_model_do_not_become_hidden_ones(rows):
    chain = train([Dense(5, "relu"), Dense(OUTPUTS)], rows)
    with pytest.raises(ValueError, match=r"has dense1 \(dense, 7 to 5\) where .* \(dense, 7 to 5, no bias\)"):
        train([Dense(5, "relu", bias=False), Dense(OUTPUTS)], rows, initial=chain)


def test_an_activation_of_ones_own(rows):
    own = Activation("cubic", lambda z: z + 0.1 * z * z * z)
    layers = [Dense(6), LayerNorm(), own, Dense(OUTPUTS)]
    expected, got = (train(layers, rows, backend=backend) for backend in ("reference", "fused"))
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)


def test_every_kind_is_trained_here():
    met = {
        one.kind.name
        for layers in (*LISTS.values(), *DROPPING.values())
        for one in network(layers).operations
    }
    # A fixed norm is what predictions have in the place of a batch norm; the others have files of their own.
    elsewhere = {"fixed_norm", "own", "members", "scale_shift", "grouped"}
    elsewhere |= {kind.kind for kind in BLOCKS.values()} - {""}
    assert met == set(KINDS) - elsewhere
