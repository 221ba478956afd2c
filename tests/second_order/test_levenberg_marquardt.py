"""Levenberg and Marquardt's steps, held to NumPy's text of the formulas and to SciPy's minimum."""

import functools
import itertools
import pickle

import numpy as np
import pytest
import scipy.optimize
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from support import smooth_rows
from support.selection import matrix, quick
from support.smooth_rows import KINDS, SMOOTH, X, Y

import fastmlp
from fastmlp import Adam, Dense, Head, LevenbergMarquardt, MLPRegressor, Network, Residual
from fastmlp.backend import registry
from fastmlp.second_order.objective import WholeObjective
from fastmlp.training.preparation import cleaned, scaled
from fastmlp.training.ranks import ALONE

CASES = [
    ({}, "reference"), ({"weighed": True, "l2": 0.01}, "fused"), ({"nielsen": True}, "reference"),
    ({"units": 60}, "fused"), ({"units": 60, "l2": 0.01}, "reference"),
]  # fmt: skip
TARGETS = {
    "mse": Y,
    "cross_entropy": KINDS,
    "binary_cross_entropy": np.hstack([SMOOTH > 0, SMOOTH > 1]).astype(float),
    "poisson": np.round(np.exp(np.hstack([SMOOTH, -SMOOTH])) + 0.5),
}
OUTPUTS = {"mse": "identity", "cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp"}
SINE = np.linspace(-1, 1, 100)[:, None]
WAVE = np.sin(np.pi * SINE)


fit = functools.partial(smooth_rows.fit, optimizer=LevenbergMarquardt())


# --- the formulas once more: a chain with tanh, its Jacobian by steps along the imaginary axis -------------


def logits(sizes, parameters, x):
    at = 0
    for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
        w = parameters[at : at + n_in * n_out].reshape(n_in, n_out)
        b = parameters[at + n_in * n_out : at + (n_in + 1) * n_out]
        x, at = x @ w + b, at + (n_in + 1) * n_out
        x = np.tanh(x) if layer < len(sizes) - 2 else x
    return x


def jacobian(sizes, parameters, x):
    found = []
    for place in range(len(parameters)):
        moved = parameters.astype(complex)
        moved[place] += 1e-30j
        found.append(logits(sizes, moved, x).imag / 1e-30)
    return np.stack(found, axis=-1)


def losses(loss, z, y):
    """The sums over outputs (rows,), of squares halved, their slopes and second derivatives by z."""
    unit = np.eye(z.shape[1])
    if loss == "mse":
        return ((z - y) ** 2).sum(axis=1) / 2, z - y, np.broadcast_to(unit, (len(z), *unit.shape))
    if loss == "cross_entropy":
        p, y = softmax(z, axis=1), unit[y]
        return -(y * np.log(p)).sum(axis=1), p - y, p[:, :, None] * unit - p[:, :, None] * p[:, None]
    if loss == "binary_cross_entropy":
        p = expit(z)
        return (np.logaddexp(0, z) - y * z).sum(axis=1), p - y, (p * (1 - p))[:, :, None] * unit
    p = np.exp(z)
    return (p - y * z).sum(axis=1), p - y, p[:, :, None] * unit


def naive(sizes, loss, parameters, y, weights, l2, steps, nielsen=False):
    """Return parameters after so many steps, with the objectives, dampings and norms of gradients."""
    k = sizes[-1]
    divisor = weights.sum() * {"mse": k / 2, "cross_entropy": 1}.get(loss, k)
    decays = np.concatenate([np.repeat([1, 0], [a * b, b]) for a, b in itertools.pairwise(sizes)])
    penalty = divisor * l2 * decays

    def objective(parameters):
        own = losses(loss, logits(sizes, parameters, X), y)[0]
        return weights @ own + penalty @ parameters**2 / 2

    damping, growth, curves = 0.001, 2, []
    for _ in range(steps):
        J = jacobian(sizes, parameters, X)
        _, slopes, curvature = losses(loss, logits(sizes, parameters, X), y)
        H = np.einsum("r,rip,rij,rjq->pq", weights, J, curvature, J) + np.diag(penalty)
        g = np.einsum("r,rip,ri->p", weights, J, slopes) + penalty * parameters
        before = objective(parameters)
        while True:
            step = -np.linalg.solve(H + damping * np.eye(len(g)), g)
            after = objective(parameters + step)
            if after < before:
                foreseen = step @ (damping * step - g) / 2
                gain = (before - after) / foreseen
                damping *= max(1 / 3, 1 - (2 * gain - 1) ** 3) if nielsen else 0.1
                parameters, growth = parameters + step, 2
                break
            damping *= growth if nielsen else 10
            growth *= 2
        curves.append((before / divisor, damping, np.linalg.norm(g) / divisor))
    return parameters, np.array(curves)


