"""scikit-learn's own tests of this module, all within the block in which networks train together."""

import pytest
from support import scikit_learn_tests

exec(scikit_learn_tests.code("test_validation"))

READ_THE_STACK = (
    "test_validation_functions_routing",
    "test_learning_curve_exploit_incremental_learning_routing",
)
within_the_block, global_random_seed = scikit_learn_tests.fixtures(*READ_THE_STACK)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
