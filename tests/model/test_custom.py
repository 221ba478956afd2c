"""Activations, losses and rules of a user's own: they are what their functions say, everywhere."""

import copy
import pickle

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.base import clone
from support.compilations import compilations
from support.custom_components import (
    CASES,
    ONE_HOT,
    ROWS,
    STEPS,
    Lion,
    X,
    Y,
    by_element,
    focal,
    hard,
    losses_of,
    mish,
    of_outputs,
    own_huber,
    quantiles,
    sine,
    smoothed,
    train,
)
from support.problems import COMPILED_DTYPES, eps
from support.selection import campaign, matrix, quick

import fastmlp
from fastmlp import SGD, Activation, CheckpointError, Loss, Network, RowLoss, Rule
from fastmlp.backend import registry
from fastmlp.kernels.small.eligible import specialize
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.backend import Data
from fastmlp.model.losses import LOSSES
from fastmlp.testing import check


def has_program(name):
    network, _, optimizer = CASES[name]
    return specialize(network, optimizer, 8, np.dtype("float64")) is not None


TAKEN_FROM = ("fused", "specialized")


@quick(2)
@pytest.mark.parametrize(
    ("backend", "name", "dtype"),
    [
        # Each compiles, 1 to 4 s: the dtypes take turns, and the other backends, which take activations,
        # losses and steps from these two, have every third.
        pytest.param(b, name, dtype, marks=campaign if turn % 2 or (first + second) % share else marks)
        for first, b in enumerate(registry.variants())
        for share, marks in [(1, []) if b in TAKEN_FROM else (3, matrix)]
        for second, name in enumerate(CASES)
        for turn, dtype in enumerate(COMPILED_DTYPES, first + second)
        if b != "specialized" or has_program(name)
    ],
)
def test_backends_agree_with_the_reference(backend, name, dtype):
    expected, got = train(name, "reference"), train(name, backend, dtype)
    # Numbers of about 1, each step some hundred roundings of theirs at random.
    allowed = 32 * eps(dtype) * STEPS
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=0, atol=allowed)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=allowed, atol=allowed)


def test_small_networks_have_programs_of_their_own():
    assert [name for name in CASES if has_program(name)] == ["hard, own huber", "hard, asymmetric, Lion"]


def test_numbers_of_a_rule_are_chosen_element_by_element():
    """A rate is one number, what it is chosen by is a vector."""
    rule = Rule(
        "turns",
        lambda p, g, moments, rate, c, t: (
            p - np.where(g > 0, rate, 0.5 * rate) * g * np.where(t > 2, moments[0], 0.5),
            np.where(t > 1, 0.75, rate),
        ),
        moments=1,
    )
    runs = [
        fastmlp.fit(
            Network([5, 4, 3]), X, Y, optimizer=rule(0.1), epochs=4, batch_size=None, seed=0, dtype="float32",
            backend=backend, progress=False,
        ).parameters
        for backend in ("reference", "fused")
    ]  # fmt: skip
    np.testing.assert_allclose(*runs, atol=100 * eps(np.float32))


def test_rules_that_differ_in_their_constants_alone_are_two():
    def step(p, g, moments, rate, c, t):
        return p - rate * g

    few, many = Rule("plain", step), Rule("plain", step, constants={"unused": 50.0})
    assert few.key != many.key
    for rule in (few, many):
        network = Network([4, 6, 1], "tanh")
        expected, *got = losses_of(["reference", "fused"], ROWS[:, 0], network=network, optimizer=rule(0.01))
        np.testing.assert_allclose(got[0], expected, rtol=1e-10)


def test_a_rule_that_moves_what_stands_still_spoils_no_padding():
    rule = Rule("signs", lambda p, g, m, rate, c, t: p - np.where(g > 0, rate, -rate))
    network = Network([4, 6, 1], "tanh")
    expected, got = losses_of(["reference", "specialized"], ROWS[:, 0], network=network, optimizer=rule(0.01))
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def pick(o, t):
    """Both are known when it is traced, and take the shape of o in NumPy."""
    sure = np.sum(np.where((o > 0) | True, 1.0, 3.0)) + np.sum(np.where((o > 0) & False, np.max(o), 1.0))
    return np.sum(np.where(True, 2.0, o)) + sure + np.sum(o * t)


