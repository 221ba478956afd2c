"""Targets of tables: tasks, classes and scores; losses, logarithms, and several in one call."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import metrics
from support.flats import QUICK as SETTINGS
from support.flats import QUICKLY, flats
from support.selection import matrix, quick

import fastmlp
from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.frames import TableError
from fastmlp.tables.targets import targets_of, task_of
from fastmlp.tables.tasks import Classification, Regression

LOSSES = ("squared", "absolute", "huber", "poisson", "gamma", "quantile:0.9")
QUICK = SETTINGS | {"preset": "fast"}
LONGER = QUICK | {"epochs": 30, "hidden": (16,), "batch_size": 64}


def skewed(rows=800, seed=0):
    """A target with a skewed error of one shape, whose mean, median and quantiles differ by known factors."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 2, rows)
    return pl.DataFrame({"x": x, "y": np.exp(x + rng.normal(0, 0.5, rows))})


EXPECTED = {
    "squared": np.exp(0.125), "absolute": 1.0, "quantile:0.9": np.exp(0.5 * 1.2816), "poisson": np.exp(0.125),
    "gamma": np.exp(0.125),
}  # fmt: skip
"""Predictions over exp(x)."""


@quick(2)
@pytest.mark.parametrize(
    ("loss", "transform"),
    [(loss, None) for loss in EXPECTED] + [(loss, "log") for loss in ("squared", "absolute", "quantile:0.9")],
)
def test_predictions_are_what_the_loss_says(loss, transform):
    model = TableRegressor(loss=loss, target_transform=transform, **LONGER).fit(skewed(2000), "y")
    x = np.linspace(0.2, 1.8, 50)
    ratio = model.predict(pl.DataFrame({"x": x})).sum() / np.exp(x).sum()
    assert ratio == pytest.approx(EXPECTED[loss], rel=0.08)
    assert model.task_.log == (transform == "log")


@quick(4)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("transform", [None, "log"])
def test_intervals_and_quantiles_are_in_the_targets_units(loss, transform):
    if transform == "log" and loss in ("huber", "poisson", "gamma"):
        with pytest.raises(ValueError, match=f"squared, absolute and quantile, not '{loss}'"):
            TableRegressor(loss=loss, target_transform=transform).fit(skewed(), "y")
        return
    model = TableRegressor(loss=loss, target_transform=transform, **QUICK).fit(skewed(), "y")
    fresh = skewed(2000, 1)
    y, (low, high) = fresh["y"].to_numpy(), model.predict_interval(fresh, 0.8)
    assert ((low <= y) & (y <= high)).mean() == pytest.approx(0.8, abs=0.06)
    assert (model.predict_quantiles(fresh, [0.1, 0.5]) < y[:, None]).mean(axis=0) == pytest.approx(
        [0.9, 0.5], abs=0.07
    )
    if transform == "log":
        assert low.min() > 0
        if loss == "absolute":
            np.testing.assert_allclose(low * high, model.predict(fresh) ** 2)  # the middle of logarithms


def test_the_report_has_the_error_of_the_loss():
    y, predicted = np.array([1.0, 2.0, 5.0, 9.0]), np.array([2.0, 2.0, 4.0, 5.0])
    for loss, name, expected in (
        ("poisson", "Poisson deviance", metrics.mean_poisson_deviance(y, predicted)),
        ("gamma", "gamma deviance", metrics.mean_gamma_deviance(y, predicted)),
        ("quantile:0.9", "pinball", metrics.mean_pinball_loss(y, predicted, alpha=0.9)),
        ("absolute", "MAE", 1.5),
        ("squared", "RMSE", np.sqrt(18 / 4)),
    ):
        task = Regression.learned(y, loss)
        outputs = task.placed(predicted)[:, None]
        assert task.sharpest == name
        assert task.error(y, outputs) == pytest.approx(expected)
        assert [*task.measures(y, outputs)][:3] == ["R^2", "RMSE", "MAE"]
    task = Regression.learned(y, "huber")
    d = task.deviation
    assert task.error(y, task.placed(predicted)[:, None]) == pytest.approx(
        np.mean([0.5 / d, 0, 0.5 / d, min(8 / d, 4 - d / 2)])
    )


@quick(2)
@pytest.mark.parametrize("loss", LOSSES)
def test_simpler_models_are_judged_by_the_loss(loss):
    whole = skewed(900)
    model = TableRegressor(loss=loss, **LONGER).fit(whole[:600], "y", test=whole[600:])
    scores = model.report_["scores"]
    own = model.task_.sharpest
    assert scores["network"][own] < scores["constant"][own]
    assert scores["linear"][own] < scores["constant"][own]
    if loss == "quantile:0.9":
        constant = np.full(300, np.quantile(whole[:600]["y"], 0.9))
        y = whole[600:]["y"].to_numpy()
        assert scores["constant"][own] == pytest.approx(metrics.mean_pinball_loss(y, constant, alpha=0.9))
        assert metrics.d2_pinball_score(y, model.predict(whole[600:]), alpha=0.9) > 0


