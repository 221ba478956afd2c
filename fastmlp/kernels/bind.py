"""Joins the program's templates with a variant's slots, and has Numba compile the result.

A template is copied with its globals rebound to the variant's functions, under a qualified name
that carries a digest of them and of all sources. Of the ways to specialise a Numba function
this is the one that a second process finds in the disk cache, and that an edit invalidates:
closures and functions passed as arguments are never found again, and rebound globals under an
unchanged name are found with the wrong code. Most slots are pieces, found in the same way by all
programs that have them in common; the rest is compiled into what calls it.
"""

from __future__ import annotations

import dis
import functools
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import event
from numba.core.serialize import dumps

from fastmlp.kernels import program
from fastmlp.kernels.cache import kept_on_disk, why_not_kept
from fastmlp.kernels.pieces import INNER, OPTIONS, piece
from fastmlp.kernels.program import PIECES
from fastmlp.kernels.sources import digest_of, sources
from fastmlp.kernels.variant import ALLOCATING, Bound, Variant

Function = Callable[..., Any]

OURS = "fastmlp.kernels."


ENTRY_POINTS = ("train_chunk", "gradient", "update", "predict", "evaluate")
"""The templates that are called from Python; their signatures stand in `fastmlp.kernels.program`."""


class Program:
    """A variant's entry points as attributes, each bound when first asked for: a fit needs one or two."""

    def __init__(self, variant: Variant) -> None:
        self._functions = {**TEMPLATES, **variant.resolved()}
        self._variant, self._digest = variant.name, _digest(variant)
        self.bound = functools.lru_cache(MOST_BOUND)(self._bound)

    def __getattr__(self, name: str) -> Function:
        if name not in ENTRY_POINTS:
            raise AttributeError(name)
        function = self._functions[name]
        inner = _inner(function, self._functions)
        digest = digest_of([self._digest.encode(), _content(function, inner).encode()])
        # Variants that differ in nothing that an entry point calls have one between them.
        qualname = f"{name}_{digest}"
        if qualname not in _shared:
            _shared[qualname] = _entry(qualname, self._variant, function, inner)
        setattr(self, name, _shared[qualname])
        return _shared[qualname]

    def _bound(self, bound: Bound) -> Function:
        """Return the entry point of one network.

        Its name has a digest of the constants in it: Numba's cache sees code and names only.
        """
        names = {**_inner(bound.template, TEMPLATES), **bound.names(bound.constants)}
        digest = digest_of([self._digest.encode(), repr(bound.constants).encode()])
        name = f"train_chunk@{'-'.join(map(str, bound.sizes))}_{digest}"
        return _entry(name, self._variant, bound.template, names)


MOST_BOUND = 64
"""Networks whose own entry points a process keeps."""

ENTRY_NAME = re.compile(rf"({'|'.join(ENTRY_POINTS)})(@(?P<network>[\d-]+))?_[0-9a-f]{{16}}")
"""The qualified name of a compiled entry point."""

_shared: dict[str, Function] = {}
_first_variant: dict[str, str] = {}
"""By qualified name: entry points that this process has made, and the variant that asked for one first."""


def _entry(qualname: str, variant: str, function: Function, names: Mapping[str, Function]) -> Function:
    copy = _rebound(function, names)
    copy.__qualname__ = qualname
    _first_variant[qualname] = variant
    return kept_on_disk(_jitted(copy, function, no_cfunc_wrapper=True))


TEMPLATES: dict[str, Function] = {
    name: value
    for name, value in vars(program).items()
    if isinstance(value, types.FunctionType) and value.__module__ == program.__name__
}


def slot(variant: Variant, name: str) -> Function:
    """Return one slot of the variant, compiled by itself when first called; for tests and timing."""
    functions = {**TEMPLATES, **variant.resolved()}
    function = functions[name]
    if not isinstance(function, types.FunctionType):
        return function
    inner = _inner(function, functions)
    template: Any = function
    names = inner
    if _takes_code(name):
        template, names = call_coded, {"coded": _piece(name, function, functions)}
    key = ("slot", function, *sorted((name, id(f)) for name, f in inner.items()))
    if key not in _linked:
        _linked[key] = _jitted(_rebound(template, names), function)
    return _linked[key]


