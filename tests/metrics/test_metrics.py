"""`fit(metrics=)`: scikit-learn's values, in the history and for early stopping."""

import pickle

import numpy as np
import pytest
import scipy.sparse
from sklearn import metrics
from support.problems import data_set, eps
from support.processes import python
from support.refusals import refusals

import fastmlp
from fastmlp import Adam, EarlyStopping, Head, Network
from fastmlp.metrics.formulas import FORMULAS

WINE, CANCER, DIABETES = (data_set(name, 150) for name in ("wine", "breast_cancer", "diabetes"))
CLASSES = Network([13, 8, 3], "tanh", "softmax", "cross_entropy")
BINARY = Network([30, 8, 1], "tanh", "sigmoid", "binary_cross_entropy")
REAL = Network([10, 8, 1], "tanh")


def f(y, output):
    assert y.shape == output.shape[:1]
    return np.abs(y - output).max()


def validation_loss(y, output):
    return 0.0


def writes(y, output):
    output[:] = y


def fit(network, rows, **options):
    given = {"epochs": 3, "seed": 0, "backend": "reference", "optimizer": Adam(0.01)} | options
    held = given.pop("validation", (rows.X[100:], rows.y[100:]))
    return fastmlp.fit(network, rows.X[:100], rows.y[:100], validation=held, **given)


