"""Divergence: numbers that are not finite, noticed at a chunk's end, traced to the step.

Once a parameter is not finite, it is never finite again. So a diverged chunk is halved down to a step: the
chunk's steps are taken once more, 0.2 s at most. A check after every step would slow every training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.backend import Chunk
from fastmlp.model.layout import aligned
from fastmlp.model.state import Array, TrainState


class Draft:
    """A double buffer of the state, for a chunk's steps.

    All other code sees the state between two chunks. So a chunk has changed nothing after a divergence, or if
    Ctrl-C leaves a step behind. An unseen first chunk needs no copy: the training can begin again.

    moment_rows : of the moments used by the optimiser; threads : see `fit`
    """

    def __init__(self, moment_rows: int, threads: int | None = None) -> None:
        self._rows, self._threads = moment_rows, threads
        self._draft: TrainState | None = None
        self._used: tuple[Array, ...] = ()
        self._of_state: tuple[Array, ...] = ()
        """The copied vectors, of the draft and of the state."""

    def of(self, state: TrainState, changed: bool = True) -> TrainState:
        """Return a copy of the state, in arrays shared by all copies.

        changed : False if the state is unchanged since the last accepted draft
        """
        if self._draft is None:
            # The gradients are nobody's between two steps: those of the state serve.
            parameters, moments = aligned(state.parameters.size, state.parameters.dtype), state.moments
            copies = np.empty(moments.shape, moments.dtype)
            self._draft = TrainState(parameters, state.gradients, copies, 0)
            self._used = (parameters, *copies[: self._rows]) if self._rows else (parameters,)
            self._of_state = (state.parameters, *moments[: self._rows]) if self._rows else (state.parameters,)
        elif not changed:
            return self._draft.at(state.step)
        self._copy(self._of_state, self._used)
        return self._draft.at(state.step)

    def accept(self, draft: TrainState, state: TrainState) -> TrainState:
        """Write the draft to the state's arrays; return the state with the draft's step."""
        self._copy(self._used, self._of_state)
        return state.at(draft.step, draft.threads)

    def _copy(self, sources: tuple[Array, ...], targets: tuple[Array, ...]) -> None:
        from fastmlp.system import budget

        budget.copy_arrays(sources, targets, self._threads)


Floats = NDArray[np.float64]
Advance = Callable[[TrainState, Chunk], tuple[TrainState, Floats]]


class DivergenceError(FloatingPointError):
    """A loss or a parameter is no longer finite.

    Attributes
    ----------
    epoch : int, complete epochs before
    step : int, updates before the diverging update
    parameters : (P,) floating, after those updates: the last finite parameters (see `fastmlp.model.layout`)
    history : dict of lists of float, a value for every complete epoch
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
    """Return True if objectives (steps,) and parameters (P,) are all finite."""
    return checks.finite(objectives) and checks.finite(parameters)


def last_finite(
    advance: Advance, state: TrainState, chunk: Chunk, draft: Draft, parts: tuple[int, ...] = ()
) -> tuple[TrainState, Floats]:
    """Return the last finite state within a chunk, and the objectives so far.

    advance : takes a chunk's steps in place, returns the state and the objectives (steps,)
    state : sound, at the chunk's start, overwritten; parts : the shape of a step's objectives
    """
    taken = [np.empty((*parts, 0))]
    # Bisection: a sound half is accepted, and the search goes on in the other half.
    while (steps := len(chunk.starts)) > 1:
        first, second = chunk.part(0, steps // 2), chunk.part(steps // 2, steps)
        after, objectives = advance(draft.of(state), first)
        if sound(objectives, after.parameters):
            state, chunk = draft.accept(after, state), second
            taken.append(objectives)
        else:
            chunk = first
    return state, np.concatenate(taken, axis=-1)
