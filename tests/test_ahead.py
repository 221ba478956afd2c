"""`fastmlp warmup` compiles all that later processes would: they compile nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from fastmlp.backend import registry
from fastmlp.cli import ahead

pytestmark = pytest.mark.xdist_group("ahead")  # they compile the same

FITS = """
import sys
import numpy as np
import scipy.sparse
from numba.core import event
import fastmlp

backend, *dtypes = sys.argv[1:]
# Works for which auto takes one backend after another, the last with a layer beyond L2.
works = [((3, 4, 1), 5, 1), ((6, 40, 3), 64, 2), ((300, 200, 10), 200, 1), ((600, 700, 2), 130, 2)]
with event.install_recorder("numba:compile") as recorder:
    for dtype in dtypes:
        for sizes, rows, threads in works:
            X, y = np.ones((rows, sizes[0]), dtype), np.ones((rows, sizes[-1]))
            options = {"epochs": 1, "batch_size": None, "validation": (X, y), "threads": threads}
            model = fastmlp.fit(fastmlp.Network(sizes), X, y, backend=backend, progress=False, **options)
            model.predict(X)
            sparse = scipy.sparse.csr_array(X)
            fastmlp.fit(fastmlp.Network(sizes), sparse, y, backend=backend, progress=False, **options)
            model.predict(sparse)
            print(model.backend)
assert not recorder.buffer, [ev.data["dispatcher"] for _, ev in recorder.buffer]
"""


def run(*command, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


LOADED = "was there already, loaded in"


def told(done):
    """What a warmup says of every program: {(backend, dtype, use): how it came about}."""
    lines = [re.fullmatch(r"(\w+) +(\w+) +(\w+) +(.*) \d+\.\d s", line) for line in done.stdout.splitlines()]
    return {line.groups()[:3]: line[4] for line in lines}


@pytest.mark.slow
def test_a_later_process_compiles_nothing_and_a_second_warmup_says_so(tmp_path):
    cache = {"FASTMLP_CACHE_DIR": str(tmp_path)}
    command = ["-m", "fastmlp", "warmup", "--backend", "baseline", "--dtype", "float32"]
    for how in ("compiled in", LOADED):
        uses = ("training", "prediction", "validation")
        assert told(run(*command, **cache)) == {("baseline", "float32", use): how for use in uses}
    assert run("-c", FITS, "baseline", "float32", **cache).stderr == ""


@pytest.mark.matrix  # 16 s
@pytest.mark.parametrize(("backend", "dtype"), [("fused", "float32")])
def test_what_a_backend_needs_is_compiled_ahead(backend, dtype):
    """In the cache that the tests share, where some of it is already."""
    command = ["-m", "fastmlp", "warmup", "--backend", backend, "--dtype", dtype]
    assert {key[:2] for key in told(run(*command))} == {(backend, dtype)}
    run("-c", FITS, backend, dtype)


@pytest.mark.matrix
def test_the_default_is_all_that_auto_may_need():
    first, again = (told(run("-m", "fastmlp", "warmup")) for _ in range(2))
    assert set(first.values()) <= {"compiled in", LOADED}
    assert again == dict.fromkeys(first, LOADED)
    taken = run("-c", FITS, "auto", "float32", "float64").stdout.split()
    assert set(taken) <= set(ahead.choices_of_auto())
    assert len(set(taken)) > 2, "the works are meant to make auto choose differently"


def test_a_program_for_each_network_is_not_compiled_ahead():
    names = [name for name, variant in registry.variants().items() if variant.specialize is not None]
    found = [(ready.backend, ready.use) for ready in ahead.compile_ahead(names, ["float32"])]
    assert found == [(name, use) for name in names for use in ("prediction", "validation")]
