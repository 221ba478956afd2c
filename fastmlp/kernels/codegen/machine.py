"""The target machine, described by a few numbers; no other file reads the instruction set."""

from __future__ import annotations

import functools
import os
from typing import NamedTuple

from llvmlite import binding, ir
from llvmlite.binding import ffi

from fastmlp.system import forks

# Every call of LLVM takes it, and this module makes the first ones. llvmlite 0.44 to 0.50.
forks.wait_for(ffi.lib._lock._lock, 4)


class Machine(NamedTuple):
    """Numbers of the machine: shapes of tiles, and slow instructions.

    vector_bytes : width of a register
    shapes : for each number of vectors across a tile, from 1, the numbers of rows that a tile may have
    row : the most vectors across a tile of one row
    masks : whether a masked load costs little more than a plain load (AVX-512, SVE). Then only the tallest
        tiles exist without a mask too; elsewhere every tile does.
    constant_masks : whether masks of tiles must be constants, with a tile for each number of lanes
    pack_rows : rows of x from which on W is copied into panels
    pack_deltas : rows of weights from which on deltas are copied into panels for the weights' gradient
    crowded_rows : rows of a batch from which on columns of x are copied into strips for the gradient of large
        layers, where the distance of rows of x is a multiple of 2 KB
    accumulators : the most accumulators of a tile of constant strides: registers less operands
    approximates_roots : whether there are instructions for 1/sqrt(x) and 1/x to 14 bits
    fma_ports, fma_latency : multiply-adds of a vector in a cycle, and cycles of a multiply-add
    load_order : the letter of a vector register in inline assembly, where LLVM must be made to keep the order
        of a tile's loads; else empty
    keeps_constants : whether LLVM must be made to keep float64 constants in registers or on the stack
    """

    vector_bytes: int
    # The rows * vectors accumulators, `vectors` vectors of B and one broadcast of A must fit in the register file. Few
    # numbers of rows are listed, because each tile costs about 12 ms of compilation when first needed. A tile of few
    # rows waits for the latency of its FMAs: two tiles of one row, for the rows that the tallest tiles leave, were a
    # twentieth of a step of 600-90-10 with 90 rows; one tile of two rows takes half of that.
    shapes: tuple[tuple[int, ...], ...]
    # With few vectors a tile of one row waits for the latency of its FMAs: 784-128 took 6.1 us a row by three vectors.
    row: int = 8
    masks: bool = False
    # Without masked loads LLVM writes a branch for each lane of a mask that is not constant: by llvm-mca for
    # `neoverse-n1` a round of a masked 8x1 tile took 27 cycles, now 6 to 10, and its three texts are shorter than one.
    constant_masks: bool = False
    # With AVX-512 a tile uses each vector of W often enough for W to come from L2: NEVER. 4x3 tiles of 8 lanes went
    # from 0.75 of peak to 0.88 at 128 x 784 x 128. At 32 rows the copy pays (in float64 the product takes 0.89 of the
    # time); at 16 rows it costs a tenth.
    pack_rows: int = 32
    # In place 128 x 128 takes 0.95 of its time with AVX-512 and 0.97 with AVX2 (batches of 128 rows), 256 x 256 takes
    # 0.99 and 1.05, 784 x 128 takes 1.02 and 1.06.
    pack_deltas: int = 256
    # The lines of such rows share a few sets of L1. A tile of four rows reads each line four times: with AVX2 steps of
    # 64 rows took 0.88 (1024-1024-10) to 0.96 (784-1024-1024-10) of their time. With AVX-512, whose tiles have eight
    # rows, 100 rows of 512-1024-1024-10 took 1.05 times as long.
    crowded_rows: int = 128
    # LLVM loads neighbouring operands together and early: of 12 accumulators on 16 registers it kept some on the
    # stack, and products ran at half of the speed.
    accumulators: int = 24
    approximates_roots: bool = False
    fma_ports: int = 2
    fma_latency: int = 4
    # For some processors LLVM loads early what is needed late, and keeps accumulators on the stack: a round of 12x2
    # tiles took 28 cycles by llvm-mca for `skylake-avx512`, now 13; one of 8x3 tiles over ordered terms 33.5 for
    # `neoverse-n1`, now 12.5. For AVX2 LLVM does not, and weight gradients of ordered rows lost a sixth by it.
    load_order: str = ""
    # For NEON LLVM forms each constant anew in every round, by five instructions: two numbers of erf took 282, now 140,
    # and 71 cycles by llvm-mca for `neoverse-n1`, now 60; gelu's derivative 68, now 54. With SVE it loads them.
    keeps_constants: bool = False

    @property
    def tiles(self) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """The key of the shapes of tiles: processors with the same key run each other's code."""
        return self.vector_bytes, self.shapes

    @property
    def vectors(self) -> int:
        """The most vectors across a tile of several rows."""
        return len(self.shapes)


