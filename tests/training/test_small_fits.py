"""What a short training leaves out, draws that nobody uses and checks that it has passed, changes nothing."""

import gc
import weakref

import numpy as np
import pytest
from sklearn.utils import check_random_state
from support.equal_estimators import assert_same
from support.estimator_pairs import pair
from support.selection import matrix
from test_overhead import calls_of

import fastmlp
from fastmlp.estimators.rows import ComposedOrders, random_state

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X, LABELS = RNG.random((32, 17)), np.arange(32) % 5 - 2

CALLS_OF_A_PARTIAL_FIT, CALLS_OF_GOING_ON = 700, 510
"""Bounds, not counts: some 490 and 425 with CPython 3.11, 485 beside other tests' backends.

They were 4200 where scikit-learn validates what it gets.
"""


@matrix
def test_going_on_draws_no_start():
    network = fastmlp.Network([17, 8, 5])
    model = fastmlp.fit(network, X, RNG.random((32, 5)), epochs=1, seed=0, progress=False, backend="fused")
    calls = calls_of(lambda: model.fit_more(X, X[:, :5], epochs=1, progress=False))
    assert calls["train_chunk"] > 0
    assert not {"draw_weights", "default_rng"} & calls.keys()
    assert calls.total() <= CALLS_OF_GOING_ON, calls.most_common(20)


def test_a_start_that_is_drawn_again_is_the_same_and_nobody_else_s():
    network, y = fastmlp.Network([17, 8, 5]), X[:, :5]
    first, other = (fastmlp.fit(network, X, y, epochs=0, seed=seed, progress=False) for seed in (7, 8))
    drawn = first.parameters.copy()
    assert not np.array_equal(other.parameters, drawn)
    first.parameters[:] = 0
    again = fastmlp.fit(network, X, y, epochs=0, seed=7, progress=False)
    np.testing.assert_array_equal(again.parameters, drawn)


@matrix
@pytest.mark.parametrize("threads", [pytest.param(None, marks=matrix), 1])
def test_the_blas_is_limited_only_where_something_may_call_it(threads):
    network, y = fastmlp.Network([17, 8, 5]), X[:, :5]

    def fit(backend, callbacks):
        options = {"epochs": 1, "seed": 0, "threads": threads, "callbacks": callbacks, "progress": False}
        return lambda: fastmlp.fit(network, X, y, backend=backend, **options)

    for backend, callbacks, limited in (
        ("fused", (), False),
        ("auto", (), False),
        ("fused", (fastmlp.Callback(),), True),
        ("reference", (), True),
    ):
        assert bool(calls_of(fit(backend, callbacks))["blas_threads"]) == limited


def test_descriptions_that_are_known_let_nothing_pass_that_is_wrong():
    fastmlp.MLPRegressor(hidden_layer_sizes=(1,), max_iter=1).fit(X, X[:, 0])
    for sizes in ((True,), (1.0,)):
        with pytest.raises(TypeError, match="whole number"):
            fastmlp.MLPRegressor(hidden_layer_sizes=sizes, max_iter=1).fit(X, X[:, 0])
    kept = {"network": fastmlp.Network([17, 8, 5]), "X": X, "y": X[:, :5], "epochs": 1, "progress": False}
    fastmlp.fit(**kept)
    for name, value in (("epochs", True), ("threads", 1.0), ("batch_size", True), ("shuffle", 1)):
        with pytest.raises(TypeError, match=name):
            fastmlp.fit(**{**kept, name: value})


@matrix
def test_partial_fit_asks_scikit_learn_nothing_about_clean_rows():
    model = fastmlp.MLPClassifier((8,), backend="fused", random_state=0)
    model.partial_fit(X, LABELS, classes=range(-2, 3))
    calls = calls_of(lambda: model.partial_fit(X, LABELS))
    assert calls["train_chunk"] > 0
    assert not {"validate_data", "type_of_target", "unique_labels"} & calls.keys()
    assert calls.total() <= CALLS_OF_A_PARTIAL_FIT, calls.most_common(20)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("dtype", ["int64", "int32", "float64", "U2"])
