"""The recipes that were tried: a run goes on where it was, and the page has names with all tables only."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from support.processes import python
from support.selection import matrix, quick

from benchmarks.tables.extended import CosLog4, FlatCos, InDense, coded
from benchmarks.tables.recipe_report import report
from benchmarks.tables.recipes import GivenRegressor, trained
from benchmarks.tables.sets import CHOOSE, Split
from benchmarks.tables.tried import TRIED
from fastmlp.model.losses import CrossEntropy
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.tasks import Regression

ROOT = Path(__file__).parents[2]


def row(name, table, loss, seconds, split=0):
    return {"name": name, "table": table, "split": split, "version": "1", "loss": loss, "seconds": seconds}


def test_the_page_has_names_of_all_tables_beside_the_peer():
    first, *others = CHOOSE
    rows = [row("CatBoost", table, 0.5, 1.0) for table in CHOOSE]
    rows += [row("good", table, 0.5, 1.0) for table in others] + [row("good", first, 1.0, 1.0)]
    rows += [row("good", first, 0.5 * np.exp(2), 12.0)]  # a later one
    rows += [row("prelu", table, 0.25, 1.0) for table in others]
    rows += [row("good", first, 1.0, 1.0, split=1)]
    lines = report(rows).splitlines()
    mean = (19 * 0.5 + 0.5 * np.exp(2)) / 20
    assert f"| good | {TRIED['good'].says} | {mean:.4f} | 0.100 | 31.0 | 1 | 12 |" in lines
    assert "| CatBoost |  | 0.5000 | 0.000 | 20.0 | 0 | 1 |" in lines
    assert not any("prelu" in line or "split 1" in line for line in lines)


@matrix
@pytest.mark.parametrize("name", ["bins-by-target", "members", "scale", "coslog4", "slow-embeddings"])
def test_recipes_with_more_options_are_trained(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    estimator = GivenRegressor(random_state=0, threads=1, backend="reference")
    estimator.recipes = tuple(replace(one, epochs=10, members=1) for one in TRIED[name].recipes)
    assert estimator.fit(X, X[:, 0]).score(X, X[:, 0]) > 0.5


@matrix
@pytest.mark.parametrize("name", ["members", "scale", "no-codes"])
def test_recipes_of_a_table_with_codes_are_trained(name):
    """Their columns make X sparse, which no layer but Dense takes."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 40, 600)
    frame, y = pl.DataFrame({"code": codes}), rng.normal(size=40)[codes] + 0.1 * rng.normal(size=600)
    few = tuple(replace(one, epochs=2, members=1) for one in TRIED[name].recipes)
    split = Split(0, Regression.learned(y), frame, y, frame, y)
    estimator = trained(TRIED[name]._replace(recipes=few), split, backend="reference").__self__
    assert len(estimator.encoding_.codes) == (name != "no-codes")
    assert np.isfinite(estimator.predict(frame)).all()


def test_schedules_and_rates_of_layers_are_the_optimizer_s():
    for recipe in TRIED["coslog4"].recipes:
        assert recipe.optimizer_of(100).learning_rate == CosLog4(recipe.learning_rate, 100)
    plain, bins, cosines = (one.optimizer_of(100).layer_rates for one in TRIED["slow-embeddings"].recipes)
    assert plain is None
    assert dict(bins) == {"Grouped": 0.1}
    assert dict(cosines) == {"Grouped": 0.1, "Periodic": 0.1}


def test_bins_by_target_have_an_edge_where_the_target_jumps():
    X = np.linspace(0, 1, 200)[:, None]
    recipe = TRIED["bins-by-target"].recipes[1]
    (edges,) = recipe.learned(X, (X[:, 0] > 0.3).astype(float), Encoding(())).edges
    assert edges == pytest.approx((0, 0.3, 1), abs=1e-2)


@matrix
def test_categories_of_many_levels_are_codes_that_networks_embed():
    rng = np.random.default_rng(0)
    codes, few = rng.integers(12, size=200), rng.integers(3, size=200)
    frame = pl.DataFrame({"many": [f"m{code}" for code in codes], "few": [f"f{code}" for code in few]})
    frame = frame.with_columns(x=pl.Series(rng.normal(size=200)), y=pl.Series((codes % 2 + few) * 1.0))
    estimator = GivenRegressor(random_state=0, threads=1, backend="reference")
    of_bins, _ = TRIED["embedded-levels"].recipes
    estimator.recipes = (replace(of_bins, epochs=60, members=1),)
    assert estimator.fit(frame, "y").score(frame, "y") > 0.8
    assert [getattr(block, "levels", None) for block in estimator.models_[0].network.blocks] == [
        (12,), None, None,
    ]  # fmt: skip
    new = frame.with_columns(many=pl.lit("none that was learned"))
    assert (InDense.of(estimator.encoding_, coded).encoded(new)[:, 0] == -1).all()


@quick(1)
@pytest.mark.parametrize(("name", "held"), [("good", 2), ("no-all-rows", 5)])
def test_networks_that_hold_out_rows_are_as_many_as_a_name_says(name, held):
    X = np.random.default_rng(0).normal(size=(2500, 2))
    frame, y = pl.DataFrame({"a": X[:, 0], "b": X[:, 1]}), X[:, 0] + X[:, 1]
    split = Split(0, Regression.learned(y), frame, y, frame, y)
    plain = replace(TRIED[name].recipes[0], epochs=1, batch_size=500)
    estimator = trained(TRIED[name]._replace(recipes=(plain,)), split, backend="reference").__self__
    assert sum("validation_loss" in model.history for model in estimator.models_) == held


def test_smoothing_is_for_classes_only():
    (recipe, *_) = TRIED["smoothing"].recipes

    class Task:
        n_out, output, loss = 1, "identity", "mse"

    class Classes(Task):
        n_out, output, loss = 3, "softmax", "cross_entropy"

    assert recipe.network(2, Task).loss == "mse"
    assert recipe.network(2, Classes).loss == CrossEntropy(0.1)


def test_schedules_are_those_of_realmlp():
    steps = np.array([0, 500, 1000])
    assert FlatCos(0.1, 1000).rates(steps, 10) == pytest.approx([0.1, 0.1, 0])
    peaks = 1000 * (2 ** np.array([0.5, 1.5, 2.5, 3.5]) - 1) / 15
    assert CosLog4(0.1, 1000).rates(peaks, 10) == pytest.approx([0.1] * 4)
    assert CosLog4(0.1, 1000).rates(steps[[0, 2]], 10) == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.slow  # starts processes
def test_a_run_goes_on_where_it_was(tmp_path):
    results = tmp_path / "results.jsonl"
    command = ["-m", "benchmarks.tables.recipes", "--tables", "breast_cancer"]
    command += ["--results", str(results)]

    def run(*more):
        done = python(*command, *more, cwd=ROOT)
        return done.stdout.splitlines(), [json.loads(line) for line in results.read_text().splitlines()]

    said, rows = run("--names", "plain")
    assert len(said) == len(rows) == 1
    assert 0 < rows[0]["loss"] < 0.3
    assert rows[0]["seconds"] > 0
    assert run("--names", "plain") == ([], rows)
    _, again = run("--names", "plain", "--again")
    assert [one["loss"] for one in again] == [rows[0]["loss"]] * 2