ROW_LOSSES = {
    "the sum of one number": lambda o, t: np.sum(np.max(o)) + np.sum(np.sum(np.sum(o * t))),
    "zeros and ones": lambda o, t: (
        np.sum(np.zeros_like(o) + np.max(t))
        + np.sum(np.ones_like(t) * np.sum(o * o)) * np.ones_like(np.max(o))
    ),
    "what is known": pick,
    "next to NaN": lambda o, t: np.sum(np.fmax(o, t)) + np.max(np.fmin(2 * o, 0.5)) * np.sum(np.fmax(t, 0)),
    "log of sums": lambda o, t: np.sum(np.logaddexp(o, t)) + np.sum(np.heaviside(o, t) * o),
    "a sum within a sum": lambda o, t: np.sum(np.log(np.sum(np.exp(o))) - o) / 3,
    "the sum of a maximum": lambda o, t: np.sum(np.max(o)) + np.sum((o - t) ** 2),
    "as many as there are": lambda o, t: np.sum((o - t) ** 2) / np.sum(np.ones_like(o)),
    "a product of sums": lambda o, t: np.sum(o * np.sum(o * t)) + np.max(o) * np.sum(t),
}


@pytest.mark.parametrize(
    "name",
    # Each compiles, 1 s; their values are compared with NumPy's below.
    [pytest.param(name, marks=[matrix] * (place > 0)) for place, name in enumerate(ROW_LOSSES)],
)
def test_sums_of_what_all_units_share(name):
    loss = RowLoss("shared", ROW_LOSSES[name])
    network, y = Network([4, 3], loss=loss), ROWS[:, :3]
    expected, got = losses_of(["reference", "fused"], y, network=network, optimizer=SGD(0.01))
    np.testing.assert_allclose(got, expected, rtol=1e-10)
    rng = np.random.default_rng(0)
    z, targets, step = rng.normal(size=(1, 3)), rng.normal(size=(1, 3)), 1e-6
    value = lambda z: loss.on_arrays(z, z, targets, np.zeros(3))[0][0, 0]  # noqa: E731
    slopes = [(value(z + step * e) - value(z - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(loss.on_arrays(z, z, targets, np.zeros(3))[1][0], slopes, rtol=1e-6, atol=1e-8)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30]


@quick(3)
@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("baseline", marks=pytest.mark.matrix), "fused"]
)
@pytest.mark.parametrize("name", ROW_LOSSES)
def test_a_row_has_the_loss_that_numpy_has_for_it(name, backend):
    """Also where it holds NaN, infinities and zeros of both signs: the biases are the row."""
    loss, rng = RowLoss("of_a_row", ROW_LOSSES[name]), np.random.default_rng(3)
    network, evaluate = Network([1, 3], loss=loss), registry.get(backend).evaluate
    for turn in range(60):
        o, t = rng.normal(size=(2, 3))
        for values in (o, t)[: turn % 3]:
            values[rng.integers(0, 3, 2)] = rng.choice(SPECIAL, 2)
        with np.errstate(all="ignore"):
            expected = ROW_LOSSES[name](o, t)
            parameters = np.concatenate([np.zeros(3), o])
            got = evaluate(network, parameters, Data(np.zeros((1, 1)), t[None], np.ones(1)))
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12, err_msg=f"{o} {t}")


def test_labels_are_classes_for_a_loss_of_softmax():
    labels = (ROWS[:, 0] > 0).astype(int) + (ROWS[:, 1] > 0)
    own = RowLoss("entropy", lambda output, target: -np.sum(target * np.log(output)), output="softmax")
    networks = Network([4, 3], loss=own), Network([4, 3], output="softmax", loss="cross_entropy")
    first, second = (losses_of(["fused"], labels, network=network)[0] for network in networks)
    np.testing.assert_allclose(first, second, rtol=1e-9)


# --- slopes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "component", [mish, sine, focal, hard, own_huber, quantiles, smoothed, of_outputs, by_element]
)
def test_slopes_are_derivatives(component):
    check(component)


@quick(1)
@pytest.mark.parametrize(
    "name",
    # Their slopes in the reference are compared with differences in tests/model/test_gradients.py, too.
    [
        pytest.param(name, marks=[matrix] * (place % 8 > 0))
        for place, name in enumerate([*ACTIVATIONS, *LOSSES])
    ],
)
def test_slopes_of_our_own_are_derivatives(name):
    check(name)


