"""scikit-learn's own tests of this module, with our names, and all tasks on our backend of joblib's."""

from __future__ import annotations

import pytest
from support import scikit_learn_tests

from fastmlp.searches import backend

NAMES = (
    "GridSearchCV",
    "cross_val_predict",
    "cross_val_score",
    "cross_validate",
    "learning_curve",
    "validation_curve",
)
exec(scikit_learn_tests.code("test_validation", *NAMES))

READ_THE_STACK = (
    "test_validation_functions_routing",
    "test_learning_curve_exploit_incremental_learning_routing",
)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def all_estimators(monkeypatch, request):
    """Not networks only; but for tests that look at the call stack, where a thread has its own."""
    if not request.node.name.startswith(READ_THE_STACK):
        monkeypatch.setattr(backend, "trains_networks", lambda estimator: True)


@pytest.fixture
def global_random_seed():
    return 42
