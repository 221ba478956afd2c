"""Thread budgets: a training's part of this process's cores, and limits for the BLAS.

A BLAS has a single number of threads for the whole process. Of two simultaneous trainings the second finds
the limit of the first, so the second must not restore the found number. This module holds the limits of all
trainings. A BLAS with OpenMP threads may have a number for each calling thread: there a training limits its
thread's number.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from fastmlp.system import forks

# Laptops have efficiency cores beside fast ones. The workers of a step have equal parts, so the slowest core
# sets the pace of all: four fast cores and four of 0.4 of their speed do the work of 3.2.

EFFICIENCY = 0.4
"""An efficiency core's speed if the system gives none: half of the multiply-adds of a cycle, at 0.65 to 0.8
of the clock (Apple's M1, Intel's 12th generation)."""

KIND, EFFICIENCY_CLASS = slice(4, 8), 18
"""The offset of the kind in SYSTEM_CPU_SET_INFORMATION of Windows, and the byte of a core's speed class."""

OF_A_CORE = bytes(4)
"""The kind CpuSetInformation."""


@functools.cache
def worth_using(speeds: tuple[float, ...]) -> int:
    """Return the number of cores with the most work together, if the slowest core sets the pace."""
    sums = [count * speed for count, speed in enumerate(sorted(speeds, reverse=True), 1)]
    return sums.index(max(sums)) + 1


@functools.cache  # the machine has what it has
def speeds(cores: frozenset[int]) -> tuple[float, ...]:
    """Return the relative speed of each core; 1.0 if unknown."""
    if sys.platform == "darwin":
        return tuple(on_macos(len(cores), ctypes.CDLL(None)))
    if sys.platform == "win32":
        return tuple(on_windows(len(cores), ctypes.WinDLL("kernel32")))
    return tuple(on_linux(cores))


def on_linux(cores: Iterable[int], devices: Path = Path("/sys/devices")) -> list[float]:
    """Return the speeds by `cpu_capacity`, on ARM, or by the list of Intel's fast cores."""
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
    """Return the numbers of a list as "0-3,8"; nothing for other text."""
    found = set[int]()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first + last).isdecimal():
            return set()
        found.update(range(int(first), int(last or first) + 1))
    return found


lock = threading.RLock()  # a signal handler may fork while this thread holds it
forks.wait_for(lock)

limits: list[tuple[int, int]] = []
"""Thread and limit of each running training; the least limit is set."""

_running: list[int] = []
"""The threads of running trainings, for sharing the cores."""

BOUNDS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
"""Environment variables with a bound for the threads of a process; the first set variable counts.

joblib sets both in the processes of loky, Dask and Ray the second: these processes share the machine."""

_found: dict[tuple[str, int | None], tuple[Any, int]] = {}
"""The limited libraries, each with the earlier number of threads.

By file, and by the number's thread; None for a number of the whole process."""

_by_thread: dict[str, bool] = {}
"""True for a separate number in each thread, by the BLAS's file."""


def cores() -> int:
    """Return the number of usable cores, by the affinity and by the CPU quota of cgroups."""
    # joblib.cpu_count returns the same number, unless joblib's environment variable is set. Its import takes
    # 30 ms, a tenth of a first training with a warm cache.
    return math.ceil(min(allowed_cores(), quota()))


def usable_cores() -> int:
    """Return the number of cores for trainings: all usable cores, or a bound of `BOUNDS`."""
    for name in BOUNDS:
        given = os.environ.get(name)
        if not given:
            continue
        digits = given.partition(",")[0].strip().lstrip("0")  # OpenMP takes one number a level
        if digits.isascii() and digits.isdecimal():
            return min(cores(), int(digits[:9]))  # no machine has as many; int refuses 4300 digits
    return cores()


