"""Targets of tables: losses, logarithms, several in one call, and rows without one."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import d2_pinball_score, mean_gamma_deviance, mean_pinball_loss, mean_poisson_deviance
from support.flats import QUICK as SETTINGS
from support.flats import flats

from fastmlp import TableClassifier, TableRegressor
from fastmlp.cli.main import main
from fastmlp.tables.errors import TableError
from fastmlp.tables.tasks import Regression

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
        ("poisson", "Poisson deviance", mean_poisson_deviance(y, predicted)),
        ("gamma", "gamma deviance", mean_gamma_deviance(y, predicted)),
        ("quantile:0.9", "pinball", mean_pinball_loss(y, predicted, alpha=0.9)),
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
        assert scores["constant"][own] == pytest.approx(mean_pinball_loss(y, constant, alpha=0.9))
        assert d2_pinball_score(y, model.predict(whole[600:]), alpha=0.9) > 0


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


def test_rows_without_a_target_are_left_out_and_counted_once():
    frame = flats().drop("kind")
    holes = frame.with_columns(price=pl.when(pl.int_range(pl.len()) % 10 > 0).then(pl.col("price")))
    for y in ("price", holes["price"], holes["price"].to_numpy()):
        X = holes if isinstance(y, str) else holes.drop("price")
        with pytest.warns(UserWarning, match="have no target") as caught:
            TableRegressor(**QUICK).fit(X, y)
        assert [str(one.message) for one in caught] == ["20 of 200 rows have no target and are left out"]


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


def test_the_command_line_takes_several(tmp_path, capsys):
    path, kept, rest = tmp_path / "flats.csv", tmp_path / "model", tmp_path / "rest.csv"
    several().write_csv(path)
    quick = "--hidden 8 --epochs 30 --learning-rate 0.02 --members 2 --backend reference --quiet"
    options = f"--target price,kind --drop rooms {quick} -o {kept} --held-out {rest}"
    assert main(["train", str(path), *options.split()]) == 0
    output = capsys.readouterr().out
    for line in (
        "target     price, kind, a regression of 2 targets",
        "target     price, a regression",
        "target     kind, a classification",
    ):
        assert line in output
    held = pl.read_csv(rest)
    assert {"price", "kind", "predicted price", "predicted kind"} <= {*held.columns}
    assert main(["predict", str(kept), str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "price,kind"
    assert main(["inspect", str(kept)]) == 0
    output = capsys.readouterr().out
    assert "accuracy" in output
    assert "mse, cross_entropy" in output
    with pytest.raises(SystemExit, match="2"):
        main(["plot", str(kept), str(path)])
    assert "plot is for a single target, and this model has 2" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="3"):
        main(["train", str(path), "--target", "price,floor", *quick.split()])
    assert "no column 'floor'" in capsys.readouterr().err


def test_the_command_line_takes_losses(tmp_path, capsys):
    path, kept = tmp_path / "flats.csv", tmp_path / "model"
    flats().drop("kind").write_csv(path)
    quick = "--hidden 8 --epochs 20 --learning-rate 0.02 --members 1 --backend reference --quiet"
    options = f"--target price --loss quantile:0.9 --target-transform log {quick} -o {kept}".split()
    assert main(["train", str(path), *options]) == 0
    output = capsys.readouterr().out
    assert "a regression by the loss quantile:0.9 of the logarithm; predictions are 0.9 quantiles" in output
    assert "pinball" in output
    assert main(["inspect", str(kept), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["loss"], found["logarithm"]) == ("quantile:0.9", True)
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(path), "--target", "city", "--loss", "absolute", *quick.split()])
    assert "--loss is for regressions, and this is a classification" in capsys.readouterr().err
