"""Operations of the reference besides products, in NumPy, by hand: layers, blocks of inputs, dropout.

A layer with a formula of a row is two functions, found by the name of the kind. `layer_norm(layer, x, other,
gain, shift)` returns the outputs (rows, n) of rows x (rows, n), and `layer_norm_gradient(layer, delta, x,
other, gain)` the derivatives of the loss by x, by the second row `other`, and by the gain of each row, given
delta, the derivative by the outputs; None without such an argument. The gain is all trained numbers but the
shift, in the order of the layer's entry. The layer has the hyperparameters. Blocks have arrays by name; a
block without two functions here has those of its entry's formulas, from which no program is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference_losses import activate, activate_gradient, logistic
from fastmlp.formulas.derivatives import gradient
from fastmlp.formulas.expressions import variable
from fastmlp.model.backend import Array
from fastmlp.model.component import Layer
from fastmlp.model.operations import Operation

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
    by_x: Array = (delta - mean - along * (delta * along).mean(axis=-1, keepdims=True)) / deviation
    return by_x


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
    along, weighted = x / size, delta * gain
    return (weighted - along * (weighted * along).mean(axis=1, keepdims=True)) / size, None, delta * along


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


def units_of_formulas(layer: Any, x: Array, arrays: Arrays) -> Array:
    """Return the units of a block by the formulas of its entry."""
    for part in layer.formulas(arrays):
        x = part.formula(x[:, part.gathered], *part.arrays.values())
    return x


def gradient_of_formulas(layer: Any, delta: Array, x: Array, arrays: Arrays, by_arrays: Arrays) -> None:
    """Write the derivatives by the trained arrays, from the last formula to the first."""
    parts, sources = layer.formulas(arrays), [x]
    for part in parts:
        sources.append(part.formula(sources[-1][:, part.gathered], *part.arrays.values()))
    for part, source in zip(parts[::-1], sources[-2::-1], strict=True):
        value = part.formula(variable("z"), *map(variable, part.arrays))
        values = {"z": source[:, part.gathered], **part.arrays}
        by = {name: delta * gradient(value, name).on_arrays(x.dtype, values) for name in values}
        for name in () if part.fixed else part.arrays:
            by_arrays[name][...] = by[name].sum(axis=0).reshape(by_arrays[name].shape)
        delta = np.zeros_like(source)
        np.add.at(delta.T, part.gathered, by["z"].T)


def grouped(layer: Any, x: Array, arrays: Arrays) -> Array:
    products: Array = np.einsum(
        "igk,gkd->igd", x.reshape(len(x), *arrays["weights"].shape[:2]), arrays["weights"]
    )
    return products + arrays["biases"]


def grouped_gradient(layer: Any, delta: Array, x: Array, arrays: Arrays, by_arrays: Arrays) -> Array:
    by_units = delta.reshape(len(x), len(arrays["weights"]), layer.units)
    by_arrays["weights"][...] = np.einsum(
        "igk,igd->gkd", x.reshape(len(x), *arrays["weights"].shape[:2]), by_units
    )
    by_arrays["biases"][...] = by_units.sum(axis=0)
    by_x: Array = np.einsum("igd,gkd->igk", by_units, arrays["weights"]).reshape(x.shape)
    return by_x


def table_rows(layer: Any, codes: Array) -> list[Array]:
    """Return for each column of codes the table rows: 0 for missing, -1 for an unknown code."""
    known = [(column >= -1) & (column < n) for n, column in zip(layer.levels, codes.T, strict=True)]
    return [np.where(valid, column, -2).astype(int) + 1 for valid, column in zip(known, codes.T, strict=True)]


def categories(layer: Any, x: Array, arrays: Arrays) -> Array:
    units = []
    for rows, table in zip(table_rows(layer, x), arrays.values(), strict=True):
        mean = table[1:].mean(axis=0, dtype=table.dtype)
        units.append(np.where(rows[:, None] >= 0, table[rows], mean))
    return np.hstack(units)


def categories_gradient(layer: Any, delta: Array, x: Array, arrays: Arrays, by_arrays: Arrays) -> None:
    units = np.split(delta, np.cumsum(layer.width)[:-1], axis=1)
    for rows, by_units, by_table in zip(table_rows(layer, x), units, by_arrays.values(), strict=True):
        by_table[...] = 0
        np.add.at(by_table, rows[rows >= 0], by_units[rows >= 0])


FORMULAS: dict[str, tuple[Callable[..., Array], Callable[..., Any]]] = {
    name: (function, globals()[f"{name}_gradient"])
    for name, function in [*globals().items()]
    if f"{name}_gradient" in globals() and function.__module__ == __name__
}
"""The two functions of each layer and each embedding, by the name of the kind."""


def block_functions(op: Operation) -> tuple[Callable[..., Array], Callable[..., Any]]:
    """Return the two functions of an operation on a block; without functions here, those of its formulas."""
    return FORMULAS.get(op.kind.key, (units_of_formulas, gradient_of_formulas))


# --- dropout, and all operations of a network -------------------------------------------------------------


def scramble(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return a hash of 32-bit words: Wellons' "lowbias32" (2018)."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def dropout_mask(
    key: int, step: int, layer: int, shape: tuple[int, int], p: float, positions: Array | None = None
) -> Array:
    """Return the mask of remaining units (rows, units) of a batch: the definition for every backend.

    A pure function of the arguments: positions (rows,) of the rows in the batch, 0 to rows - 1 if None; step
    counts updates from 0, hidden layers count from 0, arithmetic is modulo 2^32.
    """
    word = np.array([key], np.uint32)
    for number in (step, layer):
        word = scramble(word ^ np.uint32(number % 2**32))
    positions = np.arange(shape[0]) if positions is None else positions
    rows = scramble(word + positions.astype(np.uint32) * np.uint32(0x9E3779B9))
    units = np.arange(shape[1], dtype=np.uint32) * np.uint32(0x85EBCA6B)
    return scramble(rows[:, None] + units) >= np.uint32(p * 2**32)


class NormBatch(NamedTuple):
    """The statistics of a batch norm while training, over all rows of a batch, also in other processes.

    rows : of all processes; total : sums over the processes
    """

    rows: int
    total: Callable[[Array], Array] = lambda sums: sums

    def mean(self, x: Array) -> Array:
        """Return the mean (units,) of all rows, given this process's rows x (rows, units)."""
        return self.total(x.sum(axis=0)) / x.dtype.type(self.rows)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Return the means and the variances (units,) of all rows."""
        mean = self.mean(x)
        return mean, self.mean((x - mean) ** 2)


class Views(NamedTuple):
    """An operation's part of a flat vector; arrays without numbers are empty.

    first : weights (n_in, n_out), the gain (n_out,), or all parameters of a custom layer
    second : biases or the shift (n_out,)
    state : (2, n_out), the running mean and variance of a batch norm; the whole state of a block
    """

    first: Array
    second: Array
    state: Array


def sections_of(vector: Array, op: Operation) -> Views:
    """Return the views of an operation's part of a flat (P,) vector."""
    return Views(
        vector[op.weights : op.biases].reshape((op.n_in, op.n_out) if op.is_dense else -1),
        vector[op.biases : op.trained],
        vector[op.trained : op.end].reshape((len(op.kind.state), -1) if op.kind.state else -1),
    )


