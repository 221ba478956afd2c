"""baseline: plain loops in every slot, as one would write them in C on a first day.

It is the variant that the others override, the readable twin of the reference, and no slower than
anything else where a network is so small that a BLAS call costs more than the work. Loops run over
the last axis innermost, so that LLVM vectorises what it can; exp and its like are scalar calls.
"""

# mypy: ignore-errors

from __future__ import annotations

import math

import numpy as np

from fastmlp.activations import (
    ELU,
    EXP,
    GELU,
    IDENTITY,
    LEAKY_RELU,
    LEAKY_SLOPE,
    RELU,
    SIGMOID,
    SILU,
    SOFTMAX,
    SOFTPLUS,
    TANH,
)
from fastmlp.kernels.scalars import element_loss, fma, likelihood_bounds, within
from fastmlp.kernels.variant import Variant, Work
from fastmlp.losses import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, POISSON, POISSON_DEVIANCE

SQRT_HALF = math.sqrt(0.5)
SQRT_TWO_PI = math.sqrt(2.0 * math.pi)

# --- matmuls -------------------------------------------------------------------------------------


def affine(x, w, b, scratch, out):
    """out (rows, n_out) = x (rows, n_in) @ w (n_in, n_out) + b (n_out,)."""
    for i in range(x.shape[0]):
        for j in range(w.shape[1]):
            out[i, j] = b[j]
        for k in range(w.shape[0]):
            for j in range(w.shape[1]):
                out[i, j] += x[i, k] * w[k, j]


def weight_gradient(x, delta, scratch, out):
    """out (n_in, n_out) = x.T @ delta, for x (rows, n_in) and delta (rows, n_out)."""
    for k in range(x.shape[1]):
        for j in range(delta.shape[1]):
            out[k, j] = 0
        for i in range(x.shape[0]):
            for j in range(delta.shape[1]):
                out[k, j] += x[i, k] * delta[i, j]


def bias_gradient(delta, out):
    """out (n_out,) = the sum of delta (rows, n_out) over its rows."""
    for j in range(delta.shape[1]):
        out[j] = 0
    for i in range(delta.shape[0]):
        for j in range(delta.shape[1]):
            out[j] += delta[i, j]


def input_gradient(delta, w, scratch, out):
    """out (rows, n_in) = delta (rows, n_out) @ w.T."""
    for i in range(delta.shape[0]):
        for k in range(w.shape[0]):
            total = delta.dtype.type(0)
            for j in range(w.shape[1]):
                total += delta[i, j] * w[k, j]
            out[i, k] = total


def gather(rows_of, order, out):
    """out (visited, columns) = rows_of (rows, columns) at order (visited,) int64."""
    for i in range(len(order)):
        row = order[i]  # read within the loop over columns, it keeps that loop scalar: five times as long
        for j in range(rows_of.shape[1]):
            out[i, j] = rows_of[row, j]


# --- scalars, which a variant may override one by one (losses of narrow outputs in `tiled`: narrow.py) ---


def exp(z):
    """e^z."""
    return math.exp(z)


def root(z):
    """The square root of z >= 0."""
    return math.sqrt(z)


def tanh(z):
    """The hyperbolic tangent."""
    return math.tanh(z)


def logistic(z):
    """1 / (1 + exp(-z)), with no overflow at either end."""
    one = type(z)(1)
    if z >= 0:
        return one / (one + math.exp(-z))
    e = math.exp(z)
    return e / (one + e)


def softplus(z):
    """log(1 + exp(z)), with no overflow at either end."""
    return max(z, type(z)(0)) + math.log1p(math.exp(-abs(z)))


def elu(z):
    """z above 0, exp(z) - 1 below."""
    return z if z > 0 else math.expm1(z)


def elu_slope(z):
    """The derivative of `elu`."""
    return type(z)(1) if z > 0 else math.exp(z)


def silu(z):
    """z * logistic(z)."""
    return z * logistic(z)


def silu_slope(z):
    """The derivative of `silu`."""
    return logistic(z) * (type(z)(1) + z * logistic(-z))


