"""What a function is made of: its bytecode, and the objects of its names. The part of a digest that is code.

Separate from `fastmlp.kernels.jit.objects`, which reads all other objects, because this reads bytecode.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

OURS = "fastmlp."

COMPUTING = {
    *("abc", "builtins", "cmath", "collections", "contextlib", "copy", "dataclasses", "decimal", "enum"),
    *("fractions", "functools", "inspect", "itertools", "llvmlite", "math", "numba", "numbers", "numpy"),
    *("operator", "pickle", "re", "statistics", "string", "struct", "textwrap", "types", "typing"),
    "warnings",
}
"""Packages whose functions return the same for the same arguments in every process of one installation."""

WORLDLY = {
    *("open", "input", "eval", "exec", "compile", "globals", "locals", "vars", "__import__", "breakpoint")
}
"""Python's own functions that may read anything."""

OF_EVERY_MODULE = {*vars(types.ModuleType("any")), "__builtins__", "__cached__", "__file__", "__path__"}

"""Names that every module has. In code they are nearly always attributes of other objects."""

Shape = tuple[bytes, list[Any]]
"""What an object is by itself, and the objects that it reaches, in a fixed order."""


class Unknown(Exception):
    """It cannot be known what code is made of; the text says what the code reads, and where."""


def _atom(value: Any) -> bytes:
    return f"{type(value).__name__} {value!r}".encode(errors="surrogatepass")


ATOMS: dict[type, Callable[[Any], bytes]] = {
    **dict.fromkeys((type(None), bool, float, complex, str, bytes, range, type(...)), _atom),
    int: lambda value: b"int %x" % value,  # Python writes no more than 4300 decimal digits
}
"""The types of objects that a digest takes by value."""


def home_of(function: types.FunctionType) -> str:
    """Return the name of the module whose globals a function has: `__module__` can be set to another."""
    return str(function.__globals__.get("__name__"))


def is_computing(module: str) -> bool:
    """Whether a module is of the packages in COMPUTING, or of Python's own C code below them."""
    package = module.partition(".")[0]
    below = package in sys.stdlib_module_names and package.lstrip("_") in COMPUTING
    return package in COMPUTING or below


def is_library(value: Any) -> bool:
    """Whether a function or a class is of such a module."""
    return is_computing(str(getattr(value, "__module__", None)))


def full_name(value: Any) -> str:
    """Return the name of a function or a class with its module."""
    return f"{value.__module__}.{getattr(value, '__qualname__', value.__name__)}"


def several(what: bytes, values: Iterable[Any]) -> Shape:
    """Return the shape of a container: its atoms stand in the text."""
    texts, reached = [what], []
    for value in values:
        kind = type(value)
        if kind in ATOMS:
            texts.append(ATOMS[kind](value))
        else:
            texts.append(b"*")
            reached.append(value)
    return b"\0".join(texts), reached


_shapes: dict[types.FunctionType, tuple[int, Shape]] = {}
"""By function of our own modules, with its module's number of globals, which grows while the module loads."""

BESIDE = {"fastmlp.kernels.codegen.machine.target"}
"""Functions whose results are not in the digest, because the key of the disk cache has them."""

METHODS: set[types.FunctionType] = set()
"""Of classes of our own modules, whether they have a closure or not."""

MISSING = object()


def of_function(function: types.FunctionType) -> Shape:
    """Return the shape of a function; Unknown if it may read what cannot be known."""
    found = _shapes.get(function)
    if found is not None and found[0] == len(function.__globals__):
        return found[1]
    reach = function.__dict__.get("fastmlp_reach")
    if reach is not None:
        if reach.unknown is not None:
            raise Unknown(reach.unknown)
        return b"named " + reach.digest.encode(), []
    home, scope = home_of(function), function.__globals__
    if full_name(function) in BESIDE:
        return b"beside " + full_name(function).encode(), []
    if is_computing(home):
        return f"named {home}.{function.__code__.co_qualname}".encode(), [*_cells(function)]
    shape, foreign = _of_code(function)
    lasting = not foreign and (function.__closure__ is None or function in METHODS)
    if lasting and home.startswith(OURS) and scope is vars(sys.modules[home]):
        _shapes[function] = len(scope), shape
    return shape


