"""The state of Python's warnings, which threads that take turns must not find changed by one another."""

from __future__ import annotations

import warnings
from typing import Any

NAMES = ("filters", "showwarning", "_showwarnmsg_impl")
"""What `warnings.catch_warnings` changes, for all threads of the process, until its block ends."""


def current_state() -> tuple[Any, ...]:
    """Return the filters and what shows warnings."""
    return tuple(getattr(warnings, name) for name in NAMES)


def restore(state: tuple[Any, ...]) -> None:
    """Go back to a state."""
    for name, value in zip(NAMES, state, strict=True):
        setattr(warnings, name, value)
    with warnings.catch_warnings():  # which has the interpreter read the filters anew
        pass
