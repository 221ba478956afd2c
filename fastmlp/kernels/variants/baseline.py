"""baseline: plain loops in every slot, as a beginner would write them in C.

All other variants override baseline, the readable counterpart of the reference. baseline beats `blas` where
a network is so small that a BLAS call costs more than the work.
"""

import math

import numpy as np

from fastmlp.kernels.codegen.scalars import (
    LOG,
    ROW,
    activation,
    activation_backward,
    exp,
    fma,
    log,
    log_chain,
    log_loss,
    loss_form,
    outputs_per_target,
    target_loss,
    target_slope,
    within_bounds,
)
from fastmlp.kernels.codegen.views import vector
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.elementwise.by_vectors import step_element
from fastmlp.kernels.elementwise.losses import row_loss
from fastmlp.kernels.estimates import BUILT_IN

# --- matmuls -------------------------------------------------------------------------------------
# The innermost loops run over the last axis, so that LLVM can vectorise them; exp and similar functions are
# scalar calls.


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


def affine_sparse(indptr, indices, values, order, w, b, out):
    """out (rows, n_out) = x @ w (n_in, n_out) + b (n_out,), for sparse rows x.

    Row i has values[p] in column indices[p], int32, for p from indptr[k] to indptr[k + 1], int64, where k is
    order[i], int64, or i where the order is empty.
    """
    for i in range(out.shape[0]):
        row = order[i] if len(order) > 0 else i
        for j in range(w.shape[1]):
            out[i, j] = b[j]
        for p in range(indptr[row], indptr[row + 1]):
            k = indices[p]
            for j in range(w.shape[1]):
                out[i, j] += values[p] * w[k, j]


def weight_gradient_sparse(starts, samples, numbers, columns, delta, out):
    """Row columns[t] of out (.., n_out) = x.T[t] @ delta (rows, n_out), for each listed column t of x.

    Listed column t has numbers[p] in row samples[p], int32, for p from starts[t] to starts[t + 1], int64.
    columns : int64; if empty, row t of out belongs to listed column t
    """
    for t in range(len(starts) - 1):
        k = columns[t] if len(columns) > 0 else t
        for j in range(delta.shape[1]):
            out[k, j] = 0
        for p in range(starts[t], starts[t + 1]):
            i = samples[p]
            for j in range(delta.shape[1]):
                out[k, j] += numbers[p] * delta[i, j]


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


def gather(x, order, start, column, out):
    """out (n, columns) = columns of x (rows, ..) from `column` on, in the rows order[start], ..

    order : (visits,) int64; empty for the rows start, ..
    """
    columns = out.shape[1]
    for i in range(out.shape[0]):
        row = order[start + i] if len(order) > 0 else start + i
        # As vectors: with x[row, column + j] in the loop it stays scalar, and takes five times as long.
        source, target = vector(x, row * x.shape[1] + column, columns), vector(out, i * columns, columns)
        for j in range(columns):
            target[j] = source[j]


# --- activations and losses: their formulas stand in `fastmlp.model` -------------------------------------


def activate(code, z, out):
    """out = the activation `code` of z, both (rows, units); out may be z itself."""
    if code == SOFTMAX:
        softmax(z, out)
        return
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[i, j] = activation(code, z[i, j])


def activate_gradient(code, z, a, delta):
    """delta (rows, units) *= the derivative of the activation `code` at z; a is the activation of z.

    z may be unwritten memory where the derivative does not read z (`Activation.reads`).
    """
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            delta[i, j] = activation_backward(code, delta[i, j], z[i, j], a[i, j])


def softmax(z, out):
    """out (rows, classes) = exp(z) / its row sums; each row's maximum is subtracted from z first."""
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


