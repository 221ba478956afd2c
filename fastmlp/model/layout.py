"""Where each layer lies in the one flat vector that holds all parameters.

Layer after layer: the weights (n_in, n_out) in C order, then the biases (n_out,). One vector
makes an optimiser one loop, an all-reduce one buffer and a checkpoint one array.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import addressof, c_char
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp.model.initializers import draw_biases, draw_weights
from fastmlp.model.network import Network

Array = NDArray[Any]


first_byte: Any = c_char.from_buffer
"""`addressof` of that is a third of the time of NumPy's own ways to an address."""

ALIGNMENT = 64
"""Bytes: one cache line, and the widest vector register."""


def aligned(length: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised vector that starts at a cache line; its pages are mapped when used."""
    dtype = np.dtype(dtype)
    extra = ALIGNMENT // dtype.itemsize
    raw = np.empty(length + extra, dtype)
    start = -addressof(first_byte(raw)) % ALIGNMENT // dtype.itemsize
    return raw[start : start + length]


class LayerSlices(NamedTuple):
    """One layer's place in the flat vector: weights [weights, biases), biases [biases, end)."""

    weights: int
    biases: int
    end: int
    n_in: int
    n_out: int


@functools.lru_cache(maxsize=64)
def layer_slices(sizes: tuple[int, ...]) -> tuple[LayerSlices, ...]:
    """Return each layer's place in the flat vector, the first layer's first."""
    slices = []
    end = 0
    for n_in, n_out in pairwise(sizes):
        start, end = end, end + (n_in + 1) * n_out
        slices.append(LayerSlices(start, end - n_out, end, n_in, n_out))
    return tuple(slices)


def parameter_count(sizes: tuple[int, ...]) -> int:
    """Return the length of the flat vector."""
    return layer_slices(sizes)[-1].end


def layer_views(parameters: Array, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    """Return per layer the views (weights (n_in, n_out), biases (n_out,)) of a flat (P,) vector."""
    return [
        (
            parameters[at.weights : at.biases].reshape(at.n_in, at.n_out),
            parameters[at.biases : at.end],
        )
        for at in layer_slices(sizes)
    ]


def drawn(network: Network, rng: np.random.Generator, dtype: DTypeLike) -> Array:
    """Return a new flat vector of `dtype`: the weights drawn layer after layer, and then the biases."""
    parameters = aligned(parameter_count(network.sizes), dtype)
    views = layer_views(parameters, network.sizes)
    for weights, _ in views:
        weights[...] = draw_weights(network.weight_init, len(weights), weights.shape[1], rng)
    for weights, biases in views:
        biases[...] = draw_biases(network.bias_init, len(weights), len(biases), rng)
    return parameters


def flatten(
    weights: Sequence[Array], biases: Sequence[Array], network: Network, dtype: np.dtype[Any]
) -> Array:
    """Copy given arrays into a new flat vector of `dtype`.

    Parameters
    ----------
    weights, biases : sequences of (n_in, n_out) and (n_out,) arrays, one of each per layer

    Raises
    ------
    ValueError
        If there are not as many arrays as layers, or a shape is not the layer's.
    """
    parameters = aligned(parameter_count(network.sizes), dtype)
    views = layer_views(parameters, network.sizes)
    for what, arrays, index in (("weights", weights, 0), ("biases", biases, 1)):
        if len(arrays) != len(views):
            raise ValueError(f"initial {what} must hold {len(views)} arrays, got {len(arrays)}")
        for layer, (array, view) in enumerate(zip(arrays, views, strict=True)):
            if array.shape != view[index].shape:
                raise ValueError(
                    f"initial {what}[{layer}] must have shape {view[index].shape}, got {array.shape}"
                )
            view[index][...] = array
    return parameters
