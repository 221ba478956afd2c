"""`backend="auto"`: the time saved over the rest of a training against the time to compile.

Auto chooses among backends with equal bits, so that the disk's content decides over time alone, and a
training may change backends between two chunks. A training begins on the fastest backend with machine code at
hand; `fastmlp.backend.programs` decides when to compile the code of a faster backend.

A user's backend may have other bits. Such a backend is taken from the first step to the last or not at all,
with or without code on the disk.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import registry
from fastmlp.backend.programs import Rental, key_of
from fastmlp.kernels.jit.entries import ABOUT_SECONDS_OF_A_NETWORK, Entries
from fastmlp.kernels.variant import SpecializedProgram, Variant, Work
from fastmlp.model.backend import Array, Backend, Chunk, Data, dry_run, empty_losses
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import TrainState
from fastmlp.system.compiling import Stopwatch


class Candidate(NamedTuple):
    """A backend, for a training.

    seconds : of a step, by the backend's estimate; exact : see `Variant.exact`
    specialized : the program of this network alone, if any
    key : of the program in use
    """

    name: str
    seconds: float
    exact: bool
    specialized: SpecializedProgram | None
    entries: Entries
    key: str

    def is_ready(self, dtype: str) -> bool:
        """Return True if the machine code is on the disk, or in this process."""
        return self.entries.has(self.specialized or "train_chunk", dtype)


class Field(NamedTuple):
    """The candidates for a training.

    candidates : all, built-in backends first; exact : those with exact bits, fastest : of these
    binds : True if a candidate may have a program of this network alone
    ready : names of the candidates with machine code at hand
    """

    candidates: tuple[Candidate, ...]
    exact: tuple[Candidate, ...]
    fastest: Candidate
    binds: bool
    ready: set[str]

    @classmethod
    def of(cls, candidates: tuple[Candidate, ...]) -> Field:
        """Return the field of some candidates."""
        exact = tuple(candidate for candidate in candidates if candidate.exact)
        binds = any(candidate.specialized for candidate in candidates)
        return cls(candidates, exact, min(exact, key=attrgetter("seconds")), binds, set())


class Auto:
    """The backend of `backend="auto"`: calls the best backend so far, perhaps another after each chunk.

    work : the training; only : the name of the single allowed backend, or None
    exact : True if backends with other bits are excluded
    now, chosen : the present backend, and its candidate; binds : see `Field`
    """

    def __init__(self, work: Work, exact: bool = False, only: str | None = None) -> None:
        assert work.network is not None
        assert work.optimizer is not None
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
        self._rental = Rental(self._fastest.key)
        self._lost_before = self._rental.lost

    @property
    def program(self) -> str:
        """The key of the fastest backend's program for this network alone, or ""."""
        return self._fastest.key if self._fastest.specialized else ""

    @property
    def steps(self) -> float:
        """The number of steps left, infinity if unknown."""
        return self._left

    @property
    def cacheable(self) -> Backend | None:
        """The backend, if all later trainings of equal work begin with this backend, too."""
        return self.now if self.chosen is self._fastest and self.is_ready(self.chosen) else None

    def for_all(self, steps: float) -> Auto:
        """Return the choice, of equal bits, for a training among similar trainings: so many steps in all."""
        if not self.chosen.exact or not math.isfinite(steps):
            return self
        return Auto(self._work._replace(steps=int(steps)), exact=True, only=self._only)

    def _first(self, alone: Field | None) -> Candidate:
        """Return the first candidate of the training. alone : on a single thread, perhaps with other bits"""
        if alone is not None:
            for other in alone.candidates:
                saved = self._left * (alone.fastest.seconds - other.seconds)
                # The same seconds on every machine: bits must not follow the clock either.
                if not other.exact and saved > (
                    0 if other.specialized is None else ABOUT_SECONDS_OF_A_NETWORK
                ):
                    return other
        if self.is_ready(self._fastest):
            return self._fastest
        ready = [candidate for candidate in self._exact if self.is_ready(candidate)]
        for_all_networks = [candidate for candidate in self._exact if candidate.specialized is None]
        return min(ready or for_all_networks or self._exact, key=attrgetter("seconds"))

    def is_ready(self, candidate: Candidate) -> bool:
        """Return True if a candidate's machine code is on the disk, or in this process."""
        if candidate.name not in self._ready and candidate.is_ready(self._dtype):
            self._ready.add(candidate.name)
        return candidate.name in self._ready

    @property
    def faster(self) -> Candidate | None:
        """The fastest backend of equal bits, if not the present backend."""
        return self._fastest if self.chosen.exact and self.chosen is not self._fastest else None

    def saved(self) -> float:
        """Return the seconds saved by the fastest backend over the rest of the training."""
        return self._left * (self.chosen.seconds - self._fastest.seconds)

    def _to_come(self) -> float:
        # Later trainings are expected to lose as many seconds as earlier trainings have lost.
        return max(self.saved(), self._lost_before)

    def is_due(self) -> bool:
        """Return True if the fastest backend is worth compiling, for this training or similar trainings."""
        return self._rental.is_due(self._to_come())

    def take_faster(self, faster: Candidate) -> None:
        """Change to the fastest backend if the code is at hand, or to be compiled here."""
        if self.is_ready(faster) or self._rental.is_bought(self._to_come(), lambda: self.compile(faster)):
            self.chosen, self.now = faster, registry.get(faster.name)

    def compile(self, candidate: Candidate) -> None:
        """Compile all code of a backend by taking a step."""
        rows = self._work.rows
        state, data, chunk = dry_run(self.network, self.optimizer, np.dtype(self._dtype), [rows], rows)
        losses = empty_losses(self.network, 1)
        registry.get(candidate.name).train_chunk(
            self.network, self.optimizer, state, data, chunk, 0, 1, losses
        )

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
        """Take a chunk's steps, by a faster backend if compiled meanwhile."""
        faster = self.faster
        if faster is not None:
            self.take_faster(faster)
            stopwatch = Stopwatch()
        after = self.now.train_chunk(network, optimizer, state, data, chunk, key, threads, losses)
        self._left -= losses.shape[-1]
        if faster is not None and self.chosen is not faster:
            fraction = 1 - faster.seconds / self.chosen.seconds
            self._rental.lose(fraction * stopwatch.lap().working)
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
    """Return the backends with an estimate for a step; only : see `Auto`."""
    built_in, names = _built_in_field(work), registry.given()
    if not names and only is None:
        return built_in
    candidates = [*built_in.candidates, *_those_of(names, work)]
    return Field.of(tuple(candidate for candidate in candidates if only in (None, candidate.name)))


@lru_cache(maxsize=64)
def _built_in_field(work: Work) -> Field:
    """Return the built-in candidates."""
    # Estimates depend on the work alone, and take 40 us.
    return Field.of(tuple(_those_of(registry.built_in(), work)))


def _those_of(names: Iterable[str], work: Work) -> Iterator[Candidate]:
    """Yield the named backends with an estimate for a step."""
    for name in names:
        variant = registry.choice_of(name)
        if variant.seconds is not None and math.isfinite(seconds := registry.estimate(variant, work)):
            program = _specialized(variant, work)
            key = key_of(program) if program else name
            yield Candidate(name, seconds, variant.exact, program, registry.entries(name), key)


def _specialized(variant: Variant, work: Work) -> SpecializedProgram | None:
    if variant.specialize is None or work.network is None or work.optimizer is None:
        return None
    return variant.specialize(work.network, work.optimizer, work.rows, np.dtype(f"f{work.itemsize}"))
