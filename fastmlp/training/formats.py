"""What writes a `Model` in other programs' formats and reads it from them, as it is registered from above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_loaders: list[Callable[[], Any]] = []


def register(load: Callable[[], Any]) -> None:
    """Have `formats` return load(): a module with a function for each method of `Portable`, by its name.

    Those that export get a network, its parameters and the method's arguments; those that import get the
    arguments but for the backend, and return `portable.Parts`. It is called when one is first needed.
    """
    _loaders[:] = [load]


def formats() -> Any:
    """Return what is registered."""
    return _loaders[0]()
