"""`fit(mixup=)`: each row of a batch mixed with another one, before the backend sees the batch.

Backends know nothing of it, so that all of them, on any number of threads, train on the same numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.byte_rows import unpacked
from fastmlp.model.network import Network
from fastmlp.model.sparse import SparseRows
from fastmlp.training.start import Streams

MIXED_BYTES = 1 << 24
"""Bytes of mixed rows that are in memory together, or those of one step if they are more."""


class Mixing(NamedTuple):
    """How rows are mixed (Zhang and others, "mixup: beyond empirical risk minimization", 2018).

    alpha : of the distribution Beta(alpha, alpha) that a step's share is drawn from
    key : (2,) uint64; with the number of a step all that its share and its pairs depend on
    """

    alpha: float
    key: NDArray[Any]

    def mixed(self, network: Network, data: Data, chunk: Chunk, step: int) -> tuple[Data, Chunk]:
        """Return the mixed rows of a chunk's steps, one after another, and the steps on them.

        step : updates before the chunk. ValueError for rows that cannot be mixed
        """
        if isinstance(data.inputs, SparseRows):
            raise ValueError("mixup mixes dense rows, and X is sparse: give it as an array")
        bits = np.random.Philox(key=self.key)
        rng, state, shares, others = np.random.Generator(bits), bits.state, [], []
        visited = [chunk.order[start:stop] for start, stop in zip(chunk.starts, chunk.stops, strict=True)]
        for number, rows in enumerate(visited, step):
            state["state"]["counter"][1] = number  # 2^64 blocks of random bits for each step
            bits.state = state
            shares.append(rng.beta(self.alpha, self.alpha))
            others.append(rng.permutation(rows))
        first, second, counts = np.concatenate(visited), np.concatenate(others), chunk.stops - chunk.starts
        if not (data.weights[first] == 1).all():
            raise ValueError("mixup takes no sample_weight, of which a mixed row would have two")
        share = np.repeat(np.array(shares, data.targets.dtype), counts)[:, None]

        def mix(rows: Any) -> NDArray[Any]:
            own, other = (np.asarray(unpacked(rows[some])) for some in (first, second))
            return share * own + (1 - share) * other

        targets, stops = mix(data.targets), np.cumsum(counts)
        weights = np.ones(len(first), targets.dtype)
        steps = {"order": np.arange(len(first)), "starts": stops - counts, "stops": stops}
        if network.heads:  # an entry that one of two rows lacks is missing
            counted = network.head_weights(targets, weights)
            steps["head_totals"] = np.add.reduceat(counted, steps["starts"], axis=1)
        return Data(mix(data.inputs), targets, weights), chunk._replace(**steps)


def mixing_of(alpha: Any, network: Network, streams: Streams) -> Mixing | None:
    """Return how rows are mixed, None if they are not; ValueError or TypeError if they cannot be."""
    if alpha is None:
        return None
    alpha = checks.real("mixup", alpha, 0, open_low=True)
    if network.tables:
        raise ValueError("mixup mixes numbers, and the codes of Categories cannot be mixed; leave out mixup")
    return Mixing(alpha, streams.mixup.generate_state(2, np.uint64))
