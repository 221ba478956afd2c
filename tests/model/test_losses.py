"""Losses with parameters: PyTorch's values and derivatives, what names and older arguments make, files."""

import pickle
import re

import numpy as np
import pytest
from scipy.special import gammaln
from support.problems import eps
from support.refusals import refusals
from support.selection import some_backends

import fastmlp
from fastmlp import Focal, Gaussian, Head, Huber, MLPRegressor, NegativeBinomial, Network, Quantiles
from fastmlp.backend import registry
from fastmlp.data.arrays import clean_targets
from fastmlp.model.backend import Data
from fastmlp.model.descriptions import described, restored

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 5))
REAL, COUNTS = RNG.standard_normal((40, 2)), RNG.poisson(3.0, (40, 2)).astype(float)
LABELS, EVENTS = RNG.integers(0, 4, 40), RNG.integers(0, 2, (40, 3)).astype(float)


def torch_focal(z, y, gamma=1.5):
    log_p = torch.log_softmax(z, 1)[torch.arange(len(y)), y]
    return -((1 - log_p.exp()) ** gamma * log_p).mean()


def torch_binary_focal(z, y, gamma=0.5):
    entropy = nn.functional.binary_cross_entropy_with_logits(z, y, reduction="none")
    return ((1 - torch.exp(-entropy)) ** gamma * entropy).mean()  # torchvision.ops.sigmoid_focal_loss


def torch_quantiles(z, y):
    q, r = torch.tensor([0.1, 0.5, 0.9], dtype=z.dtype), y[:, :1] - z
    return torch.maximum(q * r, (q - 1) * r).mean()


def torch_gaussian(z, y):
    mean, log_variance = z.chunk(2, dim=1)
    return nn.GaussianNLLLoss()(mean, y, log_variance.exp())


def torch_negative_binomial(z, y):
    log_mean, log_dispersion = z.chunk(2, dim=1)
    found = torch.distributions.NegativeBinomial((-log_dispersion).exp(), logits=log_mean + log_dispersion)
    return -(found.log_prob(y) + torch.lgamma(y + 1)).mean()


