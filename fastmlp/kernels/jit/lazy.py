"""Functions that are compiled when they are first called, each by itself, and that all programs share.

Numba links what a function calls into it, and optimises and assembles that again, in every function and
every program above it, whether a network needs it or not. Here a program holds a stub, as one that a
dynamic linker binds lazily does: at its first call it asks for the address of machine code of that piece
alone, which is loaded from the disk cache or compiled, and from then on it jumps there.
"""

# mypy: ignore-errors

from __future__ import annotations

import ctypes
import functools
import inspect
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from llvmlite import binding, ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.caching import CacheImpl
from numba.core.callconv import RETCODE_NONE, RETCODE_OK
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_jitable

from fastmlp.kernels.codegen.subnormals import arithmetic, normal_arithmetic
from fastmlp.kernels.codes import MOST_CODES, Codes
from fastmlp.kernels.jit.cache import cache_of, kept_on_disk
from fastmlp.kernels.jit.digest import Reach, marked, text_of
from fastmlp.system import forks
from fastmlp.system.compiling import compiling

OPTIONS = {"nogil": True, "error_model": "numpy"}

INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""For what only compiled code calls: a sixth less to compile."""

helper = register_jitable(_nrt=False, **OPTIONS, **INNER)
"""Makes of a short function one that jitted code may call as well as Python."""

forks.wait_for(global_compiler_lock)

INT, STATUS, POINTER = ir.IntType(64), ir.IntType(32), ir.PointerType()
RESOLVE = "fastmlp:resolve"

_makers: dict[str, Callable[[tuple[Any, ...], int], tuple[Any, str]]] = {}
"""By name: what compiles or loads a piece for some argument types and code; it returns Numba's library of
machine code, and the symbol in there."""

_codes: dict[str, Codes] = {}
"""By name: what the codes of a piece stand for, if it takes one."""

_found: dict[tuple[str, tuple[Any, ...], int], tuple[int, Any]] = {}
"""What the process has compiled or loaded: an address, and the library, lest the code be freed."""


def _resolve(wanted, length, code):
    """Return the address of the piece whose name and argument types are pickled at `wanted`.

    And the key of what its code stands for, where that was known when the call was written: the code itself
    may be another in this process.
    """
    name, arguments, *key = pickle.loads(ctypes.string_at(wanted, length))
    return address_of(name, arguments, _codes[name].code_of_key(*key) if key else code)


# The function itself, which compiled code calls as CPython's own C code would. A callback of ctypes returns
# an arbitrary address where an error arises outside of what its text can guard: Ctrl-C on entering it.
binding.add_symbol(RESOLVE, id(_resolve))


def address_of(name: str, arguments: tuple[Any, ...], code: int) -> int:
    """Return where the machine code of a piece is, for some types of its arguments; compile or load it first.

    code : its code, 0 if it has none
    """
    key = name, arguments, code
    if key not in _found:
        with global_compiler_lock:
            if key not in _found:
                with compiling():
                    library, symbol = _makers[name](arguments, code)
                    _found[key] = library.get_pointer_to_function(symbol), library
    return _found[key][0]


def piece(
    compiled: Any,
    reach: Reach,
    result: Any = types.none,
    codes: Codes | None = None,
    of_code: Any = None,
    others: Any = None,
) -> Any:
    """Return what jitted code calls instead of `compiled`, the dispatcher of a uniquely named function.

    reach : what the piece is made of
    result : what it returns, one of Numba's types
    codes : of which its first argument is one, if each has machine code of its own
    of_code : of_code(code), the dispatcher for a code; ValueError if there is no such code
    others : a function that takes what these take
    """
    if config.DISABLE_JIT:
        return compiled
    name, many = compiled.py_func.__qualname__, 0 if codes is None else MOST_CODES
    if codes is not None:
        _codes[name] = codes

    def make(arguments, code):
        chosen = of_code(code) if many else compiled
        chosen.compile(arguments if result == types.none else result(*arguments))
        made = chosen.overloads[arguments]
        if made.signature.return_type != result:
            slot = compiled.py_func.__name__
            raise TypeError(f"{slot} must return nothing, returns {made.signature.return_type}")
        return made.library, made.fndesc.llvm_func_name

    _makers[name] = make

    def call(typing_context, *given):
        if codes is None:
            arguments = compiled._compiler.fold_argument_types(given, {})[1]  # *others becomes one
            return result(*map(types.unliteral, arguments)), calling(name, 0)
        code, others = given[0], map(types.unliteral, given[1:])
        if isinstance(code, types.IntegerLiteral):
            # With the literal: Numba finds code generators by the types of arguments.
            return result(code, *others), calling(name, many, codes[code.literal_value].key)
        return result(types.intp, *others), calling(name, many)

    # Numba matches arguments by the names of the function's parameters.
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = [inspect.Parameter(name, positional) for name in ("typing_context", "code")[: 1 + (many > 0)]]
    own = inspect.signature(others or compiled.py_func).parameters.values()
    call.__signature__ = inspect.Signature([*first, *own])
    call.__qualname__ = name
    marked(call, reach)
    return intrinsic(prefer_literal=codes is not None)(call)


def calling(name: str, codes: int, key: str | None = None) -> Callable[..., Any]:
    """Return what emits a call of a piece, as an intrinsic's code generator.

    codes : how many its first argument may be, 0 if it takes none
    key : of what the code stands for, where that is a constant
    """

    def emit(context, builder, signature, values):
        stub = _stub(context, builder.module, name, codes, signature, key)
        result = signature.return_type
        place = cgutils.alloca_once(builder, context.get_value_type(result))
        taken = context.get_arg_packer(signature.args).as_arguments(builder, values)
        # As `call_conv.call_function`, by half of its instructions: errors go where the caller's own would.
        excinfo = builder.function.args[1]
        code = builder.call(stub, [place, builder.bitcast(excinfo, stub.args[1].type), *taken])
        good = [builder.icmp_signed("==", code, right) for right in (RETCODE_OK, RETCODE_NONE)]
        with cgutils.if_unlikely(builder, builder.not_(builder.or_(*good))):
            if excinfo.type.is_opaque:  # `emitted` code, which has no `try`
                builder.ret(code)
            else:
                status = SimpleNamespace(code=code, excinfoptr=builder.load(excinfo))
                context.call_conv.return_status_propagate(builder, status)
        return builder.load(place)

    return emit


def _stub(context, module, name, codes, signature, key):
    """The function of a module that a piece is called by."""
    convention = context.call_conv
    result, arguments = signature.return_type, signature.args[codes > 0 :]
    symbol = f"fastmlp:{name}{[key] if key else ''}({', '.join(map(str, arguments))})"
    if symbol in module.globals:
        return module.globals[symbol]
    stub = ir.Function(module, convention.get_function_type(result, signature.args), symbol)
    stub.linkage = "linkonce_odr"
    stub.attributes.add("noinline")
    wanted = cgutils.global_constant(
        module,
        f"{symbol}.wanted",
        cgutils.make_bytearray(pickle.dumps((name, arguments, *filter(None, [key])))),
    )
    count = max(codes, 1) if key is None else 1
    cells = cgutils.add_global_variable(module, ir.ArrayType(INT, count), f"{symbol}.cells")
    cells.linkage, cells.initializer = "internal", ir.Constant(cells.value_type, None)
    into, excinfo, *values = stub.args
    code = values.pop(0) if codes else INT(0)
    code = code if key is None else INT(0)
    entry, first, failed, found = map(stub.append_basic_block, ("entry", "first", "failed", "found"))

    builder = ir.IRBuilder(entry)
    valid = builder.icmp_unsigned("<", code, INT(cells.value_type.count))
    cell = builder.gep(cells, [INT(0), builder.select(valid, code, INT(0))])
    known = builder.select(valid, builder.load_atomic(cell, "monotonic", 8), INT(0))
    builder.cbranch(builder.icmp_unsigned("==", known, INT(0)), first, found)

    builder.position_at_end(first)
    given = [builder.ptrtoint(wanted, INT), INT(wanted.value_type.count), code]
    made = builder.call(_finder(context, module), [cell, *given])
    builder.cbranch(builder.icmp_unsigned("==", made, INT(0)), failed, found)

    builder.position_at_end(failed)
    convention.return_exc(builder)

    builder.position_at_end(found)
    place = builder.phi(INT)
    place.add_incoming(known, entry)
    place.add_incoming(made, first)
    target = convention.get_function_type(result, arguments)
    place = builder.inttoptr(place, target.as_pointer())
    builder.ret(builder.call(place, [into, excinfo, *values]))
    return stub


def _finder(context, module):
    """The function of a module that calls `_resolve`, and keeps the address in a cell.

    It takes the cell, and what `_resolve` takes; it returns the address, or 0 where Python's error is set.
    """
    name = "fastmlp:find"
    if name in module.globals:
        return module.globals[name]
    finder = ir.Function(module, ir.FunctionType(INT, [INT.as_pointer(), INT, INT, INT]), name)
    finder.linkage = "linkonce_odr"
    finder.attributes.add("noinline")
    cell, *given = finder.args
    builder = ir.IRBuilder(finder.append_basic_block("entry"))
    api = context.get_python_api(builder)
    place = cgutils.alloca_once_value(builder, INT(0))
    before = normal_arithmetic(builder)
    gil = api.gil_ensure()
    resolver = ir.GlobalVariable(module, ir.IntType(8), RESOLVE)
    call = cgutils.get_or_insert_function(
        module, ir.FunctionType(POINTER, [POINTER, POINTER], var_arg=True), "PyObject_CallFunction"
    )
    made = builder.call(call, [resolver, context.insert_const_string(module, "LLL"), *given])
    with cgutils.if_likely(builder, cgutils.is_not_null(builder, made)):
        builder.store(api.long_as_longlong(made), place)
        api.decref(made)
    api.gil_release(gil)
    address = builder.load(place)
    # Whoever has no address will not come to where a program puts back what it found.
    with cgutils.if_likely(builder, builder.icmp_unsigned("!=", address, INT(0))):
        arithmetic(builder, before)
        builder.store_atomic(address, cell, "monotonic", 8)
    builder.ret(address)
    return finder


@functools.cache
def how() -> str:
    """Return what the machine code of a piece depends on beside what it is made of: how it is called."""
    return text_of(__name__, normal_arithmetic.__module__)


def apart(function: Any) -> Any:
    """Make a piece of a function that no variant overrides, and that makes no arrays.

    It stands below all that the function names: what is defined later would not be in its digest.
    """
    options = {"_nrt": False, **OPTIONS, **INNER}
    reach = Reach(function, options, how())
    function.__qualname__ = f"{function.__qualname__}.{reach.digest}"
    return piece(kept_on_disk(njit(**options)(function), reach), reach)


def emitted(name: str, emit: Callable[[ir.IRBuilder, Any, Any, int], None]) -> str:
    """Make a piece that is written in LLVM's language; return its name, for `calling` and `address_of`.

    It stands below all that `emit` names, as `apart`.
    emit : emit(builder, arguments, kinds, code) writes the function of a code, from a first block where the
        builder is; its arguments have Numba's types `kinds`
    """
    reach = Reach(emit, how())
    name = emit.__qualname__ = f"{name}.{reach.digest}"
    cache = cache_of(emit, _LibraryForm, reach)

    def make(arguments, code):
        target, key = cpu_target.target_context, (arguments, code)
        symbol = f"fastmlp:{name}.{code}({', '.join(map(str, arguments))})"
        library = cache.load_overload(key, target)
        if library is None:
            library = target.codegen().create_library(symbol)
            library.enable_object_caching()
            module = library.create_ir_module(symbol)
            taken = target.call_conv.get_function_type(types.none, arguments).args
            # A pointer to bytes is one to anything for LLVM, and for llvmlite once it has no type.
            untyped = [POINTER if isinstance(kind, ir.PointerType) else kind for kind in taken]
            function = ir.Function(module, ir.FunctionType(STATUS, untyped), symbol)
            builder = ir.IRBuilder(function.append_basic_block("entry"))
            emit(builder, function.args[2:], arguments, code)
            builder.ret(STATUS(0))
            library.add_ir_module(module)
            library.finalize()
            cache.save_overload(key, library)
        return library, symbol

    _makers[name] = make
    return name


class _LibraryForm(CacheImpl):
    """Machine code of LLVM's alone, on the disk."""

    def reduce(self, library: Any) -> Any:
        """Return what can be pickled."""
        return library.serialize_using_object_code()

    def rebuild(self, target: Any, reduced: Any) -> Any:
        """Return the library."""
        return target.codegen().unserialize_library(reduced)

    def check_cachable(self, library: Any) -> bool:
        """Whether it can be kept."""
        return True