def gelu(z):
    """z * Phi(z), Phi the standard normal distribution function by erf."""
    return z * type(z)(0.5) * (type(z)(1) + math.erf(z * type(z)(SQRT_HALF)))


def gelu_slope(z):
    """The derivative of `gelu`: Phi(z) + z * phi(z)."""
    cdf = type(z)(0.5) * (type(z)(1) + math.erf(z * type(z)(SQRT_HALF)))
    return cdf + z * math.exp(type(z)(-0.5) * z * z) * type(z)(1.0 / SQRT_TWO_PI)


# --- activations ---------------------------------------------------------------------------------


def activate(code, z, out):
    """out = the activation `code` of z, both (rows, units); may be z itself."""
    rows, units = z.shape
    zero = z.dtype.type(0)
    slope = z.dtype.type(LEAKY_SLOPE)
    if code == SOFTMAX:
        softmax(z, out)
        return
    for i in range(rows):
        if code == IDENTITY:
            for j in range(units):
                out[i, j] = z[i, j]
        elif code == RELU:
            for j in range(units):
                out[i, j] = zero if z[i, j] < zero else z[i, j]  # a nan stays one
        elif code == LEAKY_RELU:
            for j in range(units):
                out[i, j] = z[i, j] if z[i, j] > zero else slope * z[i, j]
        elif code == ELU:
            for j in range(units):
                out[i, j] = elu(z[i, j])
        elif code == GELU:
            for j in range(units):
                out[i, j] = gelu(z[i, j])
        elif code == SILU:
            for j in range(units):
                out[i, j] = silu(z[i, j])
        elif code == SOFTPLUS:
            for j in range(units):
                out[i, j] = softplus(z[i, j])
        elif code == SIGMOID:
            for j in range(units):
                out[i, j] = logistic(z[i, j])
        elif code == TANH:
            for j in range(units):
                out[i, j] = tanh(z[i, j])
        elif code == EXP:
            for j in range(units):
                out[i, j] = exp(z[i, j])


def activate_gradient(code, z, a, delta):
    """delta (rows, units) *= the derivative of the activation `code` at z, where it is a.

    relu's z is not read: a program whose tiles end in relu never writes it.
    """
    rows, units = z.shape
    one, zero = z.dtype.type(1), z.dtype.type(0)
    slope = z.dtype.type(LEAKY_SLOPE)
    for i in range(rows):
        if code == RELU:
            for j in range(units):
                delta[i, j] = delta[i, j] if a[i, j] > zero else zero
        elif code == LEAKY_RELU:
            for j in range(units):
                delta[i, j] *= one if z[i, j] > zero else slope
        elif code == ELU:
            for j in range(units):
                delta[i, j] *= elu_slope(z[i, j])
        elif code == GELU:
            for j in range(units):
                delta[i, j] *= gelu_slope(z[i, j])
        elif code == SILU:
            for j in range(units):
                delta[i, j] *= silu_slope(z[i, j])
        elif code == SOFTPLUS:
            for j in range(units):
                delta[i, j] *= logistic(z[i, j])
        elif code == SIGMOID:
            for j in range(units):
                delta[i, j] *= a[i, j] * (one - a[i, j])
        elif code == TANH:
            for j in range(units):
                delta[i, j] *= one - a[i, j] * a[i, j]


def softmax(z, out):
    """out (rows, classes) = exp(z) / its row sums, with each row's maximum taken off first."""
    for i in range(z.shape[0]):
        top = z[i, 0]
        for j in range(1, z.shape[1]):
            top = max(top, z[i, j])
        total = z.dtype.type(0)
        for j in range(z.shape[1]):
            out[i, j] = exp(z[i, j] - top)
            total += out[i, j]
        for j in range(z.shape[1]):
            out[i, j] /= total


# --- losses --------------------------------------------------------------------------------------


