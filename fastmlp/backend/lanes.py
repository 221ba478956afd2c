"""Small networks whose steps are taken together, in the lanes of vectors; when their program is compiled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import registry
from fastmlp.model.backend import Array, Chunk, Data, dry_run
from fastmlp.model.descriptions import restored, with_formulas
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, without_rates
from fastmlp.model.state import TrainState

if TYPE_CHECKING:
    from fastmlp.kernels.lanes.blocks import LaneBlocks
    from fastmlp.kernels.lanes.training import LaneResult, LaneTask
    from fastmlp.kernels.variant import Bound

VARIANT = "specialized"
"""The backend to whose programs those of lanes belong."""

TRAINING_SECONDS = 3e-4
"""Seconds of a single training besides its steps: Python prepares it and makes its model."""


class LaneProgram(NamedTuple):
    """The program of networks in lanes, and what it is compiled for.

    network, optimizer : one of those that it serves, without rates
    rows : of an epoch; batch_size : of a step; shuffled : see `program_of`
    seconds : of a step of a network, about
    saved : seconds that a step takes less than alone, about; less than 0 where it takes more
    """

    bound: Bound
    network: Network
    optimizer: Optimizer
    dtype: np.dtype[Any]
    rows: int
    batch_size: int
    shuffled: bool
    seconds: float
    saved: float

    @property
    def lanes(self) -> int:
        """How many networks go together."""
        from fastmlp.kernels.lanes.eligible import lanes_of

        return lanes_of(self.dtype)

    @property
    def is_ready(self) -> bool:
        """Whether it need not be compiled."""
        entries = registry.entries(VARIANT)
        return entries.is_ready(self.network, self.optimizer, self.dtype.name, self.bound)

    def saved_by(self, steps: int, as_one: bool) -> float:
        """Return the seconds that a model of so many steps saves. as_one : without a training of its own"""
        return steps * self.saved + as_one * TRAINING_SECONDS

    def is_worth(self, saved: float) -> bool:
        """Return whether to use it where that saves so many seconds: it is ready, or compiling takes less."""
        from fastmlp.kernels.jit.entries import about_seconds_of_a_network

        return saved > 0 and (self.is_ready or saved > about_seconds_of_a_network())

    def spend(self, seconds: float) -> None:
        """Count what trainings have taken without it; have it compiled in the background at its price."""
        from fastmlp.backend.auto import requested
        from fastmlp.kernels.jit.entries import about_seconds_of_a_network
        from fastmlp.kernels.jit.spent import key_of, spent

        key = key_of(self.bound)
        spent().add(key, seconds)
        if spent().seconds(key) >= about_seconds_of_a_network():
            parts = (
                self.network, self.optimizer, self.dtype.name, self.rows, self.batch_size, self.shuffled,
            )  # fmt: skip
            requested(f"lanes-{key}", "compile lanes", lambda: with_formulas(parts))


def program_of(
    name: str,
    network: Network,
    optimizer: Optimizer,
    rows: int,
    batch_size: int,
    dtype: np.dtype[Any],
    shuffled: bool = False,
) -> LaneProgram | None:
    """Return the program by which networks like this one train together; None if each goes alone.

    name : of the backend that would take their steps. On one that is not exact each goes alone: its bits
        would change.
    rows : of an epoch, dense ones; batch_size : of a step
    shuffled : whether an epoch of one step has an order of its own, as scikit-learn's have
    """
    if registry.is_reference(name) or not registry.choice_of(name).exact:
        return None
    from fastmlp.kernels.estimates import lane_seconds
    from fastmlp.kernels.lanes.eligible import lane_program
    from fastmlp.kernels.variant import Work

    optimizer = without_rates(optimizer)
    bound = lane_program(
        network,
        optimizer,
        dtype,
        0 if rows % batch_size else batch_size,
        rows == batch_size and not shuffled,
    )
    if bound is None:
        return None
    work, choice = Work.of(network, optimizer, batch_size, dtype, 1), registry.choice_of(name)
    alone = math.inf if choice.seconds is None else registry.estimate(name, choice, work)
    together = lane_seconds(work)
    saved = alone - together if math.isfinite(alone) else 0.0
    return LaneProgram(bound, network, optimizer, dtype, rows, batch_size, shuffled, together, saved)


def task_of(
    network: Network, optimizer: Optimizer, state: TrainState, data: Data, chunk: Chunk, key: int
) -> LaneTask:
    """Return a network's next steps, which it may take with others'. key : of its dropout masks"""
    from fastmlp.kernels.lanes.training import LaneTask

    return LaneTask(network, optimizer, state, data, chunk, key)


def train_in_lanes(program: LaneProgram, tasks: Sequence[LaneTask]) -> LaneResult:
    """Take the steps of tasks; see `fastmlp.kernels.lanes.training`."""
    from fastmlp.kernels.lanes.training import train_in_lanes

    entries = registry.entries(VARIANT)
    found = train_in_lanes(entries, program.bound, tasks)
    entries.mark_ready(program.network, program.optimizer, program.dtype.name, program.bound)
    return found


def blocks_of(
    program: LaneProgram,
    kinds: Sequence[tuple[Network, Optimizer]],
    kind_of: NDArray[np.intp],
    data: Sequence[Data],
    data_of: NDArray[np.intp],
    keys: NDArray[np.uint32],
    parameters: Array,
) -> LaneBlocks:
    """Return networks (models) whose steps are all taken together; see `fastmlp.kernels.lanes.blocks`."""
    from fastmlp.kernels.lanes.blocks import LaneBlocks, LaneMembers

    members = LaneMembers(kinds, kind_of, data, data_of, keys)
    return LaneBlocks(registry.entries(VARIANT), program.bound, members, parameters)


def compile_in_background(*described: Any) -> None:
    """Take a step in lanes, for all that it compiles; the background process does this.

    described : the parts of a `LaneProgram`, as `with_formulas` describes them
    """
    network, optimizer, name, rows, batch_size, shuffled = restored([*described])
    program = program_of(VARIANT, network, optimizer, rows, batch_size, np.dtype(name), shuffled)
    assert program is not None
    dry = dry_run(network, optimizer, program.dtype, [batch_size])
    train_in_lanes(program, [task_of(network, program.optimizer, *dry, 0)])
