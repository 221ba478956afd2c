"""The system's functions for sleep until a word changes.

Compiled code calls the functions at its barrier, Python where a worker fails. Each compares the word and
begins to sleep in a single atomic action: futex(2), `WaitOnAddress`, `os_sync_wait_on_address`.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from typing import Any, NamedTuple

# A file apart from the barrier, because Python's calls must not load the compiler. The comparison and the
# begin of the sleep are atomic for the waker, who wakes all sleepers that could not yet see the store before.

WORD, VALUE, SEEN = "word", "value", "seen"
"""Arguments known to a call: the word's address; its value during sleep; the address of this value."""

FUTEX = {"x86_64": 202, "aarch64": 98}
"""The number of Linux's system call, by `platform.machine()`; the call compares the word's lower half."""

FUTEX_WAIT, FUTEX_WAKE = 128, 129
"""The call's operations for the threads of a single process."""

MOST_WOKEN = (1 << 31) - 1
FOREVER = (1 << 32) - 1
BYTES = 8


class Function(NamedTuple):
    """A function of the system's library: its name, and its arguments, numbers or WORD, VALUE and SEEN."""

    name: str
    arguments: tuple[int | str, ...]


class Functions(NamedTuple):
    """The functions of a system.

    sleep : returns once the word has another value, or another thread has woken all; wake : wakes all
    """

    sleep: Function
    wake: Function


def functions_of(system: str, machine: str, library: Any) -> Functions | None:
    """Return the functions of a system, or None.

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
    """Return the library of the system's functions."""
    if sys.platform == "win32":
        return ctypes.WinDLL("kernelbase")
    return ctypes.CDLL(None)


FUNCTIONS = functions_of(sys.platform, platform.machine(), _library())


def wake(address: int) -> None:
    """Wake all threads that sleep at the address of a changed word."""
    if FUNCTIONS is not None:
        name, arguments = FUNCTIONS.wake
        numbers = [address if isinstance(argument, str) else argument for argument in arguments]
        getattr(_library(), name)(*map(ctypes.c_int64, numbers))
