"""scikit-learn's own tests of this module, with our names, and all tasks on our backend of joblib's."""

import pytest
from support import scikit_learn_tests

NAMES = (
    *("GridSearchCV", "cross_val_predict", "cross_val_score", "cross_validate", "learning_curve"),
    "validation_curve",
)
exec(scikit_learn_tests.code("test_validation", *NAMES))

READ_THE_STACK = (
    "test_validation_functions_routing",
    "test_learning_curve_exploit_incremental_learning_routing",
)
all_estimators, global_random_seed = scikit_learn_tests.fixtures(*READ_THE_STACK)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
