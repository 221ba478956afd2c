"""Machine code in memory: LLVM's loader links object files, and compiled code finds functions here.

No Numba is needed; Numba is imported only to compile code missing on the disk.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from llvmlite import binding
from numpy.typing import NDArray

from fastmlp.kernels import thresholds
from fastmlp.kernels.codegen.machine import target
from fastmlp.kernels.codes import BY_KIND
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.store import MachineCode
from fastmlp.system import forks
from fastmlp.system.compiling import compiling
from fastmlp.system.forks import once

RESOLVE = "fastmlp:resolve"
"""The symbol of `_resolve`, called by compiled code to find a lazy function."""

lock = threading.RLock()
"""Held while code is loaded or compiled."""

forks.wait_for(lock, 1)

PYTHON = (
    *("PyErr_Fetch", "PyErr_NormalizeException", "PyErr_SetString", "PyExc_SystemError"),
    *("PyException_SetTraceback", "PyGILState_Ensure", "PyGILState_Release", "PyLong_AsLongLong"),
    *("PyObject_CallFunction", "Py_DecRef"),
)
"""Functions of Python's C API called by machine code; not every system exports them to a loader."""


class Engine:
    """Machine code in memory, freed with the last reference; text : a module in LLVM's language"""

    def __init__(self, text: str = "") -> None:
        _, cpu, features = target()
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=cpu, features=features, opt=3, reloc="static", codemodel="jitdefault", jit=True
        )
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(text), machine)

    def load(self, code: MachineCode) -> int:
        """Link an object file, and return the address of its function."""
        self._engine.add_object_file(binding.ObjectFileRef.from_data(code.object_code))
        return self.address_of(code.symbol)

    def address_of(self, symbol: str) -> int:
        """Return the address of a function."""
        self._engine.finalize_object()
        address: int = self._engine.get_function_address(symbol)
        return address


# --- lazy functions -----------------------------------------------------------------------------------------


@once
def common() -> Engine:
    """Return the engine of the lazy functions shared by all programs; the first call prepares LLVM."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    for name in PYTHON:
        binding.add_symbol(name, ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, name)))
    return Engine()


def can_link(code: MachineCode) -> bool:
    """Return whether all symbols needed by the code can be found."""
    common()  # linking with a missing symbol would end the process
    if all(map(binding.address_of_symbol, code.externals)):
        return True
    _compiler().emission.initialize_runtime()  # Numba finds its symbols once it is imported
    return all(map(binding.address_of_symbol, code.externals))


loaded_functions: dict[tuple[str, tuple[str, ...], str], int] = {}
"""The addresses of loaded lazy functions, by name, types of arguments, and the code's key."""

compiled: list[str] = []
"""The code compiled by the process because no folder had it: names, keys, and why."""


def address_of(
    name: str, types: tuple[str, ...], key: str, compile_code: Callable[[], MachineCode] | None = None
) -> int:
    """Return the address of a lazy function, loaded or compiled; key : of a code, else empty.

    compile_code : of a caller that has the compiler; else whoever loads programs imports it
    """
    request = name, types, key
    if request not in loaded_functions:
        # Looked at again under the lock: another thread may have loaded it meanwhile.
        with lock, compiling():
            if request not in loaded_functions:
                made = compile_code or (lambda: _compiler().compiled_function(name, types, key))
                loaded_functions[request] = common().load(code_of(name, key_of_function(types, key), made))
    return loaded_functions[request]


def key_of_function(types: tuple[str, ...], key: str) -> str:
    """Return the store's key of a lazy function; types and key as for `address_of`."""
    return f"{', '.join(types)} {key}"


def code_of(name: str, key: str, compile_code: Callable[[], MachineCode]) -> MachineCode:
    """Return machine code from the disk, or compile the code in one process at a time."""
    code = store.load(name, key)
    if code is None or not can_link(code):
        with store.only_one(name, key):
            code = store.load(name, key)  # another process may have had it compiled meanwhile
            if code is None or not can_link(code):
                why = store.why_missing(name, key)
                with undisturbed():
                    code = compile_code()
                compiled.append(f"{name} {key}: {why}")
                return code
    if os.environ.get(store.VERIFY) == "1":
        _verify(name, key, code, compile_code)
    return code


