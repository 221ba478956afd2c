"""Estimators on rows that come block by block: `fit` and `partial_fit` in the bits of one array of them."""

import itertools

import numpy as np
import pytest
import scipy.sparse
from support.selection import quick

from fastmlp import SGD, Cosine, MLPClassifier, MLPRegressor, StepDecay

RNG = np.random.default_rng(0)
ROWS = 150
X = RNG.normal(size=(ROWS, 4))
PIXELS = RNG.integers(0, 256, (ROWS, 4), np.uint8)
WIDE = RNG.integers(0, 256, (ROWS, 130), np.uint8)
"""A network of so many columns that windows keep bytes."""
NAMES = np.array(["ape", "bee", "cat"])[RNG.integers(0, 3, ROWS)]
TWO = NAMES == "ape"
SEVERAL = RNG.integers(0, 2, (ROWS, 3))
W = RNG.random(ROWS) + 0.5
OPTIONS = {
    "hidden_layer_sizes": (5,), "max_iter": 4, "random_state": 0, "backend": "reference", "batch_size": 32,
}  # fmt: skip
CUTS = [slice(0, 40), slice(40, 41), slice(41, ROWS)]

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger"),
]


def blocks(y, x=X, weights=None):
    return [(x[rows], y[rows], *([] if weights is None else [weights[rows]])) for rows in CUTS]


def assert_same(ours, expected, x=X):
    np.testing.assert_array_equal(ours.model_.parameters, expected.model_.parameters)
    assert ours.loss_curve_ == expected.loss_curve_
    assert (ours.n_iter_, ours.t_, ours.n_features_in_) == (
        expected.n_iter_,
        expected.t_,
        expected.n_features_in_,
    )
    np.testing.assert_array_equal(ours.predict(x), expected.predict(x))


@quick(6)
@pytest.mark.parametrize("y", [NAMES, TWO, SEVERAL], ids=["three", "two", "several"])
@pytest.mark.parametrize(
    "options", [{}, {"batch_size": "auto"}, {"shuffle": False}, {"class_weight": "dict"}]
)
def test_classifiers_fit_blocks(y, options):
    if "class_weight" in options:
        if y is SEVERAL:
            return
        options = {"class_weight": {label: 1.0 + place for place, label in enumerate(np.unique(y))}}
    expected = MLPClassifier(**{**OPTIONS, **options}).fit(X, y, W)
    ours = MLPClassifier(**{**OPTIONS, **options}).fit(lambda: iter(blocks(y, weights=W)))
    assert_same(ours, expected)
    np.testing.assert_array_equal(ours.classes_, expected.classes_)


@pytest.mark.parametrize("y", [X[:, 0], X[:, :2]], ids=["one", "two"])
def test_regressors_fit_blocks_and_go_on(y):
    expected, ours = (MLPRegressor(**OPTIONS, warm_start=True, solver="sgd") for _ in range(2))
    for _ in range(2):
        assert_same(ours.fit(blocks(y)), expected.fit(X, y))


def test_partial_fit_takes_blocks_and_each_block():
    expected, ours, each, whole = (MLPClassifier(**OPTIONS) for _ in range(4))
    labels = np.unique(NAMES)
    for _ in range(2):
        expected.partial_fit(X, NAMES, classes=labels, epochs=2)
        ours.partial_fit(blocks(NAMES), classes=labels, epochs=2)
        assert_same(ours, expected)
    for x, y in blocks(NAMES):
        each.partial_fit(x, y, classes=labels)
        whole.partial_fit([(x, y)], classes=labels)
        assert_same(each, whole)


def test_class_weights_go_by_all_classes_and_blocks_may_lack_some():
    order = np.argsort(NAMES, kind="stable")
    x, y = X[order], NAMES[order]
    cuts = [0, *(np.flatnonzero(y[1:] != y[:-1]) + 1), ROWS]
    sorted_ = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(cuts)]
    for weights in ({"ape": 0.0, "bee": 1.0, "cat": 2.0}, {"bee": 3.0}):
        options = {**OPTIONS, "class_weight": weights}
        assert_same(MLPClassifier(**options).fit(sorted_), MLPClassifier(**options).fit(x, y))


