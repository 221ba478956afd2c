"""Layers with a formula of a row, and blocks of inputs, in NumPy, by hand: a second opinion.

A layer is two functions, found by the name of the kind. `layer_norm(layer, x, other, gain, shift)` returns
the outputs (rows, n) of rows x (rows, n), and `layer_norm_gradient(layer, delta, x, other, gain)` the
derivatives of the loss by x, by the second row `other`, and by the gain of each row, given delta, the
derivative by the outputs; None without such an argument. The gain is all trained numbers but the shift, in
the order of the layer's entry. The layer has the hyperparameters. Blocks stand below, with their arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastmlp.backend.reference_losses import activate, activate_gradient, logistic
from fastmlp.model.backend import Array

Gradient = tuple[Array, Array | None, Array | None]


def normal(x: Array, epsilon: float) -> tuple[Array, Array]:
    """Return rows with mean 0 and variance 1, and the deviations (rows, 1)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon)
    return centred / deviation, deviation


def by_normal(delta: Array, x: Array, epsilon: float) -> Array:
    """Return the derivative by x, given the derivative by the normal rows."""
    along, deviation = normal(x, epsilon)
    mean = delta.mean(axis=-1, keepdims=True)
    found: Array = (delta - mean - along * (delta * along).mean(axis=-1, keepdims=True)) / deviation
    return found


def layer_norm(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    return normal(x, layer.epsilon)[0] * gain + shift


def layer_norm_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    return by_normal(delta * gain, x, layer.epsilon), None, delta * normal(x, layer.epsilon)[0]


def group_norm(layer: Any, x: Array, other: Array, gain: Array, shift: Array) -> Array:
    groups = x.reshape(len(x), layer.groups, x.shape[1] // layer.groups)
    return normal(groups, layer.epsilon)[0].reshape(x.shape) * gain + shift


def group_norm_gradient(layer: Any, delta: Array, x: Array, other: Array, gain: Array) -> Gradient:
    shape = len(x), layer.groups, x.shape[1] // layer.groups
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


# --- blocks of inputs: arrays of the layer by name, and their derivatives, which are written --------------

Arrays = dict[str, Array]


def angles(x: Array, own: Arrays) -> Array:
    """Return 2 pi c x + b (rows, columns, terms) of x (rows, columns)."""
    return x.dtype.type(2 * np.pi) * x[:, :, None] * own["frequencies"] + own.get("phases", 0)


def periodic(layer: Any, x: Array, own: Arrays) -> Array:
    z = angles(x, own)
    return np.cos(z) if "phases" in own else np.concatenate([np.sin(z), np.cos(z)], axis=2)


def periodic_gradient(layer: Any, delta: Array, x: Array, own: Arrays, by_own: Arrays) -> None:
    z, by_units = angles(x, own), delta.reshape(*x.shape, delta.shape[1] // x.shape[1])
    if "phases" in own:
        by_z = -by_units * np.sin(z)
        by_own["phases"][...] = by_z.sum(axis=0)
    else:
        by_sine, by_cosine = np.split(by_units, 2, axis=2)
        by_z = by_sine * np.cos(z) - by_cosine * np.sin(z)
    by_own["frequencies"][...] = np.einsum("ig,igk->gk", x.dtype.type(2 * np.pi) * x, by_z)


def piecewise_linear(layer: Any, x: Array, own: Arrays) -> Array:
    units = (x[:, :, None] - own["edges"]) * own["slopes"]
    lowest, highest = np.zeros(units.shape[2], x.dtype), np.ones(units.shape[2], x.dtype)
    lowest[0], highest[-1] = -1, 2
    return np.clip(units, lowest, highest)


def piecewise_linear_gradient(layer: Any, delta: Array, x: Array, own: Arrays, by_own: Arrays) -> None:
    pass  # nothing of it is trained


def grouped(layer: Any, x: Array, own: Arrays) -> Array:
    found: Array = np.einsum("igk,gkd->igd", x.reshape(len(x), *own["weights"].shape[:2]), own["weights"])
    return found + own["biases"]


def grouped_gradient(layer: Any, delta: Array, x: Array, own: Arrays, by_own: Arrays) -> Array:
    by_units = delta.reshape(len(x), len(own["weights"]), layer.units)
    by_own["weights"][...] = np.einsum("igk,igd->gkd", x.reshape(len(x), *own["weights"].shape[:2]), by_units)
    by_own["biases"][...] = by_units.sum(axis=0)
    found: Array = np.einsum("igd,gkd->igk", by_units, own["weights"]).reshape(x.shape)
    return found


def table_rows(layer: Any, codes: Array) -> list[Array]:
    """Return for each column of codes the table rows: 0 for missing, -1 for an unknown code."""
    known = [(column >= -1) & (column < n) for n, column in zip(layer.levels, codes.T, strict=True)]
    return [np.where(own, column, -2).astype(int) + 1 for own, column in zip(known, codes.T, strict=True)]


def categories(layer: Any, x: Array, own: Arrays) -> Array:
    found = []
    for rows, table in zip(table_rows(layer, x), own.values(), strict=True):
        mean = table[1:].mean(axis=0, dtype=table.dtype)
        found.append(np.where(rows[:, None] >= 0, table[rows], mean))
    return np.hstack(found)


def categories_gradient(layer: Any, delta: Array, x: Array, own: Arrays, by_own: Arrays) -> None:
    units = np.split(delta, np.cumsum(layer.width)[:-1], axis=1)
    for rows, by_units, by_table in zip(table_rows(layer, x), units, by_own.values(), strict=True):
        by_table[...] = 0
        np.add.at(by_table, rows[rows >= 0], by_units[rows >= 0])


FORMULAS: dict[str, tuple[Callable[..., Array], Callable[..., Any]]] = {
    name: (function, globals()[f"{name}_gradient"])
    for name, function in [*globals().items()]
    if f"{name}_gradient" in globals() and function.__module__ == __name__
}
"""The two functions of each layer and each embedding, by the name of the kind."""
