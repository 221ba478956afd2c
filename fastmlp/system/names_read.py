"""The global names in a function's bytecode, which depends on Python's release; tried on 3.11 to 3.15."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator


@functools.lru_cache(maxsize=1024)
def names_of(code: types.CodeType) -> dict[str, int]:
    """Return globals and builtins read by a function, with nested functions, each with its first line.

    The names are cached: a first fit calls this 1500 times.
    """
    names: dict[str, int] = {}
    for each in _codes_within(code):
        for instruction in dis.get_instructions(each):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                line = instruction.positions.lineno if instruction.positions else None
                names.setdefault(str(instruction.argval), line or each.co_firstlineno)
    return names


def _codes_within(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code, and the codes of nested functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes_within(constant)
