"""What programs share is compiled when it is first called, and what goes wrong then is said."""

from functools import partial

import numpy as np
import pytest
from numba import types
from numba.core import errors
from numba.np.numpy_support import from_dtype
from support import needs
from support.compilations import compilations
from support.processes import importing, python
from support.selection import matrix

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.codes import MOST_CODES
from fastmlp.kernels.gemm.macrokernel import CUTS
from fastmlp.kernels.gemm.microkernel import ALL_TILES, taken_by
from fastmlp.kernels.jit import engine, lazy
from fastmlp.kernels.jit.lazy import type_of
from fastmlp.kernels.program.call_record import CallRecord
from fastmlp.kernels.program.records import OPERATION, RULE
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline, fused
from fastmlp.model.backend import Data

X = np.linspace(-1, 1, 12).reshape(6, 2)


def fit(backend, hidden="relu", **options):
    network = fastmlp.Network([2, 3, 1], hidden)
    return fastmlp.fit(network, X, X[:, :1], epochs=2, seed=0, backend=backend, progress=False, **options)


FITS = """
from test_lazy import fit
import fastmlp
from fastmlp.kernels.jit import engine
from fastmlp.testing.slots import SLOTS

def found():  # compiled, or loaded from the disk
    return {(name.partition("-")[0], key) for name, _, key in engine.loaded_functions}

fit("baseline")
for optimizer in (fastmlp.SGD(0.1), fastmlp.RMSprop(), None):
    before = found()
    fit("baseline", "tanh", optimizer=optimizer)
    print(*sorted({name for name, _ in found() - before} & set(SLOTS)))
"""


@pytest.mark.slow  # a process that compiles
def test_a_network_compiles_what_it_calls_and_no_more():
    done = python("-c", FITS, **importing())
    # Adam is the default, and so compiled before.
    assert done.stdout.splitlines() == ["activate activate_gradient apply_rule", "apply_rule", ""]


@pytest.mark.parametrize(
    "kind",
    [
        *(types.int64, types.uint8, types.float32, types.boolean, types.voidptr, types.none),
        *(CallRecord(types.float64), from_dtype(RULE), types.Array(from_dtype(OPERATION), 1, "C")),
        *(types.Array(types.float32, 2, layout) for layout in "CFA"),
        types.Array(types.bool_, 1, "C", readonly=True),
        types.Array(types.int8, 3, "A", readonly=True, aligned=False),
        types.UniTuple(types.Array(types.float32, 2, "C"), 3),
        types.Tuple((types.UniTuple(types.int64, 2), types.Array(from_dtype(OPERATION), 1, "C"))),
        types.StarArgTuple((types.Array(types.float64, 2, "C"), types.float64)),
        types.StarArgTuple((types.float64, types.float64)),
    ],
    ids=str,
)
def test_the_name_of_a_type_is_enough(kind):
    assert type_of(str(kind)) == kind


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "UniTuple(os x 2)", "UniTuple(os)", "Tuple(int64, os)", "array(tuple, 1d, C)",
        "array(int64, 1d, X)",
    ],
)  # fmt: skip
def test_no_other_name_is_a_type(name):
    with pytest.raises(TypeError, match="a slot takes numbers, arrays and records of fastmlp's, got "):
        type_of(name)


WRONG = """
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

def bias_gradient(delta, out):
    for j in range(len(out)):
        out[j] = WHAT

VARIANT = Variant("{name}", baseline.VARIANT, {{"bias_gradient": bias_gradient}})
"""


def variant(tmp_path, name, what):
    path = tmp_path / f"{name}.py"
    path.write_text(WRONG.format(name=name).replace("WHAT", what))
    return registry.register_file(path)


@pytest.mark.slow  # compiles a variant, 4 s
def test_a_mistake_in_a_kernel_is_raised_where_it_is_called(tmp_path):
    name = variant(tmp_path, "mistaken", "out.no_such_thing")
    for _ in range(2):  # a function that failed is tried again
        with pytest.raises(errors.TypingError, match="no_such_thing"):
            fit(name)
    fit("baseline")


