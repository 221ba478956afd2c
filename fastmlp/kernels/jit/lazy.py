"""Lazy functions, compiled at their first call, each by itself, and shared by all programs.

Numba links into a function all called functions, so the same code is optimised again in every program above.
Here a program has a stub in place of a lazy function, as with lazy binding in a dynamic linker. The stub's
first call requests the function's address, which is loaded from the disk or compiled
(`fastmlp.kernels.jit.engine`).

Threads share a stub's cells without a lock. The address is stored by a release and loaded by an acquire: a
thread that reads the address also sees the code and the constants written before, which ARM could otherwise
load first. Two threads may store the same address. LLVM's loader clears the instruction caches.
"""

# mypy: ignore-errors

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.callconv import RETCODE_NONE, RETCODE_OK
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic, register_jitable
from numba.np.numpy_support import from_dtype

from fastmlp.kernels.codegen.machine import arithmetic, normal_arithmetic
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codes import BY_KIND, MOST_CODES, Codes
from fastmlp.kernels.jit import emission
from fastmlp.kernels.jit.engine import RESOLVE, address_of, key_of_function
from fastmlp.kernels.jit.store import UNKEPT, MachineCode, save
from fastmlp.kernels.program.call_record import CallRecord
from fastmlp.kernels.program.records import OBJECTIVE, OPERATION, RULE

OPTIONS = {"nogil": True, "error_model": "numpy"}

INNER = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Options for functions called by compiled code only: a sixth less to compile."""

helper = register_jitable(_nrt=False, **OPTIONS, **INNER)
"""Decorates a short function for calls from jitted code and Python."""

INT, STATUS, POINTER = ir.IntType(64), ir.IntType(32), ir.PointerType()


class Maker(NamedTuple):
    """Compiles a lazy function: make(arguments, key) gives the finished Numba library and a symbol.

    codes : the function's codes where given as numbers; empty where they stand in `codes.BY_KIND`
    """

    make: Callable[[Any, str], tuple[Any, str]]
    codes: tuple[int, ...] = ()


makers: dict[str, Maker] = {}
"""The makers of lazy functions, by name."""


def add_maker(name: str, maker: Maker) -> None:
    """Enter a maker under a new name."""
    assert name not in makers, f"two lazy functions have the name {name}"
    makers[name] = maker


class FunctionRequest(NamedTuple):
    """A lazy function that compiled code of this process may call, see `calling`; types : of the arguments"""

    name: str
    types: tuple[str, ...]
    codes: str | int
    key: str | None

    def all_keys(self) -> tuple[str, ...]:
        """Return all possible keys: without a constant code, the key of each built-in entry."""
        if not self.codes:
            return ("",)
        if self.key is not None:
            return (self.key,)
        if isinstance(self.codes, str):
            return tuple(entry.key for entry in BY_KIND[self.codes].built_in_entries())
        return tuple(map(str, makers[self.name].codes))


requested: dict[FunctionRequest, None] = {}
"""Requested lazy functions, in the order of their requests."""


def compiled_function(name: str, names: tuple[str, ...], key: str) -> MachineCode:
    """Compile a lazy function for types of arguments, and save the code if a file may hold it."""
    maker, arguments = makers[name], tuple(map(type_of, names))
    with global_compiler_lock:
        library, symbol = maker.make(arguments, key)
        code = emission.machine_code_of(library, symbol)
    save(name, key_of_function(names, key), code)
    return code


def assembly_of_function(name: str, arguments: tuple[Any, ...], key: str) -> str:
    """Return the assembly of a lazy function for some types of arguments, for people to read."""
    with global_compiler_lock:
        return emission.assembly_of(makers[name].make(arguments, key)[0])


def compile_now(name: str, arguments: tuple[Any, ...], key: str = "") -> int:
    """Compile or load a lazy function before its first call; return the address."""
    names = tuple(map(str, arguments))
    return address_of(name, names, key, partial(compiled_function, name, names, key))


def compile_all(name: str, arguments: tuple[Any, ...]) -> None:
    """Call `compile_now` for each of a lazy function's codes."""
    for code in makers[name].codes:
        compile_now(name, arguments, str(code))


