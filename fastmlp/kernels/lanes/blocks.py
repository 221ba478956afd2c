"""Any number of small networks, in blocks of as many as a vector has lanes.

Separate from `training`, where other networks may go together in each chunk: here numbers stay lane by lane from the
first chunk to the last, and Python's part of it is done for all networks at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.lanes.eligible import lanes_of
from fastmlp.kernels.lanes.training import (
    LaneState,
    LaneSteps,
    call_of,
    numbers_of,
    over_lanes,
    places_of,
    side_by_side,
    words_of,
)
from fastmlp.kernels.program.records import Call
from fastmlp.kernels.runtime.calls import NAMES
from fastmlp.kernels.small.lane_layout import STEPS, STRIDES
from fastmlp.kernels.variant import Bound
from fastmlp.model.backend import Data
from fastmlp.model.layout import aligned
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer

Array = NDArray[Any]


class LaneMember(NamedTuple):
    """One of the networks; the rows of data are dense. key : of its dropout masks"""

    network: Network
    optimizer: Optimizer
    data: Data
    key: int


class LaneBlocks:
    """Networks of one program, which take their steps by one schedule.

    members : the networks; parameters : (models, P), where they begin
    """

    def __init__(
        self, entries: Entries, bound: Bound, members: Sequence[LaneMember], parameters: Array
    ) -> None:
        self._entries, self._bound, self._members = entries, bound, members
        dtype = parameters.dtype
        self._lanes = lanes_of(dtype)
        of_numbers = {(id(one.network), id(one.optimizer), one.key): one for one in members}
        of_data = {id(one.data): one for one in members}
        numbers = {
            own: numbers_of(one.network, one.optimizer, 0, one.key, bound.constants)  # type: ignore[arg-type]
            for own, one in of_numbers.items()
        }
        places = {own: places_of(one.data, one.network, dtype) for own, one in of_data.items()}
        self._parameters = self._by_lanes(parameters)
        rows = max(1, members[0].optimizer.moment_rows)
        blocks, size, lanes = self._parameters.shape
        self._moments = aligned(blocks * rows * size * lanes, dtype).reshape(blocks, rows * size, lanes)
        self._moments[...] = 0
        of_each = [(id(one.network), id(one.optimizer), one.key) for one in members]
        self._numbers = self._by_lanes(_of_each(numbers, of_each))
        addresses = _of_each(places, [id(one.data) for one in members])
        self._places = np.empty((blocks, 3 * lanes + STRIDES), np.int64)
        self._places[:, :-STRIDES] = self._by_lanes(addresses).reshape(blocks, -1)

    def take(
        self,
        step: int,
        orders: Sequence[NDArray[np.int64]],
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        totals: NDArray[np.float64],
        rates: Sequence[NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Take a chunk's steps; return the objectives (models, steps).

        step : updates so far; orders : (visits,) of each network, or one of all; rates : (steps, 2) of each
        starts, stops, totals : as of `Chunk`
        """
        lanes, models, dtype = self._lanes, len(self._members), self._parameters.dtype
        network, optimizer, *_ = self._members[0]
        entry = self._entries.of_network(self._bound, NAMES[dtype])
        self._numbers[:, STEPS] = step
        of_all = over_lanes([totals[:, None]] * lanes)
        order = side_by_side([*orders] * lanes) if len(orders) == 1 else None
        known: dict[tuple[int, ...], Array] = {}
        found = np.empty((len(starts), len(self._parameters) * lanes))
        call: Call | None = None
        for block in range(len(self._parameters)):
            losses = found[:, block * lanes : (block + 1) * lanes]
            own = [min(block * lanes + lane, models - 1) for lane in range(lanes)]
            key = tuple([id(rates[i]) for i in own])
            if key not in known:
                known[key] = over_lanes([rates[i] for i in own])
            order_of_block = side_by_side([orders[i] for i in own]) if order is None else order
            steps = LaneSteps(order_of_block, starts, stops, of_all, known[key])
            self._places[block, -STRIDES:] = steps.strides(losses)
            state = LaneState(
                self._parameters[block], self._moments[block], self._places[block], self._numbers[block]
            )
            if call is None:
                call = call_of(self._bound, network, state, steps, losses)
            else:
                call.show({**words_of(state, losses), "order": order_of_block, "rates": known[key]})
            entry(call.address)
        self._entries.mark_ready(network, optimizer, dtype.name, self._bound)
        return found.T[:models]

    @property
    def parameters(self) -> Array:
        """The parameters now, (models, P)."""
        return self._by_models(self._parameters)

    @property
    def moments(self) -> Array:
        """The moments now, (models, rows * P)."""
        return self._by_models(self._moments)

    def _by_lanes(self, arrays: Array) -> Array:
        """Return (models, n) as (blocks, n, lanes); a lane without a network repeats the last one."""
        lanes, (models, size) = self._lanes, arrays.shape
        blocks = -(-models // lanes)
        out = aligned(blocks * size * lanes, arrays.dtype).reshape(blocks, size, lanes)
        filled = arrays[np.minimum(np.arange(blocks * lanes), models - 1)]
        out[...] = filled.reshape(blocks, lanes, size).transpose(0, 2, 1)
        return out

    def _by_models(self, blocks: Array) -> Array:
        """Return (blocks, n, lanes) as (models, n), each row at a cache line."""
        size = blocks.shape[1]
        width = -(-size * blocks.itemsize // 64) * 64 // blocks.itemsize
        models = blocks.shape[0] * self._lanes
        out = aligned(models * width, blocks.dtype).reshape(models, width)[:, :size]
        out[...] = blocks.transpose(0, 2, 1).reshape(models, size)
        return out[: len(self._members)]


def _of_each(rows: dict[Any, Any], keys: Sequence[Any]) -> Array:
    """Return the row (n,) of each key, as (keys, n)."""
    places = {key: place for place, key in enumerate(rows)}
    return np.array([*rows.values()])[[places[key] for key in keys]]
