"""Derivatives and attributions of table models, in the table's units."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from support.flats import QUICK, flats
from support.selection import matrix

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.frames import TableError

EXACT = {**QUICK, "dtype": "float64", "activation": "tanh"}


@pytest.fixture(scope="module")
def exact():
    return TableRegressor(**EXACT).fit(flats().drop("kind"), "price")


@pytest.fixture(scope="module")
def both():
    """A model of a logarithm and of classes."""
    return TableRegressor(**EXACT, target_transform="log").fit(flats(), ["price", "kind"])


def differences(of, frame, name, step):
    up, down = (of(frame.with_columns(pl.col(name) + sign * step)) for sign in (1, -1))
    return (up - down) / (2 * step)


def test_slopes_are_in_the_units_of_the_table(exact):
    frame = flats().drop("kind", "price")
    slopes = exact.input_gradient(frame)
    assert slopes.columns == ["size", "noise"]
    known = frame["size"].is_not_null().to_numpy()
    assert slopes["size"].is_nan().to_numpy().tolist() == (~known).tolist()
    for name, step in (("size", 1e-3), ("noise", 1e-5)):
        found = slopes[name].to_numpy()
        expected = differences(exact.predict, frame, name, step)
        rows = known if name == "size" else slice(None)
        np.testing.assert_allclose(found[rows], expected[rows], atol=1e-5 * np.abs(expected).max())
    assert 1000 < slopes["size"].fill_nan(None).median() < 5000
    np.testing.assert_array_equal(exact.jacobian(frame)[:, 0], slopes.to_numpy())
    assert hasattr(exact.input_gradient(frame.to_pandas()), "iloc")


@matrix
@pytest.mark.parametrize("settings", [{"target_transform": "log"}, {"loss": "poisson"}], ids=str)
def test_slopes_follow_exponentials(settings):
    frame = flats().drop("kind").drop_nulls()
    model = TableRegressor(**EXACT, **settings).fit(frame, "price")
    expected = differences(model.predict, frame, "size", 1e-3)
    found = model.input_gradient(frame)["size"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    shares = model.attribute(frame, frame[:1], steps=200)
    change = model.predict(frame) - model.predict(frame[:1])
    np.testing.assert_allclose(shares.change, change, atol=1e-9 * np.abs(change).max())
    assert shares.error < 0.05 * np.abs(change).max()


@matrix
def test_slopes_of_several_targets_are_those_of_each_output(both):
    frame = flats().drop("kind", "price").drop_nulls()
    outputs = {
        "price": lambda rows: both.predict(rows)["price"].to_numpy(),
        ("kind", "cheap"): lambda rows: both.outputs(rows)[:, 1],
        ("kind", "dear"): lambda rows: both.outputs(rows)[:, 2],
    }
    jacobian = both.jacobian(frame)
    assert jacobian.shape == (len(frame), 3, 2)
    for place, (output, of) in enumerate(outputs.items()):
        expected = differences(of, frame, "size", 1e-4)
        found = both.input_gradient(frame, output)
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found["size"], expected, atol=tolerance)
        np.testing.assert_allclose(jacobian[:, place], found.to_numpy(), rtol=1e-9, atol=1e-9)
        change = both.attribute(frame, frame[:1], output=output).change
        np.testing.assert_allclose(change, of(frame) - of(frame[:1]), rtol=1e-9, atol=1e-6)
    np.testing.assert_array_equal(both.input_gradient(frame, "kind"), found)


def test_slopes_of_probabilities():
    model = TableClassifier(**EXACT).fit(flats().drop("price"), "kind")
    frame = flats().drop("kind", "price").drop_nulls()
    dear = model.input_gradient(frame)
    np.testing.assert_array_equal(dear.to_numpy(), model.input_gradient(frame, "dear").to_numpy())
    np.testing.assert_allclose(dear.to_numpy(), -model.input_gradient(frame, "cheap").to_numpy(), atol=1e-12)
    expected = differences(lambda rows: model.predict_proba(rows)[:, 1], frame, "size", 1e-4)
    np.testing.assert_allclose(dear["size"], expected, atol=1e-6 * np.abs(expected).max())
    assert model.jacobian(frame).shape == (len(frame), 2, 2)
    with pytest.raises(ValueError, match="output must be one of cheap, dear, got 'free'"):
        model.input_gradient(frame, "free")


@matrix
def test_heavy_tails_have_slopes_of_both_columns():
    rng = np.random.default_rng(0)
    amount = np.exp(2 * rng.normal(size=300))
    frame = pl.DataFrame({"amount": amount, "price": amount + rng.normal(size=300)})
    model = TableRegressor(**EXACT).fit(frame, "price")
    assert model.encoding_.columns[0].tails == "both"
    X = frame.select("amount")
    expected = differences(model.predict, X, "amount", 1e-6)
    np.testing.assert_allclose(
        model.input_gradient(X)["amount"], expected, atol=1e-5 * np.abs(expected).max()
    )


@matrix
@pytest.mark.parametrize("preset", [None, "best"])
def test_attributions_are_of_the_columns_of_the_table(exact, preset):
    frame = flats()
    model = exact
    if preset is not None:  # numbers are embedded there, beside sparse columns
        given = {"members": 2, "epochs": 3, "random_state": 0, "dtype": "float64", "preset": preset}
        model = TableRegressor(**given).fit(frame.drop("kind"), "price")
    X = frame.drop("kind", "price")
    base = pl.DataFrame({"size": [60.0], "city": ["Oslo"], "noise": [0.0]})
    found = model.attribute(X, base, steps=200)
    assert found.names == ("size", "city", "noise")
    np.testing.assert_allclose(found.change, model.predict(X) - model.predict(base), rtol=1e-9, atol=1e-6)
    assert found.error < 0.05 * np.abs(found.change).max()
    from_median = model.attribute(X, steps=20)
    assert from_median.values.shape == found.values.shape
    expected = model.attribute(X[:3], X, method="expected", steps=200)
    np.testing.assert_allclose(expected.change, model.predict(X[:3]) - model.predict(X).mean(), rtol=1e-6)
    assert len(found.plot().patches) == 3
    if preset is None:
        assert np.abs(found.values[:, :2]).mean() > 5 * np.abs(found.values[:, 2]).mean()


def test_mistakes_get_one_line(exact, both):
    X = flats().drop("kind", "price")
    for call, error, message in (
        (lambda: exact.attribute(X, X[:3]), ValueError, "baseline must have 1 row or 200, got 3"),
        (lambda: exact.attribute(X, method="expected"), ValueError, "method='expected' needs baseline"),
        (lambda: exact.attribute(X, method="best"), ValueError, "unknown method 'best'; choose"),
        (lambda: exact.input_gradient(X, "dear"), ValueError, "output must be None of a regressor"),
        (lambda: exact.input_gradient(X[:0]), TableError, "there are no rows"),
        (lambda: both.input_gradient(X), ValueError, "output must be one of price, kind, got None"),
        (lambda: both.input_gradient(X, ("kind", 3)), ValueError, "output must be one of cheap, dear, got 3"),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    cities = flats().select("city", "price")
    with pytest.raises(ValueError, match="no column of numbers to differentiate by"):
        TableRegressor(**QUICK).fit(cities, "price").jacobian(cities)
