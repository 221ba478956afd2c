"""Presets of tables: recipes of which rows that are held out choose one, and bins of numbers."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array

import fastmlp
from fastmlp import Numbers, PiecewiseLinear, TableClassifier, TableRegressor
from fastmlp.cli.main import main
from fastmlp.files import archive
from fastmlp.tables.inputs import inputs_of, may_have_bins
from fastmlp.tables.recipe import PRESETS, Recipe, candidates

QUICK = {"hidden": (16,), "epochs": 40, "batch_size": 32, "backend": "reference", "random_state": 0}


def stripes(rows=300, seed=0):
    """A table whose target jumps up and down with a number, and whose category is noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 10, rows)
    y = np.where(np.floor(x) % 2 == 0, 1.0, -1.0) + 0.05 * rng.normal(size=rows)
    return pl.DataFrame({"x": x, "flag": rng.choice(["a", "b"], rows), "y": y})


@pytest.fixture(scope="module")
def model():
    return TableRegressor(**QUICK, learning_rate=0.01, members=2).fit(stripes(), "y")


def test_numbers_in_bins_learn_what_jumps(model):
    quick = TableRegressor(**QUICK, learning_rate=0.01, members=2, preset="fast").fit(stripes(), "y")
    fresh = stripes(seed=1)
    assert model.recipe_.bins == 48
    assert quick.recipe_.bins == 0
    assert model.score(fresh, "y") > 0.8 > 0.5 > quick.score(fresh, "y")
    assert [block.columns for block in model.models_[0].network.blocks] == [1, 2]


def test_rows_held_out_choose_the_recipe(monkeypatch):
    for name in ("good", "best"):
        recipes = PRESETS[name]
        for order in (recipes, recipes[::-1]):
            monkeypatch.setitem(PRESETS, name, order)
            chosen = TableRegressor(**QUICK, learning_rate=0.01, members=1, preset=name).fit(stripes(), "y")
            assert chosen.recipe_.bins == 48


def test_a_recipe_that_diverges_is_not_chosen(monkeypatch):
    plain, wild = Recipe(), Recipe(optimizer="sgd", learning_rate=1e30)
    monkeypatch.setitem(PRESETS, "good", (wild, plain))
    settings = {**QUICK, "epochs": 3, "members": 1}
    assert TableRegressor(**settings).fit(stripes(), "y").recipe_.optimizer == "adamw"
    monkeypatch.setitem(PRESETS, "good", (wild,))
    with pytest.raises(fastmlp.DivergenceError):
        TableRegressor(**settings).fit(stripes(), "y")


def test_settings_replace_those_of_every_recipe():
    assert {one.dropout for one in candidates("good", {"dropout": 0.3})} == {0.3}
    assert len(candidates("good", {"hidden": (8,)})) == len(PRESETS["good"])
    layers = (fastmlp.Dense(4, "relu"),)
    assert [(one.layers, one.bins) for one in candidates("best", {"layers": layers})] == [(layers, 0)]


def test_columns_of_three_numbers_have_bins():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4)).astype(np.float32)
    X[:, 1] = X[:, 1] > 0
    X[:, 3] = 0
    place = PiecewiseLinear(48)
    assert inputs_of(X, 48) == (Numbers(1, place), Numbers(1), Numbers(1, place), Numbers(1))
    assert inputs_of(X, 0) == 4
    assert inputs_of(X[:, [1, 3]], 48) == 2
    assert may_have_bins(X)
    assert not may_have_bins(csr_array(X))
    assert not may_have_bins(np.broadcast_to(X[0], (200_001, 4)))
    (block,) = inputs_of(rng.normal(size=(50, 100)), 48)
    assert block == Numbers(100, PiecewiseLinear(8))


def test_a_file_keeps_bins_and_is_refused_if_its_recipe_has_none(model, tmp_path):
    path = tmp_path / "model"
    model.save(path)
    again = TableRegressor.load(path)
    np.testing.assert_array_equal(again.predict(stripes()), model.predict(stripes()))
    assert again.recipe_ == model.recipe_
    header, arrays = archive.read(path)
    table = json.loads(arrays["table"].tobytes())
    for bins, says in ((0, "the network is not that of its columns"), (-1, "bins must be at least 0")):
        table["recipe"]["bins"] = bins
        changed = {**arrays, "table": np.frombuffer(json.dumps(table).encode(), np.uint8)}
        archive.write(path, header, changed)
        with pytest.raises(fastmlp.CheckpointError, match=says):
            TableRegressor.load(path)


def test_the_command_line_has_presets(tmp_path, capsys):
    stripes(120).write_csv(tmp_path / "stripes.csv")
    command = ["train", str(tmp_path / "stripes.csv"), "--target", "y", "--epochs", "30", "--members", "1"]
    command += [
        "--hidden",
        "16",
        "--learning-rate",
        "0.01",
        "--batch-size",
        "16",
        "--backend",
        "reference",
        "--quiet",
        "--json",
    ]
    for preset, bins in (("good", 48), ("fast", 0)):
        assert main([*command, "--preset", preset]) == 0
        assert json.loads(capsys.readouterr().out)["recipe"]["bins"] == bins
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--preset", "slow"])
    assert "unknown preset 'slow'; choose from: fast, good, best" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown preset 'slow'"):
        TableClassifier(preset="slow").fit(stripes(), "flag")
