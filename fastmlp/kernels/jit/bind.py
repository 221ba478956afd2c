"""Joins the program's templates with a variant's slots, and has Numba compile the result.

A template is copied with its globals rebound to the variant's functions. Most slots are lazy functions, found
in the same way by all programs that share the function. The other functions are compiled into their callers.
A function is named by its slot and by the variant that made the function what it is: the first variant, from
the base on, with the same functions within its reach.
"""

from __future__ import annotations

import difflib
import importlib
import itertools
import sys
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numba.np.numpy_support import from_dtype

from fastmlp import checks
from fastmlp.kernels.codes import FILE_CODES, FILES
from fastmlp.kernels.jit import emission, lazy, store
from fastmlp.kernels.jit.engine import compilers
from fastmlp.kernels.jit.entries import ENTRY_POINTS, home_of, name_of
from fastmlp.kernels.jit.lazy import INNER, OPTIONS, lazy_function
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
        self._scope = scope_of(variant)
        self._raises = not all(map(_is_ours, map(_plain, self._scope.functions.values())))

    def source(self, program: str | SpecializedProgram) -> EntrySource:
        """Return the source of an entry point: of a template, or of a single network's program."""
        name = name_of(program, self._scope.homes[-1])
        if isinstance(program, str):
            function = self._scope.functions[program]
            return EntrySource(name, function, _inner(function, self._scope), self._raises)
        function, names = located(program.template), located(program.names)
        inner = _inner(function, Scope(TEMPLATES, self._scope.homes))
        return EntrySource(name, function, {**inner, **names(program.constants)}, False)

    def link(self) -> None:
        """Make all lazy functions of the variant."""
        home = self._scope.homes[-1]
        if home not in _complete:
            for template in ENTRY_POINTS:
                _inner(self._scope.functions[template], self._scope)
            if store.UNKEPT not in home:
                _complete.add(home)


_complete: set[str] = set()
"""The homes of the package's variants whose lazy functions are all made."""


def located(where: str) -> Any:
    """Return the object named by "module:name"."""
    module, name = where.split(":")
    return getattr(importlib.import_module(module), name)


class EntrySource(NamedTuple):
    """The source of an entry point, for compilation. names : the template's globals by name"""

    name: str
    function: Function
    names: Mapping[str, Any]
    raises: bool

    def compiled(self, dtype: str) -> MachineCode:
        """Compile for networks of a NumPy dtype, and save the code if a file may hold it."""
        kind = CallRecord(from_dtype(np.dtype(dtype)))
        with global_compiler_lock:
            dispatcher = _jitted(self.name, self.function, self.names, emission.new_target(), **INNER)
            dispatcher.compile((kind, numba.types.intp, numba.types.intp))
            flushes = self.name.startswith(FLUSHING)
            code = emission.emit_entry(dispatcher, f"{self.name}:{dtype}", flushes, self.raises)
        store.save(self.name, dtype, code)
        return code


def compiled_function(name: str, types_of_arguments: tuple[str, ...], key: str) -> MachineCode:
    """Compile a lazy function, as `lazy.compiled_function`; the name's home makes the function first."""
    if name not in lazy.makers:
        home = importlib.import_module(f"fastmlp.{lazy.home_of(name)}")
        if name not in lazy.makers:
            Program(home.VARIANT).link()
    return lazy.compiled_function(name, types_of_arguments, key)


compilers.append(sys.modules[__name__])

FLUSHING = (
    *("train_chunk", "gradient", "update", "forward", "backward", "penalize"),
    *("lbfgs", "levenberg_marquardt"),
)
"""The templates that treat subnormal numbers as 0."""


TEMPLATE_FILES = (
    *("step_templates", "step_numbers", "slots", "row_templates", "weight_templates", "sparse_templates"),
    *("output_templates", "pass_templates", "whole_steps", "whole_templates"),
)
"""The files of `fastmlp.kernels.program` with templates."""

