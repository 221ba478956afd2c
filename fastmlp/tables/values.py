"""The values of a column as an array: numbers, seconds since 1970, labels; and how numbers are scaled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmlp.tables.errors import TableError
from fastmlp.tables.texts import parsed

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

CLIP = 3.0
"""Scaled numbers x become x / sqrt(1 + (x / CLIP)^2): x itself near 0, and never beyond CLIP."""

HEAVY = 0.25
"""Share of the variance of a column's numbers that is lost if they are clipped, beyond which its tails are
heavy; docs/measured/tables.md has the measurement."""

Tails = Literal["clipped", "both", "kept"]
"""What becomes of a column's numbers: they are clipped; clipped, and in a second column not; not clipped."""

FARTHEST = 1e3
"""Times the root mean square of tails: what is kept is no farther from the center, infinite numbers too."""


def numbers(series: pl.Series) -> Array:
    """Return a column as float64, NaN where nothing is; TableError if it does not hold numbers.

    Durations, and times from midnight on, are in seconds.
    """
    import polars as pl

    if series.dtype == pl.String:
        series = parsed(series, "number")
    elif series.dtype in (pl.Duration, pl.Time):
        series = series.cast(pl.Duration("us")).to_physical().cast(pl.Float64) / 1e6
    if not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)):
        raise TableError(f"it must hold numbers, has dtype {series.dtype}", series.name)
    return series.cast(pl.Float64).to_numpy()


def seconds_of(series: pl.Series) -> Array:
    """Return a column of dates as float64 seconds since 1970, NaN where nothing is."""
    import polars as pl

    if series.dtype == pl.String:
        series = parsed(series, "date")
    if series.dtype == pl.Null:
        return np.full(len(series), np.nan)
    if series.dtype not in (pl.Date, pl.Datetime):
        raise TableError(f"it must hold dates, has dtype {series.dtype}", series.name)
    return (series.cast(pl.Datetime("us")).to_physical().cast(pl.Float64) / 1e6).to_numpy()


def labels_of(series: pl.Series) -> pl.Series:
    """Return a column as texts: whole numbers as such, truth values as true and false, texts of them too."""
    import polars as pl

    if series.dtype.is_float():
        known = series.fill_nan(None)
        whole = known.cast(pl.Int128, strict=False)  # as text, a float from 1e16 on is 1e+16
        return whole.cast(pl.String).zip_with(whole.cast(pl.Float64) == known, known.cast(pl.String))
    if series.dtype.is_decimal():
        return series.cast(pl.String).str.replace(r"(\.\d*?)0+$", "$1").str.replace(r"\.$", "")
    if series.dtype.is_nested() or series.dtype in (pl.Object, pl.Binary):
        raise TableError(f"it must hold single values, has dtype {series.dtype}", series.name)
    labels = series.cast(pl.String)
    if series.dtype == pl.Boolean:
        return labels
    return labels.str.replace(r"^(?i:true)$", "true").str.replace(r"^(?i:false)$", "false")


def robust(values: Array) -> tuple[float, float]:
    """Return the median and one over the distance of the quartiles (of the extremes, if that is 0)."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, lower, center, upper, high = np.quantile(known, (0.0, 0.25, 0.5, 0.75, 1.0))
    distance = upper - lower or (high - low) / 2 or 1.0
    return float(center), float(1 / max(distance, np.finfo(float).tiny * 4))


def tails_of(values: Array, center: float, scale: float) -> tuple[Tails, float]:
    """Return what keeps the tails of numbers, and one over their root mean square from the center."""
    distances = values[~np.isnan(values)] - center
    most = np.abs(distances).max(initial=0.0)
    if not np.isfinite(most) or most * scale < CLIP:
        return "clipped", scale
    shares = distances / most
    unit = float(1 / (most * np.sqrt(np.square(shares).mean())))
    lost = 1 - np.square(np.corrcoef(shares, clipped(distances * scale))[0, 1])
    return ("both" if lost > HEAVY else "clipped"), unit


def scaled(distances: Array, scale: float, unit: float, tails: str) -> list[Array]:
    """Return the columns of X that numbers become, each (rows,).

    distances : (rows,) from the center; scale, unit, tails : as `robust` and `tails_of` found them
    """
    columns = []
    if tails != "kept":
        columns.append(clipped(distances * scale))
    if tails != "clipped":
        columns.append(np.clip(distances * unit, -FARTHEST, FARTHEST))
    return columns


def scaled_slopes(distances: Array, scale: float, unit: float, tails: str) -> list[Array]:
    """Return the derivatives (rows,) of the columns of `scaled` by the numbers."""
    columns = []
    if tails != "kept":
        columns.append(scale * (1 + np.square(distances * scale / CLIP)) ** -1.5)
    if tails != "clipped":
        columns.append(np.where(np.abs(distances * unit) < FARTHEST, unit, 0.0))
    return columns


def clipped(numbers: Array) -> Array:
    """Return scaled numbers, clipped smoothly at CLIP: a greater number is never less, roundings included."""
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        return np.copysign(1 / np.sqrt(1 / np.square(numbers) + 1 / CLIP**2), numbers)
