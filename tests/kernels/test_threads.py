"""Any number of workers computes the same bits."""

from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import threadpoolctl
from joblib.externals.loky.backend import context as loky
from support import needs
from support.callbacks import calling
from support.differences import differences
from support.problems import COMPILED_DTYPES
from support.processes import python
from support.selection import crossed, few

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.variant import Work
from fastmlp.system import budget

OF_SEVERAL_WORKERS = [name for name, variant in registry.variants().items() if variant.workers is not None]
"""The others compute in one thread; what a BLAS below them does with its own is its affair."""

TRAININGS = {
    "adam, dropout": ({"hidden": ["gelu", "relu"], "dropout": 0.2}, fastmlp.Adam(0.01)),
    "sgd": ({"hidden": "relu"}, fastmlp.SGD(0.05)),
    "clipping, penalties": (
        {"hidden": "tanh", "l1": 1e-4, "l2": 1e-3},
        fastmlp.SGD(0.05, 0.9, clip_norm=0.1),
    ),
}


@crossed(backend=OF_SEVERAL_WORKERS, name=list(TRAININGS), dtype=COMPILED_DTYPES)
def test_one_worker_or_several_compute_the_same_bits(backend, name, dtype):
    options, optimizer = TRAININGS[name]
    rng = np.random.default_rng(0)
    # Large enough that every variant finds work for three, the last batch excepted.
    X, y = rng.standard_normal((300, 65)).astype(dtype), rng.integers(0, 10, 300)
    network = fastmlp.Network([65, 129, 66, 10], output="softmax", loss="cross_entropy", **options)
    given = {"optimizer": optimizer, "epochs": 2, "batch_size": 128, "seed": 0, "backend": backend}
    one, *others = (fastmlp.fit(network, X, y, threads=threads, **given) for threads in (1, 2, 3))
    for threads, other in enumerate(others, 2):
        said = differences(network.widths, other.parameters, one.parameters)
        assert not said, f"{backend}: {threads} threads are not as one: {said}"
        assert other.history == one.history


@pytest.fixture
def machine(monkeypatch):
    """Return machine(name=value), by which the machine has so many cores, or so much of them."""

    def changed(**given):
        for name, value in given.items():
            monkeypatch.setattr(budget, name, lambda value=value: value)

    return changed


def threads_of(threads=None):
    return Work.of(fastmlp.Network([784, 128, 10]), fastmlp.SGD(0.1), 128, np.dtype("f4"), threads).threads


@pytest.mark.parametrize(
    ("numba", "openmp", "threads"),
    [
        *[("2", "1", 2), ("", "3", 3), ("", "3,1", 3), ("0", "1", 1), ("what", "ever", 8), ("99", "", 8)],
        pytest.param("9" * 5000, "1", 8, id="more digits than int takes"),
        pytest.param("", "0" * 5000 + "3", 3, id="as many zeros before a digit"),
        pytest.param("²", "٣", 8, id="digits of other scripts"),
    ],
)
def test_the_environment_bounds_the_threads_of_a_process(numba, openmp, threads, monkeypatch, machine):
    """joblib sets both variables in its processes, Dask and Ray the second."""
    machine(cores=8)
    monkeypatch.setenv("NUMBA_NUM_THREADS", numba)
    monkeypatch.setenv("OMP_NUM_THREADS", openmp)
    assert threads_of() == threads
    assert threads_of(5) == 5


def test_trainings_of_one_process_share_its_cores(machine):
    """As those of a thread pool, and of a Dask worker with several threads."""
    machine(usable_cores=8)
    seen = []

    def fit(deeper):
        """Train, and within the epoch's end another time, as deep as is said."""
        X = np.ones((3, 2))
        callbacks = [calling(on_epoch_end=lambda run: seen.append(threads_of()) or fit(deeper - 1))]
        options = {"epochs": 1, "backend": "reference", "callbacks": callbacks if deeper else []}
        fastmlp.fit(fastmlp.Network([2, 1]), X, X[:, 0], **options)

    fit(3)
    assert seen == [8, 4, 2]
    with pytest.raises(ZeroDivisionError), budget.training():
        1 / 0  # noqa: B018
    assert threads_of() == 8


