"""The entry points of programs: their names in the store, and the message when one is compiled.

A warm process loads no compiler. It gets from `fastmlp.kernels.jit.store` the name that the program got when
it was compiled from the same sources.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

from fastmlp.kernels.codes import BY_KIND
from fastmlp.kernels.jit import rehearsal, store
from fastmlp.kernels.jit.engine import (
    Entry,
    entry_of,
    is_compiler_loaded,
    known_to_compiler,
    lock,
    undisturbed,
)
from fastmlp.kernels.variant import Bound
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.system.compiling import compiling

ENTRY_POINTS = (
    *("train_chunk", "gradient", "update", "predict", "evaluate"),
    *("forward", "backward", "penalize"),
)
"""The templates that Python calls: of `kernels.program.step_templates`, and then of `pass_templates`."""

EVERY = "every one of fastmlp's own"
"""The mark of a program whose pieces of fastmlp's own are all on the disk, as after `fastmlp warmup`."""

OWN = frozenset(piece.key for codes in BY_KIND.values() for piece in codes.own_pieces())

MOST_BOUND = 64
"""The most networks whose own entry points a process keeps."""


def name_of(digest: str, bound: Bound) -> str:
    """Return the name of one network's machine code; digest : of what is common to all such programs."""
    constants = hashlib.sha256(f"{digest} {bound.constants!r}".encode()).hexdigest()[:16]
    return f"train_chunk@{'-'.join(map(str, bound.sizes))}_{constants}"


@lru_cache(maxsize=64)
def pieces_of(network: Network, optimizer: Optimizer) -> str:
    """Return the names of a training's activations, loss and rule, whose machine code it calls."""
    kinds = dict.fromkeys((one.run or one.kind).key for one in network.operations if not one.is_dense)
    activations = (one.activation for one in network.operations)
    outputs = (head.output for head in network.heads.values())
    parts = *activations, *outputs, *kinds, *map(loss_of, network.losses), *optimizer.rules
    return ",".join(getattr(part, "key", str(part)) for part in parts)


