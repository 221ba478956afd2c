"""`Members`, networks that share matrices: as defined, as in PyTorch, and the same on every backend."""

import functools

import numpy as np
import pytest
from support import layer_networks
from support.custom_layers import MEMBERS as NORMED
from support.layer_networks import INPUTS, OUTPUTS, ROWS, SHARING, network
from support.refusals import refusals
from support.selection import matrix

from fastmlp import AdamW, Concatenate, Dense, Group, Head, Members, MLPClassifier, Residual
from fastmlp.backend import registry
from fastmlp.model.backend import Data

COUNT, CLASSES = 5, {"output": "softmax", "loss": "cross_entropy"}
train = functools.partial(layer_networks.train, optimizer=AdamW(0.01, weight_decay=0.1))


def alone(model, member):
    """Return a member as a network of its own, whose matrices have its factors."""
    layers = [one for one in model.network.layers if not isinstance(one, Members)]
    some = np.zeros((1, INPUTS)), np.full((1, OUTPUTS), 1 / OUTPUTS)
    own = train(model.network.replaced(layers=layers), some, epochs=0)
    for name, arrays in own.layers.items():
        parts = model.layers[name]
        if "r" in parts:
            weights = parts["r"][member][:, None] * parts["weights"] * parts["s"][member]
            parts = {"weights": weights, "biases": parts["biases"][member]}
        elif name != "dense1":
            parts = {key: array[member] for key, array in parts.items()}
        for key, array in arrays.items():
            array[...] = parts[key]
    return own


# --- what they are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "options"), [(SHARING, {}), (SHARING, CLASSES), (NORMED, {})], ids=["mse", "softmax", "norms"]
)
def test_each_member_is_a_network_with_its_factors(layers, options, rows):
    X, y = rows
    y = np.eye(OUTPUTS)[np.arange(ROWS) % OUTPUTS] if options else y
    model = train(network(layers, **options), (X, y), backend="fused")
    members = [alone(model, m) for m in range(COUNT)]
    outputs = np.stack([one.predict(X) for one in members])
    np.testing.assert_allclose(model.predict_members(X), outputs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.predict(X), outputs.mean(axis=0), rtol=1e-9, atol=1e-12)
    weights, evaluate = np.arange(ROWS) % 3.0, registry.get("fused").evaluate
    losses = [evaluate(one.network, one.parameters, Data(X, y, weights)) for one in members]
    got = evaluate(model.network, model.parameters, Data(X, y, weights))
    assert got == pytest.approx(np.mean(losses), rel=1e-12)


def test_the_first_factors_are_signs_and_the_others_ones(rows):
    parts = train([*SHARING[:-1], Dense(OUTPUTS, bias_init="uniform")], rows, epochs=0).layers
    assert set(np.unique(parts["low"]["r"])) == {-1.0, 1.0}
    ones = [parts["low"]["s"], *(parts[name][part] for name in ("dense3", "dense4") for part in "rs")]
    assert all((array == 1).all() for array in ones)
    assert {name: array.shape for name, array in parts["dense4"].items()} == {
        "r": (COUNT, 9), "weights": (9, OUTPUTS), "s": (COUNT, OUTPUTS), "biases": (COUNT, OUTPUTS),
    }  # fmt: skip
    assert (parts["dense4"]["biases"] == parts["dense4"]["biases"][0]).all()
    assert (parts["dense4"]["biases"] != 0).all()


@matrix
def test_blocks_of_some_rows_of_a_part_have_the_bits_of_all_rows_together(rows):
    # 8 rows of 16 members are a block of fused's; tiled takes all rows, and both sum by 16 rows.
    made = [Members(16), Dense(9, "tanh"), Dense(OUTPUTS)]
    threads = [train(made, rows, backend="fused", batch_size=37, threads=n) for n in (1, 2)]
    expected = train(made, rows, backend="tiled", batch_size=37)
    for model in threads:
        np.testing.assert_array_equal(model.parameters, expected.parameters)
        assert model.history["loss"] == expected.history["loss"]


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("reference", "float32"),
        *(pytest.param(name, "float32", marks=matrix) for name in ("fused", "baseline")),
    ],
)
def test_they_train_in_float32(backend, dtype, rows):
    losses = train(SHARING, rows, backend=backend, dtype=dtype, epochs=30).history["loss"]
    assert losses[-1] < 0.9 * losses[0]


# --- what surrounds a training ---------------------------------------------------------------------------


def test_decays_go_by_what_is_a_factor_and_what_a_bias():
    optimizer = AdamW(weight_decay=0.1, groups={"*.[rs]": Group(decay=0)})
    found = {
        one.part or one.kind.name: [part.weight_decay for part in optimizer.of_layer(one)]
        for one in network(SHARING).operations
        if one.name == "low"
    }
    assert found == {"r": [0.0, 0.0], "dense": [0.1, 0.1], "s": [0.0, 0.1]}


def test_an_estimator_takes_them(rows):
    classifier = MLPClassifier(layers=[Members(4), Dense(8, "relu")], max_iter=20, tol=10, random_state=0)
    classifier.fit(rows[0], rows[1][:, 0] > 0)
    np.testing.assert_allclose(classifier.predict_proba(rows[0]).sum(axis=1), 1, rtol=1e-6)
    assert classifier.model_.predict_members(rows[0]).shape == (4, ROWS, 1)


test_what_cannot_be_is_refused_in_a_line = refusals(
    [
        (lambda: Members(1), "count must be at least 2, got 1"),
        (lambda: network([Members(2), Members(3), Dense(1)]), r"has Members once, got Members\(count=3\)"),
        (lambda: network([Dense(4, name="a"), Members(2), Concatenate("a"), Dense(1)]),
         "the layer 'a' stands before Members"),
        (lambda: network([Residual(Members(2)), Dense(1)]), "adds layers of 14 and 7 units"),
        (lambda: network([Members(2), Dense(4)], heads={"a": Head(1), "b": Head(1)}), "heads do not go with"),
    ]
)  # fmt: skip


def test_a_network_without_members_has_no_outputs_of_theirs(rows):
    plain = train([Dense(OUTPUTS)], rows, epochs=0)
    with pytest.raises(ValueError, match="predict_members needs a network with Members"):
        plain.predict_members(rows[0])
