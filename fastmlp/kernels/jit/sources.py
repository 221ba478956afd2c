"""Digests of the sources of machine code: a name with a digest never stands for outdated code.

A built-in function's digest has the text of `fastmlp.kernels`, `formulas` and `model` as a whole, a name, and
the values in the closure. A user's function's has the text of the file, and of each module named by the
function; the values of plain numbers, strings, tuples and arrays named there; the same of called functions;
and the releases, for functions of Python, NumPy, Numba and llvmlite. Where code names anything else, may read
files or the environment, or has no file, the digest is unknown, and each process compiles for itself.

Private parts of Numba have decorators' options and functions of `overload`; tried on 0.62.1 and 0.68.1.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import imputils
from numba.core.dispatcher import Dispatcher
from numba.core.typing import templates
from numba.extending import _Intrinsic

from fastmlp.kernels.jit.emission import Intrinsic
from fastmlp.kernels.jit.store import package_digest, releases
from fastmlp.model.custom import Component
from fastmlp.system.names_read import codes_within, names_of

ROOMS = tuple(f"fastmlp.{room}." for room in ("formulas", "kernels", "model"))
"""The parts of fastmlp read by `package_digest`."""

PLAIN = (type(None), bool, int, float, complex, str, bytes)
"""The types of values identified by their text."""

COMPUTING = {
    *("abc", "builtins", "cmath", "collections", "contextlib", "copy", "dataclasses", "decimal", "enum"),
    *("fractions", "functools", "inspect", "itertools", "llvmlite", "math", "numba", "numbers", "numpy"),
    *("operator", "re", "statistics", "string", "struct", "textwrap", "types", "typing", "warnings"),
}
"""Packages of deterministic functions, in every process of an installation."""

WORLDLY = {
    *("__import__", "breakpoint", "compile", "eval", "exec", "getattr", "globals", "input", "locals", "open"),
    "vars",
}
"""Python's built-in functions that may read anything."""

MOST_ARRAY_BYTES = 10**6
"""The most bytes of a global array in code saved by Numba (`BaseContext.make_constant_array`)."""

SAME = "fastmlp_identity"
"""The attribute of functions called by a name with a digest."""


class Unknown(Exception):
    """Raised where the source of code cannot be known; the text says why, as the end of a sentence."""


class Identity:
    """The identity of machine code that is made of functions, intrinsics, other identities and plain values.

    digest : 16 hexadecimal digits, the same in every process that makes the code; random if unknown
    """

    def __init__(self, *parts: Any) -> None:
        self._parts = parts
        self._inner: list[Identity] = []
        self._of_users = False
        self.unknown: str | None = None
        try:
            self.digest = self._now()
        except Unknown as unknown:
            self.digest, self.unknown = secrets.token_hex(8), str(unknown)

    def _now(self) -> str:
        package = package_digest()
        if package is None:
            raise Unknown("the sources of fastmlp are no files, or have changed since they were loaded")
        walk = _Walk()
        texts = [package, *map(walk.text_of, self._parts)]
        if walk.files:
            # An overload registered with Numba changes what a user's function compiles to, and no name leads
            # there.
            texts += [releases(), *map(walk.text_of, _overloads())]
        self._inner = walk.identities
        self._of_users = bool(walk.files) or any(inner._of_users for inner in walk.identities)
        return _hash(texts, *walk.files.values())

    def is_current(self) -> bool:
        """Return whether the parts are known and unchanged: an attribute may have been set since."""
        if self.unknown is not None or not self._of_users:
            return self.unknown is None
        try:
            return self._now() == self.digest and all(inner.is_current() for inner in self._inner)
        except Unknown:
            return False

    def mark(self, function: Any) -> None:
        """Make this the identity of a function called by a name with the digest."""
        setattr(function, SAME, self)


def _hash(texts: list[str], *files: bytes) -> str:
    parts = [text.encode(errors="surrogatepass") for text in texts]
    # With the lengths no two lists of texts join to the same bytes.
    lengths = ",".join(str(len(part)) for part in (*parts, *files))
    return hashlib.sha256(b"".join([lengths.encode(), *parts, *files])).hexdigest()[:16]


