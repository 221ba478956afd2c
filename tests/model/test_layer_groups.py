"""Factors of rates and decays for each layer: what they do to a step, and what a frozen layer keeps."""

import numpy as np
import pytest
from support import layer_networks
from support.exchanged_models import own_gated, own_sine
from support.problems import data_set
from support.refusals import refusals
from support.selection import quick, some_backends

import fastmlp
from fastmlp import SGD, Adam, AdamW, BatchNorm, Concatenate, Dense, LayerNorm, Network, PReLU, Scale
from fastmlp.backend import registry
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

X, Y = data_set("diabetes", 40)
NETWORK = Network([10, 6, 5, 1], hidden="tanh", l2=0.01)

LION = fastmlp.Rule(
    "lion",
    lambda p, g, m, rate, c, t: (p - rate * np.sign(c.beta * m[0] + (1 - c.beta) * g), c.beta * m[0] + g),
    moments=1,
    constants={"beta": 0.9},
)

Activate, Group = fastmlp.Activate, fastmlp.Group

GATED = Network(inputs=10, layers=[Dense(4), own_gated, Dense(1)])

SPARED = Group(decay=0)
NO_BIASES = {"*.biases": SPARED}
NO_NORMS = ["*Norm", "Scale", "PReLU"]


def by_layer(rate=(1, 1, 1), decay=(1, 1, 1)):
    """Groups of the layers of a chain."""
    return {f"dense{i}": Group(*both) for i, both in enumerate(zip(rate, decay, strict=True), 1)}


OPTIMIZERS = {
    "sgd": SGD(0.05, groups=by_layer(rate=(1, 0.5, 0))),
    "momentum": SGD(0.05, 0.9, groups=by_layer(rate=(0, 1, 2))),
    "rmsprop": fastmlp.RMSprop(0.01, groups=by_layer(rate=(1, 0, 1))),
    "adam, clipped": Adam(0.01, clip_norm=0.5, groups=by_layer(rate=(1, 0, 2))),
    "adamw": AdamW(0.01, weight_decay=0.5, groups=by_layer(rate=(1, 1, 0.5), decay=(0, 1, 3))),
    "adamw, weights alone": AdamW(0.01, weight_decay=0.5, groups=NO_BIASES | by_layer(decay=(0, 1, 3))),
    "a rule": LION(0.01, weight_decay=0.5, groups=by_layer(rate=(1, 0, 1), decay=(1, 0, 1))),
    "without a schedule": fastmlp.ScheduleFreeAdamW(0.01, weight_decay=0.5, groups=NO_BIASES),
}


def train(optimizer, backend, network=NETWORK, **options):
    given = {"epochs": 3, "batch_size": 16, "seed": 0, "optimizer": optimizer, "backend": backend}
    return fastmlp.fit(network, X, Y, **given, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
@some_backends
def test_every_backend_takes_the_reference_s_steps(backend, name):
    got, expected = train(OPTIMIZERS[name], backend), train(OPTIMIZERS[name], "reference")
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=1e-12)


@some_backends
def test_factors_are_those_of_rate_and_decay(backend):
    """A single layer with factors is a network with other rates."""
    network = Network([10, 1])
    grouped = AdamW(0.01, weight_decay=0.1, groups={"Dense": Group(3, 2)})
    got, expected = train(grouped, backend, network), train(AdamW(0.03, weight_decay=0.2), backend, network)
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-12)


LAYERS = [
    Dense(9, "tanh", name="low"), LayerNorm(), PReLU(), Dense(6, "tanh"), BatchNorm(), Scale(), Dense(1),
]  # fmt: skip


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize(("norms", "biases"), [(False, True), (True, False), (False, False)])
@some_backends
def test_what_decays_is_what_a_parameter_group_of_pytorch_has(backend, norms, biases, clip_norm):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    network = Network(inputs=10, layers=LAYERS)
    y = Y + 1.0
    start = fastmlp.fit(network, X, y, epochs=0, seed=0, backend=backend, dtype="float64")
    spared = NO_NORMS * (not norms) + [*NO_BIASES] * (not biases)
    optimizer = AdamW(0.01, weight_decay=2.0, clip_norm=clip_norm, groups=dict.fromkeys(spared, SPARED))
    got = fastmlp.fit(
        network, X, y, optimizer=optimizer, epochs=5, batch_size=None, initial=start, backend=backend,
        dtype="float64",
    )  # fmt: skip
    module = start.to_torch().train()
    groups = {True: [], False: []}
    for part in module:
        for name, parameter in part.named_parameters():
            dense = isinstance(part, torch.nn.Linear)
            groups[(name == "weight" and dense) or (biases if dense else norms)].append(parameter)
    theirs = torch.optim.AdamW(
        [{"params": some, "weight_decay": 2.0 * decays} for decays, some in groups.items()], 0.01
    )
    rows, expected = torch.tensor(X), torch.tensor(y).reshape(-1, 1)
    for _ in range(5):
        theirs.zero_grad()
        torch.nn.functional.mse_loss(module(rows), expected).backward()
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
        theirs.step()
    np.testing.assert_allclose(got.predict(X), module.eval()(rows).detach().numpy(), rtol=1e-6, atol=1e-9)


