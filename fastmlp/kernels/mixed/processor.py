"""Whether this process can multiply bfloat16 numbers, and by which instruction. This file loads no compiler.

Linux lets a process use AMX's 8 KiB of tiles after one request, which holds for all of its threads:
arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), see Documentation/arch/x86/xstate.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

from fastmlp.kernels.codegen.machine import AVX512, host, processor

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18

VECTORS = ("avx512bf16", "avx512bw")
TILES = (*VECTORS, "amx-tile", "amx-bf16")
"""The features besides `machine.AVX512`, by LLVM's names. Tiles need those of vectors too, which pack operands."""


def why_no_vectors(needs: tuple[str, ...] = VECTORS) -> str | None:
    """Return why `vdpbf16ps` cannot be used here; None if it can."""
    _, cpu, features = processor()
    lacking = [name for name in needs if f"+{name}" not in features.split(",")]
    if host() != AVX512:
        lacking = ["avx512f"]
    return f"the processor ({cpu}) has no {' and no '.join(lacking)}" if lacking else None


@functools.cache
def why_no_tiles() -> str | None:
    """Return why `tdpbf16ps` cannot be used here; None if it can. This requests AMX's tiles of the system."""
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
"""Functions that return why a variant cannot run here, or None, by its name, the fastest first."""
