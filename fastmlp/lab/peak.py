"""The machine's own FMA rate: independent accumulators in vector registers and nothing else.

It takes turns with what it is compared with, so a fraction of it is against the clock of the same minute.
"""

# mypy: ignore-errors

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from statistics import fmean, median

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.kernels.codegen.machine import host

VERSION = numba.__version__

CHAINS = 24 if host().accumulators >= 24 else 12
"""At least the latency, 4, times the ports, 2 or 4; 12 fit into 16 registers, 24 into 32."""

WINDOWS = 5
"""The windows of time in which each width is measured."""

WIDTHS = (512, 256) if host().vector_bytes > 16 else (128,)
"""Bits of the vectors that are tried."""


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
    """Return a call that multiplies and adds in vectors of one width, and its operations."""
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
    """Return GF/s by each clock. windows : what `taken` returned for so many operations, again and again

    The least time by the wall clock counts, as others only add to it, and the median by the CPU clock: from
    that a virtual machine takes off what its host says that it had, and may do so too late. Where the CPU
    clock has not moved, as on Windows, whose ticks are of 16 ms, the wall clock counts for both.
    """
    wall, cpu = zip(*windows, strict=True)
    return operations / min(wall) / 1e9, operations / (median(cpu) or min(wall)) / 1e9


def taken(kernel: Callable[[], object], threads: int) -> tuple[float, float]:
    """Return the wall seconds of threads that each call a kernel, and the mean of their CPU seconds.

    Each thread reads its own time. Linux has another thread's, and with it the process's, as of that thread's
    last tick, up to 10 ms ago: a window of 8 ms looked half as long, and the peak twice as high.
    """
    own = []

    def work():
        began = time.thread_time()
        kernel()
        own.append(time.thread_time() - began)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - began, fmean(own)