def output_loss(loss, output, parameter, share, z, targets, weights, scratch, delta):
    """delta (rows, n_out) = the loss's derivative by the logits z; returns the loss.

    `output` and `loss` are codes, `parameter` is `Network.loss_parameter`; row i counts with
    share * weights[i]. Likelihoods use their canonical output's fused form on the logits.
    """
    activate(output, z, delta)
    least, most = likelihood_bounds(parameter != 0, z.dtype.type(0))
    objective = 0.0
    for i in range(z.shape[0]):
        scale = z.dtype.type(share * weights[i])
        if scale == 0:
            # 0 * inf must not arise: a row without weight contributes exactly nothing.
            for j in range(z.shape[1]):
                delta[i, j] = 0
        elif loss == CROSS_ENTROPY:
            row = cross_entropy_row(scale, z[i], targets[i], delta[i])
            objective += scale * within(row, np.float64(least), np.float64(most))
        elif loss == BINARY_CROSS_ENTROPY:
            for j in range(z.shape[1]):
                objective += scale * within(softplus(z[i, j]) - z[i, j] * targets[i, j], least, most)
                delta[i, j] = scale * (delta[i, j] - targets[i, j])
        elif loss == POISSON or loss == POISSON_DEVIANCE:
            for j in range(z.shape[1]):
                objective += scale * (delta[i, j] - targets[i, j] * z[i, j])
                if loss == POISSON_DEVIANCE and targets[i, j] != 0:
                    objective += scale * targets[i, j] * (math.log(targets[i, j]) - 1.0)
                delta[i, j] = scale * (delta[i, j] - targets[i, j])
        else:
            objective += scale * element_loss_row(loss, output, parameter, scale, z[i], targets[i], delta[i])
    return objective


def cross_entropy_row(scale, z, targets, delta):
    """One row's cross-entropy; delta holds the softmax and becomes scale * (softmax - targets)."""
    top = z[0]
    for j in range(1, len(z)):
        top = max(top, z[j])
    total = 0.0
    for j in range(len(z)):
        total += exp(z[j] - top)
    log_total = math.log(total)
    row = 0.0
    for j in range(len(z)):
        row += targets[j] * (log_total - (z[j] - top))
        delta[j] = scale * (delta[j] - targets[j])
    return row


def element_loss_row(loss, output, parameter, scale, z, targets, delta):
    """One row's element-wise loss; delta holds the outputs and becomes the derivative by z."""
    row = 0.0
    along, parameter = z.dtype.type(0), z.dtype.type(parameter)
    if output == SOFTMAX:
        for j in range(len(z)):
            along += delta[j] * element_loss(loss, parameter, delta[j] - targets[j])[1]
    for j in range(len(z)):
        a = delta[j]
        value, by_a = element_loss(loss, parameter, a - targets[j])
        row += value
        if output == SOFTMAX:
            delta[j] = scale * a * (by_a - along)
        elif output == SIGMOID:
            delta[j] = scale * by_a * a * (z.dtype.type(1) - a)
        elif output == EXP:
            delta[j] = scale * by_a * a
        else:
            delta[j] = scale * by_a
    return row


def penalty(l1, l2, w):
    """l1 * sum|w| + l2/2 * sum w^2 over one layer's weights (n_in, n_out)."""
    total = 0.0
    for k in range(w.shape[0]):
        row = w.dtype.type(0)
        for j in range(w.shape[1]):
            row += w.dtype.type(l1) * abs(w[k, j]) + w.dtype.type(0.5 * l2) * w[k, j] * w[k, j]
        total += row
    return total


def penalty_gradient(l1, l2, w, dw):
    """dw (n_in, n_out) += the derivative of `penalty` by w."""
    first, second = w.dtype.type(l1), w.dtype.type(l2)
    for k in range(w.shape[0]):
        for j in range(w.shape[1]):
            dw[k, j] = fma(second, w[k, j], dw[k, j])
    if l1 > 0:
        for k in range(w.shape[0]):
            for j in range(w.shape[1]):
                dw[k, j] += first * np.sign(w[k, j])


# --- dropout -------------------------------------------------------------------------------------


def scramble(bits):
    """A hash of a 32-bit word: Wellons' "lowbias32" (2018)."""
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