CASES = {
    "huber": ("identity", Huber(0.7), 2, REAL, nn.HuberLoss(delta=0.7)),
    "quantiles": ("identity", Quantiles([0.1, 0.5, 0.9]), 3, REAL[:, :1], torch_quantiles),
    "smoothed": ("softmax", fastmlp.CrossEntropy(0.1), 4, LABELS, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "focal": ("softmax", Focal(1.5), 4, LABELS, torch_focal),
    "binary focal": ("sigmoid", fastmlp.BinaryFocal(0.5), 3, EVENTS, torch_binary_focal),
    "gaussian": ("identity", Gaussian(), 4, REAL, torch_gaussian),
    "negative binomial": ("identity", NegativeBinomial(), 4, COUNTS, torch_negative_binomial),
}


def network_of(name):
    output, loss, n_out, *_ = CASES[name]
    return Network([5, n_out], output=output, loss=loss)


@pytest.mark.parametrize("name", CASES)
@some_backends
def test_loss_and_gradient_are_those_of_pytorch(backend, name):
    *_, y, torch_loss = CASES[name]
    network = network_of(name)
    parameters = np.random.default_rng(1).standard_normal(6 * network.n_out)
    data = Data(X, clean_targets("y", y, network, 40, np.dtype(float)), np.ones(40))
    got = np.empty_like(parameters)
    value = registry.get(backend).gradient(network, parameters, data, 0, 0, got)
    p = torch.tensor(parameters, requires_grad=True)
    weights = p[: 5 * network.n_out].reshape(5, -1)
    expected = torch_loss(torch.tensor(X) @ weights + p[5 * network.n_out :], torch.tensor(y))
    expected.backward()
    # sums of 40 rows of terms up to about 10, each with a few roundings
    assert value == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(got, p.grad, rtol=0, atol=400 * eps(float))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_count_of_any_size_and_dispersion_has_its_likelihood(dtype):
    log_mean, log_dispersion, y = (
        part.reshape(-1, 1)
        for part in np.meshgrid([-9.0, 0.0, 4.0, 11.0], [-25.0, -9.0, 0.0, 3.0, 25.0], [0.0, 1.0, 7.0, 1e4])
    )
    network = Network([2, 2], loss=NegativeBinomial())
    for mean, dispersion, count in zip(log_mean, log_dispersion, y, strict=True):
        data = Data(np.zeros((1, 2), dtype), np.tile(count, 2)[None].astype(dtype), np.ones(1, dtype))
        parameters = np.array([0, 0, 0, 0, mean[0], dispersion[0]], dtype)
        values, gradients = [], []
        for backend in ("fused", "reference"):
            gradients.append(np.empty_like(parameters))
            values.append(registry.get(backend).gradient(network, parameters, data, 0, 0, gradients[-1]))
        # Against scipy's log gamma in float64, whose terms cancel for a large r = 1 / dispersion.
        r, u = np.exp(-np.clip(dispersion[0], -20, 20)), mean[0] + np.clip(dispersion[0], -20, 20)
        terms = gammaln(count[0] + r), r * np.logaddexp(0, u), count[0] * np.logaddexp(0, -u)
        expected = gammaln(r) - terms[0] + terms[1] + terms[2]
        rounding = 8 * eps(float) * max(map(abs, terms)) + 8 * eps(dtype) * (1 + 20 * count[0] + terms[1])
        assert abs(values[0] - expected) <= rounding
        assert np.isfinite(gradients[0]).all()


def test_names_make_these():
    assert Network([3, 1], loss="huber").loss == Network([3, 1], loss=Huber()).loss == "huber"
    assert Network([3, 2], loss=Gaussian()).loss == "gaussian"
    assert Network([3, 2], "relu", "softmax", fastmlp.CrossEntropy()).loss == "cross_entropy"
    changed = Network([3, 1], loss=Huber(0.7)).replaced(l2=0.1)
    assert (changed.loss, changed.l2) == (Huber(0.7), 0.1)
    assert len({Huber(0.7), Huber(0.8), Huber(0.7), Focal(1.0), fastmlp.BinaryFocal(1.0)}) == 4


def test_a_stepper_takes_a_column_of_targets():
    network = Network([5, 2], loss=Gaussian())
    one, other = (fastmlp.Stepper(network, fastmlp.SGD(0.1), seed=0, dtype="float64") for _ in range(2))
    column = np.ascontiguousarray(REAL[:, 0])
    assert one.step(X, column) == other.step(X, REAL[:, [0, 0]].copy())
    with pytest.raises(ValueError, match=r"shape \(40, 1\) or \(40,\)"):
        one.step(X, np.ones((40, 3)))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # 3 epochs
def test_estimators_take_them():
    options = {"hidden_layer_sizes": (4,), "random_state": 0, "max_iter": 3}
    smoothed = fastmlp.MLPClassifier(loss=fastmlp.CrossEntropy(0.2), **options).fit(X, LABELS)
    assert smoothed.predict_proba(X).shape == (40, 4)
    quantiles = MLPRegressor(Quantiles([0.1, 0.9]), **options).fit(X, REAL[:, 0])
    assert quantiles.predict(X).shape == (40, 2)
    by_name, by_class = (MLPRegressor(one, **options).fit(X, REAL[:, 0]) for one in ("huber", Huber()))
    np.testing.assert_array_equal(by_name.predict(X), by_class.predict(X))
    model = fastmlp.fit(Network([5, 1], loss=Huber(0.5)), X, REAL[:, 0], epochs=1)
    assert MLPRegressor.from_model(model).loss == Huber(0.5)
    model = fastmlp.fit(network_of("focal").replaced(loss=Focal()), X, LABELS, epochs=1)
    assert fastmlp.MLPClassifier.from_model(model).loss == Focal()


test_mistakes_are_said_in_one_line = refusals(
    [
        (lambda: Huber(0), "delta must be above 0"),
        (lambda: Quantiles([0.5, 1.0]), "level"),
        (lambda: Quantiles([]), "levels must hold a number"),
        (lambda: fastmlp.CrossEntropy(1.0), "smoothing"),
        (lambda: Focal(-1), "gamma must be"),
        (lambda: Network([3, 3], loss=Gaussian()), "2 outputs for each target, got 3"),
        (lambda: Network([3, 3], output="exp", loss=Focal()), "output 'exp' does not go with loss"),
        (lambda: Network([3, 3], loss=Quantiles([0.1, 0.9])), "a number or 3 of them"),
        (lambda: fastmlp.fit(Network([5, 4], loss=Gaussian()), X, X[:, :4]), r"\(40, 2\), got \(40, 4\)"),
        (lambda: fastmlp.fit(Network([5, 2], loss=NegativeBinomial()), X, -COUNTS[:, 0]), "at least 0"),
        (lambda: MLPRegressor(Gaussian()).fit(X, REAL[:, 0]), "predicts one number for a target"),
        (lambda: fastmlp.MLPClassifier(loss=Gaussian()).fit(X, LABELS), "output 'softmax' does not go with"),
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "output"),
    [
        *(("mse", "identity"), ("cross_entropy", "softmax"), ("binary_cross_entropy", "sigmoid")),
        *(("poisson", "exp"), (Focal(), "softmax"), (Gaussian(), "identity")),
    ],
)
def test_without_an_output_it_is_what_the_loss_goes_with(loss, output):
    assert Network([3, 2], loss=loss).output == Head(2, loss=loss).output == output


OF_OUTPUTS = {
    "identity": "mse", "exp": "mse", "sigmoid": "binary_cross_entropy", "softmax": "cross_entropy",
}  # fmt: skip


@pytest.mark.parametrize("output", OF_OUTPUTS)
def test_without_a_loss_it_is_the_outputs(output, tmp_path):
    single = Network(inputs=5, layers=["tanh"], head=Head(3, output=output))
    listed = Network(inputs=5, layers=[fastmlp.Dense(4, "tanh"), fastmlp.Dense(3)], output=output)
    several = Network(inputs=5, layers=["tanh"], heads={"a": Head(3, output=output, missing=True)})
    for network in (Network([5, 3], output=output), single, listed, several):
        assert network.losses == (OF_OUTPUTS[output],)
        assert network == pickle.loads(pickle.dumps(network)) == restored(described(network))


@pytest.mark.parametrize("output", OF_OUTPUTS)
def test_a_loss_that_is_given_stays_with_its_output(output, tmp_path):
    """In files, too: they name the loss of networks and of heads."""
    for network in (
        Network([5, 2], output=output, loss="mse"),
        Network(inputs=5, layers=["tanh"], heads={"a": Head(2, "mse", output)}),
    ):
        y = REAL if not network.heads else {"a": REAL}
        fastmlp.save(fastmlp.fit(network, X, y, epochs=1, backend="reference"), tmp_path / "m")
        assert fastmlp.load(tmp_path / "m").network.losses == ("mse",) == network.losses


NAMED = 'labels 0, 1, .. go with loss="cross_entropy", those of any kind with MLPClassifier'


@pytest.mark.parametrize(
    ("network", "y", "got"),
    [
        (Network([5, 4]), LABELS, r"y must have shape \(40, 4\), got \(40,\); "),
        (Network([5, 4]), LABELS[:, None].astype(float), r"got \(40, 1\); "),
        (Network([5, 4], output="sigmoid"), LABELS, r"got \(40,\); "),
        (Network([5, 1], output="sigmoid"), LABELS, r"for binary_cross_entropy, got .\.0; "),
        (Network([5, 4], output="softmax"), LABELS.astype(str), "must hold real numbers, got dtype <U"),
        (Network([5, 1]), LABELS.astype(str).astype(object), "must hold real numbers, got dtype object; "),
        (Network(inputs=5, layers=["tanh"], heads={"a": Head(4)}), {"a": LABELS}, r"y\['a'\] must"),
    ],
)  # fmt: skip
def test_labels_that_a_loss_does_not_take_are_told_who_does(network, y, got):
    for train in (fastmlp.fit, lambda *given: fastmlp.fit_many(*given, n_models=2)):
        with pytest.raises((ValueError, TypeError), match=f"{got}.*{re.escape(NAMED)}$"):
            train(network, X, y)


def test_numbers_that_are_no_labels_are_told_nothing_of_them():
    stepper = fastmlp.Stepper(Network([5, 4]), fastmlp.SGD(), seed=0, backend="reference", dtype="f8")
    for y, told in ((LABELS, True), (REAL[:, 0], False), (LABELS[:30], False)):
        with pytest.raises(ValueError, match="shape") as error:
            fastmlp.fit(Network([5, 4]), X, y)
        assert (NAMED in str(error.value)) == told
        with pytest.raises(ValueError, match="shape") as error:
            stepper.step(X[:40], y)
        assert (NAMED in str(error.value)) == told


def test_labels_for_a_loss_of_a_users_own_are_warned_of():
    network = Network([5, 4], loss=fastmlp.Loss("squares", lambda output, target: (output - target) ** 2))
    with pytest.warns(UserWarning, match=f"^y is the target of each of 4 outputs; {re.escape(NAMED)}$"):
        fastmlp.fit(network, X, LABELS, epochs=1, backend="reference")
    fastmlp.fit(network, X, REAL[:, 0], epochs=1, backend="reference")
