"""What `backend="auto"` takes: what a program saves over the rest of a training, or what compiling it takes.

It chooses among backends that give the same bits, so that what lies on the disk decides over time alone, and
a training may change from one to another between two chunks. A backend of other bits is taken from the first
step to the last, where that is worth its compilation whether it is on the disk or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import registry, tuning
from fastmlp.kernels.jit import store, tuned
from fastmlp.kernels.jit.entries import Entries, about_seconds_of_a_network
from fastmlp.kernels.variant import Bound, Choice, Work
from fastmlp.model.backend import Array, Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import TrainState, initial_state
from fastmlp.system import background

MOST_ROWS = 4096
"""Of a step that a process beside takes to have all compiled: enough for every way to form a product."""


LONG_SECONDS = 10.0
"""A training that takes so long may have the machine's constants measured beside, for the next ones."""

COST = 2.0
"""Seconds that a program of other bits must save: the same everywhere, or bits would follow the clock."""


class Candidate(NamedTuple):
    """A backend, for one training.

    seconds : of a step, as it says itself; exact : see `Choice.exact`
    bound : the program of the network alone that it would take, if it has one
    """

    name: str
    seconds: float
    exact: bool
    bound: Bound | None
    entries: Entries

    def cost(self) -> float:
        """Return the seconds that it takes to compile what serves this network alone, about."""
        return 0.0 if self.bound is None else about_seconds_of_a_network()


class Field(NamedTuple):
    """The candidates for a training.

    found : all, fastmlp's own first; exact : those of the exact bits, fastest : of these
    """

    found: tuple[Candidate, ...]
    exact: tuple[Candidate, ...]
    fastest: Candidate

    @classmethod
    def of(cls, found: tuple[Candidate, ...]) -> Field:
        """Return the field of some candidates."""
        exact = tuple(one for one in found if one.exact)
        return cls(found, exact, min(exact, key=attrgetter("seconds")))


class Auto:
    """A backend that is another one now, and may be a third between two chunks of a training.

    work : the training; only : the name of a backend, if no other shall be taken
    exact : whether no backend of other bits shall be taken
    now : the backend
    """

    def __init__(self, work: Work, exact: bool = False, only: str | None = None) -> None:
        assert work.network is not None
        assert work.optimizer is not None
        tuned.take_kept()
        self.network, self.optimizer = work.network, work.optimizer
        self._work, self._left = work, math.inf if work.steps is None else work.steps
        self._dtype = f"float{8 * work.itemsize}"
        self._found, self._exact, self._fastest = field(work, only)
        alone = None
        if not exact and len(self._exact) < len(self._found):
            # Bits must not follow the threads that happen to be free.
            alone = field(work._replace(threads=1), only)
        self._chosen = self._first(alone)
        self.now = registry.get(self._chosen.name)
        self._better: Candidate | None = None
        if self._chosen.exact and self._chosen is not self._fastest:
            self._look_for_better()
        if (self._better or self._left * self._chosen.seconds > LONG_SECONDS) and can_ask():
            tuning.ask()

    @property
    def binds(self) -> bool:
        """Whether a backend may have a program of the network alone."""
        return any(one.bound for one in self._found)

    def _first(self, alone: Field | None) -> Candidate:
        """Return what the training begins with. alone : on one thread, where one may be of other bits"""
        if alone is not None:
            for other in alone.found:
                saved = self._left * (alone.fastest.seconds - other.seconds)
                if not other.exact and saved > (0 if other.bound is None else COST):
                    return other
        if self._is_ready(self._fastest):
            return self._fastest

        def seconds(one: Candidate) -> float:
            waits = one.bound is not None and (one is self._fastest or not self._is_ready(one))
            return (one.cost() if waits else 0.0) + one.seconds * min(self._left, 1e15)

        best = min(self._exact, key=seconds)
        if best is self._fastest or not self._is_ready(best):
            ready = [one for one in self._exact if self._is_ready(one)]
            if ready and can_ask():
                return min(ready, key=seconds)
        return best

    def _is_ready(self, one: Candidate) -> bool:
        return one.entries.is_ready(self.network, self.optimizer, self._dtype, one.bound)

    def _look_for_better(self) -> None:
        """Have a faster program compiled beside, where it saves more than that takes."""
        fastest = self._fastest
        saved = self._left * (self._chosen.seconds - fastest.seconds)
        if saved > 0 and saved > about_seconds_of_a_network() and can_ask():
            name = f"{fastest.name}-{store.hash_of(repr(self._work))}"
            if background.ask(store.directory(), name, compile_beside, fastest.name, self._work):
                self._better = fastest

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
        """As a backend's; by a faster one than before, if it has been compiled meanwhile."""
        if self._better is not None and self._is_ready(self._better):
            self._chosen, self._better = self._better, None
            self.now = registry.get(self._chosen.name)
        after = self.now.train_chunk(network, optimizer, state, data, chunk, key, threads, losses)
        self._left -= len(losses)
        return after

    @property
    def name(self) -> str:
        """Of the backend that it is now."""
        return self.now.name

    def predict(self, network: Network, parameters: Array, inputs: Any, out: Array) -> None:
        """As a backend's."""
        self.now.predict(network, parameters, inputs, out)

    def evaluate(self, network: Network, parameters: Array, data: Data) -> float:
        """As a backend's."""
        return self.now.evaluate(network, parameters, data)


def can_ask() -> bool:
    """Return whether a process beside can compile, and the disk keep what it compiles."""
    try:
        store.directory()
    except store.Refused:
        return False
    return background.is_possible()


def field(work: Work, only: str | None = None) -> Field:
    """Return the backends that can say what a step takes; only : see `Auto`."""
    own, given = _own_field(work), registry.given()
    if not given and only is None:
        return own
    found = [*own.found, *_those_of(given, work)]
    return Field.of(tuple(one for one in found if only in (None, one.name)))


@lru_cache(maxsize=64)
def _own_field(work: Work) -> Field:
    """Return those of fastmlp's own, whose estimates go by the work alone: they take 40 us."""
    return Field.of(tuple(_those_of(registry.own(), work)))


def _those_of(names: Iterable[str], work: Work) -> Iterator[Candidate]:
    """Yield those of the named backends that can say what a step takes."""
    for name in names:
        choice = registry.choice_of(name)
        if choice.seconds is not None and math.isfinite(seconds := registry.estimate(name, choice, work)):
            bound = _bound(choice, work)
            exact = choice.exact and (bound is None or bound.exact)
            yield Candidate(name, seconds, exact, bound, registry.entries(name))


def _bound(choice: Choice, work: Work) -> Bound | None:
    if choice.specialize is None or work.network is None or work.optimizer is None:
        return None
    return choice.specialize(work.network, work.optimizer, work.rows, np.dtype(f"f{work.itemsize}"))


def compile_beside(name: str, work: Work) -> None:
    """Take a step by a backend, for all that it compiles; a process beside the training does this."""
    auto = Auto(work._replace(steps=1), only=name)
    rows, sizes, dtype = min(work.rows, MOST_ROWS), work.sizes, np.dtype(f"f{work.itemsize}")
    data = Data(*(np.ones(shape, dtype) for shape in ((rows, sizes[0]), (rows, sizes[-1]), (rows,))))
    once = np.ones(1, np.int64)
    chunk = Chunk(np.arange(rows), 0 * once, rows * once, np.ones(1), np.zeros((1, 2)), work.rows)
    state = initial_state(np.zeros(parameter_count(sizes), dtype))
    auto.train_chunk(auto.network, auto.optimizer, state, data, chunk, 0, 1, np.empty(1))
