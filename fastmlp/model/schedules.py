"""Learning rates that change in time: frozen descriptions, each a function of a counter.

Every schedule has a `unit`. With "epoch" (the default) its counter t is the number of whole
epochs done, and the rate is constant within one, like a PyTorch scheduler stepped after every
epoch. With "step" t is the number of updates done, like one stepped after every batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks

Floats = NDArray[np.float64]


class Since(NamedTuple):
    """Where updates begin that go on with an earlier training, whose epochs had another number of updates.

    step, epoch : updates and whole epochs done by then
    """

    step: int = 0
    epoch: int = 0


BEGINNING = Since()


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules: a rate as a function of the counter that `unit` names."""

    unit: str = field(default="epoch", kw_only=True)

    def __post_init__(self) -> None:
        checks.choice("unit", self.unit, ("epoch", "step"))

    def rates(self, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING) -> Floats:
        """Return the (n,) float64 rates of n updates, numbered from 0 at the start of training."""
        count = steps
        if self.unit == "epoch":
            count = since.epoch + (steps - since.step) // steps_per_epoch
        return self._after(count.astype(np.float64), steps, steps_per_epoch, since)

    def _after(self, t: Floats, steps: NDArray[np.int64], steps_per_epoch: int, since: Since) -> Floats:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate throughout; what a plain number for `learning_rate` means."""

    initial: float

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("learning_rate", self.initial, 0)

    def _after(self, t: Floats, steps: NDArray[np.int64], steps_per_epoch: int, since: Since) -> Floats:
        return np.full_like(t, self.initial)


@dataclass(frozen=True)
class StepDecay(Constant):
    """initial * factor ** (t // every); torch's StepLR."""

    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("every", self.every, 1)
        checks.real("factor", self.factor, 0, open_low=True)

    def _after(self, t: Floats, steps: NDArray[np.int64], steps_per_epoch: int, since: Since) -> Floats:
        return self.initial * self.factor ** (t // self.every)


@dataclass(frozen=True)
class Exponential(Constant):
    """initial * factor ** t; torch's ExponentialLR."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("factor", self.factor, 0, open_low=True)

    def _after(self, t: Floats, steps: NDArray[np.int64], steps_per_epoch: int, since: Since) -> Floats:
        return self.initial * self.factor**t


@dataclass(frozen=True)
class InverseScaling(Constant):
    """initial / (t + 1) ** power; scikit-learn's "invscaling"."""

    power: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("power", self.power)

    def _after(self, t: Floats, steps: NDArray[np.int64], steps_per_epoch: int, since: Since) -> Floats:
        return self.initial / (t + 1.0) ** self.power


@dataclass(frozen=True)
class Cosine(Constant):
    """From initial down to final over `length`, then final; torch's CosineAnnealingLR.

    Loshchilov and Hutter, "SGDR" (2017), without restarts:
    final + (initial - final) / 2 * (1 + cos(pi * t / length)).
    """

    length: int
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.whole("length", self.length, 1)
        checks.real("final", self.final, 0)

    def _after(self, t: Floats, steps: NDArray[np.int64], steps_per_epoch: int, since: Since) -> Floats:
        done = np.minimum(t, self.length) / self.length
        return self.final + 0.5 * (self.initial - self.final) * (1.0 + np.cos(math.pi * done))


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear rise to another schedule (or a plain rate); torch's LinearLR chained with it.

    The rate of `after` is multiplied by start_factor + (1 - start_factor) * min(t, length) / length.
    """

    after: float | Schedule
    length: int = 5
    start_factor: float = 1.0 / 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        as_schedule(self.after)
        checks.whole("length", self.length, 1)
        checks.real("start_factor", self.start_factor, 0, 1)

    def _after(self, t: Floats, steps: NDArray[np.int64], steps_per_epoch: int, since: Since) -> Floats:
        rise = self.start_factor + (1.0 - self.start_factor) * np.minimum(t, self.length) / self.length
        return rise * as_schedule(self.after).rates(steps, steps_per_epoch, since)


def as_schedule(rate: float | Schedule) -> Schedule:
    """Return `rate` itself if it is a schedule, else a constant one."""
    if type(rate) is Schedule:
        raise TypeError("learning_rate must be a number or one of the schedules, got the base Schedule")
    return rate if isinstance(rate, Schedule) else Constant(rate)


def rates_of(
    rate: float | Schedule, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING
) -> Floats | float:
    """Return the rates (n,) of n updates, as `Schedule.rates`; a plain number is that of them all."""
    return rate.rates(steps, steps_per_epoch, since) if isinstance(rate, Schedule) else rate