@quick(2)
@pytest.mark.parametrize(
    ("loss", "case", "backend"),
    [  # each case with half of the losses is quick
        pytest.param(loss, *case, marks=[matrix] * ((place + number) % 2))
        for place, case in enumerate(CASES)
        for number, loss in enumerate(OUTPUTS)
    ],
    ids=str,
)
def test_steps_are_those_of_the_formulas(loss, case, backend):
    """With 60 units there are fewer residuals than parameters."""
    y, l2 = TARGETS[loss], case.get("l2", 0.0)
    sizes = [3, case.get("units", 5), 3 if loss == "cross_entropy" else 2]
    network = Network(sizes, hidden="tanh", output=OUTPUTS[loss], loss=loss, l2=l2)
    weights = 2.0 ** np.random.default_rng(1).integers(-2, 1, 60) if case.get("weighed") else np.ones(60)
    optimizer = LevenbergMarquardt(nielsen=case.get("nielsen", False))
    zeros = Network(sizes, hidden="tanh")
    start = fit(zeros, y=np.zeros((60, sizes[-1])), epochs=0)
    given = {"sample_weight": weights} if case.get("weighed") else {}
    model = fit(network, y=y, initial=start, optimizer=optimizer, backend=backend, **given)
    expected, curves = naive(sizes, loss, start.parameters, y, weights, l2, 6, optimizer.nielsen)
    np.testing.assert_allclose(model.parameters, expected, rtol=1e-5, atol=1e-7)
    for name, curve in zip(("loss", "damping", "gradient"), curves.T, strict=True):
        np.testing.assert_allclose(model.history[name], curve, rtol=1e-6, atol=1e-12)


@matrix
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_step_of_several_blocks_of_rows_is_that_of_all_rows(backend):
    """362 parameters are several panels of J'J, and 800 residuals several blocks."""
    x, sizes = np.random.default_rng(2).uniform(-2, 2, (400, 3)), [3, 60, 2]
    y, network = np.hstack([np.sin(x[:, :1]), x[:, 1:2] * x[:, 2:]]), Network(sizes, hidden="tanh")
    start = fit(network, x, y, epochs=0)
    model = fit(network, x, y, 1, initial=start, backend=backend)
    J = jacobian(sizes, start.parameters, x).reshape(-1, len(start.parameters))
    slope = J.T @ (logits(sizes, start.parameters, x) - y).reshape(-1)
    damping = 10 * model.history["damping"][0]  # the step was taken with
    step = -np.linalg.solve(J.T @ J + damping * np.eye(len(slope)), slope)
    np.testing.assert_allclose(model.parameters - start.parameters, step, rtol=1e-6, atol=1e-8)
    assert model.history["gradient"][0] == pytest.approx(np.linalg.norm(slope) / 400, rel=1e-10)


def test_it_reaches_the_minimum_of_scipy():
    network, noise = Network([1, 2, 1], hidden="tanh"), np.random.default_rng(5).normal(size=WAVE.shape)
    start, y = fit(network, SINE, WAVE, epochs=0), WAVE + 0.1 * noise

    def residuals(parameters):
        return (logits([1, 2, 1], parameters, SINE) - y)[:, 0]

    found = scipy.optimize.least_squares(residuals, start.parameters, method="lm", xtol=1e-12, ftol=1e-12)
    model = fit(network, SINE, y, 300, initial=start)
    assert model.stop_reason.startswith("the gradient's norm is ")
    assert model.history["loss"][-1] == pytest.approx(2 * found.cost / len(y), rel=1e-10)


def test_a_function_is_fitted_far_deeper_than_by_adam():
    network = Network([1, 5, 1], hidden="tanh")
    model = fit(network, SINE, WAVE, 150)
    adam = fit(network, SINE, WAVE, 700, optimizer=Adam(0.01))
    assert model.history["loss"][-1] < 0.01 * adam.history["loss"][-1]