def _of_code(function: types.FunctionType) -> tuple[Shape, bool]:
    """Return the code of a function and the objects of its names, and whether it names a foreign module.

    A name that both a global and an attribute have counts as both: to tell them apart would take twenty times
    as long as all else. Exceptions are `__doc__` and other names that every module has.
    """
    code, scope = function.__code__, function.__globals__
    text, names, imports = _known(code)
    texts, found = [text], [*_cells(function), *(_imported(function) if imports else ())]
    for name in names:
        value = scope.get(name, MISSING)
        if value is not MISSING:
            texts.append(name.encode())
            found.append(value)
        elif name in WORLDLY and name in _globals_of(code):
            raise Unknown(f"{full_name(function)} calls {name}()")
    reached: list[Any] = [function.__defaults__, function.__kwdefaults__, function.__dict__ or None]
    foreign = False
    seen: set[types.ModuleType] = set()
    while found:
        value = found.pop(0)
        if type(value) in ATOMS:
            texts.append(ATOMS[type(value)](value))
            continue
        if not isinstance(value, types.ModuleType):
            reached.append(value)
            continue
        module, attributes = value.__name__, vars(value)
        texts.append(module.encode())
        if value in seen or is_computing(module):
            continue
        seen.add(value)
        dynamic = {"getattr", "__dict__"} & {*names} or "__getattr__" in attributes
        if dynamic or module.partition(".")[0] in sys.stdlib_module_names:
            raise Unknown(f"{full_name(function)} may read anything in the module {module!r}")
        foreign = foreign or not module.startswith(OURS)
        texts += [name.encode() for name in names if name in attributes]
        found += [attributes[name] for name in names if name in attributes]
    return (b"function " + b"\0".join(texts), reached), foreign


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            yield "empty"


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code and those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _globals_of(code: types.CodeType) -> set[str]:
    """Return the names of globals alone."""
    instructions = (i for one in _codes(code) for i in dis.get_instructions(one))
    return {i.argval for i in instructions if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}


IMPORT_NAME = dis.opmap["IMPORT_NAME"]


def _imported(function: types.FunctionType) -> Iterator[types.ModuleType]:
    """Yield the modules that a function imports when it runs."""
    for code in _codes(function.__code__):
        instructions = [*dis.get_instructions(code)]
        for number, instruction in enumerate(instructions):
            if instruction.opcode != IMPORT_NAME:
                continue
            name, dots = instruction.argval, instructions[number - 2].argval
            if not dots and is_computing(name):
                continue
            if dots or name not in sys.modules:
                raise Unknown(f"{full_name(function)} imports {name!r} when it runs")
            yield sys.modules[name]


class _Code(NamedTuple):
    """What is known of a code, those within it included.

    text : a digest of its text
    names : of globals and attributes, each once
    imports : whether it does
    """

    text: bytes
    names: tuple[str, ...]
    imports: bool


_codes_known: weakref.WeakKeyDictionary[types.CodeType, _Code] = weakref.WeakKeyDictionary()


def _known(code: types.CodeType) -> _Code:
    found = _codes_known.get(code)
    if found is None:
        codes = [*_codes(code)]
        names = dict.fromkeys(name for one in codes for name in one.co_names)
        if not names.keys().isdisjoint(OF_EVERY_MODULE):
            own = _globals_of(code)
            names = {name: None for name in names if name not in OF_EVERY_MODULE or name in own}
        imports = any(IMPORT_NAME in one.co_code[::2] for one in codes)
        found = _codes_known[code] = _Code(hashlib.sha256(text_of_code(code)).digest(), tuple(names), imports)
    return found


def text_of_code(code: types.CodeType) -> bytes:
    """Return a text of a code that is the same in every process, without its docstring and line numbers."""
    parts = [
        repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)).encode(),
        repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)).encode(),
        code.co_code,
        code.co_exceptiontable,
    ]
    # The first constant of what `def` makes is its docstring or None, up to Python 3.13.
    defined = code.co_flags & inspect.CO_NEWLOCALS and not code.co_name.startswith("<")
    documented = defined and isinstance(code.co_consts[0], str)
    parts += map(_constant, code.co_consts[1 if documented else 0 :])
    return b"".join(b"%d:" % len(part) + part for part in parts)


def _constant(constant: Any) -> bytes:
    if isinstance(constant, types.CodeType):
        return text_of_code(constant)
    if isinstance(constant, tuple):
        return b"(" + b",".join(map(_constant, constant)) + b")"
    if isinstance(constant, frozenset):  # in another order in every process
        return b"{" + b",".join(sorted(map(_constant, constant))) + b"}"
    return ATOMS[type(constant)](constant)
