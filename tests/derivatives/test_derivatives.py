"""Derivatives of a model, held to PyTorch's autograd and to the reference's gradients of single rows."""

import gc
import tracemalloc
import weakref

import numpy as np
import pytest
import scipy.sparse
from sklearn.datasets import load_diabetes
from sklearn.exceptions import NotFittedError
from support import layer_networks
from support.drawn_networks import drawn_network
from support.selection import seeds

import fastmlp
from fastmlp import SGD, Categories, Dense, Head, LayerNorm, Members, Network, Numbers, SparseNumbers, Stepper
from fastmlp.backend import reference
from fastmlp.data.arrays import clean_rows_of, clean_targets
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Data

torch = pytest.importorskip("torch")
ROWS = 5

ENDS = [("identity", "mse"), ("sigmoid", "mse"), ("softmax", "cross_entropy"), ("exp", "poisson")]
"""Outputs and losses of chains whose deltas come from machine code."""

NO_SECOND_AT_0 = ("elu", "selu")
"""Activations whose second derivative jumps at 0; others that have a kink there have none on either side."""


def model_of(network, seed=0, dtype="float64", backend="reference"):
    return Stepper(network, SGD(), seed=seed, dtype=dtype, backend=backend).model()


def close(found, expected, factor=1e-9):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=factor * max(1, np.abs(expected).max(initial=0)))


def by_torch(model, X, function):
    """A function of PyTorch's autograd, of each row."""
    module = model.to_torch().double()
    rows = torch.tensor(X, dtype=torch.float64)
    return np.stack([function(lambda x: module(x[None])[0], row).detach().numpy() for row in rows])


def check_inputs(model, X, rng):
    jacobian = by_torch(model, X, torch.autograd.functional.jacobian)
    outs, place = jacobian.shape[1], int(rng.integers(jacobian.shape[1]))
    hessian = by_torch(model, X, lambda f, x: torch.autograd.functional.hessian(lambda x: f(x)[place], x))
    U, V = rng.normal(size=(len(X), outs)), rng.normal(size=X.shape)
    close(model.jacobian(X), jacobian)
    close(model.input_gradient(X, place), jacobian[:, place])
    close(model.vjp(X, U), np.einsum("rki,rk->ri", jacobian, U))
    close(model.jvp(X, V), np.einsum("rki,ri->rk", jacobian, V))
    close(model.hessian(X, place), hessian, 1e-8)
    close(model.hvp(X, V, place), np.einsum("rij,rj->ri", hessian, V), 1e-8)


def check_parameters(model, X, y):
    """Hold gradients of rows to those of the reference, which takes one row at a time."""
    network, dtype = model.network, model.parameters.dtype
    dropped = [one for one in network.layers if not isinstance(one, fastmlp.Dropout)]
    plain = network.replaced(layers=dropped) if network.is_chain else network
    inputs, targets = clean_rows_of("X", plain, X, dtype), clean_targets("y", y, plain, ROWS, dtype)
    expected = np.zeros((ROWS, len(model.parameters)), dtype)
    for row in range(ROWS):
        one = slice(row, row + 1)
        passed = reference.pass_forward(plain, model.parameters, inputs[one], None, 0)
        data = Data(inputs[one], targets[one], np.ones(1, dtype))
        if plain.heads:
            delta = reference.heads_loss(plain, passed.heads(plain), *data[1:], np.ones(len(plain.heads)))[1]
        else:
            delta = reference.members_loss(plain, passed.logits[-1], data, 1.0)[1]
        reference.pass_back(plain, model.parameters, passed, delta, expected[row])
    found = model.parameter_gradients(X, y)
    close(found, expected)
    close(model.gradient_norms(X, y), np.linalg.norm(expected, axis=1))


@pytest.mark.parametrize("seed", seeds(12, 40, 40))
def test_drawn_networks(seed):
    rng = np.random.default_rng(seed)
    model = model_of(drawn_network(rng, dropout=False, members=True), seed)
    X = rng.normal(size=(ROWS, model.network.n_in))
    check_inputs(model, X, rng)
    check_parameters(model, X, rng.random(size=(ROWS, model.network.n_out)))


