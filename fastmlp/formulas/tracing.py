"""Traces a function that a user writes with NumPy's words into expressions.

The function is called with `Expression`s in place of arrays, and what it returns is the formula. A mistake in
the function is reported with the line of the user's file where it arose.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.formulas.expressions import Expression, Refused, as_expression

LIBRARIES = tuple(os.path.dirname(file) + os.sep for file in (os.path.dirname(__file__), np.__file__))
"""Where the files of fastmlp and of NumPy are: an error in them arose in what called them."""


def trace(what: str, function: Callable[..., Any], *arguments: Any) -> tuple[Expression, ...]:
    """Return what a function computes of its arguments, which are expressions, or tuples of them.

    One expression for each value that it returns. It is called twice: what computes something else the
    second time depends on more than its arguments.

    Raises
    ------
    ValueError
        In one line that names the line of the function which cannot be traced.
    """
    first, second = (_called(what, function, arguments) for _ in range(2))
    if [e.digest for e in first] != [e.digest for e in second]:
        raise ValueError(f"{what} computes another formula every time that it is called; it must be pure")
    return first


def _called(what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Expression, ...]:
    try:
        returned = function(*arguments)
        values = list(_flat(returned))
        if not values:
            raise Refused(f"it returns {returned!r}, where a value is required")
        return tuple(map(as_expression, values))
    except Refused as refused:
        raise ValueError(f"{what} cannot be traced{_place(refused)}: {refused}") from None
    except RecursionError:
        raise ValueError(f"{what} cannot be traced: it calls itself without end") from None
    except Exception as error:
        # A user's function may raise anything: its own mistakes are reported with its line.
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} cannot be traced{_place(error)}: {type(error).__name__}: {said}") from None


def _flat(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from _flat(one)
    elif value is not None:
        yield value


def _place(error: BaseException) -> str:
    """Return where in the user's own text an error arose, in words; nothing if nowhere."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(LIBRARIES) and "site-packages" not in f.filename]
    if not own:
        return ""
    line, file, text = own[-1].lineno, os.path.basename(own[-1].filename), own[-1].line
    return f" at line {line} of {file!r}" + (f", {checks.shown(text)}" if text else "")
