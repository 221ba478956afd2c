"""Intervals and quantiles of regressions: they hold the share that they say, on rows that nobody has seen."""

from __future__ import annotations

import itertools
import json

import numpy as np
import polars as pl
import pytest
from sklearn.exceptions import NotFittedError
from support.changed_tables import GONE, refusal
from support.flats import QUICKLY

from fastmlp import TableRegressor
from fastmlp.files import archive
from fastmlp.tables.intervals import ROWS_OF_A_SIZE, HeldErrors, half_width, scaled_errors
from fastmlp.tables.report import held_fractions

QUICK = {
    "hidden": (16,), "epochs": 30, "batch_size": 32, "learning_rate": 0.01, "members": 3,
    "backend": "fused", "threads": 1, "random_state": 0, "preset": "fast",
}  # fmt: skip


def skewed(rows, seed):
    """A table whose target has errors that are skewed, of mean 0, and no other than these."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    return pl.DataFrame({"x": x, "y": 100 + 30 * x + 10 * (rng.exponential(size=rows) - 1)})


@pytest.fixture(scope="module")
def model():
    return TableRegressor(**QUICK).fit(skewed(600, 0), "y")


def within(share, expected, rows, errors=360):
    """Whether a share of so many rows, by so many errors, is what is expected: within four deviations."""
    deviation = np.sqrt(expected * (1 - expected) * (1 / rows + 1 / errors))
    return abs(share - expected) <= 4 * deviation


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_hold_their_share_of_fresh_rows(model, coverage):
    fresh = skewed(4000, 1)
    low, high = model.predict_interval(fresh, coverage)
    y = fresh["y"].to_numpy()
    assert within(((low <= y) & (y <= high)).mean(), coverage, 4000)
    np.testing.assert_allclose((low + high) / 2, model.predict(fresh))


def test_what_the_report_says_is_what_intervals_hold(model):
    fresh = skewed(500, 1)
    y = fresh["y"].to_numpy()
    for found in held_fractions(model, model.predict(fresh), y):
        low, high = model.predict_interval(fresh, found["of"])
        assert found["hold"] == ((low <= y) & (y <= high)).mean()
        assert found["wide"] == pytest.approx((high - low).mean())


def test_quantiles_are_those_of_skewed_errors(model):
    fresh, shares = skewed(4000, 1), (0.1, 0.5, 0.9)
    found = model.predict_quantiles(fresh, shares)
    assert found.shape == (4000, 3)
    below = (fresh["y"].to_numpy()[:, None] <= found).mean(axis=0)
    assert all(within(share, expected, 4000) for share, expected in zip(below, shares, strict=True))
    low, middle, high = found[0]
    assert high - middle > 1.5 * (middle - low)


def test_a_file_keeps_them(model, tmp_path):
    model.save(tmp_path / "model")
    _, arrays = archive.read(tmp_path / "model")
    forged = [np.array([np.nan]), np.array([1.0, 0.0]), np.empty(0), np.zeros((1, 1)), np.array([1])]
    for name, errors in itertools.product(("scaled", "places"), forged):
        assert "the errors are no" in refusal(model, tmp_path, f"arrays/errors/{name}", errors)
    for sizes in (np.zeros(len(arrays["errors/places"])), np.ones(len(arrays["errors/places"]) + 1)):
        line = refusal(model, tmp_path, "arrays/errors/sizes", sizes)
        assert "the errors are not ascending, or have no sizes" in line
    assert "it lacks 'errors/places'" in refusal(model, tmp_path, "arrays/errors/places", GONE)


def test_what_cannot_be_held_is_refused(model):
    fresh = skewed(5, 1)
    for coverage in (0.0, 1.0, "0.9"):
        with pytest.raises((ValueError, TypeError), match="coverage must be"):
            model.predict_interval(fresh, coverage)
    few = TableRegressor(**QUICK).fit(skewed(12, 0), "y")
    with pytest.raises(
        ValueError,
        match=r"^coverage must be in \[1/\d+, (\d+)/\d+\], as the errors of \1 held-out .* got 0.99; more",
    ):
        few.predict_interval(fresh, 0.99)
    with pytest.raises(ValueError, match=r"a quantile must be in .* got 0.01"):
        few.predict_quantiles(fresh, [0.01])
    with pytest.raises(TypeError, match=r"^quantiles must be a list of numbers, got 0.5$"):
        few.predict_quantiles(fresh, 0.5)
    with pytest.raises(NotFittedError):
        TableRegressor().predict_interval(fresh)


def test_the_report_says_what_they_hold(tmp_path, command):
    skewed(400, 0).write_csv(tmp_path / "skewed.csv")
    train = f"train {tmp_path}/skewed.csv --target y --preset fast --epochs 20 {QUICKLY}"
    shown = command(f"{train} -o {tmp_path}/model")
    found = json.loads(command(f"{train} --json"))["report"]["intervals"]
    assert [one["of"] for one in found] == [0.5, 0.8, 0.9]
    assert all(within(one["hold"], one["of"], 80, errors=128) for one in found)
    lines = shown[shown.index("intervals ") :].splitlines()[:3]
    assert lines[0].split() == ["intervals", "of", "50%", "of", "80%", "of", "90%"]
    assert lines[1].split() == ["inside", *(f"{one['hold']:.1%}" for one in found)]
    assert lines[2].split() == ["mean", "width", *(f"{one['wide']:.4g}" for one in found)]
    assert "\n".join(lines) in command(f"inspect {tmp_path}/model")


def spreading(rows, seed):
    """A table whose target spreads with its mean."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 10, rows)
    return pl.DataFrame({"x": x, "y": 10 * x + x * rng.normal(size=rows)})


def test_widths_follow_the_prediction_where_errors_do():
    model = TableRegressor(**QUICK).fit(spreading(1000, 0), "y")
    fresh = spreading(3000, 1).sort("x")
    low, high = model.predict_interval(fresh, 0.9)
    inside = (low <= fresh["y"].to_numpy()) & (fresh["y"].to_numpy() <= high)
    for third, widths in zip(np.array_split(inside, 3), np.array_split(high - low, 3), strict=True):
        assert within(third.mean(), 0.9, 1000, errors=200), widths.mean()
    quantiles = model.predict_quantiles(fresh, [0.1, 0.9])
    shares = (fresh["y"].to_numpy()[:, None] <= quantiles).mean(axis=0)
    assert within(shares[0], 0.1, 3000)
    assert within(shares[1], 0.9, 3000)


def test_a_bound_counts_a_new_error_among_those_that_are_known():
    nine = HeldErrors.of_one_size(np.arange(1.0, 10))
    assert [half_width(nine, coverage) for coverage in (0.5, 0.9)] == [5, 9]


def test_one_width_where_rows_are_few():
    predicted, errors = np.random.default_rng(0).normal(size=(2, 2 * ROWS_OF_A_SIZE - 1))
    found = scaled_errors(predicted, errors)
    np.testing.assert_array_equal(found.scaled, np.sort(errors))
    np.testing.assert_array_equal(found.sizes_at(predicted), 1)


def test_one_width_where_errors_do_not_follow_the_prediction():
    """Sizes differ by chance, and gain nothing on other rows; that it looks so is chance, too."""
    draws = [np.random.default_rng(seed).normal(size=(2, 500)) for seed in range(10)]
    assert sum(len(scaled_errors(*draw).places) > 1 for draw in draws) <= 3


def test_no_error_at_all_has_a_size():
    found = scaled_errors(np.arange(500.0), np.zeros(500))
    assert (found.sizes > 0).all()
    assert not found.scaled.any()
