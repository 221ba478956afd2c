"""What `fit` draws: the streams of its seed, splits, first weights and biases, orders of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp import checks
from fastmlp.model.layout import drawn, flatten
from fastmlp.model.network import Network
from fastmlp.training.data import as_array, clean
from fastmlp.training.model import Model

Array = NDArray[Any]
Initial = tuple[Sequence[ArrayLike], Sequence[ArrayLike]]


class Streams:
    """Independent sources of randomness, all from one seed; each is made when it is asked for, 10 us."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __getattr__(self, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence(self._seed, spawn_key=(STREAMS.index(name),))


STREAMS = ("initial", "split", "order", "dropout")
"""In the order in which `SeedSequence.spawn` gives them."""


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
    return int(streams.dropout.generate_state(1, np.uint32)[0]) if any(network.dropout) else 0


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


def initial_parameters(
    network: Network,
    initial: Model | Initial | None,
    dtype: np.dtype[Any],
    streams: Streams,
) -> Array:
    """Return the parameters (P,) that a training begins with: those given, or drawn ones."""
    if initial is None:
        return drawn(network, np.random.default_rng(streams.initial), dtype)
    if isinstance(initial, Model):
        initial = initial.weights, initial.biases
    try:
        weights, biases = (list(arrays) for arrays in initial)
    except (TypeError, ValueError):
        raise TypeError(
            f"initial must be a Model or a pair of lists, (weights, biases), got {checks.shown(initial)}"
        ) from None
    return flatten(
        [
            clean(f"initial weights[{i}]", as_array("initial weights", w), dtype)
            for i, w in enumerate(weights)
        ],
        [clean(f"initial biases[{i}]", as_array("initial biases", b), dtype) for i, b in enumerate(biases)],
        network,
        dtype,
    )
