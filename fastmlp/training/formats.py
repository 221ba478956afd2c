"""What rooms above know: formats of other programs and of files, and steps of the whole data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_loaders: list[Callable[[str], Any]] = []
_readers: dict[str, Callable[..., Any]] = {}


def register(load: Callable[[str], Any]) -> None:
    """Have `format_of` return load(name), a module with functions by the names of `Portable`'s methods.

    Those that export get a network, its parameters and the method's arguments; those that import get the
    arguments but for the backend, and return `portable.Parts`.
    """
    _loaders[:] = [load]


def format_of(name: str) -> Any:
    """Return the module of a format, which is imported when it is first needed."""
    return _loaders[0](name)


def register_file(name: str, read: Callable[..., Any]) -> None:
    """Have `load` return read(path, header, arrays) for files whose format is this name and a number."""
    _readers[name] = read


def reader_of(format: object) -> Callable[..., Any] | None:
    """Return what reads a file of a format, None where `load` reads it by itself."""
    return _readers.get(format.partition(" ")[0]) if isinstance(format, str) else None
