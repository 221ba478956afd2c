"""Heads: PyTorch's losses and means, one result on every backend, and careless input in one line."""

import numpy as np
import pytest
from support.heads import BELOW, CLASS_WEIGHTS, GAPS, INPUTS, ROWS, WHOLE, X, fit, network, rows_of, single
from support.refusals import refusals

import fastmlp
from fastmlp import SGD, Categories, Dense, Head, LayerNorm, Network, Numbers, Quantiles, RowLoss, Stepper


def test_one_head_is_a_network_of_its_loss():
    one = Network(
        inputs=INPUTS,
        layers=[Dense(9, "tanh"), LayerNorm()],
        heads={"out": Head(2, loss=Quantiles((0.1, 0.9)))},
    )
    plain = Network(
        inputs=INPUTS, layers=[Dense(9, "tanh"), LayerNorm(), Dense(2)], loss=Quantiles((0.1, 0.9))
    )
    found, expected = fit(one, {"out": WHOLE["price"][:, 0]}), fit(plain, WHOLE["price"][:, 0])
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-12)
    np.testing.assert_allclose(found.history["out_loss"], expected.history["loss"], rtol=1e-12)


def test_a_single_head_is_a_network_like_others():
    layers = [Dense(5, "relu", l2=0.1)]
    one = Network(**BELOW, head=Head(2, loss="huber", layers=layers, weight=0.3), l2=0.01)
    assert one == Network(inputs=INPUTS, layers=[*BELOW["layers"], *layers, Dense(2)], loss="huber", l2=0.01)
    model = fit(one, WHOLE["price"], epochs=1, backend="reference")
    assert model.predict(X).shape == (ROWS, 2)
    assert [*model.history] == ["loss"]


