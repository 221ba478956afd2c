"""A process that finds its machine code on the disk loads no compiler: neither Numba nor SciPy's BLAS."""

import re

import pytest
from support.processes import python

from fastmlp.kernels import estimates

BLAS = "scipy.linalg", "scipy.optimize", "scipy.special"

FIT = """
import sys
import numpy as np
import fastmlp
from fastmlp.kernels.jit import engine

X = np.random.default_rng(0).random((64, 6))
y = (X[:, 0] > 0.5).astype(float)
network = fastmlp.Network([6, 8, 1], output="sigmoid", loss="binary_cross_entropy", dropout=0.1)
callbacks = [fastmlp.EarlyStopping(patience=3)]
for backend in sys.argv[1:]:
    for more in ({"validation": 0.25, "callbacks": callbacks}, {"batch_size": None, "threads": 2}):
        model = fastmlp.fit(network, X, y, epochs=2, seed=0, progress=False, backend=backend, **more)
        model.predict(X)
print(engine.compiled)
print(sorted(sys.modules))
"""

ESTIMATORS = """
import sys, warnings
import numpy as np
import scipy.sparse
import fastmlp
from fastmlp.kernels.jit import engine

warnings.simplefilter("ignore")  # that two epochs are few
X = np.random.default_rng(0).random((64, 6))
y = (X[:, 0] > 0.5).astype(int)
for estimator in (fastmlp.MLPClassifier, fastmlp.MLPRegressor):
    for more in ({}, {"early_stopping": True}, {"solver": "sgd"}, {"solver": "lbfgs"}):
        model = estimator(hidden_layer_sizes=(8,), max_iter=2, random_state=0, **more).fit(X, y)
        model.predict(X), model.score(X, y)
    model = estimator(hidden_layer_sizes=(8,), random_state=0)
    for _ in range(2):
        model.partial_fit(X, y, **({"classes": [0, 1]} if estimator is fastmlp.MLPClassifier else {}))
    estimator(hidden_layer_sizes=(8,), max_iter=2).fit(scipy.sparse.csr_array(X), y)
print(engine.compiled)
print(sorted(sys.modules))
"""


def loaded(*command):
    """The modules of a process that finds all its machine code on the disk, where an earlier one left it."""
    python(*command)  # compiles what no other test has
    warm = python(*command)
    assert warm.stderr == ""
    compiled, modules = warm.stdout.splitlines()[-2:]
    assert compiled == "[]"
    return {*re.findall(r"'([^']+)'", modules)}


FIRST = """
import sys
import numpy as np
import fastmlp
from fastmlp.kernels.jit import engine

X, y = np.random.default_rng(0).random((200, 64), np.float32), np.arange(200) % 10
{}
print(engine.compiled)
print(sorted(sys.modules))
"""

OF_A_NETWORK = """
network = fastmlp.Network([64, 128, 10], hidden="relu", output="softmax", loss="cross_entropy")
model = fastmlp.fit(network, X, y, optimizer=fastmlp.Adam(0.002), epochs=20, seed=0, progress=False)
model.predict(X)
"""

OF_AN_ESTIMATOR = "fastmlp.MLPClassifier(random_state=0).fit(X, y).predict(X)"


@pytest.mark.parametrize(
    ("first", "most", "others"),
    [
        (OF_A_NETWORK, 92, {"numba", "scipy", "sklearn", "tqdm"}),
        pytest.param(OF_AN_ESTIMATOR, 97, {"numba"}, marks=pytest.mark.slow),  # processes, 5 s
    ],
)
def test_a_first_fit_imports_what_it_calls(first, most, others):
    modules = loaded("-W", "ignore", "-c", FIRST.format(first))
    own = {name for name in modules if name.startswith("fastmlp")}
    # Half of the time of a first fit is spent on imports. Thirteen of its files only make a folder a package.
    assert len(own) <= most, sorted(own)
    assert not others & modules


OWN = ["baseline", "tiled", "fused", "specialized", "auto"]


@pytest.mark.slow  # compiles six backends
def test_no_backend_of_ours_loads_the_compiler():
    assert {*OWN} == {*estimates.BUILT_IN} - {"blas"} | {"auto"}
    modules = loaded("-c", FIT, *OWN)
    assert "llvmlite" in modules
    assert not {"numba", "scipy", "sklearn", "tqdm", *BLAS} & modules


@pytest.mark.slow  # processes, 5 s
def test_a_first_training_loads_no_compiler():
    modules = loaded("-c", FIT, "fused")
    assert not {"numba", "scipy", "sklearn", "tqdm"} & modules


@pytest.mark.slow  # a process that compiles, 12 s
def test_estimators_load_no_compiler():
    assert "numba" not in loaded("-c", ESTIMATORS)


@pytest.mark.slow  # two processes, 3 s
def test_estimators_import_what_scikit_learn_s_import_and_nothing_else():
    def imported(package):
        code = f"from {package} import MLPClassifier, MLPRegressor; import sys; print(*sys.modules)"
        return {name for name in python("-c", code).stdout.split() if name.partition(".")[0] != "fastmlp"}

    assert imported("fastmlp") - imported("sklearn.neural_network") <= {"fractions"}


@pytest.mark.slow  # a process, 2 s
def test_the_command_line_loads_no_compiler():
    command = "import sys; from fastmlp.cli.main import main; from fastmlp.kernels.jit import engine\n"
    command += "main(sys.argv[1:]); print(engine.compiled); print(sorted(sys.modules))"
    train = ("train", "digits", "--epochs", "2", "--quiet")
    assert "numba" not in loaded("-c", command, *train)
    assert "'numba'" not in python("-c", command, "cache").stdout
