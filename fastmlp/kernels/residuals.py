"""The losses of a single residual, and the bounds of a likelihood: formulas for every loop over outputs."""

# mypy: ignore-errors

from __future__ import annotations

import math

from fastmlp.kernels.symbols import Constant, at_least, at_most, magnitude, where
from fastmlp.losses import HUBER, MAE, MSE, PINBALL


def squared(parameter, r):
    """r^2."""
    return r * r, r + r


def absolute(parameter, r):
    """|r|."""
    return magnitude(r), where(r > 0.0, 1.0, where(r < 0.0, -1.0, r))


def huber(d, r):
    """r^2 / 2 up to |r| = d, and its tangent beyond."""
    size = magnitude(r)
    near = size <= d
    beyond = where(r > 0.0, d, where(r < 0.0, -d, r))
    return where(near, 0.5 * r * r, d * (size - 0.5 * d)), where(near, r, beyond)


def pinball(q, r):
    """|r|, (1 - q) times above 0 and q times below."""
    slope = where(r > 0.0, 1.0 - q, where(r < 0.0, -q, r.number(0.0)))
    return r * slope, slope


ELEMENT_LOSSES = {MSE: squared, MAE: absolute, HUBER: huber, PINBALL: pinball}


def element_loss(loss: int, parameter, r) -> tuple[float, float]:
    """An element-wise loss, given its code, of the residual r = a - target, and its derivative by a."""
    value = slope = r.number(0.0)
    for code, formula in ELEMENT_LOSSES.items():
        # A choice among four values, not of a way: where the code is a constant, LLVM leaves one.
        of_code = formula(parameter, r)
        value, slope = (
            where(loss.equals(code), new, old) for new, old in zip(of_code, (value, slope), strict=True)
        )
    return value, slope


# Of a probability of 1 - eps and of eps.
LEAST_CROSS_ENTROPY = Constant(-math.log1p(-(2.0**-23)), -math.log1p(-(2.0**-52)))
MOST_CROSS_ENTROPY = Constant(-math.log(2.0**-23), -math.log(2.0**-52))


def likelihood_bounds(clips: bool, like) -> tuple[float, float]:
    """The least and greatest cross-entropy to report, in `like`'s dtype; infinite unless the loss `clips`."""
    least, most = like.number(LEAST_CROSS_ENTROPY), like.number(MOST_CROSS_ENTROPY)
    return where(clips, least, -math.inf), where(clips, most, math.inf)


def within(value, least, most):
    """The value, or the bound that it is beyond; a NaN stays one."""
    return at_most(at_least(value, least), most)