def drop(key, step, layer, first, p, a, out):
    """out (rows, units) = a / (1 - p) where a unit is kept, else 0; may be a itself.

    Which are kept is a pure function of key, step, layer and the place in the batch, whose row
    `first` is row 0 here, so that the backward pass calls it again on the delta.
    """
    scale = a.dtype.type(1.0 / (1.0 - p))
    threshold = np.uint32(p * 4294967296.0)
    word = scramble(np.uint32(np.uint32(key) ^ np.uint32(step)))
    word = scramble(np.uint32(word ^ np.uint32(layer)))
    for i in range(a.shape[0]):
        row = scramble(np.uint32(word + np.uint32(first + i) * np.uint32(0x9E3779B9)))
        for j in range(a.shape[1]):
            bits = scramble(np.uint32(row + np.uint32(j) * np.uint32(0x85EBCA6B)))
            out[i, j] = a[i, j] * scale if bits >= threshold else 0


# --- steps ---------------------------------------------------------------------------------------


def clip(clip_norm, gradients):
    """Scale gradients (P,) by clip_norm / (their 2-norm + 1e-6) if that is below 1."""
    squares = 0.0
    for i in range(len(gradients)):
        squares += np.float64(gradients[i]) * np.float64(gradients[i])
    scale = clip_norm / (math.sqrt(squares) + 1e-6)
    if scale < 1.0:
        for i in range(len(gradients)):
            gradients[i] *= gradients.dtype.type(scale)


def sgd(rate, momentum, nesterov, g, p, velocity):
    """p -= rate * g, or along the velocity momentum * velocity + g; all (n,)."""
    real = p.dtype.type
    r, mu = real(rate), real(momentum)
    if momentum == 0:
        for i in range(len(p)):
            p[i] = fma(-r, g[i], p[i])
        return
    for i in range(len(p)):
        velocity[i] = mu * velocity[i] + g[i]
        p[i] -= r * (g[i] + mu * velocity[i] if nesterov else velocity[i])


def rmsprop(rate, alpha, epsilon, momentum, g, p, square, velocity):
    """p -= rate * velocity, the velocity gathering g / (sqrt(square) + epsilon); all (n,)."""
    real = p.dtype.type
    r, keep, take = real(rate), real(alpha), real(1.0 - alpha)
    eps, mu = real(epsilon), real(momentum)
    for i in range(len(p)):
        square[i] = keep * square[i] + take * g[i] * g[i]
        velocity[i] = mu * velocity[i] + g[i] / (root(square[i]) + eps)
        p[i] -= r * velocity[i]


def adam(rate, beta1, beta2, epsilon, decay, correction1, correction2, g, p, first, second):
    """p -= rate / correction1 * first / (sqrt(second / correction2) + epsilon); all (n,).

    `decay` shrinks p by 1 - rate * decay before (AdamW).
    """
    real = p.dtype.type
    keep1, take1 = real(beta1), real(1.0 - beta1)
    keep2, take2 = real(beta2), real(1.0 - beta2)
    shrink, r = real(1.0 - rate * decay), real(rate / correction1)
    unbias, eps = real(1.0 / math.sqrt(correction2)), real(epsilon)
    for i in range(len(p)):
        first[i] = keep1 * first[i] + take1 * g[i]
        second[i] = keep2 * second[i] + take2 * g[i] * g[i]
        p[i] = shrink * p[i] - r * first[i] / (root(second[i]) * unbias + eps)


def seconds(work: Work) -> float:
    """Loops that LLVM vectorises reach about 6 GF/s; a unit's exp, a row's and a step's bookkeeping add."""
    return 5e-7 + work.flops / 6e9 + work.rows * (7e-8 + 4e-9 * work.units)


VARIANT = Variant(
    "baseline",
    None,
    {
        "activate": activate,
        "activate_gradient": activate_gradient,
        "adam": adam,
        "affine": affine,
        "bias_gradient": bias_gradient,
        "clip": clip,
        "drop": drop,
        "gather": gather,
        "input_gradient": input_gradient,
        "output_loss": output_loss,
        "penalty": penalty,
        "penalty_gradient": penalty_gradient,
        "rmsprop": rmsprop,
        "sgd": sgd,
        "weight_gradient": weight_gradient,
    },
    seconds,
)
