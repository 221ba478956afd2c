"""Models that come from other programs, and fastmlp's estimators made of models and given to skl2onnx."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.neural_network
from exchanged import X, agrees, inputs, model, rounding
from pairs import unconverged
from problems import data_set
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastmlp
from fastmlp import (
    Activate,
    Activation,
    Add,
    BatchNorm,
    Concatenate,
    Dense,
    Dropout,
    LayerNorm,
    MLPClassifier,
    MLPRegressor,
    Model,
    Network,
    PReLU,
    RMSNorm,
    Scale,
)
from fastmlp.backend import reference
from fastmlp.exchange.chains import natural_loss
from fastmlp.model.layout import flatten

W = [np.array([[1.0, -2.0], [0.5, 1.5], [-1.0, 0.25]]), np.array([[2.0], [-3.0]])]
B = [np.array([0.5, -0.5]), np.array([0.25])]

Z = X @ W[0] + B[0]


def of_reference(read, *arguments, **options):
    return read(*arguments, backend="reference", **options)


# --- ONNX -----------------------------------------------------------------------------------------


def onnx_file(path, nodes, arrays, n_out=1):
    """A file of nodes (operator, inputs, output, attributes); X is the input, the last output the output."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    made = [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in nodes]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, ["rows", units])
        for name, units in (("X", 3), (nodes[-1][2], n_out))
    ]
    known = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = helper.make_graph(made, "by hand", ends[:1], ends[1:], known)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


ARRAYS = {"w0": W[0], "w1": W[1], "b0": B[0], "b1": B[1], "square": W[0] @ W[0].T}


def chain(*between):
    """Nodes of two layers with others between, from "z" to "a"."""
    return [("Gemm", ["X", "w0", "b0"], "z", {}), *between, ("Gemm", ["a", "w1", "b1"], "out", {})]