TEMPLATES: dict[str, Function] = {
    name: value
    for module in (importlib.import_module(f"fastmlp.kernels.program.{file}") for file in TEMPLATE_FILES)
    for name, value in vars(module).items()
    if isinstance(value, types.FunctionType) and value.__module__ == module.__name__
} | {name: vars(whole_templates)[name] for name in ("combined", "inner", "part_of", "scaled")}


def _functions_of_files(slot: str) -> dict[str, Function]:
    """Return by file the functions of operations that a slot calls; a file without one is left out."""
    name = slot.removeprefix("operation_")
    modules = {file: importlib.import_module(f"fastmlp.kernels.program.operations.{file}") for file in FILES}
    return {file: vars(module)[name] for file, module in modules.items() if name in vars(module)}


OPERATION_SLOTS = {
    name: _functions_of_files(name) for name, entry in SLOT_FUNCTIONS.items() if entry.codes is FILE_CODES
}
"""The functions of operations, by slot and by file."""


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
            pending += _of_files(function).values()
    return called


class Scope(NamedTuple):
    """The functions that the names in a template mean.

    functions : of a variant, with those of its bases, by name
    homes : the ends of names of functions, of the variant's bases and of the variant
    """

    functions: Mapping[str, Function]
    homes: tuple[str, ...]


def scope_of(variant: Variant) -> Scope:
    """Return the scope of a variant, after the bases' lazy functions are made."""
    functions, base = functions_of(variant), variant.base
    if base is None:
        return Scope(functions, (_home_of(variant),))
    if not variant.slots:
        return scope_of(base)
    # A function that the base has is found there, so its name is the same in every process.
    Program(base).link()
    return Scope(functions, (*scope_of(base).homes, _home_of(variant)))


def _home_of(variant: Variant) -> str:
    """Return the end of names of a variant's functions, with a mark if these are not the package's."""
    home = home_of(variant.name)
    module = sys.modules.get(f"fastmlp.{home}")
    own = module.VARIANT if module is not None else Variant("")
    # Of a variant that differs in its choice of threads alone the machine code is the same.
    is_own = (variant.name, variant.base, variant.slots) == (own.name, own.base, own.slots)
    return home if is_own else f"{variant.name}{store.UNKEPT}"


def slot(variant: Variant, name: str) -> Function:
    """Return a slot of the variant, for tests and timing, compiled by itself when first called."""
    scope = scope_of(variant)
    function = scope.functions[name]
    if name in SLOT_FUNCTIONS:
        function, inner = called_from_python, {"called": _lazy_function(name, function, scope)}
    elif isinstance(function, types.FunctionType):
        inner = _inner(function, scope)
    else:
        return function
    key = ("slot", function, *_identities(inner))
    if key not in _linked:
        _linked[key] = _jitted(function.__qualname__, function, inner, None)
    return _linked[key]


if TYPE_CHECKING:

    def called(*arguments: Any) -> Any:
        """Call the lazy function that `slot` binds."""


def called_from_python(*arguments: Any) -> Any:
    """Call a lazy function from Python; by itself, only compiled code can call a lazy function."""
    return called(*arguments)


_linked: dict[tuple[Any, ...], Any] = {}
"""Functions for compiled code, by the home, the function, and what the function calls."""

_numbers = itertools.count()
"""The numbers in the names of functions that no file may hold."""


def _linked_before(key: tuple[Any, ...], scope: Scope) -> Any:
    """Return a function made for a base of the variant, or for the variant; None if there is none."""
    return next((_linked[home, *key] for home in scope.homes if (home, *key) in _linked), None)


def _named(label: str, scope: Scope) -> str:
    """Return the name of a new function of the variant."""
    name = f"{label}-{scope.homes[-1]}"
    return f"{name}{next(_numbers)}" if store.UNKEPT in name else name


def _identities(inner: Mapping[str, Function]) -> list[tuple[str, int]]:
    """Return what tells functions of a text from each other: the functions called by each name."""
    return sorted((name, id(function)) for name, function in inner.items())