NEVER = 1 << 62

MOST_HEIGHT = 8
"""The most rows of a tile in a small network's product."""

# 32 registers: 8x3 and 12x2 reach 0.97 to 1.0 of peak, 8x2 0.90, 12x1 0.78, 8x1 0.70.
WIDE = ((1, 2, 4, 8, 12), (1, 2, 4, 6, 8, 12), (1, 2, 4, 6, 8))
NARROW = ((1, 2, 4, 8), (1, 2, 4, 6), (1, 2, 4))  # 16 registers
AVX512 = Machine(
    64, WIDE, masks=True, pack_rows=NEVER, pack_deltas=512, approximates_roots=True, load_order="v"
)
AVX2 = Machine(32, NARROW, crowded_rows=64, accumulators=9)
NEON = Machine(16, WIDE, constant_masks=True, load_order="w", keeps_constants=True)
SSE = Machine(16, NARROW, constant_masks=True, accumulators=9)

AVX2_NEEDS = {"sse3", "ssse3", "sse4.1", "sse4.2", "avx", "avx2", "fma"}
AVX512_NEEDS = {*AVX2_NEEDS, "f16c", "avx512f", "avx512vl"}
"""The features of each instruction set by LLVM's names, all of them needed."""

FOUR_PORTS = ("apple-", "cortex-x", "grace", "neoverse-v", "oryon-")
"""Prefixes of LLVM's names of ARM processors with four multiply-adds of vectors a cycle; elsewhere two."""


PROCESSOR = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX")
"""Numba's variables for the target processor; with any of them no level is used."""


class Level(NamedTuple):
    """Processors that run the same machine code.

    triples : prefixes of LLVM's names of their systems
    cpu, features : the compilation's target by LLVM's names; a processor must have all the features
    beyond : features for products of bfloat16 numbers, used where the processor has them
    """

    triples: tuple[str, ...]
    cpu: str
    features: frozenset[str]
    beyond: frozenset[str] = frozenset()


V3 = frozenset(
    {*AVX2_NEEDS, "bmi", "bmi2", "cx16", "f16c", "lzcnt", "movbe", "popcnt", "sahf", "sse3", "xsave"}
)
V4 = frozenset({*V3, *AVX512_NEEDS, "avx512bw", "avx512cd", "avx512dq"})

# Steps took 0.99 of the time of code for the exact processor (0.96 to 1.03 in nine trainings, Zen 4).
LEVELS = {
    "x86-64-v4": Level(("x86_64",), "x86-64-v4", V4, frozenset({"avx512bf16", "amx-tile", "amx-bf16"})),
    "x86-64-v3": Level(("x86_64",), "x86-64-v3", V3),
    "apple-m1": Level(("arm64-apple", "aarch64-apple"), "apple-m1", frozenset()),
    "neoverse-v1": Level(("aarch64", "arm64"), "neoverse-v1", frozenset({"bf16", "i8mm", "sve"})),
    "aarch64": Level(("aarch64", "arm64"), "generic", frozenset()),
}
"""The levels by their names in compilers; a processor's best level is the first it meets."""

LEVEL = "FASTMLP_LEVEL"
"""The environment variable of the level to compile for, in place of the best level."""


@functools.cache
def processor() -> tuple[str, str, str]:
    """Return the triple, the processor and its features by LLVM's names: Numba's `CPUCodegen.magic_tuple`."""
    name = os.environ.get("NUMBA_CPU_NAME") or binding.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES", "" if name.lower() == "generic" else None)
    if features is None:
        host_features = binding.get_host_cpu_features()
        # Numba's own list of processors whose virtual machines report AVX and do not support it.
        without = {"corei7-avx", "core-avx-i", "sandybridge", "ivybridge", "nocona"}
        enabled = os.environ.get("NUMBA_ENABLE_AVX")
        if int(enabled) == 0 if enabled else name in without:
            host_features.update(
                dict.fromkeys((feature for feature in host_features if feature.startswith("avx")), False)
            )
        features = host_features.flatten()
    return binding.get_process_triple(), name, features