NAIVE = {
    "swish": lambda z: z / (1 + np.exp(-z)),
    "gelu by tanh": lambda z: 0.5 * z * (1 + np.tanh(0.79788456 * (z + 0.044715 * z**3))),
    "a kink": lambda z: np.where(z > 0, z, 0.1 * z),
    "a log that is not chosen": lambda z: np.where(z > 0, np.log(np.maximum(z, 1e-3)), z),
    "a bounded choice": lambda z: np.minimum(np.where(z > 0.5, np.sqrt(z), z + 0.2071067811865475), 3.0),
}


@pytest.mark.parametrize("name", NAIVE)
def test_slopes_stay_finite_where_the_formula_is(name):
    check(Activation("component", NAIVE[name]))


@pytest.mark.parametrize("flag", [False, True])
def test_a_choice_that_is_known_while_tracing_is_made(flag):
    """A user's flag beside a comparison leaves a plain number, and no row of equal numbers."""
    chosen = Activation("x", lambda z: z * np.where((z > 0) & flag, z, 2.0))
    made = Activation("x", lambda z: z * (np.where(z > 0, z, 2.0) if flag else 2.0))
    assert chosen == made


def test_kinks_that_cancel_leave_the_slope_of_a_smooth_function():
    """At a logit of 0, where every network of zeros begins."""
    entropy = Loss(
        "entropy",
        lambda logit, t: np.maximum(logit, 0) - logit * t + np.log1p(np.exp(-abs(logit))),
        "sigmoid",
    )
    _, delta = entropy.on_arrays(np.zeros((1, 1)), np.full((1, 1), 0.5), np.ones((1, 1)), np.zeros(1))
    assert delta == -0.5


