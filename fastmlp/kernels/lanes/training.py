"""Training of small networks in lanes: a chunk of some networks, or blocks of any number.

In a chunk (`train_in_lanes`) other networks may go together each time. In blocks (`LaneBlocks`) numbers stay lane by
lane from the first chunk to the last, and Python's part is done for all networks at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.arithmetic import LOSS_ROWS, chances
from fastmlp.kernels.program.records import BLANK, Call, address_of, moved
from fastmlp.kernels.runtime.calls import NAMES
from fastmlp.kernels.runtime.described import rules_of, shape_of
from fastmlp.kernels.runtime.validation import check_array
from fastmlp.kernels.small.eligible import lanes_of
from fastmlp.kernels.small.layouts import (
    CLIP_NORM,
    KEY,
    L2,
    LOSS_PARAMETERS,
    STEPS,
    STRIDES,
    LaneConstants,
)
from fastmlp.kernels.variant import Bound
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import aligned
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rules import ROOM_FOR_CONSTANTS
from fastmlp.model.state import TrainState

Array = NDArray[Any]


class LaneTask(NamedTuple):
    """The next steps of a network on dense rows; arrays stay unchanged.

    key : of the dropout masks
    """

    network: Network
    optimizer: Optimizer
    state: TrainState
    data: Data
    chunk: Chunk
    key: int = 0


class LaneResult(NamedTuple):
    """Results of tasks: the columns of these arrays, in the order of the tasks.

    parameters : (P, lanes); moments : (rows * P, lanes); losses : (steps, lanes) float64
    """

    parameters: Array
    moments: Array
    losses: NDArray[np.float64]

    def write(self, lane: int, state: TrainState) -> TrainState:
        """Write a network's parameters and moments to a state; return the state after the steps."""
        state.parameters[...] = self.parameters[:, lane]
        rows = self.moments.shape[0] // len(self.parameters)
        state.moments[:rows] = self.moments[:, lane].reshape(rows, -1)
        return state.at(state.step + len(self.losses))


class LaneSteps(NamedTuple):
    """The steps of networks side by side.

    order : (visits, lanes) int64; starts, stops : (steps,), the same for all lanes
    totals : (steps, 1, lanes), rates : (steps, 2, lanes); of the first step alone where all steps are equal
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    totals: NDArray[np.float64]
    rates: NDArray[np.float64]

    def strides(self, losses: NDArray[np.float64]) -> list[int]:
        """Return the vectors between totals, rates and objectives of neighbouring steps.

        0 where all steps are equal. losses : (steps, lanes), whose rows are parts of longer rows
        """
        count, vector = len(self.starts), losses.itemsize * losses.shape[1]
        of_steps = [0 if len(array) < count else array.shape[1] for array in (self.totals, self.rates)]
        return [*of_steps, losses.strides[0] // vector]


def numbers_of(
    network: Network, optimizer: Optimizer, step: int, key: int, constants: LaneConstants
) -> NDArray[np.float64]:
    """Return a network's numbers (n,) in its lane. key : of the dropout masks"""
    numbers = np.zeros(constants.numbers)
    rule = rules_of(optimizer, network).records[0, 0]
    numbers[:ROOM_FOR_CONSTANTS] = rule["constants"]
    numbers[[L2, STEPS, CLIP_NORM, KEY]] = network.l2, step, rule["clip_norm"], key
    numbers[LOSS_PARAMETERS : LOSS_PARAMETERS + network.n_out] = network.objective.loss_parameters
    for number, one in enumerate(network.operations):
        if one.dropout > 0:
            row = constants.row_of_dropout(number)
            numbers[row : row + 2] = chances(one.dropout)
        row, epsilon = constants.row_of_numbers(number), np.finfo(constants.dtype).eps
        given = [epsilon if value is None else value for value in one.numbers]
        numbers[row : row + len(given)] = given
    return numbers


def places_of(data: Data, network: Network, dtype: np.dtype[Any]) -> list[int]:
    """Return the addresses of dense rows; ValueError for rows of other shapes than the network's."""
    rows = len(data.weights)
    check_array("inputs", data.inputs, (rows, network.n_in), dtype)  # type: ignore[arg-type]  # dense
    check_array("targets", data.targets, (rows, network.n_out), dtype)
    check_array("weights", data.weights, (rows,), dtype)
    return [address_of(part) for part in data]