def test_a_single_head_keeps_what_is_missing_and_its_weights():
    """Arrays of targets and outputs, and in the loss no factor; all else as with the head's name."""
    options = {"missing": True, "loss_weights": CLASS_WEIGHTS}
    net = single(**options)
    named = Network(**BELOW, heads={"kind": Head(4, loss="cross_entropy", output="softmax", **options)})
    model = fit(net, GAPS["kind"], validation=0.3)
    expected = fit(named, {"kind": GAPS["kind"]}, validation=0.3)
    np.testing.assert_array_equal(model.parameters, expected.parameters)
    assert model.history == {name: expected.history[name] for name in ("loss", "validation_loss")}
    np.testing.assert_array_equal(model.predict(X), expected.predict(X)["kind"])


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("targets", ["labels", "probabilities"])
def test_class_weights_are_pytorch_s(targets, backend):
    """A mean by the weights of classes: PyTorch's mean of labels; of probabilities its mean is by rows."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    y, weights = WHOLE["kind"], np.array(CLASS_WEIGHTS)
    if targets == "probabilities":
        y = np.random.default_rng(1).dirichlet(np.ones(4), ROWS)
    net = single(loss_weights=CLASS_WEIGHTS)
    stepper = Stepper(net, SGD(1.0), seed=1, dtype="float64", backend=backend)
    logits = torch.tensor(np.log(stepper.forward(X)), requires_grad=True)  # but for a number of each row
    expected = torch.nn.CrossEntropyLoss(weight=torch.tensor(weights))(logits, torch.tensor(y))
    if targets == "probabilities":
        expected = expected * ROWS / (y @ weights).sum()
    expected.backward()
    biases = slice(net.operations[-1].biases, net.operations[-1].trained)
    before = stepper.parameters[biases].copy()
    assert stepper.step(X, y) == pytest.approx(expected.item(), rel=1e-12)
    moved = before - stepper.parameters[biases]
    np.testing.assert_allclose(moved, logits.grad.sum(axis=0), rtol=1e-9, atol=1e-13)


def test_a_head_whose_targets_are_all_missing_learns_nothing():
    net, nothing = network(missing=True), {**GAPS, "price": np.full((ROWS, 2), np.nan)}
    start, model = fit(net, nothing, epochs=0), fit(net, nothing)
    assert model.history["price_loss"] == [0.0] * 3
    for name, array in model.layers["price"].items():
        np.testing.assert_array_equal(array, start.layers["price"][name])


def test_a_training_with_heads_goes_on_with_fewer_rows():
    net = network(missing=True, weighted=True)
    more = fit(net, GAPS, epochs=3, validation=0.2)
    first, last = (rows_of(GAPS, rows) for rows in (slice(90), slice(90, None)))
    fewer = more.fit_more(X[:90], first, epochs=1, validation=(X[90:], last))
    assert [len(curve) for curve in fewer.history.values()] == [4] * 8


PLAIN = Network([INPUTS, 4], output="softmax", loss="cross_entropy")
ROW_LOSS = RowLoss("row", lambda a, y: np.sum((a - y) * (a - y)))
BLOCKS = Network(
    inputs={"a": Numbers(2), "c": Categories([4])}, layers=[Dense(3)], heads={"kind": Head(4, loss="mse")}
)
CODES, KIND = WHOLE["kind"][:, None], {"kind": np.eye(4)[WHOLE["kind"]]}


test_careless_heads_are_one_line = refusals(
    [
        (lambda: fit(network(), {"price": WHOLE["price"]}), "it has no target for the heads kind, flag"),
        (lambda: fit(network(), {**WHOLE, "size": X}), "targets for heads that the network has not, size"),
        (lambda: fit(network(), WHOLE["price"]), "a dict of targets for price, kind, flag"),
        (lambda: fit(PLAIN, WHOLE), "got a dict of price, kind, flag; the network has no heads"),
        (lambda: fit(single(missing=True), WHOLE), "y must be one array, got a dict of price, kind, flag"),
        (lambda: fit(network(), GAPS), "must be finite"),
        (lambda: fit(network(), {**WHOLE, "kind": WHOLE["kind"] + 4}), "class labels 0..3"),
        (lambda: fit(network(), {**WHOLE, "price": WHOLE["price"][:, :1]}), r"y\['price'\] must have shape"),
        (lambda: Network(inputs=3, layers=[Dense(2)], heads={}), "heads must be a dict of Head"),
        (lambda: Network(inputs=3, layers=[Dense(2)], heads={"a": 3}), "a head must be Head"),
        (lambda: Network([3, 2], heads={"a": Head(1)}), "heads go with inputs and layers"),
        (lambda: Network(inputs=3, layers=[Dense(2)], heads={"a b": Head(1)}), "a word like"),
        (lambda: Network(inputs=3, layers=[Dense(2, name="a")], heads={"a": Head(1)}), "two layers have"),
        (lambda: Network(**BELOW, head=Head(1), heads={"a": Head(1)}), "and not both"),
        (lambda: Network(**BELOW, head=3), "head must be a Head"),
        (lambda: Network(**BELOW, head=Head(1), loss="mae"), "heads go with inputs and layers"),
        (lambda: Network([3, 2], head=Head(1)), "heads go with inputs and layers"),
        (lambda: Head(2, loss=ROW_LOSS, loss_weights=(1, 2)), "do not go with loss 'row'"),
        (lambda: fastmlp.MLPClassifier(heads={"a": Head(1)}), "heads"),
        (lambda: fastmlp.MLPRegressor(layers=[Head(1)]).fit(X, WHOLE["kind"]), "a layer must be one of"),
        (lambda: fastmlp.MLPRegressor().fit(X, WHOLE), "several heads are for fastmlp.fit and a Network"),
        (lambda: fastmlp.MLPClassifier().partial_fit(X, WHOLE, classes=[0, 1]), "several heads are for"),
        (lambda: fastmlp.MLPRegressor.from_model(fit(network(), WHOLE)), "this network has heads"),
        (
            lambda: fastmlp.MLPRegressor.from_model(
                fit(Network(inputs=[Categories([4])], layers=[Dense(1)]), X[:, 0], [CODES])
            ),
            "this network has blocks of inputs",
        ),
        (lambda: fit(BLOCKS, KIND, {"a": X[:, :2], "d": CODES}), "must have the blocks a, c; got"),
        (lambda: fit(BLOCKS, KIND, [X[:, :2], CODES[1:]]), r"as many rows each, got \[110, 109\]"),
        (lambda: fit(BLOCKS, KIND, [X[:, :2], CODES.astype(float)]), "must hold codes, whole numbers"),
        (lambda: fit(BLOCKS, KIND, [X[:, :2], CODES + 1]), "is no code: whole numbers from 0 to 3"),
        (lambda: Network(inputs=3, layers=[Dense(2)], heads={"validation": Head(1)}), "validation_loss"),
        (lambda: Network(inputs=3, layers=[Dense(2)], heads={"validation_a": Head(1)}), "validation_loss"),
        (lambda: Head(2, layers=5), "layers must be a list of layers, got 5"),
        (lambda: Head(2, layers=None), "layers must be a list of layers, got None"),
        (lambda: Head(2, weight=0), "weight"),
        (lambda: Head(2, loss_weights=[1.0]), "loss_weights must hold 2 numbers"),
        (lambda: Head(2, loss="gaussian", missing=True), "do not go with loss 'gaussian'"),
        (lambda: Head(1, loss="cross_entropy"), "output"),
    ]
)  # fmt: skip
