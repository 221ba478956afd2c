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
)
from fastmlp.kernels.program.records import address_of, moved
from fastmlp.kernels.runtime.calls import NAMES
from fastmlp.kernels.small.lane_layout import KEY, STEPS, STRIDES
from fastmlp.kernels.variant import Bound
from fastmlp.model.backend import Data
from fastmlp.model.layout import aligned
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer

HUGE_PAGE = 1 << 21
"""Bytes. NumPy requests such pages for arrays of twice as many: 2 MiB of new memory take 0.1 ms, not 0.65."""

Array = NDArray[Any]
Places = NDArray[np.intp]


class LaneMembers(NamedTuple):
    """Networks (models) that are trained together; what several of them share is there once.

    kinds : networks and their optimisers; kind_of : (models,) the place of each one's
    data : dense rows; data_of : (models,) the place of each one's
    keys : (models,) of the dropout masks
    """

    kinds: Sequence[tuple[Network, Optimizer]]
    kind_of: Places
    data: Sequence[Data]
    data_of: Places
    keys: NDArray[np.uint32]


class LaneNumbersKept(NamedTuple):
    """Parameters (blocks, P, lanes) and moments (blocks, rows * P, lanes) of networks, as they were."""

    lanes: int
    parameters: Array
    moments: Array

    def of(self, model: int) -> tuple[Array, Array]:
        """Return copies of a network's parameters (P,) and moments (rows, P)."""
        block, lane = divmod(model, self.lanes)
        parameters = aligned(self.parameters.shape[1], self.parameters.dtype)
        parameters[...] = self.parameters[block, :, lane]
        return parameters, self.moments[block, :, lane].reshape(-1, len(parameters))


