"""scikit-learn's own tests of this module, with our names, and all tasks on our backend of joblib's."""

import pytest
from support import scikit_learn_tests

NAMES = ("HalvingGridSearchCV", "HalvingRandomSearchCV")
exec(scikit_learn_tests.code("test_successive_halving", *NAMES))

all_estimators, global_random_seed = scikit_learn_tests.fixtures()
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
