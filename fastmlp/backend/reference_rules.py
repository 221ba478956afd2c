"""The steps of the reference's optimisers, from a gradient to new parameters and moments.

A rule's step is the function of the rule's name. Each takes step t, counted from 1, of parameters p (n,) and
moments (rows, n) along the gradient g (n,), at rates (n,); p and moments are overwritten.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastmlp.model.backend import Array
from fastmlp.model.optimizers import Muon, Optimizer, RuleOptimizer


def take_step(optimizer: Optimizer, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Take a step of any optimiser."""
    name = "_of_user" if isinstance(optimizer, RuleOptimizer) else optimizer.own_rule.name
    globals()[name](optimizer, p, g, moments, rates, t)


def sgd(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Along the gradient."""
    p -= rates * g


def momentum(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Along a velocity."""
    moments[0] = o.momentum * moments[0] + g
    p -= rates * moments[0]


def nesterov(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Along the gradient and the new velocity."""
    moments[0] = o.momentum * moments[0] + g
    p -= rates * (g + o.momentum * moments[0])


def rmsprop(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Along a velocity of gradients over their root mean square."""
    square, velocity = moments[:2]
    square[...] = o.alpha * square + (1 - o.alpha) * g * g
    velocity[...] = o.momentum * velocity + g / (np.sqrt(square) + o.epsilon)
    p -= rates * velocity


def adam(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Along the first moment over the root of the second, or of the greatest second moment (AMSGrad)."""
    p *= 1 - rates * o.decay
    first, second = moments[:2]
    first[...] = o.beta1 * first + (1 - o.beta1) * g
    second[...] = o.beta2 * second + (1 - o.beta2) * g * g
    unbias = math.sqrt(1 - o.beta2**t)
    epsilon = o.epsilon / unbias if o.epsilon_hat else o.epsilon
    if o.amsgrad:
        moments[2] = np.maximum(moments[2], second)
    root = np.sqrt(moments[2] if o.amsgrad else second) / unbias + epsilon
    p -= rates / (1 - o.beta1**t) * first / root


amsgrad = adam


def sparse_adam(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Adam's step, with epsilon added before the correction of the root."""
    first, second = moments[:2]
    first += (1 - o.beta1) * (g - first)
    second += (1 - o.beta2) * (g * g - second)
    unbias = math.sqrt(1 - o.beta2**t) / (1 - o.beta1**t)
    p -= rates * unbias * first / (np.sqrt(second) + o.epsilon)


def schedule_free(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """From z, with the gradient of p, between z and x, the mean of all z."""
    square, z, x = moments
    if t == 1:
        z[...] = x[...] = p
    square[...] = o.beta2 * square + (1 - o.beta2) * g * g
    move = g / (np.sqrt(square / (1 - o.beta2**t)) + o.epsilon) + o.weight_decay * p
    warm = np.minimum(np.arange(1, t + 1) / max(1, o.warmup), 1)
    z -= rates * p.dtype.type(warm[-1]) * move
    fraction = p.dtype.type(warm[-1] ** 2 / (warm**2).sum())
    x[...] = (1 - fraction) * x + fraction * z
    p[...] = (1 - o.beta1) * z + o.beta1 * x


def muon(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    """Along the result of `orthogonal`."""
    p *= 1 - rates * o.weight_decay
    p -= rates * g


def _of_user(o: Any, p: Array, g: Array, moments: Array, rates: Array, t: int) -> None:
    p *= 1 - rates * o.weight_decay
    used = moments[: o.own_rule.moments]
    new = o.made_by.on_arrays(p, g, used, rates, o.values, t)
    for array, value in zip((p, *used), new, strict=True):
        array[...] = value


def orthogonal(optimizer: Muon, g: Array, momentum: Array) -> Array:
    """Move a matrix's momentum along the gradient g; return the direction of the step (n_in, n_out)."""
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
    """Move the mean of parameters p (n,), if any, after step t."""
    if optimizer.averaging is not None:
        kind, number = optimizer.averaging
        fraction = 1 - number if kind == "ema" else 1 / max(t - number, 1)
        mean = moments[optimizer.rule.moments - 1]
        mean += p.dtype.type(fraction) * (p - mean) if t > 1 else p - mean
