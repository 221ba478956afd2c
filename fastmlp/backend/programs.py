"""When the program of one network is compiled: the ski rental rule, within this process.

Trainings begin without the program. It is compiled once they have lost as many seconds as compiling takes,
and as many are still to come. So they lose at most twice what would have been lost by the better choice.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache

from fastmlp.kernels.jit.entries import about_seconds_of_a_network as about_seconds_of_a_network
from fastmlp.kernels.jit.store import hash_of
from fastmlp.kernels.variant import Bound
from fastmlp.system import forks
from fastmlp.system.budget import share
from fastmlp.system.compiling import uncounted

for name in {"FASTMLP_BACKGROUND", "FASTMLP_GENERIC"} & {*os.environ}:
    warnings.warn(f"{name} has no effect any more, and 2.0 will not know it", FutureWarning, stacklevel=2)

_lock = threading.RLock()  # a signal handler may fork while this thread holds it
forks.wait_for(_lock)

seconds_lost: dict[str, float] = {}
"""What trainings have lost without a program, by its key."""

compilers: dict[str, threading.Thread] = {}
"""The thread that compiles a program, or has."""


@lru_cache(maxsize=64)
def key_of(bound: Bound) -> str:
    """Return 32 hexadecimal digits that stand for a network's program."""
    return hash_of(repr(bound))


def lose(key: str, seconds: float) -> None:
    """Count seconds that a part of a training has lost without its program."""
    with _lock:
        seconds_lost[key] = seconds_lost.get(key, 0.0) + seconds


def is_due(key: str, to_come: float) -> bool:
    """Return whether a program is worth compiling. to_come : seconds that it will save, about"""
    return min(seconds_lost.get(key, 0.0), to_come) >= about_seconds_of_a_network()


def compiled_here(key: str, compile_program: Callable[[], object]) -> bool:
    """Return whether the caller shall compile a program that is due, as no core is free.

    Where a core is free a thread compiles the program, and ends with the process. If that thread has failed,
    the caller meets the same error.
    """
    with _lock:
        compiler = compilers.get(key)
        if compiler is not None:
            return not compiler.is_alive()
        if share() == 1:
            return True
        compiler = threading.Thread(target=uncounted(compile_program), name="fastmlp compiler", daemon=True)
        try:
            compiler.start()
        except RuntimeError:  # "can't start new thread"
            return True
        compilers[key] = compiler
        return False
