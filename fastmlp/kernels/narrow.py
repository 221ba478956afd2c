"""The loss of narrow outputs, sixteen rows abreast.

An output layer has 1, 2 or 10 units more often than 100, and loops over so few fill no vector: the
softmax and cross-entropy of 128 rows of 10 took 14 us. Here the lanes are rows. The logits and targets
of sixteen rows are turned on their side, every sum over units becomes a sum over vectors, and the
deltas are turned back: 3 us.

Exponentials and logarithms are the formulas', not slots of a variant: one that overrides `exp` or `softplus`
may take baseline's `output_loss`, which calls them.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

from fastmlp.activations import SOFTMAX
from fastmlp.kernels import abreast
from fastmlp.kernels.abreast import LANES
from fastmlp.kernels.panels import transpose
from fastmlp.kernels.scalars import likelihood_bounds
from fastmlp.kernels.views import lesser, matrix
from fastmlp.losses import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, POISSON, POISSON_DEVIANCE

MOST_UNITS = 56
"""Of wider outputs the scratch does not hold sixteen rows in float64."""


def output_loss(loss, output, parameter, share, z, targets, weights, scratch, delta):
    """As baseline; sixteen rows abreast where units would not fill the vectors."""
    rows, units = z.shape
    if units > MOST_UNITS:
        return wide_output_loss(loss, output, parameter, share, z, targets, weights, scratch, delta)
    size = units * LANES
    logits, wanted = matrix(scratch, 0, units, LANES), matrix(scratch, size, units, LANES)
    outputs, sums = matrix(scratch, 2 * size, units, LANES), matrix(scratch, 3 * size, 3, LANES)
    parameter = z.dtype.type(parameter)
    least, most = likelihood_bounds(parameter != 0, parameter)
    objective = 0.0
    for start in range(0, rows, LANES):
        count = lesser(LANES, rows - start)
        # Lanes beyond the last row hold what was there before; nothing reads them.
        transpose(count, units, z, start * units, units, logits, 0, LANES)
        transpose(count, units, targets, start * units, units, wanted, 0, LANES)
        abreast.weigh(share, weights, start, count, sums)
        if output == SOFTMAX:
            abreast.softmax(logits, outputs, sums)
        else:
            activate(output, logits, outputs)
        if loss == CROSS_ENTROPY:
            abreast.cross_entropy(least, most, logits, wanted, outputs, sums)
        elif loss == BINARY_CROSS_ENTROPY:
            abreast.binary_cross_entropy(least, most, logits, wanted, outputs, sums)
        elif loss == POISSON or loss == POISSON_DEVIANCE:
            abreast.poisson(loss == POISSON_DEVIANCE, logits, wanted, outputs, sums)
        else:
            abreast.element_losses(loss, output, parameter, wanted, outputs, sums)
        abreast.blank(outputs, sums)
        transpose(units, count, outputs, 0, LANES, delta, start * units, units)
        objective += abreast.total_loss(count, sums)
    return objective
