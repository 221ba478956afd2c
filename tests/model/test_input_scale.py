"""`Network(input_scale=)`: inputs are multiplied, and every format has that in its weights."""

import numpy as np
import pytest
import scipy.sparse
from support.exchanged_models import agrees
from support.problems import COMPILED_DTYPES

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, Model, Network
from fastmlp.backend import registry
from fastmlp.trained import model as model_module

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 3), np.uint8)
LABELS = (PIXELS[:, 0].astype(int) + PIXELS[:, 1] > 255).astype(int)
TARGETS = RNG.normal(size=(60, 2))
SCALE = 1 / 255
NETWORK = Network([3, 6, 2], "tanh", input_scale=SCALE)
PLAIN = Network([3, 6, 2], "tanh")


def scaled(x, dtype):
    return x.astype(dtype) * np.dtype(dtype).type(SCALE)


def fit(network, x, dtype=np.float32, **options):
    return fastmlp.fit(network, x, TARGETS, epochs=3, seed=0, dtype=dtype, **{"backend": "fused", **options})


@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
def test_a_training_is_that_of_scaled_rows(dtype):
    expected = fit(PLAIN, scaled(PIXELS, dtype), dtype, validation=(scaled(PIXELS[:9], dtype), TARGETS[:9]))
    for x in (
        PIXELS, PIXELS.astype(dtype), np.asfortranarray(PIXELS), scipy.sparse.csr_array(PIXELS.astype(dtype)),
    ):  # fmt: skip
        model = fit(NETWORK, x, dtype, validation=(PIXELS[:9], TARGETS[:9]))
        np.testing.assert_array_equal(model.parameters, expected.parameters)
        assert model.history == expected.history
        np.testing.assert_array_equal(model.predict(x), expected.predict(scaled(PIXELS, dtype)))
        more = model.fit_more(x, TARGETS, epochs=2, validation=(PIXELS[:9], TARGETS[:9]))
        again = expected.fit_more(
            scaled(PIXELS, dtype), TARGETS, epochs=2, validation=(scaled(PIXELS[:9], dtype), TARGETS[:9])
        )
        np.testing.assert_array_equal(more.parameters, again.parameters)


def test_the_repr_has_it():
    assert f"input_scale={SCALE}" in repr(NETWORK)
    assert NETWORK != PLAIN


def test_many_rows_are_converted_a_few_at_a_time(monkeypatch):
    model = fit(NETWORK, PIXELS)
    expected = model.predict(PIXELS)
    seen, convert = [], model_module.clean_rows_of
    changes = {"AT_ONCE": 21, "clean_rows_of": lambda *a, **o: seen.append(len(a[2])) or convert(*a, **o)}
    for name, value in changes.items():
        monkeypatch.setattr(model_module, name, value)
    np.testing.assert_array_equal(model.predict(PIXELS), expected)
    assert max(seen) == 7
    wrong = PIXELS.astype(np.float64)
    wrong[43, 1] = np.nan
    with pytest.raises(ValueError, match=r"got nan at X\[43, 1\]"):
        model.predict(wrong)


def test_what_is_no_scale_is_refused():
    for wrong in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"input_scale must be .*above 0"):
            Network([3, 1], input_scale=wrong)
    with pytest.raises(ValueError, match=r"input_scale must be above 0 in float32, too, got 1e-46"):
        Network([3, 1], input_scale=1e-46)
    with pytest.raises(TypeError, match="input_scale must be a number, got '1/255'"):
        Network([3, 1], input_scale="1/255")
    with pytest.raises(ValueError, match=r"X\[0, 2\] = 1e\+30 does not fit into float32"):
        fit(Network([3, 6, 2], input_scale=1e30), np.array([[0, 0, 1e30]] * 60))


# --- formats ----------------------------------------------------------------------------------------------