@needs.forks
def test_a_new_process_has_its_cores_to_itself():
    code = """
import os, threading
from fastmlp.system import budget

budget.usable_cores = lambda: 8
begun, over = threading.Event(), threading.Event()

def train():
    with budget.training():
        begun.set()
        over.wait()

other = threading.Thread(target=train)
other.start()
begun.wait()
with budget.training():
    assert budget.available_cores() == 4
    child = os.fork()
    if child == 0:
        os._exit(budget.available_cores())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
"""
    assert python("-W", "ignore::DeprecationWarning", "-c", code).stdout == "8\n"


def quota(most, period=100000):
    return {"cpu.max": f"{most} {period}"}


def quota_1(most, folder="cpu/"):
    return {f"{folder}cpu.cfs_quota_us": f"{most}", f"{folder}cpu.cfs_period_us": "100000"}


CONTAINERS = {
    # what stands in /sys/fs/cgroup, what in /proc/self/cgroup, cores
    "half a core": (quota(50000), "0::/", 1),
    "a core and a half": (quota(150000), "0::/", 2),
    "three cores": (quota(300000), "0::/", 3),
    "no bound": (quota("max"), "0::/", 64),
    "the root of a machine": ({}, "0::/", 64),
    "version 1": (quota_1(50000), "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/", 1),
    "version 1, no bound": (quota_1(-1), "1:cpu:/\n0::/", 64),
}

SLICES = {"a.slice/cpu.max": "150000 100000", "a.slice/b.scope/cpu.max": "max 100000"}

SERVICES = {
    "a service": ({"system.slice/a.service/cpu.max": "50000 100000"}, "0::/system.slice/a.service", 1),
    "a slice's bound": (SLICES, "0::/a.slice/b.scope", 2),
    "a slice of version 1": (quota_1(200000, "cpu/a/"), "7:name=systemd:/a\n6:cpuset:/\n5:cpu:/a/b", 2),
    "of another namespace": (quota(50000), "0::/../../elsewhere", 1),
    "nothing that is a quota": (quota("what", "now"), "0::/", 64),
}


@pytest.mark.parametrize("name", [*CONTAINERS, *SERVICES])
def test_a_quota_of_the_cgroups_bounds_the_cores(name, tmp_path, monkeypatch, machine):
    files, membership, cores = {**CONTAINERS, **SERVICES}[name]
    mounted, groups = tmp_path / "mounted", tmp_path / "membership"
    groups.write_text(membership + "\n")
    for place, text in files.items():
        (mounted / place).parent.mkdir(parents=True, exist_ok=True)
        (mounted / place).write_text(text + "\n")
    machine(quota=budget.quota(mounted, groups), allowed_cores=64)
    assert budget.cores() == cores
    if name in CONTAINERS:  # joblib looks at no group but the root

        def there(path):
            return Path(path.replace("/sys/fs/cgroup", str(mounted)))

        def opened(path):
            return there(path).open()

        exists = SimpleNamespace(exists=lambda path: there(path).exists())
        monkeypatch.setattr(loky, "os", SimpleNamespace(path=exists))
        monkeypatch.setattr(loky, "open", opened, raising=False)
        assert loky._cpu_count_cgroup(64) == cores


@pytest.mark.slow  # a process, 1 s
def test_the_cores_of_this_process_are_those_that_joblib_counts():
    code = """
import math, os
import joblib
from fastmlp.system import budget
print(budget.cores() == math.ceil(min(joblib.cpu_count(), budget.quota())))
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    assert budget.cores() == 1
print(budget.cores() == joblib.cpu_count())
"""
    assert python("-c", code, LOKY_MAX_CPU_COUNT=None).stdout.split() == ["True", "True"]


