"""Operations of the reference besides products, dropout, and derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference_layers import FORMULAS
from fastmlp.backend.reference_losses import activate, activate_gradient
from fastmlp.model.backend import Array
from fastmlp.model.custom import backward_on_array, on_array
from fastmlp.model.layout import Views
from fastmlp.model.operations import Operation


def scramble(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return a hash of 32-bit words: Wellons' "lowbias32" (2018)."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def dropout_mask(
    key: int, step: int, layer: int, shape: tuple[int, int], p: float, places: Array | None = None
) -> Array:
    """Return the mask of remaining units (rows, units) of a batch: the definition for every backend.

    A pure function of the arguments: places (rows,) of the rows in the batch, 0 to rows - 1 if None; step
    counts updates from 0, hidden layers count from 0, arithmetic is modulo 2^32.
    """
    word = np.array([key], np.uint32)
    for number in (step, layer):
        word = scramble(word ^ np.uint32(number % 2**32))
    places = np.arange(shape[0]) if places is None else places
    rows = scramble(word + places.astype(np.uint32) * np.uint32(0x9E3779B9))
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


def networks_of(
    one: Operation, x: Array, other: Array, views: Views
) -> list[tuple[Operation, Array, Array, Views]]:
    """Return for each network of `Members` the operation, the units of both sources, and the parameters."""
    k = one.networks
    parts = [np.split(array, k, axis=-1) for array in (x, other, *views)]
    alone = one._replace(networks=1, subrows=one.subrows // k)
    return [(alone, own, second, Views(*rest)) for own, second, *rest in zip(*parts, strict=True)]


def operate(one: Operation, x: Array, other: Array, views: Views, batch: NormBatch | None) -> Array:
    """Return the output of an operation without a product, before dropout.

    batch : None for the running mean and variance of a batch norm
    """
    if one.networks > 1 and one.subrows > 1:
        return np.hstack([operate(*own, batch=batch) for own in networks_of(one, x, other, views)])
    gain, shift, state = views
    layer: Any = one.layer
    if one.second:
        x, other = x[:, : one.second], other[:, one.second :]
    match one.kind.name:
        case "batch_norm":
            mean, variance = batch.moments(x) if batch else state
            return (x - mean) / np.sqrt(variance + x.dtype.type(layer.epsilon)) * gain + shift
        case "activation":
            return activate(one.activation, x)
        case "concatenate":
            return np.hstack([x, other])
        case "copy":
            return x
        case "members":
            return np.tile(x, one.n_out // one.n_in)
        case "own":
            return on_array(one.kind.piece, x, gain)
    found: Array = FORMULAS[one.kind.name][0](layer, x, other, gain, shift)
    return found


def operate_gradient(
    one: Operation, x: Array, other: Array, views: Views, delta: Array, batch: NormBatch | None
) -> tuple[Array, Array | None, Array | None]:
    """Return the loss's derivatives by both sources of an operation and by the gain.

    delta : the derivative by the output; batch : as for `operate`
    """
    if one.networks > 1 and one.subrows > 1:
        deltas = np.split(delta, one.networks, axis=1)
        found = [
            operate_gradient(*own, by_output, batch)
            for own, by_output in zip(networks_of(one, x, other, views), deltas, strict=True)
        ]
        every: list[Any] = [
            None if parts[0] is None else np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True)
        ]
        return every[0], every[1], every[2]
    layer: Any = one.layer
    gain = views.first
    if one.second:
        x, other = x[:, : one.second], other[:, one.second :]
    match one.kind.name:
        case "batch_norm":
            mean, variance = batch.moments(x) if batch else views.state
            deviation = np.sqrt(variance + x.dtype.type(layer.epsilon))
            normal, by_x = (x - mean) / deviation, delta * gain / deviation
            if batch:
                by_x = by_x - batch.mean(by_x) - normal * batch.mean(by_x * normal)
            return by_x, None, (delta * normal).sum(axis=0)
        case "activation":
            return activate_gradient(one.activation, x, activate(one.activation, x), delta), None, None
        case "concatenate":
            return delta[:, : one.n_in], delta[:, one.n_in :], None
        case "copy":
            return delta, None, None
        case "members":
            return delta.reshape(len(x), delta.shape[1] // one.n_in, one.n_in).sum(axis=1), None, None
        case "own":
            by_x, by_parameters = backward_on_array(one.kind.piece, x, gain, delta)
            return by_x, None, by_parameters
    by_x, by_other, by_gain = FORMULAS[one.kind.name][1](layer, delta, x, other, gain)
    if one.second and by_other is not None:
        by_x, by_other = np.hstack([by_x, by_other]), None
    return by_x, by_other, None if by_gain is None else by_gain.sum(axis=0)
