"""Tables whose predictions rise, or fall, with columns: no pair of rows contradicts them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from support.flats import QUICK as SETTINGS
from support.flats import QUICKLY, flats
from support.selection import matrix, quick

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.columns import clipped
from fastmlp.tables.estimators import load

QUICK = SETTINGS | {"preset": "fast"}
RISING = {"size": 1, "noise": -1}


def pairs(frame, signs, rows=300, seed=0):
    """Rows of a table, and rows that differ in columns of `signs` alone, upwards."""
    rng = np.random.default_rng(seed)
    low = frame.sample(rows, with_replacement=True, seed=seed).with_columns(
        pl.Series(name, rng.normal(60, 10.0 ** rng.integers(-2, 6), rows)) for name in signs
    )
    steps = {name: np.abs(rng.normal(size=rows)) * 10 ** rng.uniform(-6, 5, rows) for name in signs}
    steps = {name: np.where(rng.random(rows) < 0.7, step, 0) for name, step in steps.items()}
    return low, low.with_columns(pl.col(name) + sign * pl.Series(steps[name]) for name, sign in signs.items())


def against(rows=300):
    """Flats whose price falls with the size, and some have a price that is far from others."""
    frame = flats(rows).drop("kind")
    return frame.with_columns(price=3e5 - pl.col("price") + 2e4 * pl.col("noise"))


@quick(4)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"hidden": None, "preset": "good", "members": 1, "epochs": 8},
        {"loss": "quantile:0.8"},
        {"loss": "gamma"},
        {"target_transform": "log"},
        {"dtype": "float64"},
    ],
    ids=str,
)
@pytest.mark.parametrize("frame", [flats().drop("kind"), against()], ids=["with", "against"])
def test_no_pair_of_rows_contradicts(frame, settings):
    price = frame["price"] - frame["price"].min() + 1
    model = TableRegressor(monotone=RISING, **(QUICK | settings)).fit(
        frame.with_columns(price=price), "price"
    )
    low, high = pairs(frame, RISING)
    for get in (
        model.predict,
        *(lambda rows, end=end: model.predict_interval(rows, 0.8)[end] for end in (0, 1)),
    ):
        assert (get(low) <= get(high)).all()
    assert {network.monotone is not None for network in (one.network for one in model.models_)} == {True}


def test_the_probability_of_the_second_class_rises():
    frame = flats().drop("price")
    model = TableClassifier(monotone=RISING, **QUICK).fit(frame, "kind")  # of cheap and dear
    low, high = (model.predict_proba(rows)[:, 1] for rows in pairs(frame, RISING))
    assert (low <= high + np.finfo(np.float32).eps).all()
    assert np.ptp(low) > 0.5


@matrix
def test_several_targets_rise_each():
    model = TableRegressor(monotone=RISING, **QUICK).fit(
        against().with_columns(sum=pl.col("price") * 2), ["price", "sum"]
    )
    low, high = (model.predict(rows) for rows in pairs(against(), RISING))
    for name in ("price", "sum"):
        assert (low[name] <= high[name]).all()


def test_a_constraint_that_holds_costs_little():
    frame = flats(400).drop("kind")
    for settings in ({}, {"monotone": {"size": 1}}):
        model = TableRegressor(**(QUICK | {"activation": "relu"} | settings)).fit(frame[:300], "price")
        assert model.score(frame[300:], "price") > 0.9


def test_what_is_not_of_numbers_is_refused():
    for monotone, line in (
        ({"city": 1}, "column 'city': it must hold numbers|'city'"),
        ({"floor": 1}, "unknown column 'floor'"),
        ({"size": 2}, r"monotone\['size'\] must be"),
    ):
        with pytest.raises(ValueError, match=line):
            TableRegressor(monotone=monotone, **QUICK).fit(flats().drop("kind"), "price")
    with pytest.raises(TypeError, match="monotone must be a mapping"):
        TableRegressor(monotone=["size"], **QUICK).fit(flats().drop("kind"), "price")
    with pytest.raises(ValueError, match="never falls"):
        TableRegressor(monotone=RISING, activation="silu", **QUICK).fit(flats().drop("kind"), "price")
    three = flats().with_columns(kind=pl.col("city"))
    with pytest.raises(ValueError, match="two classes, got 3"):
        TableClassifier(monotone=RISING, **QUICK).fit(three.drop("city"), "kind")


def test_the_command_line(tmp_path, command):
    against().write_csv(tmp_path / "t.csv")
    train = f"train {tmp_path}/t.csv --target price --falling noise {QUICKLY} --epochs 20 -o {tmp_path}/model"
    command(f"{train} --rising size")
    low, high = pairs(against(), RISING)
    model = load(tmp_path / "model")
    assert (model.predict(low) <= model.predict(high)).all()
    assert "unknown column 'floor'" in command(f"{train} --rising floor", code=2)


def test_clipping_never_falls():
    rng = np.random.default_rng(0)
    numbers = np.concatenate(
        [rng.normal(size=10_000) * 10 ** rng.uniform(-300, 300, 10_000), [0, np.inf, -np.inf]]
    )
    numbers = np.sort(np.concatenate([numbers, np.nextafter(numbers, np.inf)]))
    found = clipped(numbers)
    assert (np.diff(found) >= 0).all()
    assert found[0] == -found[-1] == pytest.approx(-3)
    np.testing.assert_allclose(
        clipped(np.array([1e-3, 1, 10])), [1e-3, 1 / np.sqrt(1 + 1 / 9), 10 / np.sqrt(1 + 100 / 9)], rtol=1e-6
    )
