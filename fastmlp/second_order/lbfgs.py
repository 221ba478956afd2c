"""L-BFGS: steps along the gradient times an inverse Hessian that the last steps approximate.

Nocedal and Wright, "Numerical optimization" (2006), chapters 3 and 7. The product of the approximation with
the gradient is that of their two-loop recursion (algorithm 7.4), in the compact form of Byrd, Nocedal and
Schnabel, "Representations of quasi-Newton matrices" (1994), equation 3.1: some products of matrices, where
the recursion takes 4 operations on vectors for each pair. The length of a step satisfies the strong Wolfe
conditions (algorithms 3.5 and 3.6).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dtrsv

from fastmlp.model.second_order import LBFGS
from fastmlp.second_order.whole_data import Iterate, Taken, Value, Vector, WholeObjective, reason_to_stop

DECREASE, CURVATURE = 1e-4, 0.9
"""Constants of the Wolfe conditions, c1 and c2, for steps of quasi-Newton methods."""

LONGER = 4.0
"""A step that is too short is taken so many times as long."""

ROUNDING = 2.0**-52
"""A pair is kept if the curvature along its step is more than this share of the slope."""

ROOM_BYTES = 1 << 20
"""Behind the pairs is room for more of them, up to 64, so that they are not moved in every iteration."""

INSIDE = 0.1
"""A step between two others keeps this share of their distance from both."""


class LinePoint(NamedTuple):
    """A step that was tried: its length, and the loss and the slope there."""

    step: float
    loss: float
    slope: float


def between(low: LinePoint, high: LinePoint) -> float:
    """Return a step between two: the minimum of the cubic through both (equation 3.59), or the middle."""
    length = high.step - low.step
    share = 0.5
    if math.isfinite(high.loss) and math.isfinite(high.slope):
        d1 = low.slope + high.slope - 3 * (high.loss - low.loss) / length
        square = d1 * d1 - low.slope * high.slope
        if square >= 0:
            d2 = math.copysign(math.sqrt(square), length)
            if below := high.slope - low.slope + 2 * d2:
                share = 1 - (high.slope + d2 - d1) / below
    return low.step + length * min(max(share, INSIDE), 1 - INSIDE)


def strong_wolfe(
    at: Callable[[float], tuple[float, float]], start: LinePoint, step: float, most: int
) -> tuple[LinePoint, bool]:
    """Return a step that satisfies the strong Wolfe conditions, and whether there was one in `most` trials.

    Without one the step is the best of those that lower the loss enough, `start` if there is none. The last
    call of `at` is for the step that is returned, unless that is `start`.

    at : at(step) returns the loss and the slope there
    start : at step 0, of a slope below 0; step : the first to try
    """
    low, high, tried = start, None, start
    for _ in range(most):
        tried = LinePoint(step, *at(step))
        enough = tried.loss <= start.loss + DECREASE * step * start.slope  # False of NaN
        if not enough or (tried.loss >= low.loss and low is not start):
            high = tried
        else:
            if abs(tried.slope) <= -CURVATURE * start.slope:
                return tried, True
            if tried.slope * (1.0 if high is None else high.step - low.step) >= 0:
                high = low
            low = tried
        step = LONGER * step if high is None else between(low, high)
        if step == low.step or (high is not None and step == high.step):  # no number is between them
            break
    if tried is not low and low is not start:
        at(low.step)
    return low, False


Bind = Callable[[Vector, Vector], Callable[[], float]]
"""bind(x, out) returns a function that returns the loss at x (P,), as it is then, and writes its gradient."""


class Minimiser:
    """L-BFGS on arrays that stay where they are.

    bind : of the loss
    x : (P,) the point, overwritten by every iteration
    pairs : (2 m, P) steps in the first m rows, and the changes of the gradient along them; those of pair
        number i in rows i % m and m + i % m. Points and pairs are written as its dtype keeps them
    count : pairs so far
    evaluations : most of an iteration

    Attributes
    ----------
    loss, gradient : at x
    """

    def __init__(
        self, bind: Bind, x: Vector, pairs: NDArray[Any], count: int = 0, evaluations: int = 20
    ) -> None:
        self.x, self.count, self._evaluations = x, count, evaluations
        self._history, self._dtype = len(pairs) // 2, pairs.dtype
        self._from, self._along, self._new, self._scaled, self.gradient = np.empty((5, x.size))
        self._objective = bind(x, self._new)
        self.loss = self._objective()
        self.gradient[...] = self._new
        room = self._history + min(max(ROOM_BYTES // (16 * x.size), 1), 64)
        self._rows = np.zeros((room, 2, x.size))
        """Steps and changes, side by side, the oldest first: those in [first, stop)."""
        self._by_steps, self._by_changes = np.zeros((2, room, room))
        """Products of steps, and of changes, with changes."""
        self._first = self._stop = self._history
        for number in range(max(0, count - self._history), count):
            self._rows[self._stop] = pairs[number % self._history :: self._history]
            self._append()

    def iterate(self, pairs: NDArray[Any]) -> bool:
        """Take an iteration, and write its pair to pairs; return whether it lowered the loss."""
        before, history = self.count, self._history
        moved = self._descend()
        if not moved and before:
            self._forget()
            moved = self._descend()
        if self.count != before + 1:
            pairs[...] = 0
        if self.count:
            pairs[(self.count - 1) % history :: history] = self._rows[self._stop - 1]
        return moved

    def _descend(self) -> bool:
        """Move along the direction of the pairs, and keep the pair of this step; return whether it moved."""
        x, start, along, new, objective = self.x, self._from, self._along, self._new, self._objective
        self._set_direction()
        slope = float(self.gradient @ along)
        if not slope < 0:
            return False
        start[...] = x

        def at(step: float) -> tuple[float, float]:
            np.multiply(along, step, out=x)
            np.add(x, start, out=x)
            if self._dtype != np.float64:
                x[...] = kept_of(x, self._dtype)
            return objective(), float(new @ along)

        first = 1.0 if self.count else min(1.0, 1.0 / math.sqrt(-slope))
        found, sound = strong_wolfe(at, LinePoint(0.0, self.loss, slope), first, self._evaluations)
        if not found.loss < self.loss:
            x[...] = start
            return False
        self.loss = found.loss
        step, change = pair = self._rows[self._stop]
        np.subtract(x, start, out=step)
        np.subtract(new, self.gradient, out=change)
        self.gradient[...] = new
        if self._dtype != np.float64:
            pair[...] = pair.astype(self._dtype)
        if sound and step @ change > ROUNDING * -slope * found.step:
            self._append()
            self.count += 1
        else:  # the curvature along the step may be negative
            self._forget()
        return True

    def _forget(self) -> None:
        self.count, self._first = 0, self._stop

    def _append(self) -> None:
        """Take the pair behind the last one, and its products with those before it.

        There are always as many products, whose bits depend on that.
        """
        self._stop += 1
        first, stop = self._stop - self._history, self._stop
        self._first = max(self._first, first)
        products = self._rows[first:stop].reshape(-1, self.x.size) @ self._rows[stop - 1, 1]
        self._by_steps[first:stop, stop - 1] = products[::2]
        self._by_changes[first:stop, stop - 1] = self._by_changes[stop - 1, first:stop] = products[1::2]
        if stop == len(self._rows):  # the room is full
            kept, length = slice(first, stop), self._history
            self._rows[:length] = self._rows[kept].copy()
            for matrix in (self._by_steps, self._by_changes):
                matrix[:length, :length] = matrix[kept, kept].copy()
            self._first, self._stop = self._first - first, length

    def _set_direction(self) -> None:
        """Write minus the product of the approximation with the gradient to `_along`."""
        gradient, along, first, stop = self.gradient, self._along, self._first, self._stop
        if first == stop:
            np.negative(gradient, out=along)
            return
        by_steps, by_changes = (
            self._by_steps[first:stop, first:stop],
            self._by_changes[first:stop, first:stop],
        )
        rows = self._rows[first:stop].reshape(-1, gradient.size)
        scale = by_steps[-1, -1] / by_changes[-1, -1]  # of the first matrix: equation 7.20
        products = rows @ gradient
        changes = dtrsv(by_steps, products[::2])
        right = by_steps.diagonal() * changes + scale * (by_changes @ changes - products[1::2])
        products[::2] = dtrsv(by_steps, right, trans=1)
        products[1::2] = -scale * changes
        np.matmul(products, rows, out=along)
        np.multiply(gradient, -scale, out=self._scaled)
        np.subtract(self._scaled, along, out=along)


def kept_of(x: Vector, dtype: np.dtype[Any]) -> Vector:
    """Return what a training of a dtype keeps of a point: its numbers, and what these leave of it."""
    numbers = x.astype(dtype)
    return (x - numbers).astype(dtype) + numbers.astype(np.float64)


class QuasiNewtonSteps:
    """The steps of `LBFGS`: see `fastmlp.second_order.whole_data`."""

    def __init__(self, optimizer: LBFGS, objective: WholeObjective) -> None:
        self._optimizer, self._objective = optimizer, objective
        self._search: Minimiser | None = None
        self._last = [Value(0.0, 0.0)]
        """The value at the last point that a gradient was taken at."""

    @np.errstate(all="ignore")  # a step may be too long for any number
    def step(self, at: Iterate) -> Taken:
        """Take an iteration, unless the training is at its end."""
        search, count = self._search, int(at.numbers["pairs"])
        if search is None or search.count != count or np.count_nonzero(search.x != at.parameters):
            most = self._optimizer.max_evaluations
            search = self._search = Minimiser(self._bind, at.parameters.copy(), at.vectors, count, most)
        value, norm = self._last[0], math.sqrt(search.gradient @ search.gradient)
        reason = reason_to_stop(self._optimizer, value.reported, norm)
        reported = value.reported
        if self._objective.network.heads:
            reported = self._objective.value(search.x).reported
        if reason is None and math.isfinite(value.minimised):
            if not search.iterate(at.vectors):
                reason, self._last[0] = NO_LOWER, value
            at.parameters[...] = search.x
            at.numbers["pairs"] = search.count
        return Taken(reported, {"gradient": norm}, reason)

    def _bind(self, x: Vector, out: Vector) -> Callable[[], float]:
        # The function holds the list and not these steps, which hold it: a cycle would keep the rows.
        value_at, last = self._objective.gradients(x, out), self._last

        def loss() -> float:
            last[0] = value = value_at()
            return value.minimised

        return loss


NO_LOWER = "no step along the gradient lowers the loss any more"

STEPS = QuasiNewtonSteps
