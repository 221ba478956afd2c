"""Two files of results compared: what became slower, for certain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastmlp.lab.measurements import Measurement, Results


class Change(NamedTuple):
    """A measurement before and now.

    tolerance : how much more time is no reason to complain, 0.05 for 5 %
    """

    before: Measurement
    now: Measurement
    tolerance: float

    @property
    def ratio(self) -> float:
        """The median time now over that before."""
        return self.now.time.median / self.before.time.median

    @property
    def low(self) -> float:
        """The least that the ratio is where both medians are within their confidence intervals."""
        return self.now.time.low / self.before.time.high

    @property
    def high(self) -> float:
        """The most that it is then."""
        return self.now.time.high / self.before.time.low

    @property
    def verdict(self) -> str:
        """Slower or faster, if the whole interval of the ratio is beyond the tolerance; else "as before"."""
        if self.low > 1 + self.tolerance:
            return "slower"
        return "faster" if self.high < 1 / (1 + self.tolerance) else "as before"


def changes(before: Results, now: Results, tolerance: float) -> Iterator[Change]:
    """Yield what both have measured."""
    known = {(m.row, m.variant): m for m in before.measurements}
    for measurement in now.measurements:
        if earlier := known.get((measurement.row, measurement.variant)):
            yield Change(earlier, measurement, tolerance)