class LaneBlocks:
    """Networks of one program, which take their steps by one schedule.

    members : the networks; parameters : (models, P), where they begin
    """

    def __init__(self, entries: Entries, bound: Bound, members: LaneMembers, parameters: Array) -> None:
        self._entries, self._bound, self._kinds = entries, bound, members.kinds
        dtype, (self._models, _) = parameters.dtype, parameters.shape
        self._lanes = lanes_of(dtype)
        self._of_lanes = self._laid_out()
        self._parameters = self._by_lanes(parameters)
        network, optimizer = members.kinds[0]
        rows = max(1, optimizer.moment_rows)
        blocks, size, lanes = self._parameters.shape
        self._moments = aligned(blocks * rows * size * lanes, dtype).reshape(blocks, rows * size, lanes)
        self._moments[...] = 0
        numbers = [numbers_of(*kind, 0, 0, bound.constants) for kind in members.kinds]  # type: ignore[arg-type]
        self._numbers = self._by_lanes(np.array(numbers)[members.kind_of])
        self._numbers[:, KEY] = members.keys[self._of_lanes]
        addresses = np.array([places_of(one, network, dtype) for one in members.data])
        self._places = np.empty((blocks, 3 * lanes + STRIDES), np.int64)
        self._places[:, :-STRIDES] = self._by_lanes(addresses[members.data_of]).reshape(blocks, -1)
        self._kind_of_models = members.kind_of
        self._kind_of = self._kinds_by_lanes()

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

        step : updates so far; orders : (visits,) of each network, or one of all; rates : (steps, 2) of each kind
        starts, stops, totals : as of `Chunk`
        """
        lanes, blocks, dtype = self._lanes, len(self._parameters), self._parameters.dtype
        network, _ = self._kinds[0]
        entry = self._entries.of_network(self._bound, NAMES[dtype])
        self._numbers[:, STEPS] = step
        found = new_objectives(len(starts), blocks * lanes)
        losses, own = found[:, :lanes], self._of_lanes
        order = side_by_side([orders[i if len(orders) > 1 else 0] for i in own[0]])
        of_kinds = over_lanes(rates)[:, :, self._kind_of]  # (steps, 2, blocks, lanes)
        of_blocks = np.ascontiguousarray(np.moveaxis(of_kinds, 2, 0))
        steps = LaneSteps(order, starts, stops, over_lanes([totals[:, None]] * lanes), of_blocks[0])
        self._places[:, -STRIDES:] = steps.strides(losses)
        state = LaneState(self._parameters[0], self._moments[0], self._places[0], self._numbers[0])
        call = call_of(self._bound, network, state, steps, losses)
        apart = {
            "parameters": self._parameters.strides[0], "moments": self._moments.strides[0],
            "lane_places": self._places.strides[0], "lane_numbers": self._numbers.strides[0],
            "losses": losses.itemsize * lanes, "rates": of_blocks.strides[0] if len(of_blocks) > 1 else 0,
        }  # fmt: skip
        calls = moved(call, apart, blocks)
        first, bytes_of_call = address_of(calls), calls.strides[0]
        for block in range(blocks):
            if block and len(orders) > 1:
                np.stack([orders[i] for i in own[block]], axis=1, out=order)
            entry(first + block * bytes_of_call)
        return found.T[: self._models]

    @property
    def parameters(self) -> Array:
        """The parameters now, (models, P)."""
        return self._by_models(self._parameters)

    @property
    def moments(self) -> Array:
        """The moments now, (models, rows * P)."""
        return self._by_models(self._moments)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Whether all parameters of each network (models,) are finite now."""
        found: NDArray[np.bool_] = np.isfinite(self._parameters).all(axis=1).reshape(-1)[: self._models]
        return found

    def kept(self) -> LaneNumbersKept:
        """Return all parameters and moments as they are now."""
        return LaneNumbersKept(self._lanes, self._parameters.copy(), self._moments.copy())

    def vectors_of(self, models: int) -> int:
        """Return how many vectors so many networks fill."""
        return -(-models // self._lanes)

    def keep(self, models: Places) -> None:
        """Go on with some of the networks alone, which are numbered from 0 again; all others leave their lanes."""
        addresses = self._places[:, :-STRIDES].reshape(len(self._places), -1, self._lanes)
        arrays = [
            self._by_models(one)[models]
            for one in (self._parameters, self._moments, self._numbers, addresses)
        ]
        self._models, self._kind_of_models = len(models), self._kind_of_models[models]
        self._of_lanes = self._laid_out()
        self._kind_of = self._kinds_by_lanes()
        self._parameters, self._moments, self._numbers, addresses = map(self._by_lanes, arrays)
        self._places = self._places[: len(addresses)]
        self._places[:, :-STRIDES] = addresses.reshape(len(addresses), -1)

    def _kinds_by_lanes(self) -> Places:
        """Return the places of kinds (blocks, lanes); of the first block for all where there is one kind."""
        several = slice(None if len(self._kinds) > 1 else 1)
        return self._kind_of_models[self._of_lanes[several]]

    def _laid_out(self) -> Places:
        """Return the network (blocks, lanes) of each lane; a lane without one repeats the last."""
        blocks = -(-self._models // self._lanes)
        places: Places = np.minimum(np.arange(blocks * self._lanes), self._models - 1)
        return places.reshape(blocks, self._lanes)

    def _by_lanes(self, arrays: Array) -> Array:
        """Return (models, n) as (blocks, n, lanes)."""
        blocks, lanes = self._of_lanes.shape
        out = aligned(blocks * arrays.shape[1] * lanes, arrays.dtype).reshape(blocks, -1, lanes)
        out[...] = arrays[self._of_lanes].transpose(0, 2, 1)
        return out

    def _by_models(self, blocks: Array) -> Array:
        """Return (blocks, n, lanes) as (models, n), each row at a cache line."""
        size = blocks.shape[1]
        width = -(-size * blocks.itemsize // 64) * 64 // blocks.itemsize
        models = blocks.shape[0] * self._lanes
        out = aligned(models * width, blocks.dtype).reshape(models, width)[:, :size]
        out[...] = blocks.transpose(0, 2, 1).reshape(models, size)
        return out[: self._models]


def new_objectives(steps: int, models: int) -> NDArray[np.float64]:
    """Return a new array (steps, models); on huge pages where these take at most half more memory."""
    count = steps * models
    pages = -(-8 * count // HUGE_PAGE)
    if pages * HUGE_PAGE > 12 * count:
        return np.empty((steps, models))
    room = np.empty((pages + 1) * HUGE_PAGE // 8)
    start = -address_of(room) % HUGE_PAGE // 8
    return room[start : start + count].reshape(steps, models)