CASES = {
    "classes": (
        CLASSES, WINE, {
            "accuracy": lambda y, a: metrics.accuracy_score(y, a.argmax(axis=1)),
            "roc_auc_ovr": lambda y, a: metrics.roc_auc_score(y, a, multi_class="ovr"),
            "neg_log_loss": lambda y, a: -metrics.log_loss(y, a, labels=[0, 1, 2]),
            "log_loss": lambda y, a: metrics.log_loss(y, a, labels=[0, 1, 2]),
            "f1_macro": lambda y, a: metrics.f1_score(y, a.argmax(axis=1), average="macro"),
        },
    ),
    "two classes": (
        BINARY, CANCER, {
            "roc_auc": lambda y, a: metrics.roc_auc_score(y, a[:, 0]),
            "balanced_accuracy": lambda y, a: metrics.balanced_accuracy_score(y, a[:, 0] > 0.5),
            "brier_score_loss": lambda y, a: metrics.brier_score_loss(y, a[:, 0]),
        },
    ),
    "two classes of softmax": (
        Network([30, 8, 2], "tanh", "softmax", "cross_entropy"), CANCER, {
            "roc_auc": lambda y, a: metrics.roc_auc_score(y, a[:, 1]),
            "accuracy_score": lambda y, a: metrics.accuracy_score(y, a.argmax(axis=1)),
        },
    ),
    "real numbers": (
        REAL, DIABETES, {
            "r2": lambda y, a: metrics.r2_score(y, a[:, 0]),
            "mean_absolute_error": lambda y, a: metrics.mean_absolute_error(y, a[:, 0]),
            "neg_mean_squared_error": lambda y, a: -metrics.mean_squared_error(y, a[:, 0]),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_values_are_scikit_learns(name):
    network, rows, expected = CASES[name]
    model = fit(network, rows, metrics=[*expected], training_metrics=True)
    assert list(model.history) == [
        "loss",
        "validation_loss",
        *(f"validation_{m}" for m in expected),
        *expected,
    ]
    for metric, value in expected.items():
        for prefix, some in (("validation_", slice(100, None)), ("", slice(100))):
            curve = model.history[prefix + metric]
            assert len(curve) == 3
            assert curve[-1] == pytest.approx(value(rows.y[some], model.predict(rows.X[some])), rel=1e-12)


def test_a_training_is_the_same_and_goes_on_with_them(tmp_path):
    path, options = tmp_path / "training.npz", {"metrics": ["r2", f]}
    plain, model = fit(REAL, DIABETES), fit(REAL, DIABETES, **options)
    assert model.history["loss"] == plain.history["loss"]
    np.testing.assert_array_equal(model.parameters, plain.parameters)
    whole = fit(REAL, DIABETES, epochs=5, **options)
    more = pickle.loads(pickle.dumps(model)).fit_more(
        DIABETES.X[:100], DIABETES.y[:100], epochs=2, validation=(DIABETES.X[100:], DIABETES.y[100:])
    )
    fit(REAL, DIABETES, callbacks=[fastmlp.Checkpoint(path)], **options)
    resumed = fit(REAL, DIABETES, epochs=5, resume=path, **options)
    assert whole.history == more.history == resumed.history
    largest = np.abs(DIABETES.y[100:] - whole.predict(DIABETES.X[100:])[:, 0]).max()
    assert whole.history["validation_f"][-1] == pytest.approx(largest, rel=1e-12)


def test_early_stopping_goes_by_one_and_sample_weights_count():
    stopping = EarlyStopping(patience=3, monitor="validation_roc_auc", mode="max")
    X, y, weights = CANCER.X[100:], CANCER.y[100:], np.arange(50) % 3
    model = fit(
        BINARY, CANCER, epochs=200, metrics=["roc_auc"], callbacks=[stopping], validation=(X, y, weights)
    )
    curve = model.history["validation_roc_auc"]
    assert len(curve) < 200
    assert "validation_roc_auc has not improved for 3 epochs" in model.stop_reason
    found = metrics.roc_auc_score(y, model.predict(X)[:, 0], sample_weight=weights)
    assert found == pytest.approx(max(curve), rel=1e-12)


def test_sparse_rows_blocks_and_averages_have_them():
    X, y = CANCER.X * (CANCER.X > 1), CANCER.y
    held, options = (X[100:], y[100:]), {"epochs": 2, "seed": 0, "shuffle": False, "backend": "reference"}
    options |= {"metrics": ["accuracy"], "average": fastmlp.EMA(0.5), "batch_size": 25, "validation": held}

    def share_right(model, X, y):
        return np.mean((model.predict(X)[:, 0] > 0.5) == y)

    dense = fastmlp.fit(BINARY, X[:100], y[:100], **options)
    assert dense.history["validation_accuracy"][-1] == share_right(dense, *held)
    sparse = fastmlp.fit(BINARY, scipy.sparse.csr_array(X[:100]), y[:100], training_metrics=True, **options)
    assert sparse.history["accuracy"][-1] == share_right(sparse, X[:100], y[:100])
    blocks = [(X[:50], y[:50]), (X[50:100], y[50:100])]
    assert fastmlp.fit(BINARY, blocks, **options).history == dense.history


@pytest.mark.parametrize("network", [BINARY, Network([30, 8, 2], "tanh", "softmax", "cross_entropy")])
def test_rows_to_validate_on_may_lack_one_of_two_classes(network):
    held = CANCER.X[CANCER.y == 0], CANCER.y[CANCER.y == 0]
    model = fit(network, CANCER, validation=held, metrics=["log_loss"])
    assert model.history["validation_log_loss"] == pytest.approx(model.history["validation_loss"])


def test_the_bar_shows_them(capfd):
    fit(CLASSES, WINE, metrics=["accuracy"], progress=True)
    assert "validation_accuracy=" in capfd.readouterr().err


test_mistakes_are_said_in_one_line = refusals([
    (lambda: fit(REAL, DIABETES, metrics="r2"), "must be a list of names and functions, got 'r2'"),
    (lambda: fit(REAL, DIABETES, metrics={"a": ["r2"]}), "must be a list of names and functions, got"),
    (lambda: fit(REAL, DIABETES, metrics=["r3"]), "no metric is named 'r3'; choose from"),
    (lambda: fit(REAL, DIABETES, metrics=["r2", "r2"]), "a name of its own, got r2"),
    (lambda: fit(REAL, DIABETES, metrics=[validation_loss]), "a name of its own, got validation_loss"),
    (lambda: fit(REAL, DIABETES, metrics=[writes]), "metric 'writes': .* read-only"),
    (lambda: fit(REAL, DIABETES, metrics=[lambda y, output: 0.0]), "a function that has one"),
    (lambda: fit(REAL, DIABETES, metrics=["r2"], validation=None), "metrics need fit"),
    (lambda: fit(REAL, DIABETES, metrics=["accuracy"]), "metric 'accuracy': "),
    (
        lambda: fit(REAL, DIABETES, metrics=(), training_metrics=3),
        "training_metrics must be True or False, got 3",
    ),
    (
        lambda: fastmlp.fit_many(REAL, DIABETES.X, DIABETES.y, n_models=2, training_metrics=3),
        "training_metrics must be True or False, got 3",
    ),
    (
        lambda: fastmlp.fit(REAL, [(DIABETES.X, DIABETES.y)], metrics=["r2"], training_metrics=True),
        "training_metrics needs all rows in memory",
    ),
])  # fmt: skip


# --- of heads ---------------------------------------------------------------------------------------------

HEADS = Network(
    inputs=30,
    layers=[fastmlp.Dense(8, "tanh")],
    heads={
        "kind": fastmlp.Head(2, loss="cross_entropy", output="softmax", missing=True),
        "size": fastmlp.Head(1, loss="huber"),
    },
)
NAMES = {"kind": ["roc_auc", "accuracy"], "size": ["r2", f]}
GAPS = np.where(np.arange(150) % 5 == 2, np.nan, CANCER.y)
TARGETS = {"kind": GAPS, "size": CANCER.X[:, 3] * 0.5}


def fit_heads(network=HEADS, y=TARGETS, **options):
    """Trained on the first 100 rows and measured on the others."""
    first, last = (
        {name: array[rows] for name, array in y.items()} for rows in (slice(100), slice(100, None))
    )
    given = {"epochs": 3, "seed": 0, "backend": "reference", "validation": (CANCER.X[100:], last)} | options
    return fastmlp.fit(network, CANCER.X[:100], first, **{"optimizer": Adam(0.01), **given})


def test_those_of_heads_are_measured_where_their_targets_are():
    model = fit_heads(metrics=NAMES, training_metrics=True)
    names = [f"{head}_{getattr(one, '__name__', one)}" for head, given in NAMES.items() for one in given]
    losses = ["loss", "kind_loss", "size_loss"]
    assert [*model.history] == [*losses, *(f"validation_{name}" for name in (*losses, *names)), *names]
    for prefix, some in (("validation_", np.arange(100, 150)), ("", np.arange(100))):
        there = some[~np.isnan(GAPS[some])]
        predicted, sizes = model.predict(CANCER.X)["kind"][there], model.predict(CANCER.X)["size"][some, 0]
        for name, value in {
            "kind_roc_auc": metrics.roc_auc_score(GAPS[there], predicted[:, 1]),
            "kind_accuracy": metrics.accuracy_score(GAPS[there], predicted.argmax(axis=1)),
            "size_r2": metrics.r2_score(TARGETS["size"][some], sizes),
            "size_f": np.abs(TARGETS["size"][some] - sizes).max(),
        }.items():
            assert model.history[prefix + name][-1] == pytest.approx(value, rel=1e-12)
    single = fastmlp.Network(inputs=30, layers=HEADS.layers, head=HEADS.heads["kind"])
    options = {"validation": (CANCER.X[100:], GAPS[100:]), "backend": "reference", "epochs": 2}
    alone = fastmlp.fit(single, CANCER.X[:100], GAPS[:100], metrics=["accuracy"], **options)
    there = 100 + np.flatnonzero(~np.isnan(GAPS[100:]))
    share = np.mean(alone.predict(CANCER.X[there]).argmax(axis=1) == GAPS[there])
    assert alone.history["validation_accuracy"][-1] == pytest.approx(share, rel=1e-12)


def test_early_stopping_goes_by_a_head_s_and_the_bar_shows_it(capfd, tmp_path):
    stopping = [EarlyStopping(patience=2, monitor="validation_kind_roc_auc", mode="max")]
    options = {"metrics": {"kind": ["roc_auc"]}, "callbacks": stopping}
    model = fit_heads(epochs=100, progress=True, **options)
    curve = model.history["validation_kind_roc_auc"]
    assert "validation_kind_roc_auc has not improved for 2 epochs" in model.stop_reason
    there = 100 + np.flatnonzero(~np.isnan(GAPS[100:]))
    found = metrics.roc_auc_score(GAPS[there], model.predict(CANCER.X[there])["kind"][:, 1])
    assert found == pytest.approx(max(curve), rel=1e-12)
    assert "validation_kind_roc_auc=" in capfd.readouterr().err
    whole = fit_heads(epochs=4, metrics=NAMES)
    fit_heads(epochs=2, metrics=NAMES, callbacks=[fastmlp.Checkpoint(tmp_path / "c")])
    assert fit_heads(epochs=4, metrics=NAMES, resume=tmp_path / "c").history == whole.history


def loss(y, output):
    return 0.0


test_mistakes_with_heads_are_said_in_one_line = refusals(
    [
        ({"metrics": ["r2"]}, r"metrics must be a dict of lists for kind, size; got \['r2'\]"),
        ({"metrics": {"price": ["r2"]}}, "unknown head with metrics 'price'; choose from: kind, size"),
        ({"metrics": {"size": "r2"}}, r"metrics\['size'\] must be a list of names and functions, got 'r2'"),
        ({"metrics": {"size": ["r3"]}}, "no metric is named 'r3'"),
        ({"metrics": {"size": ["r2", "r2"]}}, "a name of its own, got size_r2"),
        ({"metrics": {"size": [loss]}}, "a name of its own, got size_loss"),
        ({"metrics": {"size": ["accuracy"]}}, "metric 'size_accuracy': "),
        ({"metrics": NAMES, "validation": None}, "metrics need fit"),
        (
            {"metrics": {"kind": ["accuracy"]}, "validation": (CANCER.X, TARGETS, np.isnan(GAPS))},
            "metric 'kind_accuracy': Weights sum to zero",
        ),
        (
            {"metrics": {"kind": ["accuracy"]}, "validation": (CANCER.X, {**TARGETS, "kind": GAPS * np.nan})},
            "metric 'kind_accuracy': Found ",  # no row
        ),
    ],
    fit_heads,
)


# --- metrics without scikit-learn's checks ----------------------------------------------------------------


ROWS = 1003
OBJECTIVES = {
    "three classes": Head(3, loss="cross_entropy"),
    "two classes of softmax": Head(2, loss="cross_entropy"),
    "two classes": Head(1, loss="binary_cross_entropy"),
    "several labels": Head(3, loss="binary_cross_entropy"),
    "a number": Head(1),
    "three numbers": Head(3, loss="huber"),
}
OF_LABELS = {"accuracy", "accuracy_score"}
OF_CLASSES = OF_LABELS | {"log_loss", "neg_log_loss"}
OF_KIND = {
    "several labels": OF_LABELS,
    **dict.fromkeys(["three classes", "two classes of softmax", "two classes"], OF_CLASSES),
    **dict.fromkeys(["a number", "three numbers"], {*FORMULAS} - OF_CLASSES),
}


def rows_of(kind, dtype):
    """Labels or numbers y, as metrics take them, and outputs."""
    rng = np.random.default_rng(0)
    objective = OBJECTIVES[kind].objective
    outputs = rng.standard_normal((ROWS, objective.n_out)).astype(dtype)
    if kind in ("a number", "three numbers"):
        y = (outputs + rng.standard_normal(outputs.shape)).astype(dtype)
    elif objective.output == "softmax":
        outputs = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        y = rng.integers(0, objective.n_out, ROWS)
        outputs[:4] = np.eye(objective.n_out)[0]  # certain, and wrong in some: log_loss clips
    else:
        outputs = 1 / (1 + np.exp(-outputs))
        outputs[:4] = np.array([[0.5], [0], [1], [1]])
        y = rng.integers(0, 2, outputs.shape).astype(dtype)
    squeezed = [array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array for array in (y, outputs)]
    return objective, *squeezed


def by_scikit_learn(name, objective, y, outputs, weights):
    """Value of a metric by scikit-learn's function of that name."""
    function = "r2_score" if name == "r2" else name.removeprefix("neg_")
    if "accuracy" in name:
        function = "accuracy_score"
        outputs = outputs.argmax(axis=1) if objective.output == "softmax" else outputs > 0.5
    elif name.endswith("log_loss") and objective.n_out == 2:
        outputs = outputs[:, 1]
    return getattr(metrics, function)(y, outputs, sample_weight=weights) * (-1 if "neg_" in name else 1)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_values_of_functions_are_scikit_learns(kind, dtype, weighted):
    objective, y, outputs = rows_of(kind, dtype)
    weights = (np.arange(ROWS) % 4).astype(dtype) if weighted else None
    made = {name: own.make(objective, y, weights) for name, own in FORMULAS.items()}
    assert {name for name, measure in made.items() if measure} == OF_KIND[kind]
    for name in OF_KIND[kind]:
        value = FORMULAS[name].sign * made[name](outputs)
        expected = by_scikit_learn(name, objective, y, outputs, weights)
        if name in OF_LABELS:
            assert value == expected
        else:  # sums of so many terms, in an order that NumPy chooses
            assert value == pytest.approx(expected, rel=np.log2(ROWS) * eps(dtype))


def test_log_loss_takes_no_class_for_certain():
    objective, y, _ = rows_of("three classes", np.float64)
    certain = np.eye(3)[y]
    assert FORMULAS["log_loss"].make(objective, y, None)(certain) == metrics.log_loss(y, certain) > 0


@pytest.mark.parametrize(
    ("name", "kind", "change"),
    [
        ("accuracy", "two classes", lambda y: y * 0.9),
        ("accuracy", "several labels", lambda y: y * 0.9),
        ("log_loss", "two classes", lambda y: y * 0.9),
        ("accuracy", "three classes", lambda y: np.full((ROWS, 3), 1 / 3)),
        ("accuracy", "three classes", lambda y: y[:0]),
        ("r2", "a number", lambda y: np.ones(ROWS)),
        ("r2", "a number", lambda y: y[:1]),
        ("mean_squared_error", "three numbers", lambda y: y[:, 0]),
        ("mean_squared_error", "three classes", lambda y: y),
        ("r2", "two classes", lambda y: y),
    ],
)
def test_other_targets_are_scikit_learns_to_judge(name, kind, change):
    objective, y, _ = rows_of(kind, np.float64)
    assert FORMULAS[name].make(objective, change(y), None) is None


def test_rows_that_count_nothing_are_scikit_learns_to_judge():
    objective, y, _ = rows_of("three numbers", np.float64)
    assert FORMULAS["r2"].make(objective, y, np.zeros(len(y))) is None


@pytest.mark.parametrize("name", ["r2", "neg_mean_squared_error"])
def test_outputs_that_are_not_finite_are_said_in_one_line(name):
    X, y = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32), np.arange(20)
    options = {"optimizer": fastmlp.SGD(1e33), "epochs": 1, "seed": 0, "backend": "reference"}
    options |= {"metrics": [name], "training_metrics": True}
    with pytest.raises(ValueError, match=f"^metric '{name}': Input contains "):
        fastmlp.fit(Network([3, 1]), 100 * X, y, **options)  # parameters are finite, outputs are not


IN_A_NEW_PROCESS = """
import sys
import numpy as np
import fastmlp

X = np.arange(40.0).reshape(20, 2)
given = {"epochs": 1, "validation": 0.5, "training_metrics": True, "backend": "reference"}
kinds = fastmlp.Network([2, 3], output="softmax", loss="cross_entropy")
fastmlp.fit(kinds, X, np.arange(20) % 3, metrics=["accuracy", "neg_log_loss"], **given)
real = ["r2", "neg_mean_squared_error", "mean_absolute_error", "root_mean_squared_error"]
fastmlp.fit(fastmlp.Network([2, 1]), X / 40, X[:, 0] / 40, metrics=real, **given)
print([name for name in sys.modules if name.startswith("sklearn")])
"""


def test_none_of_them_loads_scikit_learn():
    assert python("-c", IN_A_NEW_PROCESS).stdout == "[]\n"
