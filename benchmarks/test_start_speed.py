"""What a process pays before the first step: imports, loading from the disk cache, compiling.

Every round is a process of its own, timed from its start to its end.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import fastmlp
from benchmarks.processes import environment
from benchmarks.share import in_words

FIT = """
import sys
import numpy as np
import fastmlp
X = np.arange(128.0, dtype=np.float32).reshape(32, 4) / 128
network = fastmlp.Network([4, 8, 1])
model = fastmlp.fit(network, X, X[:, 0], epochs=2, seed=0, backend=sys.argv[1], progress=False)
print(repr(model.history["loss"][-1]))
"""

IMPORTS = {
    "numpy": "import numpy",
    "numpy and fastmlp": "import numpy, fastmlp; fastmlp.fit, fastmlp.Network, fastmlp.Adam",
}
"""fastmlp loads a module when its first name is touched."""


def run(script, *arguments, cache=None):
    """Run a script in a new process on one thread, machine code kept at `cache`; return what it printed."""
    variables = environment(threads=1) | ({} if cache is None else {"FASTMLP_CACHE_DIR": str(cache)})
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """A function that returns each backend's own cache directory, filled by whoever fits first."""
    run("import numba, scipy.linalg.cython_blas, scipy.special")  # the first would read them from the disk
    made = {}
    return lambda backend: made.setdefault(backend, tmp_path_factory.mktemp(backend))


def machine_code(cache):
    return {*cache.rglob("*.bin")}


def check(loss):
    X = np.arange(128.0, dtype=np.float32).reshape(32, 4) / 128
    network = fastmlp.Network([4, 8, 1])
    model = fastmlp.fit(network, X, X[:, 0], epochs=2, seed=0, backend="reference", progress=False)
    # Two steps of a float32 network with dot products over at most 32 terms.
    assert float(loss) == pytest.approx(model.history["loss"][-1], rel=8 * 1.2e-7 * np.sqrt(2 * 32))


@pytest.mark.parametrize("what", IMPORTS)
def test_import(benchmark, what):
    benchmark.group = f"start: import, {in_words(1)}"
    benchmark.pedantic(run, (IMPORTS[what],), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("backend", fastmlp.backends()[1:])
def test_first_fit_cold(benchmark, caches, backend):
    benchmark.group = f"start: first fit, nothing compiled yet, {in_words(1)}"
    before = machine_code(caches(backend))
    check(benchmark.pedantic(run, (FIT, backend), {"cache": caches(backend)}, rounds=1))
    assert machine_code(caches(backend)) > before


@pytest.mark.parametrize("backend", fastmlp.backends())
def test_first_fit_warm(benchmark, caches, backend):
    if not any(caches(backend).iterdir()):
        run(FIT, backend, cache=caches(backend))
    before = machine_code(caches(backend))
    check(run(FIT, backend, cache=caches(backend)))
    assert machine_code(caches(backend)) == before
    benchmark.group = f"start: first fit, from the disk cache, {in_words(1)}"
    benchmark.pedantic(run, (FIT, backend), {"cache": caches(backend)}, rounds=5)
