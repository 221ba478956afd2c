"""The posterior of a model, held to linear regression in closed form and to NumPy's text of the formulas."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import multivariate_normal
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import GridSearchCV
from support.selection import matrix, quick

import fastmlp
from fastmlp import Adam, Dense, Head, Members, Network, Stepper

TRAINING = {"epochs": 300, "optimizer": Adam(0.01), "seed": 0, "progress": False, "dtype": "float64"}
LOSSES = [
    ("softmax", "cross_entropy", 3), ("sigmoid", "binary_cross_entropy", 1), ("exp", "poisson", 2),
    (None, "mse", 2),
]  # fmt: skip
MEANS = {"softmax": lambda z: softmax(z, axis=-1), "sigmoid": expit, "exp": np.exp, None: np.array}


def model_of(network):
    return Stepper(network, Adam(), seed=0, dtype="float64", backend="reference").model()


def test_a_linear_network_is_linear_regression():
    """Evidence, mean and standard deviation are those of a Gaussian, at the ridge solution."""
    rng = np.random.default_rng(0)
    X, precision, noise = rng.normal(size=(30, 3)), 0.7, 0.3
    y = X @ [1.0, -2.0, 0.5] + 0.4 + noise * rng.normal(size=30)
    model, features = model_of(Network([3, 1])), np.hstack([X, np.ones((30, 1))])
    covariance = np.linalg.inv(features.T @ features / noise**2 + precision * np.eye(4))
    model.parameters[:] = covariance @ features.T @ y / noise**2
    posterior = fastmlp.laplace(model, X, y, prior_precision=precision, noise=noise)
    whole = noise**2 * np.eye(30) + features @ features.T / precision
    expected = multivariate_normal(np.zeros(30), whole).logpdf(y)
    assert posterior.log_marginal_likelihood == pytest.approx(expected, rel=1e-12)
    new = rng.normal(size=(5, 3))
    mean, std = posterior.predict(new, return_std=True)
    rows = np.hstack([new, np.ones((5, 1))])
    np.testing.assert_allclose(mean, model.predict(new), rtol=1e-12)
    np.testing.assert_allclose(std[:, 0] ** 2, np.einsum("ri,ij,rj->r", rows, covariance, rows) + noise**2)
    unchanged = posterior.predict(new)
    model.parameters += 1  # the posterior is of the parameters as they were
    np.testing.assert_array_equal(posterior.predict(new), unchanged)
    model.parameters -= 1
    free = fastmlp.laplace(model, X, y)
    for own, other in ((1.1, 1), (0.9, 1), (1, 1.1), (1, 0.9)):  # it is a maximum
        near = fastmlp.laplace(
            model, X, y, prior_precision=free.prior_precision * own, noise=free.noise * other
        )
        assert near.log_marginal_likelihood < free.log_marginal_likelihood
    assert 0 < free.effective_parameters < 4


@quick(1)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_evidence_is_greatest_whatever_the_unit_of_the_targets(scale):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = scale * (X @ [1.0, -2.0, 0.5] + 3 + 0.3 * rng.normal(size=200))
    model, features = model_of(Network([3, 1])), np.hstack([X, np.ones((200, 1))])
    model.parameters[:] = np.linalg.lstsq(features, y, rcond=None)[0]
    found = fastmlp.laplace(model, X, y)
    assert found.noise == pytest.approx(0.3 * scale, rel=0.1)
    best = max(
        fastmlp.laplace(model, X, y, prior_precision=precision, noise=noise).log_marginal_likelihood
        for precision in np.geomspace(0.01, 10, 13) / scale**2
        for noise in np.geomspace(0.1, 1, 13) * scale
    )
    assert found.log_marginal_likelihood > best


@pytest.mark.parametrize(("output", "loss", "outputs"), LOSSES)
@pytest.mark.parametrize("structure", ["full", "last_layer"])
def test_formulas(output, loss, outputs, structure):
    """The Jacobian by central differences, the matrices one row at a time."""
    rng = np.random.default_rng(0)
    network = Network([3, 4, outputs], hidden="tanh", output=output, loss=loss)
    model, X = model_of(network), rng.normal(size=(20, 3))
    model.parameters += 0.3 * rng.normal(size=len(model.parameters))
    y = {
        "mse": rng.normal(size=(20, outputs)), "poisson": rng.integers(0, 4, (20, outputs)),
        "cross_entropy": rng.integers(0, 3, 20), "binary_cross_entropy": rng.integers(0, 2, 20),
    }[loss]  # fmt: skip
    precision, noise = 0.5, 0.2 if loss == "mse" else 1.0
    given = {"noise": noise} if loss == "mse" else {}
    posterior = fastmlp.laplace(model, X, y, structure=structure, prior_precision=precision, **given)
    bare = model_of(network.replaced(output="identity", loss="mse"))

    def logits(parameters, rows):
        bare.parameters[:] = parameters
        return bare.predict(rows)

    def jacobian(rows):
        found = []
        for place in range(len(model.parameters)):
            step = np.zeros(len(model.parameters))
            step[place] = 1e-6
            ends = [logits(model.parameters + sign * step, rows) for sign in (1, -1)]
            found.append((ends[0] - ends[1]) / 2e-6)
        return np.stack(found, axis=-1)[..., -5 * outputs if structure == "last_layer" else 0 :]

    curvature, J, z = 0, jacobian(X), logits(model.parameters, X)
    for row in range(20):
        p = MEANS[output](z[row])
        by_logits = {
            "cross_entropy": np.diag(p) - np.outer(p, p), "binary_cross_entropy": np.diag(p * (1 - p)),
            "poisson": np.diag(p), "mse": np.eye(outputs) / noise**2,
        }[loss]  # fmt: skip
        curvature = curvature + J[row].T @ by_logits @ J[row]
    covariance = np.linalg.inv(curvature + precision * np.eye(len(curvature)))
    new = rng.normal(size=(4, 3))
    J, z = jacobian(new), logits(model.parameters, new)
    if loss == "cross_entropy":
        J, z = J - J.mean(axis=1, keepdims=True), z - z.mean(axis=1, keepdims=True)
    variance = np.einsum("rki,ij,rkj->rk", J, covariance, J)
    mean, std = posterior.predict(new, return_std=True)
    np.testing.assert_allclose(std**2, variance + (noise**2 if loss == "mse" else 0), rtol=1e-6)
    shrunk = z / np.sqrt(1 + np.pi / 8 * variance)
    expected = MEANS[output](shrunk if output in ("softmax", "sigmoid") else z)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)
    np.testing.assert_array_equal(posterior.predict(new), mean)


def test_error_bars_grow_away_from_the_rows():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.uniform(-2, -0.5, 80), rng.uniform(0.5, 2, 80)])[:, None]
    y = np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=160)
    network = Network([1, 20, 1], hidden="tanh")
    model = fastmlp.fit(network, X, y, **TRAINING | {"epochs": 800})
    posterior = fastmlp.laplace(model, X, y)
    assert posterior.structure == "full"
    assert posterior.noise == pytest.approx(0.1, rel=0.3)
    _, std = posterior.predict([[-1.0], [0.0], [1.0], [4.0]], return_std=True)
    assert std[1] > 1.3 * std[0]
    assert std[3] > 2 * std[2]


@matrix
def test_an_overconfident_model_gets_better_probabilities():
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[: len(X) // 3], order[len(X) // 3 :]
    network = Network([30, 8, 2], output="softmax", loss="cross_entropy", hidden="tanh")
    model = fastmlp.fit(network, X[train], y[train], **TRAINING)
    posterior = fastmlp.laplace(model, X[train], y[train])
    losses = [
        -np.log(one.predict(X[test])[np.arange(len(test)), y[test]]).mean() for one in (model, posterior)
    ]
    assert losses[1] < 0.8 * losses[0]


def test_what_has_no_posterior_is_refused_in_one_line():
    X, y = np.ones((5, 3)), np.ones(5)
    for network, message in (
        (Network([3, 1], loss="mae"),
         "laplace has the losses mse with identity, .*; this network has the loss 'mae'"),
        (Network(inputs=3, layers=[Members(2), Dense(1)]), "this network has Members"),
        (Network([3, 1], output="sigmoid", loss="mse"), "the loss 'mse' with the output 'sigmoid'"),
        (Network(inputs=3, layers=[Dense(2)], head=Head(1, missing=True)), "this network has a Head"),
        (Network(inputs=3, layers=[Dense(101), Dense(100)]),
         "the posterior of 10200 parameters is a matrix of 0.8 GB"),
        (Network(inputs=3, layers=[Dense(2)], heads={"a": Head(1), "b": Head(1)}), "this network has heads"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            fastmlp.laplace(model_of(network), X, y)
    with pytest.raises(ValueError, match=r"unknown structure 'kron'; choose from: auto, full, last_layer"):
        fastmlp.laplace(model_of(Network([3, 1])), X, y, structure="kron")
    with pytest.raises(TypeError, match="model must be a Model"):
        fastmlp.laplace(Network([3, 1]), X, y)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # laplace-torch imports it
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_it_is_the_posterior_of_laplace_torch(loss):
    torch, theirs = pytest.importorskip("torch"), pytest.importorskip("laplace")
    rng = np.random.default_rng(0)
    X, new, regresses = rng.normal(size=(60, 3)), rng.normal(size=(5, 3)), loss == "mse"
    y = np.sin(X[:, :1]) if regresses else (X[:, 0] > 0.3).astype(np.int64)
    network = Network([3, 8, 1 if regresses else 2], "tanh", None if regresses else "softmax", loss)
    model = fastmlp.fit(network, X, y, **TRAINING)
    rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y))
    module = model.to_torch()
    module = module if regresses else module[:-1]  # which takes logits
    prior = {"prior_precision": torch.tensor(0.7, dtype=torch.float64)}
    noise = {"sigma_noise": torch.tensor(0.2, dtype=torch.float64)} if regresses else {}
    whole = {"subset_of_weights": "all", "hessian_structure": "full", **prior, **noise}
    torch.set_default_dtype(torch.float64)
    try:
        expected = theirs.Laplace(module, "regression" if regresses else "classification", **whole)
        expected.fit(torch.utils.data.DataLoader(rows, batch_size=60))
        evidence = float(expected.log_marginal_likelihood())
    finally:
        torch.set_default_dtype(torch.float32)
    posterior = fastmlp.laplace(model, X, y, prior_precision=0.7, noise=0.2 if regresses else None)
    assert posterior.log_marginal_likelihood == pytest.approx(evidence, rel=1e-9)
    if regresses:
        mean, variance = (each.detach().numpy() for each in expected(torch.tensor(new)))
        found = posterior.predict(new, return_std=True)
        np.testing.assert_allclose(found[0], mean, rtol=1e-9)
        np.testing.assert_allclose(found[1], np.sqrt(variance[..., 0] + 0.2**2), rtol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_regressor_predicts_with_error_bars():
    X, y = load_diabetes(return_X_y=True)
    X, y = (X / X.std(axis=0), (y - y.mean()) / y.std())
    options = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "alpha": 0.1, "random_state": 0, "max_iter": 50}
    regressor = fastmlp.MLPRegressor(**options, posterior=True).fit(X[:300], y[:300])
    mean, std = regressor.predict(X[300:], return_std=True)
    np.testing.assert_allclose(mean, regressor.predict(X[300:]), rtol=1e-9)
    assert mean.shape == std.shape == (142,)
    held = np.abs(y[300:] - mean) < 1.645 * std
    assert 0.8 < held.mean() < 0.97  # of 90 % intervals
    with pytest.raises(ValueError, match="make the estimator with posterior=True"):
        fastmlp.MLPRegressor(**options).fit(X, y).predict(X, return_std=True)
    with pytest.raises(ValueError, match="this network has the loss 'mae'"):
        fastmlp.MLPRegressor(loss="mae", max_iter=2, posterior=True).fit(X, y)


@pytest.mark.slow  # 10 s where L-BFGS is compiled
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_search_s_best_regressor_has_error_bars():
    X, y = load_diabetes(return_X_y=True)
    given = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "random_state": 0, "posterior": True}
    search = GridSearchCV(fastmlp.MLPRegressor(**given), {"alpha": [0.1, 1.0]}, cv=3)
    best = search.fit(X / X.std(axis=0), (y - y.mean()) / y.std()).best_estimator_
    assert best.predict(X[:2], return_std=True)[1].shape == (2,)