def available_cores() -> int:
    """Return the number of cores for a training now, an equal part among running trainings.

    Efficiency cores are left out if fast cores would have to wait.
    """
    several = usable_cores() // max(1, len(_running))
    of_cores = speeds(frozenset(affinity()))
    fast = worth_using(of_cores)
    return max(1, several if fast == len(of_cores) else min(fast, several))


class training:
    """Counts a training as running for the time of a `with` block."""

    def __enter__(self) -> None:
        _running.append(threading.get_ident())  # at once, as all that a list's methods do

    def __exit__(self, *error: object) -> None:
        _running.remove(threading.get_ident())


def forget_others() -> None:
    """Forget the trainings of other threads, after a fork: the new process has only the forking thread."""
    here = threading.get_ident()
    _running[:] = [thread for thread in _running if thread == here]
    limits[:] = [held for held in limits if held[0] == here]  # the next training gives the BLAS back
    for key in [key for key in _found if key[1] not in (None, here)]:
        del _found[key]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_others)


def affinity() -> set[int]:
    """Return the numbers of the cores of the process's affinity, regardless of a quota."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {*range(os.cpu_count() or 1)}


def allowed_cores() -> int:
    """Return the number of cores of the affinity."""
    return len(affinity())


@functools.cache  # reading it takes 60 us, a fifth of the smallest training
def quota(mounted: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPU quota of this process's cgroups, in cores, as 0.5; infinity without a quota.

    A container sees its group as the root. Under a service manager the group is below the root, and the
    quotas of all groups above count, too.

    Parameters
    ----------
    mounted : the folder of cgroups, version 2 or version 1's controllers
    membership : the groups of the process, a line for each hierarchy: "number:controllers:/group"
    """
    try:
        hierarchies = [line.split(":", 2) for line in membership.read_text().splitlines()]
    except OSError:  # no Linux
        return math.inf
    least = math.inf
    for _, controllers, group in hierarchies:
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = [name for name in group.split("/") if name not in ("", "..")]
        top = mounted / "cpu" if controllers else mounted
        for depth in range(len(names) + 1):
            least = min(least, _quota_of(top.joinpath(*names[:depth])))
    return least


def _quota_of(group: Path) -> float:
    """Return the quota in a group's files, in cores."""
    try:
        if (group / "cpu.max").exists():
            granted, period = (group / "cpu.max").read_text().split()
        else:
            granted = (group / "cpu.cfs_quota_us").read_text()
            period = (group / "cpu.cfs_period_us").read_text()
        # "max", or -1 in version 1: no bound
        return int(granted) / int(period) if granted != "max" and int(granted) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # there is no such group, or its files set no quota
        return math.inf


@functools.lru_cache(maxsize=1)
def blas_libraries(modules: int) -> list[Any]:
    """Return the loaded BLAS libraries.

    modules : the number of modules loaded by Python, the cache's key: a library is loaded with a module
    """
    # The search takes 0.6 ms, twice the smallest training.
    from threadpoolctl import ThreadpoolController

    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


def _hold(thread: int) -> None:
    for library in blas_libraries(len(sys.modules)):
        owner = thread if _limits_by_thread(library) else None
        _, found = _found.setdefault((library.filepath, owner), (library, library.num_threads))
        # Never more than the program has set itself.
        _set_threads(library, min(found, *_limits_of(owner)))


def _give_back(thread: int) -> None:
    """Set libraries to the remaining limits after the end of a thread's limit."""
    for (file, owner), (library, found) in list(_found.items()):
        # A number of the whole process is set from any thread; a thread's own number by that thread alone.
        if owner in (None, thread):
            left = _limits_of(owner)
            _set_threads(library, min([found, *left]))
            if not left:
                del _found[file, owner]


def _limits_of(owner: int | None) -> list[int]:
    """Return the limits of all threads, or of a single thread."""
    return [limit for thread, limit in limits if owner in (None, thread)]


