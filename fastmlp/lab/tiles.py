"""Register tiles by themselves: called again and again by compiled code, which Python's calls would drown.

A tile of 8 x 3 vectors and 32 terms takes a tenth of a microsecond, a call by ctypes a whole one.
"""

# mypy: ignore-errors

from __future__ import annotations

import ctypes
from functools import partial

import numpy as np
from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.symbols import INT, POINTER, Symbol
from fastmlp.kernels.codegen.vectors import counted
from fastmlp.kernels.gemm.microkernel import ALL_TILES, STORE, Stack, taken_by
from fastmlp.kernels.jit.lazy import compile_now, emitted

TAKEN = taken_by(types.float32)


def emit_repeated(build, arguments, kinds, code):
    """Write calls of one stack: its address, the words that it is given, and how often."""
    address, words, times = arguments
    given = []
    for place, kind in enumerate(TAKEN):
        if kind == types.float32:
            given.append(ir.Constant(ir.FloatType(), 0.0))
        else:
            is_place = kind == types.voidptr
            at = build.gep(words, [INT(place)], source_etype=INT)
            given.append(build.load(at, typ=POINTER if is_place else INT))
    nothing = ir.Constant(POINTER, None)
    signature = ir.FunctionType(ir.IntType(32), [POINTER, POINTER, *(value.type for value in given)])
    function = build.inttoptr(address, signature.as_pointer())
    with counted(build, Symbol(build, times)):
        build.call(function, [nothing, nothing, *given])


REPEATED = emitted("repeated_tile", emit_repeated)


def repeated(shape, times, a, b, order, c, **numbers):
    """Return what calls a stack of float32 tiles so many times.

    shape : (kind, rows, vectors) of a tile that `microkernel.ALL_TILES` has
    a, b, c : (n,) float32; order (n,) int64; numbers : the others of `microkernel.Stack`, 0 if not named
    """
    kind, rows, vectors = shape
    tiles = ALL_TILES[kind]
    places = {"a": a, "b": b, "order": order, "c": c}
    numbers |= {name: array.ctypes.data for name, array in places.items()}
    words = np.array([numbers.get(name, 0) for name in Stack._fields], np.int64)
    words[Stack._fields.index("finish")] = STORE
    address = compile_now(tiles.name, TAKEN, str(tiles.code(rows, vectors, True)))
    repeat = compile_now(REPEATED, (types.intp, types.voidptr, types.intp))
    function = ctypes.CFUNCTYPE(
        ctypes.c_int32, *(ctypes.c_void_p,) * 2, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64
    )(repeat)
    # The arrays live as long as the call.
    return partial(_call, function, address, words, times, (a, b, order, c))


def _call(function, address, words, times, held):
    function(None, None, address, words.ctypes.data, times)
