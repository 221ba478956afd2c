"""Attributions of table models to the columns of the table, in the target's unit."""

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


@matrix
@pytest.mark.parametrize("settings", [{"target_transform": "log"}, {"loss": "poisson"}], ids=str)
def test_attributions_follow_exponentials(settings):
    frame = flats().drop("kind").drop_nulls()
    model = TableRegressor(**EXACT, **settings).fit(frame, "price")
    found = model.attribute(frame, frame[:1], steps=200)
    change = model.predict(frame) - model.predict(frame[:1])
    np.testing.assert_allclose(found.change, change, atol=1e-9 * np.abs(change).max())
    assert found.error < 0.05 * np.abs(change).max()


def test_attributions_of_several_targets_are_those_of_each_output(both):
    frame = flats().drop("kind", "price").drop_nulls()
    for output, of in {
        "price": lambda rows: both.predict(rows)["price"].to_numpy(),
        ("kind", "cheap"): lambda rows: both.outputs(rows)[:, 1],
        ("kind", "dear"): lambda rows: both.outputs(rows)[:, 2],
        "kind": lambda rows: both.outputs(rows)[:, 2],
    }.items():
        found = both.attribute(frame, frame[:1], output=output, steps=200)
        np.testing.assert_allclose(found.change, of(frame) - of(frame[:1]), rtol=1e-9, atol=1e-6)
        assert found.error < 0.05 * np.abs(found.change).max()


def test_attributions_are_of_the_probability_of_a_class():
    model = TableClassifier(**EXACT).fit(flats().drop("price"), "kind")
    frame = flats().drop("kind", "price").drop_nulls()
    dear, cheap = (model.attribute(frame, output=output) for output in ("dear", "cheap"))
    np.testing.assert_array_equal(dear.values, model.attribute(frame).values)
    np.testing.assert_allclose(dear.values, -cheap.values, atol=1e-12)
    with pytest.raises(ValueError, match="output must be one of cheap, dear, got 'free'"):
        model.attribute(frame, output="free")


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
        (lambda: exact.attribute(X, output="dear"), ValueError, "output must be None of a regressor"),
        (lambda: exact.attribute(X[:0]), TableError, "there are no rows"),
        (lambda: both.attribute(X), ValueError, "output must be one of price, kind, got None"),
        (
            lambda: both.attribute(X, output=("kind", 3)),
            ValueError,
            "output must be one of cheap, dear, got 3",
        ),
    ):
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
