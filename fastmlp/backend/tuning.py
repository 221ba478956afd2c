"""Measurement of the constants of `fastmlp.kernels.tuning`: whole steps, with values in turn.

`fastmlp warmup` measures for a second, `fastmlp tune` longer, and a training never.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fastmlp.backend import registry
from fastmlp.kernels.jit.engine import save_constants
from fastmlp.kernels.tuning import TABLE, Trial, forced
from fastmlp.kernels.variant import Work
from fastmlp.model.backend import Array, Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME
from fastmlp.model.rows import SparseRows
from fastmlp.model.state import initial_state
from fastmlp.system.budget import cores

QUICK_SECONDS = 1.0
"""Seconds of a default measurement's rounds."""

LEAST_GAIN, MOST_LOSS = 0.03, 0.02
"""The least fraction of time saved by a new value, and the largest fraction lost in a single trial."""

TURN_SECONDS = 5e-4
"""The least duration of a turn."""

LEAST_ROUNDS = 4

SAMPLES = 2048
"""Rows of the data, visited in random order."""

UNDISTURBED = 0.9
"""The least fraction of time on a core for threads; with less a measurement is void."""


class MeasuredConstant(NamedTuple):
    """The measured times of a constant's values.

    seconds : of a step or prediction, for each trial and value, in each round
    """

    name: str
    seconds: dict[Trial, dict[int, list[float]]]

    def gains(self, rounds: slice) -> dict[int, list[float]]:
        """Return for each value, and each trial, the fraction saved of the usual value's least time."""
        usual, *others = TABLE[self.name].values
        gains: dict[int, list[float]] = {value: [] for value in others}
        for times in self.seconds.values():
            least = {value: min(by_round[rounds], default=math.inf) for value, by_round in times.items()}
            if all(map(math.isfinite, least.values())):
                for value in others:
                    gains[value].append(1 - least[value] / least[usual])
        return gains

    @property
    def best(self) -> int:
        """The best value by every second round, if the other rounds confirm the gain."""
        chosen, confirmed = (self.gains(slice(first, None, 2)) for first in (0, 1))
        best = max(chosen, key=lambda value: mean_gain(chosen[value]))
        good = all(
            mean_gain(gains[best]) >= LEAST_GAIN and min(gains[best]) >= -MOST_LOSS
            for gains in (chosen, confirmed)
        )
        return best if good else TABLE[self.name].usual


def changed(constants: list[MeasuredConstant]) -> dict[str, int]:
    """Return the constants with an unusual best value."""
    return {
        constant.name: constant.best for constant in constants if constant.best != TABLE[constant.name].usual
    }


def mean_gain(fractions: list[float]) -> float:
    """Return the fraction of time saved in the geometric mean of trials; 0 without trials."""
    return 1 - math.exp(sum(map(math.log1p, (-fraction for fraction in fractions))) / max(1, len(fractions)))


def measure(seconds: float, names: Iterable[str] = TABLE) -> list[MeasuredConstant]:
    """Return the times of all values.

    seconds : of computing, for the rounds, after compiling and loading
    """
    settings = {
        (name, trial): [{name: value} for value in TABLE[name].values]
        for name in names
        for trial in trials_of(name)
    }
    for (_, trial), several in settings.items():
        for setting in several:
            with forced(setting):
                turn_of(trial)[0](1)
    measured = {name: MeasuredConstant(name, {}) for name in names}
    for (name, trial), times in timed(settings, seconds).items():
        measured[name].seconds[trial] = dict(zip(TABLE[name].values, times, strict=True))
    return [*measured.values()]


def timed(
    settings: Mapping[tuple[str, Trial], Sequence[Mapping[str, int]]], seconds: float
) -> dict[tuple[str, Trial], list[list[float]]]:
    """Return the times of trials with several settings each; each setting has a turn in every round."""
    times: dict[tuple[str, Trial], list[list[float]]] = {key: [[] for _ in settings[key]] for key in settings}
    end = time.process_time() + seconds
    for first in itertools.count():
        for (name, trial), several in settings.items():
            if first >= LEAST_ROUNDS and time.process_time() > end:
                return times
            once, repeats = turn_of(trial)
            once(1)  # for the caches, which held another trial's numbers
            # By turns, because the second finds in the caches what the first has read.
            for index in range(first, first + len(several)):
                at = index % len(several)
                with forced(several[at]):
                    times[name, trial][at].append(once(repeats))
    raise AssertionError("unreachable")


