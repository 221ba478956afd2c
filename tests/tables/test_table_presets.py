"""Presets of tables: recipes of which rows that are held out choose one, and bins of numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_array
from support.changed_tables import refusal
from support.flats import QUICKLY
from support.selection import matrix
from support.table_bounds import bound

import fastmlp
from fastmlp import Numbers, Periodic, PiecewiseLinear, SparseNumbers, TableClassifier, TableRegressor
from fastmlp.tables.recipe import (
    BINNED,
    MANY_ROWS,
    PRESETS,
    WAVES,
    WIDE,
    Recipe,
    candidates,
    have_three,
    inputs_of,
    may_embed,
)
from fastmlp.tables.search import RecipeGroup, near_best

QUICK = {"hidden": (16,), "epochs": 40, "batch_size": 32, "backend": "fused", "threads": 1, "random_state": 0}

AS_THEY_ARE = {**QUICK, "hidden": None, "layers": (fastmlp.Dense(16, "silu"),)}
"""With layers of one's own numbers are not embedded."""


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
    quick = TableRegressor(**AS_THEY_ARE, learning_rate=0.01, members=2).fit(stripes(), "y")
    fresh = stripes(seed=1)
    assert model.recipe_.bins == 64
    assert quick.recipe_.bins == 0
    assert model.score(fresh, "y") > 0.8 > 0.5 > quick.score(fresh, "y")
    assert [block.columns for block in model.models_[0].network.blocks] == [1, 2]


def test_rows_held_out_choose_the_recipe(monkeypatch):
    for name in ("good", "best"):
        recipes = PRESETS[name]
        for order in (recipes, recipes[::-1]):
            monkeypatch.setitem(PRESETS, name, order)
            chosen = TableRegressor(**QUICK, learning_rate=0.01, members=1, preset=name).fit(stripes(), "y")
            assert chosen.recipe_.bins


def test_the_best_recipe_of_many_rows_has_more_networks(monkeypatch):
    for recipes, more, counts in (
        ((Recipe(), BINNED), {}, [5]),
        ((BINNED, replace(BINNED, dropout=0.001)), {}, [3, 2]),
        ((Recipe(), BINNED), {"members": 2}, [2]),
    ):
        monkeypatch.setitem(PRESETS, "good", recipes)
        model = TableRegressor(**QUICK | {"epochs": 8}, **more).fit(stripes(MANY_ROWS), "y")
        assert [(recipe.bins, len(models)) for recipe, models in model.groups_] == [(64, n) for n in counts]


def test_a_recipe_of_many_rows_that_clearly_trails_ends(trainings, monkeypatch):
    """Numbers as they are learn no stripes in eight epochs; bins do, and train to the end."""
    monkeypatch.setitem(PRESETS, "good", (Recipe(), BINNED))
    TableRegressor(**QUICK | {"epochs": 12}).fit(stripes(MANY_ROWS), "y")
    first = [(planned[0].recipe.bins, len(found[0].history["loss"])) for planned, found in trainings[:2]]
    assert first == [(64, 12), (0, 8)]


def test_a_recipe_that_diverges_is_not_chosen(monkeypatch):
    plain, wild = Recipe(), Recipe(optimizer="sgd", learning_rate=1e30)
    monkeypatch.setitem(PRESETS, "good", (wild, plain))
    settings = {**QUICK, "epochs": 3, "members": 1}
    assert TableRegressor(**settings).fit(stripes(), "y").recipe_.optimizer == "adamw"
    monkeypatch.setitem(PRESETS, "good", (wild,))
    with pytest.raises(fastmlp.DivergenceError):
        TableRegressor(**settings).fit(stripes(), "y")


def group(loss, rows=100):
    """The networks of a recipe that have a loss on so many rows."""
    model = SimpleNamespace(history={"validation_loss": [9.0, loss, 9.0]})
    return RecipeGroup(Recipe(), Recipe(), rows, [model], [np.arange(rows)])


