"""Metrics without scikit-learn's checks: its values, and its words where something is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics
from support.problems import eps
from support.processes import python

import fastmlp
from fastmlp import Head, Network
from fastmlp.callbacks.metrics import OWN

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
    **dict.fromkeys(["a number", "three numbers"], {*OWN} - OF_CLASSES),
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
def test_values_are_scikit_learns(kind, dtype, weighted):
    objective, y, outputs = rows_of(kind, dtype)
    weights = (np.arange(ROWS) % 4).astype(dtype) if weighted else None
    made = {name: make(objective, y, weights) for name, (_, make) in OWN.items()}
    assert {name for name, measure in made.items() if measure} == OF_KIND[kind]
    for name in OF_KIND[kind]:
        value = OWN[name][0] * made[name](outputs)
        expected = by_scikit_learn(name, objective, y, outputs, weights)
        if name in OF_LABELS:
            assert value == expected
        else:  # sums of so many terms, in an order that NumPy chooses
            assert value == pytest.approx(expected, rel=np.log2(ROWS) * eps(dtype))


def test_log_loss_takes_no_class_for_certain():
    objective, y, _ = rows_of("three classes", np.float64)
    certain = np.eye(3)[y]
    assert OWN["log_loss"][1](objective, y, None)(certain) == metrics.log_loss(y, certain) > 0


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
    assert OWN[name][1](objective, change(y), None) is None


def test_rows_that_count_nothing_are_scikit_learns_to_judge():
    objective, y, _ = rows_of("three numbers", np.float64)
    assert OWN["r2"][1](objective, y, np.zeros(len(y))) is None


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
