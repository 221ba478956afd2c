"""Arguments of calls by name, and filters of warnings, of which tasks that take turns have their own each."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_signature = functools.lru_cache(maxsize=8)(inspect.signature)
"""It takes as long as scaling the rows of a small search."""


def arguments_of(call: Call) -> dict[str, Any]:
    """Return a call's arguments by the names that its function gives them."""
    function, given, named = call
    return _signature(inspect.unwrap(function)).bind(*given, **named).arguments


WARNING_STATE = ("filters", "showwarning", "_showwarnmsg_impl")
"""What `warnings.catch_warnings` changes, for all threads of the process, until its block ends."""


def warning_state() -> tuple[Any, ...]:
    """Return the filters of warnings and what shows them; each of the tasks that take turns has its own."""
    return tuple(getattr(warnings, name) for name in WARNING_STATE)


def set_warning_state(state: tuple[Any, ...]) -> None:
    """Go back to a state."""
    for name, value in zip(WARNING_STATE, state, strict=True):
        setattr(warnings, name, value)
    with warnings.catch_warnings():  # which has the interpreter read the filters anew
        pass