def test_a_chain_may_be_written_in_many_ways(tmp_path):
    nodes = [
        ("Flatten", ["X"], "flat", {"axis": 1}),
        ("Gemm", ["flat", "turned", "b0"], "z", {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ("Relu", ["z"], "a", {}),
        ("Dropout", ["a"], "kept", {}),
        ("MatMul", ["kept", "w1"], "product", {}),
        ("Add", ["row", "product"], "logit", {}),
        ("Sigmoid", ["logit"], "out", {}),
    ]
    arrays = {"turned": 2 * W[0].T, "b0": B[0] / 2, "w1": W[1], "row": B[1][None]}
    got = of_reference(Model.from_onnx, onnx_file(tmp_path / "x.onnx", nodes, arrays))
    assert got.network == Network([3, 2, 1], "relu", "sigmoid", "binary_cross_entropy")
    for arrays, expected in ((got.weights, W), (got.biases, B)):
        assert all((array == other).all() for array, other in zip(arrays, expected, strict=True))
    assert got.parameters.dtype == np.float64


def test_what_stands_between_layers_becomes_an_activation(tmp_path):
    between = [("Mul", ["z", "half"], "m", {}), ("Sin", ["m"], "s", {}), ("Max", ["s", "z"], "a", {})]
    path = onnx_file(tmp_path / "x.onnx", chain(*between), {**ARRAYS, "half": np.array([0.5])})
    got = of_reference(Model.from_onnx, path)
    expected = np.maximum(np.sin(Z * 0.5), Z) @ W[1] + B[1]
    assert np.allclose(
        got.predict(X), expected, rtol=0, atol=8 * np.finfo(float).eps * np.abs(expected).max()
    )
    assert isinstance(got.network.hidden[0], Activation)


def test_silu_of_two_operators_is_silu(tmp_path):
    between = [("Sigmoid", ["z"], "s", {}), ("Mul", ["z", "s"], "a", {})]
    got = of_reference(Model.from_onnx, onnx_file(tmp_path / "x.onnx", chain(*between), ARRAYS))
    assert got.network.hidden == ("silu",)


def test_layers_may_be_written_in_many_ways(tmp_path):
    nodes = [
        ("Relu", ["X"], "x", {}),
        ("Gemm", ["x", "w0", "b0"], "z", {}),
        ("LayerNormalization", ["z", "gain", "b0"], "normal", {"axis": 1}),
        ("Tanh", ["normal"], "a", {}),
        ("Mul", ["row", "a"], "scaled", {}),
        ("Add", ["z", "scaled"], "sum", {}),
        ("Concat", ["sum", "X"], "both", {"axis": -1}),
        ("Gemm", ["both", "w"], "out", {}),
    ]
    arrays = {**ARRAYS, "gain": 2 * B[0], "row": B[0][None], "w": np.concatenate([W[0], W[0][:2]])}
    path = onnx_file(tmp_path / "x.onnx", nodes, arrays, 2)
    got = of_reference(Model.from_onnx, path)
    kinds = [type(layer) for layer in got.network.layers]
    assert kinds == [Activate, Activate, Dense, LayerNorm, Activate, Scale, Add, Concatenate, Dense]
    (expected,) = pytest.importorskip("onnxruntime").InferenceSession(path).run(None, {"X": X})
    assert np.allclose(got.predict(X), expected, rtol=0, atol=1e-12)


def test_logits_may_be_given_an_output(tmp_path):
    path = onnx_file(tmp_path / "x.onnx", chain(("Tanh", ["z"], "a", {})), ARRAYS)
    assert of_reference(Model.from_onnx, path).network.output == "identity"
    got = of_reference(Model.from_onnx, path, output="sigmoid", loss="mse")
    assert (got.network.output, got.network.loss) == ("sigmoid", "mse")


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (
            chain(("Ceil", ["z"], "a", {})),
            r"cannot read the operator Ceil \('a'\); can read: .*Gemm",
        ),
        (
            chain(("LeakyRelu", ["z"], "a", {"alpha": 0.25})),
            r"LeakyRelu with {'alpha': 0.25} has no counterpart",
        ),
        (
            chain(("Softmax", ["z"], "a", {})),
            "softmax cannot be the activation of a hidden layer; choose from: ",
        ),
        (
            [("Gemm", ["X", "square"], "z", {}), ("Add", ["z", "X"], "out", {})],
            "ends in Add; a Network ends in a Dense and its output",
        ),
        (
            [
                ("Gemm", ["X", "square"], "z", {}),
                ("Sin", ["z"], "s", {}),
                ("Cos", ["s"], "a", {}),
                ("Gemm", ["a", "square"], "y", {}),
                ("Add", ["y", "s"], "out", {}),
            ],
            "Add .'out'. computes with 's', which is no layer's value",
        ),
        (
            [("Gemm", ["X", "square"], "z", {}), ("Concat", ["X", "z"], "out", {"axis": 0})],
            r"cannot read the operator Concat \('out'\); can read: ",
        ),
        (
            chain(("LayerNormalization", ["z", "b0"], "a", {"axis": 0})),
            r"cannot read the operator LayerNormalization \('a'\); can read: ",
        ),
        ([("Gemm", ["X", "w0"], "z", {}), ("Relu", ["z"], "out", {})], "ends in relu; choose from: identity"),
        ([("Relu", ["X"], "out", {})], "has no layer"),
        ([("Gemm", ["X", "X"], "out", {"transA": 1})], "Gemm .'out'. is no layer: its second factor must be"),
    ],
)
def test_other_graphs_are_refused_in_one_line(nodes, said, tmp_path):
    with pytest.raises(ValueError, match=said) as error:
        Model.from_onnx(onnx_file(tmp_path / "x.onnx", nodes, ARRAYS))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_onnx_is_refused(tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "x.onnx").write_text("no model")
    with pytest.raises(ValueError, match=r"x.onnx' is no valid ONNX file"):
        Model.from_onnx(tmp_path / "x.onnx")
    with pytest.raises(FileNotFoundError):
        Model.from_onnx(tmp_path / "none.onnx")


def test_a_model_that_came_trains_on():
    came = model("tanh", np.float64)
    targets = np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1)
    options = {"initial": (came.weights, came.biases), "epochs": 30, "seed": 0, "backend": "reference"}
    went_on = fastmlp.fit(came.network, X, targets, **options)
    assert went_on.history["loss"][-1] < went_on.history["loss"][0]


# --- PyTorch --------------------------------------------------------------------------------------


def test_a_torch_module_of_ones_own():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    first = nn.Sequential(nn.Flatten(), nn.Linear(3, 4, bias=False), nn.ELU())
    module = nn.Sequential(first, nn.Dropout(0.25), nn.Linear(4, 2), nn.Softmax(dim=1)).eval()
    got = of_reference(Model.from_torch, module)
    assert got.network == Network([3, 4, 2], "elu", "softmax", "cross_entropy", dropout=0.25)
    agrees(got, module(torch.from_numpy(inputs(np.float32))).detach().numpy(), inputs(np.float32))