GENERAL = Network(
    inputs=3,
    layers=[Dense(4), "tanh", Residual(Dense(4), "tanh")],
    heads={
        "a": Head(2, missing=True),
        "b": Head(3, output="softmax", weight=0.5, loss_weights=[1, 2, 1]),
        "c": Head(1, loss="poisson", weight=2.0),
    },
)


def test_heads_with_missing_targets_of_any_network():
    """The gradient is that of the objective by central differences, and the objective falls far."""
    a = Y.copy()
    a[::3, 0] = np.nan
    y = {"a": a, "b": TARGETS["cross_entropy"], "c": TARGETS["poisson"][:, :1]}
    weights = 2.0 ** np.random.default_rng(1).integers(-2, 1, 60)
    model = fit(GENERAL, y=y, sample_weight=weights, epochs=40)
    data = scaled(cleaned(GENERAL, X, y, weights, np.float64, ALONE), True, ALONE)
    objective, start = WholeObjective(GENERAL, data, registry.get("reference")), fit(GENERAL, y=y, epochs=0)
    steps = 1e-5 * np.eye(len(start.parameters))
    ends = [[objective.value(start.parameters + sign * step)[0] for sign in (1, -1)] for step in steps]
    slopes = (np.array(ends) @ [1, -1]) / 2e-5
    assert objective.value(start.parameters)[0] == pytest.approx(model.history["loss"][0], rel=1e-12)
    assert model.history["gradient"][0] == pytest.approx(np.linalg.norm(slopes), rel=1e-7)
    assert model.history["loss"][-1] < 0.35 * model.history["loss"][0]
    assert model.history["a_loss"][-1] < 0.1 * model.history["a_loss"][0]


# --- a training like any other ---------------------------------------------------------------------------


def test_parameters_stay_in_float64_until_the_end():
    """Rounded to float32 they would leave a gradient of 1e-8."""
    optimizer = LevenbergMarquardt(min_gradient=0)
    model = fit(Network([3, 1]), y=X[:, :1] / 3, epochs=20, dtype="float32", optimizer=optimizer)
    assert min(model.history["gradient"]) < 1e-10
    assert model.parameters.dtype == np.float32


def test_it_ends_at_the_goal_at_a_flat_place_and_where_no_step_is_left():
    network = Network([1, 5, 1], hidden="tanh")
    model = fit(network, SINE, WAVE, 500, optimizer=LevenbergMarquardt(goal=1e-3))
    assert model.history["loss"][-1] <= 1e-3 < model.history["loss"][-2]
    assert model.stop_reason.startswith("the loss is ")
    model = fit(network, SINE, WAVE, 500, optimizer=LevenbergMarquardt(min_gradient=1e-4))
    assert model.history["gradient"][-1] < 1e-4 <= model.history["gradient"][-2]
    model = fit(Network([1, 1]), SINE, 2 * SINE + 1, 500, optimizer=LevenbergMarquardt(min_gradient=0))
    assert model.history["loss"][-1] < 1e-28
    assert len(model.history["loss"]) < 100
    np.testing.assert_allclose(model.parameters, [2, 1])


def test_validation_rows_end_it_and_the_best_parameters_are_taken():
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (60, 1))
    y = np.sin(3 * x) + 0.4 * rng.normal(size=x.shape)
    model = fit(Network([1, 20, 1], hidden="tanh"), x, y, 300, validation=0.3)
    curve = model.history["validation_loss"]
    assert model.stop_reason == "validation_loss has not improved for 6 epochs"
    assert len(curve) == int(np.argmin(curve)) + 7
    going_on = LevenbergMarquardt(max_fail=None)
    assert len(fit(Network([1, 20, 1]), x, y, 20, validation=0.3, optimizer=going_on).history["loss"]) == 20


# --- the evidence ----------------------------------------------------------------------------------------


def noisy(rows=80, noise=0.1):
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, (rows, 1))
    return x, np.sin(3 * x) + noise * rng.normal(size=x.shape)