@pytest.mark.parametrize(
    ("component", "says"),
    [
        (Activation("wrong", np.sin, slope=lambda z: 1.001 * np.cos(z)),
         r"^Activation\('wrong'\), as given: at 0 "),
        (Activation("cusp", lambda z: np.sqrt(z * z)),
         r"^Activation\('cusp'\) in float32: at 0 the slope is nan"),
    ],
)  # fmt: skip
def test_a_slope_that_is_wrong_is_reported(component, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check(component)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", ["tanhh", 3, Lion])
def test_what_has_no_slope_is_not_checked(nothing):
    with pytest.raises((ValueError, TypeError), match=r"no activation or loss is named|has a slope to check"):
        check(nothing)


def test_a_slope_may_be_one_number():
    steps, slanted = Activation("steps", np.sign), Activation("slanted", lambda z: 2 * z)
    runs = [
        fastmlp.fit(
            Network([5, 4, 4, 3], [steps, slanted]), X, Y, epochs=2, seed=0, backend=backend, progress=False
        ).parameters
        for backend in ("reference", "fused")
    ]
    np.testing.assert_allclose(*runs, atol=1e-14)


def test_a_slope_that_is_infinite_at_0_spoils_no_padding():
    root = Activation("root", lambda z: np.sqrt(abs(z)), slope=lambda a: 0.5 / a)
    options = {"network": Network([4, 6, 1], root), "optimizer": SGD(1e-3)}
    expected, got = losses_of(["reference", "specialized"], ROWS[:, 0], **options)
    np.testing.assert_allclose(got, expected, rtol=1e-10)


# --- what they are known by, in memory, in files, in other processes and in programs --------------------


def predictions(*hidden):
    network = Network([5, *[4] * len(hidden), 1], hidden)
    return fastmlp.fit(network, X, Y[:, 0], epochs=1, seed=0, backend="fused", progress=False).predict(X)


def test_two_components_of_one_name_are_two():
    first, second = Activation("one", np.tanh), Activation("one", np.sin)
    assert first != second
    assert first == Activation("one", lambda z: np.tanh(z))
    np.testing.assert_allclose(predictions(first, second), predictions("tanh", second), rtol=1e-12)
    assert not np.allclose(predictions(first, second), predictions(second, first))


@pytest.mark.parametrize("component", [mish, sine, focal, quantiles, smoothed, Lion], ids=repr)
def test_copies_are_equal(component):
    for other in (pickle.loads(pickle.dumps(component)), copy.deepcopy(component)):
        assert other == component
        assert hash(other) == hash(component)
        assert other.digest == component.digest


def test_estimators_are_cloned_and_pickled():
    estimator = fastmlp.MLPClassifier((4,), mish, loss=focal, tol=0.1, random_state=0, backend="fused")
    estimator.fit(X, ONE_HOT[:, 0])
    again = clone(estimator)
    assert (again.activation, again.loss) == (mish, focal)
    restored = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(restored.predict_proba(X), estimator.predict_proba(X))


def compiled_by_training(network, optimizer):
    with compilations() as names:
        model = fastmlp.fit(
            network, X, Y, optimizer=optimizer, epochs=1, seed=0, backend="baseline", progress=False
        )
    return names, model.parameters


@pytest.mark.slow  # two processes, 5 s
def test_another_process_compiles_nothing():
    given = Network([5, 4, 3], mish, loss=quantiles), Lion(0.01)
    _, expected = compiled_by_training(*given)
    made = Parallel(n_jobs=2)(delayed(compiled_by_training)(*given) for _ in range(2))
    for names, parameters in made:
        assert names == []
        np.testing.assert_array_equal(parameters, expected)


@quick(1)
@pytest.mark.parametrize("backend", ["fused", "specialized"])
def test_other_parameters_and_constants_compile_nothing(backend):
    def fit(parameter, beta1, default):
        loss = Loss("own_huber", huber_loss, parameter=parameter)
        rule = Rule("lion", lion_step, moments=1, constants={"beta1": 0.9, "beta2": default})
        network = Network([5, 6, 3], hard, loss=loss)
        return fastmlp.fit(
            network, X, Y, optimizer=rule(0.01, beta1=beta1), epochs=1, seed=0, backend=backend,
            progress=False,
        )  # fmt: skip

    before = fit(0.7, 0.9, 0.99)
    with compilations() as names:
        after = fit(0.1, 0.5, 0.9)
    assert names == []
    reference = before.network.loss, after.network.loss
    assert reference[0] != reference[1]
    assert not np.allclose(before.parameters, after.parameters)


def huber_loss(output, target, d):
    error = abs(output - target)
    return np.where(error < d, 0.5 * error**2, d * (error - d / 2))


def lion_step(p, g, moments, rate, c, t):
    (m,) = moments
    return p - rate * np.sign(c.beta1 * m + (1 - c.beta1) * g), c.beta2 * m + (1 - c.beta2) * g


def test_files_ask_for_their_components(tmp_path):
    path = tmp_path / "model.npz"
    model = train("mish, sine, focal", "reference")
    fastmlp.save(model, path)
    loaded = fastmlp.load(path, components=[focal, sine, mish, hard])
    assert loaded.network == model.network
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    for given, says in (
        ([], "was trained with 'own_mish', a component of your own: give it in components"),
        (
            [mish, sine, Loss("own_focal", huber_loss, "sigmoid", parameter=1.0)],
            "another 'own_focal' than is given",
        ),
    ):
        with pytest.raises(CheckpointError, match=says) as caught:
            fastmlp.load(path, components=given)
        assert "\n" not in str(caught.value)


def test_two_components_of_one_name_are_distinguished_in_a_file(tmp_path):
    first, second = Activation("one", np.tanh), Activation("one", np.sin)
    network = Network([5, 4, 4, 3], [first, second])
    fastmlp.save(
        fastmlp.fit(network, X, Y, epochs=1, backend="reference", progress=False), tmp_path / "model"
    )
    assert fastmlp.load(tmp_path / "model", components=[second, first]).network == network


@pytest.mark.parametrize("given", [mish, 3, [np.tanh], ["mish"]])
def test_components_for_a_file_are_components(tmp_path, given):
    with pytest.raises(TypeError, match=r"^(every one of )?components must be "):
        fastmlp.load(tmp_path / "model", components=given)


def test_a_loss_with_another_parameter_is_another(tmp_path):
    path = tmp_path / "model.npz"
    fastmlp.save(train("quantiles, own Adam, clipped", "reference"), path)
    other = Loss(
        "quantiles", lambda o, t, q: np.maximum((1 - q) * (o - t), q * (t - o)), parameter=[0.2, 0.5, 0.8]
    )
    with pytest.raises(CheckpointError, match="another 'quantiles'"):
        fastmlp.load(path, components=[mish, other])
