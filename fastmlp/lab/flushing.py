"""Subnormal numbers taken for 0 in this thread, as an entry point has it while it trains."""

# mypy: ignore-errors

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from numba import njit, types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.subnormals import flushing_arithmetic, normal_arithmetic


def _switch(emit):
    @intrinsic
    def switch(typing_context):
        def generate(context, builder, signature, args):
            emit(builder)
            return context.get_dummy_value()

        return types.none(), generate

    return njit(lambda: switch())


_flush, _restore = _switch(flushing_arithmetic), _switch(normal_arithmetic)


@contextlib.contextmanager
def subnormals_flushed() -> Iterator[None]:
    """Take subnormal numbers for 0."""
    _flush()
    try:
        yield
    finally:
        _restore()
