"""Measurements, the file of results, and a comparison of two files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fastmlp import checks
from fastmlp.lab.machine import CacheLevel, MeasuredMachine
from fastmlp.lab.timing import Time

FORMAT = 1

STEP = "step"
"""Name of a whole training step, in the place of a slot's name."""


class Measurement(NamedTuple):
    """A variant's time for a row.

    slot : a name, or `STEP`; case : of the slot, or the optimiser; shape : of batch and layer, or network
    flops : multiply-adds counted as 2, None for slots bound by memory; traffic : the least bytes
    """

    slot: str
    case: str
    shape: str
    dtype: str
    variant: str
    threads: int
    time: Time
    flops: float | None
    traffic: int

    @property
    def row(self) -> tuple[str, str, str, str, int]:
        """The row of comparable measurements."""
        return self.slot, self.case, self.shape, self.dtype, self.threads

    @property
    def rate(self) -> float:
        """Floating-point operations a second, or bytes a second where none are counted."""
        return (self.traffic if self.flops is None else self.flops) / self.time.median

    @property
    def unit(self) -> str:
        """The unit of `rate`, in thousand millions."""
        return "GB/s" if self.flops is None else "GF/s"

    def fraction(self, machine: MeasuredMachine) -> float:
        """Return the fraction of the machine's peak, or of a memory's bandwidth."""
        if self.flops is None:
            return self.rate / machine.level_of(self.traffic).bandwidth / self.threads
        return self.rate / machine.peak[self.dtype] / self.threads


class Wrong(NamedTuple):
    """A variant without times, since a result disagrees; message gives the location."""

    slot: str
    case: str
    shape: str
    dtype: str
    variant: str
    message: str

    @property
    def row(self) -> str:
        """The row's name."""
        return " ".join(filter(None, [self.slot, self.case, self.shape, self.dtype]))


def in_short(error: Exception) -> str:
    """Return an error in a line; for Numba's errors the mistake and the location."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Failed in", "During:", "<source"))]
    location = next((line.rstrip(":") for line in said if line.startswith('File "')), None)
    return " ".join([said[0] if said else type(error).__name__, *([f"({location})"] if location else [])])


class PhaseTime(NamedTuple):
    """Seconds of a step's phase (`slot_times.parts`) by a variant's slots, on a single thread."""

    shape: str
    dtype: str
    variant: str
    phase: str
    layer: int
    seconds: float


class Results(NamedTuple):
    """A machine and measurements."""

    machine: MeasuredMachine
    measurements: list[Measurement]
    wrong: list[Wrong]
    phases: list[PhaseTime]


def winners(measurements: Iterable[Measurement]) -> dict[tuple[str, str, str, str, int], list[Measurement]]:
    """Return the measurements of each row, the fastest first; whole steps come first."""
    rows: dict[tuple[str, str, str, str, int], list[Measurement]] = {}
    for measurement in sorted(measurements, key=lambda m: m.slot != STEP):
        rows.setdefault(measurement.row, []).append(measurement)
    return {row: sorted(found, key=lambda m: m.time.median) for row, found in rows.items()}


def written(results: Results) -> str:
    """Return the text of a file of results."""
    return json.dumps({"format": FORMAT, **_named(results)}, indent=1)


def _named(value: Any) -> Any:
    """Return records as dicts, also within lists and records."""
    if hasattr(value, "_asdict"):
        return {name: _named(one) for name, one in value._asdict().items()}
    return [_named(one) for one in value] if isinstance(value, list) else value


def read(path: str | Path) -> Results:
    """Return the results in a file; ValueError in a line without any."""
    try:
        found: Any = json.loads(Path(path).read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {checks.shown(found['format'])}, this version reads {FORMAT}")
        machine = MeasuredMachine(
            **found["machine"] | {"levels": [CacheLevel(**x) for x in found["machine"]["levels"]]}
        )
        measurements = [Measurement(**m | {"time": Time(**m["time"])}) for m in found["measurements"]]
        wrong, phases = [Wrong(**w) for w in found["wrong"]], [PhaseTime(**p) for p in found["phases"]]
        return Results(machine, measurements, wrong, phases)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} holds no results of fastmlp bench: {error}") from None


class Change(NamedTuple):
    """A measurement before and now; tolerance : the allowed fraction of more time, 0.05 for 5 %"""

    before: Measurement
    now: Measurement
    tolerance: float

    @property
    def ratio(self) -> float:
        """The median time now over the median before."""
        return self.now.time.median / self.before.time.median

    @property
    def low(self) -> float:
        """The least ratio of two medians within their confidence intervals."""
        return self.now.time.low / self.before.time.high

    @property
    def high(self) -> float:
        """The greatest ratio of two such medians."""
        return self.now.time.high / self.before.time.low

    @property
    def verdict(self) -> str:
        """Slower or faster if the ratio's whole interval exceeds the tolerance, else "as before"."""
        if self.low > 1 + self.tolerance:
            return "slower"
        return "faster" if self.high < 1 / (1 + self.tolerance) else "as before"


def changes(before: Results, now: Results, tolerance: float) -> Iterator[Change]:
    """Yield the rows of both results."""
    known = {(m.row, m.variant): m for m in before.measurements}
    for measurement in now.measurements:
        if earlier := known.get((measurement.row, measurement.variant)):
            yield Change(earlier, measurement, tolerance)
