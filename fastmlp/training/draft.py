"""A copy of a training's state, on which a chunk's steps are taken.

Everything else sees the state as it is between two chunks. So a chunk that diverges, or that Ctrl-C leaves
behind in the middle of a step, has changed nothing. A first chunk that nobody sees needs no copy, since the
training can begin again.
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
        self._draft: TrainState | None = None
        self._used: tuple[Array, ...] = ()
        self._of_state: tuple[Array, ...] = ()
        """The vectors that are copied, of the draft and of the state."""

    def of(self, state: TrainState, changed: bool = True) -> TrainState:
        """Return a copy of the state, which the next one overwrites; all states have the same arrays.

        changed : False if nothing has written to the state since it accepted the last draft
        """
        if self._draft is None:
            # The gradients are nobody's between two steps: those of the state serve.
            parameters, moments = aligned(state.parameters.size, state.parameters.dtype), state.moments
            own = np.empty(moments.shape, moments.dtype)
            self._draft = TrainState(parameters, state.gradients, own, 0)
            self._used = (parameters, *own[: self._rows]) if self._rows else (parameters,)
            self._of_state = (state.parameters, *moments[: self._rows]) if self._rows else (state.parameters,)
        elif not changed:
            return self._draft.at(state.step)
        parts.copy(self._of_state, self._used, self._threads)
        return self._draft.at(state.step)

    def accept(self, draft: TrainState, state: TrainState) -> TrainState:
        """Write the draft to the state's arrays; return the state with the draft's step."""
        parts.copy(self._used, self._of_state, self._threads)
        return state.at(draft.step, draft.threads)
