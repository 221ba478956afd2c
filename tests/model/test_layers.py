"""Networks of layers: one result on every backend and number of threads, and what surrounds a training."""

import numpy as np
import pytest
import scipy.sparse
from support.layer_networks import BLOCK, EVERYTHING, INPUTS, LISTS, OUTPUTS, ROWS, network, train
from support.refusals import refusals
from support.selection import matrix, quick

import fastmlp
from fastmlp import SGD, Adam, AdamW, Add, BatchNorm, Dense, Dropout, LayerNorm, Network, Residual, Stepper
from fastmlp.model import layers as layers_module
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.lowering import KINDS

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


@quick(12)
@pytest.mark.parametrize("name", [*LISTS, *DROPPING])
def test_backends_agree_with_the_reference(name, rows):
    layers = LISTS.get(name) or DROPPING[name]
    expected = train(layers, rows, backend="reference")
    got = train(layers, rows, backend="fused")
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=1e-12)
    np.testing.assert_allclose(got.predict(rows[0]), expected.predict(rows[0]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimiser_steps_gains(optimizer, rows):
    layers = [Dense(11, "relu"), BLOCK, fastmlp.PReLU(), Dense(OUTPUTS, bias=False)]
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
    layers = [Dense(9, "tanh", **init), Dense(8, "relu", **init), Dropout(0.2), Dense(OUTPUTS, **init)]
    assert network(layers) == chain
    assert network(layers).is_chain
    assert (chain.widths, chain.activations) == ((INPUTS, 9, 8, OUTPUTS), ("tanh", "relu", "identity"))


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


def test_biases_of_another_model_do_not_become_hidden_ones(rows):
    chain = train([Dense(5, "relu"), Dense(OUTPUTS)], rows)
    with pytest.raises(ValueError, match=r"has dense1 \(dense, 7 to 5\) where .* \(dense, 7 to 5, no bias\)"):
        train([Dense(5, "relu", bias=False), Dense(OUTPUTS)], rows, initial=chain)


def test_an_activation_of_ones_own(rows):
    own = fastmlp.Activation("cubic", lambda z: z + 0.1 * z * z * z)
    layers = [Dense(6), LayerNorm(), own, Dense(OUTPUTS)]
    expected, got = (train(layers, rows, backend=backend) for backend in ("reference", "fused"))
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)


def test_what_the_backward_pass_gates_and_adds_is_known_beforehand():
    layers = [Dense(5, "relu"), Dense(5, "relu", name="low"), Dense(5), Add("low"), Dense(2)]
    found = [(one.kind.name, one.gates, one.gated, one.adds) for one in network(layers).operations]
    assert found == [
        ("dense", False, True, (False,)),  # whose relu the next one's gradient ends with
        ("dense", True, False, (False,)),  # two read it
        ("dense", False, False, (True,)),  # beside the gradient of the sum
        ("add", False, False, (False, False)),
        ("dense", False, False, (False,)),
    ]


def test_every_kind_is_trained_here():
    met = {
        one.kind.name
        for layers in (*LISTS.values(), *DROPPING.values())
        for one in network(layers).operations
    }
    # These have tests of their own.
    elsewhere = {"members", "scale_shift", "grouped"}
    elsewhere |= {kind.kind.name for kind in BLOCKS.values()}
    assert met == set(KINDS) - elsewhere


# --- what surrounds a training --------------------------------------------------------------------------


def test_a_row_left_alone_joins_the_batch_before_it(rows):
    """Of 50 rows in batches of 7 the last batch has 8; test_properties.py resumes such trainings."""
    X, y = rows
    given = {"batch_size": 7, "epochs": 3}
    unshuffled = train(EVERYTHING, rows, shuffle=False, **given)
    blocks = [(X[at : at + 15], y[at : at + 15]) for at in range(0, ROWS, 15)]
    for window in (7, 12, 49, 50):  # the last of 7 and of 49 have one row
        made = train(EVERYTHING, (blocks, None), shuffle=False, window=window, **given)
        np.testing.assert_array_equal(made.parameters, unshuffled.parameters)
    whole, expected = (train(EVERYTHING, rows, backend=one, **given) for one in ("fused", "reference"))
    np.testing.assert_allclose(whole.parameters, expected.parameters, rtol=1e-9, atol=1e-12)
    single = train(EVERYTHING, rows, batch_size=ROWS - 1, epochs=2)
    np.testing.assert_array_equal(
        single.parameters, train(EVERYTHING, rows, batch_size=None, epochs=2).parameters
    )


def test_a_model_tells_its_layers(rows):
    model = train(EVERYTHING, rows, epochs=0)
    shapes = {name: {part: array.shape for part, array in own.items()} for name, own in model.layers.items()}
    assert shapes["low"] == {"weights": (16, 8), "biases": (8,)}
    assert shapes["layer_norm1"] == {"gain": (16,), "shift": (16,)}
    model.layers["low"]["weights"][...] = 7
    assert (model.parameters == 7).sum() == 128
    table = str(model.network)
    assert table.splitlines()[0].split() == ["layer", "reads", "outputs", "parameters"]
    assert f"{model.parameters.size:,}" in table
    names = {name: getattr(fastmlp, name) for name in fastmlp.__all__}
    assert eval(repr(model.network), names) == model.network


test_a_mistake_is_one_line = refusals(
    [
        (lambda: network([Dense(4, "relu")]), ValueError, "must be a Dense without an activation"),
        (lambda: network([Dense(4), LayerNorm()]), ValueError, "the last of layers must be a Dense"),
        (lambda: network([Dense(4), Residual(Dense(5)), Dense(3)]), ValueError, "layers of 5 and 4 units"),
        (lambda: network([Dense(4), Add("low"), Dense(3)]), ValueError, "no earlier layer has the name"),
        (lambda: network([Dense(4, name="a"), Dense(4, name="a"), Dense(3)]), ValueError, "two layers have"),
        (lambda: network([]), ValueError, "layers must hold at least one layer"),
        (lambda: network(Dense(3)), TypeError, "layers must be a list of layers"),
        (lambda: network([Dense]), TypeError, "make an instance of it"),
        (lambda: network(["rleu", Dense(3)]), ValueError, "unknown activation 'rleu'"),
        (lambda: network([Dense(3)], hidden="tanh"), TypeError, "go with sizes"),
        (lambda: Network([3, 2], inputs=3, layers=[Dense(2)]), TypeError, "sizes, or inputs and layers"),
        (lambda: Network(), TypeError, "sizes, or inputs and layers"),
        (lambda: network([LayerNorm(), Dense(7, name="layer_norm1"), Dense(3)]), ValueError, "two layers"),
        (lambda: Dense(3, name="LayerNorm"), ValueError, "must not be that of a kind of layers"),
        (lambda: Add(["a"]), TypeError, "layer must be the name of an earlier layer"),
        (lambda: network([layers_module.Part(), Dense(3)]), TypeError, "a layer must be one of Activate, "),
        (lambda: network([type("Own", (Dense,), {})(3)]), TypeError, "a layer must be one of Activate, "),
        (lambda: network([Dense(3)], hidden=np.ones(2)), TypeError, "go with sizes"),
        (lambda: network([Dense(2**31), Dense(2**31)]), ValueError, r"more parameters than 2\^31"),
        (lambda: Dense(0), ValueError, "units must be at least 1"),
        (lambda: Dense(3, bias=False, bias_init="uniform"), ValueError, "bias=False has no bias_init"),
        (lambda: Dense(3, name="a b"), ValueError, "must be a word"),
        (lambda: Dropout(1), ValueError, r"dropout must be in \[0, 1\)"),
        (lambda: Residual(), ValueError, "at least one layer"),
        (lambda: LayerNorm(0), ValueError, "epsilon must be above 0"),
    ]
)  # fmt: skip


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_what_a_list_refuses_when_it_is_trained(backend, rows):
    X, y = rows
    sparse = scipy.sparse.csr_matrix(X)
    with pytest.raises(ValueError, match="sparse X needs a network whose first layer is a Dense"):
        train([LayerNorm(), Dense(OUTPUTS)], (sparse, y), backend=backend)
    train([Dense(5), LayerNorm(), Dense(OUTPUTS)], (sparse, y), backend=backend)
    for pattern in ("lo", "low.gain"):
        optimizer = SGD(0.1, groups={pattern: fastmlp.Group(rate=0)})
        with pytest.raises(ValueError, match=f"is '{pattern}'; choose from: dense1, Dense, "):
            train(EVERYTHING, rows, optimizer=optimizer, backend=backend)
    other = train([Dense(5), LayerNorm(), Dense(OUTPUTS)], rows, epochs=0)
    with pytest.raises(ValueError, match=r"it has dense1 \(dense, 7 to 5\) where the network has dense1"):
        train(EVERYTHING, rows, initial=other, backend=backend)
    with pytest.raises(ValueError, match="its arrays stand by name in `layers`"):
        other.weights  # noqa: B018


@matrix
@pytest.mark.parametrize("name", ["LayerNorm", "a norm of the inputs"])
def test_bytes_and_an_optimiser_of_sparse_updates(name, rows):
    X, y = rows
    for inputs, options in (
        (X, {"optimizer": fastmlp.SparseAdam(0.01)}),
        ((np.abs(X) * 60).clip(0, 255).astype(np.uint8), {"dtype": "float32"}),
    ):
        made = network(LISTS[name], input_scale=1 / 255) if inputs.dtype == np.uint8 else LISTS[name]
        expected, got = (
            train(made, (inputs, y), backend=backend, **options) for backend in ("reference", "fused")
        )
        tolerance = 1e-5 if inputs.dtype == np.uint8 else 1e-12
        np.testing.assert_allclose(got.parameters, expected.parameters, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_batch_norm_refuses_a_batch_of_one_row(backend, rows):
    layers, line = [Dense(5), BatchNorm(), Dense(OUTPUTS)], "at least 2 rows in every batch, and one has 1"
    one = rows[0][:1], rows[1][:1]
    for some, batch_size in ((rows, 1), (one, None), (one, 7), ([(one[0], one[1])], 7)):
        given = (some, None) if isinstance(some, list) else some
        with pytest.raises(ValueError, match=line):
            train(layers, given, batch_size=batch_size, backend=backend)
    stepper = Stepper(network(layers), Adam(), dtype="float64", backend=backend)
    with pytest.raises(ValueError, match=line):
        stepper.step(rows[0][:1], rows[1][:1])
    with pytest.raises(ValueError, match=line):
        stepper.forward(rows[0][:1], training=True)
    assert stepper.forward(rows[0][:1]).shape == (1, OUTPUTS)
