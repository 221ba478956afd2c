"""What an object is by itself, and which objects it reaches: the part of a digest that is data.

Separate from `fastmlp.kernels.jit.bytecode`, which reads functions. An object that cannot be read raises
Opaque.
"""

from __future__ import annotations

import builtins
import enum
import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types as kinds
from numba.core import imputils
from numba.core.compiler_lock import _CompilerLock
from numba.core.descriptors import TargetDescriptor
from numba.core.dispatcher import Dispatcher
from numba.core.typing import templates
from numba.extending import _Intrinsic

from fastmlp.kernels.codes import Codes
from fastmlp.kernels.jit.bytecode import (
    ATOMS,
    METHODS,
    OURS,
    WORLDLY,
    Shape,
    full_name,
    is_computing,
    is_library,
    of_function,
    several,
)
from fastmlp.kernels.jit.disposable import Intrinsic
from fastmlp.model.pieces import Piece

PASSED_OVER = {
    *("__doc__", "__module__", "__dict__", "__weakref__", "__annotations__", "__firstlineno__"),
    *("__static_attributes__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__"),
    *("__dataclass_params__", "__orig_bases__", "__parameters__"),
}
"""Attributes of a class that do not change what its methods do, or that were made from other attributes."""


class Opaque(Exception):
    """It cannot be known what an object holds; the text says what the object is."""


def shape_of(value: Any) -> Shape:
    """Return the shape of an object that is none of ATOMS and no tuple."""
    kind = type(value)
    if isinstance(value, (Piece, Codes)):
        return b"digested " + full_name(kind).encode(), value.digested()
    for base in kind.__mro__:
        if base in SHAPES:
            return SHAPES[base](value)
    if kind in BY_VALUE:
        return BY_VALUE[kind](value)
    if is_library(kind) or not all(base is object or base.__flags__ & HEAP_TYPE for base in kind.__mro__):
        raise Opaque(f"an object of {full_name(kind)}")
    slots = [name for base in kind.__mro__ for name in _slots(base)]
    held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    # A cached property follows from other attributes, and is there only after its first use.
    own = getattr(value, "__dict__", {}).items()
    held |= {n: one for n, one in own if not isinstance(getattr(kind, n, None), functools.cached_property)}
    return b"instance", [kind, held]


HEAP_TYPE = 1 << 9
"""The flag of classes that are defined in Python: their instances hold nothing but attributes."""


def _slots(kind: type) -> Iterator[str]:
    given = kind.__dict__.get("__slots__", ())
    for name in [given] if isinstance(given, str) else given:
        hidden = name.startswith("__") and not name.endswith("__")
        yield f"_{kind.__name__.lstrip('_')}{name}" if hidden else name


_classes: dict[type, Shape] = {}
"""Of classes of our own modules."""


def _of_class(value: type) -> Shape:
    if value in _classes:
        return _classes[value]
    if is_library(value) or value is Intrinsic:  # Intrinsic counts by its name, as Numba's decorator does
        return b"named " + full_name(value).encode(), []
    own = {name: held for name, held in vars(value).items() if name not in PASSED_OVER}
    if isinstance(value, enum.EnumMeta):
        written = (types.FunctionType, staticmethod, classmethod, property)
        own = {name: held for name, held in own.items() if isinstance(held, written)}
        members: Iterable[tuple[str, Any]] = value.__members__.items()
        own |= {name: member.value for name, member in members}
    parts = [type(value), *value.__bases__, *(part for item in own.items() for part in item)]
    shape = several(b"class " + full_name(value).encode(), parts)
    if value.__module__.startswith(OURS) and "<locals>" not in value.__qualname__:
        _classes[value] = shape
        METHODS.update(held for held in own.values() if isinstance(held, types.FunctionType))
    return shape


MOST_ARRAY_BYTES = 10**6
"""Numba does not save code with a larger global array (`BaseContext.make_constant_array`)."""


def _of_array(value: Any) -> Shape:
    if value.dtype.hasobject:
        raise Opaque("an array of objects")
    if value.nbytes > MOST_ARRAY_BYTES:
        raise Opaque(f"an array of {value.nbytes} bytes, and Numba keeps none above {MOST_ARRAY_BYTES}")
    return b"array " + value.tobytes(), [value.dtype, value.shape, value.flags.c_contiguous]


def _of_set(value: Any) -> Shape:
    if not all(type(one) in ATOMS for one in value):
        raise Opaque("a set of objects, whose order is another in every process")
    return b"set " + b",".join(sorted(ATOMS[type(one)](one) for one in value)), []


def _of_builtin(value: types.BuiltinFunctionType) -> Shape:
    owner = value.__self__
    if owner is not None and not isinstance(owner, types.ModuleType):
        return b"bound " + value.__name__.encode(), [owner]
    if owner is builtins and value.__name__ in WORLDLY:
        raise Opaque(f"{value.__name__}()")
    if not is_library(value):
        raise Opaque(f"{full_name(value)}, which is not written in Python")
    return b"named " + full_name(value).encode(), []