def blas():
    """How many threads the libraries of linear algebra may take."""
    return {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"}


def test_a_training_takes_no_more_threads_than_the_quota(monkeypatch, machine):
    seen = []
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 4)
    network, large = fastmlp.Network([2, 1]), fastmlp.Network([784, 128, 10])
    for quota, others, cores, held in ((0.5, 2, 1, 1), (2.5, 1, 3, 1), (float("inf"), 2, 4, 2)):
        machine(quota=quota, allowed_cores=4)
        assert Work.of(large, fastmlp.SGD(0.1), 128, np.dtype(np.float32), None).threads == cores
        with threadpoolctl.threadpool_limits(others, user_api="blas"):
            watch = calling(on_epoch_end=lambda run: seen.append(blas()))
            options = {"epochs": 1, "backend": "reference", "callbacks": [watch], "progress": False}
            fastmlp.fit(network, np.ones((3, 2)), np.ones(3), **options)
            assert (seen.pop(), blas()) == ({held}, {others})


def test_the_blas_is_never_given_more_than_somebody_else_has_set():
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        with budget.blas_threads(2):
            assert blas() == {1}
        assert blas() == {1}


def test_a_new_process_holds_no_blas_for_the_threads_that_it_does_not_have():
    budget.limits.append((-1, 1))  # another thread's training, when this one forks
    try:
        budget.forget_others()
        assert budget.limits == []
    finally:
        budget.limits.clear()


@pytest.mark.slow  # a process, 2 s
def test_a_blas_that_is_loaded_meanwhile_is_held_by_the_next_and_given_back():
    code = """
import numpy, sys
from threadpoolctl import threadpool_info
from fastmlp.system.budget import blas_threads
blas = lambda: [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
assert "scipy" not in sys.modules
with blas_threads(1):
    import scipy.linalg.cython_blas
    with blas_threads(2):
        print(*blas())
print(*blas())
"""
    held, after = python("-c", code, OPENBLAS_NUM_THREADS="2").stdout.splitlines()
    assert set(held.split()) == {"1"}
    assert set(after.split()) == {str(min(2, budget.cores()))}


@pytest.mark.parametrize("backend", few(registry.variants()))
def test_a_training_leaves_the_processor_treating_subnormals_as_before(backend):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((64, 3)), rng.standard_normal(64)
    smallest = np.float64(5e-324)
    fastmlp.fit(fastmlp.Network([3, 4, 1]), X, y, epochs=2, seed=0, backend=backend, threads=2)
    assert smallest * 2 > 0
    assert np.array([smallest])[0] + smallest > smallest


def test_a_worker_without_a_share_of_a_layer_of_few_inputs():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((1000, 4)), rng.standard_normal((1000, 300))
    network, rule = fastmlp.Network([4, 300, 300]), fastmlp.SGD(0.01)
    options = {"optimizer": rule, "epochs": 1, "batch_size": 500, "seed": 0, "backend": "fused"}
    alone, two = (fastmlp.fit(network, X, y, threads=threads, **options) for threads in (1, 2))
    np.testing.assert_array_equal(alone.parameters, two.parameters)


FIRST = """
import numpy as np, fastmlp, threadpoolctl

class Tell(fastmlp.Callback):
    def on_epoch_end(self, run):
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        print(sorted({pool["num_threads"] for pool in pools}), len({pool["filepath"] for pool in pools}))

X = np.ones((4, 3))
fastmlp.fit(fastmlp.Network([3, 1]), X, X[:, 0], epochs=1, backend="blas", threads=1, callbacks=[Tell()])
"""


@pytest.mark.slow  # a process, 2 s
def test_the_first_training_of_a_process_holds_every_blas():
    said = python("-c", FIRST).stdout
    assert said.split("] ")[0] == "[1", said
