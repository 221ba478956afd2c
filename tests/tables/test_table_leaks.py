"""Nothing of rows that are held out reaches what is trained, and scores of what cannot be learned are so."""

from __future__ import annotations

import json
import warnings

import numpy as np
import polars as pl
import pytest
from sklearn.model_selection import cross_val_score
from support.flats import QUICK, QUICKLY
from support.selection import matrix

from fastmlp import TableRegressor
from fastmlp.tables.estimators import load
from fastmlp.tables.held_out import Dependence, folds
from fastmlp.tables.kinds import firsts_of_copies
from fastmlp.tables.tasks import Classification, Regression


def numbers(rows, seed=0):
    """A table of numbers with a target that is half noise."""
    X = np.random.default_rng(seed).normal(size=(rows, 6))
    noise = np.random.default_rng(seed + 1000).normal(size=rows)
    return pl.DataFrame(X, schema=[*"abcdef"]).with_columns(y=pl.Series(X[:, 0] + X[:, 1] * X[:, 2] + noise))


def drawn(rng, rows):
    """A table of all kinds of columns, with levels that become mean targets and numbers that are codes."""
    codes = rng.integers(0, 15, rows)
    return pl.DataFrame(
        {
            "number": rng.normal(size=rows),
            "tails": rng.standard_cauchy(rows),
            "code": codes,
            "many": rng.choice([f"level {i}" for i in range(400)], rows),
            "few": rng.choice([*"abc"], rows),
            "day": np.datetime64("2024-01-01") + rng.integers(0, 400, rows),
            "note": [" ".join(rng.choice(["red", "green", "blue", "stone"], 4)) for _ in range(rows)],
            "y": rng.normal(size=15)[codes] + 0.3 * rng.normal(size=rows),
        }
    ).with_columns(pl.when(pl.col("number") > 1).then(None).otherwise("number").alias("number"))


@matrix
@pytest.mark.parametrize("options", ["regression", "classification --threshold balanced"])
def test_rows_held_out_for_a_report_change_nothing_that_is_learned(tmp_path, command, options):
    """Other values and targets there leave columns, networks and threshold as they are."""
    rng = np.random.default_rng(0)
    frame, other = drawn(rng, 3000), drawn(rng, 3000)
    found = []
    for table in (frame, pl.concat([frame[:2400], other[2400:]])):
        y = pl.col("y") if options == "regression" else pl.col("y") > 0.2
        table.with_columns(y=y, time=pl.int_range(3000)).write_csv(tmp_path / "t.csv")
        train = f"train {tmp_path}/t.csv --target y --task {options} --time time"
        command(f"{train} {QUICKLY} --preset fast --epochs 2 -o {tmp_path}/model")
        found.append(load(tmp_path / "model"))
    first, second = found
    assert any(hasattr(column, "means") for column in first.encoding_.columns)
    assert first.encoding_.codes
    assert first.held_.sum() == 600
    assert (first.encoding_, first.task_) == (second.encoding_, second.task_)
    assert first.report_["scores"] != second.report_["scores"]
    assert getattr(first.task_, "threshold", None) != 0.5
    np.testing.assert_array_equal(first.models_[0].parameters, second.models_[0].parameters)


def test_rows_are_copies_where_numbers_tell_others_apart():
    frame, twice = numbers(50), np.arange(100) % 50
    y = frame["y"].to_numpy()
    assert firsts_of_copies(frame.drop("y"), y) is None
    np.testing.assert_array_equal(firsts_of_copies(frame.drop("y")[twice], y[twice]), twice)
    numbered = frame.drop("y")[twice].with_columns(id=pl.int_range(100))
    assert firsts_of_copies(numbered, y[twice]) is None
    np.testing.assert_array_equal(firsts_of_copies(numbered, y[twice], ["id", "gone"]), twice)
    assert firsts_of_copies(frame.drop("y")[twice], np.random.default_rng(0).normal(size=100)) is None
    by_chance = pl.DataFrame({"sex": [*"fm"] * 50, "floor": [1, 2, 3, 4] * 25, "city": [*"abcde"] * 20})
    assert firsts_of_copies(by_chance, np.array(["x"] * 100)) is None


