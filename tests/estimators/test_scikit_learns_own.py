"""scikit-learn's own tests of its estimators, from the installed copy, run on ours."""

from pathlib import Path

import pytest
import sklearn
from sklearn.neural_network import tests as theirs
from support.selection import matrix

SOURCE = Path(theirs.__path__[0], "test_mlp.py").read_text(encoding="utf-8")
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
assert IMPORT in SOURCE, f"scikit-learn {sklearn.__version__} imports its estimators another way"

exec(compile(SOURCE.replace(IMPORT, "from fastmlp import MLPClassifier, MLPRegressor"), __file__, "exec"))

# These two call private methods to look at a gradient; tests/model/test_gradients.py looks at ours.
del test_fit, test_gradient  # noqa: F821

LONGER = """
warm_start lbfgs_regression lbfgs_classification lbfgs_classification_maxfun mlp_warm_start_no_convergence
multioutput_regression multilabel_classification predict_proba_multilabel mlp_vs_poisson_glm_equivalent
"""
"""Those that take most of the time, for what our own tests of estimators say as well."""

for name in LONGER.split():
    matrix(globals()[f"test_{name}"])

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def global_random_seed():
    return 42
