"""Joins the program's templates with a variant's slots, and has Numba compile the result.

A template is copied with its globals rebound to the variant's functions. The copy's qualified name has a
digest of all reachable functions. Most slots are lazy functions, found in the same way by all programs that
share the function. The other functions are compiled into their callers.
"""

from __future__ import annotations

import difflib
import importlib
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numba.np.numpy_support import from_dtype

from fastmlp import checks
from fastmlp.kernels.jit import emission, store
from fastmlp.kernels.jit.entries import ENTRY_POINTS, name_of
from fastmlp.kernels.jit.lazy import INNER, OPTIONS, lazy_function
from fastmlp.kernels.jit.sources import Identity, text_of_option
from fastmlp.kernels.jit.store import MachineCode
from fastmlp.kernels.program import step_templates, whole_templates
from fastmlp.kernels.program.call_record import CallRecord
from fastmlp.kernels.program.slots import SLOT_FUNCTIONS
from fastmlp.kernels.variant import ALLOCATING, SpecializedProgram, Variant
from fastmlp.system.names_read import names_of

Function = Callable[..., Any]

OURS = "fastmlp.kernels."


class Program:
    """A variant's entry points, each made at its first use."""

    def __init__(self, variant: Variant) -> None:
        self._functions = functions_of(variant)
        self._raises = not all(map(_is_ours, map(_plain, self._functions.values())))

    def source(self, program: str | SpecializedProgram) -> EntrySource:
        """Return the source of an entry point: of a template, or of a single network's program."""
        if isinstance(program, str):
            function = self._functions[program]
            inner = _inner(function, self._functions)
            identity = _identity(function, inner, program in FLUSHING, self._raises, **INNER)
            # Variants share an entry point if they differ in nothing that it calls.
            name = f"{program}_{identity.digest}"
            return EntrySource(name, name, function, lambda: inner, identity, self._raises)
        function, names = located(program.template), located(program.names)
        inner = _inner(function, TEMPLATES)
        identity = _identity(function, inner, names, **INNER)
        # The disk cache compares nothing but names, so the name has a digest of the constants.
        name, scope = name_of(identity.digest, program), lambda: {**inner, **names(program.constants)}
        return EntrySource(name, identity.digest, function, scope, identity, False)


def located(where: str) -> Any:
    """Return the object named by "module:name"."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


class EntrySource(NamedTuple):
    """The source of an entry point, for compilation.

    stored_name : the name on the disk, see `entries.Entries`; names() gives the template's globals by name
    """

    name: str
    stored_name: str
    function: Function
    names: Callable[[], Mapping[str, Any]]
    identity: Identity
    raises: bool

    def compiled(self, dtype: str) -> MachineCode:
        """Compile for networks of a NumPy dtype, and save the code if the name's digest is known."""
        kind = CallRecord(from_dtype(np.dtype(dtype)))
        with global_compiler_lock:
            dispatcher = _jitted(self.name, self.function, self.names(), emission.new_target(), **INNER)
            dispatcher.compile((kind, numba.types.intp, numba.types.intp))
            flushes = self.name.startswith(FLUSHING)
            code = emission.emit_entry(dispatcher, f"{self.name}:{dtype}", flushes, self.raises)
        if self.identity.is_current():
            store.save(self.name, dtype, code)
        return code


FLUSHING = (
    *("train_chunk", "gradient", "update", "forward", "backward", "penalize"),
    *("lbfgs", "levenberg_marquardt"),
)
"""The templates that treat subnormal numbers as 0."""


TEMPLATE_FILES = (
    *("step_templates", "step_numbers", "slots", "row_templates", "weight_templates", "sparse_templates"),
    *("operation_templates", "input_templates", "output_templates", "pass_templates"),
    *("whole_steps", "whole_templates"),
)
"""The files of `fastmlp.kernels.program` with templates."""

TEMPLATES: dict[str, Function] = {
    name: value
    for module in (importlib.import_module(f"fastmlp.kernels.program.{file}") for file in TEMPLATE_FILES)
    for name, value in vars(module).items()
    if isinstance(value, types.FunctionType) and value.__module__ == module.__name__
} | {name: vars(whole_templates)[name] for name in ("combined", "inner", "part_of", "scaled")}


