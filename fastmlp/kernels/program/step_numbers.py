"""Numbers of a step: factors of the loss, parts of workers, rows taken together.

Templates as in `step_templates`, called by all of them.
"""

# mypy: ignore-errors

from __future__ import annotations

from fastmlp.formulas.numbers import at_most, where
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.codegen.views import chosen
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.records import SLICE_ROWS, UNBOUNDED
from fastmlp.kernels.program.slots import streams
from fastmlp.kernels.thresholds import threshold

ALL_ROWS = 1 << 30
"""More rows than any batch has."""

block_rows, streamed_bytes = threshold("block_rows"), threshold("streamed_bytes")


@jittable
def loss_factor(divisor, total):
    """Return the factor of an element's weighted loss: 1 / (total weight * divisor), or 0 without weight."""
    return where(total > 0.0, 1.0 / (total * divisor), 0.0)


@jittable
def penalty_factor(shared: bool, total):
    """Return the factor of the penalties: 1, or 1 / total weight where the batch shares them."""
    return where(shared, where(total > 0.0, 1.0 / total, 0.0), 1.0)


def whole(count, unit):
    """Return the units for `count` items; the last unit may be part empty."""
    return (count + unit - 1) // unit


@jittable
def parts_of(rows: int):
    """Return the number of partial sums of a batch's loss."""
    return whole(rows, LOSS_ROWS)


@jittable
def worker_part(count: int, worker: int, workers: int, unit: int) -> tuple[int, int]:
    """Return the worker's part [first, last) of `count` items, in units."""
    units = whole(count, unit)
    first, last = (units * before // workers * unit for before in (worker, worker + 1))
    return at_most(first, count), at_most(last, count)


@jittable
def slice_of(numbers: int, n_out: int):
    """Return the rows of a gradient in `numbers` numbers, a multiple of SLICE_ROWS."""
    return numbers // n_out // SLICE_ROWS * SLICE_ROWS


@jittable
def rows_together(block: int, members: int):
    """Return how many rows of a batch are a block of rows of its members.

    Fewer than LOSS_ROWS rows only where the rows of all members are whole LOSS_ROWS; else several LOSS_ROWS.
    """
    together = whole(block, members * LOSS_ROWS) * LOSS_ROWS
    # From the most rows down: the fewest rows whose members are enough, in whole LOSS_ROWS, win.
    for rows in (8, 4, 2, 1):
        every = members * rows
        together = where((every >= block) & (every % LOSS_ROWS).equals(0), members.number(rows), together)
    return where(members > 1, together, block)


def block_of(call):
    """Return how many rows a worker takes through the layers together."""
    # Parameters that outgrow L2 are read from memory once for all rows, not once a block.
    stay = call.size * call.parameters.itemsize < streamed_bytes()
    return chosen(streams() and stay, rows_together(block_rows(), call.members), ALL_ROWS)


def left_whole(call):
    """Return whether the whole gradient is written to call.gradients before any update."""
    clips, orthogonal = call.rules[0, 0].clip_norm < UNBOUNDED, call.matrix_size > 0
    return clips | (call.summing > 0) | orthogonal | (call.accumulates > 0)


@jittable
def rows_of_bucket(together: int, n_out: int, n_in: int):
    """Return the fewest rows of weights, in whole SLICE_ROWS, with `together` numbers."""
    return at_most(whole(together, n_out * SLICE_ROWS) * SLICE_ROWS, n_in)
