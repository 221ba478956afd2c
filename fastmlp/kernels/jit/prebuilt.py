"""Machine code that came with fastmlp's wheel, for generic processors: a folder for each level of them.

It needs neither Numba nor a directory to write to. `fastmlp.kernels.jit.store` looks here for what the user's
cache does not hold. The names of its files have a digest of the texts that the code is made of, and nothing
of the releases that compiled it; a checkout has no such folders. They are plain files: to open a zip file of
850 of them took a new process 4 ms.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple

from fastmlp.kernels.codegen import machine
from fastmlp.kernels.codegen.machine import AVX2, AVX2_NEEDS, AVX512, AVX512_NEEDS, NEON, Machine, target

SWITCH = "FASTMLP_GENERIC"
"""The environment variable that turns all of this off if it is 0: nothing generic is loaded then."""

SETTINGS = ("BOUNDSCHECK", "OPT", "DEBUGINFO", "LOOP_VECTORIZE", "SLP_VECTORIZE")
"""NUMBA_* variables that machine code depends on, besides those that name the processor."""

PROCESSOR = ("CPU_NAME", "CPU_FEATURES", "ENABLE_AVX")
"""NUMBA_* variables that name the processor."""

PLACE = Path(__file__).parents[2] / "prebuilt"
"""The folder of the levels' folders."""


class Level(NamedTuple):
    """Processors that one folder serves.

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
    """Return the level whose code serves this processor; None where none does.

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


def read(level: str, file: str) -> bytes | None:
    """Return the content of a level's file; None if there is none."""
    try:
        return (PLACE / level / file).read_bytes()
    except OSError:
        return None


def sizes(level: str) -> list[int]:
    """Return the bytes of each file of a level."""
    return [file.stat().st_size for file in (PLACE / level).glob("*")]
