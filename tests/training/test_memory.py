"""The most memory that a training takes besides its data: a bound in parameters, one batch, and rows.

Measured as the system sees it, in a process of its own: the growth of its largest resident size.
"""

import contextlib
import gc
import json
import signal
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import needs
from support.callbacks import calling
from support.noted import noted
from support.processes import importing, python
from support.selection import campaign, matrix

import fastmlp
from fastmlp.kernels.runtime.session import Idle
from fastmlp.kernels.runtime.workspace import SCRATCH_BYTES
from fastmlp.kernels.thresholds import BLOCK_ROWS
from fastmlp.model.layout import parameter_count
from fastmlp.training.loop import MAX_CHUNK_VISITS

pytest.importorskip("resource", reason="the system has no largest resident size")

PEAK = """
import resource, sys

def peak():
    # What getrusage tells of a process began, on Linux, with the largest size of the one that started it.
    if not sys.platform.startswith("linux"):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    with open("/proc/self/status") as file:
        (kilobytes,) = [line.split()[1] for line in file if line.startswith("VmHWM:")]
    return 1024 * int(kilobytes)
"""
"""The largest resident size of the process so far, in bytes."""

FIT = (
    PEAK
    + """
import json
import numpy as np
import fastmlp

sizes, rows, batch_size, epochs, dtype, loss, options, threads = json.loads(sys.argv[1])
kinds = {"output": "softmax" if loss == "cross_entropy" else "identity", "loss": loss, **options}
# Ones: drawing numbers would take more at its peak than it leaves.
X = np.ones((rows, sizes[0]), dtype)
y = np.ones(rows, int) if loss == "cross_entropy" else np.ones((rows, sizes[-1]), dtype)

def fit(sizes, rows, epochs):
    # The backend is one that auto takes for what is large; rates of 0 keep all numbers finite.
    fastmlp.fit(
        fastmlp.Network(sizes, **kinds), X[:rows], y[:rows], optimizer=fastmlp.Adam(0.0), epochs=epochs,
        batch_size=batch_size, backend="fused", threads=threads, progress=False,
    )

fit((sizes[0], 2, sizes[-1]), 2, 1)  # loads, or compiles
before = peak()
fit(sizes, rows, epochs)
print(peak() - before, "numba" in sys.modules)
"""
)

CONSTANT = 8 << 20
"""A chunk's rates and losses, 0.6 MiB, blocks of packed weights, 3 MiB, and what the allocator rounds."""

DROPPING = {"hidden": "gelu", "dropout": 0.1}
"""What needs all of a batch's buffers: logits, activations, what is left of them, and deltas."""


LARGE = {
    "parameters float32": [(500, 3000, 3000, 10), 100, 10, 2, "float32", "mse", {}],
    "parameters float64": [(500, 2000, 2000, 10), 100, 10, 2, "float64", "mse", {}],
    "batch float32": [(20, 400, 400, 10), 40_000, 40_000, 1, "float32", "mse", DROPPING],
    "batch float64": [(20, 400, 400, 10), 20_000, 20_000, 1, "float64", "mse", DROPPING],
    "rows, labels": [(100, 2, 10), 1_000_000, 10_000, 1, "float32", "cross_entropy", {}],
    "rows, epochs": [(100, 2, 2), 1_000_000, 10_000, 5, "float32", "mse", {}],
    "history": [(1, 1), 1, 1, 400_000, "float32", "mse", {}],
}
"""Sizes, rows, batch size, epochs, dtype, loss, and options of the network."""


@matrix  # a process or two each, 8 s
@pytest.mark.parametrize("case", LARGE)
def test_a_training_takes_little_memory_besides_its_data(case):
    sizes, rows, batch_size, epochs, dtype, *_ = LARGE[case]
    assert growth(LARGE[case]) <= bound_of(sizes, rows, batch_size, epochs, np.dtype(dtype).itemsize)


def growth(case, threads=1):
    return growth_of(FIT, [*case, threads])


def growth_of(script, case):
    """Bytes by which a process grows, of the first one that finds everything compiled."""
    for _ in range(2):
        done = python("-c", script, json.dumps(case), **importing())
        grown, compiled = done.stdout.split()
        if compiled == "False":
            break
    return int(grown)


@pytest.mark.slow  # a process, 2 s
def test_a_thread_takes_what_it_works_in():
    sizes, batch_size, itemsize = (20, 600, 600, 10), 900, 8
    case = [sizes, 2 * batch_size, batch_size, 1, "float64", "mse", {}]
    of_four = growth(case, threads=5) - growth(case)
    bound = 4 * of_a_thread(sizes, batch_size, itemsize)
    assert bound / 2 < of_four <= bound  # a bound that is far off says nothing