def train_in_lanes(entries: Entries, bound: Bound, tasks: Sequence[LaneTask]) -> LaneResult:
    """Take the steps of at most `lanes_of` tasks, each with the bits of `train_chunk`.

    entries : of the program's variant; bound : the program of each task. All tasks have the same starts and stops.
    """
    first, dtype = tasks[0], tasks[0].state.parameters.dtype
    lanes = lanes_of(dtype)
    of_all = [*tasks, *tasks[-1:] * (lanes - len(tasks))]  # a lane without a network repeats the last one
    rows = max(1, first.optimizer.moment_rows)
    orders = ((one.chunk.order, len(one.data.inputs)) for one in of_all)
    steps = LaneSteps(
        side_by_side([order if len(order) else np.arange(rows) for order, rows in orders]),
        first.chunk.starts,
        first.chunk.stops,
        over_lanes([one.chunk.totals[:, None] for one in of_all]),
        over_lanes([one.chunk.rates for one in of_all]),
    )
    places = np.array([places_of(one.data, one.network, dtype) for one in of_all], np.int64)
    numbers = [
        numbers_of(one.network, one.optimizer, one.state.step, one.key, bound.constants)  # type: ignore[arg-type]
        for one in of_all
    ]
    losses = np.empty((len(first.chunk.starts), lanes))
    parameters = side_by_side([one.state.parameters for one in of_all])
    moments = side_by_side([one.state.moments[:rows].ravel() for one in of_all])
    addresses = np.concatenate([places.T.reshape(-1), steps.strides(losses)])
    state = parameters, moments, addresses, np.stack(numbers, axis=1)
    call = call_of(bound, first.network, *state, steps, losses)  # whose arrays live until the program has run
    entries.of_network(bound, NAMES[dtype])(call.address)
    return LaneResult(parameters, moments, losses)


def call_of(
    bound: Bound,
    network: Network,
    parameters: Array,
    moments: Array,
    places: NDArray[np.int64],
    numbers: NDArray[np.float64],
    steps: LaneSteps,
    losses: Array,
) -> Call:
    """Return the call that takes the steps of a vector of networks, in place.

    network : any of the networks; parameters : (P, lanes); moments : (rows * P, lanes)
    places : (3 * lanes + STRIDES,), the addresses of all inputs, targets and weights, and `LaneSteps.strides`
    numbers : (n, lanes), `numbers_of` each network; losses : (steps, lanes), overwritten by the objectives
    """
    dtype, (count, lanes) = parameters.dtype, losses.shape
    most = int((steps.stops - steps.starts).max())
    room = bound.private + (most + LOSS_ROWS) * (network.n_in + network.n_out + 1) * lanes
    shape = shape_of(network)
    given = {
        **steps._asdict(), **shape.words, "steps": count, "lanes": lanes, "losses": losses,
        "parameters": parameters, "moments": moments, "lane_places": places,
        "moment_rows": len(moments) // len(parameters), "lane_numbers": numbers,
        "memory": aligned(room, dtype), "length": room,
    }  # fmt: skip
    return Call(BLANK, given, shape)


def over_lanes(arrays: Sequence[Array]) -> Array:
    """Return arrays (steps, n) as (steps, n, lanes); the first step alone where all are equal."""
    if all(bool((array == array[0]).all()) for array in {id(array): array for array in arrays}.values()):
        arrays = [array[:1] for array in arrays]
    return np.stack(arrays, axis=-1)


def side_by_side(arrays: Sequence[Array]) -> Array:
    """Return arrays (n,) as (n, lanes), aligned."""
    out = aligned(len(arrays[0]) * len(arrays), arrays[0].dtype).reshape(-1, len(arrays))
    np.stack(arrays, axis=1, out=out)
    return out


# --- blocks of any number of networks ---------------------------------------------------------------

HUGE_PAGE = 1 << 21
"""Bytes. NumPy requests such pages for arrays of twice as many: 2 MiB of new memory take 0.1 ms, not 0.65."""

