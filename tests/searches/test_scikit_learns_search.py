"""scikit-learn's own tests of this module, with our names, and all tasks on our backend of joblib's."""

from __future__ import annotations

import pytest
from support import scikit_learn_tests

from fastmlp.searches import backend

NAMES = ("GridSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "RandomizedSearchCV")
exec(scikit_learn_tests.code("test_search", *NAMES))

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def all_estimators(monkeypatch, request):
    """Not networks only; but for a test that looks at the call stack, where a thread has its own."""
    if not request.node.name.startswith("test_multi_metric_search_forwards_metadata"):
        monkeypatch.setattr(backend, "trains_networks", lambda estimator: True)


@pytest.fixture
def global_random_seed():
    return 42
