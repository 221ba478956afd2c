"""Training of small networks in lanes: numbers stay lane by lane from the first chunk of a block to the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.arithmetic import LOSS_ROWS, chances
from fastmlp.kernels.program.records import BLANK, WORDS, Call, address_of
from fastmlp.kernels.runtime.described import NAMES, check_array, rules_of, shape_of
from fastmlp.kernels.small.layouts import (
    CLIP_NORM,
    KEY,
    L2,
    LOSS_PARAMETERS,
    STEPS,
    STRIDES,
    SmallConstants,
    lanes_of,
)
from fastmlp.kernels.variant import SpecializedProgram
from fastmlp.model.backend import Data
from fastmlp.model.layout import aligned
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rules import ROOM_FOR_CONSTANTS

Array = NDArray[Any]


def numbers_of(network: Network, optimizer: Optimizer, constants: SmallConstants) -> NDArray[np.float64]:
    """Return a network's numbers (n,) in its lane, but for its steps and the key of its dropout masks."""
    numbers = np.zeros(constants.numbers)
    rule = rules_of(optimizer, network)[0][0, 0]
    numbers[:ROOM_FOR_CONSTANTS] = rule["constants"]
    numbers[[L2, CLIP_NORM]] = network.l2, rule["clip_norm"]
    numbers[LOSS_PARAMETERS : LOSS_PARAMETERS + network.n_out] = network.objective.loss_parameters
    for number, op in enumerate(network.operations):
        if op.dropout > 0:
            row = constants.row_of_dropout(number)
            numbers[row : row + 2] = chances(op.dropout)
        row, epsilon = constants.row_of_numbers(number), np.finfo(constants.dtype).eps
        # None is the dtype's own epsilon, which compiled code does not know.
        hyperparameters = [epsilon if value is None else value for value in op.numbers]
        numbers[row : row + len(hyperparameters)] = hyperparameters
    return numbers


def addresses_of(data: Data, network: Network, dtype: np.dtype[Any]) -> list[int]:
    """Return the addresses of dense rows; ValueError for rows of other shapes than the network's."""
    rows = len(data.weights)
    check_array("inputs", data.inputs, (rows, network.n_in), dtype)  # type: ignore[arg-type]  # dense
    check_array("targets", data.targets, (rows, network.n_out), dtype)
    check_array("weights", data.weights, (rows,), dtype)
    return [address_of(part) for part in data]


def over_lanes(arrays: Sequence[Array]) -> Array:
    """Return arrays (steps, n) as (steps, n, lanes); the first step alone where all are equal."""
    if all(bool((array == array[0]).all()) for array in {id(array): array for array in arrays}.values()):
        arrays = [array[:1] for array in arrays]
    return np.stack(arrays, axis=-1)


HUGE_PAGE = 1 << 21
"""Bytes. NumPy requests such pages for arrays of twice as many: 2 MiB of new memory take 0.1 ms, not 0.65."""

Indices = NDArray[np.intp]


