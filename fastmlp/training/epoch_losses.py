"""The mean loss of an epoch, of the objectives of its steps, whatever chunks they come in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HEADROOM = 2.0**-64
"""A factor that keeps the sum of an epoch's finite losses finite; a power of two rounds nothing."""


class EpochLosses:
    """Means over epochs of the steps' objectives.

    Steps are added one after another, so that a sum's bits do not depend on where chunks end.

    per_epoch : steps of an epoch; None where an epoch is over when `close` is called
    heads : of the network; with them objectives are (1 + heads, steps)
    parts : the shape of a step's objectives
    """

    def __init__(self, per_epoch: int | None, heads: int = 0) -> None:
        self._per_epoch = per_epoch
        self.parts = (1 + heads,) if heads else ()
        self.sums = np.zeros(2 + heads)
        """Over the steps of the epoch under way: objectives times weights times HEADROOM, and weights."""
        self.steps = 0
        """The steps of the epoch under way."""
        self._last = np.zeros(1 + heads)

    def add(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> list[list[float]]:
        """Add the next steps' objectives (steps,), each with its weight in its epoch's mean.

        Returns the mean of every epoch that is now complete, in a list; with heads a list for each row.
        """
        lists: list[list[float]] = self.means(counts, objectives).tolist()
        return lists

    def means(self, counts: NDArray[np.float64], objectives: NDArray[np.float64]) -> NDArray[np.float64]:
        """Do `add`; return the means as an array (rows, epochs)."""
        if self._per_epoch == 1:  # its own mean; the general case takes 4 ns a step, the smallest step 100
            return objectives.reshape(len(self.sums) - 1, -1)
        fresh = np.vstack([np.ascontiguousarray(objectives) * (counts * HEADROOM), counts])
        steps, done = fresh.shape[1], []
        while self._per_epoch is not None and self.steps + steps >= self._per_epoch:
            whole, end = 1, self._per_epoch - self.steps
            if not self.steps:
                whole = steps // self._per_epoch
                end = whole * self._per_epoch
            done.append(self._with_sums(fresh[:, :end].reshape(len(fresh), whole, -1)))
            fresh, steps = fresh[:, end:], steps - end
            self.sums, self.steps = np.zeros(len(fresh)), 0
        if steps:
            self.sums = self._with_sums(fresh[:, None])[:, 0]
            self.steps += steps
            self._last = np.atleast_2d(objectives)[:, -1]
        if not done:
            return np.empty((len(self.sums) - 1, 0))
        return _means(np.concatenate(done, axis=1))

    def _with_sums(self, fresh: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums (rows, epochs) over the steps of epochs (rows, epochs, steps), in their order."""
        if self.steps:
            fresh = np.concatenate([self.sums[:, None, None], fresh], axis=2)
        sums: NDArray[np.float64] = np.add.accumulate(fresh, axis=2)[..., -1]
        return sums

    def close(self) -> list[list[float]]:
        """Return the mean of the epoch under way in a list, with heads one for each; end the epoch."""
        means = self._last if self.steps == 1 else _means(self.sums)
        self.sums, self.steps = np.zeros(len(self.sums)), 0
        return means[:, None].tolist()


def _means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = sums[:-1] / sums[-1] / HEADROOM
    return means