def test_class_weights_of_several_labels_go_by_all_rows_and_blocks_may_lack_some():
    y = (X[:, :2] > 0.5).astype(int)
    order = np.lexsort(y.T)
    x, y = X[order], y[order]
    cuts = [0, *(np.flatnonzero((y[1:] != y[:-1]).any(axis=1)) + 1), ROWS]
    sorted_ = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(cuts)]
    assert len(sorted_) == 4
    for weights in ([{1: 3.0}, {0: 0.0, 1: 2.0}], [None, {0: 5.0}]):
        options = {**OPTIONS, "class_weight": weights}
        assert_same(MLPClassifier(**options).fit(sorted_), MLPClassifier(**options).fit(x, y))
    for weights, words in (
        ({1: 3.0}, r"class_weight of 2 labels a row must be a list of so many dicts like .*, got \{1: 3.0\}"),
        ([{1: 3.0}], "must be a list of so many dicts"),
        ([{1: -3.0}, None], "class_weight must be finite and at least 0"),
        (["balanced", None], "class_weight='balanced' needs all rows at once"),
    ):
        with pytest.raises(ValueError, match=words):
            MLPClassifier(**{**OPTIONS, "class_weight": weights}).fit(sorted_)


def test_blocks_without_rows_do_not_change_the_labels():
    y = SEVERAL[:, 0]
    given = [(X[:0], []), *blocks(y), (X[:0], [])]
    ours, expected = MLPClassifier(**OPTIONS).fit(given), MLPClassifier(**OPTIONS).fit(X, y)
    assert_same(ours, expected)
    assert ours.classes_.dtype == expected.classes_.dtype


@pytest.mark.parametrize("rate", [StepDecay(0.1, 2, 0.1), Cosine(0.1, 5)])
def test_schedules_by_epoch_go_on_from_one_partial_fit_to_the_next(rate):
    expected, ours = (MLPRegressor(**{**OPTIONS, "solver": SGD(rate)}) for _ in range(2))
    for _ in range(4):
        expected.partial_fit(X, X[:, 0])
        assert_same(ours.partial_fit(blocks(X[:, 0])), expected)


@pytest.mark.parametrize("given", [PIXELS, WIDE], ids=["converted", "kept"])
def test_memory_maps_of_bytes(given, tmp_path):
    given.tofile(tmp_path / "x")
    pixels = np.memmap(tmp_path / "x", np.uint8, "r", shape=given.shape)
    for kind, y in ((MLPClassifier, NAMES), (MLPRegressor, X[:, 0])):
        options = {**OPTIONS, "input_scale": 1 / 255, "validation_set": (given[:50], y[:50])}
        assert_same(kind(**options).fit(pixels, y), kind(**options).fit(given, y), given)
        stops = {**OPTIONS, "early_stopping": True}
        assert_same(kind(**stops).fit(pixels, y), kind(**stops).fit(given, y), given)


def test_early_stopping_with_a_validation_set():
    options = {**OPTIONS, "max_iter": 60, "early_stopping": True, "validation_set": (X, NAMES), "tol": 0.01}
    expected = MLPClassifier(**options).fit(X, NAMES)
    ours = MLPClassifier(**options).fit(blocks(NAMES))
    assert_same(ours, expected)
    assert ours.validation_scores_ == expected.validation_scores_
    assert ours.n_iter_ < 60


def test_sparse_blocks_and_tables():
    sparse = scipy.sparse.csr_array(np.where(X > 0, X, 0))
    expected = MLPRegressor(**OPTIONS).fit(sparse, X[:, 0])
    assert_same(MLPRegressor(**OPTIONS).fit(blocks(X[:, 0], sparse)), expected)
    pyarrow, array = pytest.importorskip("pyarrow"), pytest.importorskip("dask.array")
    table = pyarrow.table({**{f"x{i}": X[:, i] for i in range(4)}, "kind": NAMES, "w": W})
    expected = MLPClassifier(**OPTIONS).fit(X, NAMES, W)
    assert_same(MLPClassifier(**OPTIONS).fit(table, "kind", "w"), expected)
    assert_same(MLPClassifier(**OPTIONS).fit(array.from_array(X, chunks=(40, 4)), NAMES, W), expected)


def test_products_of_bfloat16_numbers():
    options = {**OPTIONS, "dtype": "bfloat16"}
    assert_same(MLPRegressor(**options).fit(blocks(X[:, 0])), MLPRegressor(**options).fit(X, X[:, 0]))


def test_small_windows_are_trained_on(windows):
    windows(size=1)  # a batch's rows
    expected = MLPClassifier(**OPTIONS, shuffle=False).fit(X, NAMES)
    assert_same(MLPClassifier(**OPTIONS, shuffle=False).fit(blocks(NAMES)), expected)
    shuffled = MLPClassifier(**OPTIONS).fit(blocks(NAMES))
    assert len(shuffled.loss_curve_) == 4
    assert_same(MLPClassifier(**OPTIONS).fit(blocks(NAMES)), shuffled)
    assert not np.array_equal(shuffled.model_.parameters, expected.model_.parameters)