class _Walk:
    """The texts of functions, with the objects named by them; files : the texts of users' files, by path"""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.identities: list[Identity] = []
        self._met: dict[int, int] = {}
        self._alive: list[Any] = []  # an id may be used again once its object is gone

    def text_of(self, value: Any, reader: str = "the backend") -> str:
        """Return a text that identifies a value; reader : the name of the function that reads the value."""
        kind = type(value)
        if kind in PLAIN:
            shown = hex(value) if kind is int else repr(value)  # repr writes no more than 4300 digits
            return f"{kind.__name__} {shown}"
        if kind is tuple:
            return f"({', '.join(self.text_of(one, reader) for one in value)})"
        # By kind: an object may raise anything when `isinstance` reads its class.
        if issubclass(kind, (np.ndarray, np.generic)):
            return _text_of_array(value, reader)
        if kind is Identity:
            if value.unknown is not None:
                raise Unknown(value.unknown)
            self.identities.append(value)
            return f"named {value.digest}"
        if issubclass(kind, Component):
            return f"component {kind.__name__} {value.key}"
        if issubclass(kind, types.ModuleType):
            raise Unknown(f"{reader} names the module {value.__name__!r} in a container")
        if issubclass(kind, Dispatcher):
            return f"jitted {_options_of(value)} {self.text_of(value.py_func, reader)}"
        if issubclass(kind, (_Intrinsic, Intrinsic)):
            return f"intrinsic {self._text_of_function(value._defn)}"
        if kind is types.FunctionType:
            return self._text_of_function(value)
        if kind is np.ufunc and any(held is value for held in vars(np).values()):
            return f"ufunc {value!r}"
        named = issubclass(kind, (type, types.BuiltinFunctionType))
        what = value if named else kind
        name = f"{what.__module__}.{what.__qualname__}"
        if named and (is_computing(name) or _is_ours(name)):
            return name
        raise Unknown(f"{reader} names {name if named else f'an object of {name}'}")

    def _take_file(self, module: types.ModuleType, reader: str) -> None:
        """Take a user's module; Unknown for a part of Python, or a module without a file."""
        name, path = module.__name__, getattr(module, "__file__", None)
        if name.partition(".")[0] in sys.stdlib_module_names or hasattr(module, "__getattr__"):
            raise Unknown(f"{reader} may read anything in the module {name!r}")
        try:
            self.files[str(path)] = Path(str(path)).read_bytes()
        except OSError:
            raise Unknown(f"{reader} is of the module {name!r}, which has no file of source text") from None

    def _text_of_function(self, function: types.FunctionType) -> str:
        """Return the text of a function."""
        identity = function.__dict__.get(SAME)
        if identity is not None:
            return self.text_of(identity)
        home, code = str(function.__globals__.get("__name__")), function.__code__
        if is_computing(home):
            return f"{home}.{code.co_qualname}"
        # A function may call itself, and by its number in the walk it is told from others.
        if id(function) in self._met:
            return f"met {self._met[id(function)]}"
        self._met[id(function)] = len(self._met)
        self._alive.append(function)
        if not _is_ours(home):
            return self._text_of_users(function, f"{home}.{code.co_qualname}")
        if not home.startswith(ROOMS):
            self._take_file(sys.modules[home], home)
        name = f"{home}.{code.co_qualname} of line {code.co_firstlineno}"
        return f"{name} ({'; '.join(self._texts_of(_bound(function), (), name))})"

    def _text_of_users(self, function: types.FunctionType, name: str) -> str:
        """Return the text of a user's function: its name, and all named objects."""
        module = sys.modules.get(str(function.__globals__.get("__name__")))
        if module is None or function.__globals__ is not vars(module):
            raise Unknown(f"{name} is of no module that has a file of source text")
        self._take_file(module, name)
        number = _codes_in(self.files[str(module.__file__)]).get(function.__code__)
        if number is None:
            raise Unknown(f"the file of {name} has another text than when it was loaded")
        if function.__dict__:
            raise Unknown(f"{name} has attributes")
        names = names_of(function.__code__)
        if names.imported:
            raise Unknown(f"{name} imports {names.imported[0]!r} when it runs")
        scope = function.__globals__
        for one in names.read:
            if one not in scope and one in WORLDLY:
                raise Unknown(f"{name} calls {one}()")
        found = _bound(function) + [(one, scope[one]) for one in names.read if one in scope]
        texts = self._texts_of(found, names.attributes, name)
        return f"function {name} {number} ({'; '.join(texts)})"  # functions in one file may have one name

    def _texts_of(
        self, found: list[tuple[str, Any]], attributes: tuple[str, ...], reader: str
    ) -> Iterator[str]:
        """Yield the texts of named values, and of attributes of the modules among them."""
        seen: set[int] = set()
        while found:
            name, value = found.pop(0)
            if not issubclass(type(value), types.ModuleType):
                yield f"{name} = {self.text_of(value, reader)}"
                continue
            module = value.__name__
            yield f"{name} = module {module}"
            if id(value) in seen or is_computing(module):
                continue
            seen.add(id(value))
            if not _is_ours(module):
                self._take_file(value, reader)
            if "__dict__" in attributes:
                raise Unknown(f"{reader} may read anything in the module {module!r}")
            found += [(one, vars(value)[one]) for one in attributes if one in vars(value)]


