"""The choice of `backend="auto"`: time saved over the rest of a training, against time to compile.

It chooses among backends that give the same bits, so that what lies on the disk decides over time alone, and
a training may change from one to another between two chunks. What trainings of a network have taken so far
counts: once it is as much as its own program takes to compile, that is compiled in the background, however
short each training is.

A user's backend may have other bits. It is taken from the first step to the last or not at all, whether it is
on the disk or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import registry, tuning
from fastmlp.kernels.jit import store, tuned
from fastmlp.kernels.jit.entries import ABOUT_SECONDS_OF_A_NETWORK, Entries, about_seconds_of_a_network
from fastmlp.kernels.jit.spent import key_of, spent
from fastmlp.kernels.variant import Bound, Choice, Work
from fastmlp.model.backend import Array, Backend, Chunk, Data, dry_run, empty_losses
from fastmlp.model.descriptions import restored, with_formulas
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import TrainState
from fastmlp.system import background
from fastmlp.system.compiling import Stopwatch

LONG_SECONDS = 10.0
"""A training that takes so long may have two things done in the background, for the next ones.

The machine's constants are measured; and where it runs code that came with a wheel, code for the very
processor is compiled.
"""

REPEAT_SECONDS = 60.0
"""The seconds between two requests of a process for the same program."""


class Candidate(NamedTuple):
    """A backend, for one training.

    seconds : of a step, as it says itself; exact : see `Choice.exact`
    bound : the program of the network alone that it would take, if it has one; key : `key_of` it, or ""
    """

    name: str
    seconds: float
    exact: bool
    bound: Bound | None
    entries: Entries
    key: str

    def cost(self) -> float:
        """Return the seconds that it takes to compile what serves this network alone, about."""
        return 0.0 if self.bound is None else about_seconds_of_a_network()


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
    may_request : whether it may request work in the background; not where it only says what it would do
    now, chosen : the backend, and the candidate that it is; binds : see `Field`
    """

    def __init__(
        self, work: Work, exact: bool = False, only: str | None = None, may_request: bool = True
    ) -> None:
        assert work.network is not None
        assert work.optimizer is not None
        tuned.take_kept()
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
        self._better: Candidate | None = None
        if may_request:
            self._look_for_better()
            is_long = self.is_long
            if (self._better or is_long) and can_request():
                if tuning.is_due():
                    requested(f"tune-{store.hash_of(store.compiler())}", "tune", tuple)
                if is_long and self.chosen.entries.is_generic(self._dtype):
                    # For later trainings: background processes load nothing generic.
                    self._requested(self.chosen)

    @property
    def program(self) -> str:
        """What stands for the fastest backend's program of the network alone; "" if that has none."""
        return self._fastest.key

    @property
    def steps(self) -> float:
        """How many steps are left, infinity if that is not known."""
        return self._left

    @property
    def is_long(self) -> bool:
        """Whether two more things may be done in the background; see `LONG_SECONDS`."""
        return self._left * self.chosen.seconds > LONG_SECONDS

    @property
    def lasting(self) -> Backend | None:
        """The backend, if all later trainings of the same work begin with it and ask for nothing else."""
        lasts = self.chosen is self._fastest and not self.is_long and self.is_ready(self.chosen)
        return self.now if lasts else None

    def for_all(self, steps: float) -> Auto:
        """Return the choice for a training with others that find its program: so many steps in all.

        It is of the same bits.
        """
        if not self.chosen.exact or not math.isfinite(steps):
            return self
        return Auto(self._work._replace(steps=int(steps)), exact=True, only=self._only)

    def request_partner(self, steps: float, predicted: Sequence[int]) -> None:
        """Begin to compile in another process what trainings of so many steps in all lack.

        predicted : numbers of rows that are predicted later
        """
        from fastmlp.kernels.runtime.preparing import request_partner

        if not can_request():
            return
        later = self.for_all(steps)
        if later.chosen.entries.lasting and not later.is_ready(later.chosen):
            what = later.chosen.name, self.network, self.optimizer, self._dtype
            request_partner(*what, [self._work.rows], predicted)

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

        def seconds(one: Candidate) -> float:
            waits = one.bound is not None and (one is self._fastest or not self.is_ready(one))
            return (one.cost() if waits else 0.0) + one.seconds * min(self._left, 1e15)

        best = min(self._exact, key=seconds)
        if best is self._fastest or not self.is_ready(best):
            ready = [one for one in self._exact if self.is_ready(one)]
            if ready and can_request():
                return min(ready, key=seconds)
        return best

    def is_ready(self, one: Candidate) -> bool:
        """Return whether the training finds a backend's machine code on the disk, or in this process."""
        if one.name in self._ready:
            return True
        found = one.entries.is_ready(self.network, self.optimizer, self._dtype, one.bound)
        if found:
            self._ready.add(one.name)
        return found

    @property
    def faster(self) -> Candidate | None:
        """The fastest backend of the same bits, if that is not the present one."""
        return self._fastest if self.chosen.exact and self.chosen is not self._fastest else None

    def saved(self) -> float:
        """Return the seconds that the fastest backend saves over the rest of the training."""
        return self._left * (self.chosen.seconds - self._fastest.seconds)

    def spent(self) -> float:
        """Return the seconds that trainings have taken so far without the program that the fastest one is."""
        return spent().seconds(self._fastest.key) if self._fastest.bound else 0.0

    def pays(self) -> bool:
        """Return whether compiling the fastest backend in the background is worth it."""
        cost = about_seconds_of_a_network()
        return self.saved() > cost or self.spent() >= cost

    def _look_for_better(self) -> None:
        """Have a faster program compiled in the background, where that is worth it."""
        faster = self.faster
        if faster is not None and self.pays() and self._requested(faster):
            self._better = faster

    def _requested(self, one: Candidate) -> bool:
        """Have a backend's code compiled in the background; return whether that may happen."""
        name = f"{one.name}-{one.key or store.hash_of(repr(with_formulas(self._work)))}"
        return requested(name, "compile", lambda: (one.name, with_formulas(self._work)))

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
        if self._better is not None and self.is_ready(self._better):
            self.chosen, self._better = self._better, None
            self.now = registry.get(self.chosen.name)
        faster = self.faster
        stopwatch = Stopwatch() if faster is not None and faster.bound is not None else None
        after = self.now.train_chunk(network, optimizer, state, data, chunk, key, threads, losses)
        self._left -= losses.shape[-1]
        if faster is not None and stopwatch is not None:
            spent().add(faster.key, stopwatch.lap().working)
            if self._better is None:
                self._look_for_better()
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


