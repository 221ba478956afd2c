"""Estimators and models become one another, and pipelines of them go through skl2onnx."""

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.estimator_pairs import unconverged
from support.exchanged_models import X, agrees, model, of_reference, rounding
from support.problems import data_set
from support.refusals import refusals
from support.selection import quick

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, Model, Network

IRIS, SPECIES = data_set("iris")
NAMES = np.array(["setosa", "versicolor", "virginica"])
TARGETS = {
    "MLPClassifier, three": NAMES[SPECIES], "MLPClassifier, two": SPECIES > 0,
    "MLPClassifier, several labels": np.eye(3, dtype=int)[SPECIES],
    "MLPRegressor, one": IRIS[:, 0] * IRIS[:, 1], "MLPRegressor, two": IRIS[:, :2] ** 2,
}  # fmt: skip
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
    given.network = Network(given.network.widths, "tanh", "exp", "poisson_deviance")
    theirs = given.to_sklearn()
    assert theirs.loss == "poisson"
    agrees(given, theirs.predict(X), X)
    agrees(given, MLPRegressor.from_model(given).predict(X), X)
    assert of_reference(Model.from_sklearn, theirs).network.loss == "poisson_deviance"


@unconverged
def test_an_estimator_of_a_model_trains_on_and_is_pickled():
    import pickle

    given = fastmlp.fit(
        Network([4, 5, 3], "tanh", "softmax", "cross_entropy"), IRIS, SPECIES, epochs=4, seed=0,
        backend="reference",
    )  # fmt: skip
    estimator = MLPClassifier.from_model(given, NAMES)
    assert (estimator.n_iter_, estimator.loss_) == (4, given.history["loss"][-1])
    before = estimator.predict_proba(IRIS)
    again = pickle.loads(pickle.dumps(estimator))
    assert (again.predict_proba(IRIS) == before).all()
    again.partial_fit(IRIS, NAMES[SPECIES], epochs=20)
    assert again.score(IRIS, NAMES[SPECIES]) > estimator.score(IRIS, NAMES[SPECIES])
    assert again.loss_ < given.history["loss"][-1]


test_refusals = refusals(
    [
        (lambda: model("gelu", np.float64).to_sklearn(), ValueError,
         "has no counterpart of 'gelu' .hidden layer 0.; it"),
        (lambda: model("all", np.float64).to_sklearn(), ValueError, "has no counterpart of 'leaky_relu'"),
        (lambda: model("relu", np.float64).to_sklearn([0, 1]), ValueError,
         "classes are for a network whose output is"),
        (lambda: model("output: softmax", np.float64).to_sklearn([1]), ValueError,
         "classes must be 2 labels"),
        (lambda: model("output: softmax", np.float64).to_sklearn(["b", "a"]), ValueError,
         "classes must ascend"),
        (lambda: MLPClassifier.from_model(model("relu", np.float64)), ValueError,
         "output must be softmax or sigmoid"),
        (lambda: MLPClassifier.from_model(3), TypeError, "model must be a Model, got 3"),
        (lambda: MLPRegressor.from_model(3), TypeError, "model must be a Model, got 3"),
        (lambda: MLPRegressor.from_model(model("output: sigmoid", np.float64)), ValueError,
         "no output 'sigmoid' with"),
        (lambda: Model.from_sklearn(StandardScaler()), TypeError, "of scikit-learn's, got Sta"),
        (lambda: Model.from_sklearn(MLPClassifier()), TypeError, "fastmlp's own have it as model_"),
    ]
)  # fmt: skip


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


@quick(3)
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
