"""The steps of the reference's optimisers, from a gradient to new parameters and moments."""

from __future__ import annotations

import math

import numpy as np

from fastmlp.model.backend import Array
from fastmlp.model.optimizers import (
    SGD,
    Adam,
    AdamW,
    Muon,
    Optimizer,
    RMSprop,
    RuleOptimizer,
    ScheduleFreeAdamW,
    SparseAdam,
)


def take_step(optimizer: Optimizer, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Take step t, counted from 1, of parameters p (n,) and their moments (rows, n) along the gradient g."""
    match optimizer:
        case SGD(momentum=0):
            p -= rates * g
        case SGD():
            velocity = moments[0]
            velocity[...] = optimizer.momentum * velocity + g
            p -= rates * (g + optimizer.momentum * velocity if optimizer.nesterov else velocity)
        case RMSprop():
            square, velocity = moments[:2]
            square[...] = optimizer.alpha * square + (1 - optimizer.alpha) * g * g
            velocity[...] = optimizer.momentum * velocity + g / (np.sqrt(square) + optimizer.epsilon)
            p -= rates * velocity
        case Adam():
            if isinstance(optimizer, AdamW):
                p *= 1 - rates * optimizer.weight_decay
            first, second = moments[:2]
            first[...] = optimizer.beta1 * first + (1 - optimizer.beta1) * g
            second[...] = optimizer.beta2 * second + (1 - optimizer.beta2) * g * g
            unbias = math.sqrt(1 - optimizer.beta2**t)
            epsilon = optimizer.epsilon / unbias if optimizer.epsilon_hat else optimizer.epsilon
            if optimizer.amsgrad:
                moments[2] = np.maximum(moments[2], second)
            root = np.sqrt(moments[2] if optimizer.amsgrad else second) / unbias + epsilon
            p -= rates / (1 - optimizer.beta1**t) * first / root
        case SparseAdam():
            first, second = moments[:2]
            first += (1 - optimizer.beta1) * (g - first)
            second += (1 - optimizer.beta2) * (g * g - second)
            unbias = math.sqrt(1 - optimizer.beta2**t) / (1 - optimizer.beta1**t)
            p -= rates * unbias * first / (np.sqrt(second) + optimizer.epsilon)
        case Muon():
            p *= 1 - rates * optimizer.weight_decay
            p -= rates * g  # which `orthogonal` has made
        case ScheduleFreeAdamW():
            square, z, x = moments
            if t == 1:
                z[...] = x[...] = p
            square[...] = optimizer.beta2 * square + (1 - optimizer.beta2) * g * g
            move = (
                g / (np.sqrt(square / (1 - optimizer.beta2**t)) + optimizer.epsilon)
                + optimizer.weight_decay * p
            )
            warm = np.minimum(np.arange(1, t + 1) / max(1, optimizer.warmup), 1)
            z -= rates * p.dtype.type(warm[-1]) * move
            share = p.dtype.type(warm[-1] ** 2 / (warm**2).sum())
            x[...] = (1 - share) * x + share * z
            p[...] = (1 - optimizer.beta1) * z + optimizer.beta1 * x
        case RuleOptimizer():
            p *= 1 - rates * optimizer.weight_decay
            kept = moments[: optimizer.own_rule.moments]
            new = optimizer.made_by.on_arrays(p, g, kept, rates, optimizer.values, t)
            for array, value in zip((p, *kept), new, strict=True):
                array[...] = value


def orthogonal(optimizer: Muon, g: Array, momentum: Array) -> Array:
    """Move the momentum of a matrix along its gradient g; return what its step goes along (n_in, n_out)."""
    momentum += (1 - optimizer.momentum) * (g - momentum)
    x = g + optimizer.momentum * (momentum - g) if optimizer.nesterov else momentum
    x = x.T if g.shape[0] > g.shape[1] else x
    x = x / g.dtype.type(max(np.linalg.norm(x.astype(float)), 1e-7))
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    x = 0.2 * math.sqrt(max(g.shape)) * x
    return x.T if g.shape[0] > g.shape[1] else x


def move_average(optimizer: Optimizer, p: Array, moments: Array, t: int) -> None:
    """Move the mean of parameters p (n,), if the optimiser keeps one, after step t."""
    if optimizer.averaging is not None:
        kind, number = optimizer.averaging
        share = 1 - number if kind == "ema" else 1 / max(t - number, 1)
        mean = moments[optimizer.rule.moments - 1]
        mean += p.dtype.type(share) * (p - mean) if t > 1 else p - mean