def test_torch_formulas_are_differentiable_and_can_be_pickled(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = model("sine", np.float64).to_torch()
    torch.save(module, tmp_path / "net.pt")
    back = torch.load(tmp_path / "net.pt", weights_only=False)
    rows = torch.from_numpy(X).requires_grad_()
    back(rows).sum().backward()
    assert torch.isfinite(rows.grad).all()
    assert rows.grad.abs().max() > 0


def test_other_torch_modules_are_refused_in_one_line():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    infinite = nn.Linear(3, 2)
    nn.init.constant_(infinite.weight, torch.inf)
    for modules, said in (
        (
            [nn.Linear(3, 2), nn.Hardtanh(), nn.Linear(2, 1)],
            "cannot read module '1', Hardtanh; a Sequential may hold:",
        ),
        (
            [nn.Linear(3, 2), nn.LeakyReLU(0.2), nn.Linear(2, 1)],
            r"LeakyReLU\(negative_slope=0.2\) has no counterpart",
        ),
        (
            [nn.Linear(3, 2), nn.LayerNorm(2)],
            "the module ends in LayerNorm; a Network ends in a Dense and its output",
        ),
        (
            [nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1)],
            r"module '1': BatchNorm1d\(.*\) has no counterpart; it keeps no running mean and variance$",
        ),
        ([nn.Linear(3, 2), nn.RMSNorm(4), nn.Linear(2, 1)], "layer 1 of the module takes 4 units, got 2"),
        ([nn.Linear(3, 2), nn.Linear(4, 1)], "layer 1 of the module takes 4 units, got 2"),
        (
            [nn.Linear(3, 2), nn.Flatten(0)],
            r"module '1': Flatten\(start_dim=0, end_dim=-1\) has no counterpart",
        ),
        (
            [nn.Linear(3, 2), nn.Softplus(threshold=1), nn.Linear(2, 1)],
            r"Softplus\(threshold=1\) has no counterpart; softplus has 40.0",
        ),
        ([infinite], "weights and biases of layer 0 of the module must be finite numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            Model.from_torch(nn.Sequential(*modules))
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got 3"):
        Model.from_torch(3)


def test_a_sequential_of_other_layers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    torch.manual_seed(0)
    layers = [nn.Tanh(), nn.LayerNorm(3, elementwise_affine=False), nn.Linear(3, 4), nn.ReLU(), nn.Tanh()]
    layers += [nn.LayerNorm(4, bias=False), nn.PReLU(), nn.Dropout(0.25), nn.Linear(4, 5), nn.RMSNorm(5)]
    layers += [nn.PReLU(5), nn.BatchNorm1d(5, momentum=0.3), nn.LayerNorm(5, eps=0.5), nn.SiLU()]
    layers += [nn.BatchNorm1d(5, eps=0.1, affine=False), nn.Linear(5, 2)]
    module = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        for buffer in module.buffers():
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    got = of_reference(Model.from_torch, module)
    expected = [Activate("tanh"), LayerNorm(), Dense(4, "relu"), Activate("tanh"), LayerNorm(), PReLU()]
    expected += [Dropout(0.25), Dense(5), RMSNorm(), PReLU(), BatchNorm(0.3), LayerNorm(0.5)]
    expected += [Activate("silu"), BatchNorm(epsilon=0.1), Dense(2)]
    assert got.network == Network(inputs=3, layers=expected)
    agrees(got, module(torch.from_numpy(inputs(np.float32))).detach().numpy(), inputs(np.float32))


def test_a_module_of_ours_that_was_changed_is_refused_in_one_line():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    module = model("Add", np.float32).to_torch()
    module.sources[3] = (0,)
    with pytest.raises(ValueError, match=r"'steps\.3' reads another module's output than that before it$"):
        Model.from_torch(module)


# --- scikit-learn's estimators ----------------------------------------------------------------------

IRIS, SPECIES = data_set("iris")
NAMES = np.array(["setosa", "versicolor", "virginica"])
TARGETS = {
    "MLPClassifier, three": NAMES[SPECIES],
    "MLPClassifier, two": SPECIES > 0,
    "MLPClassifier, several labels": np.eye(3, dtype=int)[SPECIES],
    "MLPRegressor, one": IRIS[:, 0] * IRIS[:, 1],
    "MLPRegressor, two": IRIS[:, :2] ** 2,
}
each_kind = pytest.mark.parametrize("kind", TARGETS)


def fitted(package, kind, activation="tanh", **options):
    name, y = kind.partition(",")[0], TARGETS[kind]
    own = {"backend": "reference"} if package is fastmlp else {}
    made = getattr(package, name)(
        hidden_layer_sizes=(5, 4), activation=activation, max_iter=3, random_state=0
    )
    return made.set_params(**own, **options).fit(IRIS, y)


def predictions(estimator):
    proba = getattr(estimator, "predict_proba", None)
    return estimator.predict(IRIS), np.zeros(0) if proba is None else proba(IRIS)


def equal(got, expected, given):
    """Assert that predictions are the same, within what two programs' outputs may differ by."""
    bound = 2 * rounding(given, IRIS)["output"].max()
    for one, other in zip(predictions(got), predictions(expected), strict=True):
        exact = one.dtype.kind != "f"
        assert (one == other).all() if exact else np.abs(one - other).max(initial=0) <= bound


@unconverged
@each_kind
@pytest.mark.parametrize("activation", ["identity", "relu", "logistic", "tanh"])
def test_from_scikit_learn_and_back(kind, activation):
    theirs = fitted(sklearn.neural_network, kind, activation)
    given = of_reference(Model.from_sklearn, theirs)
    equal(given.to_sklearn(getattr(theirs, "classes_", None)), theirs, given)
    ours = getattr(fastmlp, type(theirs).__name__)
    equal(ours.from_model(given, *([theirs.classes_] if hasattr(theirs, "classes_") else [])), theirs, given)


@unconverged
@each_kind
def test_from_our_estimator_and_back(kind):
    ours = fitted(fastmlp, kind, ["gelu", "silu"])
    given = ours.model_
    assert isinstance(given, Model)
    back = type(ours).from_model(given, *([ours.classes_] if hasattr(ours, "classes_") else []))
    equal(back, ours, given)
    assert back.get_params()["hidden_layer_sizes"] == (5, 4)
    assert back.get_params()["activation"] == ["gelu", "silu"]
    assert back.predict(IRIS[:1]).shape == ours.predict(IRIS[:1]).shape


def test_a_poisson_regressor_goes_and_comes():
    given = model("output: exp", np.float64)
    given.network = Network(given.network.sizes, "tanh", "exp", "poisson_deviance")
    theirs = given.to_sklearn()
    assert theirs.loss == "poisson"
    agrees(given, theirs.predict(X), X)
    agrees(given, MLPRegressor.from_model(given).predict(X), X)
    assert of_reference(Model.from_sklearn, theirs).network.loss == "poisson_deviance"


@unconverged
def test_an_estimator_of_a_model_trains_on_and_is_pickled():
    import pickle

    given = fastmlp.fit(
        Network([4, 5, 3], "tanh", "softmax", "cross_entropy"),
        IRIS,
        SPECIES,
        epochs=4,
        seed=0,
        backend="reference",
    )
    estimator = MLPClassifier.from_model(given, NAMES)
    assert (estimator.n_iter_, estimator.loss_) == (4, given.history["loss"][-1])
    before = estimator.predict_proba(IRIS)
    again = pickle.loads(pickle.dumps(estimator))
    assert (again.predict_proba(IRIS) == before).all()
    again.partial_fit(IRIS, NAMES[SPECIES], epochs=20)
    assert again.score(IRIS, NAMES[SPECIES]) > estimator.score(IRIS, NAMES[SPECIES])
    assert again.loss_ < given.history["loss"][-1]


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (
            lambda: model("gelu", np.float64).to_sklearn(),
            ValueError,
            "has no counterpart of 'gelu' .hidden layer 0.; it",
        ),
        (lambda: model("all", np.float64).to_sklearn(), ValueError, "has no counterpart of 'leaky_relu'"),
        (
            lambda: model("relu", np.float64).to_sklearn([0, 1]),
            ValueError,
            "classes are for a network whose output is",
        ),
        (
            lambda: model("output: softmax", np.float64).to_sklearn([1]),
            ValueError,
            "classes must be 2 labels",
        ),
        (
            lambda: model("output: softmax", np.float64).to_sklearn(["b", "a"]),
            ValueError,
            "classes must ascend",
        ),
        (
            lambda: MLPClassifier.from_model(model("relu", np.float64)),
            ValueError,
            "output must be softmax or sigmoid",
        ),
        (lambda: MLPClassifier.from_model(3), TypeError, "model must be a Model, got 3"),
        (lambda: MLPRegressor.from_model(3), TypeError, "model must be a Model, got 3"),
        (
            lambda: MLPRegressor.from_model(model("output: sigmoid", np.float64)),
            ValueError,
            "no output 'sigmoid' with",
        ),
        (lambda: Model.from_sklearn(StandardScaler()), TypeError, "of scikit-learn's, got Sta"),
        (lambda: Model.from_sklearn(MLPClassifier()), TypeError, "fastmlp's own have it as model_"),
    ],
)
def test_refusals(call, error, said):
    with pytest.raises(error, match=said):
        call()


