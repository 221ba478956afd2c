"""When to compile the specialised program of a network: the ski-rental rule, within this process.

Trainings begin without the program. The program is compiled once the trainings have lost the time of a
compilation and would lose as much again. So trainings lose at most twice the loss of the better choice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache

from fastmlp.kernels.jit.entries import about_seconds_of_a_network as about_seconds_of_a_network
from fastmlp.kernels.jit.store import hash_of
from fastmlp.kernels.variant import SpecializedProgram
from fastmlp.system import forks
from fastmlp.system.budget import available_cores
from fastmlp.system.compiling import uncounted

_lock = threading.RLock()  # a signal handler may fork while this thread holds it
forks.wait_for(_lock)

seconds_lost: dict[str, float] = {}
"""Seconds lost by trainings without a program, by the program's key."""

compilers: dict[str, threading.Thread] = {}
"""The thread of a program's compilation, running or ended."""


@lru_cache(maxsize=64)
def key_of(program: SpecializedProgram) -> str:
    """Return the key of a network's program, 32 hexadecimal digits."""
    return hash_of(repr(program))


def lose(key: str, seconds: float) -> None:
    """Count seconds lost by a part of a training without its program."""
    with _lock:
        seconds_lost[key] = seconds_lost.get(key, 0.0) + seconds


def is_due(key: str, to_come: float) -> bool:
    """Return True if a program is worth compiling. to_come : seconds to be saved, about"""
    return min(seconds_lost.get(key, 0.0), to_come) >= about_seconds_of_a_network()


def compiled_here(key: str, compile_program: Callable[[], object]) -> bool:
    """Return True if the caller must compile a due program, as no core is free.

    With a free core a daemon thread compiles the program. After a failure of the thread the caller meets the
    same error.
    """
    with _lock:
        compiler = compilers.get(key)
        if compiler is not None:
            return not compiler.is_alive()
        if available_cores() == 1:
            return True
        compiler = threading.Thread(target=uncounted(compile_program), name="fastmlp compiler", daemon=True)
        try:
            compiler.start()
        except RuntimeError:  # "can't start new thread"
            return True
        compilers[key] = compiler
        return False