def lazy_function(
    compiled: Any,
    result: Any = types.none,
    codes: Codes | None = None,
    of_code: Any = None,
    others: Any = None,
) -> Any:
    """Return the function that jitted code calls for `compiled`, a dispatcher with a unique name.

    result : Numba's type; codes : the table of the first argument, if each code has machine code; else None
    of_code : of_code(code) gives a code's dispatcher; others : has the same parameters
    """
    name = compiled.py_func.__qualname__

    def make(arguments, key):
        dispatcher = compiled if codes is None else of_code(codes.code_of_key(key))
        dispatcher.compile(arguments if result == types.none else result(*arguments))
        made = dispatcher.overloads[arguments]
        if made.signature.return_type != result:
            slot = compiled.py_func.__name__
            raise TypeError(f"{slot} must return nothing, returns {made.signature.return_type}")
        return made.library, made.fndesc.llvm_func_name

    add_maker(name, Maker(make))

    def call(typing_context, *kinds):
        if codes is None:
            arguments = compiled._compiler.fold_argument_types(kinds, {})[1]  # *others becomes one
            return result(*map(types.unliteral, arguments)), calling(name)
        code, others = kinds[0], map(types.unliteral, kinds[1:])
        if isinstance(code, types.IntegerLiteral):
            # The literal stays: Numba finds code generators by the types of arguments.
            return result(code, *others), calling(name, codes.kind, codes[code.literal_value].key)
        return result(types.intp, *others), calling(name, codes.kind)

    # Numba matches arguments by the names of the function's parameters.
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = [
        inspect.Parameter(name, positional) for name in ("typing_context", "code")[: 1 + (codes is not None)]
    ]
    rest = inspect.signature(others or compiled.py_func).parameters.values()
    call.__signature__ = inspect.Signature([*first, *rest])
    call.__qualname__ = name
    return intrinsic(prefer_literal=codes is not None)(call)


def calling(name: str, codes: str | int = 0, key: str | None = None) -> Callable[..., Any]:
    """Return the code generator of an intrinsic that calls a lazy function.

    codes : the kind of codes of the first argument, or the number of codes; key : of a constant code
    """

    def emit(context, builder, signature, values):
        stub = _stub(context, builder.module, name, codes, signature, key)
        result = signature.return_type
        result_at = cgutils.alloca_once(builder, context.get_value_type(result))
        taken = context.get_arg_packer(signature.args).as_arguments(builder, values)
        # As `call_conv.call_function`, in half as many instructions: errors go where the caller's would.
        excinfo = builder.function.args[1]
        code = builder.call(stub, [result_at, builder.bitcast(excinfo, stub.args[1].type), *taken])
        good = [builder.icmp_signed("==", code, right) for right in (RETCODE_OK, RETCODE_NONE)]
        with cgutils.if_unlikely(builder, builder.not_(builder.or_(*good))):
            if excinfo.type.is_opaque:  # `emitted` code, which has no `try`
                builder.ret(code)
            else:
                status = SimpleNamespace(code=code, excinfoptr=builder.load(excinfo))
                context.call_conv.return_status_propagate(builder, status)
        return builder.load(result_at)

    return emit


