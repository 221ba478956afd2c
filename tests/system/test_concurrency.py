"""Many trainings at once, in threads and processes of every kind: the right bits, and no deadlock.

The scenarios run in processes of their own under a watchdog, since a deadlock cannot be interrupted.
"""

import errno
import functools
import gc
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import threadpoolctl
from support import needs, pages
from support.processes import python
from support.selection import campaign, matrix

from fastmlp import backend, kernels
from fastmlp.kernels.jit import entries, store
from fastmlp.kernels.variant import Variant
from fastmlp.system import budget, forks, private_files
from fastmlp.system.budget import blas_threads

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds


PREPARED = """
import os, sys, threading
import numpy as np
import fastmlp
from fastmlp import Callback, Network

backend = sys.argv[1]
rng = np.random.default_rng(0)
X, y = rng.standard_normal((300, 65)), rng.integers(0, 10, 300)
NETWORK = Network([65, 129, 66, 10], output="softmax", loss="cross_entropy", dropout=0.1)

PREDICTED = {}

def outcome(seed, threads=2, **options):
    model = fastmlp.fit(
        NETWORK, X, y, epochs=2, batch_size=128, seed=seed, threads=threads, backend=backend, **options
    )
    # Prediction has no budget: beside others the BLAS may sum it on one thread or on two.
    expected = PREDICTED.setdefault(seed, model.predict(X))
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-12)
    return model.parameters.tobytes()

def blas():
    import threadpoolctl
    return [p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]

def at_once(count, do):
    found = [None] * count
    def work(place):
        found[place] = do(place)
    threads = [threading.Thread(target=work, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found

import threadpoolctl
# OpenBLAS sums in another order on two threads.
threadpoolctl.threadpool_limits(1, user_api="blas")
EXPECTED = [outcome(seed, 1) for seed in range(8)]
"""

SCENARIOS = {
    "threads": """
found = at_once(8, lambda seed: [outcome(seed, 1) for _ in range(3)])
assert all(one == EXPECTED[seed] for seed in range(8) for one in found[seed])
""",
    "threads that are cold": """
import fastmlp.kernels.runtime.adapter, fastmlp.backend.registry
fastmlp.backend.registry.shipped_backend.cache_clear()
assert at_once(8, lambda seed: outcome(seed, 1)) == EXPECTED
""",
    "threads with workers of their own": """
if backend != "reference":
    assert at_once(4, lambda seed: outcome(seed, 8)) == EXPECTED[:4]
""",
    "a callback": """
threadpoolctl.threadpool_limits(2, user_api="blas")
class Inner(Callback):
    def on_epoch_end(self, run):
        assert outcome(3, 1) == EXPECTED[3]
        assert set(blas()) == {1}, blas()
assert outcome(0, 1, callbacks=[Inner()]) == EXPECTED[0]
assert set(blas()) == {2}, blas()
""",
    "a fork": """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside the BLAS's threads
children = []
for seed in range(3):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if outcome(seed, 1) == EXPECTED[seed] else 1)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
assert outcome(5, 1) == EXPECTED[5]
""",
    "a fork while another thread sets the BLAS": """
import time, warnings
from fastmlp.system import budget
warnings.simplefilter("ignore", DeprecationWarning)
taken = threading.Event()
def hold():
    with budget.lock:
        taken.set()
        time.sleep(0.5)
holder = threading.Thread(target=hold)
holder.start()
taken.wait()
pid = os.fork()
if pid == 0:
    os._exit(0 if outcome(1, 1) == EXPECTED[1] else 1)
assert os.waitpid(pid, 0)[1] == 0
holder.join()
""",
    "joblib's threads": """
import joblib
assert joblib.Parallel(8, backend="threading")(joblib.delayed(outcome)(s, 1) for s in range(8)) == EXPECTED
""",
    "joblib's processes": """
import joblib
assert joblib.Parallel(4, backend="loky")(joblib.delayed(outcome)(s, 1) for s in range(8)) == EXPECTED
""",
}


