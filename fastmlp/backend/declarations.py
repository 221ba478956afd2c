"""Variants from files and plugins: loaded, and checked before the first run.

The checks read the text of functions. Numba would report a mistake in pages and far from its location; here
an error is a line, with the file and the line.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import inspect
import linecache
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmlp import checks
from fastmlp.system.names_read import names_of

if TYPE_CHECKING:
    from fastmlp.kernels.variant import Variant

Function = Callable[..., Any]


def load(path: Path) -> types.ModuleType:
    """Run a Python file in its present form, as a new module; return the module.

    Raises
    ------
    ValueError
        If there is no such file, or if running the file raises an error: a line with the file and line.
    """
    # Two files of one name are two modules.
    location = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"fastmlp_variant_{path.stem}_{location}", path)
    if spec is None or not path.is_file():
        raise ValueError(f"a variant must be a Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    linecache.checkcache(str(path))  # what Numba's messages quote
    try:
        # Not by the loader: its bytecode on the disk is stale after an edit within a second.
        code = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        # Machine code loaded from the disk cache looks its functions' module up by name.
        sys.modules[spec.name] = module
        exec(code, vars(module))
    except Exception as error:  # somebody's file may raise anything
        raise ValueError(f"{_line_of(error, path)}: {checks.message_of(error)}") from error
    return module


def _line_of(error: Exception, path: Path) -> str:
    """Return the location of an error in a file, in words."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return _location(path, error.lineno)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return _location(path, lines[-1] if lines else None)


def _location(path: str | Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}, line {line}"


def declared(module: Any) -> Variant:
    """Return the variant of a module; ValueError without a declaration."""
    from fastmlp.kernels.variant import Variant

    variant = getattr(module, "VARIANT", None)
    if not isinstance(variant, Variant):
        raise ValueError(
            f"{module.__name__} must declare VARIANT = Variant(...), got {checks.shown(variant)}"
        )
    return variant


def checked(variant: Variant, taken: Iterable[str]) -> Variant:
    """Return the variant if its name and slots are valid.

    ValueError or TypeError if the name cannot be used, if no program calls a slot, if a slot takes other
    arguments than the base's slot, or uses an undefined name.
    """
    from fastmlp.kernels.estimates import MIXED
    from fastmlp.kernels.jit.bind import check_slots, functions_of

    name = variant.name
    if not isinstance(name, str) or not re.fullmatch(r"[\w.+-]+", name):
        raise ValueError(f"a variant's name must be letters, digits and . + - _, got {checks.shown(name)}")
    if name == "auto":
        raise ValueError("no variant can be named 'auto', which chooses among them")
    if name in taken:
        raise ValueError(f"a backend named {name!r} exists already; give the variant another name")
    check_slots(variant)
    base = variant.base
    while base is not None:
        if base.name in MIXED:
            raise ValueError(
                f"{base.name!r} serves dtype 'bfloat16' alone and is no base, as {name!r} has it"
            )
        base = base.base
    if variant.base is not None:
        bases = functions_of(variant.base)
        for slot, function in variant.slots.items():
            _check_signature(f"slot {slot!r} of the variant {name!r}", function, bases.get(slot))
        _check_names(variant.slots, {*bases, *variant.slots})
    return variant


def _check_signature(what: str, function: Function, base: Function | None) -> None:
    """Raise TypeError if a slot cannot be called with the arguments of the base's slot."""
    taken, expected = _signature(function), _signature(base)
    if taken is None or expected is None:
        return
    try:
        taken.bind(*expected.parameters)
    except TypeError:
        raise TypeError(f"{what} must take {_names(expected)}, takes {_names(taken)}") from None


def _signature(function: Any) -> inspect.Signature | None:
    """Return the signature of a function, jitted or not; None for other callables of Numba."""
    plain = getattr(function, "py_func", function)
    return inspect.signature(plain) if isinstance(plain, types.FunctionType) else None


def _names(signature: inspect.Signature) -> str:
    return f"({', '.join(str(p.replace(annotation=p.empty)) for p in signature.parameters.values())})"


def _check_names(slots: Mapping[str, Function], bound: set[str]) -> None:
    """Raise ValueError for an undefined name in a slot, or in a called function of the same file.

    bound : names bound by a program to a variant's functions
    """
    pending = [getattr(function, "py_func", function) for function in slots.values()]
    seen: set[Any] = set()
    while pending:
        function = pending.pop()
        if not isinstance(function, types.FunctionType) or function in seen:
            continue
        seen.add(function)
        for name, line in names_of(function.__code__).items():
            called = function.__globals__.get(name)
            plain = getattr(called, "py_func", called)
            if getattr(plain, "__module__", None) == function.__module__:
                pending.append(plain)
            elif name not in {*bound, *vars(builtins), *function.__globals__}:
                location = _location(function.__code__.co_filename, line)
                raise ValueError(f"{location}: name {name!r} is not defined")
