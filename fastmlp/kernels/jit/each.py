"""Many calls in one: a function of machine code that runs entry points on their call records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import Engine, Entry, common
from fastmlp.system.locks import once

SYMBOL = "fastmlp:each"

TEXT = f"""
define ptr @"{SYMBOL}"(ptr %table, i64 %worker, i64 %workers) {{
begin:
  %count = load i64, ptr %table
  br label %head
head:
  %number = phi i64 [ %worker, %begin ], [ %next, %body ]
  %failed = phi ptr [ null, %begin ], [ %found, %body ]
  %left = icmp slt i64 %number, %count
  %sound = icmp eq ptr %failed, null
  %goes_on = and i1 %left, %sound
  br i1 %goes_on, label %body, label %end
body:
  %words = shl i64 %number, 1
  %place = add i64 %words, 1
  %of_function = getelementptr i64, ptr %table, i64 %place
  %of_call = getelementptr i64, ptr %of_function, i64 1
  %function = load ptr, ptr %of_function
  %call = load ptr, ptr %of_call
  %found = call ptr %function(ptr %call, i64 0, i64 1)
  %next = add i64 %number, %workers
  br label %head
end:
  ret ptr %failed
}}
"""
"""An entry point. Of the calls in its table worker w of n runs numbers w, w + n, .. up to the first error."""


@once
def each() -> Entry:
    """Return the entry point; it is made once in a process, in some milliseconds."""
    common()
    engine = Engine(TEXT)
    return Entry(engine.address_of(SYMBOL), engine)


def table_of(functions: Sequence[int], calls: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return what `each` is called on: the number of calls, and of each its entry point and its record."""
    table = np.empty(1 + 2 * len(calls), np.int64)
    table[0], table[1::2], table[2::2] = len(calls), functions, calls
    return table
