"""The loss of a batch, for sixteen rows at once.

A sum over a row's units is a chain of additions, and a row of 10 units fills no vector: the softmax and cross-entropy
of 128 such rows took 14 us row by row, those of 200 units 9 ns a unit. Here each lane holds a row. The logits and
targets of sixteen rows are transposed, every sum over units becomes a sum of vectors, and the deltas are transposed
back: 3 us, and 1 ns a unit.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

from fastmlp.kernels.codegen.scalars import ROW, loss_form
from fastmlp.kernels.codegen.views import lesser, matrix
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.elementwise import batched
from fastmlp.kernels.elementwise.batched import LANES
from fastmlp.kernels.gemm.packing import transpose


def output_loss(loss, output, parameters, share, z, targets, weights, scratch, delta):
    """Contract of baseline's slot. scratch : of 3 * LANES * (units + 1) numbers"""
    rows, units = z.shape
    size = units * LANES
    logits, expected = matrix(scratch, 0, units, LANES), matrix(scratch, size, units, LANES)
    outputs, sums = matrix(scratch, 2 * size, units, LANES), matrix(scratch, 3 * size, 3, LANES)
    clips = parameters[0] < 0
    objective = 0.0
    for start in range(0, rows, LANES):
        count = lesser(LANES, rows - start)
        # Lanes beyond the last row hold old numbers; their results are not used.
        transpose(count, units, z, start * units, units, logits, 0, LANES)
        transpose(count, units, targets, start * units, units, expected, 0, LANES)
        batched.weigh(share, weights, start, count, sums)
        if output == SOFTMAX:
            batched.softmax(logits, outputs, sums)
            if loss_form(loss) == ROW:  # it reads the logits before `softmax` subtracted their maximum
                transpose(count, units, z, start * units, units, logits, 0, LANES)
        else:
            activate(output, logits, outputs)
        batched.element_losses(loss, output, clips, parameters, logits, expected, outputs, sums)
        batched.blank(outputs, sums)
        transpose(units, count, outputs, 0, LANES, delta, start * units, units)
        objective += batched.total_loss(count, sums)
    return objective
