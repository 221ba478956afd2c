"""Machine code that came with fastmlp's wheel, for generic processors: an archive for each level of them.

It needs neither Numba nor a directory to write to. `fastmlp.kernels.jit.store` looks here for what the user's
cache does not hold. The names in an archive have a digest of the texts that the code is made of, and nothing
of the releases that compiled it; a checkout has no archives.
"""

from __future__ import annotations

import functools
import io
import os
import threading
import zipfile
from pathlib import Path
from typing import NamedTuple

from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codegen.machine import AVX2, AVX2_NEEDS, AVX512, AVX512_NEEDS, NEON, Machine, target
from fastmlp.system import forks

SWITCH = "FASTMLP_GENERIC"
"""The environment variable that turns the archives off if it is 0: nothing generic is loaded then."""

SETTINGS = ("BOUNDSCHECK", "OPT", "DEBUGINFO", "LOOP_VECTORIZE", "SLP_VECTORIZE")
"""NUMBA_* variables that machine code depends on, besides those that name the processor."""

PROCESSOR = ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX")
"""NUMBA_* variables that name the processor."""

PLACE = Path(__file__).parents[2] / "prebuilt"
"""The folder of the archives."""

lock = threading.RLock()
"""Held while an archive is read, which takes locks of Python's own; forks wait for it."""

forks.wait_for(lock, 8)


class Level(NamedTuple):
    """Processors that one archive serves.

    triples : how LLVM's name of their systems begins
    machine : whose shapes of tiles it has; code for other shapes has other pieces
    cpu, features : what to compile for, by LLVM's names; a processor must have all the features
    """

    triples: tuple[str, ...]
    machine: Machine
    cpu: str
    features: frozenset[str]

    @property
    def environment(self) -> dict[str, str]:
        """Variables for a process that compiles for the level."""
        features = ",".join(f"+{one}" for one in sorted(self.features))
        return {"NUMBA_CPU_NAME": self.cpu, "NUMBA_CPU_FEATURES": features}


V3 = frozenset(
    {*AVX2_NEEDS, "bmi", "bmi2", "cx16", "f16c", "lzcnt", "movbe", "popcnt", "sahf", "sse3", "xsave"}
)
V4 = frozenset({*V3, *AVX512_NEEDS, "avx512bw", "avx512cd", "avx512dq"})

LEVELS = {
    "x86-64-v3": Level(("x86_64",), AVX2, "x86-64-v3", V3),
    "x86-64-v4": Level(("x86_64",), AVX512, "x86-64-v4", V4),
    "aarch64": Level(("aarch64", "arm64"), NEON, "generic", frozenset()),
}
"""The levels, by the names that they have for compilers."""


@functools.cache
def level() -> str | None:
    """Return the level whose archive serves this processor; None where none does.

    None does where a variable of Numba's requires code of another kind.
    """
    changed = any(os.environ.get(f"NUMBA_{name}") for name in (*SETTINGS, *PROCESSOR))
    if changed or os.environ.get(SWITCH) == "0":
        return None
    triple, _, features = target()
    there = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    for name, one in LEVELS.items():
        fits = machine.host().tiles == one.machine.tiles and triple.startswith(one.triples)
        if fits and there >= one.features:
            return name
    return None


@functools.cache
def archive() -> zipfile.ZipFile | None:
    """Return the archive that serves this processor, in memory; None if there is none, or it is damaged."""
    name = level()
    try:
        return zipfile.ZipFile(io.BytesIO((PLACE / f"{name}.zip").read_bytes())) if name else None
    except Exception:  # OSError; and what zipfile raises of a damaged archive, which may be anything
        return None


def read(file: str) -> bytes | None:
    """Return the content of a file in the archive; None if there is none, or it is damaged."""
    with lock:
        found = archive()
        try:
            return None if found is None else found.read(file)
        except Exception:  # KeyError; and as above
            return None
