"""Averages of weights (EMA, SWA): predictions read the average, steps go on from the last weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.network import Network
from fastmlp.model.optimizer import Optimizer

Array = NDArray[Any]


@dataclass(frozen=True)
class EMA(checks.CheckedFields):
    """An exponential moving average of the parameters (Polyak and Juditsky 1992; torch's get_ema_avg_fn).

    Parameters
    ----------
    decay : float
        In [0, 1). After every step average = decay * average + (1 - decay) * parameters; the first step's
        parameters begin the average.
    """

    decay: float = checks.fraction(0.999)

    def averaging(self, steps: int | None) -> tuple[str, float]:
        """Return `Optimizer.averaging` for a training of so many steps."""
        return "ema", float(self.decay)


@dataclass(frozen=True)
class SWA(checks.CheckedFields):
    """The mean of the parameters after every step of a training's end (Izmailov and others 2018).

    Parameters
    ----------
    start : float
        In [0, 1): the fraction of the training's steps before the mean. Predictions read the last parameters
        until then. `fit_more` keeps the first step of the mean; `resume` takes the same number of epochs.
    """

    start: float = checks.fraction(0.75)

    def averaging(self, steps: int | None) -> tuple[str, float]:
        """Return `Optimizer.averaging` for a training of so many steps; ValueError for None."""
        if steps is None:
            raise ValueError("SWA starts at a fraction of all steps, which blocks do not give; take an EMA")
        return "swa", float(int(self.start * steps))


Average = EMA | SWA


def with_average(optimizer: Optimizer, average: Average, steps: int | None) -> Optimizer:
    """Return the optimiser with an average, for a training of so many steps.

    ValueError if the optimiser takes no average, TypeError if the average is neither EMA nor SWA.
    """
    checks.instance("average", average, (EMA, SWA), "an EMA or a SWA")
    return _averaged(optimizer, average.averaging(steps))


def with_average_of(optimizer: Optimizer, earlier: Optimizer) -> Optimizer:
    """Return the optimiser with the average of an earlier optimiser, if any."""
    return (
        optimizer
        if earlier.averaging in (None, optimizer.averaging)
        else _averaged(optimizer, earlier.averaging)
    )


def _averaged(optimizer: Optimizer, averaging: tuple[str, float]) -> Optimizer:
    rule = optimizer.own_rule
    if rule.sparse_updates or rule.reads_last:
        why = "moves some rows only" if rule.sparse_updates else "reads an average already"
        raise ValueError(f"average does not go with {type(optimizer).__name__}, which {why}")
    return replace(optimizer, averaging=averaging)


def _read(network: Network, optimizer: Optimizer) -> Iterator[slice]:
    """Yield the slices of trained parameters."""
    for one in network.operations:
        if optimizer.rate_of(one):
            yield slice(one.weights, one.trained if one.trains_bias else one.biases)


def swap_average(
    network: Network, optimizer: Optimizer, parameters: Array, moments: Array, step: int
) -> None:
    """Swap the parameters (P,) of steps with the average, and back.

    Between two chunks `parameters` holds the average, for predictions, and the last moment holds the
    parameters of the next step; while a backend takes steps the two are swapped. Without an average, or
    before the first step, nothing changes.

    moments : (m, P); step : updates done so far
    """
    if optimizer.rule.reads_last and step:
        last = moments[optimizer.rule.moments - 1]
        for some in _read(network, optimizer):
            before = parameters[some].copy()
            parameters[some], last[some] = last[some], before