@pytest.mark.slow  # compiles a variant, 4 s
def test_a_kernel_that_returns_something_unexpected_is_refused(tmp_path):
    name = variant(tmp_path, "returning", "0\n    return out")
    with pytest.raises(TypeError, match="bias_gradient must return nothing, returns array"):
        fit(name)


UNKNOWN = """
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

def output_loss(loss, output, parameters, share, z, targets, weights, scratch, delta):
    activate(CODE, z, delta)
    return 0.0

VARIANT = Variant("{name}", baseline.VARIANT, {{"output_loss": output_loss}})
"""


@pytest.mark.slow  # each compiles a variant, 4 s
@pytest.mark.parametrize(
    "code", [pytest.param(-1, marks=matrix), MOST_CODES - 1, pytest.param(10**9, marks=matrix)]
)
def test_a_code_that_nobody_has_is_refused(tmp_path, code):
    path = tmp_path / f"unknown{abs(code)}.py"
    path.write_text(UNKNOWN.format(name=path.stem).replace("CODE", str(code)))
    with pytest.raises(ValueError, match=f"^no activation has the code {code}; they have 0 to "):
        fit(registry.register_file(path))


CAUGHT = """
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

def bias_gradient(delta, out):
    if delta.shape[1] == 3:
        raise ValueError("three")
    for j in range(len(out)):
        out[j] = 0

def clip(clip_norm, gradients):
    part = gradients[:3].copy()
    try:
        bias_gradient(part.reshape(1, 3), part)
    except Exception:
        gradients[:] = 0

VARIANT = Variant("caught", baseline.VARIANT, {"bias_gradient": bias_gradient, "clip": clip})
"""


@pytest.mark.slow  # compiles a variant, 4 s
def test_an_exception_of_a_kernel_is_caught_by_the_one_that_calls_it(tmp_path):
    path = tmp_path / "caught.py"
    path.write_text(CAUGHT)
    network = fastmlp.Network([2, 1])
    start = fastmlp.fit(network, X, X[:, :1], epochs=1, seed=0, backend="baseline", progress=False)
    options = {"optimizer": fastmlp.SGD(0.1, clip_norm=1.0), "epochs": 1, "progress": False}
    initial = start.weights, start.biases
    model = fastmlp.fit(
        network, X, X[:, :1], initial=initial, backend=registry.register_file(path), **options
    )
    np.testing.assert_array_equal(model.weights[0], start.weights[0])


@matrix
def test_control_c_while_a_function_compiles_is_a_keyboard_interrupt(tmp_path, monkeypatch):
    name = variant(tmp_path, "interrupted", "0")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, "address_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(name)
    fit(name)


@matrix
@pytest.mark.parametrize("kind", ALL_TILES)
def test_every_tile_has_machine_code_of_its_own(kind):
    tiles, taken = ALL_TILES[kind], taken_by(types.float32)
    codes = [str(code) for code in tiles.codes()]
    texts = [lazy.assembly_of_function(tiles.name, taken, code) for code in codes]
    texts = [text.replace(f"{tiles.name}.{code}(", "(") for text, code in zip(texts, codes, strict=True)]
    assert len(set(texts)) == len(codes)
    some = [codes[0], codes[-1]]
    addresses = {lazy.compile_now(tiles.name, taken, code) for code in some}
    assert len(addresses) == len(some)
    assert 0 not in addresses


def test_products_call_tiles_that_there_are():
    called = {(height, vectors) for kind in CUTS for vectors, cut in enumerate(kind) for height, _ in cut}
    shapes = [tiles.shapes for tiles in ALL_TILES.values()]
    made = {(rows, vectors) for of in shapes for vectors, heights in enumerate(of, 1) for rows in heights}
    assert {shape for shape in called if shape[0]} <= made


