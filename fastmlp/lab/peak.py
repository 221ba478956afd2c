"""Timed loops in LLVM's language: multiply-adds in registers alone, and register tiles.

The FMA rate takes turns with the compared rate, so a fraction is against the clock of the same minute.
"""

# mypy: ignore-errors

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from functools import partial
from statistics import fmean, median

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import INT, POINTER, Symbol
from fastmlp.kernels.codegen.vectors import counted
from fastmlp.kernels.gemm.microkernel import ALL_TILES, STORE, Stack, taken_by
from fastmlp.kernels.jit.lazy import compile_now, emitted

CHAINS = 24 if host().accumulators >= 24 else 12
"""At least the latency, 4, times the ports, 2 or 4; 12 fit into 16 registers, 24 into 32."""

WINDOWS = 5
"""Windows of time of each width's measurement."""

WIDTHS = (512, 256) if host().vector_bytes > 16 else (128,)
"""Bits of the measured vectors."""


def _fma_loop(bits, lane):
    lanes = bits // lane.bitwidth

    @intrinsic
    def loop(typing_context, steps):
        def generate(context, builder, signature, args):
            scalar = ir.FloatType() if lane.bitwidth == 32 else ir.DoubleType()
            vector = ir.VectorType(scalar, lanes)
            name = f"llvm.fma.v{lanes}f{lane.bitwidth}"  # llvmlite knows no names of vector intrinsics
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
            splat = lambda value: ir.Constant(vector, [value] * lanes)  # noqa: E731
            entry, body, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
            builder.branch(body)
            builder.position_at_end(body)
            index = builder.phi(ir.IntType(64))
            index.add_incoming(ir.Constant(ir.IntType(64), 0), entry)
            chains = [builder.phi(vector) for _ in range(CHAINS)]
            # x -> 0.5 x + 0.25 stays near 0.5: no denormals, no infinities
            after = [builder.call(fma, [x, splat(0.5), splat(0.25)]) for x in chains]
            for k, (x, new) in enumerate(zip(chains, after, strict=True)):
                x.add_incoming(splat(1.0 + k), entry)
                x.add_incoming(new, body)
            following = builder.add(index, ir.Constant(ir.IntType(64), 1))
            index.add_incoming(following, body)
            builder.cbranch(builder.icmp_signed("<", following, args[0]), body, done)
            builder.position_at_end(done)
            total = after[0]
            for x in after[1:]:
                total = builder.fadd(total, x)
            return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return lane(types.int64), generate

    return numba.njit(nogil=True)(lambda steps: loop(steps)), 2 * CHAINS * lanes


def window(dtype: str, vector_bytes: int, steps: int) -> tuple[Callable[[], None], int]:
    """Return a call of multiply-adds in vectors of a width, and the number of operations."""
    kernel, flops = _fma_loop(8 * vector_bytes, types.float32 if dtype == "float32" else types.float64)
    return lambda: kernel(steps), steps * flops


def prepare(dtype: str, threads: int) -> Callable[[float], tuple[float, float]]:
    """measure(seconds) -> GF/s of all threads together, on vectors of the fastest of WIDTHS."""
    lane = types.float32 if dtype == "float32" else types.float64
    kernels = [_fma_loop(bits, lane) for bits in WIDTHS]
    for kernel, _ in kernels:
        kernel(1)

    def measure(seconds):
        """GF/s by the wall clock and by the CPU clock (a thread's share)."""
        steps = int(seconds / WINDOWS / len(WIDTHS) * 2.5e9 / (CHAINS / 2))
        found = [
            rates([taken(partial(kernel, steps), threads) for _ in range(WINDOWS)], threads * steps * flops)
            for kernel, flops in kernels
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


# --- register tiles ---------------------------------------------------------------------------------

TAKEN = taken_by(types.float32)


def emit_repeated(build, arguments, kinds, code):
    """Write the calls of a stack. arguments : address, words of arguments, number of calls"""
    address, words, times = arguments
    given = []
    for place, kind in enumerate(TAKEN):
        if kind == types.float32:
            given.append(ir.Constant(ir.FloatType(), 0.0))
        else:
            is_place = kind == types.voidptr
            at = build.gep(words, [INT(place)], source_etype=INT)
            given.append(build.load(at, typ=POINTER if is_place else INT))
    nothing = ir.Constant(POINTER, None)
    signature = ir.FunctionType(ir.IntType(32), [POINTER, POINTER, *(value.type for value in given)])
    function = build.inttoptr(address, signature.as_pointer())
    with counted(build, Symbol(build, times)):
        build.call(function, [nothing, nothing, *given])


REPEATED = emitted("repeated_tile", emit_repeated)


def repeated(shape, times, a, b, order, c, **numbers):
    """Return a function that calls a stack of float32 tiles `times` times, from compiled code.

    shape : (kind, rows, vectors) of a tile of `ALL_TILES`; a, b, c : (n,) float32; order (n,) int64
    numbers : other fields of `microkernel.Stack`, 0 if not named
    """
    kind, rows, vectors = shape
    tiles = ALL_TILES[kind]
    places = {"a": a, "b": b, "order": order, "c": c}
    numbers |= {name: array.ctypes.data for name, array in places.items()}
    words = np.array([numbers.get(name, 0) for name in Stack._fields], np.int64)
    words[Stack._fields.index("finish")] = STORE
    address = compile_now(tiles.name, TAKEN, str(tiles.code(rows, vectors, True)))
    repeat = compile_now(REPEATED, (types.intp, types.voidptr, types.intp))
    function = ctypes.CFUNCTYPE(
        ctypes.c_int32, *(ctypes.c_void_p,) * 2, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
    )(repeat)
    # The arrays live as long as the call.
    return partial(_call, function, address, words, times, (a, b, order, c))


def _call(function, address, words, times, held):
    function(None, None, address, words.ctypes.data, times)