Places = NDArray[np.intp]


class LaneNumbersKept(NamedTuple):
    """A copy of networks' parameters (blocks, P, lanes) and moments (blocks, rows * P, lanes)."""

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
    """Networks (models) with a common program and a common schedule.

    kinds : networks and their optimisers; kind_of : (models,) the place of each model's
    data : dense rows; data_of : (models,) the place of each model's
    keys : (models,) of the dropout masks
    parameters : (models, P), the first parameters
    """

    def __init__(
        self,
        entries: Entries,
        bound: Bound,
        kinds: Sequence[tuple[Network, Optimizer]],
        kind_of: Places,
        data: Sequence[Data],
        data_of: Places,
        keys: NDArray[np.uint32],
        parameters: Array,
    ) -> None:
        self._entries, self._bound, self._kinds = entries, bound, kinds
        dtype, (self._models, _) = parameters.dtype, parameters.shape
        self._lanes = lanes_of(dtype)
        self._of_lanes = self._laid_out()
        self._parameters = self._by_lanes(parameters)
        network, optimizer = kinds[0]
        rows = max(1, optimizer.moment_rows)
        blocks, size, lanes = self._parameters.shape
        self._moments = aligned(blocks * rows * size * lanes, dtype).reshape(blocks, rows * size, lanes)
        self._moments[...] = 0
        if optimizer.keeps_signs:
            begun = np.zeros((len(kinds), rows, size), dtype)
            for moments, (own_network, own_optimizer) in zip(begun, kinds, strict=True):
                own_optimizer.write_signs(own_network, moments)
            self._moments = self._by_lanes(begun.reshape(len(kinds), -1)[kind_of])
        numbers = [numbers_of(*kind, 0, 0, bound.constants) for kind in kinds]  # type: ignore[arg-type]
        self._numbers = self._by_lanes(np.array(numbers)[kind_of])
        self._numbers[:, KEY] = keys[self._of_lanes]
        addresses = np.array([places_of(one, network, dtype) for one in data])
        self._places = np.empty((blocks, 3 * lanes + STRIDES), np.int64)
        self._places[:, :-STRIDES] = self._by_lanes(addresses[data_of]).reshape(blocks, -1)
        self._kind_of_models = kind_of
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

        step : updates so far; orders : (visits,) of each network, or of all; rates : (steps, 2) of each kind
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
        state = (one[0] for one in (self._parameters, self._moments, self._places, self._numbers))
        call = call_of(self._bound, network, *state, steps, losses)
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
        """The current parameters (models, P)."""
        return self._by_models(self._parameters)

    @property
    def moments(self) -> Array:
        """The current moments (models, rows * P)."""
        return self._by_models(self._moments)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Whether each network's parameters are finite now, (models,)."""
        found: NDArray[np.bool_] = np.isfinite(self._parameters).all(axis=1).reshape(-1)[: self._models]
        return found

    def kept(self) -> LaneNumbersKept:
        """Return a copy of all parameters and moments."""
        return LaneNumbersKept(self._lanes, self._parameters.copy(), self._moments.copy())

    def vectors_of(self, models: int) -> int:
        """Return how many vectors so many networks fill."""
        return -(-models // self._lanes)

    def keep(self, models: Places) -> None:
        """Go on with some networks alone, numbered from 0; all others leave their lanes."""
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
        """Return the places of kinds (blocks, lanes); of a single kind (1, lanes)."""
        several = slice(None if len(self._kinds) > 1 else 1)
        return self._kind_of_models[self._of_lanes[several]]

    def _laid_out(self) -> Places:
        """Return the network of each lane (blocks, lanes); spare lanes repeat the last."""
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
    """Return a new array (steps, models), on huge pages where memory grows by half at most."""
    count = steps * models
    pages = -(-8 * count // HUGE_PAGE)
    if pages * HUGE_PAGE > 12 * count:
        return np.empty((steps, models))
    room = np.empty((pages + 1) * HUGE_PAGE // 8)
    start = -address_of(room) % HUGE_PAGE // 8
    return room[start : start + count].reshape(steps, models)