def _stub(context, module, name, codes, signature, key):
    """Return the module's stub of a lazy function."""
    convention = context.call_conv
    result, arguments = signature.return_type, signature.args[bool(codes) :]
    symbol = f"fastmlp:{name}{[key] if key else ''}({', '.join(map(str, arguments))})"
    if symbol in module.globals:
        return module.globals[symbol]
    stub = ir.Function(module, convention.get_function_type(result, signature.args), symbol)
    # Each module has its own stub of the same text: the linker keeps one of them.
    stub.linkage = "linkonce_odr"
    stub.attributes.add("noinline")
    kind = codes if isinstance(codes, str) else None
    fixed = key if codes else ""
    description = name, tuple(map(str, arguments)), kind, fixed  # names of types are for `type_of`
    requested[FunctionRequest(name, description[1], codes, key)] = None
    request = cgutils.global_constant(
        module,
        f"{symbol}.request",
        cgutils.make_bytearray(json.dumps(description).encode()),
    )
    several = MOST_CODES if isinstance(codes, str) else codes
    count = several if codes and key is None else 1
    cells = cgutils.add_global_variable(module, ir.ArrayType(INT, count), f"{symbol}.cells")
    cells.linkage, cells.initializer = "internal", ir.Constant(cells.value_type, None)
    into, excinfo, *values = stub.args
    code = values.pop(0) if codes else INT(0)
    code = code if key is None else INT(0)
    entry, first, failed, ready = map(stub.append_basic_block, ("entry", "first", "failed", "found"))

    builder = ir.IRBuilder(entry)
    # A code beyond the table asks Python, which has the message; the cells are not read.
    valid = builder.icmp_unsigned("<", code, INT(cells.value_type.count))
    cell = builder.gep(cells, [INT(0), builder.select(valid, code, INT(0))])
    known = builder.select(valid, builder.load_atomic(cell, "acquire", 8), INT(0))
    builder.cbranch(builder.icmp_unsigned("==", known, INT(0)), first, ready)

    builder.position_at_end(first)
    wanted = [builder.ptrtoint(request, INT), INT(request.value_type.count), code]
    made = builder.call(_finder(context, module), [cell, *wanted])
    builder.cbranch(builder.icmp_unsigned("==", made, INT(0)), failed, ready)

    builder.position_at_end(failed)
    convention.return_exc(builder)

    builder.position_at_end(ready)
    address = builder.phi(INT)
    address.add_incoming(known, entry)
    address.add_incoming(made, first)
    target = convention.get_function_type(result, arguments)
    address = builder.inttoptr(address, target.as_pointer())
    builder.ret(builder.call(address, [into, excinfo, *values]))
    return stub


def _finder(context, module):
    """Return the module's function from a cell and the arguments of `engine._resolve` to the address.

    The address is written to the cell; it is 0 if Python has set an error.
    """
    name = "fastmlp:find"
    if name in module.globals:
        return module.globals[name]
    finder = ir.Function(module, ir.FunctionType(INT, [INT.as_pointer(), INT, INT, INT]), name)
    finder.linkage = "linkonce_odr"
    finder.attributes.add("noinline")
    cell, *request = finder.args
    builder = ir.IRBuilder(finder.append_basic_block("entry"))
    api = context.get_python_api(builder)
    address_at = cgutils.alloca_once_value(builder, INT(0))
    # Python's own code expects subnormal numbers, which programs flush.
    before = normal_arithmetic(builder)
    # Programs run without Python's lock, and finding a function may import and compile.
    gil = emission.python_call(builder, "PyGILState_Ensure", emission.INT32)
    resolver = ir.GlobalVariable(module, ir.IntType(8), RESOLVE)
    call = cgutils.get_or_insert_function(
        module, ir.FunctionType(POINTER, [POINTER, POINTER], var_arg=True), "PyObject_CallFunction"
    )
    made = builder.call(call, [resolver, context.insert_const_string(module, "LLL"), *request])
    with cgutils.if_likely(builder, cgutils.is_not_null(builder, made)):
        builder.store(api.long_as_longlong(made), address_at)
        api.decref(made)
    emission.python_call(builder, "PyGILState_Release", emission.VOID, gil)
    address = builder.load(address_at)
    # Without an address Python has set an error, and the entry point puts the arithmetic back.
    with cgutils.if_likely(builder, builder.icmp_unsigned("!=", address, INT(0))):
        arithmetic(builder, before)
        builder.store_atomic(address, cell, "release", 8)
    builder.ret(address)
    return finder


def apart(function: Any) -> Any:
    """Make a lazy function of a function that no variant overrides, and that makes no arrays."""
    function.__qualname__ = _name_at_home(function.__qualname__, function)
    dispatcher = njit(_nrt=False, **OPTIONS, **INNER)(function)
    emission.give_target(dispatcher, emission.SHARED_TARGET)
    return lazy_function(dispatcher)


