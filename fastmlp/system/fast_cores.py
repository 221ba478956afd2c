"""How many cores are fast enough for workers that wait for one another.

Laptops have efficiency cores beside fast ones. The workers of a step have equal shares, so the slowest core
sets the pace of all: four fast cores and four of 0.4 of their speed do the work of 3.2.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

EFFICIENCY = 0.4
"""An efficiency core's speed where the system does not tell: half of the multiply-adds of a cycle, at 0.65 to
0.8 of the clock (Apple's M1, Intel's 12th generation)."""

KIND, EFFICIENCY_CLASS = slice(4, 8), 18
"""Where SYSTEM_CPU_SET_INFORMATION of Windows has its kind, and the byte that grows with a core's speed."""

OF_A_CORE = bytes(4)
"""The kind CpuSetInformation."""


@functools.cache
def worth_using(speeds: tuple[float, ...]) -> int:
    """Return how many of these cores do most together, where the slowest of them sets the pace."""
    sums = [count * speed for count, speed in enumerate(sorted(speeds, reverse=True), 1)]
    return sums.index(max(sums)) + 1


@functools.cache  # the machine has what it has
def speeds(cores: frozenset[int]) -> tuple[float, ...]:
    """Return the speed of each of these cores relative to one another; 1.0 where that is not known."""
    if sys.platform == "darwin":
        return tuple(on_macos(len(cores), ctypes.CDLL(None)))
    if sys.platform == "win32":
        return tuple(on_windows(len(cores), ctypes.WinDLL("kernel32")))
    return tuple(on_linux(cores))


def on_linux(cores: Iterable[int], devices: Path = Path("/sys/devices")) -> list[float]:
    """Return the speeds by `cpu_capacity`, which ARM's kernels have, or by the list of Intel's fast cores."""
    known = [_text(devices / f"system/cpu/cpu{core}/cpu_capacity") for core in cores]
    if all(text.isdecimal() for text in known):
        return [float(text) for text in known]
    fast = _numbers(_text(devices / "cpu_core/cpus"))
    return [1.0 if not fast or core in fast else EFFICIENCY for core in cores]


def on_macos(cores: int, library: Any) -> list[float]:
    """Return the speeds by `hw.perflevel0.logicalcpu`, the number of performance cores."""
    number, length = ctypes.c_int32(cores), ctypes.c_size_t(4)
    given = ctypes.byref(number), ctypes.byref(length), None, ctypes.c_size_t(0)
    unknown = library.sysctlbyname(b"hw.perflevel0.logicalcpu", *given)
    fast = cores if unknown else min(number.value, cores)
    return [1.0] * fast + [EFFICIENCY] * (cores - fast)


def on_windows(cores: int, library: Any) -> list[float]:
    """Return the speeds by the efficiency classes of `GetSystemCpuSetInformation`."""
    length, process = ctypes.c_ulong(0), ctypes.c_void_p(0)
    library.GetSystemCpuSetInformation(None, 0, ctypes.byref(length), process, 0)
    found = ctypes.create_string_buffer(length.value)
    found_all = library.GetSystemCpuSetInformation(found, length, ctypes.byref(length), process, 0)
    classes, rest = [], found.raw[: length.value] if found_all else b""
    while len(rest) > EFFICIENCY_CLASS:
        if rest[KIND] == OF_A_CORE:  # Microsoft asks to pass over what may come besides
            classes.append(rest[EFFICIENCY_CLASS])
        rest = rest[max(1, int.from_bytes(rest[:4], "little")) :]  # its first number is its own length
    if len(classes) < cores:
        return [1.0] * cores
    return [1.0 if one == max(classes) else EFFICIENCY for one in classes]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _numbers(text: str) -> set[int]:
    """Return the numbers of a list as "0-3,8"; nothing if it is no such list."""
    found = set[int]()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first + last).isdecimal():
            return set()
        found.update(range(int(first), int(last or first) + 1))
    return found
