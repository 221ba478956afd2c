"""Activations, losses and rules of a user's own: they are what their functions say, everywhere."""

from __future__ import annotations

import copy
import math
import pickle
import re

import numba
import numpy as np
import pages
import pytest
import scipy.special
from compiled import AfterOneStep, compilations
from joblib import Parallel, delayed
from own_pieces import (
    CASES,
    ONE_HOT,
    PAGE,
    STEPS,
    Lion,
    OwnAdam,
    X,
    Y,
    adam_step,
    by_element,
    focal,
    hard,
    mish,
    of_outputs,
    own_huber,
    quantiles,
    sine,
    smoothed,
    train,
)
from problems import COMPILED_DTYPES, eps, parameters_for
from selection import campaign, matrix
from sklearn.base import clone

import fastmlp
from fastmlp import SGD, Activation, CheckpointError, Loss, Network, RowLoss, Rule
from fastmlp.backend import registry
from fastmlp.formulas.expressions import WORDS, _applied, operate, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.formulas.tracing import trace
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codes import MOST_CODES, Codes
from fastmlp.kernels.small.eligible import specialize
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.backend import Data
from fastmlp.model.layout import flatten
from fastmlp.model.losses import LOSSES
from fastmlp.testing import check

# --- what they compute ---------------------------------------------------------------------------------


def has_program(name):
    network, _, optimizer = CASES[name]
    return specialize(network, optimizer, 8, np.dtype("float64")) is not None


TAKEN_FROM = ("fused", "specialized")