def _name_at_home(label: str, function: Any) -> str:
    """Return the name of a function made by its module: the label, and the module's place below fastmlp."""
    package, _, module = function.__module__.partition(".")
    return f"{label}-{module}" if package == "fastmlp" else f"{label}-{package}{UNKEPT}{next(_numbers)}"


_numbers = itertools.count()


def home_of(name: str) -> str:
    """Return the module, below fastmlp, that makes a lazy function of the package."""
    return name.rpartition("-")[2]


def emitted(name: str, emit: Callable[[ir.IRBuilder, Any, Any, int], None], codes: Iterable[int] = ()) -> str:
    """Make a lazy function written as LLVM instructions; return the name, for `calling` and `compile_now`.

    name : unique in the module of `emit`, for `emit` and its closure
    emit : emit(builder, arguments, kinds, code) writes a function, of addresses and `Symbol`s; codes : all
        codes, if any
    """
    name = emit.__qualname__ = _name_at_home(name, emit)

    def make(arguments, key):
        target = emission.SHARED_TARGET
        symbol = f"fastmlp:{name}.{key}({', '.join(map(str, arguments))})"
        library = emission.written_library(target, symbol)
        module = library.create_ir_module(symbol)
        taken = target.call_conv.get_function_type(types.none, arguments).args
        # For LLVM a pointer to bytes can point to anything; for llvmlite only a pointer without a type can.
        untyped = [POINTER if isinstance(kind, ir.PointerType) else kind for kind in taken]
        function = ir.Function(module, ir.FunctionType(STATUS, untyped), symbol)
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        pairs = zip(function.args[2:], arguments, strict=True)
        symbols = [value if kind == types.voidptr else Symbol(builder, value) for value, kind in pairs]
        emit(builder, symbols, arguments, int(key or 0))
        builder.ret(STATUS(0))
        library.add_ir_module(module)
        library.finalize()
        return library, symbol

    add_maker(name, Maker(make, tuple(codes)))
    return name


# --- types of a lazy function's arguments by the names that Numba has for them ------------------------------
#
# Slots take numbers, arrays, records of `fastmlp.kernels.program.records`, addresses, a call, and tuples of
# these; no other types are known here, so that no name leads to any other object.

SIMPLE = {str(kind): kind for kind in (*types.number_domain, types.boolean, types.voidptr, types.none)}

RECORDS = {str(kind): kind for kind in map(from_dtype, (OPERATION, OBJECTIVE, RULE))}

CALLS = {str(kind): kind for kind in map(CallRecord, (types.float32, types.float64))}

BY_NAME = {**SIMPLE, **RECORDS, **CALLS}

ARRAY = re.compile(r"(unaligned )?(readonly )?array\((.+), (\d+)d, ([CFA])\)")

TUPLE, UNIFORM = map(re.compile, (r"(StarArg)?Tuple\((.*)\)", r"(StarArg)?UniTuple\((.+) x (\d{1,3})\)"))
"""Names of several types, and of a type so many times; `*arguments` of a function are such a tuple, too."""

OMITTED = re.compile(r"omitted\(default=(.*)\)")
"""An argument left at its default, a number."""


def type_of(name):
    """Return the type of a name; TypeError if no lazy function can take the type."""
    if match := TUPLE.fullmatch(name) or UNIFORM.fullmatch(name):
        several, inside, *times = match.groups()
        parts = tuple(map(type_of, [inside] * int(times[0]) if times else _split(inside)))
        return types.StarArgTuple(parts) if several else types.BaseTuple.from_types(parts)
    if match := OMITTED.fullmatch(name):
        return types.Omitted(ast.literal_eval(match[1]))
    match = ARRAY.fullmatch(name)
    kind = BY_NAME.get(match[3] if match else name)
    if kind is None:
        raise TypeError(f"a slot takes numbers, arrays and records of fastmlp's, got {name}")
    if not match:
        return kind
    unaligned, readonly, _, ndim, layout = match.groups()
    return types.Array(kind, int(ndim), layout, readonly=bool(readonly), aligned=not unaligned)


def _split(names):
    """Return names separated by commas outside of parentheses and brackets."""
    parts, depth = [""], 0
    for letter in names:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