def test_nothing_compiles_twice():
    """Other rates, other starts: tests/kernels/test_compilation.py has other shapes."""
    fit("fused", "gelu")
    with compilations() as names:
        fit("fused", "gelu")
        fit("fused", "gelu", optimizer=fastmlp.Adam(fastmlp.Cosine(0.1, 9)), sample_weight=np.arange(6))
    assert names == []


# --- compiled code that calls back into Python: signals, forks and errors there -------------------------


SIGNALLED = """
import ctypes
import numpy as np
import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline

right = baseline.affine
signal_oneself = ctypes.CDLL(None)["raise"]
signal_oneself.argtypes, signal_oneself.restype = [ctypes.c_int], ctypes.c_int

def affine(x, w, b, scratch, out):
    right(x, w, b, scratch, out)
    signal_oneself(2)

registry.registered["signalled"] = Variant("signalled", baseline.VARIANT, {"affine": affine})
predict = registry.get("signalled").predict
X, out = np.ones((3, 2)), np.empty((3, 1))
for _ in range(3):
    try:
        predict(fastmlp.Network([2, 1]), np.ones(3), X, out)
    except KeyboardInterrupt:
        print("interrupted")
"""


@pytest.mark.slow  # a process that compiles, 8 s
@needs.posix("raise of the C library, by its name")
def test_control_c_in_compiled_code_that_then_asks_for_a_function(tmp_path):
    """Python hears of it on entering what finds the function."""
    path = tmp_path / "signalled.py"
    path.write_text(SIGNALLED)
    done = python("-W", "ignore", path)
    assert done.stdout.splitlines() == ["interrupted"] * 3, done
    assert "Traceback" not in done.stderr


def wrong_bias_gradient(delta, out):
    out[0] = undefined_name  # noqa: F821


def raising_activate(code, z, out):
    raise ValueError("not today")


def fails_in_training(backend, **options):
    X = np.ones((512, 300))
    network = fastmlp.Network([300, 100, 1], "tanh")
    fastmlp.fit(network, X, X[:, 0], epochs=1, batch_size=512, backend=backend, **options)


def fails_in_a_gradient(backend):
    data, network = Data(np.ones((4, 2)), np.ones((4, 1)), np.ones(4)), fastmlp.Network([2, 3, 1], "tanh")
    registry.get(backend).gradient(network, np.ones(13), data, 0, 0, np.empty(13))


@pytest.mark.slow  # compiles a variant, 3 s
@pytest.mark.parametrize(
    ("base", "slots", "error", "fails"),
    [
        (baseline, {"bias_gradient": wrong_bias_gradient}, errors.TypingError, fails_in_training),
        (baseline, {"activate": raising_activate}, ValueError, fails_in_a_gradient),
        *(
            (fused, {"activate": raising_activate}, ValueError, partial(fails_in_training, threads=threads))
            for threads in (1, 2)
        ),
    ],
    ids=["cannot be compiled", "raises in a gradient", "raises", "raises in a thread"],
)
def test_subnormal_numbers_count_again_after_an_error(base, slots, error, fails, monkeypatch):
    variant = Variant("wrong", base.VARIANT, slots)
    monkeypatch.setitem(registry.registered, variant.name, variant)
    with pytest.raises(error, match=r"undefined_name|not today"):
        fails(variant.name)
    assert (np.array([5e-324]) * 1.0)[0] > 0


FORKED = """
import os, signal, threading, time
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
import fastmlp
from fastmlp.backend import registry

def predict(hidden):
    network = fastmlp.Network([2, 3, 1], hidden)
    out = np.empty((1, 1))
    registry.get("baseline").predict(network, np.ones(13), np.ones((1, 2)), out)

def compile_something():
    with global_compiler_lock:
        taken.set()
        time.sleep(0.5)

predict("relu")
taken = threading.Event()
threading.Thread(target=compile_something).start()
taken.wait()
if (child := os.fork()) == 0:
    signal.alarm(80)
    predict("softplus")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow  # a process that compiles, 2 s
@needs.forks
def test_a_process_forked_while_another_thread_compiles_finds_its_functions():
    python("-W", "ignore", "-c", FORKED)
