"""The trained model, and a registry of what rooms above bring: formats, derivatives, steps of all rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_loaders: list[Callable[[str], Any]] = []
_readers: dict[str, Callable[..., Any]] = {}


def register(load: Callable[[str], Any]) -> None:
    """Register load(name), the import of a format's module.

    Exporting functions get a network, the parameters and the method's arguments. Importing functions get the
    arguments without the backend, and return `portable.Parts`.
    """
    _loaders[:] = [load]


def format_of(name: str) -> Any:
    """Return the module of a format, imported at the first use."""
    return _loaders[0](name)


def register_file(name: str, read: Callable[..., Any]) -> None:
    """Register read(path, header, arrays) for files of a format, a name and a number."""
    _readers[name] = read


def reader_of(format: object) -> Callable[..., Any] | None:
    """Return the registered reader of a file format, or None."""
    return _readers.get(format.partition(" ")[0]) if isinstance(format, str) else None