def _link(function: Function, scope: Scope, inline: bool = False) -> Function:
    """Return `function` compiled, with the functions it names taken from the scope first."""
    inner = _inner(function, scope)
    key = function, inline, *_identities(inner)
    made = _linked_before(key, scope)
    if made is None:
        name = _named(f"{function.__module__}.{function.__qualname__}{'.inline' * inline}", scope)
        options = {"inline": "always" if inline else "never", **INNER}
        made = _jitted(name, function, inner, emission.SHARED_TARGET, **options)
        _linked[scope.homes[-1], *key] = made
    return made


def _of_files(function: Any) -> Mapping[str, Function]:
    """Return the functions of the files of operations that a slot of operations calls, by file."""
    name = getattr(function, "__name__", "")
    return OPERATION_SLOTS[name] if name in OPERATION_SLOTS and function is TEMPLATES[name] else {}


def _lazy_function(name: str, function: Any, scope: Scope) -> Function:
    """Return the intrinsic that calls `function` as the lazy function `name` of the program
    (`SLOT_FUNCTIONS`).

    A built-in function with a code is compiled for each code, as a constant; a slot of operations is the
    function of each file. A function decorated by Numba calls the functions named in its file, and keeps its
    options.
    """
    plain = getattr(function, "py_func", function)
    decorated = plain is not function
    inner = {} if decorated else _inner(function, scope)
    of_files = _of_files(function)
    linked = {file: _link(one, scope) for file, one in of_files.items()}
    key = name, function, *_identities(inner), *_identities(linked)
    made = _linked_before(key, scope)
    if made is None:
        result, codes, constant = SLOT_FUNCTIONS[name]

        def of_code(code: int) -> Any:
            assert constant is not None
            assert codes is not None
            # In the next process the code may stand for another component, so our functions call lazy
            # functions by the key.
            of_key, options = _named(f"{name}.{codes[code].key}", scope), {**_settings(plain), **INNER}
            if (of_file := of_files.get(codes[code].key)) is not None:
                return _jitted(of_key, of_file, _inner(of_file, scope), emission.SHARED_TARGET, **options)
            coded = whole if decorated else _link(plain, scope, inline=_is_ours(plain))
            names = {"coded": coded, "CODE": code}
            return _jitted(of_key, constant, names, emission.SHARED_TARGET, **options)

        options = {**INNER, **_options(function)}
        whole = _jitted(_named(name, scope), plain, inner, emission.SHARED_TARGET, **options)
        made = _linked[scope.homes[-1], *key] = lazy_function(whole, result, codes, of_code, constant)
    return made


# Of the ways to specialise a Numba function, only rebound globals under a name of their own are found on the
# disk by a second process. Closures and functions passed as arguments are never found again, and rebound
# globals under an unchanged name are found with wrong code.
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
    # compiled by two other processes, so a name means the same code in all.
    copy.__qualname__ = qualname
    dispatcher = numba.njit(copy, **{**_settings(function), **options})
    if target is not None:
        emission.give_target(dispatcher, target)
    return dispatcher


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
    options = getattr(function, "targetoptions", {})
    return {name: value for name, value in options.items() if name != "nopython"}


def _inner(function: Function, scope: Scope) -> dict[str, Function]:
    """Return the compiled functions named by `function`."""
    inner: dict[str, Function] = {}
    for name in names_of(function.__code__):
        value = _meant(name, function, scope.functions)
        bound = name in scope.functions and value is scope.functions[name]
        if name in SLOT_FUNCTIONS and (bound or _is_ours(_plain(value))):
            inner[name] = _lazy_function(name, value, scope)
        elif isinstance(value, types.FunctionType):
            # A user's function may call ours by any name, and with a code that only run time knows.
            known = SLOT_FUNCTIONS.get(value.__name__)
            coded = (
                known is not None and known.codes is not None and _is_ours(value) and not _is_ours(function)
            )
            inner[name] = _lazy_function(value.__name__, value, scope) if coded else _link(value, scope)
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