FIT_SPARSE = (
    PEAK
    + """
import json
import numpy as np
import scipy.sparse
import fastmlp

form, optimizer = json.loads(sys.argv[1])
rows, columns, per_row = 20_000, 20_000, 150
rng = np.random.default_rng(0)
indices = (np.arange(per_row) * (columns // per_row) + rng.integers(0, 100, (rows, 1))).astype(np.int32)
values, bounds = np.ones(rows * per_row, np.float32), np.arange(0, rows * per_row + 1, per_row)
X = scipy.sparse.csr_array((values, indices.ravel(), bounds), shape=(rows, columns))
del indices, values
if form == "dense":
    X = X[:2000].toarray()
elif form != "csr":
    X = X.asformat(form)
y = np.ones((X.shape[0], 2), np.float32)
network = fastmlp.Network([columns, 16, 2])

def fit(X, y):
    fastmlp.fit(
        network, X, y, optimizer=getattr(fastmlp, optimizer)(0.0), epochs=40 if form == "dense" else 2,
        batch_size=100, backend="fused", threads=1, progress=False,
    )

few = scipy.sparse.csr_array(X[:100]) if form != "dense" else X[:100]
fit(few, y[:100])  # loads, or compiles
before = peak()
fit(X, y)
print(peak() - before, "numba" in sys.modules)
"""
)


@matrix  # a process, 5 s
@pytest.mark.parametrize(
    ("form", "optimizer"), [("csr", "SGD"), ("csr", "SparseAdam"), ("csc", "SGD"), ("dense", "SGD")]
)
def test_sparse_inputs_take_what_the_readme_says(form, optimizer):
    rows, columns, per_row, batch, itemsize = 2000 if form == "dense" else 20_000, 20_000, 150, 100, 4
    one_form = (4 + itemsize) * rows * per_row  # indices and values
    lists = 21 * columns + (4 + itemsize) * batch * per_row
    epochs = 40 if form == "dense" else 2
    allowed = bound_of((columns, 16, 2), rows, batch, epochs, itemsize) + 8 * rows + lists
    assert growth_of(FIT_SPARSE, [form, optimizer]) <= allowed + (0 if form == "csr" else one_form)
    # Else another form of them, or a copy of the dense rows, would fit in what is allowed.
    assert (itemsize * rows * columns if form == "dense" else one_form) > CONSTANT


@pytest.mark.parametrize("outcome", [None, KeyboardInterrupt, fastmlp.DivergenceError])
def test_a_training_that_is_over_leaves_nothing_to_the_garbage_collector(outcome):
    """Which counts objects: thirty trainings of 2 million parameters had taken 3 GiB before it came."""
    kept = []

    rate = 1e300 if outcome is fastmlp.DivergenceError else 0.1
    options = {"epochs": 3, "optimizer": fastmlp.SGD(rate), "backend": "reference"}
    gc.disable()
    try:
        with contextlib.nullcontext() if outcome is None else pytest.raises(outcome):
            noting = calling(
                on_train_begin=lambda run: kept.append(weakref.ref(run.moments)),
                on_epoch_end=lambda run: outcome is KeyboardInterrupt and signal.raise_signal(signal.SIGINT),
            )
            fastmlp.fit(
                fastmlp.Network([2, 3, 1]), np.ones((4, 2)), np.ones((4, 1)), **options, callbacks=[noting]
            )
        assert kept[0]() is None
    finally:
        gc.enable()


IDLE = """
import sys, threading
import numpy as np
import fastmlp

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

X = np.ones((256, 10), "float32")

def model(width):
    return fastmlp.fit(fastmlp.Network([10, width, 5]), X, X[:, :5], epochs=0, backend="baseline")

model(2).predict(X)
before = resident()
models = [model(15000 + i) for i in range(4)]
for one in models:
    one.predict(X)

print(resident() - before)
gate = threading.Barrier(8)

def predict():
    gate.wait()
    models[0].predict(X)

threads = [threading.Thread(target=predict) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(resident() - before)
models.clear()
print(resident() - before)
"""


@matrix
@needs.reads_proc
def test_what_large_predictions_work_in_goes_with_them():
    models, threads, gone = map(int, python("-c", IDLE).stdout.split())
    four = 4 * 4 * parameter_count(fastmlp.Network((10, 15003, 5)))  # float32
    assert models <= four + CONSTANT
    assert threads <= four + CONSTANT
    assert gone <= CONSTANT


@pytest.fixture
def left(monkeypatch):
    """The arguments with which calls are left for others; the last is the call."""
    return noted(monkeypatch, Idle, "leave")


