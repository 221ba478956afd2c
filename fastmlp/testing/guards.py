"""Arrays with guards around them: a kernel that writes beyond one changes a guard.

Separate from the cases that are made of them. What a kernel reads beyond an array is NaN, or -1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.layout import ALIGNMENT

Array = NDArray[Any]

LEAST = 256
"""Bytes of a guard at least: the widest vector, four times."""

GUARD = 0xFF
"""Each byte of a guard."""


class _GuardedBytes(np.ndarray[Any, Any]):
    """The bytes of a guarded array, its base. between : slice of those that are not guards"""

    between: slice


def guarded(array: Array) -> Array:
    """Return a copy that begins at a cache line, with a row of guards before it and one after it.

    A guard is as long as a row of the array, and at least `LEAST` bytes.
    """
    row = array.nbytes // max(1, len(array)) if array.ndim > 1 else 0
    guard = -(-max(row, LEAST) // ALIGNMENT) * ALIGNMENT
    memory = _GuardedBytes(guard + array.nbytes + guard + ALIGNMENT, np.uint8)
    memory[:] = GUARD
    first = guard + -memory.ctypes.data % ALIGNMENT
    memory.between = slice(first, first + array.nbytes)
    inside: Array = np.ndarray(array.shape, array.dtype, memory, first)
    inside[...] = array
    return inside


def overrun(array: Array) -> str | None:
    """Return where a guard of a guarded array was changed, in words; None if none was, or there is none."""
    memory = array.base
    if not isinstance(memory, _GuardedBytes):
        return None
    before, after = memory[: memory.between.start] != GUARD, memory[memory.between.stop :] != GUARD
    if after.any():
        return f"element {int(after.argmax()) // array.itemsize + 1} after its end"
    if before.any():
        return f"element {int(before[::-1].argmax()) // array.itemsize + 1} before its beginning"
    return None
