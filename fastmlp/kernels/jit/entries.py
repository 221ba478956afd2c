"""The entry points of programs: names in the store, and the message before a compilation.

A warm process loads no compiler: the store has the name of each program compiled from the same sources.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.engine import (
    Entry,
    entry_of,
    is_compiler_loaded,
    known_to_compiler,
    lock,
    undisturbed,
)
from fastmlp.kernels.variant import SpecializedProgram
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


def name_of(stored: str, program: Program) -> str:
    """Return the name of machine code; stored : the name on the disk, for a network the common digest."""
    if isinstance(program, str):
        return stored
    constants = hashlib.sha256(f"{stored} {program.constants!r}".encode()).hexdigest()[:16]
    return f"train_chunk@{_in_sizes(program)}_{constants}"


def _in_sizes(program: Program) -> str:
    """Return the sizes of a single network; "" for a template."""
    return "" if isinstance(program, str) else "-".join(map(str, program.sizes))


class Entries:
    """A variant's entry points.

    load() returns its program, an `fastmlp.kernels.jit.bind.Program`, and loads the compiler
    cacheable : whether all functions are the installed package's; only then are names saved on the disk
    """

    def __init__(self, name: str, load: Callable[[], Any], cacheable: bool) -> None:
        self._name, self._load, self.cacheable = name, load, cacheable
        self._entries: dict[tuple[Program, str], Entry] = {}
        """The entry points, the last made at the end."""
        self._missing: dict[tuple[Program, str], float] = {}
        """The time of the last vain search of the disk."""

    def get(self, program: Program, dtype: str) -> Entry:
        """Return an entry point for networks of a NumPy dtype."""
        key = program, dtype
        found = self._entries.get(key)
        if found is None:
            with lock:
                found = self._entries[key] = self._entries.get(key) or self._entry(program, dtype)
                of_networks = [one for one in self._entries if not isinstance(one[0], str)]
                if len(of_networks) > MOST_PROGRAMS:
                    del self._entries[of_networks[0]]
            if program == ENTRY_POINTS[0]:
                # Its compilation has been announced, here or in another process; others take a second.
                announced_programs.add(_in_words(self._name, dtype))
        return found

    def has(self, program: Program, dtype: str) -> bool:
        """Return whether an entry point is in this process, or on the disk."""
        key = program, dtype
        if key in self._entries:
            return True
        now = time.monotonic()
        if now < self._missing.get(key, 0.0) + store.LOOK_SECONDS:
            return False
        if self._is_stored(program, dtype):
            return True
        self._missing = {key: now} if len(self._missing) >= MOST_PROGRAMS else {**self._missing, key: now}
        return False

    def _what(self, program: Program) -> str:
        """Return the key of a program's stored name."""
        return f"{self._name} {program}" if isinstance(program, str) else program.template

    def _is_stored(self, program: Program, dtype: str) -> bool:
        """Return whether the disk has an entry point."""
        stored = store.name_of(self._what(program)) if self.cacheable else None
        return stored is not None and store.has(name_of(stored, program), dtype)

    @compiling()
    def _entry(self, program: Program, dtype: str) -> Entry:
        """Return an entry point, loaded or compiled."""
        what, network = self._what(program), _in_sizes(program)

        def source() -> Any:
            return self._load().source(program)

        stored = store.name_of(what) if self.cacheable and not is_compiler_loaded() else None
        if stored is None:
            with undisturbed():
                made = source()
            stored = made.stored_name
            if self.cacheable and made.identity.unknown is None:
                store.save_name(what, stored)
                self._put_names()
        else:
            known_to_compiler[what] = source

        def compiled() -> store.MachineCode:
            made = source()
            began = time.thread_time()  # on a busy machine the wall time may be ten times as long
            with announced(made.name, self._name, dtype, network, made.identity.unknown):
                code: store.MachineCode = made.compiled(dtype)
            if network:
                _measured[:] = [time.thread_time() - began]
            return code

        return entry_of(name_of(stored, program), dtype, compiled)

    def _put_names(self) -> None:
        """Save the names of all entry points for processes without the compiler."""
        program = self._load()
        for template in ENTRY_POINTS:
            if store.name_of(what := self._what(template)) is None:
                store.save_name(what, program.source(template).stored_name)


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


def announced(
    name: str, variant: str, dtype: str, network: str, unknown: str | None
) -> AbstractContextManager[None]:
    """Return a context to compile in, with a message for each variant or network and dtype."""
    what, once = _in_words(variant, dtype), "once each for training, prediction and validation"
    key = f"{name} {dtype}" if network else what
    if network:
        what, once = f"{what} and a {network} network", "once for this network"
    if key in announced_programs:
        return compiling()
    announced_programs.add(key)
    reason = store.why_not_saved() if unknown is None else f"what it is made of cannot be known: {unknown}"
    often = f"this happens {once}, later runs load it from the disk cache"
    if reason is not None:
        often = f"later runs will compile again, for {reason}"
    seconds = ABOUT_SECONDS_OF_A_NETWORK if network else ABOUT_SECONDS[name.rpartition("_")[0]]
    return compiling(what, seconds, often, fault=reason is not None and not store.is_off())