def has_features() -> set[str]:
    """Return the features of the processor by LLVM's names."""
    return {feature[1:] for feature in processor()[2].split(",") if feature.startswith("+")}


_given: list[str] = []
"""The level of `compile_for`."""


def compile_for(name: str) -> None:
    """Compile in this process for a level, before anything is compiled; the processor need not meet the level."""
    _given[:] = [name]


@functools.cache
def level() -> str | None:
    """Return the target level; None where the target is the processor itself.

    Raises
    ------
    ValueError
        If `LEVEL` names an unknown level, or a level not met by this processor.
    """
    if _given:
        return _given[0]
    named = os.environ.get(LEVEL) or None
    if named is None and any(map(os.environ.get, PROCESSOR)):
        return None
    there = has_features()
    met = [
        name
        for name, level in LEVELS.items()
        if processor()[0].startswith(level.triples) and there >= level.features
    ]
    if named is not None and named not in met:
        raise ValueError(
            f"{LEVEL} must be a level that this processor meets: {', '.join(met)}; got {named!r}"
        )
    return named or next(iter(met), None)


@functools.cache
def target() -> tuple[str, str, str]:
    """Return the triple, processor and features of the target by LLVM's names."""
    name = level()
    if name is None:
        return processor()
    _, cpu, features, beyond = LEVELS[name]
    wanted = features if _given else features | beyond & has_features()
    return processor()[0], cpu, ",".join(f"+{feature}" for feature in sorted(wanted))


@functools.cache
def host() -> Machine:
    """Return the `Machine` of the target of compilations."""
    return machine_of(*target())


def machine_of(triple: str, name: str, features: str) -> Machine:
    """Return the `Machine` of a triple, processor and features, in LLVM's form: "+avx,-avx2"."""
    named = {feature[1:]: feature[0] == "+" for feature in features.split(",") if feature}
    on, off = ({name for name in named if named[name] == there} for there in (True, False))
    if on >= {"avx512f", "avx512vl"} and not off & AVX512_NEEDS:
        return AVX512
    if on >= {"avx2", "fma"} and not off & AVX2_NEEDS:
        return AVX2
    if not triple.startswith(("aarch64", "arm64")):
        return SSE
    has_masks, ports = "sve" in on, 4 if name.startswith(FOUR_PORTS) else 2
    without = not has_masks
    return NEON._replace(masks=has_masks, constant_masks=without, keeps_constants=without, fma_ports=ports)


# --- subnormal numbers ---------------------------------------------------------------------------------
#
# They count as 0 while a program trains. A training that has nearly converged fills Adam's moments with subnormal
# numbers, and x86 takes some hundred cycles for each: 30-100-1 slowed from 14 to 27 us a step. The processor has a
# switch for each thread, which an entry point sets at its begin, and restores at its end.

SWITCHES = 1 << 15 | 1 << 6
"""Flush to zero, and denormals are zero: bits of MXCSR (Intel's manual, volume 1, 10.2.3)."""

X86 = binding.get_process_triple().startswith(("x86_64", "i386", "i686"))
"""True on x86. Elsewhere nothing is done: other common processors are not slowed by subnormal numbers."""

WORD = ir.IntType(32)


def flushing_arithmetic(builder):
    """Emit the switch to arithmetic with 0 for subnormal numbers; return the state before, for `arithmetic`."""
    return _switch(builder, lambda before: builder.or_(before, ir.Constant(WORD, SWITCHES)))


def normal_arithmetic(builder):
    """Emit the switch to arithmetic with subnormal numbers; return the state before, for `arithmetic`."""
    return _switch(builder, lambda before: builder.and_(before, ir.Constant(WORD, ~SWITCHES)))


def arithmetic(builder, before):
    """Emit the return to the arithmetic before a switch."""
    if X86:
        _call(builder, "ldmxcsr", before)


def _switch(builder, change):
    if not X86:
        return ir.Constant(WORD, 0)
    before = builder.load(_call(builder, "stmxcsr"))
    _call(builder, "ldmxcsr", change(before))
    return before


def _call(builder, name, word=None):
    """Emit an instruction on an address in memory, which holds a word; return the address."""
    with builder.goto_entry_block():
        address = builder.alloca(WORD)
    if word is not None:
        builder.store(word, address)
    name, module = f"llvm.x86.sse.{name}", builder.module
    kind = ir.FunctionType(ir.VoidType(), [address.type])
    builder.call(module.globals.get(name) or ir.Function(module, kind, name), [address])
    return address
