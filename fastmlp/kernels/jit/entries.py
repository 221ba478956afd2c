"""The entry points of programs: their names, and the message before a compilation.

A warm process loads no compiler: the name of machine code has nothing that only the compiler knows.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.engine import Entry, entry_of, loaders, lock, undisturbed
from fastmlp.kernels.variant import SpecializedProgram, Variant
from fastmlp.system.compiling import compiling

ENTRY_POINTS = (
    *("train_chunk", "gradient", "update", "predict", "evaluate"),
    *("forward", "backward", "input_backward", "loss_backward", "jacobian", "jvp", "hessian"),
    *("penalize", "lbfgs", "levenberg_marquardt"),
)
"""The templates called by Python: of `kernels.program.step_templates`, `pass_templates`, `whole_steps`."""

MOST_PROGRAMS = 64
"""The most single networks with entry points in a process."""


Program = str | SpecializedProgram
"""A template of the programs for all networks, or the program of a single network."""


def home_of(variant: str) -> str:
    """Return the home of a package's variant: the module that makes the functions, below fastmlp."""
    return f"kernels.variants.{variant}"


def name_of(program: Program, home: str) -> str:
    """Return the name of an entry point's machine code.

    home : the end of the names of the variant's functions
    """
    if isinstance(program, str):
        return f"{program}-{home}"
    constants = hashlib.sha256(f"{program.template} {program.constants!r}".encode()).hexdigest()[:16]
    return f"train_chunk@{_in_sizes(program)}.{constants}-{home}"


def _in_sizes(program: Program) -> str:
    """Return the sizes of a single network; "" for a template."""
    return "" if isinstance(program, str) else "-".join(map(str, program.sizes))


class Entries:
    """A variant's entry points.

    variant : perhaps without slots; home : as for `name_of`
    load() returns the variant's program, an `fastmlp.kernels.jit.bind.Program`, and loads the compiler
    """

    def __init__(self, variant: Variant, home: str, load: Callable[[], Any]) -> None:
        self.variant, self._home, self._load = variant, home, load
        self._entries: dict[tuple[Program, str], Entry] = {}
        """The entry points, the last made at the end."""
        self._missing: dict[tuple[Program, str], float] = {}
        """The time of the last vain search of the disk."""

    def get(self, program: Program, dtype: str) -> Entry:
        """Return an entry point for networks of a NumPy dtype."""
        key = program, dtype
        entry = self._entries.get(key)
        if entry is None:
            with lock:
                entry = self._entries[key] = self._entries.get(key) or self._entry(program, dtype)
                of_networks = [made for made in self._entries if not isinstance(made[0], str)]
                if len(of_networks) > MOST_PROGRAMS:
                    del self._entries[of_networks[0]]
            if program == ENTRY_POINTS[0]:
                # Its compilation has been announced, here or in another process; others take a second.
                announced_programs.add(_in_words(self.variant.name, dtype))
        return entry

    def has(self, program: Program, dtype: str) -> bool:
        """Return whether an entry point is in this process, or on the disk."""
        key = program, dtype
        if key in self._entries:
            return True
        now = time.monotonic()
        if now < self._missing.get(key, 0.0) + store.LOOK_SECONDS:
            return False
        if store.has(name_of(program, self._home), dtype):
            return True
        self._missing = {key: now} if len(self._missing) >= MOST_PROGRAMS else {**self._missing, key: now}
        return False

    @compiling()
    def _entry(self, program: Program, dtype: str) -> Entry:
        """Return an entry point, loaded or compiled."""
        name, network = name_of(program, self._home), _in_sizes(program)
        loaders[:] = [self._load]

        def compiled() -> store.MachineCode:
            with undisturbed():
                source = self._load().source(program)
            began = time.thread_time()  # on a busy machine the wall time may be ten times as long
            with announced(name, self.variant.name, dtype, network):
                code: store.MachineCode = source.compiled(dtype)
            if network:
                _measured[:] = [time.thread_time() - began]
            return code

        return entry_of(name, dtype, compiled)


ABOUT_SECONDS = dict.fromkeys(ENTRY_POINTS, 1) | {
    "train_chunk": 3,
    "gradient": 2,
    "backward": 2,
    "lbfgs": 3,
    "levenberg_marquardt": 3,
}
"""The time to compile a template with all functions a network calls: seconds of one core, rounded up."""

ABOUT_SECONDS_OF_A_NETWORK = 2
"""The usual seconds to compile the entry point of a single network."""

_measured = [float(ABOUT_SECONDS_OF_A_NETWORK)]
"""The seconds of the last such compilation in this process."""


def about_seconds_of_a_network() -> float:
    """Return the seconds to compile the program of a single network on this machine, about."""
    return _measured[0]


announced_programs: set[str] = set()
"""The messages already given."""


def _in_words(variant: str, dtype: str) -> str:
    return f"the {variant!r} backend for {dtype}"


def announced(name: str, variant: str, dtype: str, network: str) -> AbstractContextManager[None]:
    """Return a context to compile in, with a message for each variant or network and dtype."""
    what, once = _in_words(variant, dtype), "once each for training, prediction and validation"
    key = f"{name} {dtype}" if network else what
    if network:
        what, once = f"{what} and a {network} network", "once for this network"
    if key in announced_programs:
        return compiling()
    announced_programs.add(key)
    own = store.UNKEPT in name
    reason = "functions of your own are compiled in each process" if own else store.why_not_saved()
    often = f"this happens {once}, later runs load it from the disk cache"
    if reason is not None:
        often = f"later runs will compile again, for {reason}"
    seconds = ABOUT_SECONDS_OF_A_NETWORK if network else ABOUT_SECONDS[name.partition("-")[0]]
    return compiling(what, seconds, often, fault=reason is not None and not own and not store.is_off())
