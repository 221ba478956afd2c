"""Networks of a table that are trained on all rows, once those that hold out rows say for how many epochs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from fastmlp import TableRegressor
from fastmlp.fitting import fit
from fastmlp.tables.frames import TableError
from fastmlp.tables.held_out import folds
from fastmlp.tables.recipe import PRESETS
from fastmlp.tables.search import HELD_ROWS
from fastmlp.tables.tasks import Classification, Regression

QUICK = {"hidden": (8,), "preset": "fast", "backend": "fused", "threads": 1, "random_state": 0}


def noisy(rows, seed=3):
    """A table whose networks soon learn noise: their best epoch is not the last one."""
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({name: rng.normal(size=rows) for name in "abcd"})
    return frame.with_columns(y=pl.col("a") + pl.Series(rng.normal(size=rows)))


@pytest.fixture(scope="module")
def model():
    settings = {"members": 7, "epochs": 12, "learning_rate": 0.03, "batch_size": 16}
    return TableRegressor(**QUICK, **settings).fit(noisy(200), "y", np.linspace(0, 2, 200))


def test_the_first_networks_hold_out_rows_and_the_others_have_the_mean_of_their_best_epochs(model):
    held = [one.history.get("validation_loss") for one in model.models_]
    assert [one is None for one in held] == 5 * [False] + 2 * [True]
    best = [int(np.argmin(one)) + 1 for one in held[:5]]
    assert 1 < np.mean(best) < 11.5  # an epoch that is neither the first nor the last
    assert [len(one.history["loss"]) for one in model.models_[5:]] == 2 * [round(np.mean(best))]


def test_a_network_of_all_rows_is_what_fit_trains_on_them(model):
    """It is the start of a whole training, with the rows' weights and a seed of its own."""
    frame, weights, sixth = noisy(200), np.linspace(0, 2, 200), model.models_[5]
    X = model.encoding_.encoded(frame.drop("y"), model.floats)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    found = fit(
        sixth.network,
        X,
        model.task_.encoded(frame["y"].to_numpy()),
        optimizer=model.recipe_.optimizer_of(12 * -(-200 // 16)),
        epochs=len(sixth.history["loss"]),
        batch_size=16,
        seed=seed + 5,
        sample_weight=weights,
        progress=False,
        backend="fused",
        threads=1,
    )
    np.testing.assert_array_equal(found.parameters, sixth.parameters)


@pytest.mark.parametrize(
    ("rows", "members", "hold_out"), [(60, 7, 5), (60, 3, 3), (1300, 7, 4), (2600, 7, 2), (2600, 1, 1)]
)
def test_fewer_networks_hold_out_rows_where_each_holds_out_more(rows, members, hold_out):
    model = TableRegressor(**QUICK, members=members, epochs=1, batch_size=256).fit(noisy(rows), "y")
    validated = sum("validation_loss" in one.history for one in model.models_)
    assert (len(model.models_), validated) == (members, hold_out)
    assert hold_out in (5, members) or hold_out * rows / 5 >= HELD_ROWS
    parts = list(folds(np.zeros(rows), Regression(0.0, 1.0), 0))
    assert len(model.errors_.scaled) == sum(len(held) for _, held in parts[:hold_out])


@pytest.mark.parametrize(
    ("rows", "members", "epochs"),
    [(3000, 7, 400), (4000, 2, 400), (10_000, 1, 300), (100_000, 1, 30), (10_000_000, 1, 8)],
)
def test_many_rows_have_few_networks_and_epochs(rows, members, epochs):
    for recipe in PRESETS["good"]:
        own, given = recipe.resolved(rows), replace(recipe, epochs=500, members=9).resolved(rows)
        assert (own.members, own.epochs) == (members, epochs)
        assert (given.members, given.epochs) == (9, 500)


def test_networks_that_wait_for_no_other_train_at_once(trainings):
    model = TableRegressor(**QUICK | {"preset": "good", "threads": 2}, epochs=3, members=7)
    model.fit(noisy(200), "y")
    rounds = [[(one.number, len(one.part[1]) > 0) for one in planned] for planned, _ in trainings]
    count = len(model.groups_)
    assert rounds[0] == 3 * [(0, True)]
    assert rounds[-1] == [(place, False) for place in (5, 6) for _ in range(count)]
    assert len(model.models_) == 7 * count


def test_all_networks_predict(model):
    frame = noisy(50, seed=1).drop("y")
    X = model.encoding_.encoded(frame, model.floats)
    mean = np.mean([one.predict(X)[:, 0] for one in model.models_], axis=0)
    np.testing.assert_allclose(model.outputs(frame)[:, 0], mean, rtol=1e-6, atol=1e-6)


def test_inspect_says_their_epochs(model, tmp_path, command):
    model.save(tmp_path / "model")
    epochs = len(model.models_[-1].history["loss"])
    assert f"; {epochs} epochs on all rows" in command(f"inspect {tmp_path}/model")


def test_a_rare_class_does_not_make_parts_larger():
    targets = np.repeat([0, 1, 2], [2, 60, 38])
    parts = list(folds(targets, Classification(("a", "b", "c")), 0))
    assert [len(held) for _, held in parts] == 5 * [20]
    assert {int(np.bincount(targets[held], minlength=3)[1]) for _, held in parts} == {12}


def test_a_part_without_a_weight_is_refused_in_one_line():
    rows, held = next(
        folds(np.zeros(60), Regression(0.0, 1.0), int(np.random.RandomState(0).randint(2**31 - 1)))
    )
    for empty in (rows, held):
        weights = np.ones(60)
        weights[empty] = 0
        with pytest.raises(TableError, match=r"^too few rows have a weight: a fifth that networks hold out"):
            TableRegressor(**QUICK, epochs=1).fit(noisy(60), "y", weights)
