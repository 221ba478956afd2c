"""Random draws of `fit`: the streams of its seed, splits, first weights and biases, orders of the rows."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import checks
from fastmlp.model.byte_rows import ByteRows, unpacked
from fastmlp.model.layout import aligned, drawn, drawn_of_each, flatten, parameter_count, settle_bins
from fastmlp.model.network import Network
from fastmlp.model.sparse import Inputs, dense_columns
from fastmlp.training.data import clean
from fastmlp.training.model import Model
from fastmlp.training.seeding import SeededGenerators

Array = NDArray[Any]
Initial = tuple[Sequence[ArrayLike], Sequence[ArrayLike]]


class Streams:
    """Independent sources of randomness, all from one seed; each is made at its first use, 10 us."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getattr__(self, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(STREAMS.index(name),))


STREAMS = ("initial", "split", "order", "dropout", "mixup")
"""The streams, in the order in which `SeedSequence.spawn` gives them."""


def split_rows(validation: Any, rows: int, streams: Streams) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of so many rows are trained on, and which are the share `validation`; both ascend.

    Raises
    ------
    TypeError, ValueError
        If it is no share, or leaves no row on one side.
    """
    if not isinstance(validation, Real):
        raise TypeError(
            "validation must be a share of the rows in (0, 1), (X, y) or (X, y, sample_weight), "
            f"got {checks.shown(validation)}"
        )
    share = checks.real("validation", validation, 0, 1, open_low=True, open_high=True)
    held = round(share * rows)
    if not 0 < held < rows:
        raise ValueError(f"validation={share:g} of {rows} rows leaves none to train or to validate on")
    order = np.random.default_rng(streams.split).permutation(rows)
    return np.sort(order[held:]), np.sort(order[:held])


def dropout_key(network: Network, streams: Streams) -> int:
    """Return what all dropout masks of a training go by, 0 if it has none."""
    return int(streams.dropout.generate_state(1, np.uint32)[0]) if network.drops else 0


class IndependentOrders:
    """Row orders that do not depend on one another (`fastmlp.training.batches.Orders`)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    @property
    def state(self) -> dict[str, Any]:
        """State of the generator. Setting it continues from there."""
        return dict(self._rng.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state

    def draw(self, out: NDArray[np.int64]) -> None:
        """Write the orders of the next epochs to out (epochs, rows)."""
        out[...] = np.arange(out.shape[1])
        # permuted shuffles the rows of its argument one after another. So the orders do not depend on how
        # many are drawn at once.
        self._rng.permuted(out, axis=1, out=out)


def orders_of(seeds: Sequence[int]) -> list[IndependentOrders]:
    """Return the row orders of trainings with these seeds."""
    return [IndependentOrders(rng) for rng in SeededGenerators(seeds, STREAMS.index("order"))]


def _in_words(layer: tuple[str, str, int, int, bool] | None) -> str:
    if layer is None:
        return "none"
    name, kind, n_in, n_out, trains_bias = layer
    return f"{name} ({kind}, {n_in} to {n_out}{'' if trains_bias else ', no bias'})"


def _copied(model: Model, network: Network, dtype: np.dtype[Any]) -> Array:
    """Return a model's parameters for another training, of a network with arrays of the same shapes."""
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
    parameters = aligned(parameter_count(network), dtype)
    parameters[...] = clean("the parameters of initial", model.parameters.reshape(1, -1), dtype)[0]
    return parameters


KEPT_PARAMETERS = 1 << 12
"""Starts of up to so many parameters are kept, 32 KiB each: to draw one took a fifth of a small training.

The next fold, and a training with another rate, begins where the one before did.
"""


@functools.lru_cache(maxsize=32)
def _kept_start(network: Network, seed: int, dtype: np.dtype[Any]) -> Array:
    """Return the parameters that a training draws; nothing writes to them."""
    return drawn(network, np.random.default_rng(Streams(seed).initial), dtype)


def drawn_starts(network: Network, seeds: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return the parameters (seeds, P) that trainings of a network draw; it settles no bins."""
    starts = np.empty((len(seeds), parameter_count(network)), dtype)
    drawn_of_each(network, SeededGenerators(seeds, STREAMS.index("initial")), starts)
    return starts


def initial_parameters(
    network: Network,
    initial: Model | Initial | None,
    dtype: np.dtype[Any],
    streams: Streams,
    rows: Inputs | ByteRows | None = None,
) -> Array:
    """Return the parameters (P,) that a training begins with: those given, or drawn ones.

    rows : of whose quantiles bins are made; ValueError without them where the network has such bins
    """
    if initial is None and parameter_count(network) <= KEPT_PARAMETERS and not network.settles:
        parameters = aligned(parameter_count(network), dtype)
        parameters[...] = _kept_start(network, streams.seed, dtype)
        return parameters
    if initial is None:
        parameters = drawn(network, np.random.default_rng(streams.initial), dtype)
        if network.settles:
            if rows is None:
                raise ValueError("bins by quantiles need rows: give the edges, or initial=a model")
            settle_bins(parameters, network, dense_columns(unpacked(rows)))
        return parameters
    if isinstance(initial, Model):
        if not (network.is_chain and initial.network.is_chain):
            return _copied(initial, network, dtype)
        initial = initial.weights, initial.biases
    try:
        weights, biases = (list(arrays) for arrays in initial)
    except (TypeError, ValueError):
        raise TypeError(
            f"initial must be a Model or a pair of lists, (weights, biases), got {checks.shown(initial)}"
        ) from None
    return flatten(
        [
            clean(f"initial weights[{i}]", checks.real_array("initial weights", w), dtype)
            for i, w in enumerate(weights)
        ],
        [
            clean(f"initial biases[{i}]", checks.real_array("initial biases", b), dtype)
            for i, b in enumerate(biases)
        ],
        network,
        dtype,
    )
