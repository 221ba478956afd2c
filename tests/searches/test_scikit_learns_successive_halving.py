"""scikit-learn's own tests of this module, all within the block in which networks train together."""

import pytest
from support import scikit_learn_tests

exec(scikit_learn_tests.code("test_successive_halving"))

within_the_block, global_random_seed = scikit_learn_tests.fixtures()
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