def test_evidence_finds_the_noise_and_does_not_overfit():
    x, y = noisy(25, 0.2)
    network = Network([1, 20, 1], hidden="tanh")
    model = fit(network, x, y, 200, optimizer=LevenbergMarquardt(evidence=True))
    plain = fit(network, x, y, 200)
    new = np.linspace(-1, 1, 200)[:, None]
    errors = [np.mean((one.predict(new) - np.sin(3 * new)) ** 2) for one in (model, plain)]
    assert errors[0] < 0.1 * errors[1]
    assert model.history["noise"][-1] == pytest.approx(0.2, rel=0.2)
    assert 3 < model.history["effective_parameters"][-1] < 8


def test_its_posterior_is_that_of_laplace():
    """At the end the precisions are the fixed point of the evidence, which laplace then need not search."""
    x, y = noisy()
    network = Network([1, 6, 1], hidden="tanh")
    model = fit(network, x, y, 400, optimizer=LevenbergMarquardt(evidence=True))
    found = fastmlp.laplace(model, x, y)
    assert found.prior_precision == model.history["prior_precision"][-1]
    assert found.noise == model.history["noise"][-1]
    assert found.effective_parameters == pytest.approx(model.history["effective_parameters"][-1], rel=1e-6)
    model.history = {"loss": model.history["loss"]}
    searched = fastmlp.laplace(model, x, y)
    assert searched.noise == pytest.approx(found.noise, rel=0.02)
    assert searched.log_marginal_likelihood == pytest.approx(found.log_marginal_likelihood, abs=0.1)


@quick(1)
@pytest.mark.parametrize("units", [4, 40])
def test_the_evidence_of_a_classifier(units):
    """With 40 units there are fewer residuals than parameters."""
    network = Network([3, units, 3], hidden="tanh", output="softmax")
    model = fit(network, y=TARGETS["cross_entropy"], epochs=200, optimizer=LevenbergMarquardt(evidence=True))
    assert set(model.history["noise"]) == {1.0}
    found = fastmlp.laplace(model, X, TARGETS["cross_entropy"])
    assert found.effective_parameters == pytest.approx(model.history["effective_parameters"][-1], rel=1e-4)


# --- what is large -----------------------------------------------------------------------------------------


def test_the_equations_are_those_of_fewer_residuals_than_parameters():
    fit(Network([3, 9000, 2]), y=np.zeros((60, 2)), epochs=1)


def test_what_is_too_large_names_lbfgs():
    rows = np.zeros((5000, 10))
    with pytest.raises(ValueError, match=r"takes 1\.2 GiB for .* 9102 parameters and 10000 .*; take LBFGS"):
        fit(Network([10, 700, 2]), rows, np.zeros((5000, 2)))


# --- MLPRegressor ----------------------------------------------------------------------------------------


def test_an_estimator_takes_the_same_steps():
    """Also through `partial_fit`, and from a pickle; with the penalty as scikit-learn has it."""
    given = {"hidden_layer_sizes": (5,), "activation": "tanh", "random_state": 0, "solver": "lm"}
    y = Y
    with pytest.warns(ConvergenceWarning):
        estimator = MLPRegressor(max_iter=8, **given).fit(X, y)
    start = MLPRegressor(max_iter=1, **given | {"solver": LevenbergMarquardt(max_damping=1e-9)}).fit(X, y)
    model = fit(estimator.model_.network, epochs=8, initial=start.model_, seed=1)
    np.testing.assert_array_equal(estimator.model_.parameters, model.parameters)
    assert estimator.loss_curve_ == model.history["loss"]
    with pytest.warns(ConvergenceWarning):
        goes_on = MLPRegressor(max_iter=5, **given).fit(X, y)
    goes_on = pickle.loads(pickle.dumps(goes_on)).partial_fit(X, y, epochs=3)
    assert goes_on.loss_curve_ == estimator.loss_curve_ + goes_on.loss_curve_[8:]
    early = MLPRegressor(max_iter=200, early_stopping=True, **given).fit(X, y)
    assert early.n_iter_ == len(early.validation_scores_) < 200
    deep = MLPRegressor(max_iter=500, tol=1e-3, alpha=0, **given).fit(X, y)
    assert deep.n_iter_ < 500


def test_what_an_estimator_cannot_do_with_it_is_refused():
    with pytest.raises(ValueError, match=r"takes the losses mse with identity .*; got mae with identity"):
        MLPRegressor(solver="lm", loss="mae").fit(X, Y)
    with pytest.raises(ValueError, match="takes no dtype 'bfloat16'"):
        MLPRegressor(solver="lm", dtype="bfloat16").fit(X, Y)
