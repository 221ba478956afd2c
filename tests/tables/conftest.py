"""Fixtures of tests of tables: models that have learned `flats`."""

from __future__ import annotations

import pytest
from flats import QUICK, flats

from fastmlp import TableClassifier, TableRegressor


@pytest.fixture(scope="module")
def regressor():
    return TableRegressor(**QUICK).fit(flats().drop("kind"), "price")


@pytest.fixture(scope="module")
def classifier():
    return TableClassifier(**QUICK).fit(flats().drop("price"), "kind")
