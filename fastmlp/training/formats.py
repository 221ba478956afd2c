"""What writes a `Model` in other programs' formats and reads it from them, as it is registered from above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_loaders: list[Callable[[str], Any]] = []


def register(load: Callable[[str], Any]) -> None:
    """Have `format_of` return load(name), a module with functions by the names of `Portable`'s methods.

    Those that export get a network, its parameters and the method's arguments; those that import get the
    arguments but for the backend, and return `portable.Parts`.
    """
    _loaders[:] = [load]


def format_of(name: str) -> Any:
    """Return the module of a format, which is imported when it is first needed."""
    return _loaders[0](name)
