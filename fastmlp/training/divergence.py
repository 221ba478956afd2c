"""A training whose numbers are no longer finite: it is noticed at a chunk's end, and traced to its step.

Once a parameter is not finite it never becomes finite again. So a chunk that went wrong is halved until one
step is left. That takes the chunk's steps again, 0.2 s at most, and once. A check after every step would make
every training slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.backend import Chunk
from fastmlp.model.state import TrainState
from fastmlp.training.draft import Draft

Floats = NDArray[np.float64]
Advance = Callable[[TrainState, Chunk], tuple[TrainState, Floats]]


class DivergenceError(FloatingPointError):
    """A loss or a parameter is no longer finite.

    Attributes
    ----------
    epoch : int, complete epochs before it
    step : int, updates before the one that went wrong
    parameters : (P,) floating, after those updates: the last finite ones (see `fastmlp.model.layout`)
    history : dict of lists of float, one value for every complete epoch
    """

    def __init__(
        self, epoch: int, step: int, parameters: NDArray[Any], history: dict[str, list[float]]
    ) -> None:
        super().__init__(epoch, step, parameters, history)  # for pickle, by which joblib sends errors
        self.epoch, self.step, self.parameters, self.history = epoch, step, parameters, history

    def __repr__(self) -> str:
        return f"DivergenceError(in epoch {self.epoch + 1}, after {self.step} updates)"

    def __str__(self) -> str:
        return (
            f"training diverged in epoch {self.epoch + 1}, after {self.step} updates: the loss or a "
            "parameter is no longer finite; try a lower learning rate, clip_norm, or scaled inputs"
        )


def sound(objectives: Floats, parameters: NDArray[Any]) -> bool:
    """Return whether a chunk's objectives (steps,) and the parameters (P,) after it are all finite."""
    return checks.finite(objectives) and checks.finite(parameters)


def last_finite(
    advance: Advance, state: TrainState, chunk: Chunk, draft: Draft, parts: tuple[int, ...] = ()
) -> tuple[TrainState, Floats]:
    """Return the state before the chunk's first step that is not sound, and the objectives until then.

    Parameters
    ----------
    advance : takes a chunk's steps in place, returns the state and the objectives (steps,)
    state : at the chunk's start, sound; its arrays are written
    draft : to take steps on; parts : the shape of a step's objectives
    """
    taken = [np.empty((*parts, 0))]
    while (steps := len(chunk.starts)) > 1:
        first, second = chunk.part(0, steps // 2), chunk.part(steps // 2, steps)
        after, objectives = advance(draft.of(state), first)
        if sound(objectives, after.parameters):
            state, chunk = draft.accept(after, state), second
            taken.append(objectives)
        else:
            chunk = first
    return state, np.concatenate(taken, axis=-1)
