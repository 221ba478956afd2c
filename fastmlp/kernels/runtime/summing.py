"""Functions that a program calls in the middle of a step (`call_back`) to have numbers summed over ranks.

Whatever sums over processes is a library of Python's.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastmlp.kernels.program.records import UNSUMMED
from fastmlp.model.backend import Shared

SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class Summing:
    """The functions of a `Shared` as functions that programs call.

    gradients : (P,), of which programs name ranges
    addresses : of `shared.add`, and of `shared.total` of such a range
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

        self._errors, self._barrier = errors, barrier
        self._functions = [SIGNATURE(functools.partial(summed, one)) for one in (shared.add, total)]
        # Not by `ctypes.cast`, whose result and argument hold one another: a cycle would keep the rows.
        self.addresses = [ctypes.c_void_p.from_buffer(one).value or 0 for one in self._functions]

    def check(self) -> None:
        """Raise the error that ended the program, if one did.

        ctypes drops one that arises before the function's first line. Only a second Ctrl-C does that.
        """
        if self._barrier[UNSUMMED]:
            raise self._errors[0] if self._errors else KeyboardInterrupt