def trials_of(name: str) -> list[Trial]:
    """Return the trials of a constant with enough cores."""
    return [trial for trial in TABLE[name].trials if trial.threads <= cores()]


@functools.cache
def turn_of(trial: Trial) -> tuple[Callable[[int], float], int]:
    """Return once(count), which repeats a trial and gives the seconds of one; and the repeats of a turn."""
    # Rates are 0, so that parameters stay.
    network = Network(trial.sizes, "relu", "softmax", "cross_entropy")
    optimizer = BY_NAME[trial.optimizer](1e-3)
    backend, dtype, rng = registry.get(trial.backend), np.dtype(np.float32), np.random.default_rng(0)
    samples = max(trial.rows, SAMPLES)
    numbers = 1 - rng.random((samples, trial.terms or trial.sizes[0]), dtype)
    inputs = spread(numbers, trial.sizes[0], rng) if trial.terms else numbers
    targets = np.full((samples, trial.sizes[-1]), 1 / trial.sizes[-1], dtype)
    data = Data(inputs, targets, np.ones(samples, dtype))
    state = initial_state(0.01 * rng.standard_normal(parameter_count(network), dtype))
    out, order = np.empty((trial.rows, trial.sizes[-1]), dtype), rng.permutation(samples)
    work = Work.of(network, optimizer, trial.rows, dtype, trial.threads)
    workers_of = registry.choice_of(trial.backend).workers or (lambda _: 1)

    def once(count: int) -> float:
        starts = np.arange(count) * trial.rows % (samples - trial.rows + 1)
        stops, rates = starts + trial.rows, np.zeros((count, 2))
        chunk = Chunk(order, starts, stops, np.full(count, float(trial.rows)), rates, trial.rows)
        losses = np.empty(count)
        began, busy = time.perf_counter(), time.process_time()
        if trial.use == "train":
            backend.train_chunk(network, optimizer, state, data, chunk, 0, trial.threads, losses)
        else:
            for _ in range(count):
                backend.predict(network, state.parameters, inputs[: trial.rows], out)
        passed, busy = time.perf_counter() - began, time.process_time() - busy
        if trial.threads == 1:
            return busy / count  # also during a training on all cores
        return passed / count if busy > UNDISTURBED * passed * workers_of(work) else math.inf

    once(1)
    began = time.perf_counter()
    once(1)
    return once, max(1, round(TURN_SECONDS / (time.perf_counter() - began)))


def spread(values: Array, n_in: int, rng: np.random.Generator) -> SparseRows:
    """Return rows of n_in numbers with values (rows, terms), each at random in a fraction of the columns."""
    rows, terms = values.shape
    columns = np.arange(terms) * n_in // terms + rng.integers(0, n_in // terms, values.shape)
    return SparseRows(
        np.arange(rows + 1) * terms, columns.astype(np.int32).reshape(-1), values.reshape(-1), n_in
    )


def tune(seconds: float = QUICK_SECONDS) -> list[MeasuredConstant]:
    """Measure all constants; store the best values for later processes."""
    constants = measure(seconds)
    save_constants({constant.name: constant.best for constant in constants})
    return constants


def gains(values: Mapping[str, int], seconds: float) -> dict[Trial, float]:
    """Return the fraction of each trial's time saved by all values together, against the usual values.

    Without trials of several threads for lack of free cores.
    """
    usual = {name: constant.usual for name, constant in TABLE.items()}
    times = timed({("", trial): [usual, values] for name in TABLE for trial in trials_of(name)}, seconds)
    least = {trial: (min(before), min(after)) for (_, trial), (before, after) in times.items()}
    measured = {trial: pair for trial, pair in least.items() if math.isfinite(sum(pair))}
    return {trial: 1 - after / before for trial, (before, after) in measured.items()}