def test_predictions_of_one_model_share_a_workspace(left):
    """However many rows they have: a server that is asked for 1 to 256 rows keeps one, not 256."""
    network = fastmlp.Network([3, 4, 2])
    model = fastmlp.fit(network, np.ones((9, 3)), np.ones((9, 2)), epochs=0, backend="fused")
    expected = model.predict(np.ones((1, 3)))
    for rows in (9, 1, 5, 9, 300, 2):
        assert np.array_equal(model.predict(np.ones((rows, 3))), np.tile(expected, (rows, 1)))
    assert [call.rows for *_, call in left] == [1, 9, 9, 9, 9, 256, 256]
    assert len({id(call) for *_, call in left}) == 3


def test_models_of_one_network_share_a_workspace_in_turns_and_none_at_once(left):
    network, X = fastmlp.Network([3, 4, 2]), np.random.default_rng(0).standard_normal((9, 3))
    models = [
        fastmlp.fit(network, X, np.ones((9, 2)), epochs=0, seed=seed, backend="fused") for seed in range(8)
    ]
    expected = [model.predict(X) for model in models]
    assert len({one.tobytes() for one in expected}) == 8
    assert len({id(call) for *_, call in left}) == 1
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(lambda model: model.predict(X), models * 20)]
    np.testing.assert_array_equal(found, expected * 20)
    assert len({id(call) for *_, call in left}) <= 4


SLICE_ROWS, OF_AN_OUTPUT = 256, 48
"""Rows of gradient that each thread has, and numbers for each output, as docs/deploy.md says."""


def of_a_thread(sizes, batch_size, itemsize):
    """Bytes that docs/deploy.md promises for each thread but the first."""
    widest, rows = max(sizes), min(batch_size, BLOCK_ROWS) + SLICE_ROWS
    scratch = max(SCRATCH_BYTES * max(widest, batch_size), itemsize * OF_AN_OUTPUT * sizes[-1])
    return (1 << 20) + scratch + itemsize * widest * rows


def bound_of(sizes, rows, batch_size, epochs, itemsize):
    """Bytes that docs/deploy.md promises. X is not among them: it is neither copied nor masked."""
    # Themselves, their gradient, two moments; and all but the gradient once more, should it diverge.
    parameters = 7 * itemsize * parameter_count(fastmlp.Network(sizes))
    a_batch_row = 4 * itemsize * sum(sizes[1:]) + SCRATCH_BYTES  # logits, activations, dropped, deltas
    # The row orders of a chunk and of the one before; each may begin and end within an epoch.
    drawn = 2 * min(epochs, MAX_CHUNK_VISITS / rows + 2)
    # Target and weight; natural order and the row orders, or before them three numbers to check a label.
    a_row = itemsize * (sizes[-1] + 1) + 8 * max(3, 1 + drawn)
    history = 41 * epochs  # a float, and its place in a list that grows by an eighth
    a_slice = itemsize * SLICE_ROWS * max(sizes)
    return parameters + a_slice + a_batch_row * batch_size + a_row * rows + history + CONSTANT


# --- thousands of failing calls and of tiny trainings -----------------------------------------------------


ALLOWED = 400
"""Bytes a call: less than the smallest workspace."""

SCRIPT = f"""
import ctypes, gc, sys
import numpy as np, fastmlp

kind, backend, calls = sys.argv[1:]
X, y = np.ones((4, 3)), np.zeros(4)
network = fastmlp.Network([3, 4, 1])
model = fastmlp.fit(network, X, y, epochs=1, backend=backend)

def tiny():
    fastmlp.fit(network, X, y, epochs=1, batch_size=2, seed=0, backend=backend)

def failing():
    for call in (
        lambda: fastmlp.fit(network, np.ones((4, 5)), y, backend=backend),
        lambda: fastmlp.fit(network, X, y, backend=backend, optimizer=fastmlp.SGD(1e300), epochs=3),
        lambda: model.predict(np.full((2, 3), np.nan)),
    ):
        try:
            call()
        except (ValueError, FloatingPointError):
            continue
        raise AssertionError("it did not fail")

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * {4096}

do = {{"tiny": tiny, "failing": failing}}[kind]
y = np.arange(4.0) * 1e3
for _ in range(1000):
    do()
before = resident()
for _ in range(int(calls)):
    do()
print(resident() - before)
"""


@needs.linux("/proc, and glibc's heap")
@pytest.mark.parametrize("kind", ["tiny", "failing"])
@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize(
    "calls", [pytest.param(3000, marks=pytest.mark.slow), pytest.param(10_000, marks=campaign)]
)
def test_calls_leak_nothing(backend, kind, calls, report_figure):
    grown = int(python("-c", SCRIPT, kind, backend, calls).stdout)
    assert grown < ALLOWED * calls
    report_figure(f"{calls} calls, {grown / 1024:.0f} KiB more")
