"""The other end of `fastmlp.kernels.program.summing`: Python that a program calls in the middle of a step."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastmlp.kernels.program.records import UNSUMMED

SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class Summing:
    """A function of Python's as one that programs call; address : of that.

    add : see `fastmlp.model.backend.Shared`
    barrier : of the program, where success is told
    """

    def __init__(self, add: Callable[[int, int, int], None], barrier: NDArray[Any]) -> None:
        errors: list[BaseException] = []

        def told(step: int, first: int, last: int) -> None:
            try:
                add(step, first, last)
                barrier[UNSUMMED] = 0
            except BaseException as error:
                errors.append(error)

        self._errors, self._barrier, self._function = errors, barrier, SIGNATURE(told)
        # Not by `ctypes.cast`, whose result and argument hold one another: a cycle would keep the rows.
        self.address = ctypes.c_void_p.from_buffer(self._function).value or 0

    def check(self) -> None:
        """Raise the error that ended the program, if one did.

        ctypes drops one that arises before the function's first line. Only a second Ctrl-C does that.
        """
        if self._barrier[UNSUMMED]:
            raise self._errors[0] if self._errors else KeyboardInterrupt