@pytest.mark.slow  # compiles, 3 s
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_format_takes_inputs_as_the_model_does(dtype, tmp_path):
    model, rows = fit(NETWORK, PIXELS, dtype), PIXELS.astype(dtype)
    plain = Model(PLAIN, model.parameters, {"loss": []}, registry.get(model.backend), None)
    bound = plain, scaled(PIXELS, dtype)  # the scaled rows' roundings are those of the model

    def holds(got):
        expected = plain.predict(bound[1])
        np.testing.assert_array_equal(expected, model.predict(rows))
        agrees(plain, got, bound[1])

    scope = {}
    exec(model.to_numpy_source(), scope)
    holds(scope["predict"](rows))
    model.to_onnx(tmp_path / "m.onnx")
    holds(Model.from_onnx(tmp_path / "m.onnx", backend="reference").predict(rows))
    holds(model.jit_predict(rows))
    keras = model.to_keras_weights()
    np.testing.assert_array_equal(keras[0], model.weights[0] * np.dtype(dtype).type(SCALE))
    folded = model.to_sklearn()
    np.testing.assert_array_equal(folded.coefs_[0], keras[0])
    model.to_c(tmp_path / "m.h")
    assert keras[0][0, 0].astype(str) in (tmp_path / "m.h").read_text()
    model.to_c(tmp_path / "n.h", fixed_point=rows)
    # The model itself is as it was.
    holds(model.predict(rows))


def test_pipelines_of_skl2onnx_take_inputs_as_the_estimator_does():
    skl2onnx, runtime = pytest.importorskip("skl2onnx"), pytest.importorskip("onnxruntime")
    import fastmlp.onnx

    fastmlp.onnx.register()
    rows = PIXELS.astype(np.float32)
    given = MLPRegressor.from_model(fit(NETWORK, PIXELS))
    session = runtime.InferenceSession(skl2onnx.to_onnx(given, rows[:1]).SerializeToString())
    np.testing.assert_allclose(session.run(None, {"X": rows})[0], given.predict(rows), atol=1e-5)


def test_torch_takes_inputs_as_the_model_does():
    torch = pytest.importorskip("torch")
    model = fit(NETWORK, PIXELS)
    got = model.to_torch()(torch.tensor(PIXELS.astype(np.float32))).detach().numpy()
    plain = Model(PLAIN, model.parameters, {"loss": []}, registry.get(model.backend), None)
    agrees(plain, got, scaled(PIXELS, np.float32))


# --- estimators -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [None, "neg_log_loss", "loss"])
def test_classifiers_scale_too(metric):
    options = {
        "hidden_layer_sizes": (6,), "max_iter": 8, "random_state": 0, "backend": "fused", "dtype": np.float32,
    }  # fmt: skip
    options |= {"early_stopping": True, "stopping_metric": metric, "n_iter_no_change": 20}
    with pytest.warns(match="hasn't converged"):
        expected = MLPClassifier(**options).fit(scaled(PIXELS, np.float32), LABELS)
    with pytest.warns(match="hasn't converged"):
        ours = MLPClassifier(**options, input_scale=SCALE).fit(PIXELS, LABELS)
    np.testing.assert_array_equal(ours.model_.parameters, expected.model_.parameters)
    assert ours.validation_scores_ == expected.validation_scores_
    for rows in (PIXELS, PIXELS.astype(np.float32), scipy.sparse.csr_array(PIXELS.astype(np.float32))):
        np.testing.assert_array_equal(
            ours.predict_proba(rows), expected.predict_proba(scaled(PIXELS, np.float32))
        )
    again = MLPClassifier.from_model(ours.model_)
    assert again.input_scale == SCALE
    np.testing.assert_array_equal(again.predict_proba(PIXELS), ours.predict_proba(PIXELS))


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_regressors_scale_too(solver):
    options = {
        "hidden_layer_sizes": (6,), "max_iter": 5, "random_state": 0, "backend": "fused", "solver": solver,
    }  # fmt: skip
    with pytest.warns(match="converge"):
        expected = MLPRegressor(**options).fit(scaled(PIXELS, float), TARGETS)
    with pytest.warns(match="converge"):
        ours = MLPRegressor(**options, input_scale=SCALE).fit(PIXELS, TARGETS)
    np.testing.assert_array_equal(ours.model_.parameters, expected.model_.parameters)
    np.testing.assert_array_equal(ours.predict(PIXELS), expected.predict(scaled(PIXELS, float)))
