"""The choice of `backend="auto"`: time saved over the rest of a training, against time to compile.

It chooses among backends that give the same bits, so that what lies on the disk decides over time alone, and
a training may change from one to another between two chunks. A training begins on the fastest one whose
machine code is there; `fastmlp.backend.programs` decides when the code of a faster one is compiled.

A user's backend may have other bits. It is taken from the first step to the last or not at all, whether it is
on the disk or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import programs, registry
from fastmlp.kernels.jit.engine import take_constants
from fastmlp.kernels.jit.entries import ABOUT_SECONDS_OF_A_NETWORK, Entries
from fastmlp.kernels.variant import Bound, Choice, Work
from fastmlp.model.backend import Array, Backend, Chunk, Data, dry_run, empty_losses
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import TrainState
from fastmlp.system.compiling import Stopwatch


class Candidate(NamedTuple):
    """A backend, for one training.

    seconds : of a step, as it says itself; exact : see `Choice.exact`
    bound : the program of the network alone that it would take, if it has one
    key : what stands for the program that it would take
    """

    name: str
    seconds: float
    exact: bool
    bound: Bound | None
    entries: Entries
    key: str

    def is_ready(self, dtype: str) -> bool:
        """Return whether its machine code is on the disk, or in this process."""
        if self.bound is None:
            return self.entries.has(("train_chunk",), dtype)
        return self.entries.has_network(self.bound, dtype)


class Field(NamedTuple):
    """The candidates for a training.

    found : all, fastmlp's own first; exact : those of the exact bits, fastest : of these
    binds : whether one may have a program of the network alone
    ready : names of those whose machine code has been found, which stays where it is
    """

    found: tuple[Candidate, ...]
    exact: tuple[Candidate, ...]
    fastest: Candidate
    binds: bool
    ready: set[str]

    @classmethod
    def of(cls, found: tuple[Candidate, ...]) -> Field:
        """Return the field of some candidates."""
        exact = tuple(one for one in found if one.exact)
        binds = any(one.bound for one in found)
        return cls(found, exact, min(exact, key=attrgetter("seconds")), binds, set())


class Auto:
    """The backend of `backend="auto"`: it calls the best one so far, which may change between two chunks.

    work : the training; only : the name of a backend, if no other shall be taken
    exact : whether no backend of other bits shall be taken
    now, chosen : the backend, and the candidate that it is; binds : see `Field`
    """

    def __init__(self, work: Work, exact: bool = False, only: str | None = None) -> None:
        assert work.network is not None
        assert work.optimizer is not None
        take_constants()
        self.network, self.optimizer = work.network, work.optimizer
        self._work, self._left = work, math.inf if work.steps is None else work.steps
        self._only = only
        self._dtype = f"float{8 * work.itemsize}"
        self._found, self._exact, self._fastest, self.binds, self._ready = field(work, only)
        alone = None
        if not exact and len(self._exact) < len(self._found):
            # Bits must not follow the threads that happen to be free.
            alone = field(work._replace(threads=1), only)
        self.chosen = self._first(alone)
        self.now = registry.get(self.chosen.name)
        self._lost_before = programs.seconds_lost.get(self._fastest.key, 0.0)

    @property
    def program(self) -> str:
        """What stands for the fastest backend's program of the network alone; "" if that has none."""
        return self._fastest.key if self._fastest.bound else ""

    @property
    def steps(self) -> float:
        """How many steps are left, infinity if that is not known."""
        return self._left

    @property
    def lasting(self) -> Backend | None:
        """The backend, if all later trainings of the same work begin with it, too."""
        return self.now if self.chosen is self._fastest and self.is_ready(self.chosen) else None

    def for_all(self, steps: float) -> Auto:
        """Return the choice for a training with others that find its program: so many steps in all.

        It is of the same bits.
        """
        if not self.chosen.exact or not math.isfinite(steps):
            return self
        return Auto(self._work._replace(steps=int(steps)), exact=True, only=self._only)

    def _first(self, alone: Field | None) -> Candidate:
        """Return what the training begins with. alone : on one thread, where one may be of other bits"""
        if alone is not None:
            for other in alone.found:
                saved = self._left * (alone.fastest.seconds - other.seconds)
                # The same seconds on every machine: bits must not follow the clock either.
                if not other.exact and saved > (0 if other.bound is None else ABOUT_SECONDS_OF_A_NETWORK):
                    return other
        if self.is_ready(self._fastest):
            return self._fastest
        ready = [one for one in self._exact if self.is_ready(one)]
        for_all_networks = [one for one in self._exact if one.bound is None]
        return min(ready or for_all_networks or self._exact, key=attrgetter("seconds"))

    def is_ready(self, one: Candidate) -> bool:
        """Return whether the training finds a backend's machine code on the disk, or in this process."""
        if one.name not in self._ready and one.is_ready(self._dtype):
            self._ready.add(one.name)
        return one.name in self._ready

    @property
    def faster(self) -> Candidate | None:
        """The fastest backend of the same bits, if that is not the present one."""
        return self._fastest if self.chosen.exact and self.chosen is not self._fastest else None

    def saved(self) -> float:
        """Return the seconds that the fastest backend saves over the rest of the training."""
        return self._left * (self.chosen.seconds - self._fastest.seconds)

    def is_due(self) -> bool:
        """Return whether the fastest backend is worth compiling, in this training or in others like it.

        As many seconds as earlier trainings have lost are expected to come in later ones.
        """
        return programs.is_due(self._fastest.key, max(self.saved(), self._lost_before))

    def take_faster(self, faster: Candidate) -> None:
        """Change to the fastest backend if its code is there, or to be compiled here."""
        if self.is_ready(faster) or (
            self.is_due() and programs.compiled_here(faster.key, lambda: self.compile(faster))
        ):
            self.chosen, self.now = faster, registry.get(faster.name)

    def compile(self, one: Candidate) -> None:
        """Compile all that a backend calls: it takes a step."""
        rows = self._work.rows
        state, data, chunk = dry_run(self.network, self.optimizer, np.dtype(self._dtype), [rows], rows)
        losses = empty_losses(self.network, 1)
        registry.get(one.name).train_chunk(self.network, self.optimizer, state, data, chunk, 0, 1, losses)

    def train_chunk(
        self,
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        data: Data,
        chunk: Chunk,
        key: int,
        threads: int | None,
        losses: NDArray[np.float64],
    ) -> TrainState:
        """Take a chunk's steps; by a faster backend than before, if it has been compiled meanwhile."""
        faster = self.faster
        if faster is not None:
            self.take_faster(faster)
            stopwatch = Stopwatch()
        after = self.now.train_chunk(network, optimizer, state, data, chunk, key, threads, losses)
        self._left -= losses.shape[-1]
        if faster is not None and self.chosen is not faster:
            share = 1 - faster.seconds / self.chosen.seconds
            programs.lose(faster.key, share * stopwatch.lap().working)
        return after

    @property
    def name(self) -> str:
        """The name of the present backend."""
        return self.now.name

    def predict(self, network: Network, parameters: Array, inputs: Any, out: Array) -> None:
        """Predict by the present backend."""
        self.now.predict(network, parameters, inputs, out)

    def evaluate(self, network: Network, parameters: Array, data: Data) -> float:
        """Evaluate by the present backend."""
        return self.now.evaluate(network, parameters, data)


def field(work: Work, only: str | None = None) -> Field:
    """Return the backends that can say what a step takes; only : see `Auto`."""
    own, given = _own_field(work), registry.given()
    if not given and only is None:
        return own
    found = [*own.found, *_those_of(given, work)]
    return Field.of(tuple(one for one in found if only in (None, one.name)))


@lru_cache(maxsize=64)
def _own_field(work: Work) -> Field:
    """Return fastmlp's own candidates, whose estimates go by the work alone: they take 40 us."""
    return Field.of(tuple(_those_of(registry.own(), work)))


def _those_of(names: Iterable[str], work: Work) -> Iterator[Candidate]:
    """Yield those of the named backends that can say what a step takes."""
    for name in names:
        choice = registry.choice_of(name)
        if choice.seconds is not None and math.isfinite(seconds := registry.estimate(name, choice, work)):
            bound = _bound(choice, work)
            key = programs.key_of(bound) if bound else name
            yield Candidate(name, seconds, choice.exact, bound, registry.entries(name), key)


def _bound(choice: Choice, work: Work) -> Bound | None:
    if choice.specialize is None or work.network is None or work.optimizer is None:
        return None
    return choice.specialize(work.network, work.optimizer, work.rows, np.dtype(f"f{work.itemsize}"))
