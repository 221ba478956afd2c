"""Activations and losses of the reference, with derivatives, in plain NumPy."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastmlp.formulas.derivatives import gradient as gradient_of
from fastmlp.formulas.elementary import LEAKY_SLOPE, SELU_SCALE, SELU_SLOPE
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model.activations import Activation
from fastmlp.model.backend import Array
from fastmlp.model.heads import Head, Objective, columns_of_heads
from fastmlp.model.loss import Loss
from fastmlp.model.losses import Quantiles, loss_of
from fastmlp.model.network import Network


def logistic(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), with no overflow at either end."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def normal_cdf(z: Array) -> Array:
    """Return the standard normal distribution function, by erf."""
    from scipy.special import erf

    return (1 + erf(z / z.dtype.type(np.sqrt(2)))) / 2


def activate(name: str | Activation, z: Array) -> Array:
    """Return the activation of z (rows, units)."""
    match name:
        case Activation():
            return name.on_array(z)
        case "identity":
            return z
        case "relu":
            return np.maximum(z, 0)
        case "leaky_relu":
            return np.where(z > 0, z, LEAKY_SLOPE * z)
        case "elu":
            return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
        case "gelu":
            return z * normal_cdf(z)
        case "silu":
            return z * logistic(z)
        case "softplus":
            return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        case "sigmoid":
            return logistic(z)
        case "tanh":
            return np.tanh(z)
        case "selu":
            return np.where(z > 0, SELU_SCALE * z, SELU_SLOPE * np.expm1(np.minimum(z, 0)))
        case "mish":
            with np.errstate(invalid="ignore"):  # logaddexp warns of NaN
                return z * np.tanh(np.logaddexp(0, z))
        case "hardswish":
            return np.where(z <= -3, 0, np.where(z < 3, z * ((z + 3) / 6), z))
        case "softmax":
            e = np.exp(z - z.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)
        case "exp":
            return np.exp(z)
    raise AssertionError(name)


def activate_gradient(name: str | Activation, z: Array, a: Array, delta: Array) -> Array:
    """Return the derivative of the loss by z, given delta, the derivative by a."""
    match name:
        case Activation():
            return name.backward_on_array(delta, z, a)
        case "identity":
            return delta
        case "relu":
            return np.where(z > 0, delta, 0)  # 0 * inf must not arise
        case "leaky_relu":
            return delta * np.where(z > 0, 1, z.dtype.type(LEAKY_SLOPE))
        case "elu":
            return delta * np.where(z > 0, 1, np.exp(np.minimum(z, 0)))
        case "gelu":
            density = np.exp(-z * z / 2) / z.dtype.type(np.sqrt(2 * np.pi))
            return delta * (normal_cdf(z) + z * density)
        case "silu":
            return delta * (logistic(z) * (1 + z * logistic(-z)))
        case "softplus":
            return delta * logistic(z)
        case "sigmoid":
            return delta * (a * (1 - a))
        case "tanh":
            return delta * (1 - a * a)
        case "selu":
            return delta * np.where(z > 0, SELU_SCALE, SELU_SLOPE * np.exp(np.minimum(z, 0)))
        case "hardswish":
            return np.where(z <= -3, 0, delta * np.where(z < 3, z / 3 + 0.5, 1))  # 0 * inf must not arise
        case "softmax":
            return a * (delta - (delta * a).sum(axis=1, keepdims=True))
        case "exp":
            return delta * a
        case _:
            return delta * slope_of(name).on_arrays(z.dtype, {"z": z})


@functools.cache
def slope_of(name: str) -> Expression:
    """Return the derivative of an activation without a slope above."""
    return gradient_of(activate(name, variable("z")), "z")  # type: ignore[arg-type]


def element_loss(objective: Objective, a: Array, targets: Array) -> tuple[Array, Array]:
    """Return an element-wise loss of outputs a (rows, n_out), and the derivative by a."""
    r, loss = a - targets, loss_of(objective.loss)
    match loss.name:
        case "mse":
            return r * r, 2 * r
        case "mae":
            return np.abs(r), np.sign(r)
        case "huber":
            (d,) = loss.numbers(1)
            small = np.abs(r) <= d
            return np.where(small, r * r / 2, d * (np.abs(r) - d / 2)), np.clip(r, -d, d)
        case "pinball":
            q = np.array(loss.numbers(objective.n_out), r.dtype)
            slope = np.where(r > 0, 1 - q, -q * (r < 0)).astype(r.dtype)
            return r * slope, slope
    raise AssertionError(objective.loss)


def log_softmax(z: Array) -> Array:
    """Return the logarithm of softmax of logits z (rows, classes)."""
    shifted = z - z.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def focal(objective: Objective, z: Array, a: Array, targets: Array) -> tuple[Array, Array]:
    """Return the focal loss of rows of logits z (rows, n_out), with softmax a; and the derivative."""
    (gamma,), log_a = loss_of(objective.loss).numbers(1), log_softmax(z)
    rest = np.maximum(-np.expm1(log_a), 0)  # 1 - a
    ratio = np.divide(log_a, rest, out=np.full_like(z, -1), where=rest > 0)
    by_log = -targets * rest**gamma * (1 - gamma * a * ratio)
    loss = (-targets * rest**gamma * log_a).sum(axis=1, keepdims=True)
    return loss, by_log - a * by_log.sum(axis=1, keepdims=True)


def binary_focal(objective: Objective, z: Array, targets: Array) -> tuple[Array, Array]:
    """Return the focal loss of every label's logit z (rows, n_out), and the derivative."""
    (gamma,) = loss_of(objective.loss).numbers(1)
    loss, delta = np.zeros_like(z), np.zeros_like(z)
    for fraction, sign in ((targets, 1), (1 - targets, -1)):
        p, entropy = logistic(sign * z), np.logaddexp(0, -sign * z)
        loss += fraction * (1 - p) ** gamma * entropy
        delta += fraction * sign * (1 - p) ** gamma * (gamma * p * -entropy + p - 1)
    return loss, delta


