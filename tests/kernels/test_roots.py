"""Square roots and quotients of whole vectors: within 2 ulp, and special numbers as NumPy has them."""

import contextlib
import ctypes

import numpy as np
import pytest
from numba import types

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol, quotient_of, root_of
from fastmlp.kernels.codegen.vectors import Vectors, counted
from fastmlp.kernels.jit.lazy import compile_now, emitted
from fastmlp.lab.slot_times import subnormals_flushed

ULPS = 2
FLOATS = {"float32": (types.float32, ctypes.c_float), "float64": (types.float64, ctypes.c_double)}


def emit(build, arguments, kinds, code):
    """Write the loop over `count` numbers: the roots of a, and b / a."""
    a, b, root, ratio, count, _ = arguments
    v = Vectors(build, kinds[-1], host().vector_bytes)
    with counted(build, count, v.lanes) as i:
        at = i * v.itemsize
        x, y = (Symbol(build, v.load(v.shift(place, at))) for place in (a, b))
        v.store(root_of(x).value, v.shift(root, at))
        v.store(quotient_of(y, x).value, v.shift(ratio, at))


PIECE = emitted("roots_and_quotients", emit)


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_roots_and_quotients(dtype, flushed):
    kind, scalar = FLOATS[dtype]
    limits = np.finfo(dtype)
    special = np.array([0.0, -0.0, limits.tiny, limits.max, np.inf, np.nan, 1.0, 4.0], dtype)
    spread = np.random.default_rng(0).uniform(np.log(limits.tiny), np.log(limits.max), 1016)
    a = np.concatenate([special, np.exp(spread).astype(dtype)])
    b = np.roll(a, 7)  # quotients from 0 to infinity, and of special numbers
    root, ratio = np.empty_like(a), np.empty_like(a)
    address = compile_now(PIECE, (types.voidptr,) * 4 + (types.intp, kind))
    call = ctypes.CFUNCTYPE(ctypes.c_int32, *(ctypes.c_void_p,) * 6, ctypes.c_int64, scalar)(address)
    with subnormals_flushed() if flushed else contextlib.nullcontext():
        call(None, None, *(x.ctypes.data for x in (a, b, root, ratio)), a.size, 0)
    with np.errstate(all="ignore"):
        expected, quotient = np.sqrt(a), b / a
    assert_close(root, expected)
    # The inverse of a, and the quotient, may be subnormal, which is as good as 0, or infinite.
    ordinary = (a >= limits.tiny * 4) & (a <= limits.max / 4) & (quotient >= limits.tiny)
    assert ordinary.sum() > 500
    assert_close(ratio[ordinary], quotient[ordinary])
    infinite = np.isposinf(a)
    np.testing.assert_array_equal(ratio[infinite], quotient[infinite])
    assert np.isnan(ratio[np.isnan(a) | np.isnan(b)]).all()


def assert_close(got, expected):
    """Equal where it is no finite number, sign of zero included, and else within so many ulp."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    np.testing.assert_array_equal(np.signbit(got[expected == 0]), np.signbit(expected[expected == 0]))
    assert (np.abs(got[finite] - expected[finite]) <= ULPS * np.spacing(expected[finite])).all()