def test_auto_takes_logarithms_of_skewed_targets_alone():
    rng = np.random.default_rng(0)
    for y, log in (
        (np.exp(rng.normal(size=500)), True),
        (rng.normal(100, 10, 500), False),
        (rng.normal(size=500) ** 3, False),  # not above 0
        (10 - np.exp(rng.normal(size=500) / 3), False),  # skewed downwards
    ):
        assert Regression.learned(y, transform="auto").log is log


def test_targets_that_a_loss_does_not_take_are_named():
    frame = pl.DataFrame({"x": np.arange(60.0) % 7, "y": np.arange(-1.0, 59)})
    for settings, line in (
        ({"loss": "poisson"}, "the loss poisson needs targets at least 0, got -1"),
        ({"loss": "gamma"}, "the loss gamma needs targets above 0, got -1"),
        ({"target_transform": "log"}, "the logarithm needs targets above 0, got -1"),
        ({"loss": "cubic"}, "unknown loss 'cubic'; choose from: squared, absolute, huber, poisson, gamma, "),
        ({"loss": "quantile:2"}, r"loss must be like quantile:0.9, a fraction in \(0, 1\), got 'quantile:2'"),
        ({"target_transform": "root"}, "unknown target_transform 'root'; choose from: log, auto"),
    ):
        with pytest.raises(ValueError, match=line):
            TableRegressor(**QUICK, **settings).fit(frame, "y")


