"""What compiles when: once for each dtype, once for each machine, and anew after an edit."""

import itertools

import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys
from support.compilations import compilations
from support.problems import COMPILED_DTYPES, PAIRS, targets_for, y_for
from support.processes import python
from support.resuming import StopAt
from support.selection import campaign, crossed, few, is_given, matrix
from support.terminals import WATCHED

import fastmlp
from fastmlp import SGD, Adam, AdamW, RMSprop
from fastmlp.backend import registry
from fastmlp.cli import ahead
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.losses import LOSSES
from fastmlp.model.state import initial_state

OF_ANY_NETWORK = [name for name, variant in registry.variants().items() if variant.specialize is None]


def marks_of(name, dtype):
    """Each backend is compiled whole in one dtype, in turns, and in both by the campaign; 20 s."""
    own = COMPILED_DTYPES[(OF_ANY_NETWORK.index(name) + 1) % 2]
    return matrix if dtype is own or name == "fused" or is_given(name) else campaign


def everything(backend, dtype, sizes, rows, X=None, **network):
    """Fit, validate and predict: all that a user reaches."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, sizes[0])).astype(dtype) if X is None else X
    y = y_for(network.get("loss"), rng, rows, sizes[-1]).astype(dtype)
    options = {**network.pop("fit", {})}
    options |= {"epochs": 2, "seed": 0, "backend": backend, "validation": (X, y)}
    model = fastmlp.fit(fastmlp.Network(sizes, **network), X, y, **options)
    model.predict(X)
    assert model.parameters.dtype == dtype


PAIRS_OF_ALL = itertools.product(OF_ANY_NETWORK, COMPILED_DTYPES)


@pytest.mark.parametrize(
    ("backend", "dtype"), [pytest.param(*pair, marks=marks_of(*pair)) for pair in PAIRS_OF_ALL]
)
def test_new_shapes_networks_and_optimisers_compile_nothing(backend, dtype):
    list(ahead.compile_ahead(ahead.tasks([backend], [np.dtype(dtype).name]), processes=1))
    read_only = np.ones((7, 6), dtype)
    read_only.flags.writeable = False
    with compilations() as compiled:
        everything(backend, dtype, (5, 2), 1)
        everything(backend, dtype, (1, 1, 1, 1), 300, hidden=["gelu", "elu"], dropout=0.5, l1=0.1, l2=0.1)
        everything(backend, dtype, (6, 40, 3), 7, X=read_only)
        everything(backend, dtype, (6, 40, 3), 7, X=np.ones((12, 7), dtype)[::2].T)
        for output, loss in PAIRS:
            units = 2 * LOSSES[loss].outputs_per_target
            everything(backend, dtype, (2, 3, units), 9, output=output, loss=loss)
        for optimizer in (SGD(0.1), SGD(0.1, 0.5, True, clip_norm=1), RMSprop(), Adam(), AdamW()):
            for options in ({"batch_size": None}, {"batch_size": 2, "shuffle": False}, {"threads": 2}):
                fit = {"optimizer": optimizer, "sample_weight": np.arange(9), **options}
                everything(backend, dtype, (2, 3, 2), 9, fit=fit)
    assert compiled == []


@pytest.mark.parametrize("backend", few(OF_ANY_NETWORK))
def test_what_comes_from_a_file_compiles_nothing(backend, tmp_path, chunks):
    """Arrays of a checkpoint, and models that joblib maps into memory, are read-only."""
    chunks(steps=1)
    X = np.random.default_rng(0).standard_normal((9, 3))

    def fit(**options):
        given = {"epochs": 2, "batch_size": 4, "seed": 0, "backend": backend, "validation": (X, X[:, 0])}
        return fastmlp.fit(fastmlp.Network([3, 1]), X, X[:, 0], **given, **options)

    fit().predict(X)
    fit(callbacks=[fastmlp.Checkpoint(tmp_path / "c", 99), StopAt(1)])
    with compilations() as compiled:
        model = fit(resume=tmp_path / "c")
        model.parameters.flags.writeable = False
        model.predict(X)
    assert compiled == []


@crossed(backend=registry.variants(), dtype=COMPILED_DTYPES, threads=[1, 2])
def test_steps_allocate_nothing(backend, dtype, threads):
    sizes, rows = (5, 33, 17, 3), 64
    network = fastmlp.Network(sizes, "gelu", "softmax", "cross_entropy", dropout=0.2, l2=0.1)
    rng = np.random.default_rng(0)
    data = Data(
        rng.standard_normal((rows, 5)).astype(dtype),
        targets_for("cross_entropy", rng, rows, 3).astype(dtype),
        np.ones(rows, dtype),
    )
    state = initial_state(rng.standard_normal(parameter_count(fastmlp.Network(sizes))).astype(dtype))

    def allocations(steps):
        starts = np.zeros(steps, np.int64)
        rates = np.full((steps, 2), 1e-3)
        chunk = Chunk(np.arange(rows), starts, starts + rows, np.full(steps, float(rows)), rates, rows)
        given = network, Adam(clip_norm=1.0), state, data, chunk, 1, threads, np.empty(steps)
        before = rtsys.get_allocation_stats()
        registry.get(backend).train_chunk(*given)
        after = rtsys.get_allocation_stats()
        assert after.alloc - before.alloc == after.free - before.free, "something was kept"
        return after.alloc - before.alloc

    _nrt_python.memsys_enable_stats()
    allocations(1)
    assert allocations(100) == allocations(1)


TRAIN = """
import sys
import numpy as np, fastmlp
from fastmlp.backend import registry
from fastmlp.model.backend import Data
name = registry.register_file(sys.argv[1]) if len(sys.argv) > 1 else "baseline"
X = np.linspace(-1, 1, 10).reshape(5, 2)
network, parameters = fastmlp.Network([2, 1]), np.array([1.0, 1.0, 10.0])
out, data = np.empty((5, 1)), Data(X, X[:, :1].copy(), np.ones(5))
backend = registry.get(name)
# Two programs that compile sooner than a training's.
backend.predict(network, parameters, X, out)
assert np.isclose(backend.evaluate(network, parameters, data), np.mean((out - data.targets) ** 2))
print(out[0, 0], flush=True)
"""


def run_process(cache, *arguments, **environment):
    """What a new process prints, on both streams; its Numba caches in a directory of the test's."""
    environment = {"FASTMLP_CACHE_DIR": str(cache), **environment}
    return python("-W", "error", "-c", WATCHED + TRAIN, *arguments, **environment)


