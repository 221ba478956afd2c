"""The mean loss of an epoch, of the objectives of its steps, whatever chunks they come in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEADROOM = 2.0**-64
"""A factor that keeps the sum of an epoch's finite losses finite; a power of two rounds nothing."""


NO_LOSSES = np.empty((2, 0))
"""The `EpochLosses.pending` between two epochs."""


class EpochLosses:
    """Means over epochs of the steps' objectives, whatever the chunks' bounds.

    heads : of the network; with them objectives are (1 + heads, steps)
    parts : the shape of a step's objectives
    """

    def __init__(self, per_epoch: int, heads: int = 0) -> None:
        self._per_epoch = per_epoch
        self.parts = (1 + heads,) if heads else ()
        self.pending = NO_LOSSES if not heads else np.empty((2 + heads, 0))
        """(2 + heads, steps) of the epoch under way: objectives times weights times HEADROOM, and weights."""

    def add(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> list[list[float]]:
        """Add the next steps' objectives (steps,), each with its weight in its epoch's mean.

        Returns the mean of every epoch that is now complete, in a list; with heads a list for each row.
        """
        lists: list[list[float]] = self.means(counts, objectives).tolist()
        return lists

    def means(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> NDArray[np.float64]:
        """Do `add`; return the means as an array (rows, epochs)."""
        if self._per_epoch == 1:  # its own mean; the general case takes 4 ns a step, the smallest step 100
            return objectives.reshape(len(self.pending) - 1, -1)
        fresh = np.vstack([np.ascontiguousarray(objectives) * (counts * HEADROOM), counts])
        self.pending = np.concatenate([self.pending, fresh], axis=1)
        complete = self.pending.shape[1] // self._per_epoch
        bound = complete * self._per_epoch
        done = self.pending[:, :bound].reshape(len(fresh), complete, self._per_epoch).sum(axis=2)
        self.pending = self.pending[:, bound:].copy()  # a part of it would keep all of it in memory
        means: NDArray[np.float64] = done[:-1] / done[-1] / HEADROOM
        return means
