"""The losses of a single residual, for every loop over outputs however it is laid out."""

# mypy: ignore-errors

from __future__ import annotations

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
