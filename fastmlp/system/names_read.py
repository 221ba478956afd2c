"""The global names in a function's bytecode, which depends on Python's release; tried on 3.11 to 3.15."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Iterator
from typing import NamedTuple


class FunctionNames(NamedTuple):
    """The names in a function and in nested functions.

    read : globals and builtins, each with the first line of use
    attributes : of any object
    imported : modules imported at run time
    """

    read: dict[str, int]
    attributes: tuple[str, ...]
    imported: tuple[str, ...]


@functools.lru_cache(maxsize=1024)
def names_of(code: types.CodeType) -> FunctionNames:
    """Return the names in the code of a function, cached: a first fit calls this 1500 times."""
    by_kind: dict[str, dict[str, int]] = {"LOAD_GLOBAL": {}, "LOAD_NAME": {}, "IMPORT_NAME": {}}
    codes = [*codes_within(code)]
    for each in codes:
        for instruction in dis.get_instructions(each):
            if instruction.opname in by_kind:
                line = instruction.positions.lineno if instruction.positions else None
                by_kind[instruction.opname].setdefault(str(instruction.argval), line or each.co_firstlineno)
    read, others, imported = by_kind.values()
    return FunctionNames(
        read | others, tuple(dict.fromkeys(n for one in codes for n in one.co_names)), (*imported,)
    )


def codes_within(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code, and the codes of nested functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_within(constant)