def _of_module(value: types.ModuleType) -> Shape:
    if not is_computing(value.__name__):
        raise Opaque(f"the module {value.__name__!r}")
    return b"module " + value.__name__.encode(), []


def _of_ufunc(value: np.ufunc) -> Shape:
    if getattr(np, value.__name__, None) is not value:
        raise Opaque(f"the ufunc {value.__name__!r}")
    return b"ufunc " + value.__name__.encode(), []


def _of_signature(value: inspect.Signature) -> Shape:
    return b"signature", [(one.name, int(one.kind), one.default) for one in value.parameters.values()]


def _of_dispatcher(value: Any) -> Shape:
    signatures = () if value._can_compile else tuple(map(str, value.overloads))
    pipeline = value._compiler.pipeline_class
    return b"jitted", [value.py_func, value.targetoptions, {**value.locals}, signatures, pipeline]


def _of_kind(value: kinds.Type) -> Shape:
    if not _says_all(value):
        raise Opaque(f"Numba's type {value}")
    return b"type " + str(value).encode(), []


def _says_all(kind: kinds.Type) -> bool:
    """Whether the name of one of Numba's types identifies it."""
    if isinstance(kind, kinds.BaseTuple):
        return all(map(_says_all, kind.types))
    if isinstance(kind, (kinds.Array, kinds.CPointer)):
        return _says_all(kind.dtype)
    plain = kinds.Number, kinds.Boolean, kinds.NoneType, kinds.UnicodeType, kinds.Record
    return isinstance(kind, plain)


def _wrapped(value: Any) -> Shape:
    return type(value).__name__.encode(), [value.__wrapped__]


def _descriptor(value: Any) -> Shape:
    return b"descriptor " + value.__name__.encode(), []


def _by_class(value: Any) -> Shape:
    return b"the only one", [type(value)]


SHAPES: dict[type, Callable[[Any], Shape]] = {
    types.FunctionType: of_function,
    types.BuiltinFunctionType: _of_builtin,
    types.ModuleType: _of_module,
    types.MethodType: lambda value: (b"method", [value.__func__, value.__self__]),
    types.GenericAlias: lambda value: (b"alias", [value.__origin__, value.__args__]),
    type: _of_class,
    enum.Enum: lambda value: (b"member " + value.name.encode(), [type(value)]),
    tuple: lambda value: (b"tuple of", [type(value), [*value], getattr(value, "__dict__", None)]),
    property: lambda value: (b"property", [value.fget, value.fset, value.fdel]),
    functools.cached_property: lambda value: (b"cached property", [value.func]),
    functools.partial: lambda value: (b"partial", [value.func, value.args, value.keywords]),
    **dict.fromkeys((staticmethod, classmethod, type(functools.cache(len))), _wrapped),
    inspect.Signature: _of_signature,
    re.Pattern: lambda value: (b"pattern %d" % value.flags, [value.pattern]),
    types.MemberDescriptorType: _descriptor,
    types.GetSetDescriptorType: _descriptor,
    types.WrapperDescriptorType: _descriptor,
    types.MethodDescriptorType: _descriptor,
    types.ClassMethodDescriptorType: _descriptor,
    types.MethodWrapperType: _descriptor,
    type(inspect.FullArgSpec.args): lambda value: (b"field", []),
    np.generic: _of_array,
    np.dtype: lambda value: (b"dtype", [repr(value)]),
    np.ufunc: _of_ufunc,
    Dispatcher: _of_dispatcher,
    **dict.fromkeys((_Intrinsic, Intrinsic), lambda value: (b"intrinsic", [value._defn])),
    kinds.Type: _of_kind,
    ir.Type: lambda value: (b"llvm type", [str(value)]),
    ir.Constant: lambda value: (b"llvm constant", [str(value)]),
    TargetDescriptor: _by_class,
    _CompilerLock: _by_class,
}
"""The functions that read objects of a class, or of its subclasses."""

BY_VALUE: dict[type, Callable[[Any], Shape]] = {
    list: lambda value: several(b"list", value),
    dict: lambda value: several(b"dict", [part for item in value.items() for part in item]),
    set: _of_set,
    frozenset: _of_set,
    types.MappingProxyType: lambda value: (b"proxy", [{**value}]),
    np.ndarray: _of_array,
}
"""The functions that read objects of exactly a class, since a subclass may hold more."""


def overloads() -> list[Any]:
    """Return the functions that other packages have registered with Numba for calls and attributes."""
    typed, lowered = templates.builtin_registry, imputils.builtin_registry
    told = [
        *typed.functions,
        *typed.attributes,
        *(implementation for implementation, *_ in lowered.functions),
    ]
    found = (getattr(one, "_overload_func", one) for one in told)
    return [
        one for one in found if one.__module__ and not (is_library(one) or one.__module__.startswith(OURS))
    ]
