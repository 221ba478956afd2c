"""Checks of arguments. An error is a line with the argument, the requirement and the choices."""

from __future__ import annotations

import functools
import importlib
import math
import mmap
import numbers
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray


class CheckpointError(ValueError):
    """The file is damaged, is no checkpoint, or belongs to another training."""


def message_of(error: BaseException) -> str:
    """Return an error in a line."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {' '.join(message.split())}"


def shown(value: object) -> str:
    """Return the value's repr in a line of at most 60 characters."""
    try:
        line = " ".join(repr(plain(value) if isinstance(value, str) else value).split())
    except ValueError:  # an int beyond the digits that Python writes
        return "a number of thousands of digits"
    return line if len(line) <= 60 else f"{line[:57]}..."


def printable(text: str) -> str:
    """Return a text for a terminal, with escapes for colours, line ends and other controls."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def plain(text: str) -> str:
    """Return a text as a str; subclasses, as NumPy's, have another repr."""
    return str.__str__(text)


MOST_LISTED = 50
"""Most names in an error: a table may have thousands of columns."""


def listed(names: Sequence[str]) -> str:
    """Return names in a line, at most the first `MOST_LISTED`."""
    more = f", .. ({len(names)} in all)" if len(names) > MOST_LISTED else ""
    return ", ".join(names[:MOST_LISTED]) + more


Documented = TypeVar("Documented")


def listing(**tables: Iterable[str]) -> Callable[[Documented], Documented]:
    """Return a decorator that replaces {table} at a docstring's line begin by the table's names."""

    def names(found: re.Match[str]) -> str:
        indent, table, rest = found.groups()
        text = ", ".join(tables[table]) + rest
        return textwrap.fill(text, 110, initial_indent=indent, subsequent_indent=indent)

    def decorate(documented: Documented) -> Documented:
        text = documented.__doc__
        documented.__doc__ = text and re.sub(r"^( *)\{(\w+)\}(.*)$", names, text, flags=re.MULTILINE)
        return documented

    return decorate


def choice(what: str, value: object, choices: Sequence[str], more: str = "") -> str:
    """Return `value`, plain, if it is one of `choices`; ValueError or TypeError otherwise, with `more`."""
    if isinstance(value, str) and value in choices:
        return plain(value)
    names = listed(choices) + more
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
    # As in `whole`.
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"{what} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    below = number <= low if open_low else number < low
    above = number >= high if open_high else number > high
    if not math.isfinite(number) or below or above:
        expected = _interval(low, high, open_low, open_high)
        finite = "" if math.isfinite(number) else "finite and "
        raise ValueError(f"{what} must be {finite}{expected}, got {shown(value)}")
    return number


def whole(what: str, value: object, low: int, high: int | None = None) -> int:
    """Return `value` as an int within [low, high]; TypeError or ValueError otherwise."""
    # What numbers.Integral says of an int is known, and takes half of this function to look up.
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise TypeError(f"{what} must be a whole number, got {shown(value)}")
    number = int(value)
    if number < low or (high is not None and number > high):
        expected = f"at least {low}" if high is None or number < low else f"at most {high}"
        raise ValueError(f"{what} must be {expected}, got {shown(value)}")
    return number


def flag(what: str, value: object) -> bool:
    """Return `value` if it is True or False; TypeError otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{what} must be True or False, got {shown(value)}")
    return bool(value)


def sequence(value: object) -> Sequence[Any] | None:
    """Return a sequence, or the numbers of an array (n,); None for other values, as texts."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim == 1 else None
    return value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else None


def instance(what: str, value: object, expected: type | tuple[type, ...], choices: str) -> None:
    """Raise TypeError unless `value` is an instance of `expected`."""
    if not isinstance(value, expected):
        hint = " (the class; make an instance of it)" if isinstance(value, type) else ""
        raise TypeError(f"{what} must be {choices}, got {shown(value)}{hint}")


# --- fields of frozen dataclasses -----------------------------------------------------------------------


def checked(check: Callable[[str, Any], Any], default: Any = MISSING) -> Any:
    """Return a dataclass field with the value of check(name, given); a default of None passes."""

    def given_or_none(what: str, value: Any) -> Any:
        return None if value is None else check(what, value)

    metadata = {"check": given_or_none if default is None else check}
    return field(default=default, metadata=metadata)


