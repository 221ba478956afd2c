"""A chunk of several small networks, taken together: their numbers are brought lane by lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.lanes.eligible import lanes_of
from fastmlp.kernels.program.arithmetic import LOSS_ROWS, chances
from fastmlp.kernels.program.records import BLANK, Call, address_of
from fastmlp.kernels.runtime.calls import NAMES
from fastmlp.kernels.runtime.described import rules_of, shape_of
from fastmlp.kernels.runtime.validation import check_array
from fastmlp.kernels.small.lane_layout import CLIP_NORM, KEY, L2, LOSS_PARAMETERS, STEPS, LaneConstants
from fastmlp.kernels.variant import Bound
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import aligned
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rules import ROOM_FOR_CONSTANTS
from fastmlp.model.state import TrainState

Array = NDArray[Any]


class LaneTask(NamedTuple):
    """The steps that one network takes next; they change no array. The rows of data are dense.

    key : of its dropout masks
    """

    network: Network
    optimizer: Optimizer
    state: TrainState
    data: Data
    chunk: Chunk
    key: int = 0


class LaneResult(NamedTuple):
    """What the networks of some tasks come to: the columns of these arrays, in the order of the tasks.

    parameters : (P, lanes); moments : (rows * P, lanes); losses : (steps, lanes) float64
    """

    parameters: Array
    moments: Array
    losses: NDArray[np.float64]

    def write(self, lane: int, state: TrainState) -> TrainState:
        """Write a network's parameters and moments to a state's arrays; return that after the steps."""
        state.parameters[...] = self.parameters[:, lane]
        rows = self.moments.shape[0] // len(self.parameters)
        state.moments[:rows] = self.moments[:, lane].reshape(rows, -1)
        return state.at(state.step + len(self.losses))


class LaneState(NamedTuple):
    """Networks side by side: each is a column of these arrays.

    parameters : (P, lanes); moments : (rows * P, lanes)
    places : (3 * lanes + STRIDES,) int64, the addresses of all inputs, then of the targets and of the weights;
        and `LaneSteps.strides`
    numbers : (n, lanes) float64, `numbers_of` each network
    """

    parameters: Array
    moments: Array
    places: NDArray[np.int64]
    numbers: NDArray[np.float64]


class LaneSteps(NamedTuple):
    """The steps of networks side by side.

    order : (visits, lanes) int64; starts, stops : (steps,), the same for all
    totals : (steps, 1, lanes), rates : (steps, 2, lanes); of the first step alone where all are equal
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    totals: NDArray[np.float64]
    rates: NDArray[np.float64]

    def strides(self, losses: NDArray[np.float64]) -> list[int]:
        """Return how many vectors the totals, rates and objectives of a step lie from those of the step before.

        0 where all are equal. losses : (steps, lanes), of which a row is a part of a longer one
        """
        count, vector = len(self.starts), losses.itemsize * losses.shape[1]
        of_steps = [0 if len(array) < count else array.shape[1] for array in (self.totals, self.rates)]
        return [*of_steps, losses.strides[0] // vector]


def numbers_of(
    network: Network, optimizer: Optimizer, step: int, key: int, constants: LaneConstants
) -> NDArray[np.float64]:
    """Return the numbers (n,) that a network in a lane has for itself. key : of its dropout masks"""
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
    """Return the addresses of dense rows; ValueError if they are not the network's."""
    rows = len(data.weights)
    check_array("inputs", data.inputs, (rows, network.n_in), dtype)  # type: ignore[arg-type]  # dense
    check_array("targets", data.targets, (rows, network.n_out), dtype)
    check_array("weights", data.weights, (rows,), dtype)
    return [address_of(part) for part in data]


def train_in_lanes(entries: Entries, bound: Bound, tasks: Sequence[LaneTask]) -> LaneResult:
    """Take the steps of at most as many tasks as there are lanes, each with the bits of `train_chunk`.

    entries : of the variant whose program it is; bound : that of each of them. Where their steps start and
    stop is the same in all.
    """
    first, dtype = tasks[0], tasks[0].state.parameters.dtype
    lanes = lanes_of(dtype)
    of_all = [*tasks, *tasks[-1:] * (lanes - len(tasks))]  # a lane without a network repeats the last one
    rows = max(1, first.optimizer.moment_rows)
    steps = LaneSteps(
        side_by_side([_order_of(one) for one in of_all]),
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
    state = LaneState(
        side_by_side([one.state.parameters for one in of_all]),
        side_by_side([one.state.moments[:rows].ravel() for one in of_all]),
        np.concatenate([places.T.reshape(-1), steps.strides(losses)]),
        np.stack(numbers, axis=1),
    )
    call = call_of(bound, first.network, state, steps, losses)
    entries.of_network(bound, NAMES[dtype])(call.address)
    return LaneResult(state.parameters, state.moments, losses)


def call_of(bound: Bound, network: Network, state: LaneState, steps: LaneSteps, losses: Array) -> Call:
    """Return the call that takes steps in place, and writes the objectives to losses (steps, lanes).

    network : any of them
    """
    dtype, (count, lanes) = state.parameters.dtype, losses.shape
    most = int((steps.stops - steps.starts).max())
    room = bound.private + (most + LOSS_ROWS) * (network.n_in + network.n_out + 1) * lanes
    shape = shape_of(network)
    given = {
        **steps._asdict(), **shape.words, "steps": count, "lanes": lanes, "losses": losses,
        "parameters": state.parameters, "moments": state.moments, "lane_places": state.places,
        "moment_rows": len(state.moments) // len(state.parameters), "lane_numbers": state.numbers,
        "memory": aligned(room, dtype), "length": room,
    }  # fmt: skip
    return Call(BLANK, given, shape)


def _order_of(task: LaneTask) -> Array:
    order = task.chunk.order
    return order if len(order) else np.arange(len(task.data.inputs))


def over_lanes(arrays: Sequence[Array]) -> Array:
    """Return arrays (steps, n) of all lanes as (steps, n, lanes); the first step alone where all are equal."""
    if all(bool((array == array[0]).all()) for array in {id(array): array for array in arrays}.values()):
        arrays = [array[:1] for array in arrays]
    return np.stack(arrays, axis=-1)


def side_by_side(arrays: Sequence[Array]) -> Array:
    """Return arrays (n,) as (n, lanes), aligned."""
    out = aligned(len(arrays[0]) * len(arrays), arrays[0].dtype).reshape(-1, len(arrays))
    np.stack(arrays, axis=1, out=out)
    return out
