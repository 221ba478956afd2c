"""`find_rate`: the learning-rate range test, steps with growing rates (Smith 2017)."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmlp import checks
from fastmlp.backend.registry import get
from fastmlp.checks import needed
from fastmlp.data.arrays import clean_rows_of, clean_targets
from fastmlp.data.seeding import generator
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer, as_optimizer
from fastmlp.model.rows import SparseRows
from fastmlp.stepper.stepper import Stepper
from fastmlp.trained.model import Model
from fastmlp.training.preparation import initial_parameters

Floats = NDArray[np.float64]

SMOOTHING, DIVERGED = 0.95, 4.0
"""The decay of the losses' mean; the search ends at so many times the least mean."""


@dataclass(frozen=True, eq=False, repr=False)
class RateSearch:
    """The result of `find_rate`.

    Attributes
    ----------
    rates : (steps,) float64, ascending
    losses : (steps,) float64, of the batch before each step, as an exponential mean without bias
    """

    rates: Floats
    losses: Floats

    def __repr__(self) -> str:
        bounds = f"{self.rates[0]:.2g} to {self.rates[-1]:.2g}"
        return f"RateSearch(rate {self.rate:.2g}, of {len(self.rates)} rates from {bounds})"

    @property
    def rate(self) -> float:
        """The rate at the steepest fall of the loss, over a tenth of the steps.

        The first quarter of the steps, up to 20, does not count: a mean of few batches falls by chance.
        """
        count = len(self.rates)
        first, width = min(20, count // 4), max(1, count // 10)
        falls = self.losses[first : count - width] - self.losses[first + width :]
        return float(self.rates[first + falls.argmax() + width // 2]) if len(falls) else float(self.rates[0])

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write a picture of the losses over the rates, with the proposed rate, to a file."""
        made = needed("matplotlib.figure", "plot", "a picture").Figure
        figure = made(figsize=(7, 4), layout="constrained")
        axis = figure.subplots()
        axis.plot(self.rates, self.losses)
        axis.axvline(self.rate, color="C3", linestyle="--", label=f"proposed: {self.rate:.2g}")
        axis.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axis.legend()
        figure.savefig(os.fspath(path))


def find_rate(
    network: Network,
    X: Any,
    y: ArrayLike,
    *,
    optimizer: Optimizer | str | None = None,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 300,
    batch_size: int = 32,
    seed: int | None = None,
    dtype: DTypeLike | None = None,
    backend: str = "auto",
) -> RateSearch:
    """Take steps with rates from `lowest` to `highest`, and return the loss at each.

    The search ends at 4 times the least loss, or at a loss that is not finite. The network starts anew, and
    nothing of the network is kept.

    Parameters
    ----------
    network, X, y, seed, dtype, backend : as for `fit`, of rows in memory
    optimizer : Optimizer or str, optional
        Takes the steps, with the rates of the search; Adam() if None.
    lowest, highest : float
        Above 0, the rates of the first and of the last step; rates between grow by equal factors.
    steps : int, at least 2
    batch_size : int, at least 1; batches are drawn without replacement, over and over

    Raises
    ------
    ValueError, TypeError
        For a mistake in the arguments, in one line.
    """
    checks.instance("network", network, Network, "a Network")
    optimizer = Adam() if optimizer is None else as_optimizer("optimizer", optimizer, True)
    checks.real("lowest", lowest, 0, open_low=True)
    checks.real("highest", highest, lowest, open_low=True)
    steps, batch_size = checks.whole("steps", steps, 2), checks.whole("batch_size", batch_size, 1)
    inputs: Any = clean_rows_of("X", network.replaced(input_scale=1.0), X, dtype)
    rows = inputs.shape[0]
    targets = clean_targets("y", y, network, rows, inputs.dtype)
    batch_size = min(batch_size, rows)
    seed = int.from_bytes(os.urandom(16), "little") if seed is None else checks.whole("seed", seed, 0)
    initial = None
    if network.settles:
        start = initial_parameters(network, None, inputs.dtype, seed, inputs)
        initial = Model(network, start, {}, get("reference"), None)
    stepper = Stepper(
        network, replace(optimizer, learning_rate=1.0), seed=seed, dtype=inputs.dtype, most_rows=batch_size,
        backend=backend, initial=initial,
    )  # fmt: skip
    rng = generator(seed, "order")
    rates = np.geomspace(lowest, highest, steps)
    losses, mean, order = np.empty(steps), 0.0, np.empty(0, np.int64)
    for step, rate in enumerate(rates):
        if len(order) < batch_size:
            order = rng.permutation(rows)
        some, order = np.sort(order[:batch_size]), order[batch_size:]
        stepper.rate_factor = rate
        batch = inputs[some]
        sparse = isinstance(batch, SparseRows) and not network.blocks  # or the stepper takes them as they are
        loss = stepper.step(batch.matrix() if sparse else batch, targets[some])
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        losses[step] = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(losses[step]) or losses[step] > DIVERGED * losses[: step + 1].min():
            step += not step  # the first of them, whatever it is
            return RateSearch(rates[:step], losses[:step])
    return RateSearch(rates, losses)