def test_recipes_that_are_not_clearly_worse_remain():
    losses = [1.05, 1.0, 1.249, 1.26]
    assert [one.loss for one in near_best([group(loss) for loss in losses])] == [1.0, 1.05, 1.249]
    assert [one.loss for one in near_best([group(loss, 10_000) for loss in losses])] == [1.0]


def test_networks_of_several_recipes_predict_together(monkeypatch):
    monkeypatch.setitem(PRESETS, "good", (WAVES, replace(WAVES, dropout=0.201)))
    table = stripes()
    model = TableRegressor(**{**QUICK, "epochs": 5}, members=2).fit(table, "y")
    recipes = [recipe for recipe, _ in model.groups_]
    assert {recipe.dropout for recipe in recipes} == {0.2, 0.201}
    assert [len(models) for _, models in model.groups_] == [2] * len(recipes)
    each = [one.predict(model.encoding_.encoded(table.drop("y"))) for one in model.models_]
    np.testing.assert_allclose(model.outputs(table), np.mean(each, axis=0), rtol=1e-6)


def test_weights_of_adamw_are_averaged():
    assert BINNED.optimizer_of(10).averaging == ("ema", 0.99)
    assert replace(BINNED, optimizer="sparseadam").optimizer_of(10).averaging is None
    assert Recipe().optimizer_of(10).averaging is None


def test_settings_replace_those_of_every_recipe():
    assert {one.dropout for one in candidates("good", {"dropout": 0.3})} == {0.3}
    assert len(candidates("good", {"hidden": (8,)})) == len(PRESETS["good"])
    layers = (fastmlp.Dense(4, "relu"),)
    assert [(one.layers, one.bins) for one in candidates("best", {"layers": layers})] == [(layers, 0)]


def inputs_for(X, recipe, numbers):
    """The inputs of a network that learns from X."""
    return inputs_of(X.shape[1], recipe, have_three(X, numbers))


def test_columns_of_three_numbers_have_bins():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4)).astype(np.float32)
    X[:, 1] = X[:, 1] > 0
    X[:, 3] = 0
    place = PiecewiseLinear(64, 16)
    assert inputs_for(X, WIDE, 0) == (Numbers(1, place), Numbers(1), Numbers(1, place), Numbers(1))
    assert inputs_for(X, Recipe(), 0) == 4
    assert inputs_for(X[:, [1, 3]], WIDE, 0) == 2
    sparse = csr_array(X)
    assert inputs_for(sparse, WIDE, 3) == (Numbers(1, place), Numbers(1), Numbers(1, place), SparseNumbers(1))
    assert inputs_for(sparse, Recipe(), 3) == inputs_for(csr_array(X[:, [1, 3]]), WIDE, 1) + 2 == 4
    assert may_embed(X, 0)
    assert may_embed(sparse, 3)
    assert not may_embed(sparse, 0)
    for columns, recipe, embedding in (
        (3, BINNED, PiecewiseLinear(64, 16)),
        (100, BINNED, PiecewiseLinear(64, 5)),
        (1000, BINNED, PiecewiseLinear(64, 2)),
        (3, WAVES, Periodic(8, 0.1)),
        (100, WAVES, Periodic(5, 0.1)),
    ):
        (block,) = inputs_for(rng.normal(size=(50, columns)), recipe, 0)
        assert block == Numbers(columns, embedding)


def test_numbers_of_a_large_table_are_looked_at_in_parts(monkeypatch):
    """The third number of a column stands in the last part, or only the parts together have three."""
    bound(monkeypatch, NUMBERS_AT_ONCE=10)
    X = np.zeros((7, 5), np.float32)
    X[:, 0] = [0, 0, 1, 1, 1, 0, 2]
    X[:, 1] = [3, 3, 2, 2, 1, 1, 1]
    X[:, 2] = [5, 4, 5, 4, 5, 4, 5]
    X[:, 3] = [1, 2, 3, 1, 2, 3, 1]
    place = PiecewiseLinear(64, 16)
    dense = (Numbers(2, place), Numbers(1), Numbers(1, place), Numbers(1))
    assert inputs_for(X, BINNED, 0) == dense
    assert inputs_for(csr_array(X), BINNED, 4) == (*dense[:3], SparseNumbers(1))


