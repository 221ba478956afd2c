"""The workers of a program: Python threads, and the system's functions for sleep until a word changes.

Workers run without Python's lock, and are started for a chunk of about 0.2 s: a start costs some 50 us, and a
fork, an exception or a second fit finds no pool in a wrong state. Within a chunk workers meet at an atomic
barrier (`fastmlp.kernels.program.barrier`), which orders writes among workers. Python's writes before a chunk
and reads after a chunk are ordered by the start and the end of threads, and by Python's lock for a single
worker.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastmlp.kernels.program.records import ABANDONED, CLOSED, GENERATION, NODE, address_of

# --- the system's functions ----------------------------------------------------------------------------
#
# Compiled code calls the functions at its barrier, Python where a worker fails; so this file must not load
# the compiler. Each function compares the word and begins to sleep in a single atomic action: futex(2),
# `WaitOnAddress`, `os_sync_wait_on_address`. The action is atomic for the waker, who wakes all sleepers that
# could not yet see the store before.

WORD, VALUE, SEEN = "word", "value", "seen"
"""Arguments known to a call: the word's address; its value during sleep; the address of this value."""

FUTEX = {"x86_64": 202, "aarch64": 98}
"""The number of Linux's system call, by `platform.machine()`; the call compares the word's lower half."""

FUTEX_WAIT, FUTEX_WAKE = 128, 129
"""The call's operations for the threads of a single process."""

MOST_WOKEN, FOREVER, BYTES = (1 << 31) - 1, (1 << 32) - 1, 8

Function = tuple[str, tuple["int | str", ...]]
"""A function of the system's library: the name, and its arguments, numbers or WORD, VALUE and SEEN."""


def functions_of(system: str, machine: str, library: Any) -> dict[str, Function]:
    """Return the functions of a system: "sleep", until the word has another value; "wake", of all sleepers.

    system : `sys.platform`; machine : `platform.machine()`; library : has functions as attributes
    """
    if system == "win32":
        sleep: Function = "WaitOnAddress", (WORD, SEEN, BYTES, FOREVER)
        return {"sleep": sleep, "wake": ("WakeByAddressAll", (WORD,))}
    if system == "linux" and machine in FUTEX:
        number = FUTEX[machine]
        sleep = "syscall", (number, WORD, FUTEX_WAIT, VALUE, 0)
        return {"sleep": sleep, "wake": ("syscall", (number, WORD, FUTEX_WAKE, MOST_WOKEN, 0))}
    if system == "darwin" and hasattr(library, "os_sync_wait_on_address"):  # from macOS 14.4 on
        sleep = "os_sync_wait_on_address", (WORD, VALUE, BYTES, 0)
        return {"sleep": sleep, "wake": ("os_sync_wake_by_address_all", (WORD, BYTES, 0))}
    return {}


def _library() -> Any:
    """Return the library of the system's functions."""
    if sys.platform == "win32":
        return ctypes.WinDLL("kernelbase")
    return ctypes.CDLL(None)


FUNCTIONS = functions_of(sys.platform, platform.machine(), _library())


def wake(address: int) -> None:
    """Wake all threads that sleep at the address of a changed word."""
    if FUNCTIONS:
        name, arguments = FUNCTIONS["wake"]
        numbers = [address if isinstance(argument, str) else argument for argument in arguments]
        getattr(_library(), name)(*map(ctypes.c_int64, numbers))


# --- threads -------------------------------------------------------------------------------------------


def run(program: Callable[[int, int], None], workers: int, barrier: NDArray[Any]) -> int:
    """Call program(worker, workers) for each worker, the first on this thread; return the number of workers.

    If the system can start no more threads, fewer workers compute the same bits. If a worker fails, all
    workers leave the barrier, the result is invalid, and the worker's error is raised.

    barrier : (BARRIER,) int64, of the program, cleared
    """
    if workers == 1:
        program(0, 1)
        return 1
    barrier[...] = 0
    gate, errors, granted = threading.Event(), list[BaseException](), 0

    def enter(worker: int) -> None:
        try:
            if worker == 0:
                gate.set()
            gate.wait()  # until the number of workers is known
            if granted:
                program(worker, granted)
        except BaseException as error:
            errors.append(error)
            abandon(barrier)

    others: list[threading.Thread] = []
    try:
        for worker in range(1, workers):
            thread = threading.Thread(target=enter, args=(worker,), daemon=True)
            thread.start()
            others.append(thread)
    except RuntimeError:
        pass  # "can't start new thread"
    except BaseException:
        gate.set()  # they find 0 workers, and end
        raise
    granted = 1 + len(others)
    enter(0)
    for thread in others:
        thread.join()
    if errors:
        raise errors[0]
    return granted


def abandon(barrier: NDArray[Any]) -> None:
    """Close a barrier: waiting workers leave, sleeping workers too."""
    # Plain stores of aligned words: no worker sees half a word. On ARM workers may see the stores late, or in
    # another order, and wait at a node closed soon after, or take another step, never read. No sleeper is
    # missed, as the system's functions order earlier stores.
    barrier[ABANDONED] = 1
    for node in range(GENERATION, ABANDONED, NODE):
        barrier[node] = CLOSED
        wake(address_of(barrier[node:]))
