"""The loss of narrow outputs, sixteen rows abreast.

An output layer has 1, 2 or 10 units more often than 100, and loops over so few fill no vector: the
softmax and cross-entropy of 128 rows of 10 took 14 us. Here the lanes are rows. The logits and targets
of sixteen rows are turned on their side, every sum over units becomes a sum over vectors, and the
deltas are turned back: 4 us.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from __future__ import annotations

from fastmlp.activations import EXP, SIGMOID, SOFTMAX
from fastmlp.kernels.panels import transpose
from fastmlp.kernels.residuals import element_loss, likelihood_bounds, within
from fastmlp.kernels.scalars import log
from fastmlp.kernels.views import lesser, matrix, vector
from fastmlp.losses import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, POISSON, POISSON_DEVIANCE

LANES = 16
"""Rows abreast: a wide vector of float32, two of float64."""

MOST_UNITS = 56
"""Of wider outputs the scratch does not hold sixteen rows in float64."""


def narrow_output_loss(loss, output, parameter, share, z, targets, weights, scratch, delta):
    """As `baseline.output_loss`, for z of at most MOST_UNITS columns."""
    rows, units = z.shape
    # Always LANES, but not for LLVM, which would unroll all loops over 16 lanes instead of making one vector.
    lanes = lesser(LANES, len(scratch))
    size = units * lanes
    logits, wanted = matrix(scratch, 0, units, lanes), matrix(scratch, size, units, lanes)
    outputs, sums = matrix(scratch, 2 * size, units, lanes), matrix(scratch, 3 * size, 4, lanes)
    scales, losses = vector(sums, 0, lanes), vector(sums, lanes, lanes)
    least, most = likelihood_bounds(parameter, z.dtype.type(0))
    objective = 0.0
    for start in range(0, rows, LANES):
        count = lesser(LANES, rows - start)
        # Lanes beyond the last row hold what was there before; nothing reads them.
        transpose(count, units, z, start * units, units, logits, 0, LANES)
        transpose(count, units, targets, start * units, units, wanted, 0, LANES)
        for i in range(count):
            scales[i] = share * weights[start + i]
        if output == SOFTMAX:
            softmax_abreast(logits, outputs, sums)
        else:
            activate(output, logits, outputs)
        if loss == CROSS_ENTROPY:
            cross_entropy_abreast(least, most, logits, wanted, outputs, sums)
        elif loss == BINARY_CROSS_ENTROPY or loss == POISSON or loss == POISSON_DEVIANCE:
            likelihood_abreast(loss, least, most, logits, wanted, outputs, sums)
        else:
            element_losses_abreast(loss, output, parameter, wanted, outputs, sums)
        transpose(units, count, outputs, 0, LANES, delta, start * units, units)
        for i in range(count):
            if scales[i] == 0:
                # 0 * inf must not arise: a row without weight contributes exactly nothing.
                for j in range(units):
                    delta[start + i, j] = 0
            else:
                objective += losses[i]
    return objective


def softmax_abreast(logits, outputs, sums):
    """Outputs (units, LANES) = softmax down the columns; logits less their maximum;
    sums[2] = the logarithm of the sum of their exponentials."""
    lanes = sums.shape[1]
    top, total = vector(sums, 3 * lanes, lanes), vector(sums, 2 * lanes, lanes)
    one = sums.dtype.type(1)
    first = vector(logits, 0, lanes)
    for i in range(lanes):
        top[i] = first[i]
        total[i] = 0
    for j in range(1, len(logits)):
        z = vector(logits, j * lanes, lanes)
        for i in range(lanes):
            top[i] = z[i] if z[i] > top[i] else top[i]
    for j in range(len(logits)):
        z, a = vector(logits, j * lanes, lanes), vector(outputs, j * lanes, lanes)
        for i in range(lanes):
            z[i] -= top[i]
            a[i] = exp(z[i])
            total[i] += a[i]
    inverse = top
    for i in range(lanes):
        inverse[i] = one / total[i]
        total[i] = log(total[i])
    for j in range(len(logits)):
        a = vector(outputs, j * lanes, lanes)
        for i in range(lanes):
            a[i] *= inverse[i]


def cross_entropy_abreast(least, most, logits, wanted, outputs, sums):
    """losses = scale * sum of wanted * (log of the sum - logits); outputs become their derivative."""
    lanes = sums.shape[1]
    scales, losses = vector(sums, 0, lanes), vector(sums, lanes, lanes)
    log_total = vector(sums, 2 * lanes, lanes)
    for i in range(lanes):
        losses[i] = 0
    for j in range(len(logits)):
        z, a = vector(logits, j * lanes, lanes), vector(outputs, j * lanes, lanes)
        y = vector(wanted, j * lanes, lanes)
        for i in range(lanes):
            losses[i] += y[i] * (log_total[i] - z[i])
            a[i] = scales[i] * (a[i] - y[i])
    for i in range(lanes):
        losses[i] = scales[i] * within(losses[i], least, most)


def likelihood_abreast(loss, least, most, logits, wanted, outputs, sums):
    """Binary cross-entropy or a poisson loss, on the logits; outputs become the derivative by them."""
    lanes = sums.shape[1]
    scales, losses = vector(sums, 0, lanes), vector(sums, lanes, lanes)
    one = outputs.dtype.type(1)
    for i in range(lanes):
        losses[i] = 0
    for j in range(len(logits)):
        z, a = vector(logits, j * lanes, lanes), vector(outputs, j * lanes, lanes)
        y = vector(wanted, j * lanes, lanes)
        if loss == POISSON or loss == POISSON_DEVIANCE:
            for i in range(lanes):
                losses[i] += scales[i] * (a[i] - y[i] * z[i])
            if loss == POISSON_DEVIANCE:
                for i in range(lanes):
                    if y[i] != 0:
                        losses[i] += scales[i] * y[i] * (log(y[i]) - one)
        else:
            for i in range(lanes):
                value = softplus(z[i]) - z[i] * y[i]
                losses[i] += scales[i] * within(value, least, most)
        for i in range(lanes):
            a[i] = scales[i] * (a[i] - y[i])


def element_losses_abreast(loss, output, parameter, wanted, outputs, sums):
    """Losses of the residuals outputs - wanted; outputs become the derivative by the logits."""
    lanes = sums.shape[1]
    scales, losses = vector(sums, 0, lanes), vector(sums, lanes, lanes)
    along = vector(sums, 2 * lanes, lanes)
    one = outputs.dtype.type(1)
    for i in range(lanes):
        losses[i] = 0
        along[i] = 0
    if output == SOFTMAX:
        for j in range(len(outputs)):
            a, y = vector(outputs, j * lanes, lanes), vector(wanted, j * lanes, lanes)
            for i in range(lanes):
                along[i] += a[i] * element_loss(loss, parameter, a[i] - y[i])[1]
    for j in range(len(outputs)):
        a, y = vector(outputs, j * lanes, lanes), vector(wanted, j * lanes, lanes)
        for i in range(lanes):
            value, by_a = element_loss(loss, parameter, a[i] - y[i])
            losses[i] += scales[i] * value
            slope = one
            if output == SOFTMAX:
                by_a -= along[i]
                slope = a[i]
            elif output == SIGMOID:
                slope = a[i] * (one - a[i])
            elif output == EXP:
                slope = a[i]
            a[i] = scales[i] * by_a * slope