@pytest.fixture(scope="module")
def mixed():
    """Stripes between two categories of many levels, of which one moves the target."""
    rng = np.random.default_rng(2)
    names, table = np.array([f"n{place}" for place in range(40)]), stripes(400)
    city, street = rng.integers(0, 40, (2, 400))
    columns = [pl.Series("city", names[city]), table["x"], pl.Series("street", names[street])]
    return pl.DataFrame([*columns, pl.Series("y", table["y"] + (city - 20) / 10)])


@pytest.fixture(scope="module")
def of_mixed(mixed):
    return TableRegressor(**QUICK, learning_rate=0.01, members=2).fit(mixed, "y")


@matrix
def test_numbers_beside_many_categories_are_embedded(mixed, of_mixed):
    assert of_mixed.encoding_.is_sparse
    assert of_mixed.encoding_.parts[:2] == ["x", "city = " + of_mixed.encoding_.columns[0].levels[0]]
    blocks = of_mixed.models_[0].network.blocks
    assert blocks == (Numbers(1, PiecewiseLinear(64, 16)), SparseNumbers(80))
    quick = TableRegressor(**AS_THEY_ARE, learning_rate=0.01, members=2).fit(mixed, "y")
    assert of_mixed.score(mixed, "y") > 0.9 > 0.75 > quick.score(mixed, "y")


def test_a_text_without_a_word_leaves_numbers_that_are_embedded():
    """X is a sparse matrix then, which has no column but those of numbers."""
    table = stripes(100)
    notes = [" ".join(f"{letter}{row}" for letter in "abc") for row in range(100)]
    table = table.select("x", "y", z=pl.col("x") ** 2, note=pl.Series(notes))
    model = TableRegressor(**{**QUICK, "epochs": 2}, members=1).fit(table, "y")
    assert model.encoding_.is_sparse
    assert {block.columns for one in model.models_ for block in one.network.blocks} <= {2}


@pytest.mark.parametrize(("kind", "order"), [("Numbers", 1), ("SparseNumbers", -1)])
def test_a_file_whose_blocks_are_not_those_of_a_sparse_matrix_is_refused(of_mixed, tmp_path, kind, order):
    def others(blocks):
        change = {"type": kind} | ({"embedding": None} if kind == "Numbers" else {})
        return [blocks[0], blocks[1] | change][::order]

    line = refusal(of_mixed, tmp_path, "header/networks/0/inputs", others)
    assert "the network is not that of its columns" in line


def test_a_file_is_refused_if_its_recipe_has_no_bins(model, tmp_path):
    for setting, new, says in (
        ("bins", 0, "the network is not that of its columns"),
        ("bins", -1, "Expected `int` >= 0 - at `Recipe.bins`"),
        ("average", 1, "Expected `float` < 1.0 - at `Recipe.average`"),
    ):
        assert says in refusal(model, tmp_path, f"table/recipes/0/{setting}", new)


def test_the_command_line_has_presets(tmp_path, command):
    stripes(120).write_csv(tmp_path / "t.csv")
    options = "--epochs 30 --hidden 16 --batch-size 16 --learning-rate 0.01 --json"
    train = f"train {tmp_path}/t.csv --target y {QUICKLY} {options} --preset"
    for preset, bins, members in (("good", 64, 7), ("fast", 0, 1)):
        found = json.loads(command(f"{train} {preset}"))["recipe"]
        assert (found["bins"], found["most_members"]) == (bins, members)
    assert "unknown preset 'slow'; choose from: fast, good, best" in command(f"{train} slow", code=2)
    with pytest.raises(ValueError, match="unknown preset 'slow'"):
        TableClassifier(preset="slow").fit(stripes(), "flag")
