"""Intervals and quantiles of regressions: they hold the share that they say, on rows that nobody has seen."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from sklearn.exceptions import NotFittedError

import fastmlp
from fastmlp import TableRegressor
from fastmlp.cli.main import main
from fastmlp.files import archive

QUICK = {
    "hidden": (16,), "epochs": 30, "batch_size": 32, "learning_rate": 0.01, "members": 3,
    "backend": "reference", "random_state": 0, "preset": "fast",
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


def test_quantiles_are_those_of_skewed_errors(model):
    fresh, shares = skewed(4000, 1), (0.1, 0.5, 0.9)
    found = model.predict_quantiles(fresh, shares)
    assert found.shape == (4000, 3)
    below = (fresh["y"].to_numpy()[:, None] <= found).mean(axis=0)
    assert all(within(share, expected, 4000) for share, expected in zip(below, shares, strict=True))
    low, middle, high = found[0]
    assert high - middle > 1.5 * (middle - low)


def test_a_file_keeps_them(model, tmp_path):
    path = tmp_path / "model"
    model.save(path)
    fresh = skewed(5, 1)
    again = TableRegressor.load(path).predict_interval(fresh)
    np.testing.assert_array_equal(again, model.predict_interval(fresh))
    header, arrays = archive.read(path)
    for errors in (np.array([np.nan]), np.array([1.0, 0.0]), np.empty(0), np.zeros((1, 1)), np.array([1])):
        archive.write(path, header, {**arrays, "errors": errors})
        with pytest.raises(fastmlp.CheckpointError, match="the errors are no ascending numbers"):
            TableRegressor.load(path)
    del arrays["errors"]
    archive.write(path, header, arrays)
    with pytest.raises(ValueError, match="written before there were intervals; train it again"):
        TableRegressor.load(path).predict_interval(fresh)


def test_what_cannot_be_held_is_refused(model):
    fresh = skewed(5, 1)
    for coverage in (0.0, 1.0, "0.9"):
        with pytest.raises((ValueError, TypeError), match="coverage must be"):
            model.predict_interval(fresh, coverage)
    few = TableRegressor(**QUICK).fit(skewed(12, 0), "y")
    with pytest.raises(
        ValueError, match=r"coverage must be in \[1 / \d+, (\d+) / \d+\] by \1 rows .* got 0.99"
    ):
        few.predict_interval(fresh, 0.99)
    with pytest.raises(ValueError, match=r"a quantile must be in .* got 0.01"):
        few.predict_quantiles(fresh, [0.01])
    with pytest.raises(NotFittedError):
        TableRegressor().predict_interval(fresh)


def test_the_report_says_what_they_hold(tmp_path, capsys):
    skewed(400, 0).write_csv(tmp_path / "skewed.csv")
    command = ["train", str(tmp_path / "skewed.csv"), "--target", "y", "--preset", "fast", "--hidden", "8"]
    command += ["--epochs", "20", "--members", "2", "--backend", "reference", "--quiet"]
    assert main([*command, "-o", str(tmp_path / "model")]) == 0
    shown = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["report"]["intervals"]
    assert found["of"] == 0.9
    assert within(found["hold"], 0.9, 80, errors=128)
    line = f"intervals  those of 90% hold {found['hold']:.1%} of the rows held out, {found['wide']:.4g} wide"
    assert line in shown.splitlines()
    assert main(["inspect", str(tmp_path / "model")]) == 0
    assert line in capsys.readouterr().out.splitlines()
