"""Compiled code that calls back into Python for a piece: signals, forks and errors there."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core import errors
from support import needs
from support.processes import python

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline, fused
from fastmlp.model.backend import Data

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
def test_control_c_in_compiled_code_that_then_asks_for_a_piece(tmp_path):
    """Python hears of it on entering what finds the piece."""
    path = tmp_path / "signalled.py"
    path.write_text(SIGNALLED)
    done = python("-W", "ignore", path)
    assert done.stdout.splitlines() == ["interrupted"] * 3, done
    assert "Traceback" not in done.stderr


def wrong_bias_gradient(delta, out):
    out[0] = undefined_name  # noqa: F821


@pytest.mark.slow  # compiles a variant, 3 s
def test_subnormal_numbers_count_again_after_an_error(monkeypatch):
    variant = Variant("wrong", baseline.VARIANT, {"bias_gradient": wrong_bias_gradient})
    monkeypatch.setitem(registry.registered, variant.name, variant)
    X = np.ones((4, 2))
    with pytest.raises(errors.TypingError):
        fastmlp.fit(fastmlp.Network([2, 1]), X, X[:, 0], epochs=1, backend=variant.name)
    assert (np.array([5e-324]) * 1.0)[0] > 0


def raising_activate(code, z, out):
    raise ValueError("not today")


@pytest.mark.slow  # compiles a variant, 3 s
@pytest.mark.parametrize("threads", [1, 2])
def test_subnormal_numbers_count_again_after_a_kernel_raised(monkeypatch, threads):
    variant = Variant("raising", fused.VARIANT, {"activate": raising_activate})
    monkeypatch.setitem(registry.registered, variant.name, variant)
    X = np.ones((512, 300))
    network = fastmlp.Network([300, 100, 1], "tanh")
    with pytest.raises(ValueError, match="not today"):
        fastmlp.fit(network, X, X[:, 0], epochs=1, batch_size=512, backend=variant.name, threads=threads)
    assert (np.array([5e-324]) * 1.0)[0] > 0


@pytest.mark.slow  # compiles a variant, 4 s
def test_subnormal_numbers_count_again_after_a_gradient_raised(monkeypatch):
    variant = Variant("raising in a gradient", baseline.VARIANT, {"activate": raising_activate})
    monkeypatch.setitem(registry.registered, variant.name, variant)
    data, gradients = Data(np.ones((4, 2)), np.ones((4, 1)), np.ones(4)), np.empty(13)
    with pytest.raises(ValueError, match="not today"):
        registry.get(variant.name).gradient(
            fastmlp.Network([2, 3, 1], "tanh"), np.ones(13), data, 0, 0, gradients
        )
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
def test_a_process_forked_while_another_thread_compiles_finds_its_pieces():
    python("-W", "ignore", "-c", FORKED)
