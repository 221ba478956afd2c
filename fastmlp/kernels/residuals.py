"""The losses of a single residual, and the bounds of a likelihood, for every loop over outputs."""

# mypy: ignore-errors

from __future__ import annotations

import math

from fastmlp.kernels.symbols import Constant, jittable
from fastmlp.losses import HUBER, MAE, MSE, PINBALL


def element_loss(loss, parameter, r):
    """An element-wise loss of the residual r = a - target, and its derivative by a."""
    real = type(r)
    zero, half, one = real(0), real(0.5), real(1)
    if loss == MSE:
        return r * r, r + r
    if loss == MAE:
        return abs(r), one if r > zero else (-one if r < zero else r)
    if loss == HUBER:
        d = real(parameter)
        if abs(r) <= d:
            return half * r * r, r
        return d * (abs(r) - half * d), d if r > zero else -d
    if loss == PINBALL:
        q = real(parameter)
        slope = one - q if r > zero else (-q if r < zero else zero)
        return r * slope, slope
    return zero, zero


# Of a probability of 1 - eps and of eps.
LEAST_CROSS_ENTROPY = Constant(-math.log1p(-(2.0**-23)), -math.log1p(-(2.0**-52)))
MOST_CROSS_ENTROPY = Constant(-math.log(2.0**-23), -math.log(2.0**-52))


def clipping(like):
    """The formula of the least and the greatest cross-entropy in the dtype of `like`."""
    return like.number(LEAST_CROSS_ENTROPY), like.number(MOST_CROSS_ENTROPY)


bounds_of = jittable(clipping, results=2)


def likelihood_bounds(parameter, like):
    """The least and the greatest cross-entropy to report, in `like`'s dtype; bounds unless parameter is 0."""
    if parameter == 0:
        return type(like)(-math.inf), type(like)(math.inf)
    return bounds_of(like)


def within(value, least, most):
    """The value, or the bound that it is beyond; a NaN stays one."""
    value = least if value < least else value
    return most if value > most else value
