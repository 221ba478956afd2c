"""The flat vector of all parameters, and views of each layer's part.

Operation after operation: the weights (n_in, n_out) in C order, then the biases (n_out,). With a single
vector an optimiser is a loop, an all-reduce a buffer and a checkpoint an array.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from ctypes import addressof, c_char
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastmlp.model.embeddings import Embedding
from fastmlp.model.initializers import bias_bound, draw_biases, draw_layer, weight_bound, within
from fastmlp.model.monotone import with_signs
from fastmlp.model.network import Network
from fastmlp.model.operations import Operation

Array = NDArray[Any]


first_byte: Any = c_char.from_buffer
"""`addressof` of this takes a third of the time of NumPy's ways to an address."""

ALIGNMENT = 64
"""Bytes: one cache line, and the widest vector register."""


def aligned(length: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised vector at a cache line; pages are mapped at first use."""
    dtype = np.dtype(dtype)
    extra = ALIGNMENT // dtype.itemsize
    raw = np.empty(length + extra, dtype)
    start = -addressof(first_byte(raw)) % ALIGNMENT // dtype.itemsize
    return raw[start : start + length]


def aligned_copy(vector: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of a vector in an aligned array."""
    found = aligned(vector.size, vector.dtype)
    found[...] = vector
    return found


def parameter_count(network: Network) -> int:
    """Return the length of the flat vector."""
    return network.operations[-1].end


def arrays_of(vector: Array, one: Operation) -> dict[str, Array]:
    """Return an operation's arrays by name, views of a flat (P,) vector."""
    found = {}
    for name, (start, shape, _, step) in one.arrays.items():
        if step:
            strides = step * vector.itemsize, vector.itemsize
            found[name] = np.lib.stride_tricks.as_strided(vector[start:], shape, strides)
        else:
            found[name] = vector[start : start + math.prod(shape)].reshape(shape)
    return found


def dense_views(vector: Array, network: Network) -> list[tuple[Array, Array]]:
    """Return for each product the views (weights (n_in, n_out), biases (n_out,)) of a flat (P,) vector."""
    return [
        (vector[one.weights : one.biases].reshape(one.n_in, one.n_out), vector[one.biases : one.trained])
        for one in network.dense
    ]


def named_views(vector: Array, network: Network) -> dict[str, dict[str, Array]]:
    """Return the arrays of every layer by name, as views of a flat (P,) vector.

    A `Dense` has "weights" (n_in, n_out) and perhaps "biases" (n_out,); other layers have "gain" and "shift",
    a `BatchNorm` also running "mean" and "variance", a custom layer its parameters, (n_out,) or (1,). After
    `Members` a `Dense` has "r" (members, n_in), "weights", "s" and "biases" (members, n_out), and other
    layers have a row for each member. For inputs see `fastmlp.model.embeddings` and `inputs`.
    """
    found: dict[str, dict[str, Array]] = {}
    for one in network.operations:
        arrays = arrays_of(vector, one)
        if not one.trains_bias:
            arrays.pop("biases", None)
        if arrays := {name: array for name, array in arrays.items() if array.size}:
            found[one.name] = found.get(one.name, {}) | arrays
    return found


def drawn(network: Network, rng: np.random.Generator, dtype: DTypeLike) -> Array:
    """Return a new flat vector of a dtype: first all weights drawn, then biases, then custom layers."""
    parameters = aligned(parameter_count(network), dtype)
    dense: list[Any] = [*network.dense]  # of a `Dense` each
    others = [one for one in network.operations if not one.is_dense]
    for one in others:
        if isinstance(one.layer, Embedding):
            one.layer.draw(arrays_of(parameters, one), rng)
        elif one.kind.state:
            state = parameters[one.trained : one.end].reshape(len(one.kind.state), -1)
            state.T[...] = [name == "variance" for name in one.kind.state]
    last = network.operations[-1]
    spread: list[Array | None] = []
    for one in dense:
        ends = None if one is last or one.is_head else one.activation
        weights, biases = draw_layer(one.layer.weight_init, ends, one.n_in, one.n_out, rng)
        parameters[one.weights : one.biases] = weights.reshape(-1)
        spread.append(biases if one.trains_bias else None)
    for one, biases in zip(dense, spread, strict=True):
        if biases is None:
            biases = draw_biases(one.layer.bias_init, one.n_in, one.n_out, rng)
        parameters[one.biases : one.trained] = biases
    if network.members > 1:
        draw_members(parameters, others, network, rng)
    for one in others:
        arrays = [] if one.part else [*arrays_of(parameters, one).values()]
        for parameter, array in zip(one.kind.parameters, arrays, strict=False):
            array.T[...] = parameter.drawn(array.size, rng, one.layer).reshape(array.T.shape)
    return with_signs(parameters, network)


def draw_members(
    parameters: Array, operations: Sequence[Operation], network: Network, rng: np.random.Generator
) -> None:
    """Draw the separate parameters of members: the first r as signs, biases as for a single network."""
    before, after = ([one for one in operations if one.part == part] for part in "rs")
    for one in (*before, *after):
        parameters[one.weights : one.biases] = 1
    first = before[0]
    parameters[first.weights : first.biases] = rng.integers(0, 2, first.biases - first.weights) * 2 - 1
    for r, s in zip(before, after, strict=True):
        n_in, n_out = (one.n_in // network.members for one in (r, s))
        layer: Any = s.layer
        biases = parameters[s.biases : s.trained].reshape(-1, n_out)
        biases[...] = draw_biases(layer.bias_init, n_in, n_out, rng)


def drawn_of_each(network: Network, rngs: Iterable[np.random.Generator], out: Array) -> None:
    """Write `drawn` by each generator to a row of out (generators, P)."""
    # Uniform numbers of a chain are scaled together, in a tenth of the time.
    parts = _uniform_parts(network)
    if parts is None:
        for row, rng in zip(out, rngs, strict=True):
            row[...] = drawn(network, rng, out.dtype)
        return
    numbers, at = np.empty((len(out), sum(stop - start for start, stop, bound in parts if bound))), 0
    for row, rng in zip(numbers, rngs, strict=True):
        rng.random(out=row)
    for start, stop, bound in parts:
        out[:, start:stop] = within(bound, numbers[:, at : at + stop - start]) if bound else 0.0
        at += (stop - start) * bool(bound)


@functools.lru_cache(maxsize=64)
def _uniform_parts(network: Network) -> list[tuple[int, int, float]] | None:
    """Return (start, stop, bound) of all parameters, in the order of draws; None unless all are uniform."""
    parts: list[tuple[int, int, float | None]] = []
    if not network.is_chain or network.monotone is not None:
        return None
    dense: list[Any] = [*network.operations]
    for one in dense:
        parts.append((one.weights, one.biases, weight_bound(one.layer.weight_init, one.n_in, one.n_out)))
    for one in dense:
        parts.append((one.biases, one.trained, bias_bound(one.layer.bias_init, one.n_in)))
    found = [(start, stop, bound) for start, stop, bound in parts if bound is not None]
    return found if len(found) == len(parts) else None


def settle_bins(parameters: Array, network: Network, rows: Array) -> None:
    """Write quantile bins of clean rows (rows, n_in) to a flat (P,) vector."""
    for one in network.operations:
        if isinstance(one.layer, Embedding) and one.layer.settles:
            column = network.operations[one.sources[0]].column
            one.layer.settle(arrays_of(parameters, one), rows[:, column : column + one.n_in])


def flatten(
    weights: Sequence[Array], biases: Sequence[Array], network: Network, dtype: np.dtype[Any]
) -> Array:
    """Copy given arrays into a new flat vector of a dtype.

    Parameters
    ----------
    weights, biases : sequences of (n_in, n_out) and (n_out,) arrays, an array for each layer

    ValueError if the number of arrays is not the number of layers, or a shape is not the layer's shape.
    """
    network.check_chain()
    parameters = aligned(parameter_count(network), dtype)
    views = dense_views(parameters, network)
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
