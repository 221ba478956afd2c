"""Formats of models that rooms above know: those of other programs, and of files that `load` opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_loaders: list[Callable[[], Any]] = []
_readers: dict[str, Callable[..., Any]] = {}


def register(load: Callable[[], Any]) -> None:
    """Have `formats` return load(): a module with a function for each method of `Portable`, by its name.

    Those that export get a network, its parameters and the method's arguments; those that import get the
    arguments but for the backend, and return `portable.Parts`. It is called when one is first needed.
    """
    _loaders[:] = [load]


def formats() -> Any:
    """Return what is registered."""
    return _loaders[0]()


def register_file(name: str, read: Callable[..., Any]) -> None:
    """Have `load` return read(path, header, arrays) for files whose format is this name and a number."""
    _readers[name] = read


def reader_of(format: object) -> Callable[..., Any] | None:
    """Return what reads a file of a format, None where `load` reads it by itself."""
    return _readers.get(format.partition(" ")[0]) if isinstance(format, str) else None