def gaussian(z: Array, targets: Array) -> tuple[Array, Array]:
    """Return -log of the normal density, of means and log variances z (rows, 2 n); and the derivative."""
    mean, log_variance = np.hsplit(z, 2)
    y, variance = targets[:, : mean.shape[1]], np.maximum(np.exp(log_variance), 1e-6)
    r, passed = mean - y, np.exp(log_variance) / variance
    loss = (np.log(variance) + r * r / variance) / 2
    return loss, np.hstack([r / variance, passed * (1 - r * r / variance) / 2])


def negative_binomial(z: Array, targets: Array) -> tuple[Array, Array]:
    """Return -log of the probability less log(y!), of log means and log dispersions; and the derivative."""
    from scipy.special import digamma, gammaln

    log_mean, log_dispersion = np.hsplit(z, 2)
    y, held = targets[:, : log_mean.shape[1]], np.clip(log_dispersion, -20, 20)
    r, u = np.exp(-held), log_mean + held
    of_r, of_y = np.logaddexp(0, u), np.logaddexp(0, -u)
    loss = gammaln(r) - gammaln(y + r) + r * of_r + y * of_y
    by_u = r * logistic(u) - y * logistic(-u)
    by_second = by_u + r * (digamma(y + r) - digamma(r) - of_r)
    return loss, np.hstack([by_u, np.where(np.abs(log_dispersion) > 20, 0, by_second)])


def total_of(weights: Array) -> float:
    """Return the sum of rows' weights."""
    return float(weights.sum(dtype=np.float64))