class Entries:
    """A variant's entry points.

    name : of the variant; load() returns its program, an `fastmlp.kernels.jit.bind.Program`, and loads the
        compiler
    lasting : whether its functions are those of the installed package; only then are their names kept on the
        disk
    """

    def __init__(self, name: str, load: Callable[[], Any], lasting: bool) -> None:
        self._name, self._load, self.lasting = name, load, lasting
        self._entries: dict[tuple[str, str], Entry] = {}
        self._ready: set[tuple[str, str, Bound | None]] = set()
        self._missing: dict[tuple[str, str, Bound | None], float] = {}
        """When the disk was last searched for a training that it did not have."""
        self.of_network = lru_cache(MOST_BOUND)(self._of_network)

    def get(self, template: str, dtype: str, prepare: Callable[[], object] | None = None) -> Entry:
        """Return an entry point for networks of a NumPy dtype.

        prepare : is called where the disk has none, before it is compiled
        """
        found = self._entries.get((template, dtype))
        if found is None:
            if prepare is not None and not (rehearsal.is_under_way() or self._is_kept(template, dtype)):
                with compiling():
                    prepare()
            with lock:
                found = self._entries.get((template, dtype)) or self._entry(
                    f"{self._name} {template}",
                    dtype,
                    lambda: self._load().source(template),
                    lambda name: name,
                )
                self._entries[template, dtype] = found
            if template == ENTRY_POINTS[0]:
                # Its compilation has been announced, here or in another process; others take a second.
                announced_programs.add(_in_words(self._name, dtype))
        return found

    def _is_kept(self, template: str, dtype: str) -> bool:
        """Whether an entry point is on the disk, or none of this variant ever is."""
        kept = store.names().get(f"{self._name} {template}")
        return not self.lasting or (kept is not None and store.has(kept, dtype))

    def _of_network(self, bound: Bound, dtype: str) -> Entry:
        """Return the entry point of one network."""
        return self._entry(
            bound.template, dtype, lambda: self._load().source_of(bound),
            lambda digest: name_of(digest, bound), "-".join(map(str, bound.sizes)),
        )  # fmt: skip

    def is_ready(self, network: Network, optimizer: Optimizer, dtype: str, bound: Bound | None) -> bool:
        """Whether a training finds its machine code on the disk, or in this process.

        bound : the program of the network alone, if it has one
        """
        key = pieces_of(network, optimizer), dtype, bound
        if key not in self._ready:
            now = time.monotonic()
            if now < self._missing.get(key, 0.0) + store.LOOK_SECONDS:
                return False
            name, pieces = self._training(bound), key[0]
            marks = [pieces, EVERY] if bound is None and OWN.issuperset(pieces.split(",")) else [pieces]
            if not name or not any(store.is_marked(name, f"{dtype} {mark}") for mark in marks):
                self._missing = (
                    {key: now} if len(self._missing) >= MOST_BOUND else {**self._missing, key: now}
                )
                return False
            self._ready.add(key)
        return True

    def has(self, templates: Iterable[str], dtype: str) -> bool:
        """Whether entry points are on the disk, or in this process."""
        return all(
            (one, dtype) in self._entries or (self.lasting and self._is_kept(one, dtype)) for one in templates
        )

    def is_generic(self, dtype: str) -> bool:
        """Whether trainings run code that came with the wheel, and is not for the very processor."""
        kept = self._training(None)
        return bool(kept) and store.has(kept, dtype) and not store.is_own(kept, dtype)

    def mark_ready(self, network: Network, optimizer: Optimizer, dtype: str, bound: Bound | None) -> None:
        """Mark a training's machine code as complete, after the training."""
        key = pieces_of(network, optimizer), dtype, bound
        if key not in self._ready and not rehearsal.is_under_way():
            self._ready.add(key)
            if name := self._training(bound):
                store.mark(name, f"{dtype} {key[0]}")

    def mark_ready_for_all(self, dtype: str) -> None:
        """Mark the code of all trainings with pieces of fastmlp's own, after all pieces were called."""
        store.mark(self._training(None), f"{dtype} {EVERY}")

    def _training(self, bound: Bound | None) -> str:
        """Return the name of a training's program, "" if it is not known."""
        kept = store.names().get(bound.template if bound else f"{self._name} train_chunk")
        return name_of(kept, bound) if bound and kept else kept or ""

    @compiling()
    def _entry(
        self, what: str, dtype: str, source: Callable[[], Any], name: Callable[[str], str], network: str = ""
    ) -> Entry:
        """Return an entry point, loaded or compiled.

        what : a description, by which its name is kept; source() gives what it is made of, and loads the
            compiler
        name : name(kept) gives the name of its machine code from the kept one
        network : the sizes of the only network that it serves, or empty
        """
        kept = store.names().get(what) if self.lasting and not is_compiler_loaded() else None
        if kept is None:
            with undisturbed():
                made = source()
            kept = made.kept
            if self.lasting and made.identity.unknown is None:
                store.names().put(what, kept)
                self._put_names()
        else:
            known_to_compiler[what] = source

        def compiled() -> store.MachineCode:
            made = source()
            began = time.thread_time()  # on a busy machine the wall time may be ten times as long
            with announced(made.name, self._name, dtype, network, made.identity.unknown):
                code: store.MachineCode = made.compiled(dtype)
            if network:
                store.names().put(MEASURED, f"{time.thread_time() - began:.2g}")
            return code

        found = entry_of(name(kept), dtype, compiled, patient=not rehearsal.is_under_way())
        if found is None:
            raise rehearsal.Busy
        return found

    def _put_names(self) -> None:
        """Keep the names of all entry points: a process without the compiler may need any of them."""
        program = self._load()
        for template in ENTRY_POINTS:
            what = f"{self._name} {template}"
            if store.names().get(what) is None:
                store.names().put(what, program.source(template).kept)


ABOUT_SECONDS = dict.fromkeys(ENTRY_POINTS, 1) | {"train_chunk": 3, "gradient": 2, "backward": 2}
"""The time to compile a template with all that a network calls: seconds of one core, rounded up."""

ABOUT_SECONDS_OF_A_NETWORK = 2
"""The time to compile the entry point of one network, in seconds."""

MEASURED = "seconds of one network's program"
"""The name under which the seconds of the last such compilation on this machine are kept."""


def about_seconds_of_a_network() -> float:
    """Return how long compiling the program of one network takes on this machine, about."""
    return float(store.names().get(MEASURED) or ABOUT_SECONDS_OF_A_NETWORK)


announced_programs: set[str] = set()
"""The messages that were given."""


def _in_words(variant: str, dtype: str) -> str:
    return f"the {variant!r} backend for {dtype}"


def announced(
    name: str, variant: str, dtype: str, network: str, unknown: str | None
) -> AbstractContextManager[None]:
    """Return a context to compile in, which gives one message for each variant or network and dtype.

    name : of the program; unknown : why it cannot be kept on the disk, or None
    """
    what, once = _in_words(variant, dtype), "once each for training, prediction and validation"
    key = f"{name} {dtype}" if network else what
    if network:
        what, once = f"{what} and a {network} network", "once for this network"
    quiet = rehearsal.is_under_way() and not name.startswith(ENTRY_POINTS[0])  # another process has said it
    if quiet or key in announced_programs:
        return compiling()
    announced_programs.add(key)
    reason = store.why_not_kept() if unknown is None else f"what it is made of cannot be known: {unknown}"
    often = f"this happens {once}, later runs load it from the disk cache"
    if reason is not None:
        often = f"later runs will compile again, for {reason}"
    seconds = ABOUT_SECONDS_OF_A_NETWORK if network else ABOUT_SECONDS[name.rpartition("_")[0]]
    return compiling(what, seconds, often, fault=reason is not None and not store.is_off())
