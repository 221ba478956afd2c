"""Likelihoods: losses of several outputs for each target, as a mean and a spread; see `losses`.

A formula takes the outputs of a target as a tuple, and gives the loss and a tuple of derivatives. Terms of
the targets alone are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fastmlp.formulas import elementary
from fastmlp.formulas.numbers import at_least, at_most, fma, where
from fastmlp.model.own_losses import BuiltInLoss, Loss, built_in

LIKELIHOODS: dict[str, Loss] = {}
"""All likelihoods by name."""

LEAST_LOG_VARIANCE = math.log(1e-6)
"""The lower clamp of `gaussian`'s log variance, as the eps of torch.nn.GaussianNLLLoss."""

MOST_LOG_DISPERSION = 20.0
"""The upper clamp of `negative_binomial`'s log dispersion; the lower clamp is the negative."""


@built_in(LIKELIHOODS, "identity", by_logit=True, outputs_per_target=2)
def gaussian(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """(log v + (y - mean)^2 / v) / 2, with log v as the second output; and both derivatives."""
    mean, log_variance = z
    held = at_least(log_variance, LEAST_LOG_VARIANCE)
    precision, r = elementary.exp(-held), mean - y
    scaled = r * precision
    # Below the least v the derivative by log v is that of torch.nn.GaussianNLLLoss, so that v can grow again.
    passed = elementary.exp(at_most(log_variance - held, 0.0))
    return 0.5 * fma(r, scaled, held), (scaled, 0.5 * passed * fma(-r, scaled, 1.0))


@dataclass(frozen=True)
class Gaussian(BuiltInLoss):
    """-log of a normal density, with two outputs a target: the mean, and the log variance.

    As torch.nn.GaussianNLLLoss(input=mean, var=exp(log variance)) with an eps of 1e-6, the least variance. A
    network for k columns of y has 2 k outputs: k means, then k log variances.
    """

    entry = LIKELIHOODS["gaussian"]


@built_in(LIKELIHOODS, "identity", by_logit=True, outputs_per_target=2, targets="at least 0")
def negative_binomial(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """-log of the probability of y, of mean m and variance m + d m^2, without log(y!).

    With r = 1 / d: log G(r) - log G(y + r) + r log(1 + m / r) + y log(1 + r / m), G the gamma function.
    """
    (log_mean, log_dispersion), limit = z, MOST_LOG_DISPERSION
    held = at_most(at_least(log_dispersion, -limit), limit)
    beyond = (log_dispersion > limit) | (log_dispersion < -limit)
    r, u = elementary.exp(-held), log_mean + held  # e^u = m / r
    of_r, of_y = elementary.softplus(u), elementary.softplus(-u)
    a = elementary.sigmoid(u)
    by_u = fma(r, a, -y * (1.0 - a))
    log_ratio, by_r = log_gamma_ratio(y, r)
    value = fma(r, of_r, fma(y, of_y, -log_ratio))
    return value, (by_u, where(beyond, 0.0, fma(r, by_r - of_r, by_u)))


@dataclass(frozen=True)
class NegativeBinomial(BuiltInLoss):
    """-log of the probability of a count without log(y!), with two outputs a target.

    The outputs are the logarithms of the mean m and of the dispersion d, for a variance of m + d m^2; d is
    clamped to e^-20 and e^20. The same as torch.distributions.NegativeBinomial(1 / d, logits=log m + log d).
    A network for k columns of y has 2 k outputs: k log means, then k log dispersions.
    """

    entry = LIKELIHOODS["negative_binomial"]


RAISED = 8
"""The shift of arguments before Stirling's series, with a first lost term of 1e-14."""

STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
"""log G(x) = (x - 1/2) log x - x + log(2 pi) / 2 + sum of STIRLING[k] x^-(2k + 1) (DLMF 5.11.1)."""


def log_gamma_ratio(y: Any, r: Any) -> tuple[Any, Any]:
    """log(G(y + r) / G(r)) for y >= 0 and r > 0, and the derivative by r, without cancellation."""
    low, high = r + float(RAISED), y + r + float(RAISED)
    growth = elementary.log1p(y / low)
    (of_low, by_low), (of_high, by_high) = _correction(low), _correction(high)
    value = fma(low - 0.5, growth, y * (elementary.log(high) - 1.0)) + (of_high - of_low)
    by_r = growth + 0.5 * (1.0 / low - 1.0 / high) + (by_high - by_low)  # log x - 1 / (2 x) at both ends
    for first in range(0, RAISED, 4):  # G(x + 8) = x (x + 1) .. (x + 7) G(x); the product of 8 would overflow
        ratio = 1.0
        for k in range(first, first + 4):
            part = y / (r + float(k))
            ratio = ratio * (1.0 + part)
            by_r = by_r + part / (y + r + float(k))
        value = value - elementary.log(ratio)
    return value, by_r


def _correction(x: Any) -> tuple[Any, Any]:
    """Return Stirling's sum at x >= 8, and the derivative."""
    inverse = 1.0 / x
    square = inverse * inverse
    value, slope = STIRLING[-1], STIRLING[-1] * (2.0 * len(STIRLING) - 1.0)
    for k in range(len(STIRLING) - 2, -1, -1):
        value = value * square + STIRLING[k]
        slope = slope * square + STIRLING[k] * (2.0 * k + 1.0)
    return value * inverse, -slope * square
