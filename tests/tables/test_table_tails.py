"""Columns of heavy tails keep order and distance."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from test_table_cli import QUICK

from fastmlp import TableRegressor
from fastmlp.cli.main import main
from fastmlp.tables.columns import CLIP
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.kinds import FARTHEST, robust


def heavy(rows=1000, seed=0):
    """y = 2x, with x of Student's t(2) and a log-normal column after it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, rows)
    return pl.DataFrame({"x": x, "other": rng.lognormal(size=rows), "y": 2 * x})


def clip(z):
    return z / np.sqrt(1 + (z / CLIP) ** 2)


@pytest.mark.slow  # trains for 3 s
def test_a_line_through_a_column_of_heavy_tails_is_learned():
    model = TableRegressor(backend="fused", random_state=0).fit(heavy(), "y")
    assert [column.tails for column in model.encoding_.columns] == ["both", "clipped"]
    assert min(model.score(heavy(seed=seed), "y") for seed in range(1, 6)) > 0.99


def test_numbers_of_heavy_tails_keep_order_and_distance():
    frame = heavy().select("x")
    X = Encoding.learned(frame).encoded(frame, np.float64)
    x = frame["x"].to_numpy()
    center, scale = robust(x)
    np.testing.assert_allclose(X[:, 0], clip((x - center) * scale), rtol=1e-12)
    np.testing.assert_allclose(X[:, 1] * np.sqrt(np.mean((x - center) ** 2)), x - center, rtol=1e-12)
    assert Encoding.learned(frame).parts == ["x", "x as it is"]
    light = pl.DataFrame({"x": np.random.default_rng(0).normal(size=1000)})
    assert Encoding.learned(light).parts == ["x"]


def test_dates_of_heavy_tails_keep_distance():
    days = np.datetime64("2024-01-01") + np.arange(300) % 40
    days[:3] = np.datetime64("1900-01-01")
    frame = pl.DataFrame({"t": days})
    X = Encoding.learned(frame).encoded(frame, np.float64)
    assert Encoding.learned(frame).parts[:2] == ["t", "t as it is"]
    times = days.astype("M8[s]").astype(float)
    np.testing.assert_allclose(np.corrcoef(X[:, 1], times)[0, 1], 1)


@pytest.mark.parametrize("far", [np.inf, -np.inf, 1e308, -1e308])
def test_what_is_far_beyond_all_is_bounded(far):
    known = np.concatenate([heavy()["x"].to_numpy(), [far]])
    for learned in (known, known[:-1]):
        encoding = Encoding.learned(pl.DataFrame({"x": learned}))
        for one in (encoding, encoding.linear):
            X = one.encoded(pl.DataFrame({"x": known}), np.float64)
            assert np.abs(X).max() <= FARTHEST
            assert np.sign(X[-1]).tolist() == [np.sign(far)] * X.shape[1]


def test_the_linear_model_gets_the_numbers_as_they_are(tmp_path, capsys):
    heavy().with_columns(y=pl.col("x") + 2 * pl.col("other")).write_csv(tmp_path / "t.csv")
    assert main(["train", str(tmp_path / "t.csv"), *f"--target y --json {QUICK}".split()]) == 0
    scores = json.loads(capsys.readouterr().out)["report"]["scores"]
    assert scores["linear"]["R^2"] > 0.99999
    assert list(scores) == ["network", "constant", "linear"]