class Failing:
    """Blocks whose second one cannot be read."""

    def __iter__(self):
        yield X, NAMES
        raise OSError("the disk is gone")


def walked():
    """A function that gives the same iterator again and again."""
    made = iter(blocks(TWO))
    return lambda: made


MISTAKES = {
    "nan in y": (lambda: [(X, X[:, 0] > 0), (X, X[:, 0] * np.nan)], "block 2: y must be finite"),
    "infinite y": (lambda: [(X, np.full(ROWS, np.inf))], "block 1: y must be finite"),
    "columns of y": (lambda: [(X, TWO), (X, SEVERAL)], "block 1 of epoch 1: y must have shape (150, 3),"),
    "more labels": (lambda: [(X, SEVERAL), (X, SEVERAL[:, :2])], "block 2 of epoch 1: "),
    "weights of 0": (lambda: [(X, TWO, 0 * W)], "the weights of epoch 1 are all zero"),
    "walked once": (walked, "there is no row in the blocks of epoch 1; give a function that makes them anew"),
    "no row": (lambda: list, "there is no row in the blocks"),
    "no pair": (lambda: [(X, TWO), (X,)], "block 2 must be (X, y) or (X, y, weight), got"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_names_its_block_in_one_line(kind):
    make, words = MISTAKES[kind]
    with pytest.raises((TypeError, ValueError)) as caught:
        MLPClassifier(**OPTIONS).fit(make())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_of_a_regressor_s_targets():
    with pytest.raises(ValueError, match=r"^block 2 of epoch 1: y has 2 columns, and 1 in the blocks before"):
        MLPRegressor(**OPTIONS).fit([(X, X[:, 0]), (X, X[:, :2])])


def test_errors_while_labels_are_learnt():
    with pytest.raises(OSError, match="the disk is gone") as caught:
        MLPClassifier(**OPTIONS).fit(Failing())
    assert caught.value.__notes__ == ["while fastmlp waited for block 2"]
    array = pytest.importorskip("dask.array").from_array(X, chunks=(40, 4))
    labels = array[:, 0].map_blocks(lambda block: block > 0 if len(block) == 40 else 1 / 0, dtype=bool)
    with pytest.raises(ValueError, match=r"^block 4: division by zero$"):
        MLPClassifier(**OPTIONS).fit(array, labels)
    with pytest.raises(TypeError, match=r"^X must be an array \(rows, columns\) or a data frame of Dask's"):
        MLPClassifier(**OPTIONS).fit(pytest.importorskip("dask").delayed(X), TWO)
    for empty, words in ((list, "there is no row in the blocks"), (X, "requires y to be passed, got None")):
        with pytest.raises(ValueError, match=words):
            MLPClassifier(**OPTIONS).partial_fit(empty, classes=[False, True])
    for given in (blocks(TWO), lambda: blocks(TWO)):
        with pytest.raises(TypeError, match="hold their y, so no other can be given"):
            MLPClassifier(**OPTIONS).fit(given, TWO)


def test_what_blocks_cannot_do():
    for options, words in (
        ({"solver": "lbfgs"}, "solver='lbfgs' needs all rows at once"),
        ({"early_stopping": True}, r"early_stopping on blocks needs validation_set=\(X, y\)"),
        ({"class_weight": "balanced"}, "class_weight='balanced' needs all rows at once"),
    ):
        with pytest.raises(ValueError, match=words):
            MLPClassifier(**{**OPTIONS, **options}).fit(blocks(NAMES))
    model = MLPClassifier(**OPTIONS).partial_fit(blocks(NAMES), classes=["ape", "bee", "cat", "dog"])
    with pytest.raises(ValueError, match=r"block 1 of epoch 1: `y` has classes not in"):
        model.partial_fit([(X[:1], ["cow"])])
    with pytest.raises(
        ValueError, match=r"block 1 of epoch 1: X must have shape \(rows, 4\), got \(150, 3\)"
    ):
        model.partial_fit([(X[:, :3], NAMES)])
    with pytest.raises(TypeError, match="can be walked once only"):
        MLPRegressor(**OPTIONS).fit(iter(blocks(X[:, 0])))
    with pytest.raises(ValueError, match="y must have 150 rows"):
        MLPRegressor(**OPTIONS).fit([(X, X[:9, 0])])
    with pytest.raises(ValueError, match="requires y to be passed"):
        MLPRegressor(**OPTIONS).fit(X)
