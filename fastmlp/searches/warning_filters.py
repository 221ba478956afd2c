"""Filters of warnings, which Python has once for all threads: tasks that take turns have their own each."""

from __future__ import annotations

import warnings
from typing import Any

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