recent_requests: dict[str, tuple[float, bool]] = {}
"""When this process has made a request last, and whether it may be done, by the request's name."""


def requested(request: str, task: str, arguments: Callable[[], tuple[Any, ...]]) -> bool:
    """Have a task done in the background, unless it has just been requested; return whether it may be done.

    request : its name; arguments() gives what the task is called with, of JSON's types
    """
    when, possible = recent_requests.get(request, (-math.inf, False))
    if time.monotonic() > when + REPEAT_SECONDS:
        possible = can_request() and background.request(store.directory(), request, task, *arguments())
        recent_requests[request] = time.monotonic(), possible
    return possible


def can_request() -> bool:
    """Return whether a background process can compile, and the disk keep what it compiles."""
    try:
        store.directory(to_write=True)
    except store.StoreUnusable:
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
    """Return fastmlp's own candidates, whose estimates go by the work alone: they take 40 us."""
    return Field.of(tuple(_those_of(registry.own(), work)))


def _those_of(names: Iterable[str], work: Work) -> Iterator[Candidate]:
    """Yield those of the named backends that can say what a step takes."""
    for name in names:
        choice = registry.choice_of(name)
        if choice.seconds is not None and math.isfinite(seconds := registry.estimate(name, choice, work)):
            bound = _bound(choice, work)
            key = key_of(bound) if bound else ""
            yield Candidate(name, seconds, choice.exact, bound, registry.entries(name), key)


def _bound(choice: Choice, work: Work) -> Bound | None:
    if choice.specialize is None or work.network is None or work.optimizer is None:
        return None
    return choice.specialize(work.network, work.optimizer, work.rows, np.dtype(f"f{work.itemsize}"))


def compile_in_background(name: str, work: Any) -> None:
    """Take a step by a backend, for all that it compiles; the background process does this.

    work : a `Work` as `with_formulas` describes it
    """
    work = Work(*restored(work))
    auto = Auto(work._replace(steps=1), only=name)
    network, optimizer = auto.network, auto.optimizer
    dry = dry_run(network, optimizer, np.dtype(f"f{work.itemsize}"), [work.rows], work.rows)
    auto.train_chunk(network, optimizer, *dry, 0, 1, empty_losses(network, 1))