def networks_of(
    op: Operation, x: Array, other: Array, views: Views
) -> list[tuple[Operation, Array, Array, Views]]:
    """Return for each network of `Members` the operation, the units of both sources, and the parameters."""
    k = op.networks
    parts = [np.split(array, k, axis=-1) for array in (x, other, *views)]
    alone = op._replace(networks=1, subrows=op.subrows // k)
    return [(alone, source, second, Views(*rest)) for source, second, *rest in zip(*parts, strict=True)]


def operate(op: Operation, x: Array, other: Array, views: Views, batch: NormBatch | None) -> Array:
    """Return the output of an operation without a product, before dropout.

    batch : None for the running mean and variance of a batch norm
    """
    if op.networks > 1 and op.subrows > 1:
        return np.hstack([operate(*network, batch=batch) for network in networks_of(op, x, other, views)])
    gain, shift, state = views
    layer: Any = op.layer
    if op.second:
        x, other = x[:, : op.second], other[:, op.second :]
    if isinstance(op.kind, Layer):
        return op.kind.on_array(x, gain)
    match op.kind.key:
        case "batch_norm":
            mean, variance = batch.moments(x) if batch else state
            return (x - mean) / np.sqrt(variance + x.dtype.type(layer.epsilon)) * gain + shift
        case "activation":
            return activate(op.activation, x)
        case "concatenate":
            return np.hstack([x, other])
        case "copy":
            return x
        case "members":
            return np.tile(x, op.n_out // op.n_in)
    out: Array = FORMULAS[op.kind.key][0](layer, x, other, gain, shift)
    return out


def operate_gradient(
    op: Operation, x: Array, other: Array, views: Views, delta: Array, batch: NormBatch | None
) -> tuple[Array, Array | None, Array | None]:
    """Return the loss's derivatives by both sources of an operation and by the gain.

    delta : the derivative by the output; batch : as for `operate`
    """
    if op.networks > 1 and op.subrows > 1:
        deltas = np.split(delta, op.networks, axis=1)
        by_each = [
            operate_gradient(*network, by_output, batch)
            for network, by_output in zip(networks_of(op, x, other, views), deltas, strict=True)
        ]
        every: list[Any] = [
            None if parts[0] is None else np.concatenate(parts, axis=-1)
            for parts in zip(*by_each, strict=True)
        ]
        return every[0], every[1], every[2]
    layer: Any = op.layer
    gain = views.first
    if op.second:
        x, other = x[:, : op.second], other[:, op.second :]
    if isinstance(op.kind, Layer):
        by_x, by_parameters = op.kind.backward_on_array(x, gain, delta)
        return by_x, None, by_parameters
    match op.kind.key:
        case "batch_norm":
            mean, variance = batch.moments(x) if batch else views.state
            deviation = np.sqrt(variance + x.dtype.type(layer.epsilon))
            normal, by_x = (x - mean) / deviation, delta * gain / deviation
            if batch:
                by_x = by_x - batch.mean(by_x) - normal * batch.mean(by_x * normal)
            return by_x, None, (delta * normal).sum(axis=0)
        case "activation":
            return activate_gradient(op.activation, x, activate(op.activation, x), delta), None, None
        case "concatenate":
            return delta[:, : op.n_in], delta[:, op.n_in :], None
        case "copy":
            return delta, None, None
        case "members":
            return delta.reshape(len(x), delta.shape[1] // op.n_in, op.n_in).sum(axis=1), None, None
    by_x, by_other, by_gain = FORMULAS[op.kind.key][1](layer, delta, x, other, gain)
    if op.second and by_other is not None:
        by_x, by_other = np.hstack([by_x, by_other]), None
    return by_x, by_other, None if by_gain is None else by_gain.sum(axis=0)
