"""Fixtures of tests of tables: models that have learned `flats`; every model is saved and loaded."""

from __future__ import annotations

import numpy as np
import pytest
from support.flats import QUICK, flats

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables import members
from fastmlp.tables.base import TableEstimator
from fastmlp.tables.estimators import load


@pytest.fixture(scope="module")
def regressor():
    return TableRegressor(**QUICK).fit(flats().drop("kind"), "price")


@pytest.fixture(scope="module")
def classifier():
    return TableClassifier(**QUICK).fit(flats().drop("price"), "kind")


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


@pytest.fixture(autouse=True)
def _files_of_all_models_are_read(tmp_path_factory):
    """After a test, save and load what it trained, with its report: what comes back predicts the same."""
    yield
    while TRAINED:
        model, X = TRAINED.pop()
        path = tmp_path_factory.getbasetemp() / "trained"
        model.save(path)
        again = load(path)
        assert again.encoding_ == model.encoding_
        np.testing.assert_array_equal(
            members.outputs(again.models_, X), members.outputs(model.models_, X), strict=True
        )
