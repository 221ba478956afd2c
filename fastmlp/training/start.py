"""The start of a training: first weights and biases, drawn or given."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import checks
from fastmlp.data.arrays import clean
from fastmlp.data.seeding import generator, words
from fastmlp.model.layout import aligned_copy, drawn, drawn_of_each, flatten, parameter_count, settle_bins
from fastmlp.model.monotone import project
from fastmlp.model.network import Network
from fastmlp.model.rows import ByteRows, Inputs, dense_columns, unpacked
from fastmlp.model.state import Array
from fastmlp.trained.model import Model

Initial = tuple[Sequence[ArrayLike], Sequence[ArrayLike]]


def drawn_seed(options: Any) -> int:
    """Return the seed of the resumed training, or a new seed."""
    return int(options.resume.seed if options.resume else int.from_bytes(os.urandom(16), "little"))


def dropout_key(network: Network, seed: int) -> int:
    """Return the key of a training's dropout masks, 32 bits; 0 without dropout."""
    return int(words(seed, "dropout")[0]) >> 32 if network.drops else 0


def _in_words(layer: tuple[str, str, int, int, bool] | None) -> str:
    if layer is None:
        return "none"
    name, kind, n_in, n_out, trains_bias = layer
    return f"{name} ({kind}, {n_in} to {n_out}{'' if trains_bias else ', no bias'})"


def _copied(model: Model, network: Network, dtype: np.dtype[Any]) -> Array:
    """Return a copy of a model's parameters for a network of the same shapes."""
    expected, got = (
        [
            (one.name, one.kind.key, one.n_in, one.n_out, one.trains_bias)
            for one in each.operations
            if one.end > one.weights
        ]
        for each in (network, model.network)
    )
    for ours, theirs in itertools.zip_longest(expected, got):
        if ours is None or theirs is None or ours[1:] != theirs[1:]:
            raise ValueError(
                f"initial must be a model of such layers: it has {_in_words(theirs)} where the network has "
                f"{_in_words(ours)}"
            )
    return aligned_copy(clean("the parameters of initial", model.parameters.reshape(1, -1), dtype)[0])


CACHED_PARAMETERS = 1 << 12
"""Starts of up to so many parameters are cached, 32 KiB each: a draw took a fifth of a small training.

The next fold, and a training with another rate, begins with the same parameters.
"""


@functools.lru_cache(maxsize=32)
def _cached_start(network: Network, seed: int, dtype: np.dtype[Any]) -> Array:
    """Return a training's first parameters, read-only by convention."""
    return drawn(network, generator(seed, "initial"), dtype)


def drawn_starts(network: Network, seeds: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return the first parameters (seeds, P) of trainings of a network, without bins by quantiles."""
    starts = np.empty((len(seeds), parameter_count(network)), dtype)
    drawn_of_each(network, (generator(seed, "initial") for seed in seeds), starts)
    return starts


def initial_parameters(
    network: Network,
    initial: Model | Initial | None,
    dtype: np.dtype[Any],
    seed: int,
    rows: Inputs | ByteRows | None = None,
) -> Array:
    """Return the first parameters (P,) of a training, given or drawn.

    rows : for bins by quantiles; ValueError without rows where the network has such bins
    """
    # Bins by quantiles depend on the rows, which are no part of the cache's key.
    if initial is None and parameter_count(network) <= CACHED_PARAMETERS and not network.settles:
        return aligned_copy(_cached_start(network, seed, dtype))
    if initial is None:
        parameters = drawn(network, generator(seed, "initial"), dtype)
        if network.settles:
            if rows is None:
                raise ValueError("bins by quantiles need rows: give the edges, or initial=a model")
            settle_bins(parameters, network, dense_columns(unpacked(rows)))
        return parameters
    if isinstance(initial, Model):
        if not (network.is_chain and initial.network.is_chain):
            return project(_copied(initial, network, dtype), network)
        initial = initial.weights, initial.biases
    required, names = "a Model or a pair of lists, (weights, biases)", ("initial weights", "initial biases")
    return project(flatten(*clean_pair("initial", required, names, initial, dtype), network, dtype), network)


def clean_pair(
    what: str, required: str, names: tuple[str, str], given: Any, dtype: np.dtype[Any]
) -> tuple[list[Array], list[Array]]:
    """Return a pair of lists of arrays, (weights, biases), clean; names : of the lists, for errors"""
    try:
        weights, biases = (list(arrays) for arrays in given)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be {required}, got {checks.shown(given)}") from None

    def cleaned(name: str, arrays: list[Any]) -> list[Array]:
        return [clean(f"{name}[{i}]", checks.real_array(name, one), dtype) for i, one in enumerate(arrays)]

    return cleaned(names[0], weights), cleaned(names[1], biases)
