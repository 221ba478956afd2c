"""The types of a piece's arguments by the names that Numba has for them, which machine code keeps, and back.

Slots take numbers, arrays, records of `fastmlp.kernels.program.records`, addresses, a call, and tuples of
these; no other types are known here, so that no name leads to any other object.
"""

# mypy: ignore-errors

from __future__ import annotations

import ast
import re

from numba import types
from numba.np.numpy_support import from_dtype

from fastmlp.kernels.program.call_record import CallRecord
from fastmlp.kernels.program.records import OBJECTIVE, OPERATION, RULE

SIMPLE = {str(kind): kind for kind in (*types.number_domain, types.boolean, types.voidptr, types.none)}

RECORDS = {str(kind): kind for kind in map(from_dtype, (OPERATION, OBJECTIVE, RULE))}

CALLS = {str(kind): kind for kind in map(CallRecord, (types.float32, types.float64))}

BY_NAME = {**SIMPLE, **RECORDS, **CALLS}

ARRAY = re.compile(r"(unaligned )?(readonly )?array\((.+), (\d+)d, ([CFA])\)")

TUPLE, UNIFORM = map(re.compile, (r"(StarArg)?Tuple\((.*)\)", r"(StarArg)?UniTuple\((.+) x (\d{1,3})\)"))
"""Names of several types, and of one so many times; `*arguments` of a function are one, too."""

OMITTED = re.compile(r"omitted\(default=(.*)\)")
"""An argument that the call leaves at its default, a number."""


def type_of(name):
    """Return the type of a name; TypeError if no piece can take it."""
    if found := TUPLE.fullmatch(name) or UNIFORM.fullmatch(name):
        several, inside, *times = found.groups()
        parts = tuple(map(type_of, [inside] * int(times[0]) if times else _split(inside)))
        return types.StarArgTuple(parts) if several else types.BaseTuple.from_types(parts)
    if found := OMITTED.fullmatch(name):
        return types.Omitted(ast.literal_eval(found[1]))
    found = ARRAY.fullmatch(name)
    kind = BY_NAME.get(found[3] if found else name)
    if kind is None:
        raise TypeError(f"a slot takes numbers, arrays and records of fastmlp's, got {name}")
    if not found:
        return kind
    unaligned, readonly, _, ndim, layout = found.groups()
    return types.Array(kind, int(ndim), layout, readonly=bool(readonly), aligned=not unaligned)


def _split(names):
    """Return names that commas separate; those within parentheses and brackets do not."""
    parts, depth = [""], 0
    for letter in names:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]
