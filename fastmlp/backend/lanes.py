"""Small networks trained together, in the lanes of vectors; and when to compile the program."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import registry
from fastmlp.model.backend import Array, Data, dry_run
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, without_rates

if TYPE_CHECKING:
    from fastmlp.backend.programs import Rental
    from fastmlp.kernels.lanes.training import LaneBlocks
    from fastmlp.kernels.variant import SpecializedProgram

VARIANT = "specialized"
"""The backend of the lane programs."""

TRAINING_SECONDS = 3e-4
"""Seconds of a single training besides the steps: Python's preparation, and the model."""


class LaneProgram(NamedTuple):
    """The program of networks in lanes, and the work for compiling.

    network, optimizer : an example of the networks, without rates
    batch_size : the rows of a step
    seconds : of a step of a network, about
    saved : seconds saved in a step against separate training, about; negative for a loss
    """

    specialized: SpecializedProgram
    network: Network
    optimizer: Optimizer
    dtype: np.dtype[Any]
    batch_size: int
    seconds: float
    saved: float

    @property
    def lanes(self) -> int:
        """The number of networks in a vector."""
        from fastmlp.kernels.small.layouts import lanes_of

        return lanes_of(self.dtype)

    @property
    def is_ready(self) -> bool:
        """True if the program is compiled."""
        return registry.entries(VARIANT).has(self.specialized, self.dtype.name)

    def saved_by(self, steps: int, as_one: bool) -> float:
        """Return the seconds saved by a model of so many steps. as_one : True without a separate training"""
        return steps * self.saved + as_one * TRAINING_SECONDS

    def is_worth(self, saved: float) -> bool:
        """Return True if the program is worth so many saved seconds: ready, or compiled here."""
        if saved <= 0 or self.is_ready:
            return saved > 0
        rental = self._rental()
        return rental.is_bought(max(saved, rental.lost), self.compile)

    def lose(self, seconds: float) -> None:
        """Count seconds of trainings without the program."""
        self._rental().lose(self.saved / (self.saved + self.seconds) * seconds)

    def _rental(self) -> Rental:
        from fastmlp.backend.programs import Rental, key_of

        return Rental(key_of(self.specialized))

    def compile(self) -> None:
        """Compile the program by taking a step."""
        state, data, chunk = dry_run(self.network, self.optimizer, self.dtype, [self.batch_size])
        zero = np.zeros(1, np.uint32)
        block = blocks_of(
            self, [(self.network, self.optimizer)], zero, [data], zero, zero, state.parameters[None]
        )
        order = chunk.order if len(chunk.order) else np.arange(self.batch_size)
        block.take(0, [order], chunk.starts, chunk.stops, [chunk.totals], [chunk.rates])


def program_of(
    name: str,
    network: Network,
    optimizer: Optimizer,
    rows: int,
    batch_size: int,
    dtype: np.dtype[Any],
    shuffled: bool = False,
) -> LaneProgram | None:
    """Return the program for networks like this; None if networks train separately.

    name : of the backend for the steps. With a backend of other bits networks train separately, as bits would
        change.
    rows : of an epoch, dense rows; batch_size : of a step
    shuffled : True if an epoch of a single step has a random order, as scikit-learn's
    """
    if registry.is_reference(name) or not registry.choice_of(name).exact:
        return None
    from fastmlp.kernels.estimates import lane_seconds
    from fastmlp.kernels.small.eligible import lane_program
    from fastmlp.kernels.variant import Work

    optimizer = without_rates(optimizer)
    specialized = lane_program(
        network,
        optimizer,
        dtype,
        0 if rows % batch_size else batch_size,
        rows == batch_size and not shuffled,
    )
    if specialized is None:
        return None
    work, variant = Work.of(network, optimizer, batch_size, dtype, 1), registry.choice_of(name)
    alone = math.inf if variant.seconds is None else registry.estimate(variant, work)
    together = lane_seconds(work)
    saved = alone - together if math.isfinite(alone) else 0.0
    return LaneProgram(specialized, network, optimizer, dtype, batch_size, together, saved)


def blocks_of(
    program: LaneProgram,
    kinds: Sequence[tuple[Network, Optimizer]],
    kind_of: NDArray[Any],
    data: Sequence[Data],
    data_of: NDArray[Any],
    keys: NDArray[Any],
    parameters: Array,
    moments: Array | None = None,
) -> LaneBlocks:
    """Return networks (models) with all steps in common calls; see `fastmlp.kernels.lanes.training`."""
    from fastmlp.kernels.lanes.training import LaneBlocks

    entries = registry.entries(VARIANT)
    return LaneBlocks(entries, program.specialized, kinds, kind_of, data, data_of, keys, parameters, moments)