@pytest.mark.parametrize("seed", seeds(8, 20, 20))
def test_compiled_passes(seed):
    """Models of compiled backends go through machine code, those of the reference through a tape."""
    rng = np.random.default_rng(100 + seed)
    network = drawn_network(rng, own=(), dropout=False, members=True)
    if seed % 2:
        sizes = [int(size) for size in rng.integers(1, 40, rng.integers(2, 5))]
        output, loss = ENDS[seed // 2 % len(ENDS)]
        sizes[-1] += output == "softmax"
        network = Network(sizes, hidden="tanh", output=output, loss=loss, input_scale=0.5)
    slow, fast = (model_of(network, seed, backend=backend) for backend in ("reference", "fused"))
    rows = int(rng.integers(1, 200))
    X, U = rng.normal(size=(rows, network.n_in)), rng.normal(size=(rows, network.n_out))
    y = rng.random(size=(rows, network.n_out))
    y /= y.sum(axis=1, keepdims=True)
    for call in (
        lambda model: model.jacobian(X), lambda model: model.vjp(X, U),
        lambda model: model.input_gradient(X, 0), lambda model: model.gradient_norms(X, y),
        *([lambda model: model.jacobian(X, logits=True)] if network.members == 1 else []),
    ):  # fmt: skip
        close(call(fast), call(slow), 1e-11)


def by_inputs(model, X, V):
    yield model.jacobian(X)
    yield model.jvp(X, V)
    yield model.hessian(X, 1)
    yield model.hvp(X, V, 1)
    yield model.hessian(X, 1, logits=True)


OWN = fastmlp.Activation("wave", lambda z: np.sin(z) * z)


@pytest.mark.parametrize("hidden", [*HIDDEN, OWN])
def test_derivatives_of_chains_go_by_columns(hidden):
    """Rows are columns of all matrices, as many as a tile has; the last ones may be some of those before."""
    place = [*HIDDEN, OWN].index(hidden)
    rng = np.random.default_rng(place)
    output, loss = ENDS[place % len(ENDS)]
    dtype = ["float32", "float64"][place % 2]
    factor = 1e-4 if dtype == "float32" else 1e-11
    for sizes in ((17, 20, 9, 6), (5, 3), (1, 4, 2)):
        network = Network(sizes, hidden=hidden, output=output, loss=loss, input_scale=0.5)
        fast = model_of(network, dtype=dtype, backend="fused")
        slow = model_of(network, dtype="float64", backend="reference")
        slow.parameters[:] = fast.parameters
        for rows in (24, 96, 121):
            X, V = (rng.normal(size=(rows, sizes[0])).astype(dtype) for _ in range(2))
            pairs = zip(by_inputs(fast, X, V), by_inputs(slow, X, V), strict=True)
            for found, expected in pairs:
                close(found, expected, factor)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("kind", ["chain", "heads", "members"])
def test_an_infinite_output_leaves_the_derivatives_of_others(backend, kind):
    layers = [Members(2), Dense(2)] if kind == "members" else [Dense(2)]
    if kind == "heads":
        heads = {"a": Head(1, loss="poisson"), "b": Head(1, loss="poisson")}
        network = Network(inputs=3, layers=[Dense(4, "tanh")], heads=heads)
    else:
        network = Network(inputs=3, layers=layers, output="exp", loss="poisson")
    model, X = model_of(network, backend=backend), np.random.default_rng(0).normal(size=(60, 3))
    biases = [arrays["biases"] for arrays in model.layers.values() if len(arrays["biases"]) < 4]
    expected = model.jacobian(X)[:, 1]
    biases[0][..., 0] = 1e4
    if kind == "members":
        biases[0].reshape(-1, 2)[:, 0] = 1e4
    output = ("b", 0) if kind == "heads" else 1
    for X_ in (np.vstack([X, X]), X[:5]):
        np.testing.assert_array_equal(np.isfinite(model.jacobian(X_)[:, 0]), False)
        close(model.jacobian(X_)[:5, 1], expected[:5])
        close(model.input_gradient(X_, output)[:5], expected[:5])
        assert np.isfinite(model.hessian(X_, output)).all()


@pytest.mark.parametrize("sizes", [(2, 5, 30), (10, 5, 30), (700, 900)])
def test_many_outputs_take_bounded_memory(sizes):
    """Of few inputs a Jacobian goes forward, of more back, and neither holds more than blocks of rows."""
    model = model_of(Network(sizes, hidden="tanh"), dtype="float32", backend="fused")
    X = np.random.default_rng(0).normal(size=(60, sizes[0])).astype("f")
    tracemalloc.start()
    found = model.jacobian(X)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * found.nbytes + (64 << 20)
    rows = model.jacobian(X[:3])
    close(found[:3], rows, 1e-6)
    V = np.random.default_rng(1).normal(size=(60, sizes[0])).astype("f")
    close(np.einsum("rki,ri->rk", found, V), model.jvp(X, V), 1e-4)


def test_a_model_that_waits_for_its_next_call_holds_no_rows():
    model = model_of(Network([4, 6, 2]), backend="fused")
    X, y = np.random.default_rng(0).normal(size=(50, 4)), np.zeros((50, 2))
    gc.collect()
    gc.disable()
    try:
        for name, given in (("jacobian", ()), ("gradient_norms", (y,))):
            rows = X.copy()
            left = weakref.ref(rows)
            result = weakref.ref(getattr(model, name)(rows, *given))
            del rows
            assert left() is None
            assert result() is None
        kept = weakref.ref(fastmlp.derivatives.input_derivatives.idle_passes[model])
        del model
        assert kept() is None  # no cycle holds the memory of its passes
    finally:
        gc.enable()


def test_names_of_parameters():
    layers = [Dense(2, name="code"), LayerNorm(), Dense(1)]
    model = model_of(Network(inputs=3, layers=layers))
    names = model.parameter_names
    assert (names[0], names[3], len({*names})) == ("code.weights[0, 0]", "code.weights[1, 1]", len(names))
    for layer, arrays in model.layers.items():
        for array, values in arrays.items():
            for place, value in np.ndenumerate(values):
                assert (
                    model.parameters[names.index(f"{layer}.{array}[{', '.join(map(str, place))}]")] == value
                )


def test_many_models():
    rng = np.random.default_rng(0)
    models = [model_of(Network([4, 5, 2]), seed, backend="fused") for seed in range(5)]
    X = rng.normal(size=(300, 4))
    found = fastmlp.jacobian_many(models, X)
    np.testing.assert_array_equal(found, np.stack([model.jacobian(X) for model in models]))
    with pytest.raises(ValueError, match="models must have the same inputs and outputs"):
        fastmlp.jacobian_many([models[0], model_of(Network([3, 2]))], X)
    with pytest.raises(TypeError, match="models must be a list of Model"):
        fastmlp.jacobian_many(models[0], X)


@pytest.mark.parametrize("activation", HIDDEN)
def test_activations_at_kinks_too(activation):
    rng = np.random.default_rng(0)
    model = model_of(Network([4, 6, 2], hidden=activation))
    X = rng.normal(size=(ROWS, 4))
    X[: activation not in NO_SECOND_AT_0] = 0  # the first logits are 0 then
    check_inputs(model, X, rng)


@pytest.mark.parametrize("name", [name for name, _ in layer_networks.formulas().items()])
def test_every_layer(name):
    rng = np.random.default_rng(0)
    layers = [Dense(12, "tanh", name="low"), Dense(12, "silu"), layer_networks.formulas()[name], Dense(2)]
    model = model_of(Network(inputs=4, layers=layers))
    model.parameters += 0.1 * rng.normal(size=len(model.parameters))
    X = rng.normal(size=(ROWS, 4))
    check_inputs(model, X, rng)
    check_parameters(model, X, rng.random(size=(ROWS, 2)))


@pytest.mark.parametrize("name", [name for name, _ in layer_networks.blocks()])
def test_every_block_of_inputs(name):
    rng = np.random.default_rng(0)
    block = dict(layer_networks.blocks())[name]
    network = Network(inputs=[block, Numbers(2)], layers=[Dense(5, "tanh"), Dense(2)])
    X = [layer_networks.rows_of(block, ROWS, rng), rng.normal(size=(ROWS, 2))]
    y = rng.normal(size=(ROWS, 2))
    model = fastmlp.fit(network, X, y, epochs=1, seed=0, progress=False, dtype="float64", backend="reference")
    check_parameters(model, X, y)
    X = [layer_networks.rows_of(block, ROWS, rng), rng.normal(size=(ROWS, 2))]  # others: quantiles are kinks
    codes, found = block.columns if block.codes else 0, model.jacobian(X)
    assert not found[..., :codes].any()
    for column in range(codes, block.columns + 2):
        step = np.zeros(block.columns + 2)
        step[column] = 1e-6
        parts = np.split(step, [block.columns])
        up, down = (
            model.predict([x + sign * part if part.any() else x for x, part in zip(X, parts, strict=True)])
            for sign in (1, -1)
        )
        close(found[..., column], (up - down) / 2e-6, 1e-6)


def test_heads_stand_side_by_side():
    rng = np.random.default_rng(0)
    heads = {"price": Head(1), "kind": Head(3, loss="cross_entropy"), "count": Head(1, loss="poisson")}
    network = Network(inputs=4, layers=[Dense(6, "tanh")], heads=heads)
    model, X = model_of(network), rng.normal(size=(ROWS, 4))
    y = {"price": rng.normal(size=ROWS), "kind": rng.integers(0, 3, ROWS), "count": rng.integers(0, 4, ROWS)}
    check_parameters(model, X, y)
    module = model.to_torch().double()
    expected = np.stack([
        torch.autograd.functional.jacobian(
            lambda x: torch.cat([*module(x[None]).values()], dim=1)[0], torch.tensor(row)
        ).numpy()
        for row in X
    ])  # fmt: skip
    close(model.jacobian(X), expected)
    close(model.input_gradient(X, ("kind", 1)), expected[:, 2])
    close(model.input_gradient(X, "count"), expected[:, 4])
    with pytest.raises(ValueError, match=r"the head 'kind' has 3 outputs"):
        model.input_gradient(X, "kind")
    with pytest.raises(ValueError, match="output must be one of price, kind, count, got None"):
        model.input_gradient(X)


@pytest.mark.parametrize(
    ("output", "loss"), [("softmax", "cross_entropy"), ("sigmoid", None), ("exp", "poisson")]
)
def test_logits(output, loss):
    rng = np.random.default_rng(0)
    network = Network([4, 6, 3], output=output, loss=loss, hidden="tanh", input_scale=0.5)
    model, X = model_of(network), rng.normal(size=(ROWS, 4))
    check_inputs(model, X, rng)
    check_parameters(model, X, np.eye(3)[rng.integers(0, 3, ROWS)])
    bare = network.replaced(output="identity", loss="mse")
    close(model.jacobian(X, logits=True), model_of(bare).jacobian(X))


def test_sparse_rows_have_derivatives_at_their_entries():
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(40, 7)) * (rng.random((40, 7)) < 0.3)
    X, model = scipy.sparse.csr_array(dense), model_of(Network([7, 5, 2], hidden="tanh"))
    expected = model.input_gradient(dense, 1)
    found = model.input_gradient(X, 1)
    np.testing.assert_array_equal(found.toarray(), np.where(dense != 0, expected, 0))
    np.testing.assert_array_equal(model.input_gradient(X, 1, dense=True), expected)
    close(model.jacobian(X), model.jacobian(dense))
    found.data[:] = 0
    found.eliminate_zeros()
    np.testing.assert_array_equal(X.toarray(), dense)  # the matrix shares nothing with X
    assert isinstance(model.input_gradient(scipy.sparse.csr_matrix(dense), 1), scipy.sparse.csr_matrix)