def number(
    default: Any = MISSING,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> Any:
    """Return the field of a number within these bounds."""
    bounds: dict[str, Any] = {"low": low, "high": high, "open_low": open_low, "open_high": open_high}
    return checked(functools.partial(real, **bounds), default)


fraction = functools.partial(number, low=0, high=1, open_high=True)
"""fraction(default): the field of a number in [0, 1)."""

positive = functools.partial(number, low=0, open_low=True)
"""positive(default): the field of a number above 0."""


def count(low: int, high: int | None = None, default: Any = MISSING) -> Any:
    """Return the field of a whole number within [low, high]."""
    return checked(functools.partial(whole, low=low, high=high), default)


@functools.cache
def _field_checks(kind: Any) -> list[tuple[str, Callable[[str, Any], Any], object]]:
    """Return (name, check, passing) of the fields with a check; every field of type bool has a check.

    passing : the default, if the check returns the very same object; else no value
    """
    checks = {one.name: flag if one.type == "bool" else one.metadata.get("check") for one in fields(kind)}
    found = [(one, check) for one in fields(kind) if (check := checks[one.name]) is not None]
    return [
        (one.name, check, one.default if _passes(check, one.name, one.default) else MISSING)
        for one, check in found
    ]


def _passes(check: Callable[[str, Any], Any], name: str, default: object) -> bool:
    return default is not MISSING and check(name, default) is default


class CheckedFields:
    """Base of frozen dataclasses whose fields are checked when an object is made."""

    def __post_init__(self) -> None:
        held = vars(self)
        for name, check, passing in _field_checks(type(self)):  # type: ignore[arg-type]  # a class is hashable
            if held[name] is not passing:
                held[name] = check(name, held[name])


def no_iterator(what: str, value: object) -> None:
    """Raise TypeError if `value` is a generator or another iterator."""
    if type(value) is not np.ndarray and isinstance(value, Iterator) and not hasattr(value, "__array__"):
        raise TypeError(
            f"{what} must be an array, got {shown(value)}; collect what it gives, as with "
            f"np.array(list({what.split()[-1]}))"
        )


def whole_file(array: object) -> None:
    """Raise ValueError for a memory map of a shortened file: reading would kill the process."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.size:
        return
    # A slice has the offset of the map that it is cut from, which is not where its own bytes are.
    mapping = np.frombuffer(array._mmap, np.uint8).ctypes.data  # type: ignore[attr-defined]
    begins = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    expected = begins + byte_bounds(array)[1] - mapping
    size = os.stat(array.filename).st_size
    if size < expected:
        raise ValueError(f"the file {str(array.filename)!r} ends short: it has {size} bytes of {expected}")


def real_array(what: str, value: object, of_texts: str = "") -> NDArray[Any]:
    """Return `value` as an array of real numbers; an array is returned without a copy.

    of_texts : addition to the error for texts

    Raises
    ------
    TypeError
        If `value` holds anything but booleans, integers or floats, or is an iterator.
    ValueError
        If `value` is ragged.
    """
    array = value if type(value) is np.ndarray else _made_array(what, value)
    if array.dtype.kind not in "buif":
        hint = "; convert it first, as with astype(float)" if array.dtype == object else ""
        if of_texts and (array.dtype.kind in "UST" or any(isinstance(one, str) for one in array.flat)):
            hint = f"; {of_texts}"
        raise TypeError(f"{what} must hold real numbers, got dtype {array.dtype}{hint}")
    return array


def _made_array(what: str, value: object) -> NDArray[Any]:
    no_iterator(what, value)
    # NumPy loads its masked arrays when they are first named, for 10 ms.
    if "numpy.ma" in sys.modules and isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} must not be a masked array; fill or drop what is masked first")
    if hasattr(value, "toarray") and not hasattr(value, "__array__"):
        raise TypeError(f"{what} must be dense, got {type(value).__name__}; use its toarray()")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{what} must be a rectangular array of numbers: {reason}") from None


FINITE_PART = 1 << 16
"""Numbers of a mask in `finite`: the mask fits in L2; a mask of the whole array would take memory."""


def finite(array: NDArray[Any]) -> bool:
    """Return True if all numbers of a floating, contiguous array are finite.

    A sum of squares by the BLAS would be faster, but the BLAS hangs if another thread forks meanwhile.
    """
    if array.size <= FINITE_PART:
        return 0 not in np.isfinite(array).tobytes()  # 0.5 us for a row; `all` takes 1.8
    flat = array.reshape(-1)
    starts = range(0, flat.size, FINITE_PART)
    return all(finite(flat[start : start + FINITE_PART]) for start in starts)


def _interval(low: float, high: float, open_low: bool, open_high: bool) -> str:
    if low == -math.inf and high == math.inf:
        return "a number"
    if high == math.inf:
        return f"{'above' if open_low else 'at least'} {low:g}"
    return f"in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"


def needed(package: str, extra: str, what: str) -> Any:
    """Return a package; ImportError in a line with the pip command if missing.

    extra : the extra of fastmlp with the package; what : the user of the package, in words
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        top = package.partition(".")[0]
        if error.name not in (top, package):  # the package is there, and itself lacks another
            raise
        # pip leaves an installed fastmlp as it is, wherever it is from, and adds what the extra names.
        how = f'pip install "fastmlp[{extra}]", or ".[{extra}]" in a checkout'
        raise ImportError(f"{what} needs {top}: {how}") from None


class Deferred:
    """A package of an extra, imported at the first use; errors are as of `needed`."""

    def __init__(self, package: str, extra: str, what: str) -> None:
        self._needed = package, extra, what

    def __getattr__(self, name: str) -> Any:
        found = self.__dict__[name] = getattr(needed(*self._needed), name)  # Python looks there first
        return found