# --- tasks, classes and scores


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
    says = "the target has 60 classes in 60 rows, too many to learn: choose the"
    with pytest.raises(TableError, match=says):
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
            "ROC AUC": metrics.roc_auc_score(y, outputs, multi_class="ovr"),
            "average precision": metrics.average_precision_score(y, outputs),
            "accuracy": metrics.accuracy_score(y, predicted),
            "balanced": metrics.balanced_accuracy_score(y, predicted),
            "log loss": metrics.log_loss(y, outputs),
            "Brier": metrics.brier_score_loss(y, outputs, scale_by_half=False),
        }
    )
    unknown = Classification((0, 1, 3)).error(y[y == 2], outputs[y == 2])
    assert unknown > 80  # of a class that was not learned
    assert task.error(y, outputs) == pytest.approx(metrics.log_loss(y, outputs))
    assert task.confusion(y, outputs) == metrics.confusion_matrix(y, predicted).tolist()
    two = Classification((0, 1), threshold=0.3)
    both = outputs[:, :2] / outputs[:, :2].sum(axis=1, keepdims=True)
    found = two.measures(y > 1, both)
    assert found["ROC AUC"] == pytest.approx(metrics.roc_auc_score(y > 1, both[:, 1]))
    assert found["balanced"] == pytest.approx(metrics.balanced_accuracy_score(y > 1, both[:, 1] >= 0.3))
    assert np.isnan(two.measures(np.zeros(9), both[:9])["ROC AUC"])
    y, regression = rng.normal(7, 3, 50), Regression(7.0, 3.0)
    found = regression.measures(y, outputs[:, :1])
    predicted = outputs[:, 0] * 3 + 7
    expected = (
        metrics.r2_score(y, predicted),
        metrics.root_mean_squared_error(y, predicted),
        metrics.mean_absolute_error(y, predicted),
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


# --- several targets


def several(rows=300, seed=0):
    frame = flats(rows, seed)
    return frame.with_columns(rooms=(frame["price"] / 1e5).cast(pl.Int64) + 1.0)


GIVEN = {
    "names": lambda frame: (frame, ["price", "rooms"]),
    "a frame": lambda frame: (frame.drop("price", "rooms"), frame.select("price", "rooms")),
    "pandas": lambda frame: (
        frame.drop("price", "rooms").to_pandas(),
        frame.select("price", "rooms").to_pandas(),
    ),
    "an array": lambda frame: (frame.drop("price", "rooms"), frame.select("price", "rooms").to_numpy()),
}


@pytest.mark.parametrize("given", GIVEN)
def test_several_numbers_are_heads_of_one_network(given):
    frame = several().drop("kind")
    model = TableRegressor(**LONGER).fit(*GIVEN[given](frame))
    assert [len(one.network.heads) for one in model.models_] == [2] * len(model.models_)
    found = model.predict(GIVEN[given](frame)[0])
    assert type(found).__module__.split(".")[0] == ("pandas" if given == "pandas" else "polars")
    names = ["y0", "y1"] if given == "an array" else ["price", "rooms"]
    assert list(found.columns) == names
    for name, true in zip(names, ("price", "rooms"), strict=True):
        assert np.corrcoef(found[name], frame[true])[0, 1] > 0.9
    assert model.score(*GIVEN[given](frame)) > 0.8


def test_numbers_and_classes_go_together():
    frame = several(400).drop("rooms")
    model = TableRegressor(**LONGER).fit(frame[:300], ["price", "kind"], test=frame[300:])
    found = model.predict(frame[300:])
    assert (found["kind"] == frame[300:]["kind"]).mean() > 0.85
    scores = model.report_["scores"]
    assert scores["network"]["accuracy of kind"] == (found["kind"] == frame[300:]["kind"]).mean()
    for name in ("R^2 of price", "accuracy of kind"):
        assert scores["network"][name] > scores["constant"][name]
    assert model.importances(frame, ["price", "kind"])["column"][0] in ("size", "city")
    weighted = TableClassifier(class_weight="balanced", **QUICK)
    for call, line in (
        (lambda: weighted.fit(frame, ["kind", "city"]), "class_weight is for a single target"),
        (lambda: model.predict_interval(frame), "an interval is for a single target, and this model has 2"),
        (lambda: model.plot(frame), "plot is for a single target"),
        (lambda: model.effects(frame, "size"), "effects is for a single target"),
    ):
        with pytest.raises(ValueError, match=line):
            call()


def test_several_classes():
    frame = several().with_columns(big=pl.col("size").fill_null(0) > 80)
    model = TableClassifier(**LONGER).fit(frame.drop("price", "rooms"), ["kind", "big"])
    found = model.predict(frame)
    assert found["big"].dtype == pl.Boolean
    assert model.score(frame.drop("price", "rooms"), ["kind", "big"]) > 0.8


@pytest.mark.parametrize("layers", [None, (fastmlp.Dense(8, "silu"),)])
def test_several_targets_of_texts_have_blocks(layers):
    """X is a sparse matrix, which each head reads through the first layer."""
    words = np.random.default_rng(0).choice(["red", "blue", "old", "new", "near", "far"], (200, 5))
    frame = flats().with_columns(note=pl.Series([" ".join(row) for row in words]))
    settings = {**SETTINGS, "hidden": None if layers else (8,), "layers": layers, "epochs": 2}
    model = TableRegressor(**settings, columns={"note": "text"}).fit(frame, ["price", "kind"])
    assert model.encoding_.is_sparse
    assert model.predict(frame).shape == (200, 2)


@matrix
def test_several_by_each_loss_and_with_holes():
    frame = several().drop("kind")
    holes = frame.with_columns(rooms=pl.when(pl.int_range(pl.len()) % 10 > 0).then(pl.col("rooms")))
    for settings in ({"loss": "gamma"}, {"target_transform": "log"}, {"loss": "quantile:0.7"}):
        with pytest.warns(UserWarning, match="30 of 300 rows have no target"):
            model = TableRegressor(**QUICK, **settings).fit(holes, ["price", "rooms"])
        assert model.score(frame, ["price", "rooms"]) > 0.3
    with pytest.raises(TableError, match="'low': the loss gamma needs targets above 0, got -1"):
        TableRegressor(loss="gamma", **QUICK).fit(
            frame.with_columns(low=pl.col("rooms") - 2), ["rooms", "low"]
        )


def test_the_command_line_takes_several(tmp_path, command):
    path, kept, rest = tmp_path / "flats.csv", tmp_path / "model", tmp_path / "rest.csv"
    several().write_csv(path)
    train = f"train {path} {QUICKLY} --epochs 30 --target"
    output = command(f"{train} price,kind --drop rooms -o {kept} --held-out {rest}")
    for line in (
        "target     price, kind, a regression of 2 targets",
        "target     price, a regression",
        "target     kind, a classification",
    ):
        assert line in output
    held = pl.read_csv(rest)
    assert {"price", "kind", "predicted price", "predicted kind"} <= {*held.columns}
    assert command(f"predict {kept} {path}").splitlines()[0] == "price,kind"
    output = command(f"inspect {kept}")
    assert "accuracy" in output
    assert "mse, cross_entropy" in output
    error = command(f"plot {kept} {path}", code=2)
    assert "plot is for a single target, and this model has 2" in error
    assert "no column 'floor'" in command(f"{train} price,floor", code=3)


def test_the_command_line_takes_losses(folder, tmp_path, command):
    train = f"train {folder}/flats.csv {QUICKLY} --drop kind --epochs 20 --target"
    output = command(f"{train} price --loss quantile:0.9 --target-transform log -o {tmp_path}/model")
    assert "a regression by the loss quantile:0.9 of the logarithm; predictions are 0.9 quantiles" in output
    assert "pinball" in output
    found = json.loads(command(f"inspect {tmp_path}/model --json"))
    assert (found["loss"], found["logarithm"]) == ("quantile:0.9", True)
    error = command(f"{train} city --loss absolute", code=2)
    assert "--loss is for regressions, and this is a classification" in error