def test_an_unfitted_estimator_has_no_model():
    with pytest.raises(sklearn.exceptions.NotFittedError):
        MLPClassifier().model_  # noqa: B018
    with pytest.raises(sklearn.exceptions.NotFittedError):
        Model.from_sklearn(sklearn.neural_network.MLPClassifier())


def test_two_outputs_of_softmax_tell_two_classes_apart():
    given = model("output: softmax", np.float64)
    theirs, ours = given.to_sklearn(["a", "b"]), MLPClassifier.from_model(given, ["a", "b"])
    agrees(given, theirs.predict_proba(X), X)
    agrees(given, ours.predict_proba(X), X)
    assert (theirs.predict(X) == np.array(["a", "b"])[given.predict(X).argmax(axis=1)]).all()
    assert (ours.predict(X) == theirs.predict(X)).all()


# --- skl2onnx ---------------------------------------------------------------------------------------


@unconverged
@pytest.mark.parametrize("version", [17, 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@each_kind
def test_pipelines_through_skl2onnx(kind, dtype, version):
    skl2onnx = pytest.importorskip("skl2onnx")
    runtime = pytest.importorskip("onnxruntime")
    types = pytest.importorskip("skl2onnx.common.data_types")
    fastmlp.onnx.register()
    ours = fitted(fastmlp, kind, ["gelu", "elu"], dtype=dtype)
    pipeline = make_pipeline(StandardScaler(), ours).fit(IRIS, TARGETS[kind])
    tensor = types.FloatTensorType if dtype == np.float32 else types.DoubleTensorType
    options = {id(pipeline): {"zipmap": False}} if hasattr(ours, "classes_") else None
    made = skl2onnx.to_onnx(
        pipeline, initial_types=[("X", tensor([None, 4]))], options=options, target_opset=version
    )
    quiet = runtime.SessionOptions()
    quiet.log_severity_level = 3  # of a regressor's two outputs it warns that skl2onnx announces one
    session = runtime.InferenceSession(made.SerializeToString(), quiet, providers=["CPUExecutionProvider"])
    got = session.run(None, {"X": IRIS.astype(dtype)})
    # The scaler's roundings, eps of values of up to about 3, come in as an error of the inputs.
    bound = 2 * rounding(ours.model_, pipeline[0].transform(IRIS))["output"].max() + 64 * np.finfo(dtype).eps
    expected = pipeline.predict(IRIS)
    if hasattr(ours, "classes_"):
        assert (got[0] == expected).all()
        assert np.abs(got[1] - pipeline.predict_proba(IRIS)).max() <= bound
    else:
        assert np.abs(got[0].reshape(expected.shape) - expected).max() <= bound


def test_an_output_has_the_loss_that_goes_with_it():
    assert {name: natural_loss(name) for name in ("identity", "sigmoid", "softmax", "exp")} == {
        "identity": "mse",
        "sigmoid": "binary_cross_entropy",
        "softmax": "cross_entropy",
        "exp": "poisson",
    }


def test_an_imported_model_takes_the_backend_that_is_requested():
    theirs = model("relu", np.float32).to_sklearn()
    assert Model.from_sklearn(theirs, backend="reference").backend == "reference"
    assert Model.from_sklearn(theirs).backend in set(fastmlp.backends()) - {"specialized"}
    with pytest.raises(ValueError, match="unknown backend 'fussed'"):
        Model.from_sklearn(theirs, backend="fussed")


def test_half_precision_becomes_single():
    network = Network([3, 2, 1], "relu")
    given = Model(
        network, flatten(W, B, network, np.dtype(np.float64)), {"loss": []}, reference.BACKEND, None
    )
    theirs = given.to_sklearn()
    theirs.coefs_ = [w.astype(np.float16) for w in theirs.coefs_]
    theirs.intercepts_ = [b.astype(np.float16) for b in theirs.intercepts_]
    assert of_reference(Model.from_sklearn, theirs).parameters.dtype == np.float32