def call_coded(code, *others):  # type: ignore[no-untyped-def]
    """Call a slot whose first argument is a code."""
    return coded(code, *others)  # type: ignore[name-defined]  # noqa: F821


def _link(function: Function, functions: Mapping[str, Function], inline: bool = False) -> Function:
    """Return `function` compiled, with every function that it names taken from `functions` first.

    What needs none of a variant's own functions is shared between variants, so that one process
    compiles it once.
    """
    inner = _inner(function, functions)
    key = (function, inline, *sorted((name, id(f)) for name, f in inner.items()))
    if key not in _linked:
        copy = _rebound(function, inner)
        copy.__qualname__ = f"{function.__qualname__}.{_content(function, inner)}"
        _linked[key] = _jitted(copy, function, inline="always" if inline else "never", **INNER)
    return _linked[key]


def _piece(name: str, function: Any, functions: Mapping[str, Function]) -> Function:
    """Return what calls `function` as the piece `name` of the program (`fastmlp.kernels.program.PIECES`).

    A function of ours that takes a code is compiled for each with the code as a constant, and without the
    branches of the others. One that Numba's decorator has been over already calls what its own file says,
    and keeps its options.
    """
    plain = getattr(function, "py_func", function)
    decorated = plain is not function
    inner = {} if decorated else _inner(function, functions)
    key = ("piece", function, *sorted((name, id(f)) for name, f in inner.items()))
    if key in _linked:
        return _linked[key]
    result, codes, constant = PIECES[name]
    content = _content(function, inner)

    def jitted(template: Any, names: Mapping[str, Any], qualname: str, **options: Any) -> Any:
        copy = _rebound(template, names)
        copy.__qualname__ = qualname
        return _jitted(copy, plain, **INNER, **options)

    def of_code(code: int) -> Any:
        assert codes is not None
        coded = whole if decorated else _link(plain, functions, inline=_is_ours(plain))
        names = {"coded": coded, "CODE": code}
        return kept_on_disk(jitted(constant, names, f"{plain.__qualname__}.{codes[code].key}.{content}"))

    whole = kept_on_disk(jitted(plain, inner, f"{plain.__qualname__}.{content}", **_options(function)))
    _linked[key] = piece(whole, result, of_code if codes else None, constant)
    return _linked[key]


def _jitted(copy: Function, function: Function, **options: Any) -> Function:
    """Return a copy of `function` as Numba compiles it."""
    allocates = function in ALLOCATING or not _is_ours(function)
    return numba.njit(copy, **{"_nrt": allocates, **OPTIONS, **options})


