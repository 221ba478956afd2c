"""scikit-learn's own tests of this module, with our names, and all tasks on our backend of joblib's."""

import pytest
from support import scikit_learn_tests

NAMES = ("GridSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV", "RandomizedSearchCV")
exec(scikit_learn_tests.code("test_search", *NAMES))

all_estimators, global_random_seed = scikit_learn_tests.fixtures("test_multi_metric_search_forwards_metadata")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
