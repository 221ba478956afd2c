"""Tracing of users' functions with NumPy's words into expressions.

A function is called with `Expression`s in place of arrays, and returns the formula. An error in the function
is reported with the line of the user's file.
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
"""Folders of fastmlp and NumPy: a user's line called them where an error arose in them."""


def trace(what: str, function: Callable[..., Any], *arguments: Any) -> tuple[Expression, ...]:
    """Return a function's values for expressions, or tuples of expressions, as arguments.

    The function is called twice: a second result that differs depends on more than the arguments.

    Raises
    ------
    ValueError
        In one line with the function's line that cannot be traced.
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
        # A user's function may raise anything, and its errors are reported with its line.
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} cannot be traced{_place(error)}: {type(error).__name__}: {said}") from None


def _flat(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from _flat(one)
    elif value is not None:
        yield value


def _place(error: BaseException) -> str:
    """Return the user's line of an error, in words; "" without such a line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith(LIBRARIES) and "site-packages" not in f.filename]
    if not own:
        return ""
    line, file, text = own[-1].lineno, os.path.basename(own[-1].filename), own[-1].line
    return f" at line {line} of {file!r}" + (f", {checks.shown(text)}" if text else "")
