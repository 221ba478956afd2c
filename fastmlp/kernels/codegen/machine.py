"""The target machine, described by a few numbers: no other file asks which instruction set there is."""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

from llvmlite import binding


class Machine(NamedTuple):
    """What decides the shapes of tiles, and what is slow.

    vector_bytes : width of one register
    shapes : for each number of vectors across a tile, from 1, the numbers of rows it may have;
        rows * vectors accumulators, `vectors` of B and one broadcast of A must fit in the
        register file. Few rows are listed, as each costs about 12 ms of compilation where it is needed. What is left
        below the tallest tiles waits for its FMAs: two tiles of one row were a twentieth of a step of 600-90-10 with
        90 rows, one of two rows is half of that.
    row : the most vectors across a tile of one row, which waits for its FMAs where they are few:
        a row through 784-128 took 6.1 us by three vectors
    masks : whether a masked load costs little more than a plain one (AVX-512: one instruction more).
        Then only the tallest tiles exist without a mask too; elsewhere every tile does.
    pack_rows : the rows of x from which on W is copied into panels wherever its rows lie. A tile of AVX-512
        does enough with each vector of W that it may come from L2; 4x3 tiles of 8 lanes went from 0.75 of peak
        to 0.88 at 128 x 784 x 128. At 32 rows the copy pays for itself (in float64 the product takes 0.89
        of the time), at 16 it costs a tenth.
    accumulators : vectors that a tile may sum in whose strides are known when it is written: what the registers
        leave beside its operands. LLVM loads operands that lie side by side together, before it needs them: of
        12 sums on 16 registers it kept some on the stack, and products ran at half of the speed.
    approximates_roots : whether there are instructions for 1/sqrt(x) and 1/x to 14 bits
    fma_ports, fma_latency : multiply-adds of a vector in a cycle, and cycles until one is done
    settles : the letter by which a piece of assembly takes a vector register where LLVM must be told to keep the
        order of a tile's loads, else nothing. For some processors with AVX-512 it loads early what is needed late,
        and keeps sums on the stack: a round of 12x2 tiles took 28 cycles by llvm-mca for `skylake-avx512`, now 13.
        For AVX2 it does not, and weight gradients of ordered rows lost a sixth.
    """

    vector_bytes: int
    shapes: tuple[tuple[int, ...], ...]
    row: int = 8
    masks: bool = False
    pack_rows: int = 32
    accumulators: int = 24
    approximates_roots: bool = False
    fma_ports: int = 2
    fma_latency: int = 4
    settles: str = ""

    @property
    def vectors(self) -> int:
        """The most vectors across a tile."""
        return len(self.shapes)


NEVER = 1 << 62

MOST_HEIGHT = 8
"""Rows of a tile of a small network's product."""

# 32 registers: 8x3 and 12x2 reach 0.97 to 1.0 of peak, 8x2 0.90, 12x1 0.78, 8x1 0.70.
WIDE = ((1, 2, 4, 8, 12), (1, 2, 4, 6, 8, 12), (1, 2, 4, 6, 8))
NARROW = ((1, 2, 4, 8), (1, 2, 4, 6), (1, 2, 4))  # 16 registers
AVX512 = Machine(64, WIDE, masks=True, pack_rows=NEVER, approximates_roots=True, settles="v")
AVX2 = Machine(32, NARROW, accumulators=9)
NEON = Machine(16, WIDE)
SSE = Machine(16, NARROW, accumulators=9)

AVX2_NEEDS = {"sse3", "ssse3", "sse4.1", "sse4.2", "avx", "avx2", "fma"}
AVX512_NEEDS = {*AVX2_NEEDS, "f16c", "avx512f", "avx512vl"}
"""By LLVM's names. Whoever turns one off turns off what is built on it."""


@functools.cache
def target() -> tuple[str, str, str]:
    """The triple, processor and features that Numba compiles for, by LLVM's names, found without Numba.

    As Numba's `CPUCodegen.magic_tuple`, which heeds NUMBA_CPU_NAME, NUMBA_CPU_FEATURES and NUMBA_ENABLE_AVX.
    """
    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES", "" if name.lower() == "generic" else None)
    if features is None:
        found = binding.get_host_cpu_features()
        # Numba's own list of processors whose virtual machines tell of AVX in vain.
        without = {"corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona"}
        enabled = os.environ.get("NUMBA_ENABLE_AVX")
        if int(enabled) == 0 if enabled else name in without:
            found.update(dict.fromkeys((feature for feature in found if feature.startswith("avx")), False))
        features = found.flatten()
    return binding.get_process_triple(), name, features


@functools.cache
def host() -> Machine:
    """The `Machine` Numba compiles for."""
    triple, _, features = target()
    return machine_of(triple, features)


def machine_of(triple: str, features: str) -> Machine:
    """The `Machine` of a target.

    features : as LLVM takes them, "+avx,-avx2"
    """
    named = {feature[1:]: feature[0] == "+" for feature in features.split(",") if feature}
    on, off = ({name for name in named if named[name] == there} for there in (True, False))
    if on >= {"avx512f", "avx512vl"} and not off & AVX512_NEEDS:
        return AVX512
    if on >= {"avx2", "fma"} and not off & AVX2_NEEDS:
        return AVX2
    return NEON if triple.startswith(("aarch64", "arm64")) else SSE
