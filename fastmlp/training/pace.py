"""Bounds of how long steps may take, before any has been measured, and what long calls are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.sparse import SparseRows
from fastmlp.system.interrupts import until_stopped
from fastmlp.training.callbacks import Run

Result = TypeVar("Result")

LONG_SECONDS = 0.5
"""A step that may take so long runs in a thread that Ctrl-C can leave behind; the thread takes 0.1 ms."""

LAYER_SECONDS = 8e-5
"""What the reference takes for a layer in a step, however small: without it a first chunk is too long."""


def visited_by_a_row(network: Network, data: Data) -> int:
    """Return how many parameters a row is multiplied with: of sparse ones, for its non-zeros."""
    inputs, count = data.inputs, parameter_count(network)
    if not isinstance(inputs, SparseRows):
        return count
    network.check_sparse(True)
    first = next(one for one in network.operations if one.sparse_in)
    return count + (len(inputs.values) // max(1, len(inputs)) - inputs.n_in) * first.n_out


def most_seconds(parameters: int, rows: int) -> float:
    """Return a bound on the time of so many rows: 6 flops a weight and 200 a row, at 2 GF/s."""
    return rows * (6 * parameters + 200) / 2e9


def is_long(seconds: float) -> bool:
    """Return whether a call of so many seconds runs in a thread that Ctrl-C can leave behind."""
    return seconds >= LONG_SECONDS


def rows_at_once(parameters: int) -> int:
    """Return how many rows are evaluated between two looks whether the training shall stop."""
    return max(256, int(LONG_SECONDS / most_seconds(parameters, 1)))


def interruptible(run: Run, rows: int, call: Callable[[], Result]) -> Result:
    """Return call(), which works on so many rows; LeftBehind if that is long and the training shall stop."""
    if most_seconds(run.parameters.size, rows) < LONG_SECONDS:
        return call()
    return until_stopped(call, lambda: run.stop_reason is not None)