@pytest.mark.parametrize(
    "task", [Regression(0.0, 1.0), Classification(("a", "b"))], ids=lambda task: task.name
)
def test_copies_are_held_out_together(task):
    firsts = np.random.default_rng(0).permutation(np.arange(200) % 40)
    firsts = np.unique(firsts, return_index=True)[1][firsts]
    targets = firsts % 2
    copies = Dependence(groups=firsts)
    held = [set(firsts[rows]) for _, rows in folds(targets, task, 0, copies)]
    for trained, rows in folds(targets, task, 0, copies):
        assert not set(firsts[trained]) & set(firsts[rows])
        np.testing.assert_array_equal(np.sort([*trained, *rows]), np.arange(200))
    assert set.union(*held) == set(firsts)
    alone = Dependence(groups=np.arange(200))
    for part, same in zip(folds(targets, task, 0, alone), folds(targets, task, 0), strict=True):
        np.testing.assert_array_equal(np.concatenate(part), np.concatenate(same))


MEMORISES = {"hidden": (128,), "epochs": 100, "learning_rate": 0.03, "optimizer": "adam", "dropout": 0.0}
"""Settings of a network that has the targets of single rows after some epochs."""


def test_intervals_hold_new_rows_where_the_training_rows_are_repeated():
    frame, fresh = numbers(300), numbers(2000, seed=1)
    often = np.random.default_rng(0).permutation(np.arange(1200) % 300)
    model = TableRegressor(**QUICK | MEMORISES, preset="fast").fit(frame[often], "y")
    low, high = model.predict_interval(fresh, 0.8)
    assert ((low <= fresh["y"].to_numpy()) & (fresh["y"].to_numpy() <= high)).mean() > 0.7


def test_a_report_does_not_judge_by_copies(tmp_path, command):
    """No score of noise is above chance, though each row stands in the table four times."""
    rng = np.random.default_rng(0)
    noise = pl.DataFrame(rng.normal(size=(100, 120))).with_columns(y=pl.Series(rng.normal(size=100)))
    noise[rng.permutation(np.arange(400) % 100)].write_csv(tmp_path / "t.csv")
    printed = command(f"train {tmp_path}/t.csv --target y --epochs 9 --json {QUICKLY}")
    report = json.loads(printed)["report"]
    assert report["rows"]["held out"] == 80
    assert all(scores["R^2"] < 0.1 for scores in report["scores"].values())


@pytest.mark.campaign  # a minute
@pytest.mark.parametrize("columns", ["number tails", "code", "many few", "note day", "all"])
@pytest.mark.parametrize("rows", [60, 400, 2000])
def test_noise_is_not_learned_and_its_intervals_hold(columns, rows):
    """Permuted targets: no score above chance on new rows or in folds, and coverages as said."""
    scores, inside, errors, folded = [], [], [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        frame = drawn(rng, 2 * rows).with_columns(pl.col("y").shuffle(seed))
        frame = frame if columns == "all" else frame.select(*columns.split(), "y")
        model = TableRegressor(**QUICK | {"hidden": (32,), "epochs": 60, "members": 3, "random_state": seed})
        trained, fresh = frame[:rows], frame[rows:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of levels that were not learned
            model.fit(trained, "y")
            scores.append(model.score(fresh, "y"))
            low, high = model.predict_interval(fresh, 0.8)
            inside.append(((low <= fresh["y"].to_numpy()) & (fresh["y"].to_numpy() <= high)).mean())
            pandas = trained.to_pandas()
            folded += cross_val_score(model, pandas.drop(columns="y"), pandas["y"], cv=3).tolist()
        errors += [
            min(one.history["validation_loss"]) for one in model.models_ if "validation_loss" in one.history
        ]
    deviation = 0.4 / np.sqrt(0.4 * rows * 5)  # of the share that held-out errors allow, and of new rows
    assert np.mean(scores) < 0.05
    assert np.mean(folded) < 0.05
    assert abs(np.mean(inside) - 0.8) < 0.05 + 3 * deviation
    assert np.mean(errors) > 0.8


@pytest.mark.campaign
def test_a_column_that_is_known_only_of_trained_rows_gives_no_score():
    """A planted leak: mean targets of levels that a single row has say nothing of other rows."""
    rng = np.random.default_rng(0)
    levels = np.repeat([f"level {i}" for i in range(800)], 2)
    frame = pl.DataFrame(
        {"level": rng.permutation(levels), "x": rng.normal(size=1600), "y": rng.normal(size=1600)}
    )
    model = TableRegressor(**QUICK | {"hidden": (64,), "epochs": 100}).fit(frame, "y")
    assert hasattr(model.encoding_.columns[0], "means")
    losses = [min(one.history["validation_loss"]) for one in model.models_]
    assert np.mean(losses) > 0.9
