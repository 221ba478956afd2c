"""Targets: which task they suggest, which classes they are, and how outputs are scored."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)

from fastmlp.tables.errors import TableError
from fastmlp.tables.targets import targets_of, task_of
from fastmlp.tables.tasks import Classification, Regression


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "classification"),
        ([True, False], "classification"),
        ([0, 1, 2, 1], "classification"),
        ([0.0, 1.0], "classification"),
        ([0.5, 1.0], "regression"),
        (list(range(40)), "regression"),
    ],
)
def test_the_task_is_what_the_target_suggests(values, task):
    assert task_of(pl.Series("y", values)) == task


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["01", "1", "007"], ["01", "1", "007"]),
        (["1", " 2", "3.0"], [1, 2, 3]),
        ([str(2**53), str(2**53 + 1)], [2**53, 2**53 + 1]),
        ([str(10**20), "7"], [str(10**20), "7"]),
        (["1.5", "2"], [1.5, 2.0]),
        ([1e20, 2e20], [1e20, 2e20]),
        (["True", "FALSE"], [True, False]),
        (["True", "FALSE", "unknown"], ["True", "FALSE", "unknown"]),
        ([True, False], [True, False]),
        ([Decimal("0.5"), Decimal("1.5")], [0.5, 1.5]),
    ],
)
def test_classes_stay_apart_and_what_they_are(values, classes):
    assert targets_of(pl.Series("y", values), "classification").tolist() == classes


def test_texts_of_truth_beside_others_are_classes_as_they_are_and_as_earlier_files_have_them():
    y = pl.Series("y", ["True", "FALSE", "unknown"])
    for classes in (("FALSE", "True", "unknown"), ("false", "true", "unknown")):
        learned = Classification(classes)
        assert learned.encoded(targets_of(y, "classification", learned)).tolist() == [1, 0, 2]


def test_dates_are_no_target_and_a_class_has_several_rows():
    dates = pl.Series("y", ["2024-01-01", "2024-01-02", None])
    for target in (dates, dates.str.to_date()):
        with pytest.raises(TableError, match="column 'y': the target holds dates: make numbers of them, or"):
            task_of(target)
    assert targets_of(dates[:2], "classification").tolist() == ["2024-01-01", "2024-01-02"]
    assert task_of(pl.Series("y", [str(10**30 + i) for i in range(40)])) == "regression"
    names = np.array([f"name {i}" for i in range(60)])
    with pytest.raises(
        TableError, match="the target has 60 classes in 60 rows, too many to learn: choose the"
    ):
        Classification.learned(names)
    assert Classification.learned(names.repeat(2)).n_out == 60


@pytest.mark.parametrize("values", [[1.0, 2.0, 1e308], [-1e308, 1e308], [1e-200, 2e-200]])
def test_a_regression_needs_a_deviation(values):
    with pytest.raises(TableError, match="a regression needs numbers that have a deviation, got one of"):
        Regression.learned(np.array(values))


def test_classes_have_places_and_unknown_ones_have_none():
    for classes, y in (
        (("01", "1", "b"), ["b", "01", "0", "zz", "1"]),
        ((1, 5, 2**53), [2**53, 1, 0, 7, 5]),
        ((1.5, 2.5, 3.0), [3.0, 1.5, 0.0, 9.0, 2.5]),
    ):
        assert Classification(classes).encoded(np.array(y)).tolist() == [2, 0, -1, -1, 1]
    assert Classification((False, True)).encoded(np.array([True, False])).tolist() == [1, 0]
    assert Classification((1, 2)).encoded(np.array(["1", "2"])).tolist() == [-1, -1]


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    y, outputs = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    task = Classification((0, 1, 2))
    found, predicted = task.measures(y, outputs), outputs.argmax(axis=1)
    share, probability = task.calibration(y, outputs)
    assert found.pop("ECE") == np.abs(share - probability).mean()
    assert found == pytest.approx(
        {
            "ROC AUC": roc_auc_score(y, outputs, multi_class="ovr"),
            "average precision": average_precision_score(y, outputs),
            "accuracy": accuracy_score(y, predicted),
            "balanced": balanced_accuracy_score(y, predicted),
            "log loss": log_loss(y, outputs),
            "Brier": brier_score_loss(y, outputs, scale_by_half=False),
        }
    )
    unknown = Classification((0, 1, 3)).error(y[y == 2], outputs[y == 2])
    assert unknown > 80  # of a class that was not learned
    assert task.error(y, outputs) == pytest.approx(log_loss(y, outputs))
    assert task.confusion(y, outputs) == confusion_matrix(y, predicted).tolist()
    two = Classification((0, 1), threshold=0.3)
    both = outputs[:, :2] / outputs[:, :2].sum(axis=1, keepdims=True)
    found = two.measures(y > 1, both)
    assert found["ROC AUC"] == pytest.approx(roc_auc_score(y > 1, both[:, 1]))
    assert found["balanced"] == pytest.approx(balanced_accuracy_score(y > 1, both[:, 1] >= 0.3))
    assert np.isnan(two.measures(np.zeros(9), both[:9])["ROC AUC"])
    y, regression = rng.normal(7, 3, 50), Regression(7.0, 3.0)
    found = regression.measures(y, outputs[:, :1])
    predicted = outputs[:, 0] * 3 + 7
    expected = (
        r2_score(y, predicted),
        root_mean_squared_error(y, predicted),
        mean_absolute_error(y, predicted),
    )
    assert list(found.values()) == pytest.approx(expected)


def test_an_error_of_calibration_is_by_how_much_probabilities_are_wrong():
    def error(probability, right):
        """Of two classes, of which the first one is predicted with these probabilities."""
        task = Classification((0, 1))
        outputs = np.column_stack([probability, 1 - probability])
        return task.measures(np.where(right, 0, 1), outputs)["ECE"], len(
            task.calibration(1 - right, outputs)[0]
        )

    probability = np.linspace(0.5, 1, 4000)
    right = np.random.default_rng(0).random(4000) < probability
    found, bins = error(probability, right)
    assert bins == 10
    assert found < 0.04
    assert error(1.5 - probability, right)[0] == pytest.approx(0.25, abs=0.04)
    assert error(np.array([0.8, 0.6]), np.array([True, False])) == (pytest.approx(0.2), 1)
    equal = np.full(4000, 0.75)
    assert error(equal, np.sort(right)) == (pytest.approx(abs(0.75 - right.mean())), 1)


def test_decimal_numbers_are_a_target_and_durations_are_none():
    values = pl.Series("y", [Decimal("0.50"), Decimal("1.25")])
    assert task_of(values) == "regression"
    assert targets_of(values, "regression").tolist() == [0.5, 1.25]
    period = pl.Series("y", pl.from_pandas(pd.DataFrame({"y": pd.period_range("2020", periods=2)}))["y"])
    for odd in (pl.Series("y", [timedelta(1)]), pl.Series("y", [[1], [2]]), period):
        with pytest.raises(TableError, match=r"column 'y': a target of dtype .* cannot be learned"):
            task_of(odd)


def test_a_target_that_is_missing_is_named_by_its_row():
    with pytest.raises(TableError, match="row 2, column 'y': the target is missing"):
        targets_of(pl.Series("y", [1.0, None]), "regression")
    with pytest.raises(TableError, match=r"^row 2: the target is missing"):
        targets_of(pl.Series([1.0, None]), "regression")
    with pytest.raises(TableError, match="row 1, column 'y': the target is inf"):
        targets_of(pl.Series("y", [float("inf"), 1.0]), "regression")
    assert targets_of(pl.Series("y", [1.0, 2.0]), "classification").tolist() == [1, 2]
