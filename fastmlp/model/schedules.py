"""Learning-rate schedules: frozen descriptions, each a function of a counter.

Every schedule has a `unit`. With "epoch" (the default) the counter t is the number of whole epochs done, and
the rate is constant within an epoch, like a PyTorch scheduler stepped after every epoch. With "step" t is the
number of updates done, like a scheduler stepped after every batch:

    Cosine(0.001, length=10)                  falls over 10 epochs
    Cosine(0.001, length=1000, unit="step")   falls over 1000 steps
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Hashable
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks

Floats = NDArray[np.float64]

RateFunction = Callable[[int], float]
"""A learning rate as a function of the whole epochs done."""


class Since(NamedTuple):
    """The start of a continued training, after epochs with another number of updates.

    step, epoch : updates and whole epochs done by then
    """

    step: int = 0
    epoch: int = 0


BEGINNING = Since()


UNITS = "epoch", "step"


@dataclass(frozen=True)
class Schedule(checks.CheckedFields):
    """Base of all schedules: a rate as a function of the counter named by `unit`.

    A custom schedule is a frozen dataclass with a method `rates`; for a rate by epochs alone, a function
    does.

    Parameters
    ----------
    unit : str
        "epoch", the default, counts whole epochs done, "step" updates done. An epoch has ceil(rows /
        batch_size) steps.
    """

    _: KW_ONLY
    unit: str = checks.checked(functools.partial(checks.choice, choices=UNITS), "epoch")

    def rates(self, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING) -> Floats:
        """Return the (n,) float64 rates of n updates, numbered from 0 at the start of training."""
        count = steps
        if self.unit == "epoch":
            count = since.epoch + (steps - since.step) // steps_per_epoch
        return self._after(count.astype(np.float64))

    def _after(self, t: Floats) -> Floats:
        """Return the rates (n,) for values (n,) of the counter."""
        raise NotImplementedError


Rate = float | RateFunction | Schedule
"""A learning rate for an optimiser."""


@dataclass(frozen=True)
class Constant(Schedule):
    """A constant rate, the meaning of a plain number for `learning_rate`."""

    initial: float = checks.checked(lambda _, value: checks.real("learning_rate", value, 0))

    def _after(self, t: Floats) -> Floats:
        return np.full_like(t, self.initial)


@dataclass(frozen=True)
class StepDecay(Constant):
    """initial * factor ** (t // every), t in epochs, or in steps with unit="step"; torch's StepLR."""

    every: int = checks.count(1)
    factor: float = checks.positive(0.1)

    def _after(self, t: Floats) -> Floats:
        return self.initial * self.factor ** (t // self.every)


@dataclass(frozen=True)
class Exponential(Constant):
    """initial * factor ** t, t in epochs, or in steps with unit="step"; torch's ExponentialLR."""

    factor: float = checks.positive()

    def _after(self, t: Floats) -> Floats:
        return self.initial * self.factor**t


@dataclass(frozen=True)
class InverseScaling(Constant):
    """initial / (t + 1) ** power, t in epochs, or in steps with unit="step".

    scikit-learn's "invscaling" has this form, with t the number of visited rows.
    """

    power: float = checks.number(0.5)

    def _after(self, t: Floats) -> Floats:
        return self.initial / (t + 1.0) ** self.power


@dataclass(frozen=True)
class Cosine(Constant):
    """Cosine schedule from initial down to final over `length`, then final; torch's CosineAnnealingLR.

    Loshchilov and Hutter, "SGDR" (2017), without restarts: final + (initial - final) / 2 * (1 + cos(pi * t /
    length)).

    Parameters
    ----------
    initial, final : float
        The first and the last rate; at least 0.
    length : int
        Epochs, or steps with unit="step"; at least 1.
    """

    length: int = checks.count(1)
    final: float = checks.number(0.0, 0)

    def _after(self, t: Floats) -> Floats:
        done = np.minimum(t, self.length) / self.length
        return self.final + 0.5 * (self.initial - self.final) * (1.0 + np.cos(math.pi * done))


@dataclass(frozen=True)
class CosineRestarts(Cosine):
    """Cosine from `initial` to `final` again and again; torch's CosineAnnealingWarmRestarts.

    Loshchilov and Hutter, "SGDR" (2017).

    Parameters
    ----------
    initial, final : float
        The rate at every restart, and at the end of a fall; at least 0.
    length : int
        Epochs of the first fall, or steps with unit="step"; at least 1.
    growth : int
        The length of each fall, relative to the fall before; at least 1.
    """

    growth: int = checks.count(1, default=1)

    def _after(self, t: Floats) -> Floats:
        if self.growth == 1:
            return super()._after(t % self.length)
        starts = [0]
        while starts[-1] <= t.max(initial=0):
            starts.append(starts[-1] * self.growth + self.length)
        before = np.searchsorted(starts, t, "right") - 1
        lengths = self.length * float(self.growth) ** before
        within = (t - np.array(starts, float)[before]) * self.length / lengths
        return super()._after(within)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """A rise to `peak` and a fall to almost nothing, each half a cosine; torch's OneCycleLR.

    Smith and Topin, "Super-convergence" (2018). As in PyTorch the top is reached at t = rise * length - 1 and
    the end at t = length - 1; the rate stays afterwards.

    Parameters
    ----------
    peak : float
        The greatest rate; at least 0.
    length : int
        Epochs of the whole cycle, or steps with unit="step", as PyTorch's total_steps; at least 2.
    rise : float
        The rising fraction of the cycle, in [0, 1].
    start_factor : float
        The first rate is peak * start_factor; in [0, 1].
    final_factor : float
        The last rate is the first rate times this; in [0, 1].
    """

    peak: float = checks.number(low=0)
    length: int = checks.count(2)
    rise: float = checks.number(0.3, 0, 1)
    start_factor: float = checks.number(1.0 / 25.0, 0, 1)
    final_factor: float = checks.number(1e-4, 0, 1)

    def _after(self, t: Floats) -> Floats:
        top, end = self.rise * self.length - 1.0, self.length - 1.0
        first, t = self.peak * self.start_factor, np.minimum(t, end)
        rising = _half_cosine(t, 0.0, top, first, self.peak)
        return np.where(t <= top, rising, _half_cosine(t, top, end, self.peak, first * self.final_factor))


def _half_cosine(t: Floats, begin: float, end: float, first: float, last: float) -> Floats:
    """Return rates from `first` at t = begin to `last` at t = end."""
    done = (t - begin) / (end - begin) if end > begin else np.ones_like(t)
    return last + 0.5 * (first - last) * (1.0 + np.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise to another schedule (or a plain rate); torch's LinearLR, chained.

    The rate of `after` is multiplied by start_factor + (1 - start_factor) * min(t, length) / length.

    Parameters
    ----------
    after : float, Schedule or function
        With a separate unit, counting from the training's start.
    length : int
        Epochs of the rise, or steps with unit="step"; at least 1.
    start_factor : float
        In [0, 1].
    """

    after: Rate
    length: int = checks.count(1, default=5)
    start_factor: float = checks.number(1.0 / 3.0, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        as_schedule(self.after)

    def rates(self, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING) -> Floats:
        """Return the (n,) float64 rates of n updates, numbered from 0 at the start of training."""
        rise = super().rates(steps, steps_per_epoch, since)
        return rise * as_schedule(self.after).rates(steps, steps_per_epoch, since)

    def _after(self, t: Floats) -> Floats:
        return self.start_factor + (1.0 - self.start_factor) * np.minimum(t, self.length) / self.length


COMPARED_EPOCHS = (*range(1 << 10), *(1 << power for power in range(10, 21)))
"""Epochs for comparing functions by rates: all epochs of a usual training, and some of the longest."""


@dataclass(frozen=True)
class ByFunction(Schedule):
    """A function of the whole epochs done, for a function as `learning_rate`."""

    function: RateFunction

    def _after(self, t: Floats) -> Floats:
        epochs, indices = np.unique(t.astype(np.int64), return_inverse=True)
        return np.array([self.rate_after(epoch) for epoch in epochs.tolist()])[indices]

    def rate_after(self, epochs: int) -> float:
        """Return the rate after so many whole epochs; TypeError or ValueError for a bad rate."""
        return checks.real(f"learning_rate({epochs})", self.function(epochs), 0)

    @property
    def digest(self) -> str:
        """SHA-256 of the rates after `COMPARED_EPOCHS` epochs, up to the first error."""
        # By values, since neither source nor bytecode shows outside values of a function.
        rates = []
        for epochs in COMPARED_EPOCHS:
            try:
                rates.append(self.rate_after(epochs))
            except Exception:  # it is the user's: a list of rates ends with IndexError
                break
        return hashlib.sha256(np.array(rates).tobytes()).hexdigest()


def as_schedule(rate: Rate) -> Schedule:
    """Return a schedule unchanged; wrap a function or a number in a schedule."""
    if type(rate) is Schedule:
        raise TypeError(
            "learning_rate must be a number, a function or one of the schedules, got the base Schedule"
        )
    if isinstance(rate, Schedule):
        return rate
    if callable(rate) and not isinstance(rate, type):
        checks.instance("a learning_rate that is called", rate, Hashable, "hashable, as functions are")
        return ByFunction(rate)
    return Constant(rate)  # type: ignore[arg-type]  # which refuses a class


def rates_of(
    rate: Rate, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING
) -> Floats | float:
    """Return the rates (n,) of n updates, as `Schedule.rates`; return a plain number unchanged."""
    if type(rate) is not float and (isinstance(rate, Schedule) or callable(rate)):
        return as_schedule(rate).rates(steps, steps_per_epoch, since)
    return rate
