"""Built-in losses: for each the formula of an element and, for losses with parameters, a class.

Element-wise losses are means over all elements; cross_entropy and focal are means over rows, as in PyTorch;
likelihoods of several outputs a target are means over targets. Each row counts with its sample weight, and a
mean divides by the batch's sum of weights. poisson_deviance is half the Poisson deviance: poisson plus a term
of the targets alone, so that a perfect prediction has loss 0, as in gamma_deviance. The reference repeats the
formulas in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.formulas import elementary
from fastmlp.formulas.numbers import DtypeConstant, at_least, at_most, fma, magnitude, where
from fastmlp.model.loss import LOSSES as LOSSES
from fastmlp.model.loss import BuiltInLoss, Loss, built_in, numbers_of

RANGES = "identity", "sigmoid", "softmax", "exp"
CLASSES = {"of_logs": True, "by_row": True, "targets": "distributions"}
EVENTS = {"by_logit": True, "targets": "within [0, 1]"}
COUNTS = {"by_logit": True, "targets": "at least 0", "sklearn_divisor": 1.0}

# Each formula takes the logit z, the output a, the target y and the parameter, and gives the loss and its
# derivative by the output, or by the logit where `by_logit`.


@built_in(*RANGES, sklearn_divisor=2.0)
def mse(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """(a - y)^2."""
    r = a - y
    return r * r, r + r


@built_in(*RANGES)
def mae(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """|a - y|."""
    r = a - y
    return magnitude(r), elementary.sign(r)


@built_in(*RANGES, parameter=(1.0,))
def huber(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """r^2 / 2 up to |r| = delta, and its tangent beyond; r = a - y."""
    r, d = a - y, parameter
    size = magnitude(r)
    near = size <= d
    beyond = where(r > 0.0, d, where(r < 0.0, -d, r))
    return where(near, 0.5 * r * r, d * (size - 0.5 * d)), where(near, r, beyond)


@dataclass(frozen=True)
class Huber(BuiltInLoss):
    """Squared near the target, and linear beyond (torch.nn.HuberLoss); loss="huber" is `Huber()`.

    Parameters
    ----------
    delta : float
        The change from r^2 / 2 to delta (r - delta / 2), r = ``|output - target|``; above 0.
    """

    entry = LOSSES["huber"]
    delta: float = checks.positive(1.0)


@built_in("sigmoid", clips=True, sklearn_divisor=1.0, **EVENTS)
def binary_cross_entropy(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """log(1 + e^z) - y z, of a logit of any size."""
    return fma(-z, y, elementary.softplus(z)), a - y


@built_in("softmax", by_logit=True, clips=True, **CLASSES)
def cross_entropy(z: Any, a: Any, y: Any, parameters: Any, before: Any) -> tuple[Any, Any]:
    """-y log(a), with smoothed targets: y - smoothing y + smoothing / classes.

    parameters : at 0 smoothing / classes, at 1 smoothing; below 0 for a clipped loss
    """
    y = fma(-at_least(parameters[1], 0.0), y, y) + at_least(parameters[0], 0.0)
    return fma(y, -z, before), a - y


@dataclass(frozen=True)
class CrossEntropy(BuiltInLoss):
    """Cross-entropy of softmax, perhaps with smoothed labels (torch.nn.CrossEntropyLoss).

    Parameters
    ----------
    smoothing : float
        In [0, 1): this fraction of every label is spread over all classes (torch's label_smoothing), in
        training and in validation. With convention="sklearn" the loss of smoothed labels is not clipped.
    """

    entry = LOSSES["cross_entropy"]
    smoothing: float = checks.fraction(0.0)

    def _parameter(self) -> tuple[float, ...] | None:
        return (self.smoothing,) if self.smoothing else None

    def numbers(self, n_out: int) -> tuple[float, ...]:
        """Return smoothing / classes, and smoothing for the other outputs."""
        return self.smoothing / n_out, *(self.smoothing,) * (n_out - 1)


@built_in("exp", **COUNTS)
def poisson(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """a - y log(a), of a logit log(a)."""
    return fma(-y, z, a), a - y


@built_in("identity", "sigmoid", "exp", parameter=(0.5,))
def pinball(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """|r|, (1 - quantile) times above 0 and quantile times below; r = a - y."""
    r = a - y
    slope = where(r > 0.0, 1.0 - parameter, where(r < 0.0, -parameter, r.number(0.0)))
    return r * slope, slope


@dataclass(frozen=True)
class Quantiles(BuiltInLoss):
    """The pinball loss, least at quantiles (Koenker and Bassett 1978); "pinball" is `Quantiles()`.

    Parameters
    ----------
    levels : float or sequence of float
        In (0, 1): a level for all outputs, or for each output. A single column of y is then the target of all
        outputs.
    """

    entry = LOSSES["pinball"]
    levels: float | Sequence[float] = 0.5

    def _parameter(self) -> tuple[float, ...]:
        found = numbers_of("levels", self.levels, 0, 1, open_low=True, open_high=True)
        object.__setattr__(self, "levels", found if np.ndim(self.levels) else found[0])
        return found


@built_in("exp", **COUNTS)
def poisson_deviance(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """`poisson` minus the value of `poisson` at the target."""
    least = where(magnitude(y) < elementary.SMALLEST_NORMAL, 0.0, y * (1.0 - elementary.log(y)))
    return fma(-y, z, a) - least, a - y


@built_in("exp", by_logit=True, targets="above 0")
def gamma_deviance(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """y / a - log(y / a) - 1, half the gamma deviance, of a logit log(a)."""
    log_ratio = elementary.log(at_least(y, elementary.SMALLEST_NORMAL)) - z
    excess = elementary.expm1(log_ratio)
    return excess - log_ratio, -excess


@built_in("softmax", parameter=(2.0,), **CLASSES)
def focal(z: Any, a: Any, y: Any, parameters: Any, before: Any) -> tuple[Any, Any]:
    """-y (1 - a)^gamma log(a)."""
    gamma, rest = parameters[0], -elementary.expm1(z)
    some = rest > elementary.SMALLEST_NORMAL
    factor = where(gamma > 0.0, where(some, elementary.exp(gamma * elementary.log(rest)), 0.0), 1.0)
    ratio = where(some, z / where(some, rest, 1.0), -1.0)  # log(a) / (1 - a), which is -1 at a = 1
    return fma(y * factor, -z, before), -y * factor * fma(-gamma * a, ratio, 1.0)


@dataclass(frozen=True)
class Focal(BuiltInLoss):
    """-(1 - p)^gamma log(p) of the label's probability p, of softmax (Lin and others 2017).

    Parameters
    ----------
    gamma : float
        At least 0; a larger gamma gives rows with a right prediction less weight. 0 is cross-entropy.
    """

    entry = LOSSES["focal"]
    gamma: float = checks.number(2.0, 0)


@built_in("sigmoid", parameter=(2.0,), **EVENTS)
def binary_focal(z: Any, a: Any, y: Any, parameter: Any) -> tuple[Any, Any]:
    """-y (1 - a)^gamma log(a) - (1 - y) a^gamma log(1 - a), of a logit of any size."""
    of_no, of_yes = elementary.softplus(z), elementary.softplus(-z)  # -log(1 - a), -log(a)
    yes, no = y * elementary.exp(-parameter * of_no), (1.0 - y) * elementary.exp(-parameter * of_yes)
    by_yes = fma(-parameter * a, of_yes, a - 1.0)
    by_no = fma(parameter * (1.0 - a), of_no, a)
    return fma(yes, of_yes, no * of_no), fma(yes, by_yes, no * by_no)


@dataclass(frozen=True)
class BinaryFocal(Focal):
    """The focal loss of sigmoid, of labels from 0 to 1 (torchvision.ops.sigmoid_focal_loss, alpha=-1)."""

    entry = LOSSES["binary_focal"]


# --- likelihoods: several outputs for each target, as a mean and a spread ----------------------------------
# A formula takes the outputs of a target as a tuple, and gives the loss and a tuple of derivatives. Terms of
# the targets alone are left out.

LEAST_LOG_VARIANCE = math.log(1e-6)
"""The lower clamp of `gaussian`'s log variance, as the eps of torch.nn.GaussianNLLLoss."""

MOST_LOG_DISPERSION = 20.0
"""The upper clamp of `negative_binomial`'s log dispersion; the lower clamp is the negative."""


@built_in("identity", by_logit=True, outputs_per_target=2)
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

    entry = LOSSES["gaussian"]


@built_in("identity", by_logit=True, outputs_per_target=2, targets="at least 0")
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

    entry = LOSSES["negative_binomial"]


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


# --- tables ------------------------------------------------------------------------------------------

LIKELIHOODS = tuple(name for name, loss in LOSSES.items() if loss.outputs_per_target > 1)
"""The names of likelihoods."""

LOSS_CLASSES = tuple(BuiltInLoss.classes)
"""The classes of losses with parameters, and of likelihoods; all are public."""


def loss_of(given: str | Loss) -> Loss:
    """Return the entry of a name; return a loss unchanged."""
    return LOSSES[given] if isinstance(given, str) else given


def named(loss: str | Loss) -> str | Loss:
    """Return the name of a built-in loss with default parameters; return other losses unchanged."""
    if isinstance(loss, BuiltInLoss) and loss.parameter == LOSSES[loss.name].parameter:
        return loss.name
    return loss


# Of a probability of 1 - eps and of eps.
LEAST_CROSS_ENTROPY = DtypeConstant(-math.log1p(-(2.0**-23)), -math.log1p(-(2.0**-52)))
MOST_CROSS_ENTROPY = DtypeConstant(-math.log(2.0**-23), -math.log(2.0**-52))


def within(value: Any, least: Any, most: Any) -> Any:
    """Return the value, clamped; a NaN stays."""
    return at_most(at_least(value, least), most)
