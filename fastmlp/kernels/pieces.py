"""Functions that are compiled once, each by itself, and called by name from the programs that need them.

Numba links what a function calls into it, and optimises and assembles that again, in every function and
every program above it. A piece is machine code of its own, in memory and in the disk cache: the
programs of all variants share it, and what calls it holds its symbol only. A call costs some 10 ns.
"""

# mypy: ignore-errors

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.caching import CompileResultCacheImpl
from numba.extending import intrinsic

from fastmlp.kernels.cache import kept_on_disk
from fastmlp.kernels.sources import sources

OPTIONS = {"nogil": True, "error_model": "numpy"}

INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For what only compiled code calls: a sixth less to compile."""

PREFIX = "fastmlp:"
SYMBOL = re.compile(rf'declare [^\n]*@"({PREFIX}[^"]+)"')

_makers: dict[str, Callable[[tuple[Any, ...]], int]] = {}
"""By qualified name: what compiles or loads a piece for some argument types, and returns its address."""

_ready: dict[str, tuple[str, tuple[Any, ...]]] = {}
"""By symbol: the qualified name and the argument types of what the process has loaded."""


def piece(compiled: Any) -> Any:
    """Return what jitted code calls instead of `compiled`, the dispatcher of a uniquely named function."""
    if config.DISABLE_JIT:
        return compiled
    name = compiled.py_func.__qualname__

    def make(arguments):
        compiled.compile(arguments)
        made = compiled.overloads[arguments]
        return made.library.get_pointer_to_function(made.fndesc.llvm_func_name)

    _makers[name] = make

    def call(typing_context, *given):
        folded = compiled._compiler.fold_argument_types(given, {})[1]  # what *others takes becomes one
        arguments = tuple(map(types.unliteral, folded))
        symbol = _make_ready(name, arguments)
        made = compiled.overloads[arguments].fndesc

        def emit(context, builder, signature, values):
            convention = context.call_conv
            kind = convention.get_function_type(made.restype, made.argtypes)
            function = cgutils.get_or_insert_function(builder.module, kind, symbol)
            status, value = convention.call_function(builder, function, made.restype, made.argtypes, values)
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return value

        return made.restype(*arguments), emit

    # Numba matches arguments by the names of the function's parameters.
    own = list(inspect.signature(compiled.py_func).parameters.values())
    context = inspect.Parameter("typing_context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    call.__signature__ = inspect.Signature([context, *own])
    call.__qualname__ = name
    return intrinsic(call)


def apart(function: Any) -> Any:
    """Make a piece of a function that no variant overrides, and that makes no arrays."""
    function.__qualname__ = f"{function.__qualname__}.{sources()}"
    return piece(kept(njit(_nrt=False, **OPTIONS, **INNER)(function)))


def emitted(name: str, emit: Callable[[ir.Module, Any], ir.Function]) -> Callable[[Any], str]:
    """Make a piece of code that is written in LLVM's language: return what gives its symbol for a dtype.

    emit : emit(module, dtype) defines the function in the module and returns it
    """

    @intrinsic
    def address(typing_context, like):
        def place(context, builder, signature, values):
            return builder.ptrtoint(emit(builder.module, like), ir.IntType(64))

        return types.int64(like), place

    def carry(like):
        return address(like)

    name = carry.__qualname__ = f"{name}.{sources()}"
    carrier = kept(njit(_nrt=False, **OPTIONS)(carry))
    _makers[name] = lambda arguments: carrier(np.dtype(str(arguments[0])).type(0))
    return lambda dtype: _make_ready(name, (dtype,))


def kept(compiled: Any) -> Any:
    """As `kept_on_disk`, for functions that may call pieces."""
    return compiled if config.DISABLE_JIT else kept_on_disk(compiled, WithPieces)


def _make_ready(name: str, arguments: tuple[Any, ...]) -> str:
    """Compile or load a piece for some argument types; return the symbol that code finds it by."""
    symbol = f"{PREFIX}{name}({', '.join(map(str, arguments))})"
    if symbol not in _ready:
        binding.add_symbol(symbol, _makers[name](arguments))
        _ready[symbol] = name, arguments
    return symbol


class WithPieces(CompileResultCacheImpl):
    """Numba's form of a function on the disk, with the pieces that its machine code will look for."""

    def reduce(self, result: Any) -> Any:
        """Return what can be pickled."""
        symbols = set(SYMBOL.findall(result.library.get_llvm_str()))
        return [_ready[symbol] for symbol in sorted(symbols)], super().reduce(result)

    def rebuild(self, target: Any, reduced: Any) -> Any:
        """Return the function, its pieces loaded first."""
        needed, rest = reduced
        for name, arguments in needed:
            _make_ready(name, arguments)
        return super().rebuild(target, rest)