def test_decays_go_by_kinds_and_by_arrays_of_blocks_and_layers():
    rng = np.random.default_rng(0)
    blocks = [fastmlp.Numbers(3, fastmlp.Periodic(4, sigma=0.5)), fastmlp.Categories((5, 9), width=2)]
    tilt = fastmlp.Layer("tilt", lambda x, t: t * x, {"t": ("units", 1.0)})
    network = Network(inputs=blocks, layers=[Dense(8), LayerNorm(), tilt, Dense(1)])
    rows = [rng.normal(size=(40, 3)), rng.integers(0, 5, (40, 2))]
    groups = dict.fromkeys(["*.biases", "LayerNorm", "tilt.t"], SPARED)
    optimizer = AdamW(0.01, weight_decay=2.0, groups=groups)
    given = {"epochs": 3, "seed": 0, "dtype": "float64", "progress": False}
    got, expected = (
        fastmlp.fit(network, rows, Y, optimizer=optimizer, backend=backend, **given)
        for backend in ("fused", "reference")
    )
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)
    decays = {
        one.kind.name: tuple(part.weight_decay for part in optimizer.of_layer(one))
        for one in network.operations
    }
    assert decays["dense"] == decays["grouped"] == (2.0, 0.0)
    assert decays["categories"] == decays["periodic"] == (2.0, 2.0)
    assert decays["layer_norm"] == decays["tilt"] == (0.0, 0.0)


right_input_gradient = baseline.input_gradient


def unknown_below_nine_units(delta, w, scratch, out):
    right_input_gradient(delta, w, scratch, out)
    if out.shape[1] == 9:
        for i in range(out.shape[0]):
            for j in range(9):
                out[i, j] = np.nan


@pytest.mark.slow  # compiles two programs, 15 s
def test_the_backward_pass_ends_where_nothing_trains(monkeypatch):
    """A variant in which the deltas of 9 units are NaN trains as another while these are not asked for."""
    variant = Variant("blind", baseline.VARIANT, {"input_gradient": unknown_below_nine_units})
    monkeypatch.setitem(registry.registered, "blind", variant)
    layers = [*LAYERS[:3], Dense(6, name="middle"), BatchNorm(), Concatenate("low"), Dense(1, name="top")]
    network = Network(inputs=10, layers=layers)

    def trained(backend, rates):
        optimizer = AdamW(0.01, groups={name: Group(rate) for name, rate in rates.items()})
        return train(optimizer, backend, network, dtype="float64", progress=False).parameters

    frozen = {"low": 0, "LayerNorm": 0, "PReLU": 0}
    for rates in (frozen, {**frozen, "middle": 0}, {**frozen, "middle": 0, "BatchNorm": 0}):
        np.testing.assert_array_equal(trained("blind", rates), trained("baseline", rates))
    with pytest.raises(fastmlp.DivergenceError):
        trained("blind", {**frozen, "LayerNorm": 1})


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@some_backends
def test_a_frozen_layer_stays_and_its_gradient_does_not_clip(backend, clip_norm):
    """All but the last layer frozen: the last one trains on features, as a network of its own would."""
    optimizer = Adam(0.01, clip_norm=clip_norm, groups=by_layer(rate=(0, 0, 1)))
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


test_mistakes = refusals(
    [
        (lambda: SGD(0.1, groups=(3,)), r"groups must be a dict of Group by names of layers, got \(3,\)"),
        (lambda: SGD(0.1, groups={"low": 0.1}), r"groups\['low'\] must be a Group, got 0.1"),
        (lambda: SGD(0.1, groups={1: Group()}), "name of groups must be the name or kind of a layer, got 1"),
        (lambda: Group(rate=-1), "rate must be at least 0, got -1"),
        (lambda: SGD(0.1, groups={"low": SPARED}), "decay of groups needs a weight_decay, and SGD has none"),
        (lambda: train(SGD(0.1, groups={"dense4": Group(2)}), "reference"),
         "no layer or array is 'dense4'; choose from: dense1, Dense, dense2, dense3"),
        (lambda: train(SGD(0.1, groups={"*.biases": Group(2)}), "reference"),
         "groups: 'dense1' must have one rate, got 1 and 2"),
        (lambda: train(AdamW(groups={"gated1.t": SPARED}), "reference", GATED),
         "groups: w, t of 'gated1' must be in one group"),
    ]
)  # fmt: skip


RATED = {
    "a kind": (
        [Dense(11, "relu", name="low"), LayerNorm(), Dense(3)],
        {"low": 0, "LayerNorm": 0.5}, {"low"},
    ),
    "what is in a residual": (
        [Dense(6, "relu"), fastmlp.Residual(LayerNorm(), Dense(6, name="deep"), name="block"), Dense(3)],
        {"deep": 1.0, "block": 0}, {"layer_norm1"},
    ),
    "members": (layer_networks.SHARING, {"low": 0}, {"low"}),
    "custom layers": (
        [Dense(6), Activate(own_sine, name="low"), Activate(own_gated, name="middle"), own_gated, Dense(3)],
        {"low": 0, "middle": 1.0, "gated": 0}, {"low", "gated2"},
    ),
}  # fmt: skip
"""Layers, their rates by names and kinds, and which of them stay."""


@quick(1)
@pytest.mark.parametrize("name", RATED)
def test_rates_go_by_names_and_kinds(name, rows):
    layers, rates, still = RATED[name]
    before = layer_networks.train(layers, rows, epochs=0).layers
    options = {
        "optimizer": Adam(0.01, groups={name: Group(rate) for name, rate in rates.items()}),
        "backend": "reference",
    }
    expected = layer_networks.train(layers, rows, **options)
    got = layer_networks.train(layers, rows, **options | {"backend": "fused"})
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)
    for model in (got, expected):
        moved = {
            layer
            for layer, arrays in model.layers.items()
            if any((array != before[layer][part]).any() for part, array in arrays.items())
        }
        assert {*before} - moved == still


def test_a_checkpoint_knows_of_them(tmp_path):
    path = tmp_path / "c"
    train(OPTIMIZERS["sgd"], "reference", callbacks=[fastmlp.Checkpoint(path)])
    with pytest.raises(fastmlp.CheckpointError, match="optimizer"):
        train(SGD(0.05), "reference", resume=path)