class LaneBlocks:
    """Networks (models) with a common program and a common schedule.

    kinds : networks and their optimisers; kind_of : (models,) the index of each model's
    data : dense rows; data_of : (models,) the index of each model's
    keys : (models,) of the dropout masks
    parameters : (models, P), the first parameters; moments : (models, rows * P), None for those of a start
    """

    def __init__(
        self,
        entries: Entries,
        program: SpecializedProgram,
        kinds: Sequence[tuple[Network, Optimizer]],
        kind_of: Indices,
        data: Sequence[Data],
        data_of: Indices,
        keys: NDArray[Any],
        parameters: Array,
        moments: Array | None = None,
    ) -> None:
        self._entries, self._program, self._kinds = entries, program, kinds
        dtype, (self._models, size) = parameters.dtype, parameters.shape
        self._lanes = lanes_of(dtype)
        self._of_lanes = self._laid_out()
        self._parameters = self._by_lanes(parameters)
        network, optimizer = kinds[0]
        rows, (blocks, _, lanes) = max(1, optimizer.moment_rows), self._parameters.shape
        if moments is None and optimizer.keeps_signs:
            begun = np.zeros((len(kinds), rows, size), dtype)
            for signs, (one_network, one_optimizer) in zip(begun, kinds, strict=True):
                one_optimizer.write_signs(one_network, signs)
            moments = begun.reshape(len(kinds), -1)[kind_of]
        if moments is None:
            self._moments = aligned(blocks * rows * size * lanes, dtype).reshape(blocks, rows * size, lanes)
            self._moments[...] = 0
        else:
            self._moments = self._by_lanes(moments)
        numbers = [numbers_of(*kind, program.constants) for kind in kinds]  # type: ignore[arg-type]
        self._numbers = self._by_lanes(np.array(numbers)[kind_of])
        self._numbers[:, KEY] = keys[self._of_lanes]
        addresses = np.array([addresses_of(arrays, network, dtype) for arrays in data])
        self._addresses = np.empty((blocks, 3 * lanes + STRIDES), np.int64)
        self._addresses[:, :-STRIDES] = self._by_lanes(addresses[data_of]).reshape(blocks, -1)
        several = slice(None if len(kinds) > 1 else 1)
        self._kind_of = kind_of[self._of_lanes[several]]  # (blocks, lanes); of a single kind (1, lanes)

    def take(
        self,
        step: int | NDArray[np.int64],
        orders: Sequence[NDArray[np.int64]],
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
        totals: Sequence[NDArray[np.float64]],
        rates: Sequence[NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """Take a chunk's steps; return the objectives (models, steps).

        step : updates so far, of all networks or of each
        orders : (visits,) of each network, or of all; totals : (steps,) of all, or of each where one block has all
        rates : (steps, 2) of each kind
        starts, stops : as of `Chunk`
        """
        lanes, blocks, dtype = self._lanes, len(self._parameters), self._parameters.dtype
        models, count, shape = self._of_lanes, len(starts), shape_of(self._kinds[0][0])
        before = np.broadcast_to(step, self._models)[models]
        self._numbers[:, STEPS] = before
        # Between chunks averages stand in the place of parameters; before the first step there are none.
        self._swap_averages(before > 0)
        losses = new_objectives(count, blocks * lanes)
        # One array for the orders of all blocks, which run one after another.
        order = aligned(len(orders[0]) * lanes, orders[0].dtype).reshape(-1, lanes)
        indices = models[0] if len(totals) > 1 else models[0] * 0
        of_lanes = np.take(over_lanes([of_batch[:, None] for of_batch in totals]), indices, axis=2)
        of_kinds = over_lanes(rates)[:, :, self._kind_of]  # (steps, 2, blocks, lanes)
        of_blocks = np.ascontiguousarray(np.moveaxis(of_kinds, 2, 0))
        # The vectors between totals, rates and objectives of neighbouring steps; 0 where all steps are equal.
        apart = [0 if len(vectors) < count else vectors.shape[1] for vectors in (of_lanes, of_blocks[0])]
        self._addresses[:, -STRIDES:] = [*apart, blocks]
        most = int((stops - starts).max())
        room = (
            self._program.private
            + (most + LOSS_ROWS) * (shape.words["n_in"] + shape.words["n_out"] + 1) * lanes
        )
        values = {
            **shape.words, "order": order, "starts": starts, "stops": stops, "totals": of_lanes,
            "rates": of_blocks, "lanes": lanes, "losses": losses, "parameters": self._parameters,
            "moments": self._moments, "lane_addresses": self._addresses, "lane_numbers": self._numbers,
            "moment_rows": self._moments.shape[1] // self._parameters.shape[1],
            "memory": aligned(room, dtype),
        }  # fmt: skip
        call = Call(BLANK, values, shape)  # whose arrays live until the program has run
        # The calls of all blocks differ in some addresses only, which move from block to block.
        calls = np.tile(np.frombuffer(call.words, np.int64), (blocks, 1))
        of_each = {
            "parameters": self._parameters, "moments": self._moments, "lane_addresses": self._addresses,
            "lane_numbers": self._numbers,
        }  # fmt: skip
        strides = {name: array.strides[0] for name, array in of_each.items()}
        strides |= {"losses": 8 * lanes, "rates": of_blocks.strides[0] if len(of_blocks) > 1 else 0}
        for name, stride in strides.items():
            calls[:, WORDS[name]] += np.arange(blocks) * stride
        entry = self._entries.get(self._program, NAMES[dtype])
        first, bytes_of_call = address_of(calls), calls.strides[0]
        for block in range(blocks):
            if not block or len(orders) > 1:
                np.stack([orders[i if len(orders) > 1 else 0] for i in models[block]], axis=1, out=order)
            entry(first + block * bytes_of_call)
        self._swap_averages(np.True_)
        return losses.T[: self._models]

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
        are_finite: NDArray[np.bool_] = np.isfinite(self._parameters).all(axis=1).reshape(-1)[: self._models]
        return are_finite

    def snapshot(self) -> tuple[Array, Array]:
        """Return a copy of all parameters (blocks, P, lanes) and moments (blocks, rows * P, lanes)."""
        return self._parameters.copy(), self._moments.copy()

    def of_model(self, model: int, snapshot: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
        """Return copies of a network's parameters (P,) and moments (rows, P), of a snapshot if given."""
        block, lane = divmod(model, self._lanes)
        flat, moments = (vectors[block, :, lane] for vectors in snapshot or (self._parameters, self._moments))
        parameters = aligned(len(flat), flat.dtype)
        parameters[...] = flat
        return parameters, moments.reshape(-1, len(parameters))

    def _swap_averages(self, begun: Any) -> None:
        """Swap parameters and averages, as `fastmlp.model.averages.swap_average`; begun : (blocks, lanes)"""
        if self._kinds[0][1].rule.reads_last:
            parameters, before = self._parameters, self._parameters.copy()
            averages = self._moments[:, -parameters.shape[1] :]
            begun = np.broadcast_to(begun, self._of_lanes.shape)[:, None]
            np.copyto(parameters, averages, where=begun)
            np.copyto(averages, before, where=begun)

    def vectors_of(self, models: int) -> int:
        """Return how many vectors so many networks fill."""
        return -(-models // self._lanes)

    def _laid_out(self) -> Indices:
        """Return the network of each lane (blocks, lanes); spare lanes repeat the last."""
        blocks = -(-self._models // self._lanes)
        indices: Indices = np.minimum(np.arange(blocks * self._lanes), self._models - 1)
        return indices.reshape(blocks, self._lanes)

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