VARIANT = """
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

right = baseline.affine

def affine(x, w, b, *others):
    right(x, w, b, *others)
    out = others[-1]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] += ADDED

VARIANT = Variant("mine", baseline.VARIANT, {"affine": affine})
"""


@pytest.mark.slow  # compiles a variant twice, in two processes
def test_an_edit_of_a_variant_or_of_a_file_next_to_it_counts_at_once(tmp_path):
    cache, source, numbers = tmp_path / "cache", tmp_path / "mine.py", tmp_path / "numbers_of_mine.py"
    source.write_text(
        VARIANT.replace("ADDED", "ADDED()").replace(
            "\nright",
            """
import numba, numbers_of_mine

@numba.njit
def ADDED():
    return numbers_of_mine.ADDED

right""",
        )
    )
    found = []
    for number in (100.0, 200.0):
        numbers.write_text(f"ADDED = {number}")
        done = run_process(cache, source, PYTHONPATH=tmp_path)
        (line,) = done.stderr.splitlines()
        assert "compiling the 'mine' backend for float64" in line
        assert line.endswith("for functions of your own are compiled in each process")
        found.append(float(done.stdout))
    assert found[1] - found[0] == pytest.approx(100)


MEET = """
import sys
import numpy as np, fastmlp
from fastmlp.backend import registry
registry.register_file(sys.argv[1])
network, out = fastmlp.Network([3, 4, 1]), np.empty((4, 1))
for name in sys.argv[2:]:
    registry.get(name).predict(network, np.linspace(-1, 1, 21), np.ones((4, 3)), out)
    print(name, out.tolist())
"""


@pytest.mark.slow  # compiles two backends, in three processes
def test_programs_that_two_processes_compiled_meet_in_a_third(tmp_path):
    """Inner functions of cached machine code keep their names: one name must mean one code."""
    (tmp_path / "mine.py").write_text(VARIANT.replace("ADDED", "100.0"))

    def said(*names):
        cache = str(tmp_path / "cache")
        return python("-c", MEET, tmp_path / "mine.py", *names, FASTMLP_CACHE_DIR=cache).stdout.splitlines()

    apart = said("baseline") + said("mine")
    assert apart[0].split(" ", 1)[1] != apart[1].split(" ", 1)[1]
    assert said("baseline", "mine") == apart
