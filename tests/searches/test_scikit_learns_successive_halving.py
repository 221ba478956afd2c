"""scikit-learn's own tests of this module, with our names, and all tasks on our backend of joblib's."""

from __future__ import annotations

import pytest
from support import scikit_learn_tests

from fastmlp.searches import backend

NAMES = ("HalvingGridSearchCV", "HalvingRandomSearchCV")
exec(scikit_learn_tests.code("test_successive_halving", *NAMES))

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def all_estimators(monkeypatch):
    """Not networks of fastmlp's only."""
    monkeypatch.setattr(backend, "trains_networks", lambda estimator: True)


@pytest.fixture
def global_random_seed():
    return 42