def test_sparse_blocks():
    rng = np.random.default_rng(0)
    network = Network(
        inputs=[SparseNumbers(3), Numbers(2, fastmlp.Periodic(3)), Categories([4])],
        layers=[Dense(5, "tanh"), Dense(1)],
    )
    dense = rng.normal(size=(ROWS, 3)) * (rng.random((ROWS, 3)) < 0.5)
    X = [scipy.sparse.csr_array(dense), rng.normal(size=(ROWS, 2)), rng.integers(0, 4, (ROWS, 1))]
    y = rng.normal(size=ROWS)
    model = fastmlp.fit(network, X, y, epochs=1, seed=0, progress=False, dtype="float64", backend="reference")
    check_parameters(model, X, y)
    found, step = model.jacobian(X), 1e-6
    for column in range(3):
        more = dense.copy()
        more[:, column] += step
        out = (model.predict([scipy.sparse.csr_array(more), *X[1:]]) - model.predict(X)) / step
        close(found[..., column], out, 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_of_rows_and_dtypes(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    model = model_of(Network([4, 6, 2], hidden="gelu"), dtype=dtype)
    X, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    whole = model.jacobian(X), model.hessian(X, 0), model.gradient_norms(X, y)
    monkeypatch.setattr(fastmlp.derivatives.input_derivatives, "MOST_NUMBERS", 100)
    for found, expected in zip(
        (model.jacobian(X), model.hessian(X, 0), model.gradient_norms(X, y)), whole, strict=True
    ):
        assert found.dtype == dtype
        close(found, expected, 1e-5 if dtype == "float32" else 1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_estimators():
    options = {"hidden_layer_sizes": (8,), "activation": "tanh", "max_iter": 3, "random_state": 0}
    X, y = load_diabetes(return_X_y=True)
    regressor = fastmlp.MLPRegressor(**options).fit(X, y)
    gradient, step = regressor.input_gradient(X), np.zeros(10)
    step[2] = 1e-6
    slope = (regressor.predict(X + step) - regressor.predict(X - step)) / 2e-6
    close(gradient[:, 2], slope, 1e-6)
    classifier = fastmlp.MLPClassifier(**options).fit(X, y // 120)
    assert classifier.jacobian(X).shape == (len(X), 3, 10)
    slope = (classifier.predict_proba(X + step) - classifier.predict_proba(X - step)) / 2e-6
    close(classifier.jacobian(X)[..., 2], slope, 1e-6)
    for call in (regressor.jacobian, regressor.attribute):
        with pytest.raises(ValueError, match="X has 3 features"):
            call(X[:, :3])
    with pytest.raises(NotFittedError):
        fastmlp.MLPRegressor().input_gradient(X)
    logits = classifier.jacobian(X, logits=True)
    np.testing.assert_array_equal(logits, classifier.model_.jacobian(X, logits=True))
    sparse = scipy.sparse.csr_array(X)
    close(regressor.input_gradient(sparse, dense=True), gradient)
    frame = load_diabetes(as_frame=True).data
    named = fastmlp.MLPRegressor(**options).fit(frame, y).attribute(frame[:20], X.mean(axis=0), steps=20)
    assert named.names == tuple(frame.columns)
    close(named.change, regressor.predict(X[:20]) - regressor.predict(X.mean(axis=0)[None]))
    assert named.error < 1e-6


def test_hidden_units():
    rng = np.random.default_rng(0)
    layers = [Dense(6, "tanh", name="code"), LayerNorm(), fastmlp.PReLU(), Dense(2)]
    model, X = model_of(Network(inputs=4, layers=layers)), rng.normal(size=(ROWS, 4))
    weights = model.layers["code"]
    code = np.tanh(X @ weights["weights"] + weights["biases"])
    close(model.hidden(X, "code"), code)
    close(model.hidden(X, 0), code)
    close(model.hidden(X, -1), model.predict(X))
    swish = fastmlp.Layer("swish", lambda z, a: z * a, parameters={"a": ("units", 2.0)})
    heads = {"price": Head(1), "kind": Head(3, loss="cross_entropy")}
    model = model_of(Network(inputs=4, layers=[Dense(6, swish, name="code")], heads=heads))
    weights = model.layers["code"]
    close(model.hidden(X, "code"), 2 * (X @ weights["weights"] + weights["biases"]))
    close(model.hidden(X, "kind"), model.predict(X)["kind"])
    model = model_of(Network(inputs=4, layers=[Members(2), Dense(3, "tanh", name="code"), Dense(1)]))
    assert model.hidden(X, "code").shape == (ROWS, 6)
    assert np.abs(model.hidden(X, "code")).max() < 1
    with pytest.raises(ValueError, match=r"layer must be one of code, .*, got 'cod'"):
        model.hidden(X, "cod")


@pytest.mark.parametrize("options", [{"missing": True}, {"missing": True, "loss_weights": [1.0, 3.0, 1.0]}])
def test_rows_with_missing_targets_have_gradients_of_their_own_mean(options):
    rng = np.random.default_rng(0)
    model = model_of(Network(inputs=4, layers=[Dense(5, "tanh")], head=Head(3, **options)))
    X, y = rng.normal(size=(ROWS, 4)), rng.normal(size=(ROWS, 3))
    y[0, 1] = np.nan
    expected = np.zeros((ROWS, len(model.parameters)))
    for row in range(ROWS):
        stepper = Stepper(model.network, SGD(1.0), initial=model, backend="reference", dtype="float64")
        stepper.step(X[row : row + 1], y[row : row + 1])
        expected[row] = model.parameters - stepper.parameters
    close(model.parameter_gradients(X, y), expected)
    close(model.gradient_norms(X, y), np.linalg.norm(expected, axis=1))


def test_vectors_of_heads_and_blocks_go_by_name():
    rng = np.random.default_rng(0)
    heads = {"price": Head(1), "kind": Head(3)}
    model = model_of(
        Network(inputs={"a": Numbers(2), "b": Numbers(1)}, layers=[Dense(5, "tanh")], heads=heads)
    )
    X = {"a": rng.normal(size=(ROWS, 2)), "b": rng.normal(size=(ROWS, 1))}
    U = {"kind": rng.normal(size=(ROWS, 3)), "price": rng.normal(size=ROWS)}
    flat = np.hstack([U["price"][:, None], U["kind"]])
    np.testing.assert_array_equal(model.vjp(X, U), model.vjp(X, flat))
    np.testing.assert_array_equal(
        model.jvp(X, {"b": X["b"], "a": X["a"]}), model.jvp(X, np.hstack([*X.values()]))
    )
    with pytest.raises(ValueError, match=r"U must have price, kind, got \['price', 'sort'\]"):
        model.vjp(X, {"price": U["price"], "sort": U["kind"]})


def test_careless_input_gets_one_line():
    model, X = model_of(Network([4, 3, 2])), np.ones((5, 4))
    for call, message in (
        (lambda: model.input_gradient(X), "output must be one of the 2 outputs, 0 is the first; got None"),
        (lambda: model.input_gradient(X, 2), "output must be"),
        (lambda: model.vjp(X, np.full((5, 2), np.nan)), "U must be finite"),
        (lambda: model.attribute(X, np.ones((0, 4)), output=0, method="expected"),
         "baseline must have shape"),
        (lambda: model.vjp(X, np.ones((5, 3))), r"U must have shape \(5, 2\), got \(5, 3\)"),
        (lambda: model.jvp(X, np.ones((4, 4))), r"V must have shape \(5, 4\), got \(4, 4\)"),
        (lambda: model.jacobian(np.ones((5, 3))), "X must have"),
        (lambda: model.parameter_gradients(X, np.ones((4, 2))), "y must have"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    for output in (False, "", 0.0):
        with pytest.raises((ValueError, TypeError), match="output must be"):
            model.input_gradient(X, output)
    with pytest.raises(ValueError, match="not defined of a network with Members"):
        model_of(Network(inputs=4, layers=[Members(2), Dense(1)])).jacobian(X, logits=True)


@pytest.mark.parametrize("hidden", ["tanh", "relu"])
def test_attributions_sum_to_the_change(hidden):
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(axis=0), (y - y.mean()) / y.std()
    network = Network([10, 16, 1], hidden=hidden)
    model = fastmlp.fit(network, X, y, epochs=20, seed=0, progress=False, dtype="float64")
    found = model.attribute(X, X.mean(axis=0), steps=100)
    change = (model.predict(X) - model.predict(X.mean(axis=0, keepdims=True)))[:, 0]
    close(found.change, change)
    assert found.error == pytest.approx(np.abs(found.values.sum(axis=1) - change).max(), abs=1e-14)
    assert found.error < {"tanh": 1e-12, "relu": 0.01}[hidden]
    expected = model.attribute(X[:20], X, method="expected", steps=2000)
    close(expected.change, model.predict(X[:20])[:, 0] - model.predict(X).mean())
    assert expected.error < 0.15
    ax = found.plot(names=load_diabetes().feature_names)
    assert len(ax.patches) == 10


def test_attributions_of_a_linear_network_are_exact():
    rng = np.random.default_rng(0)
    model, X = model_of(Network([4, 2])), rng.normal(size=(ROWS, 4))
    base = rng.normal(size=4)
    found = model.attribute(X, base, output=1, steps=1)
    close(found.values, (X - base) * model.weights[0][:, 1])
    assert found.error < 1e-12
    with pytest.raises(ValueError, match="method='expected' needs baseline"):
        model.attribute(X, method="expected", output=0)
    with pytest.raises(ValueError, match=r"baseline must have shape \(4,\) or \(5, 4\), got \(3,\)"):
        model.attribute(X, np.ones(3), output=0)
    codes = model_of(Network(inputs=[Categories([3])], layers=[Dense(1)]))
    with pytest.raises(ValueError, match="no line leads from one code to another"):
        codes.attribute(np.zeros((2, 1), int))


def test_attributions_with_sparse_blocks():
    rng = np.random.default_rng(0)
    network = Network(inputs=[SparseNumbers(3), Numbers(2)], layers=[Dense(5, "tanh"), Dense(1)])
    dense = rng.normal(size=(ROWS, 3)) * (rng.random((ROWS, 3)) < 0.5)
    X = [scipy.sparse.csr_array(dense), rng.normal(size=(ROWS, 2))]
    model = model_of(network)
    found = model.attribute(X, steps=30)
    zero = model.predict([scipy.sparse.csr_array((1, 3)), np.zeros((1, 2))])
    close(found.change, (model.predict(X) - zero)[:, 0])
    assert found.error < 1e-9
    np.testing.assert_array_equal(found.values[:, :3][dense == 0], 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_mapie_s_intervals_hold_their_share():
    """The figure of docs/explain.md."""
    regression = pytest.importorskip("mapie.regression")
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = load_diabetes(return_X_y=True)
    X, held, y, targets = train_test_split(X, y, random_state=0)
    estimator = make_pipeline(StandardScaler(), fastmlp.MLPRegressor(random_state=0, max_iter=60))
    conformal = regression.CrossConformalRegressor(estimator, confidence_level=0.9, random_state=0)
    conformal.fit_conformalize(X, y)
    _, intervals = conformal.predict_interval(held)
    low, high = intervals[:, 0, 0], intervals[:, 1, 0]
    assert 0.85 < ((low <= targets) & (targets <= high)).mean() < 0.97


@pytest.mark.slow
def test_expected_gradients_are_near_shap_s_exact_values():
    shap = pytest.importorskip("shap")
    X, y = load_diabetes(return_X_y=True)
    X, y = (X / X.std(axis=0)).astype("f"), (y - y.mean()) / y.std()
    network = Network([10, 32, 1], hidden="tanh")
    model = fastmlp.fit(network, X, y, epochs=20, seed=0, progress=False)
    found = model.attribute(X[:20], X, method="expected", steps=1000).values
    masker = shap.maskers.Independent(X, max_samples=len(X))
    exact = shap.explainers.Exact(lambda x: model.predict(x)[:, 0], masker)(X[:20]).values
    theirs = shap.GradientExplainer(model.to_torch(), torch.tensor(X))
    theirs = np.squeeze(theirs.shap_values(torch.tensor(X[:20]), nsamples=1000))
    likeness = [np.corrcoef(one.ravel(), exact.ravel())[0, 1] for one in (found, theirs)]
    assert min(likeness) > 0.99
    assert likeness[0] > likeness[1] - 0.003
