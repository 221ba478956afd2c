"""Digests of all that machine code is made of: a name with a digest in it never stands for outdated code.

A digest comes from a walk over all that a function reaches: the code of functions without docstrings and line
numbers, the globals that they name, closures, defaults, attributes of modules, classes, instances,
containers, and what those reach. Objects of Python, NumPy, Numba and llvmlite count by their names; the
releases of these packages are in the digest, or beside it in the cache. Some things cannot be known, as an
object of a C extension, or the content of a file that is read while code is written. Then the digest is
unknown, and the code is not cached.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fastmlp.kernels.jit.bytecode import (
    ATOMS,
    OURS,
    Unknown,
    full_name,
    home_of,
    is_computing,
    several,
    text_of_code,
)
from fastmlp.kernels.jit.objects import Opaque, overloads, shape_of


class _Reader(NamedTuple):
    """An entry in a walk's list of objects to visit: the function of this name reads the objects after it."""

    name: str


class Reach:
    """All that some machine code is made of: its roots, and what they reach.

    digest : 16 hexadecimal digits, the same in every process that makes the same code; random if unknown
    unknown : why it cannot be known, or None
    """

    def __init__(self, *roots: Any) -> None:
        self._roots = roots
        self.unknown: str | None = None
        try:
            self.digest = digest_of(roots)
        except Unknown as unknown:
            self.digest, self.unknown = secrets.token_hex(8), str(unknown)

    def unchanged(self) -> bool:
        """Whether the roots still reach the same: a module's attribute may have been set since."""
        try:
            return digest_of(self._roots) == self.digest
        except Unknown:
            return False


def marked(function: Any, reach: Reach) -> None:
    """Let walks take the digest for this function, because its code is called by a name with that digest."""
    function.fastmlp_reach = reach


def text_of(*modules: str) -> str:
    """Return a digest of the code of all functions that modules define, without what this code reaches."""
    found = (value for name in modules for value in vars(sys.modules[name]).values())
    functions = [f for f in found if isinstance(f, types.FunctionType) and f.__module__ in modules]
    return hashlib.sha256(b"".join(text_of_code(function.__code__) for function in functions)).hexdigest()


def digest_of(roots: Iterable[Any]) -> str:
    """Return a digest of all that can be reached; Unknown if that cannot be known."""
    walk = _Walk()
    try:
        walk.through(roots)
        if walk.foreign:
            walk.through(overloads())
    except Unknown:
        _Walk(telling=True).through(roots)  # raises again, with the function in its message
        raise
    return walk.digest()


class _Walk:
    """One walk. Objects are numbered when they are first met; later the number stands for the object.

    telling : whether an error says which function reads what cannot be known
    """

    def __init__(self, telling: bool = False) -> None:
        self._telling = telling
        self.foreign = False
        """Whether a function of another package has been met."""
        self._texts = [f"{np.__version__} {sys.version_info[:2]}".encode()]
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # objects must live as long as the walk: an id may be used again

    def digest(self) -> str:
        """Return the digest of all that has been met."""
        lengths = ",".join(map(str, map(len, self._texts)))
        return hashlib.sha256(b"".join([lengths.encode(), *self._texts])).hexdigest()[:16]

    def through(self, roots: Iterable[Any]) -> None:
        """Take everything that the roots reach into the digest."""
        met, texts, reader = self._met, self._texts, "the backend"
        pending: list[Any] = [*roots][::-1]
        while pending:
            value = pending.pop()
            number = met.get(id(value))
            if number is not None:
                texts.append(b"met %d" % number)
                continue
            kind = type(value)
            if kind in ATOMS:
                texts.append(ATOMS[kind](value))
                continue
            if kind is _Reader:
                reader = value.name
                continue
            if kind is tuple:
                text, reached = several(b"tuple", value)
            else:
                met[id(value)] = len(met)
                self._kept.append(value)
                try:
                    text, reached = shape_of(value)
                except Opaque as what:
                    raise Unknown(f"{reader} reads {what}") from None
                except Unknown:
                    raise
                except Exception as error:  # an object may raise anything when its attributes are read
                    raise Unknown(f"{reader} reads an object of {kind}, which raised {error!r}") from error
                if kind is types.FunctionType:
                    self.foreign = self.foreign or _is_foreign(value)
                    if self._telling:
                        pending.append(_Reader(reader))
                        reader = full_name(value)
            texts.append(text)
            pending += reached[::-1]


def _is_foreign(function: types.FunctionType) -> bool:
    home = home_of(function)
    return not (home.startswith((OURS, "namedtuple_")) or is_computing(home))
