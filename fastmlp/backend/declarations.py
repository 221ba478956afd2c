"""Variants that somebody else wrote: loaded from a file, and checked before they can run.

Separate from the registry because of what it looks at, the text of functions. A mistake in it, which Numba
would report in pages and far from its place, is one line here with the file and the line.
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
    """Run a Python file as it is now, as a module of its own, and return the module.

    Raises
    ------
    ValueError
        If there is no such file, or if running it raises an error: in one line that names the file's line.
    """
    # Two files of one name are two modules.
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"fastmlp_variant_{path.stem}_{place}", path)
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
    """Return where in a file an error arose, in words."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return _place(path, error.lineno)
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return _place(path, lines[-1] if lines else None)


def _place(path: str | Path, line: int | None) -> str:
    return str(path) if line is None else f"{path}, line {line}"


def declared(module: Any) -> Variant:
    """Return the variant that a module declares; ValueError if it declares none."""
    from fastmlp.kernels.variant import Variant

    variant = getattr(module, "VARIANT", None)
    if not isinstance(variant, Variant):
        raise ValueError(
            f"{module.__name__} must declare VARIANT = Variant(...), got {checks.shown(variant)}"
        )
    return variant


def checked(variant: Variant, taken: Iterable[str]) -> Variant:
    """Return the variant if its name and its slots are none that are taken.

    ValueError or TypeError if its name cannot be used, if no program calls one of its slots, if a slot takes
    other arguments than its base's, or uses a name that is not defined.
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
    """Raise TypeError if a slot cannot be called with as many arguments as its base's."""
    taken, expected = _signature(function), _signature(base)
    if taken is None or expected is None:
        return
    try:
        taken.bind(*expected.parameters)
    except TypeError:
        raise TypeError(f"{what} must take {_names(expected)}, takes {_names(taken)}") from None


def _signature(function: Any) -> inspect.Signature | None:
    """Return the signature of a function, jitted or not; None of what Numba calls in another way."""
    plain = getattr(function, "py_func", function)
    return inspect.signature(plain) if isinstance(plain, types.FunctionType) else None


def _names(signature: inspect.Signature) -> str:
    return f"({', '.join(str(p.replace(annotation=p.empty)) for p in signature.parameters.values())})"


def _check_names(slots: Mapping[str, Function], bound: set[str]) -> None:
    """Raise ValueError if a slot, or a function of the same file that it calls, uses an undefined name.

    bound : names that a program binds to a variant's functions
    """
    pending = [getattr(function, "py_func", function) for function in slots.values()]
    seen: set[Any] = set()
    while pending:
        function = pending.pop()
        if not isinstance(function, types.FunctionType) or function in seen:
            continue
        seen.add(function)
        for name, line in names_of(function.__code__).read.items():
            if name in bound or hasattr(builtins, name):
                continue
            if name not in function.__globals__:
                place = _place(function.__code__.co_filename, line)
                raise ValueError(f"{place}: name {name!r} is not defined")
            called = function.__globals__[name]
            plain = getattr(called, "py_func", called)
            if getattr(plain, "__module__", None) == function.__module__:
                pending.append(plain)
