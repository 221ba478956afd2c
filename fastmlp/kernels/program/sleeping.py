"""The system's functions by which a thread sleeps until a word in memory changes.

Compiled code calls them at its barrier, Python where a worker fails. Separate from the barrier, because what
Python calls must not load the compiler. Each compares the word and begins to sleep in one step, as who wakes
sees it, and wakes those who would not yet have seen what was stored before: futex(2), `WaitOnAddress`,
`os_sync_wait_on_address`.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any, NamedTuple

WORD, VALUE, SEEN = "word", "value", "seen"
"""Arguments that a call knows: the word's address; what it holds while one sleeps; where that can be read."""

FUTEX = {"x86_64": 202, "aarch64": 98}
"""The number of Linux's system call, by `platform.machine()`. It compares the lower half of the word."""

FUTEX_WAIT, FUTEX_WAKE = 128, 129
"""Its operations for the threads of one process."""

MOST_WOKEN = (1 << 31) - 1
FOREVER = (1 << 32) - 1
BYTES = 8


class Function(NamedTuple):
    """A function of the system's library: its name, and its arguments, numbers or WORD, VALUE and SEEN."""

    name: str
    arguments: tuple[int | str, ...]


class Functions(NamedTuple):
    """sleep : returns once the word has another value, or another thread has woken all; wake : wakes all"""

    sleep: Function
    wake: Function


def functions_of(system: str, machine: str, library: Any) -> Functions | None:
    """Return the functions, None where there are none.

    system : `sys.platform`; machine : `platform.machine()`; library : has functions as attributes
    """
    if system == "win32":
        sleep = Function("WaitOnAddress", (WORD, SEEN, BYTES, FOREVER))
        return Functions(sleep, Function("WakeByAddressAll", (WORD,)))
    if system == "linux" and machine in FUTEX:
        number = FUTEX[machine]
        sleep = Function("syscall", (number, WORD, FUTEX_WAIT, VALUE, 0))
        return Functions(sleep, Function("syscall", (number, WORD, FUTEX_WAKE, MOST_WOKEN, 0)))
    if system == "darwin" and hasattr(library, "os_sync_wait_on_address"):  # from macOS 14.4 on
        sleep = Function("os_sync_wait_on_address", (WORD, VALUE, BYTES, 0))
        return Functions(sleep, Function("os_sync_wake_by_address_all", (WORD, BYTES, 0)))
    return None


def _library() -> Any:
    """Return what has the system's functions."""
    if sys.platform == "win32":
        return ctypes.WinDLL("kernelbase")
    return ctypes.CDLL(None)


FUNCTIONS = functions_of(sys.platform, platform.machine(), _library())


def wake(address: int) -> None:
    """Wake all threads that sleep until the word at an address changes, which it has."""
    if FUNCTIONS is not None:
        name, arguments = FUNCTIONS.wake
        numbers = [address if isinstance(argument, str) else argument for argument in arguments]
        getattr(_library(), name)(*map(ctypes.c_int64, numbers))