def functions_of(variant: Variant) -> dict[str, Function]:
    """Return the functions of the variant's programs by name."""
    check_slots(variant)
    return {**TEMPLATES, **variant.resolved()}


def check_slots(variant: Variant) -> None:
    """Raise ValueError for a slot that no program of the variant calls, TypeError for a non-function."""
    # With a misspelt slot the base's function would run instead, and nobody would notice.
    known = {**TEMPLATES, **(variant.base.resolved() if variant.base else {})}
    called = _called({**known, **variant.slots})
    for name, function in variant.slots.items():
        what = f"slot {name!r} of the variant {variant.name!r}"
        if not callable(function):
            raise TypeError(f"{what} must be a function, got {checks.shown(function)}")
        if name in called:
            continue
        if name in known:
            raise ValueError(f"the {what} would never run: what its base has in its place does not call it")
        choices = sorted(called & known.keys())
        close = difflib.get_close_matches(str(name), choices, 1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown {what}; {meant}choose from: {', '.join(choices)}")


def _called(functions: Mapping[str, Function]) -> set[str]:
    """Return the names of all functions called by training and prediction, directly or not."""
    # A function called by derivatives alone, or by steps of second order, changes no usual training.
    called = {name for name in ENTRY_POINTS if hasattr(step_templates, name)}
    seen: set[Any] = set()
    pending = [functions[name] for name in called]
    while pending:
        function = pending.pop()
        if isinstance(function, types.FunctionType) and function not in seen:
            seen.add(function)
            names = function.__code__.co_names
            called.update(names)
            pending += [_meant(name, function, functions) for name in names]
    return called


def slot(variant: Variant, name: str) -> Function:
    """Return a slot of the variant, for tests and timing, compiled by itself when first called."""
    functions = functions_of(variant)
    function = functions[name]
    if name in SLOT_FUNCTIONS:
        function, inner = called_from_python, {"called": _lazy_function(name, function, functions)}
    elif isinstance(function, types.FunctionType):
        inner = _inner(function, functions)
    else:
        return function
    key = ("slot", function, *sorted((name, id(f)) for name, f in inner.items()))
    if key not in _linked:
        _linked[key] = _jitted(function.__qualname__, function, inner, None)
    return _linked[key]


def called_from_python(*arguments: Any) -> Any:
    """Call a lazy function from Python; by itself, only compiled code can call a lazy function."""
    return called(*arguments)  # type: ignore[name-defined]  # noqa: F821  # bound by `slot`


def _link(function: Function, functions: Mapping[str, Function], inline: bool = False) -> Function:
    """Return `function` compiled, with the functions it names taken from `functions` first."""
    inner = _inner(function, functions)
    key = (function, inline, *sorted((name, id(f)) for name, f in inner.items()))
    if key not in _linked:
        options = {"inline": "always" if inline else "never", **INNER}
        identity = _identity(function, inner, **options)
        name = f"{function.__qualname__}.{identity.digest}"
        _linked[key] = _jitted(name, function, inner, emission.SHARED_TARGET, **options)
        identity.mark(_linked[key].py_func)
    return _linked[key]


def _lazy_function(name: str, function: Any, functions: Mapping[str, Function]) -> Function:
    """Return the intrinsic that calls `function` as the lazy function `name` of the program
    (`SLOT_FUNCTIONS`).

    A built-in function with a code is compiled for each code, as a constant. A function decorated by Numba
    calls the functions named in its file, and keeps its options.
    """
    plain = getattr(function, "py_func", function)
    decorated = plain is not function
    inner = {} if decorated else _inner(function, functions)
    key = ("lazy", function, *sorted((name, id(f)) for name, f in inner.items()))
    if key in _linked:
        return _linked[key]
    result, codes, constant = SLOT_FUNCTIONS[name]
    label = plain.__qualname__

    def of_code(code: int) -> tuple[Any, Identity]:
        assert constant is not None
        assert codes is not None
        coded = whole if decorated else _link(plain, functions, inline=_is_ours(plain))
        names, options = {"coded": coded, "CODE": code}, {**_settings(plain), **INNER}
        # In the next process the code may stand for another component, so our functions call lazy functions
        # by the key.
        digested = {"coded": coded} if _is_ours(plain) else names
        identity = _identity(constant, digested, codes[code].key, **options)
        name = f"{label}.{codes[code].key}.{identity.digest}"
        return _jitted(name, constant, names, emission.SHARED_TARGET, **options), identity

    options = {**INNER, **_options(function)}
    identity = _identity(plain, inner, str(result), codes is not None, constant, **options)
    whole = _jitted(f"{label}.{identity.digest}", plain, inner, emission.SHARED_TARGET, **options)
    identity.mark(whole.py_func)
    _linked[key] = lazy_function(whole, identity, result, codes, of_code, constant)
    return _linked[key]


# Of the ways to specialise a Numba function, only rebound globals under a name with a digest are found in the
# disk cache by a second process and are invalidated by an edit. Closures and functions passed as arguments
# are never found again, and rebound globals under an unchanged name are found with wrong code.
def _jitted(qualname: str, function: Function, names: Mapping[str, Any], target: Any, **options: Any) -> Any:
    """Return a copy of a function for Numba to compile, with other objects for its global names.

    target : of `emission`; None for Numba's, for functions called from Python
    """
    copy = types.FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__,
        function.__closure__,
    )  # fmt: skip
    copy.__module__ = function.__module__
    # Machine code on the disk has the names of its inner functions in it. A process may load programs
    # compiled by two other processes, so a name must mean the same code in all.
    copy.__qualname__ = qualname
    dispatcher = numba.njit(copy, **{**_settings(function), **options})
    if target is not None:
        emission.give_target(dispatcher, target)
    return dispatcher