def output_loss(
    objective: Objective, z: Array, targets: Array, weights: Array, batch_total: float | None = None
) -> tuple[float, Array]:
    """Return the loss of logits z (rows, n_out), and the derivative by z.

    Rows count with `weights` (rows,) over the batch's sum of weights; None means a batch of these rows. With
    all weights 0 loss and derivative are 0.
    """
    a, entry = activate(objective.output, z), loss_of(objective.loss)
    match entry.name:
        case _ if entry.digest:
            loss, delta = entry.on_arrays(z, a, targets, np.array(objective.loss_parameters, z.dtype))
        case "cross_entropy":
            smoothing = entry.parameter[0] if entry.parameter else 0.0
            targets = (1 - smoothing) * targets + smoothing / objective.n_out
            # The labels' weights sum to 1, so a * sum(targets) = a; 0 * -inf never arises.
            loss, delta = (targets * -log_softmax(z)).sum(axis=1, keepdims=True), a - targets
        case "binary_cross_entropy":
            loss = np.maximum(z, 0) - z * targets + np.log1p(np.exp(-np.abs(z)))
            delta = a - targets
        case "poisson":
            loss, delta = a - targets * z, a - targets
        case "poisson_deviance":
            from scipy.special import xlogy

            loss, delta = a - targets * z + xlogy(targets, targets) - targets, a - targets
        case "gamma_deviance":
            log_ratio = np.log(np.maximum(targets, np.finfo(z.dtype).tiny)) - z
            loss, delta = np.expm1(log_ratio) - log_ratio, -np.expm1(log_ratio)
        case "focal":
            loss, delta = focal(objective, z, a, targets)
        case "binary_focal":
            loss, delta = binary_focal(objective, z, targets)
        case name if entry.outputs_per_target > 1:
            loss, delta = globals()[name](z, targets)
        case _:
            loss, by_a = element_loss(objective, a, targets)
            delta = activate_gradient(objective.output, z, a, by_a)
    if objective.clips:
        eps = np.finfo(z.dtype).eps
        loss = np.clip(loss, -np.log1p(-eps), -np.log(eps))
    total = (total_of(weights) if batch_total is None else batch_total) * objective.divisor
    if total == 0:
        return 0.0, np.zeros_like(z)
    factor = weights[:, None] / z.dtype.type(total)
    counts = factor > 0  # 0 * inf must not arise
    value = float(np.where(counts, loss * factor, 0).sum(dtype=np.float64)) / objective.value_divisor
    return value, np.where(counts, delta * factor, 0)


def heads_loss(
    network: Network,
    logits: Sequence[Array],
    targets: Array,
    weights: Array,
    totals: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], list[Array]]:
    """Return the losses (1 + heads,), the sum first, and the derivatives by the heads' logits.

    totals : (heads,) `Network.head_totals` of the whole batch; None means a batch of these rows
    """
    losses, deltas = [], []
    totals = network.head_totals(targets, weights) if totals is None else totals
    columns = columns_of_heads(network.heads)
    for z, (name, head), total in zip(logits, network.heads.items(), totals, strict=True):
        y = targets[:, columns[name]]
        if head.masked:
            loss, delta = masked_loss(head, z, y, weights, total)
        else:
            loss, delta = output_loss(head.objective, z, y, weights, total)
        losses.append(loss)
        deltas.append(z.dtype.type(head.weight) * delta)
    return np.array([network.sum_of_heads(losses), *losses]), deltas


def masked_loss(head: Head, z: Array, targets: Array, weights: Array, total: float) -> tuple[float, Array]:
    """Return the mean loss over the entries present, with units' weights, and the derivative by z."""
    there, y = ~np.isnan(targets), np.nan_to_num(targets)
    factors = np.ones(head.units) if head.loss_weights is None else np.array(head.loss_weights)
    factors = factors.astype(z.dtype)
    if head.by_row:
        counted = weights * there.all(axis=1)
        if head.loss_weights is not None:
            of_rows = y @ factors
            y = np.divide(y * factors, of_rows[:, None], out=y, where=of_rows[:, None] > 0)
            counted = counted * of_rows
        return output_loss(head.objective, z, y, counted.astype(z.dtype), total)
    loss, delta = 0.0, np.zeros_like(z)
    for j in range(head.units):
        objective = Objective(1, head.objective.output, of_one_unit(head.objective.loss, j))
        column = slice(j, j + 1)
        counted = (weights * there[:, j] * factors[j]).astype(z.dtype)
        of_column, delta[:, column] = output_loss(objective, z[:, column], y[:, column], counted, total)
        loss += of_column
    return loss, delta


def of_one_unit(loss: str | Loss, unit: int) -> str | Loss:
    """Return the loss of a single unit: with several quantiles the unit's quantile."""
    if isinstance(loss, Quantiles) and isinstance(loss.levels, Sequence):
        return Quantiles(loss.levels[unit])
    return loss
