"""Refusals in one line: what was got, what was wanted, and the choices."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shown(value: object) -> str:
    """Return the value's repr in one line and of bearable length: it may be somebody's array."""
    try:
        line = " ".join(repr(value).split())
    except ValueError:  # an int beyond the digits that Python writes
        return "a number of thousands of digits"
    return line if len(line) <= 60 else f"{line[:57]}..."


def choice(what: str, value: object, choices: Sequence[str], more: str = "") -> str:
    """Return `value` if it is one of `choices`; ValueError or TypeError otherwise, which adds `more`."""
    if isinstance(value, str) and value in choices:
        return value
    names = ", ".join(choices) + more
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a name, got {shown(value)}; choose from: {names}")
    raise ValueError(f"unknown {what} {shown(value)}; choose from: {names}")


def real(
    what: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """Return `value` as a float within the bounds; TypeError or ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if not math.isfinite(number) or below or above:
        wanted = _interval(low, high, open_low, open_high)
        finite = "" if math.isfinite(number) else "finite and "
        raise ValueError(f"{what} must be {finite}{wanted}, got {shown(value)}")
    return number


def whole(what: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int within [low, high]; TypeError or ValueError otherwise."""
    # What numbers.Integral says of an int is known, and takes half of this function to be asked.
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise TypeError(f"{what} must be a whole number, got {shown(value)}")
    number = int(value)
    if number < low or (high is not None and number > high):
        wanted = f"at least {low}" if high is None or number < low else f"at most {high}"
        raise ValueError(f"{what} must be {wanted}, got {shown(value)}")
    return number


def flag(what: str, value: object) -> bool:
    """Return `value` if it is True or False; TypeError otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} must be True or False, got {shown(value)}")
    return bool(value)


def instance(what: str, value: object, wanted: type | tuple[type, ...], choices: str) -> None:
    """Raise TypeError unless `value` is an instance of `wanted`."""
    if not isinstance(value, wanted):
        hint = " (the class; make an instance of it)" if isinstance(value, type) else ""
        raise TypeError(f"{what} must be {choices}, got {shown(value)}{hint}")


def no_iterator(what: str, value: object) -> None:
    """Raise TypeError if `value` is a generator or another iterator, which gives its rows only once."""
    if isinstance(value, Iterator) and not hasattr(value, "__array__"):
        raise TypeError(
            f"{what} must be an array, got {shown(value)}; collect what it gives, as with "
            f"np.array(list({what.split()[-1]}))"
        )


FINITE_PIECE = 1 << 16
"""Numbers that are looked at together: their mask fits in L2, where one of the whole array takes memory."""


def finite(array: NDArray[Any]) -> bool:
    """Return whether all of a floating, contiguous array is finite.

    Not by a sum of squares from the BLAS, whose threads hang for ever if another thread forks meanwhile.
    """
    if array.size <= FINITE_PIECE:
        return b"\0" not in np.isfinite(array).tobytes()  # 0.5 us for a row; `all` takes 1.8
    flat = array.reshape(-1)
    pieces = range(0, flat.size, FINITE_PIECE)
    return all(finite(flat[start : start + FINITE_PIECE]) for start in pieces)


def _interval(low: float, high: float, open_low: bool, open_high: bool) -> str:
    if low == -math.inf and high == math.inf:
        return "a number"
    if high == math.inf:
        return f"{'above' if open_low else 'at least'} {low:g}"
    return f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
