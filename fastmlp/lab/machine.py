"""The machine of a measurement: a description, the measured peak and bandwidths."""

from __future__ import annotations

import glob
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastmlp import __version__
from fastmlp.kernels.codegen.machine import host
from fastmlp.lab import peak
from fastmlp.model.layout import aligned
from fastmlp.model.state import DTYPES

PACKAGES = ("numba", "llvmlite", "numpy", "scipy")

CACHES = "/sys/devices/system/cpu/cpu0/cache/index*"
"""Linux's folders of caches."""

BEYOND_CACHES = 64 << 20
"""Bytes of an array that caches hardly hold."""


class CacheLevel(NamedTuple):
    """A level of memory: size in bytes, and bytes a second, read and written by a thread."""

    name: str
    size: int
    bandwidth: float


class MeasuredMachine(NamedTuple):
    """A machine with measured limits.

    peak : by dtype, a thread's multiply-adds a second, counted as 2; levels : of memory, the nearest first
    """

    cpu: str
    cores: int
    vector_bits: int
    fma_ports: int
    versions: dict[str, str]
    peak: dict[str, float]
    levels: list[CacheLevel]

    def level_of(self, size: float) -> CacheLevel:
        """Return the nearest level of memory that holds so many bytes."""
        return next((level for level in self.levels if size <= level.size), self.levels[-1])


def measured(seconds: float = 0.1) -> MeasuredMachine:
    """Return this machine; each measured number takes about so many seconds."""
    from fastmlp.system.budget import cores

    versions = {"fastmlp": __version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in PACKAGES}
    peaks = {dtype: peak.prepare(dtype, 1)(seconds)[1] * 1e9 for dtype in DTYPES}
    levels = [
        CacheLevel(name, size, _bandwidth(min(size // 2, BEYOND_CACHES), seconds))
        for name, size in [*cache_sizes(), ("memory", 1 << 62)]
    ]
    vector_bits, ports = 8 * host().vector_bytes, host().fma_ports
    return MeasuredMachine(cpu(), cores(), vector_bits, ports, versions, peaks, levels)


def cpu() -> str:
    """Return the processor's name, on Linux with family and model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    which = ", ".join(f"{key} {said[key]}" for key in ("cpu family", "model", "stepping") if key in said)
    return said.get("model name", platform.machine()) + (f" ({which})" if which else "")


def _text_of(path: Path) -> str:
    """Return a system file's text; "" for an unreadable file."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def cache_sizes() -> list[tuple[str, int]]:
    """Return names and bytes of the data caches; usual sizes elsewhere than on Linux."""
    found = {}
    for folder in map(Path, glob.glob(CACHES)):
        # A virtual machine, a container or another kernel may leave out any of them.
        kind, size, level = (_text_of(folder / name) for name in ("type", "size", "level"))
        amount = re.fullmatch(r"(\d+)([KM])", size)
        if kind != "Instruction" and amount and level:
            found[f"L{level}"] = int(amount[1]) << {"K": 10, "M": 20}[amount[2]]
    return sorted(found.items()) or [("L1", 32 << 10), ("L2", 1 << 20), ("L3", 16 << 20)]


@numba.njit(nogil=True)  # type: ignore[untyped-decorator]
def _scaled(source: NDArray[Any], target: NDArray[Any], times: int) -> None:
    for t in range(times):
        factor = np.float32(1 + t % 2)  # with equal factors LLVM would make the passes one
        for i in range(len(source)):
            target[i] = factor * source[i]


def _bandwidth(size: int, seconds: float) -> float:
    """Return a thread's bandwidth over two arrays of `size` bytes together."""
    source, target = (aligned(size // 8, np.float32) for _ in range(2))
    source[:] = 1
    target[:] = 0  # the system gives pages at the first write
    _scaled(source, target, 1)
    times, best = 1, 0.0
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        _scaled(source, target, times)
        taken = time.perf_counter() - began
        best = max(best, 2 * source.nbytes * times / taken)
        if taken < seconds / 8:
            times *= 2
    return best