def _identity(function: Function, names: Mapping[str, Any], *more: Any, **options: Any) -> Identity:
    """Return the identity of the copy's machine code; more : further objects the code depends on"""
    settings = {**_settings(function), **options}.items()
    return Identity(
        function, *sorted(names.items()), *((name, text_of_option(one)) for name, one in settings), *more
    )


def _settings(function: Function) -> dict[str, Any]:
    """Return Numba's options for a function."""
    return {"_nrt": function in ALLOCATING or not _is_ours(function), **OPTIONS}


def _is_ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith(OURS)


def _plain(function: Any) -> Any:
    """Return the Python function of a Numba dispatcher or intrinsic; other objects are returned unchanged."""
    return getattr(function, "py_func", getattr(function, "_defn", function))


def _options(function: Any) -> dict[str, Any]:
    """Return the options of Numba's decorator, if the function is decorated."""
    given = getattr(function, "targetoptions", {})
    return {name: value for name, value in given.items() if name != "nopython"}


_linked: dict[tuple[Any, ...], Any] = {}


def _inner(function: Function, functions: Mapping[str, Function]) -> dict[str, Function]:
    """Return the compiled functions named by `function`."""
    inner: dict[str, Function] = {}
    for name in names_of(function.__code__).read:
        value = _meant(name, function, functions)
        bound = name in functions and value is functions[name]
        if name in SLOT_FUNCTIONS and (bound or _is_ours(_plain(value))):
            inner[name] = _lazy_function(name, value, functions)
        elif isinstance(value, types.FunctionType):
            # A user's function may call ours by any name, and with a code that only run time knows.
            known = SLOT_FUNCTIONS.get(value.__name__)
            coded = (
                known is not None and known.codes is not None and _is_ours(value) and not _is_ours(function)
            )
            inner[name] = (
                _lazy_function(value.__name__, value, functions) if coded else _link(value, functions)
            )
        elif bound:
            inner[name] = value
    return inner


def _meant(name: str, function: Function, functions: Mapping[str, Function]) -> Any:
    """Return the object of a function's global name: the variant's, else the module's, else None."""
    named, bound = function.__globals__.get(name), functions.get(name)
    foreign = isinstance(_plain(named), types.FunctionType) and not _is_ours(_plain(named))
    if bound is not None and foreign and _is_ours(_plain(bound)):
        bound = None  # a user's function may have its own helper with the name of a slot
    return named if bound is None else bound