HERE = [name for name in SCENARIOS if hasattr(os, "fork") or not name.startswith("a fork")]
"""Those that this system can play."""


def check(backend, scenarios):
    """Play scenarios one after another in a process."""
    alone = 'threadpoolctl.threadpool_limits(1, user_api="blas")'
    played = [f"print({name!r}, flush=True)\n{alone}\n{SCENARIOS[name]}" for name in scenarios]
    command = [sys.executable, "-X", "faulthandler", "-c", "\n".join([PREPARED, *played]), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said, errors = process.communicate(timeout=needs.PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            said, errors = process.communicate()
    assert process.returncode == 0, f"{backend}, {said.splitlines()[-1:]}: {errors}"


@pytest.mark.slow  # a process, 8 s
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_trainings_at_once_compute_what_they_compute_alone(backend):
    check(backend, HERE)


@campaign  # those that begin a process; above they follow each other
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("scenario", HERE)
def test_a_scenario_in_a_process_of_its_own(scenario, backend):
    check(backend, [scenario])


FORKS = """
import os, threading, warnings
import numpy as np
import fastmlp

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside other threads
X, y = np.ones((100_000, 10)), np.zeros(100_000)
# Little to compute and much to check: most of the time goes to the numbers of X.
model = fastmlp.fit(fastmlp.Network([10, 1]), X, y, epochs=0, backend="baseline")
over = threading.Event()

def predict():
    while not over.is_set():
        model.predict(X)

other = threading.Thread(target=predict, daemon=True)
other.start()
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
over.set()
other.join(80)
os._exit(other.is_alive())
"""


@pytest.mark.slow  # a process, 3 s
@needs.forks
def test_a_fork_while_another_thread_computes_leaves_that_thread_running():
    python("-X", "faulthandler", "-c", FORKS, OPENBLAS_NUM_THREADS="2")


IMPORTING = """
import os, signal, sys, threading, time
import numpy as np
import fastmlp

module, = sys.argv[1:]
begun = threading.Event()

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            begun.set()
            time.sleep(0.3)

def fit():
    fastmlp.fit(fastmlp.Network([2, 1]), np.ones((4, 2)), np.ones(4), epochs=1, backend="reference")

sys.meta_path.insert(0, Slow())
other = threading.Thread(target=fit)
other.start()
begun.wait()
pid = os.fork()
if pid == 0:
    signal.alarm(80)  # before the watchdog
    fit()
    os._exit(0)
other.join()
sys.exit(os.waitpid(pid, 0)[1])
"""


@pytest.mark.slow  # a process each
@needs.forks
@pytest.mark.parametrize("module", ["fastmlp.training.preparation", "fastmlp.backend.reference", "llvmlite"])
def test_a_fork_waits_for_what_another_thread_imports(module):
    python("-W", "ignore::DeprecationWarning", "-c", IMPORTING, module)


def test_the_blas_is_given_back_when_the_last_of_several_trainings_ends():
    def blas():
        return {p["num_threads"] for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"}

    # a thread for each, which lives on: threadpoolctl leaves OpenBLAS to the first thread until it ends
    with threadpoolctl.threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(1) as one:
        first, second = blas_threads(1), blas_threads(1)
        one.submit(first.__enter__).result()
        assert blas() == {1}, "not limited"
        second.__enter__()
        one.submit(first.__exit__, None, None, None).result()
        assert blas() == {1}, "given back while somebody still trains"
        second.__exit__(None, None, None)
        assert blas() == {2}, "not given back"


def test_where_each_thread_has_its_own_number_it_is_given_back_its_own(monkeypatch):
    # scikit-learn brings an OpenMP, whose numbers are those of an OpenBLAS that is built with it
    from sklearn.utils import _openmp_helpers  # noqa: F401

    found = threadpoolctl.ThreadpoolController().select(internal_api="openmp").lib_controllers
    assert found
    library = found[0]
    monkeypatch.setattr(budget, "blas_libraries", lambda modules: [library])
    before = library.num_threads
    try:
        with ThreadPoolExecutor(1) as one:
            one.submit(library.set_num_threads, 3).result()
            library.set_num_threads(4)
            own = one.submit(lambda: library.num_threads).result()  # 4 where all threads have one number
            first, second = blas_threads(1), blas_threads(2)
            first.__enter__()
            one.submit(second.__enter__).result()
            first.__exit__(None, None, None)
            here = library.num_threads
            there = one.submit(lambda: library.num_threads).result()
            one.submit(second.__exit__, None, None, None).result()
            assert (here, there) == ((4, 2) if own == 3 else (2, 2))
            assert (library.num_threads, one.submit(lambda: library.num_threads).result()) == (4, own)
    finally:
        library.set_num_threads(before)


def test_a_fork_waits_for_every_lock_that_a_module_has():
    """Or the new process would find it locked for ever."""
    found = [
        (path.name, name, f"wait_for({name}" in path.read_text())
        for path in sorted((pages.ROOT / "fastmlp").rglob("*.py"))
        for name in re.findall(r"^(\w+) = threading\.R?Lock\(\)", path.read_text(), re.MULTILINE)
    ]
    assert len(found) > 3
    assert [lock for lock in found if not lock[2]] == []


@needs.locks
def test_a_lock_is_waited_for_in_vain_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(store, "MOST_PATIENCE", 0.3)

    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(private_files, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))

    def waited():
        before = len(pauses)
        with store.only_one("piece", "key"):
            return len(pauses) > before

    with store.only_one("piece", "key"):  # a holder that is stopped; to the system each descriptor is another
        assert [waited(), waited()] == [True, False]
    assert not waited()
    with store.only_one("piece", "key"):
        assert waited(), "it has been free since"


@needs.locks
def test_nobody_waits_for_locks_that_a_file_system_has_not(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))

    def flock(descriptor, how):
        raise OSError(errno.ENOSYS, "Function not implemented")  # Lustre without -o flock

    monkeypatch.setattr(private_files.fcntl, "flock", flock)
    opened = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    began = time.monotonic()
    with store.only_one("piece", "key"):
        pass
    assert time.monotonic() - began < store.MOST_PATIENCE / 2
    assert opened is None or len(os.listdir("/proc/self/fd")) == opened


COLLECTED = """
import gc
import sklearn.neural_network
import fastmlp

collections = []
gc.callbacks.append(lambda phase, about: collections.append(about))
fastmlp.MLPClassifier
print(len(collections), gc.isenabled())
"""


@matrix
def test_imports_do_not_wait_for_the_garbage_collector():
    count, enabled = python("-c", COLLECTED).stdout.split()
    assert enabled == "True"
    assert int(count) <= 4, "as many as follow one another when it is switched on again"  # else 80


def test_a_collector_that_is_off_stays_off():
    gc.disable()
    try:
        with forks.collector_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


FORKED_MEANWHILE = """
import gc, os, threading, warnings
import fastmlp
from fastmlp.system import forks

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside other threads
inside, over = threading.Event(), threading.Event()

def work():
    with forks.collector_off():
        inside.set()
        over.wait()

other = threading.Thread(target=work)
other.start()
inside.wait()
assert not gc.isenabled()
child = os.fork()
if child == 0:
    os._exit(0 if gc.isenabled() else 1)
over.set()
other.join()
print(gc.isenabled(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs.forks
def test_a_new_process_has_the_collector_that_another_thread_has_switched_off():
    assert python("-c", FORKED_MEANWHILE).stdout.split() == ["True", "0"]


ONCE = """
import threading, time
from fastmlp.backend import registry
from fastmlp.kernels.jit import engine, store
from fastmlp.kernels.runtime import adapter

made = []

def slow(make):
    def slowed(*given):
        found = make(*given)
        made.append(found)  # which others of it keep alive from here on: what two threads make differs
        time.sleep(0.05)
        return found
    return slowed

engine.Engine = slow(engine.Engine)
adapter.compiled_backend = slow(adapter.compiled_backend)

ALL = {
    "pieces": engine.common, "each": engine.each, "backend": lambda: registry.shipped_backend("baseline"),
    "entries": lambda: registry._built_in_entries("fused"),
}
barrier, found = threading.Barrier(8), {name: [] for name in ALL}

def take():
    for name, function in ALL.items():
        barrier.wait()
        found[name].append(function())

threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print({name: len({id(one) for one in ones}) for name, ones in found.items()}, len(made))
"""


def test_of_several_threads_one_makes_what_a_process_has_once():
    names = ("pieces", "each", "backend", "entries")
    assert python("-c", ONCE).stdout == f"{dict.fromkeys(names, 1)} 3\n"


def test_what_owns_machine_code_is_kept_by_no_cache_that_threads_share_without_a_lock():
    kept = []
    for package in (kernels, backend):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for function in vars(importlib.import_module(info.name)).values():
                if isinstance(function, functools._lru_cache_wrapper):
                    kept.append(
                        (function.__qualname__, str(function.__wrapped__.__annotations__.get("return")))
                    )
    assert len(kept) > 20
    owners = ("Engine", "Entry", "Entries", "Backend", "Names", "Spent")
    assert [name for name, made in kept if made in owners] == []


def at_once(function):
    """What a function returns to each of four threads that call it at the same time."""
    barrier, found = threading.Barrier(4), []

    def call():
        barrier.wait()
        found.append(function())

    with ThreadPoolExecutor(4) as threads:
        for called in [threads.submit(call) for _ in range(4)]:
            called.result()
    return found


def test_threads_that_need_one_entry_point_compile_it_once(monkeypatch):
    made = []

    def compiled(dtype):
        made.append(dtype)
        time.sleep(0.05)
        return object()

    source = SimpleNamespace(compiled=compiled)
    monkeypatch.setattr(entries, "entry_of", lambda name, dtype, compile_code: compile_code())
    program = entries.Entries(Variant("mine"), "mine~", lambda: SimpleNamespace(source=lambda _: source))
    assert len({*at_once(lambda: program.get("predict", "float32"))}) == len(made) == 1


COLD = """
import hashlib, threading
import numpy as np
import fastmlp
from fastmlp import AdamW, Categories, Dense, Head, LayerNorm, Network, Numbers, Periodic, Residual

network = Network(
    inputs=[Numbers(3, Periodic(width=4)), Categories([2, 5], width=3)],
    layers=[Dense(24, "silu"), Residual(LayerNorm(), Dense(24, "silu"), Dense(24))],
    heads={"number": Head(1, loss="huber"), "class": Head(2, loss="cross_entropy", weight=0.3)},
)
rng = np.random.default_rng(0)
numbers, codes = rng.normal(size=(120, 3)), rng.integers(0, [2, 5], (120, 2))
X, y = [numbers, codes], {"number": numbers[:, 0], "class": codes[:, 0]}
options = {"optimizer": AdamW(0.01), "epochs": 3, "seed": 0, "progress": False}
barrier, found = threading.Barrier(5), []

def train():
    barrier.wait()
    models = [fastmlp.fit(network, X, y, **options), *fastmlp.fit_many(network, X, y, n_models=3, **options)]
    found.append(b"".join(model.parameters.tobytes() for model in models))

threads = [threading.Thread(target=train) for _ in range(5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 5 and len({*found}) == 1
print(hashlib.sha256(found[0]).hexdigest())
"""


@campaign  # a minute each
@pytest.mark.parametrize("turn", range(30))
def test_threads_of_several_processes_train_on_one_cold_cache(turn, tmp_path):
    """As a pool of workers on a new machine."""
    environment = {**os.environ, "FASTMLP_CACHE_DIR": str(tmp_path)}
    command, pipe = [sys.executable, "-X", "faulthandler", "-c", COLD], subprocess.PIPE
    processes = [
        subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) for _ in range(5)
    ]
    try:
        ended = [process.communicate(timeout=needs.PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0] * 5, "\n".join(errors for _, errors in ended)
    assert len({digest for digest, _ in ended}) == 1
