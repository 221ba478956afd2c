"""Models of a call that may be trained together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fastmlp.backend import lanes
from fastmlp.backend.choice import settled
from fastmlp.backend.lanes import LaneProgram
from fastmlp.many.blocks import MOST, Pattern
from fastmlp.training.plan import Plan

SECONDS_OF_A_THREAD = 4e-3
"""Estimated seconds of steps that are worth a further thread: it starts late, and prepares a block more."""


def program_of(plan: Plan) -> LaneProgram | None:
    """Return the program by which a training may go together with others; None if it goes alone."""
    if not isinstance(plan.data.inputs, np.ndarray) or plan.microbatch or plan.mixing is not None:
        return None
    name = settled(plan.backend).name  # type: ignore[arg-type]  # Steps are, or have one
    rows, dtype = len(plan.data.weights), plan.data.weights.dtype
    return lanes.program_of(
        name, plan.network, plan.optimizer, rows, plan.batch_size, dtype, plan.orders is not None
    )


def saved_together(plan: Plan, program: LaneProgram | None, as_one: bool) -> float:
    """Return the seconds that a training takes less with others, about. as_one : as of `saved_by`"""
    steps = plan.epochs * -(-len(plan.data.weights) // plan.batch_size)
    return 0.0 if program is None else program.saved_by(steps, as_one)


class ModelGroup:
    """Models that may be trained together.

    program : by which they take their steps together; None where each goes alone
    workers : the threads that train models
    indices : their places in the call
    patterns : by these places, where nothing looks into their trainings, which then go in blocks; else empty
    """

    def __init__(self, program: LaneProgram | None, workers: int) -> None:
        self.program, self.workers = program, workers
        self.indices: list[int] = []
        self.patterns: dict[int, Pattern] = {}
        self._saved = 0.0
        """Seconds that they take less together, about."""
        self._seconds = 0.0
        """Seconds that one of them takes in a block, about."""

    def add(self, indices: Sequence[int], pattern: Pattern | None, saved: float) -> None:
        """Add models. saved : of each, as of `saved_together`"""
        self.indices += indices
        if pattern is not None:
            self._seconds = pattern.seconds
            self.patterns.update(dict.fromkeys(indices, pattern))
        self._saved += len(indices) * saved / self.workers

    @property
    def lanes(self) -> int:
        """How many may go together; one where that saves nothing: others would fill the cache."""
        return 1 if self.program is None or self._saved <= 0 else min(self.program.lanes, len(self.indices))

    @property
    def at_once(self) -> int:
        """How many are taken at a time: where there is a program a block, of which each thread has some."""
        if not self.has_program:
            return self.lanes
        fewest = math.ceil(SECONDS_OF_A_THREAD / max(self._seconds, 1e-9))
        most = min(MOST, max(fewest, -(-len(self.indices) // self.workers)))
        return -(-most // self.lanes) * self.lanes

    @property
    def shares(self) -> int:
        """Into how many parts its models are worth to be shared out among threads."""
        models = len(self.indices)
        if not (self.patterns and self.has_program):
            return models
        return min(-(-models // self.at_once), math.ceil(models * self._seconds / SECONDS_OF_A_THREAD))

    @property
    def has_program(self) -> bool:
        """Whether their program is there, or may be compiled now."""
        return self.lanes > 1 and self.program is not None and self.program.is_worth(self._saved)

    def lose(self, seconds: float) -> None:
        """Count seconds that they have taken without their program, if one would save time."""
        if self.lanes > 1 and self.program is not None:
            self.program.lose(seconds)