def _verify(name: str, key: str, code: MachineCode, compile_code: Callable[[], MachineCode]) -> None:
    """Compile again, and raise RuntimeError if the result differs from the code read."""
    with undisturbed():
        made = compile_code()
    if section := _compiler().emission.difference(code, made):
        file = store.file_name(name, key)
        raise RuntimeError(
            f"{store.VERIFY}: the machine code of {name!r} for {key!r} is not what its sources give, "
            f"in {section}; it was read from {str(store.read_from[file] / file)!r}"
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold `lock`, respected by forks, and switch the garbage collector off."""
    with lock, forks.collector_off():
        yield


compilers: list[Any] = []
"""The compiling module, which names itself here when imported, and imports Numba."""

loaders: list[Callable[[], Any]] = []
"""A function that imports the compiling module, of whoever loads programs."""


def _compiler() -> Any:
    """Return the compiling module, imported if need be."""
    if not compilers:
        loaders[0]()
    return compilers[0]


def _resolve(request: int, length: int, code: int) -> int:
    """Return the address of a lazy function, described by JSON at `request`; called by compiled code."""
    name, types, codes, key = json.loads(ctypes.string_at(request, length))
    if key is None:
        key = str(code) if codes is None else BY_KIND[codes][code].key
    return address_of(name, tuple(types), key)


# The symbol is the address of the Python function itself, which compiled code calls through the C API. A
# callback of ctypes would return an arbitrary address if an error arises before its first line, as Ctrl-C
# can.
binding.add_symbol(RESOLVE, id(_resolve))
binding.add_symbol(thresholds.SYMBOL, thresholds.VALUES.ctypes.data)


# --- entry points -----------------------------------------------------------------------------------------


class Entry:
    """A function of machine code (call's address, worker, workers), run without Python's lock.

    It returns 0, or the address of an exception, owned by the caller.
    """

    def __init__(self, address: int, engine: Engine) -> None:
        self.address, self._engine = address, engine
        self._function = _SIGNATURE(address)

    def __call__(self, call: int, worker: int = 0, workers: int = 1) -> None:
        """Run the function; raise the error that arose in it, if any."""
        failed = self._function(call, worker, workers)
        if failed is not None:
            raise error_of(failed)

    def on(self, call: int) -> Callable[[], int | None]:
        """Return a runner for a call on this thread; its result is None, or an argument of `error_of`."""
        # 0.4 us less than a call: the arguments are made once, and the runner is no function of Python's.
        return functools.partial(self._function, ctypes.c_void_p(call), ctypes.c_int64(0), ctypes.c_int64(1))


_SIGNATURE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def error_of(address: int) -> BaseException:
    """Return the exception at an address returned by an entry point."""
    owned = ctypes.cast(address, ctypes.py_object)
    error: BaseException = owned.value
    ctypes.pythonapi.Py_DecRef(owned)
    return error


def entry_of(name: str, kind: str, compile_code: Callable[[], MachineCode]) -> Entry:
    """Return an entry point in its engine, loaded, or compiled if the disk has none."""
    with lock:
        code, engine = code_of(name, kind, compile_code), Engine()
        return Entry(engine.load(code), engine)


# --- many calls in one ------------------------------------------------------------------------------------

EACH = "fastmlp:each"

EACH_TEXT = f"""
define ptr @"{EACH}"(ptr %table, i64 %worker, i64 %workers) {{
begin:
  %count = load i64, ptr %table
  br label %head
head:
  %number = phi i64 [ %worker, %begin ], [ %next, %body ]
  %failed = phi ptr [ null, %begin ], [ %found, %body ]
  %left = icmp slt i64 %number, %count
  %sound = icmp eq ptr %failed, null
  %goes_on = and i1 %left, %sound
  br i1 %goes_on, label %body, label %end
body:
  %words = shl i64 %number, 1
  %index = add i64 %words, 1
  %of_function = getelementptr i64, ptr %table, i64 %index
  %of_call = getelementptr i64, ptr %of_function, i64 1
  %function = load ptr, ptr %of_function
  %call = load ptr, ptr %of_call
  %found = call ptr %function(ptr %call, i64 0, i64 1)
  %next = add i64 %number, %workers
  br label %head
end:
  ret ptr %failed
}}
"""
"""An entry point for a table of calls: worker w of n runs numbers w, w + n, .. up to the first error."""


@once
def each() -> Entry:
    """Return the entry point of `EACH`, made once in a process, in some milliseconds."""
    common()
    engine = Engine(EACH_TEXT)
    return Entry(engine.address_of(EACH), engine)


def table_of(functions: Sequence[int], calls: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the table for `each`: the number of calls, and each call's entry point and record."""
    table = np.empty(1 + 2 * len(calls), np.int64)
    table[0], table[1::2], table[2::2] = len(calls), functions, calls
    return table