def _text_of_array(value: Any, reader: str) -> str:
    if value.dtype.hasobject:
        raise Unknown(f"{reader} names an array of objects")
    if value.nbytes > MOST_ARRAY_BYTES:
        raise Unknown(f"{reader} names an array of {value.nbytes} bytes, more than {MOST_ARRAY_BYTES}")
    what = type(value).__name__, value.dtype.descr, value.shape, value.flags.c_contiguous
    return f"{what} {hashlib.sha256(value.tobytes()).hexdigest()}"


def _bound(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Return the names and values of a function's closure, and of its defaults."""
    defaults = function.__defaults__, *(function.__kwdefaults__ or {}).items()
    cells = map(_content, function.__closure__ or ())
    return [("defaults", defaults), *zip(function.__code__.co_freevars, cells, strict=True)]


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty"


def _options_of(dispatcher: Any) -> str:
    """Return the text of the options of Numba's decorator."""
    options = [(name, text_of_option(value)) for name, value in dispatcher.targetoptions.items()]
    signatures = () if dispatcher._can_compile else tuple(map(str, dispatcher.overloads))
    kinds = {name: str(kind) for name, kind in dispatcher.locals.items()}
    return f"{options} {kinds} {signatures} {dispatcher._compiler.pipeline_class.__name__}"


def text_of_option(value: Any) -> str:
    """Return the text of an option of Numba's decorator."""
    return repr(sorted(value) if isinstance(value, (set, frozenset)) else value)


@functools.lru_cache(maxsize=64)
def _codes_in(text: bytes) -> dict[types.CodeType, int]:
    """Return the codes in a file, numbered."""
    # A function whose code is not among them was read from another version of the file.
    try:
        codes = codes_within(compile(text, "<text>", "exec", dont_inherit=True))
    except (SyntaxError, ValueError):
        return {}
    return {code: number for number, code in enumerate(codes)}


def is_computing(module: str) -> bool:
    """Return whether a module belongs to the packages in COMPUTING, or to their C code."""
    package = module.partition(".")[0]
    below = package in sys.stdlib_module_names and package.lstrip("_") in COMPUTING
    return package in COMPUTING or below


def _is_ours(module: str) -> bool:
    return module.startswith("fastmlp.")


def _overloads() -> list[Any]:
    """Return the functions registered by users with Numba for calls and attributes."""
    typed, lowered = templates.builtin_registry, imputils.builtin_registry
    registered = [
        *typed.functions,
        *typed.attributes,
        *(implementation for implementation, *_ in lowered.functions),
    ]
    found = (getattr(one, "_overload_func", one) for one in registered)
    return [
        one
        for one in found
        if one.__module__ and not (is_computing(one.__module__) or _is_ours(one.__module__))
    ]
