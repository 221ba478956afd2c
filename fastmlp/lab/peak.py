"""A timed loop in LLVM's language: multiply-adds in registers alone.

The FMA rate takes turns with the compared rate, so a fraction is against the clock of the same minute.
"""

# mypy: ignore-errors

from __future__ import annotations

import ctypes
import functools
import threading
import time
from collections.abc import Callable
from statistics import fmean, median
from typing import Any

import numpy as np
from numba import types
from numba.np.numpy_support import from_dtype

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.vectors import Vectors, carried
from fastmlp.kernels.jit.lazy import compile_now, emitted

CHAINS = 24 if host().accumulators >= 24 else 12
"""At least the latency, 4, times the ports, 2 or 4; 12 fit into 16 registers, 24 into 32."""

WINDOWS = 5
"""Windows of time of each width's measurement."""

WIDTHS = (512, 256) if host().vector_bytes > 16 else (128,)
"""Bits of the measured vectors."""


def emit_fma_chains(build, arguments, kinds, bits):
    """Write rounds of CHAINS multiply-adds in vectors of a width; arguments : rounds, address, a scalar"""
    rounds, address, _ = arguments
    v = Vectors(build, kinds[-1], bits // 8)
    # x -> 0.5 x + 0.25 stays near 0.5: no denormals, no infinities
    step = lambda k, chains: [v.fma(x, v.constant(0.5), v.constant(0.25)) for x in chains]  # noqa: E731
    starts = [v.constant(1.0 + k) for k in range(CHAINS)]
    v.store(functools.reduce(build.fadd, carried(build, 0, rounds, starts, step)), address)


FMA_CHAINS = emitted("fma_chains", emit_fma_chains, (128, 256, 512))


def window(dtype: str, vector_bytes: int, steps: int) -> tuple[Callable[[], object], int]:
    """Return a call of multiply-adds in vectors of a width, and the number of operations."""
    kind, number = from_dtype(np.dtype(dtype)), np.ctypeslib.as_ctypes_type(np.dtype(dtype))
    address = compile_now(FMA_CHAINS, (types.intp, types.voidptr, kind), str(8 * vector_bytes))
    room = np.empty(vector_bytes // np.dtype(dtype).itemsize, dtype)
    call = lazy_call(address, (ctypes.c_int64, ctypes.c_void_p, number), (steps, room, 0.0))
    return call, steps * 2 * CHAINS * len(room)


def lazy_call(address: int, kinds: tuple[Any, ...], arguments: tuple[Any, ...]) -> Callable[[], object]:
    """Return a call of a lazy function without Python's lock; arrays live as long as the call."""
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *kinds)(address)
    values = [one.ctypes.data if isinstance(one, np.ndarray) else one for one in arguments]
    return lambda: arguments and function(None, None, *values)


def prepare(dtype: str, threads: int) -> Callable[[float], tuple[float, float]]:
    """measure(seconds) -> GF/s of all threads together, on vectors of the fastest of WIDTHS."""
    for bits in WIDTHS:
        window(dtype, bits // 8, 1)[0]()

    def measure(seconds):
        """GF/s by the wall clock and by the CPU clock (a thread's fraction)."""
        steps = int(seconds / WINDOWS / len(WIDTHS) * 2.5e9 / (CHAINS / 2))
        calls = [window(dtype, bits // 8, steps) for bits in WIDTHS]
        found = [
            rates([taken(call, threads) for _ in range(WINDOWS)], threads * flops) for call, flops in calls
        ]
        return tuple(max(column) for column in zip(*found, strict=True))

    return measure


def rates(windows: list[tuple[float, float]], operations: float) -> tuple[float, float]:
    """Return GF/s by each clock; windows : results of `taken` for so many operations

    The least time by the wall clock counts, as other programs only add time, and the median by the CPU clock:
    a virtual machine subtracts its host's time, maybe too late. Where that has not moved, the wall counts.
    """
    wall, cpu = zip(*windows, strict=True)
    return operations / min(wall) / 1e9, operations / (median(cpu) or min(wall)) / 1e9


def taken(kernel: Callable[[], object], threads: int) -> tuple[float, float]:
    """Return the wall seconds of threads that call a kernel, and the mean of their CPU seconds.

    Each thread reads its time itself: Linux has another thread's as of a tick up to 10 ms ago.
    """
    seconds = []

    def work():
        began = time.thread_time()
        kernel()
        seconds.append(time.thread_time() - began)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began, fmean(seconds)