def output_loss(loss, output, parameters, factor, z, targets, weights, scratch, delta):
    """delta (rows, n_out) = the loss's derivative by the logits z; returns the loss.

    `output` and `loss` are codes, `parameters` (n_out,) float64 are `Objective.loss_parameters`; the factor
    of row i is factor * weights[i]. A likelihood with its canonical output is computed from the logits. A
    loss of several outputs a target has all first outputs, then all second outputs, .., and the targets as
    often.
    """
    activate(output, z, delta)
    clips, form = parameters[0] < 0, loss_form(loss)
    objective = 0.0
    for i in range(z.shape[0]):
        scale = z.dtype.type(factor * weights[i])
        if scale == 0:
            # A row without weight contributes exactly 0; 0 * inf would be NaN.
            for j in range(z.shape[1]):
                delta[i, j] = 0
        elif form == LOG:
            row = log_losses(loss, scale, parameters, z[i], targets[i], delta[i])
            objective += scale * within_bounds(loss, clips, row)
        elif form == ROW:
            objective += scale * row_loss(loss, scale, parameters, z[i], targets[i], delta[i])
        else:
            along = z.dtype.type(0)
            if output == SOFTMAX:
                for j in range(z.shape[1]):
                    a, parameter = delta[i, j], z.dtype.type(parameters[j])
                    along += a * target_slope(loss, z[i, j], a, targets[i, j], parameter)
            row = 0.0
            for j in range(z.shape[1] // outputs_per_target(loss)):
                parameter = z.dtype.type(parameters[j])
                value = target_loss(loss, output, along, scale, parameter, z[i], targets[i], delta[i], j)
                row += within_bounds(loss, clips, value)
            objective += scale * row
    return objective


def log_losses(loss, scale, parameters, z, targets, delta):
    """Return a row's loss of log(softmax); delta holds the softmax, and becomes scale * the derivative."""
    top = z[0]
    for j in range(1, len(z)):
        top = max(top, z[j])
    total = z.dtype.type(0)
    for j in range(len(z)):
        total += exp(z[j] - top)
    log_total, first, second = log(total), z.dtype.type(parameters[0]), z.dtype.type(parameters[-1])
    along = z.dtype.type(0)
    for j in range(len(z)):
        along += log_loss(loss, z[j] - top - log_total, delta[j], targets[j], first, second, along)[1]
    row = z.dtype.type(0)
    for j in range(len(z)):
        row, slope = log_loss(loss, z[j] - top - log_total, delta[j], targets[j], first, second, row)
        delta[j] = scale * log_chain(loss, slope, delta[j], along)
    return row


def penalty(l1, l2, w):
    """Return l1 * sum|w| + l2/2 * sum w^2 over a layer's weights (n_in, n_out)."""
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
    """Return a hash of a 32-bit word: Wellons' "lowbias32" (2018)."""
    bits = np.uint32((bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D))
    bits = np.uint32((bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32(bits ^ (bits >> np.uint32(16)))


def drop(key, step, layer, first, p, a, out):
    """out (rows, units) = a / (1 - p) where a unit is not dropped, else 0; out may be a itself.

    Dropout is a pure function of key, step, layer, unit and the row of the batch (`first` is a's row 0): the
    backward pass calls this function again, on the deltas.
    """
    word = scramble(np.uint32(np.uint32(key) ^ np.uint32(step)))
    word = scramble(np.uint32(word ^ np.uint32(layer)))
    drop_units(word, first, np.uint32(p * 4294967296.0), a.dtype.type(1.0 / (1.0 - p)), a, out)


def drop_units(word, first, threshold, scale, a, out):
    """out = a * scale where a unit's hash is not below the threshold, else 0."""
    for i in range(a.shape[0]):
        row = scramble(np.uint32(word + np.uint32(first + i) * np.uint32(0x9E3779B9)))
        for j in range(a.shape[1]):
            bits = scramble(np.uint32(row + np.uint32(j) * np.uint32(0x85EBCA6B)))
            out[i, j] = a[i, j] * scale if bits >= threshold else 0


# --- steps ---------------------------------------------------------------------------------------


def clip(clip_norm, gradients):
    """Scale gradients (P,) by clip_norm / (the 2-norm + 1e-6) if the factor is below 1."""
    scale = clip_norm / (math.sqrt(sum_of_squares(gradients)) + 1e-6)
    if scale < 1.0:
        for i in range(len(gradients)):
            gradients[i] *= gradients.dtype.type(scale)


def sum_of_squares(numbers):
    """Return the sum of the squares of numbers (n,) in float64."""
    squares = 0.0
    for i in range(len(numbers)):
        squares += np.float64(numbers[i]) * np.float64(numbers[i])
    return squares


def apply_rule(code, rate, constants, t, g, p, moments):
    """Take the step of the rule `code`: update p (n,) and its moments (rows, n) by the gradient g (n,).

    moments : a row for each moment of the rule, or more; rows need not be adjacent
    constants : float64, see `Optimizer.constants`; t : the number of the step, from 1, float64
    """
    for i in range(len(p)):
        step_element(code, i, rate, constants, t, g, p, moments)


SLOTS = (
    *(activate, activate_gradient, affine, affine_sparse, bias_gradient, clip, apply_rule, drop, gather),
    *(input_gradient, output_loss, penalty, penalty_gradient, weight_gradient, weight_gradient_sparse),
)

VARIANT = BUILT_IN["baseline"]._replace(slots={slot.__name__: slot for slot in SLOTS})