def test_labels_of_any_dtype_train_as_in_scikit_learn(classes, dtype):
    X, y = RNG.random((40, 2)), (np.arange(40) % classes - 2).astype(dtype)
    theirs, ours = (one.fit(X, y).partial_fit(X[:7], y[:7]) for one in pair("MLPClassifier", max_iter=1))
    assert_same(ours, theirs, X, 1e-12)


@pytest.mark.parametrize("wrong", [-3, 9, 1])
def test_a_label_that_is_no_class_is_refused_as_before(wrong):
    y = np.array([0, 2, 4] * 4)
    model = fastmlp.MLPClassifier((3,), max_iter=1).fit(X[:12], y)
    y[5] = wrong
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`"):
        model.partial_fit(X[:12], y)


@pytest.mark.parametrize(
    ("rows", "y"),
    [
        (np.where(X[:12] == X[3, 4], np.nan, X[:12]), np.ones(12)),
        (X[:12, :5], np.ones(12)),
        (X[:12], np.ones(11)),
        (X[:12], np.full(12, np.inf)),
    ],
)
def test_rows_that_are_wrong_are_refused_as_by_scikit_learn(rows, y):
    model = fastmlp.MLPRegressor(hidden_layer_sizes=(3,)).partial_fit(X, X[:, 0])
    with pytest.raises(ValueError) as by_array:  # noqa: PT011  # the words are compared below
        model.partial_fit(rows, y)
    with pytest.raises(ValueError) as by_list:  # noqa: PT011
        model.partial_fit(rows.tolist(), y.tolist())  # scikit-learn validates lists in any case
    assert str(by_array.value) == str(by_list.value)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_a_seed_gives_the_state_of_scikit_learn(seed):
    expected = check_random_state(seed)
    for _ in range(2):  # a generator that is made, and the same one seeded again
        with random_state(seed) as rng:
            for own, theirs in zip(rng.get_state(), expected.get_state(), strict=True):
                np.testing.assert_array_equal(own, theirs)
            rng.normal()  # keeps a second number


def test_a_seed_gives_each_of_two_at_a_time_a_generator_of_its_own():
    with random_state(1) as first, random_state(1) as second:
        assert first.randint(2**31) == second.randint(2**31)
        assert first is not second


@pytest.mark.parametrize("seed", [-1, 2**32, "a"])
def test_a_seed_that_is_wrong_is_refused_in_the_same_words(seed):
    with pytest.raises(ValueError) as theirs:  # noqa: PT011  # the words are compared below
        check_random_state(seed)
    with pytest.raises(ValueError) as own:  # noqa: PT011
        random_state(seed).__enter__()
    assert str(own.value) == str(theirs.value)


def test_orders_are_those_of_permutations_of_the_one_before():
    out, order, rng = np.empty((4, 50), np.int64), np.arange(50), np.random.RandomState(3)
    ComposedOrders(50, np.random.RandomState(3)).draw(0, out)
    for found in out:
        order = order[rng.permutation(50)]
        np.testing.assert_array_equal(found, order)


def test_parameters_that_are_wrong_are_refused_after_right_ones():
    model = fastmlp.MLPRegressor(hidden_layer_sizes=(3,), max_iter=1).fit(X, X[:, 0])
    model.set_params(alpha=-1.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="alpha"):
            model.fit(X, X[:, 0])
    model.set_params(alpha=0.0).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="alpha"):
        model.set_params(alpha=False).set_params(alpha="a").fit(X, X[:, 0])


@matrix
def test_what_passed_validation_keeps_no_rows_alive():
    rows, y = X.copy(), X[:, 0].copy()
    model = fastmlp.MLPRegressor(hidden_layer_sizes=(3,), max_iter=1, validation_set=(rows, y))
    model.fit(X, X[:, 0])
    watch = weakref.ref(rows)
    del rows, model
    gc.collect()
    assert watch() is None
