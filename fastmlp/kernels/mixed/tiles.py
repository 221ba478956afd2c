"""Tiles of bfloat16 numbers: the processor's instructions, sizes, and buffers. Loads no compiler.

Linux lets a process use AMX's 8 KiB of tiles after one request, which holds for all of its threads:
arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), see Documentation/arch/x86/xstate.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fastmlp.kernels.codegen.machine import AVX512, host, processor
from fastmlp.model.state import takes_bfloat16

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18

VECTORS = ("avx512bf16", "avx512bw")
TILES = (*VECTORS, "amx-tile", "amx-bf16")
"""Features besides `machine.AVX512`, by LLVM's names. Vectors pack the operands of tiles, too."""


def why_no_vectors(needs: tuple[str, ...] = VECTORS) -> str | None:
    """Return why `vdpbf16ps` cannot be used here, or None."""
    _, cpu, features = processor()
    lacking = [name for name in needs if f"+{name}" not in features.split(",")]
    if host() != AVX512:
        lacking = ["avx512f"]
    return f"the processor ({cpu}) has no {' and no '.join(lacking)}" if lacking else None


@functools.cache
def why_no_tiles() -> str | None:
    """Return why `tdpbf16ps` cannot be used here, or None. The call requests AMX's tiles of the system."""
    if reason := why_no_vectors(TILES):
        return reason
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} gives no process AMX's tiles in a way that is known here"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0:
        return "the system gives this process none of AMX's tiles (arch_prctl)"
    return None


WHY_NOT: dict[str, Callable[[], str | None]] = {
    "bfloat16_amx": why_no_tiles,
    "bfloat16_avx512": why_no_vectors,
}
"""Functions of the reason why a variant cannot run here, or None; the fastest variant first."""


SIDE, TERMS, TILE_BYTES = 16, 32, 1024
"""Rows of a tile, and columns of a tile of sums; terms of the product of two tiles; bytes of a tile."""

BLOCK = 2 * SIDE
"""Rows and columns of a block of sums, two tiles by two: with two tiles of each operand these are AMX's eight."""

ROOM_ROW = 4 * BLOCK
"""Bytes of a row of a block."""

SLICE_ROWS = 256
"""Rows of a slice of the gradient: many, because all deltas of the batch are packed again for each slice."""


def whole(count: Any, unit: int) -> Any:
    """Return a count rounded up to a multiple of a unit."""
    return (count + (unit - 1)) // unit * unit


def buffers(products: Sequence[tuple[int, int]], rows: int) -> dict[str, int]:
    """Return the lengths of a network's buffers in float32s: the sums of a block, and the largest product's operands."""
    scratch = slices = 0
    for n_in, n_out in products:
        if takes_bfloat16(n_in, n_out):
            shapes = (rows, n_in), (n_in, n_out), (rows, n_out)
            operands = sorted(whole(a, BLOCK) * whole(b, BLOCK) // 2 for a, b in shapes)
            scratch = max(scratch, sum(operands[1:]) + BLOCK * BLOCK)
            slices = max(slices, SLICE_ROWS * n_out)
    return {"scratch": scratch, "slices": slices}
