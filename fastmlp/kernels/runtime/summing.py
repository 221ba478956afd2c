"""Functions that a program calls in the middle of a step (`call_back`) to have numbers summed over ranks.

Whatever sums over processes is a library of Python's.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.program.records import UNSUMMED
from fastmlp.kernels.runtime.validation import check_array
from fastmlp.model.backend import Chunk, Shared

SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class Summing:
    """The functions of a `Shared` as functions that programs call.

    gradients : (P,), of which programs name ranges
    barrier : of the program, where success is written
    """

    def __init__(self, shared: Shared, gradients: NDArray[Any], barrier: NDArray[Any]) -> None:
        errors: list[BaseException] = []

        def total(step: int, first: int, last: int) -> None:
            shared.total(gradients[first:last])

        def summed(function: Callable[[int, int, int], None], step: int, first: int, last: int) -> None:
            try:
                function(step, first, last)
                barrier[UNSUMMED] = 0
            except BaseException as error:
                errors.append(error)

        self._shared, self._errors, self._barrier = shared, errors, barrier
        self._functions = [SIGNATURE(functools.partial(summed, one)) for one in (shared.add, total)]

    def words_of(self, chunk: Chunk) -> dict[str, Any]:
        """Return the words of a call record for ranks that share a chunk's steps."""
        shared = self._shared
        check_array("places", shared.places, chunk.order.shape, np.int64)
        check_array("batch_rows", shared.batch_rows, chunk.starts.shape, np.int64)
        # Not by `ctypes.cast`, whose result and argument hold one another: a cycle would keep the rows.
        summing, totalling = (ctypes.c_void_p.from_buffer(one).value or 0 for one in self._functions)
        found: dict[str, Any] = {
            "summing": summing, "totalling": totalling, "leads": int(shared.leads),
            "together": shared.together, "places": shared.places, "placed": len(shared.places),
            "batch_rows": shared.batch_rows,
        }  # fmt: skip
        if shared.touched is not None:
            found |= {"touched": shared.touched, "marks": len(shared.touched)}
        if shared.row_marks is not None:
            found |= {"row_marks": shared.row_marks, "table_rows": len(shared.row_marks)}
        return found

    def check(self) -> None:
        """Raise the error that ended the program, if one did.

        ctypes drops one that arises before the function's first line. Only a second Ctrl-C does that.
        """
        if self._barrier[UNSUMMED]:
            raise self._errors[0] if self._errors else KeyboardInterrupt
