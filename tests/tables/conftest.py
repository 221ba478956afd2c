"""Fixtures of tests of tables: models that have learned `flats`; every model is saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
from support.flats import LEARNED, QUICK, flats

from fastmlp import TableClassifier, TableRegressor
from fastmlp.cli.main import main
from fastmlp.tables.base import TableEstimator
from fastmlp.tables.estimators import load
from fastmlp.tables.recipe import mean_outputs
from fastmlp.tables.search import TableTraining


@pytest.fixture(scope="session")
def regressor():
    return TableRegressor(**QUICK).fit(flats().drop("kind"), "price")


@pytest.fixture(scope="session")
def classifier():
    return TableClassifier(**QUICK).fit(flats().drop("price"), "kind")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with flats.csv, and models `price` and `kind` that the command line makes of the table."""
    folder = tmp_path_factory.mktemp("tables")
    flats().write_csv(folder / "flats.csv")
    for target, other in (("price", "kind"), ("kind", "price")):
        options = f"--target {target} --drop {other},noise {LEARNED} -o {folder / target}"
        assert main(["train", str(folder / "flats.csv"), *options.split()]) == 0
    return folder


@pytest.fixture
def trainings(monkeypatch):
    """Pairs of what is planned and what comes of it, by calls that train networks of tables from then on."""
    calls, train = [], TableTraining.networks

    def recorded(training, planned, *more):
        found = train(training, planned, *more)
        calls.append((planned, found))
        return found

    monkeypatch.setattr(TableTraining, "networks", recorded)
    return calls


TRAINED = []
"""Estimators that a test has trained, with some rows of X."""


@pytest.fixture(scope="session", autouse=True)
def _kept():
    """Have TRAINED hold what is trained, by `fit` and by the command line."""
    train = TableEstimator.train

    def train_and_keep(self, X, *given, **named):
        train(self, X, *given, **named)
        TRAINED.append((self, X[:20]))

    TableEstimator.train = train_and_keep
    yield
    TableEstimator.train = train


KEPT = ("encoding_", "task_", "target_name_", "errors_", "held_", "fingerprint_", "shortened_")
"""Attributes that a file keeps, besides the networks; some models lack some."""


@pytest.fixture(autouse=True)
def _files_of_all_models_are_read(tmp_path_factory):
    """After a test, save and load what it trained, with its report: what comes back is the same model."""
    yield
    while TRAINED:
        model, X = TRAINED.pop()
        path = tmp_path_factory.getbasetemp() / "trained"
        model.save(path)
        again = load(path)
        for name in KEPT:
            np.testing.assert_equal(getattr(again, name, None), getattr(model, name, None))
        assert [recipe for recipe, _ in again.groups_] == [recipe for recipe, _ in model.groups_]
        assert [one.history for one in again.models_] == [one.history for one in model.models_]
        outputs = mean_outputs(model.models_, X)
        np.testing.assert_array_equal(mean_outputs(again.models_, X), outputs, strict=True)
        decoded = model.task_.decoded(outputs)
        np.testing.assert_array_equal(again.task_.decoded(outputs), decoded, strict=True)
