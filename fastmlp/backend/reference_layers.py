"""The layers that are a formula of a row, in NumPy, by hand: the second opinion on derived code.

A layer is two functions, found by the name of its kind. `layer_norm(layer, x, other, gain, shift)` returns
the outputs (rows, n) of rows x (rows, n), and `layer_norm_gradient(layer, delta, x, other, gain)` the
derivatives of the loss by x, by the second row `other`, and by the gain of each row, given delta, that by the
outputs; None where there is none. The layer has the hyperparameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.backend.reference_losses import activate, activate_gradient, logistic
from fastmlp.model.backend import Array

Gradient = tuple[Array, Array | None, Array | None]


def normal(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Return rows with mean 0 and variance 1, and their deviations (rows, 1)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon)
    return centred / deviation, deviation


def by_normal(delta: Array, x: Array, epsilon: float) -> Array:
    """Return the derivative by x, given that by the normal rows."""
    along, deviation = normal(x, epsilon)
    mean = delta.mean(axis=-1, keepdims=True)
    found: Array = (delta - mean - along * (delta * along).mean(axis=-1, keepdims=True)) / deviation
    return found


def layer_norm(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return normal(x, layer.epsilon)[0] * gain + shift


def layer_norm_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    return by_normal(delta * gain, x, layer.epsilon), None, delta * normal(x, layer.epsilon)[0]


def group_norm(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    groups = x.reshape(len(x), layer.groups, -1)
    return normal(groups, layer.epsilon)[0].reshape(x.shape) * gain + shift


def group_norm_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    shape = len(x), layer.groups, -1
    by_x = by_normal((delta * gain).reshape(shape), x.reshape(shape), layer.epsilon)
    return by_x.reshape(x.shape), None, delta * normal(x.reshape(shape), layer.epsilon)[0].reshape(x.shape)


def root_mean_square(layer: Any, x: Array) -> Array:
    """Return the root of each row's mean square (rows, 1), with the norm's epsilon."""
    epsilon = np.finfo(x.dtype).eps if layer.epsilon is None else layer.epsilon
    return np.sqrt((x * x).mean(axis=1, keepdims=True) + x.dtype.type(epsilon))


def rms_norm(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x / root_mean_square(layer, x) * gain


def rms_norm_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    size = root_mean_square(layer, x)
    along, own = x / size, delta * gain
    return (own - along * (own * along).mean(axis=1, keepdims=True)) / size, None, delta * along


def scale(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x * gain


def scale_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    return delta * gain, None, delta * x


def scale_shift(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x * gain + shift


scale_shift_gradient = scale_gradient


def prelu(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return np.where(x > 0, x, gain * x)


def prelu_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    return np.where(x > 0, delta, delta * gain), None, np.where(x > 0, 0, delta * x)


def swish(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x * logistic(gain * x)


def swish_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    s = logistic(gain * x)
    slope = x * s * (1 - s)
    return delta * (s + gain * slope), None, delta * x * slope


def add(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x + other


def add_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    return delta, delta, None


def multiply(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x * other


def multiply_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    return delta * other, delta * x, None


# --- gates: x times a function of the other half of the row -------------------------------------------


def glu(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x * logistic(other)


def glu_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    s = logistic(other)
    return delta * s, delta * x * s * (1 - s), None


def reglu(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return np.where(other > 0, x * other, 0)


def reglu_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    return np.where(other > 0, delta * other, 0), np.where(other > 0, delta * x, 0), None


def geglu(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x * activate("gelu", other)


def geglu_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    gate = activate("gelu", other)
    return delta * gate, activate_gradient("gelu", other, gate, delta * x), None


def swiglu(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return x * other * logistic(other)


def swiglu_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    s = logistic(other)
    return delta * other * s, delta * x * (s + other * s * (1 - s)), None


FORMULAS: dict[str, tuple[Callable[..., Array], Callable[..., Gradient]]] = {
    name: (function, globals()[f"{name}_gradient"])
    for name, function in [*globals().items()]
    if f"{name}_gradient" in globals() and function.__module__ == __name__
}
"""The two functions of each layer, by the name of its kind."""