def _is_ours(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith(OURS)


def _content(function: Any, inner: Mapping[str, Function], above: tuple[Any, ...] = ()) -> str:
    """Return a digest of a function's code and of all that it calls, but for those `above` that call it.

    Machine code from the disk cache carries its inner functions' names. Programs that two processes
    compiled meet in a third, and there one name must mean one code, or one program runs the other's.
    So in one process, where functions of one text may differ in their defaults and in what they name.
    """
    plain, options = _plain(function), _options(function)
    names = [f"{name}={_full_name(value)}" for name, value in inner.items()]
    values = [plain.__defaults__, *(cell.cell_contents for cell in plain.__closure__ or ())]
    for name in sorted({*plain.__code__.co_names} & plain.__globals__.keys() - inner.keys()):
        value = plain.__globals__[name]
        if isinstance(value, CONSTANTS):
            values.append((name, value))
        elif _plain(value) is not value and value not in (function, *above):
            names.append(f"{name}={_full_name(value, (function, *above))}")
    own = [sources(Path(plain.__code__.co_filename)), repr(sorted(options.items())), *sorted(names)]
    return digest_of([*map(str.encode, own), *_text(plain.__code__), dumps(values)])


CONSTANTS = (bool, int, float, complex, str, tuple, np.generic, np.ndarray)
"""What a compiled function takes from its module as it is."""


def _text(code: types.CodeType) -> Iterator[bytes]:
    """Yield what tells a function's code from another's, and is the same in every process."""
    yield code.co_code
    yield repr(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _text(constant)
        else:
            yield repr(constant).encode()


def _full_name(function: Any, above: tuple[Any, ...] = ()) -> str:
    plain = _plain(function)
    name = f"{plain.__module__}.{getattr(plain, '__qualname__', repr(plain))}"
    decorated = plain is not function and not _is_ours(plain) and not DIGESTED.fullmatch(name)
    return f"{name}.{_content(function, {}, above)}" if decorated else name


def _plain(function: Any) -> Any:
    """Return what a dispatcher or an intrinsic of Numba's was made of; anything else as it is."""
    return getattr(function, "py_func", getattr(function, "_defn", function))


def _options(function: Any) -> dict[str, Any]:
    """Return what Numba's decorator was told, if it has been over a function."""
    given = getattr(function, "targetoptions", {})
    return {k: sorted(v) if isinstance(v, set) else v for k, v in given.items() if k != "nopython"}


DIGESTED = re.compile(r".*\.[0-9a-f]{16}")
"""The name of what is compiled here, and has its content in it."""

_linked: dict[tuple[Any, ...], Function] = {}


def _inner(function: Function, functions: Mapping[str, Function]) -> dict[str, Function]:
    """Return the compiled functions that `function` names."""
    inner: dict[str, Function] = {}
    for instruction in dis.get_instructions(function.__code__):
        name = str(instruction.argval)
        if instruction.opname != "LOAD_GLOBAL":
            continue
        own, bound = function.__globals__.get(name), functions.get(name)
        if bound is not None and _is_ours(_plain(bound)) and _is_foreign(own):
            bound = None  # a user's function has a helper of such a name
        value: Any = own if bound is None else bound
        if name in PIECES and (bound is not None or _is_ours(_plain(value))):
            inner[name] = _piece(name, value, functions)
        elif isinstance(value, types.FunctionType):
            # One of ours that a user calls, by any name: the code may be known when it runs, and not before.
            coded = _is_ours(value) and _takes_code(value.__name__) and not _is_ours(function)
            inner[name] = _piece(value.__name__, value, functions) if coded else _link(value, functions)
        elif bound is not None:
            inner[name] = bound
    return inner


def _takes_code(name: str) -> bool:
    """Return whether a slot's first argument is a code, and each has machine code of its own."""
    return name in PIECES and PIECES[name].codes is not None


def _is_foreign(value: Any) -> bool:
    """Return whether it is a function, jitted or not, that is not ours."""
    plain = _plain(value)
    return isinstance(plain, types.FunctionType) and not _is_ours(plain)


def _rebound(function: Function, names: Mapping[str, Function]) -> types.FunctionType:
    scope = {**function.__globals__, **names}
    copy = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__module__ = function.__module__
    copy.__qualname__ = function.__qualname__
    return copy


def _digest(variant: Variant) -> str:
    """Return a digest of every source that a variant's machine code depends on."""
    plain = (getattr(f, "py_func", f) for f in variant.resolved().values())
    return sources(*{Path(f.__code__.co_filename) for f in plain if isinstance(f, types.FunctionType)})


class _Announcer(event.Listener):  # type: ignore[misc]  # numba is untyped
    """Says on stderr, once for each program and dtype, that it compiles."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def on_start(self, ev: Any) -> None:
        """Speak if what compiles is an entry point."""
        qualname = ev.data["dispatcher"].py_func.__qualname__
        entry = ENTRY_NAME.fullmatch(qualname)
        if entry is None:
            return
        variant, network = _first_variant[qualname], entry["network"]
        dtypes = (getattr(a, "dtype", None) for a in ev.data["args"])
        dtype = next(str(dtype) for dtype in dtypes if isinstance(dtype, numba.types.Float))
        what = f"the {variant!r} backend for {dtype}"
        once = "once each for training, prediction and validation"
        key = what
        if network is not None:
            what, once = f"{what} and a {network} network", "once for this network"
            key = f"{entry[0]} {dtype}"
        if key not in self._said:
            self._said.add(key)
            print(
                f"fastmlp: compiling {what}; {self._how_often(ev.data['dispatcher'], once)}",
                file=sys.stderr,
                flush=True,
            )

    @staticmethod
    def _how_often(entry: Any, once: str) -> str:
        reason = why_not_kept(entry)
        if reason is None:
            return f"this happens {once}, later runs load it from the disk cache"
        return f"later runs will compile again, for {reason}"

    def on_end(self, ev: Any) -> None:
        """Nothing to say."""


event.register("numba:compile", _Announcer())