def _limits_by_thread(library: Any) -> bool:
    """True if each thread has a separate number of a library's threads.

    So with OpenMP on Linux and macOS from threadpoolctl 3.7 on, but not with Microsoft's OpenMP.
    """
    if "openmp" not in (library.internal_api, getattr(library, "threading_layer", None)):
        return False
    if library.filepath not in _by_thread:
        before = library.num_threads
        # A number that another thread sets, and this thread does not see, is a separate number.
        other = threading.Thread(target=library.set_num_threads, args=(before - 1 or 2,))
        other.start()
        other.join()
        _by_thread[library.filepath] = library.num_threads == before
        # The trial in the other thread may have changed a number of the whole process.
        library.set_num_threads(before)
    return _by_thread[library.filepath]


def _set_threads(library: Any, threads: int) -> None:
    """Set the threads of a BLAS, from any thread."""
    # threadpoolctl 3.8 lets only the first thread that sets OpenBLAS's number change it, until that thread
    # ends.
    clear_controlling_thread = getattr(library, "clear_controlling_thread", None)
    if clear_controlling_thread is not None:
        clear_controlling_thread(force=True)
    library.set_num_threads(threads)
    if clear_controlling_thread is not None:
        clear_controlling_thread()


def blas_threads(threads: int | None) -> AbstractContextManager[None]:
    """Limit the BLAS of NumPy and SciPy to `threads` for the time of a `with` block.

    A lower limit set by the program stays. None sets a limit only for a CPU quota below the affinity: a BLAS
    reads the affinity, not the quota.
    """
    if threads is None:
        if quota() == math.inf or quota() >= allowed_cores():
            return nullcontext()
        threads = cores()
    return _limited(threads)


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    mine = threading.get_ident(), threads
    with lock:
        limits.append(mine)
        _hold(mine[0])
    try:
        yield
    finally:
        with lock:
            limits.remove(mine)
            _give_back(mine[0])


def found_blas_threads(most: int | None) -> int | None:
    """Return the number of threads of the BLAS under a limit of `most`; None without a BLAS."""
    with blas_threads(most):
        return max((library.num_threads for library in blas_libraries(len(sys.modules))), default=None)


# --- copies by several threads -----------------------------------------------------------------------------
# Large arrays are copied with the memory bandwidth of several cores. The first write to a page decides on the
# page's NUMA node: copied by parts, the pages of a vector are spread over the nodes of the threads, and the
# bandwidth of a single node does not bound all workers.

PART_BYTES = 1 << 22
"""The least work of a thread: half a millisecond, ten times a thread's start."""

PAGE = 4096
"""Bytes: parts begin at pages."""


def copy_arrays(
    sources: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]], threads: int | None = None
) -> None:
    """Copy vectors (n,) of equal length and dtype; threads : at most, None for all available cores."""
    if targets[0].nbytes < 2 * PART_BYTES:  # threads would take longer than most copies
        for source, target in zip(sources, targets, strict=True):
            target[...] = source
        return
    bounds = bounds_of_parts(
        targets[0].size, targets[0].itemsize, available_cores() if threads is None else threads
    )

    def copy_part(part: slice) -> None:
        for source, target in zip(sources, targets, strict=True):
            target[part] = source[part]

    _each(copy_part, [slice(*pair) for pair in pairwise(bounds)])


def bounds_of_parts(length: int, itemsize: int, threads: int) -> list[int]:
    """Return the start of each part of a vector, and the end."""
    count = max(1, min(threads, length * itemsize // PART_BYTES))
    unit = PAGE // itemsize
    return [0, *(length * part // count // unit * unit for part in range(1, count)), length]


def _each(call: Callable[[slice], None], parts: list[slice]) -> None:
    """Call a function for each part, in threads."""
    if len(parts) > 1:
        from concurrent.futures import ThreadPoolExecutor

        try:
            with ThreadPoolExecutor(len(parts)) as pool:
                list(pool.map(call, parts))
            return
        except RuntimeError:  # "can't start new thread"
            pass
    for part in parts:
        call(part)
