"""Whether this process may multiply bfloat16 numbers, and by which instruction; no compiler is needed to ask.

Linux gives a process the 8 KiB of AMX's tiles on demand, once, for all of its threads:
arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), see Documentation/arch/x86/xstate.rst of the kernel.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

from fastmlp.kernels.codegen.machine import AVX512, host, target

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA = 158, 0x1023, 18

VECTORS = ("avx512bf16", "avx512bw")
TILES = (*VECTORS, "amx-tile", "amx-bf16")
"""What either instruction needs beside `machine.AVX512`, by LLVM's names. Operands are packed by vectors."""


def why_no_vectors(needs: tuple[str, ...] = VECTORS) -> str | None:
    """Return why there is no `vdpbf16ps`; None if there is."""
    _, cpu, features = target()
    lacking = [name for name in needs if f"+{name}" not in features.split(",")]
    if host() != AVX512:
        lacking = ["avx512f"]
    return f"the processor ({cpu}) has no {' and no '.join(lacking)}" if lacking else None


@functools.cache
def why_no_tiles() -> str | None:
    """Return why there is no `tdpbf16ps`; None if there is, from now on."""
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
"""By the names of variants, the fastest first: what says why it cannot run here."""
