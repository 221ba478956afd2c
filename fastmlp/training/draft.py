"""A copy of a training's state, on which a chunk's steps are taken.

Everything else sees the state as it is between two chunks. So a chunk that diverges, or that Ctrl-C leaves
behind in the middle of a step, has changed nothing.
"""

from __future__ import annotations

import numpy as np

from fastmlp.model.layout import aligned
from fastmlp.model.state import Array, TrainState
from fastmlp.system import parts


class Draft:
    """A second set of arrays for a training's state.

    moment_rows : of the moments that the optimiser uses; threads : see `fit`
    """

    def __init__(self, moment_rows: int, threads: int | None = None) -> None:
        self._rows, self._threads = moment_rows, threads
        self._arrays: TrainState | None = None

    def of(self, state: TrainState, changed: bool = True) -> TrainState:
        """Return a copy of the state, which the next one overwrites.

        changed : False if nothing has written to the state since it accepted the last draft
        """
        if self._arrays is None:
            # The gradients are nobody's between two steps: those of the state serve.
            parameters = aligned(state.parameters.size, state.parameters.dtype)
            self._arrays = TrainState(parameters, state.gradients, np.empty_like(state.moments), 0)
            changed = True
        if changed:
            self._copy(state, self._arrays)
        return self._arrays.at(state.step)

    def accept(self, draft: TrainState, state: TrainState) -> TrainState:
        """Write the draft to the state's arrays; return the state with the draft's step."""
        self._copy(draft, state)
        return state.at(draft.step, draft.threads)

    def _copy(self, source: TrainState, target: TrainState) -> None:
        parts.copy(self._used(source), self._used(target), self._threads)

    def _used(self, state: TrainState) -> tuple[Array, ...]:
        return (state.parameters, *state.moments[: self._rows]) if self._rows else (state.parameters,)