@pytest.mark.parametrize(
    ("backend", "name", "dtype"),
    [
        # Each compiles, 1 to 4 s. The other backends take activations, losses and steps from these two; the
        # dtypes take turns.
        pytest.param(b, name, dtype, marks=campaign if turn % 2 else [] if b in TAKEN_FROM else matrix)
        for first, b in enumerate(registry.variants())
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


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_differences_of_the_objective(name):
    network, y, _ = CASES[name]
    y = np.broadcast_to(y.reshape(len(y), -1), (len(y), network.n_out)).copy()
    data = Data(X, y, np.arange(len(X)) % 3.0)
    weights, biases = parameters_for(network.sizes, np.random.default_rng(1))
    parameters = flatten(weights, biases, network, np.dtype(float))
    gradient = registry.get("reference").gradient
    found, unused = np.empty_like(parameters), np.empty_like(parameters)
    gradient(network, parameters, data, 7, 0, found)
    for i in range(len(parameters)):
        sides = [parameters.copy(), parameters.copy()]
        sides[0][i] -= 1e-6
        sides[1][i] += 1e-6
        low, high = (gradient(network, side, data, 7, 0, unused) for side in sides)
        assert (high - low) / 2e-6 == pytest.approx(found[i], abs=1e-7)


@pytest.mark.parametrize(
    "piece", [mish, sine, focal, hard, own_huber, quantiles, smoothed, of_outputs, by_element]
)
def test_slopes_are_derivatives(piece):
    check(piece)


@pytest.mark.parametrize(
    "name",
    # Their slopes in the reference are compared with differences in tests/model/test_gradients.py, too.
    [
        pytest.param(name, marks=[matrix] * (place % 4 > 0))
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
}


@pytest.mark.parametrize("name", NAIVE)
def test_slopes_stay_finite_where_the_formula_is(name):
    check(Activation("piece", NAIVE[name]))


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
    ("piece", "says"),
    [
        (
            Activation("wrong", np.sin, slope=lambda z: 1.001 * np.cos(z)),
            r"^Activation\('wrong'\), as given: at 0 ",
        ),
        (
            Activation("cusp", lambda z: np.sqrt(z * z)),
            r"^Activation\('cusp'\) in float32: at 0 the slope is nan",
        ),
    ],
)
def test_a_slope_that_is_wrong_is_reported(piece, says):
    with pytest.raises(AssertionError, match=says) as caught:
        check(piece)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("nothing", ["tanhh", 3, Lion])
def test_what_has_no_slope_is_not_checked(nothing):
    with pytest.raises((ValueError, TypeError), match=r"no activation or loss is named|has a slope to check"):
        check(nothing)


def test_trainings_are_real_torchs():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def focal_loss(z, y):
        entropy = functional.binary_cross_entropy_with_logits(z, y, reduction="none")
        return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()

    def quantile_loss(z, y):
        q, r = torch.tensor([0.1, 0.5, 0.9], dtype=z.dtype), z - y
        return torch.maximum((1 - q) * r, -q * r).mean()

    def smoothed_loss(z, y):
        return functional.cross_entropy(z, y, label_smoothing=0.1)

    for network, y, criterion, module in (
        (Network([5, 4, 3], mish, loss=focal), ONE_HOT, focal_loss, torch.nn.Mish()),
        (Network([5, 4, 3], sine, loss=quantiles), Y, quantile_loss, lambda z: torch.sin(3 * z)),
        (Network([5, 4, 3], mish, loss=smoothed), ONE_HOT, smoothed_loss, torch.nn.Mish()),
    ):
        weights, biases = parameters_for(network.sizes, np.random.default_rng(0))
        given = [
            torch.tensor(p, requires_grad=True) for pair in zip(weights, biases, strict=True) for p in pair
        ]
        optimizer = torch.optim.Adam(given, 0.01)
        trace = []
        for _ in range(5):
            z = module(torch.tensor(X) @ given[0] + given[1]) @ given[2] + given[3]
            loss = criterion(z, torch.tensor(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            trace.append(loss.item())
        options = {"initial": (weights, biases), "epochs": 5, "batch_size": None, "backend": "baseline"}
        model = fastmlp.fit(network, X, y, optimizer=OwnAdam(0.01), progress=False, **options)
        np.testing.assert_allclose(model.history["loss"], trace, rtol=1e-11)
        for ours, theirs in zip(model.weights, given[::2], strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-11)


# --- words ---------------------------------------------------------------------------------------------

POINTS = [
    0.0,
    -0.0,
    1,
    -1,
    0.5,
    -2,
    3,
    1e-8,
    -1e-8,
    1e-30,
    1e30,
    -1e30,
    np.inf,
    -np.inf,
    np.nan,
    88.5,
    709,
    -745,
    12.3,
]
LOGICAL = {"logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "invert"}


def expression_of(word):
    """The word applied to as many variables as it takes, and their names; a truth as 1 or 0."""
    names = "abc"[: getattr(getattr(np, word, None), "nin", 3 if word == "where" else 1)]
    given = [variable(name) for name in names]
    if word in LOGICAL:
        given = [x > 0 for x in given]
    elif word == "where":
        given[0] = given[0] > 0
    made = _applied(word, given)
    return (operate("where", made, 1.0, 0.0) if made.truth else made), names


def compiled(made, names):
    """What evaluates an expression on arrays as a jitted loop."""
    given, elements = ", ".join(names), ", ".join(f"{name}[i]" for name in names)
    scope = {"made": made, "jittable": jittable}
    exec(
        f"formula = jittable(lambda {given}: made.on_numbers(dict({', '.join(f'{n}={n}' for n in names)})))\n"
        f"def loop(out, {given}):\n    for i in range(len(out)):\n        out[i] = formula({elements})",
        scope,
    )
    return numba.njit(error_model="numpy")(scope["loop"])


TAKES_ROWS = ("sum", "mean", "max", "norm", "clip", "zeros_like", "ones_like")
"""Words that take other things than numbers of one element."""


@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize("word", [word for word in WORDS if word not in TAKES_ROWS])
def test_a_word_is_numpys_function_of_that_name(word, dtype):
    made, names = expression_of(word)
    arrays = [a.ravel().astype(dtype) for a in np.meshgrid(*[POINTS] * len(names))]
    numpys = getattr(np, word, None) or getattr(scipy.special, word)
    given = arrays
    if word in LOGICAL:
        given = [a > 0 for a in arrays]
    elif word == "where":
        given = [arrays[0] > 0, *arrays[1:]]
    with np.errstate(all="ignore"):
        expected = numpys(*given).astype(float)
        got = made.on_arrays(np.dtype(dtype), dict(zip(names, arrays, strict=True))).astype(float)
        # sinh and cosh overflow where exp does; NumPy's float_power is one of float64 whatever it gets.
        there = np.isfinite(expected) & (np.abs(expected) < np.finfo(dtype).max / 4)
        there |= word not in ("sinh", "cosh", "float_power")
        # Of exp2 the rounding of its exponent counts as often as that says.
        allowed = 8 * eps(dtype) * np.abs(expected) * np.fmax(1, np.abs(np.log2(np.abs(expected))))
        allowed += np.finfo(dtype).tiny
        right = (got == expected) | (np.isnan(got) & np.isnan(expected)) | (np.abs(got - expected) <= allowed)
    wrong = ~right & there
    assert not wrong.any(), [(*(a[wrong][0] for a in arrays), got[wrong][0], expected[wrong][0])]


ELEMENTARY = ("power", "expm1", "log1p", "erf", "maximum", "heaviside", "fmax", "logaddexp")


@pytest.mark.parametrize("dtype", COMPILED_DTYPES)
@pytest.mark.parametrize(
    "word",
    [
        word if word in ELEMENTARY else pytest.param(word, marks=pytest.mark.slow)
        for word in WORDS
        if word not in TAKES_ROWS
    ],
)
def test_machine_code_of_a_word_is_numpys(word, dtype):
    made, names = expression_of(word)
    arrays = [a.ravel().astype(dtype) for a in np.meshgrid(*[POINTS] * len(names))]
    with np.errstate(all="ignore"):
        expected = made.on_arrays(np.dtype(dtype), dict(zip(names, arrays, strict=True)))
    got = np.empty(len(arrays[0]), dtype)
    compiled(made, names)(got, *arrays)
    # Of a power the rounding of its logarithm counts as often as its exponent says.
    ulp = 1000 if word in ("power", "float_power") else 8
    allowed = (
        ulp * eps(dtype) * np.maximum(np.abs(expected), word not in ("expm1", "log1p", "power"))
        + np.finfo(dtype).tiny
    )
    far = np.abs(arrays[0]) > 1e9 if word in ("sin", "cos", "tan") else np.zeros(len(got), bool)
    with np.errstate(all="ignore"):
        right = (got == expected) | (np.isnan(got) & np.isnan(expected)) | (np.abs(got - expected) <= allowed)
    wrong = ~(right | far)
    assert not wrong.any(), [(*(a[wrong][0] for a in arrays), got[wrong][0], expected[wrong][0])]


def test_the_page_lists_what_can_be_traced():
    listed = re.search("<!-- words -->(.*?)<!--", pages.text_of(PAGE), re.DOTALL)[1]
    assert re.findall(r"`(\w+)`", listed) == WORDS


@pytest.mark.slow
def test_the_pages_examples_run(tmp_path):
    pages.run(PAGE, tmp_path)


# --- what is refused -----------------------------------------------------------------------------------

TABLE = np.ones(3)


def changing():
    changing.calls = getattr(changing, "calls", 0) + 1
    return changing.calls


def endless(z):
    return endless(z)


def if_(z):
    if z > 0:
        return z
    return 0.1 * z


z_of = Activation
REFUSED = {
    "a closure over an array": (
        lambda: z_of("x", lambda z: z * TABLE),
        "an array of shape \\(3,\\) from outside",
    ),
    "another formula every time": (lambda: z_of("x", lambda z: z * changing()), "must be pure"),
    "if": (lambda: z_of("x", if_), "line \\d+ of 'test_own_pieces.py', 'if z > 0:': Python's if"),
    "min": (lambda: z_of("x", lambda z: min(z, 1.0)), "use np.where"),
    "math": (lambda: z_of("x", lambda z: math.exp(z)), "functions of math"),
    "an unknown function": (lambda: z_of("x", lambda z: np.sinc(z)), "cannot be traced at line \\d+"),
    "an unknown ufunc": (lambda: z_of("x", lambda z: np.arctan(z)), "np.arctan is not among the functions"),
    "recursion": (lambda: z_of("x", endless), "calls itself without end"),
    "a mistake of its own": (lambda: z_of("x", lambda z: z + undefined), "NameError"),  # noqa: F821
    "elements": (lambda: z_of("x", lambda z: z[0]), "no elements"),
    "half a choice": (lambda: z_of("x", lambda z: np.where(z > 0)), "both of what it chooses from"),
    "no argument": (lambda: z_of("x", lambda: 1.0), "TypeError"),
    "nothing": (lambda: z_of("x", lambda z: None), "returns None, where a value is required"),
    "text": (lambda: z_of("x", lambda z: "z"), "computes with str"),
    "a truth": (lambda: z_of("x", lambda z: z > 0), "must return one number, got a truth value"),
    "two values": (lambda: z_of("x", lambda z: (z, z)), "must return one number, got 2 values"),
    "a constant": (lambda: z_of("x", lambda z: 0 * 1.0), "must depend on its argument"),
    "a slope of others": (lambda: z_of("x", lambda z: z, slope=lambda x: x), "must take z, a, or z and a"),
    "no function": (lambda: z_of("x", 3), "cannot be traced"),
    "a name that is taken": (lambda: z_of("relu", lambda z: z), "one of fastmlp's own"),
    "no name": (lambda: z_of("a b", lambda z: z), "letters, digits and _"),
    "a loss of no output": (lambda: Loss("x", lambda o, t: o, output="tanh"), "unknown output 'tanh'"),
    "a loss that returns a truth": (lambda: Loss("x", lambda o, t: o > t), "one number"),
    "a loss without function": (lambda: Loss("x", None), "cannot be traced"),
    "no parameter": (lambda: Loss("x", lambda o, t, p: o * p, parameter=[]), "must hold a number, got none"),
    "a row without an end": (lambda: RowLoss("x", lambda o, t: o - t), "end it by np.sum or np.max"),
    "too few moments": (lambda: Rule("x", lambda p, g, m, r, c, t: p, moments=1), "1 moments, got 1 values"),
    "too many moments": (lambda: Rule("x", adam_step, moments=5), "moments"),
    "an unknown constant": (
        lambda: Lion(beta3=1),
        "no constant 'beta3'; choose from: beta1, beta2, learning_rate",
    ),
    "a constant that is none": (lambda: Lion(beta1="a"), "beta1 must be a number"),
    "a constant of ours": (
        lambda: Rule("x", lambda p, g, m, r, c, t: p, constants={"clip_norm": 1}),
        "name of its own",
    ),
    "a rule for an optimiser": (lambda: fastmlp.fit(Network([5, 3]), X, Y, optimizer=Lion), "optimizer"),
    "outputs without parameters": (lambda: Network([5, 2], loss=quantiles), "a number or 2 of them"),
    "an output of another loss": (
        lambda: Network([5, 3, 2], output="softmax", loss=focal),
        "does not go with",
    ),
    "a name of nothing": (lambda: Network([5, 3, 2], "mush"), "or an Activation of your own"),
    "a class": (lambda: Network([5, 3, 2], Activation), "hidden"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(name):
    make, says = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["reference", "baseline"])
def test_a_nan_is_a_divergence(backend):
    nan = Activation("nan", lambda z: np.log(-abs(z) - 1) + z)
    with pytest.raises(fastmlp.DivergenceError, match=r"^[^\n]*$"):
        fastmlp.fit(Network([5, 3, 3], nan), X, Y, backend=backend, progress=False)


def test_a_number_from_outside_is_what_it_was():
    scale = 2.0
    piece = Activation("scaled", lambda z: scale * z)
    scale = 3.0
    assert piece.on_array(np.ones(1)) == 2.0


def test_a_condition_that_is_known_is_decided():
    steep = False
    (made,) = trace("it", lambda z: np.where(steep, 2 * z, z), variable("z"))
    assert made.digest == variable("z").digest


def test_so_many_pieces_as_there_are_codes():
    codes = Codes("activation", ACTIVATIONS)
    for i in range(MOST_CODES - codes.own):
        codes.code(Activation(f"a{i}", np.tanh))
    most = MOST_CODES - codes.own
    with pytest.raises(
        ValueError, match=rf"^a process can use {most} activations of your own, and has used them; [^\n]*$"
    ):
        codes.code(Activation("last", np.tanh))
    assert codes.code(Activation("a0", np.tanh)) == codes.own


# --- what they are known by ----------------------------------------------------------------------------


def predictions(*hidden, backend="baseline"):
    network = Network([5, *[4] * len(hidden), 1], hidden)
    return fastmlp.fit(network, X, Y[:, 0], epochs=1, seed=0, backend=backend, progress=False).predict(X)


def test_two_pieces_of_one_name_are_two():
    first, second = Activation("one", np.tanh), Activation("one", np.sin)
    assert first != second
    assert first == Activation("one", lambda z: np.tanh(z))
    np.testing.assert_allclose(predictions(first, second), predictions("tanh", second), rtol=1e-12)
    assert not np.allclose(predictions(first, second), predictions(second, first))


@pytest.mark.parametrize("piece", [mish, sine, focal, quantiles, smoothed, Lion], ids=repr)
def test_copies_are_equal(piece):
    for other in (pickle.loads(pickle.dumps(piece)), copy.deepcopy(piece)):
        assert other == piece
        assert hash(other) == hash(piece)
        assert other.digest == piece.digest


def test_estimators_are_cloned_and_pickled():
    estimator = fastmlp.MLPClassifier((4,), mish, loss=focal, tol=0.1, random_state=0, backend="baseline")
    estimator.fit(X, ONE_HOT[:, 0])
    again = clone(estimator)
    assert (again.activation, again.loss) == (mish, focal)
    restored = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(restored.predict_proba(X), estimator.predict_proba(X))


def test_one_column_of_y_is_the_target_of_every_quantile():
    estimator = fastmlp.MLPRegressor(quantiles, (4,), tol=0.1, random_state=0, backend="baseline")
    assert estimator.fit(X, Y[:, 0]).predict(X).shape == (24, 3)


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


@pytest.mark.parametrize("backend", ["fused", "specialized"])
def test_other_parameters_and_constants_compile_nothing(backend):
    def fit(parameter, beta1, default):
        loss = Loss("own_huber", huber_loss, parameter=parameter)
        rule = Rule("lion", lion_step, moments=1, constants={"beta1": 0.9, "beta2": default})
        network = Network([5, 6, 3], hard, loss=loss)
        return fastmlp.fit(
            network,
            X,
            Y,
            optimizer=rule(0.01, beta1=beta1),
            epochs=1,
            seed=0,
            backend=backend,
            progress=False,
        )

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
        for backend in ("reference", "baseline", "fused")
    ]  # fmt: skip
    for run in runs[1:]:
        np.testing.assert_allclose(run, runs[0], atol=100 * eps(np.float32))


def test_a_slope_may_be_one_number():
    steps, slanted = Activation("steps", np.sign), Activation("slanted", lambda z: 2 * z)
    runs = [
        fastmlp.fit(
            Network([5, 4, 4, 3], [steps, slanted]), X, Y, epochs=2, seed=0, backend=backend, progress=False
        ).parameters
        for backend in ("reference", "baseline")
    ]
    np.testing.assert_allclose(*runs, atol=1e-14)


# --- files ---------------------------------------------------------------------------------------------


def test_files_ask_for_their_pieces(tmp_path):
    path = tmp_path / "model.npz"
    model = train("mish, sine, focal", "reference")
    fastmlp.save(model, path)
    loaded = fastmlp.load(path, pieces=[focal, sine, mish, hard])
    assert loaded.network == model.network
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    for given, says in (
        ([], "was trained with 'mish', a piece of your own: give it in pieces"),
        (
            [mish, sine, Loss("focal", huber_loss, "sigmoid", parameter=1.0)],
            "another 'focal' than is given",
        ),
    ):
        with pytest.raises(CheckpointError, match=says) as caught:
            fastmlp.load(path, pieces=given)
        assert "\n" not in str(caught.value)


def test_two_pieces_of_one_name_are_distinguished_in_a_file(tmp_path):
    first, second = Activation("one", np.tanh), Activation("one", np.sin)
    network = Network([5, 4, 4, 3], [first, second])
    fastmlp.save(
        fastmlp.fit(network, X, Y, epochs=1, backend="reference", progress=False), tmp_path / "model"
    )
    assert fastmlp.load(tmp_path / "model", pieces=[second, first]).network == network


@pytest.mark.parametrize("name", ["selu", "mish", "hardswish"])
def test_a_name_that_came_later_is_still_free(tmp_path, name):
    own = Activation(name, lambda z: 0.5 * z)
    network = Network([5, 4, 4, 3], [own, name])
    model = fastmlp.fit(network, X, Y, epochs=1, backend="reference", progress=False)
    fastmlp.save(model, tmp_path / "model")
    for loaded in (fastmlp.load(tmp_path / "model", pieces=[own]), pickle.loads(pickle.dumps(model))):
        assert loaded.network.hidden == (own, name)
        np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


@pytest.mark.parametrize("given", [mish, 3, [np.tanh], ["mish"]])
def test_pieces_for_a_file_are_pieces(tmp_path, given):
    with pytest.raises(TypeError, match=r"^(every one of )?pieces must be "):
        fastmlp.load(tmp_path / "model", pieces=given)


def test_a_loss_with_another_parameter_is_another(tmp_path):
    path = tmp_path / "model.npz"
    fastmlp.save(train("quantiles, own Adam, clipped", "reference"), path)
    other = Loss(
        "quantiles", lambda o, t, q: np.maximum((1 - q) * (o - t), q * (t - o)), parameter=[0.2, 0.5, 0.8]
    )
    with pytest.raises(CheckpointError, match="another 'quantiles'"):
        fastmlp.load(path, pieces=[mish, other])


@pytest.mark.parametrize("name", ["mish, sine, focal", "quantiles, own Adam, clipped"])
def test_a_training_continues_bit_for_bit(tmp_path, monkeypatch, name):
    monkeypatch.setattr("fastmlp.training.loop.MAX_CHUNK_STEPS", 1)
    path = tmp_path / "training"
    train(name, "reference", callbacks=[fastmlp.Checkpoint(path, 99), AfterOneStep()])
    resumed = train(name, "reference", resume=path, callbacks=[fastmlp.Checkpoint(path, 99)])
    np.testing.assert_array_equal(resumed.parameters, train(name, "reference").parameters)
    with pytest.raises(CheckpointError, match="these differ: optimizer"):
        train(name, "reference", resume=path, optimizer=Lion(1.0), callbacks=[fastmlp.Checkpoint(path, 99)])


def test_every_operation_is_a_word():
    assert {*OPERATIONS} - {*WORDS} == {"softplus"}  # as np.log1p(np.exp(z)) and np.logaddexp(0, z)
    assert SGD(0.1).rule.digest == ""


# --- what a hard look found ---------------------------------------------------------------------------


ROWS = np.random.default_rng(5).normal(size=(40, 4))


def losses_of(backends, y, **options):
    fits = {"epochs": 3, "batch_size": 16, "seed": 1, **options}
    network = fits.pop("network")
    return [fastmlp.fit(network, ROWS, y, backend=backend, **fits).history["loss"] for backend in backends]


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


def test_a_slope_that_is_infinite_at_0_spoils_no_padding():
    root = Activation("root", lambda z: np.sqrt(abs(z)), slope=lambda a: 0.5 / a)
    options = {"network": Network([4, 6, 1], root), "optimizer": SGD(1e-3)}
    expected, got = losses_of(["reference", "specialized"], ROWS[:, 0], **options)
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
    # Each compiles for two backends, 2 s; their values are compared with NumPy's below.
    [pytest.param(name, marks=[matrix] * (place > 0)) for place, name in enumerate(ROW_LOSSES)],
)
def test_sums_of_what_all_units_share(name):
    loss = RowLoss("shared", ROW_LOSSES[name])
    network, y = Network([4, 3], loss=loss), ROWS[:, :3]
    expected, *got = losses_of(["reference", "baseline", "fused"], y, network=network, optimizer=SGD(0.01))
    for losses in got:
        np.testing.assert_allclose(losses, expected, rtol=1e-10)
    rng = np.random.default_rng(0)
    z, targets, step = rng.normal(size=(1, 3)), rng.normal(size=(1, 3)), 1e-6
    value = lambda z: loss.on_arrays(z, z, targets, np.zeros(3))[0][0, 0]  # noqa: E731
    slopes = [(value(z + step * e) - value(z - step * e)) / (2 * step) for e in np.eye(3)]
    np.testing.assert_allclose(loss.on_arrays(z, z, targets, np.zeros(3))[1][0], slopes, rtol=1e-6, atol=1e-8)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-30]


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


def of_400_terms(z):
    total = 0.0
    for i in range(1, 400):
        total = total + np.sin(i * z) / i
    return total


def test_a_long_formula_is_copied_and_pickled():
    long = Activation("long", of_400_terms)
    assert copy.deepcopy(long) == pickle.loads(pickle.dumps(long)) == long


@numba.vectorize
def square(x):
    return 3 * x


class Sub(Activation):
    pass


GONE_WRONG = {
    "a sum in a loss": (
        lambda: Loss("l", lambda o, t: (o - np.sum(o)) ** 2),
        "only a RowLoss or a Layer may",
    ),
    "a sum in an activation": (
        lambda: Activation("l", lambda z: z / np.sum(z)),
        "only a RowLoss or a Layer may",
    ),
    "a sum in a rule": (
        lambda: Rule("l", lambda p, g, m, r, c, t: p - np.max(g)),
        "only a RowLoss or a Layer may",
    ),
    "a ufunc of somebody's": (
        lambda: Activation("l", lambda z: square(z)),
        "square is not one of NumPy's functions",
    ),
    "another library's sqrt": (
        lambda: Activation("l", lambda z: np.emath.sqrt(z)),
        r"numpy\.lib\.\S*scimath\S*\.sqrt is not one of NumPy's functions",
    ),
    "a comparison of texts": (
        lambda: Activation("l", lambda z: np.char.equal(z, z)),
        "is not one of NumPy's",
    ),
    "a shape": (
        lambda: Activation("l", lambda z: z + np.ones_like(z, shape=(3,))),
        "np.ones_like with shape",
    ),
    "a dtype of a sum": (lambda: RowLoss("l", lambda o, t: np.sum(o * t, None, int)), "and nothing else"),
    "a sum down a column": (lambda: RowLoss("l", lambda o, t: np.sum(o * t, axis=0)), "or -1, got 0"),
    "a sum in a slope": (
        lambda: Activation("l", np.tanh, slope=lambda a: np.sum(a)),
        "only a RowLoss or a Layer may",
    ),
    "a subclass": (lambda: Sub("l", lambda z: z), "would compute as its parent"),
    "a number for a slope": (lambda: Activation("l", lambda z: z, slope=3), "must be a function, got 3"),
    "a list of constants": (lambda: Rule("l", lambda p, *_: p, constants=[1]), "must be a dict, got"),
    "a dict's word": (lambda: Rule("l", lambda p, *_: p, constants={"values": 1}), "got 'values'"),
}


@pytest.mark.parametrize("what", GONE_WRONG)
def test_what_would_go_wrong_later_is_refused(what):
    make, message = GONE_WRONG[what]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_one_number_may_be_an_array():
    assert Loss("l", lambda o, t, p: p * o, parameter=np.array(2.0)).parameter == (2.0,)
