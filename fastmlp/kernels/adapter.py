"""Makes a `Backend` of a variant: descriptions become numbers here, and buffers are allocated."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastmlp.activations import activation_of
from fastmlp.backend import Backend, Chunk, Data
from fastmlp.kernels.bind import Program
from fastmlp.kernels.buffers import workspace
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.contract import check_array, check_chunk, check_data, check_parameters, check_state
from fastmlp.kernels.records import LAYER, RULE, UNBOUNDED, Shape, Workspace, objective_of
from fastmlp.kernels.variant import Variant, Work
from fastmlp.kernels.workers import run
from fastmlp.layout import LayerSlices, layer_slices
from fastmlp.losses import loss_of
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer
from fastmlp.state import TrainState

Array = NDArray[Any]

BLOCK_ROWS = 256
"""Rows that predict and evaluate take at a time: what they allocate does not grow with the data."""


def compiled_backend(variant: Variant) -> Backend:
    """Return the variant as a backend; it compiles, or loads from the disk cache, when called."""
    if numba.config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the compiled backends need the compiler; "
            "unset it, or choose backend='reference'"
        )
    program = Program(variant)

    def predict(network: Network, parameters: Array, inputs: Array, out: Array) -> None:
        rows, dtype = len(inputs), parameters.dtype
        block = min(BLOCK_ROWS, rows)
        shape, idle = prediction_of(network, block, dtype)
        check_parameters(shape, parameters)
        check_array("inputs", inputs, (rows, network.sizes[0]), dtype)
        check_array("out", out, (rows, network.sizes[-1]), dtype)
        try:
            work, address = idle.pop()
        except IndexError:
            work = workspace(network, block, 1, dtype, predicting=True)
            address = work.places.__array_interface__["data"][0]
        program.predict(
            writable(parameters), shape.layers, writable(inputs), work.memory, address, block, out
        )
        idle.append((work, address))

    def evaluate(network: Network, parameters: Array, data: Data) -> float:
        shape = resting_shape_of(network)
        check_parameters(shape, parameters)
        check_data(shape, data, parameters.dtype)
        block = min(BLOCK_ROWS, len(data.inputs))
        memory, places, _ = workspace(network, block, 1, parameters.dtype)
        rows = map(writable, data)
        total = float(data.weights.sum(dtype=np.float64))
        return float(program.evaluate(*shape, writable(parameters), *rows, total, memory, places, block))

    def gradient(
        network: Network, parameters: Array, data: Data, key: int, step: int, gradients: Array
    ) -> float:
        shape = shape_of(network)
        check_parameters(shape, parameters)
        check_data(shape, data, parameters.dtype)
        check_array("gradients", gradients, parameters.shape, parameters.dtype)
        memory, places, _ = workspace(network, len(data.inputs), 1, parameters.dtype)
        rows = map(writable, data)
        total = float(data.weights.sum(dtype=np.float64))
        return float(program.gradient(*shape, parameters, *rows, total, key, step, memory, places, gradients))

    def update(
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        rate: float,
        bias_rate: float,
    ) -> TrainState:
        shape = shape_of(network)
        check_state(shape, state)
        program.update(shape.layers, rule_of(optimizer), *state, rate, bias_rate)
        return state._replace(step=state.step + 1)

    def train_chunk(
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        data: Data,
        chunk: Chunk,
        key: int,
        threads: int | None,
        losses: NDArray[np.float64],
    ) -> TrainState:
        shape, dtype = shape_of(network), state.parameters.dtype
        check_state(shape, state)
        check_data(shape, data, dtype)
        check_chunk(chunk, losses)
        *visits, rows = chunk
        workers = 1
        if variant.workers is not None:
            workers = variant.workers(Work.of(network, optimizer, rows, dtype, threads))
        bound = variant.specialize and variant.specialize(network, optimizer, rows, dtype)
        if bound is not None:
            entry, workers = program.bound(bound), min(workers, bound.most_workers)
        else:
            entry = program.train_chunk
        rule, source = rule_of(optimizer), map(writable, data)
        given = *shape, rule, *state, *source, *map(writable, visits), losses, key
        work = workspace(network, rows, workers, dtype, bound.private if bound else 0)
        run(lambda team: entry(*given, team, *work), workers)
        return state._replace(step=state.step + len(losses))

    return Backend(variant.name, predict, evaluate, gradient, update, train_chunk)


@functools.lru_cache(maxsize=64)
def shape_of(network: Network) -> Shape:
    """Return a network in numbers."""
    slices, units = layer_slices(network.sizes), network.sizes[1:]
    layers = np.zeros(len(slices), LAYER)
    for name in LayerSlices._fields:
        layers[name] = [getattr(at, name) for at in slices]
    layers["units"] = np.cumsum(units) - units
    layers["activation"] = [ACTIVATION_CODES.code(activation_of(a)) for a in network.activations]
    layers["dropout"] = [*network.dropout, 0.0]
    objective = objective_of(np.array(network.loss_parameters))
    for name in ("divisor", "value_divisor", "l1", "l2"):
        objective[name] = getattr(network, name)
    objective["loss"] = LOSS_CODES.code(loss_of(network.loss))
    objective["shared_penalty"] = network.convention == "sklearn"
    return Shape(layers, objective)


class Prediction(NamedTuple):
    """What predictions of one size have in common, found in one look-up: each hashes the network, 0.3 us.

    shape : without dropout
    idle : workspaces that predictions have left for the next, and their places' addresses: pop, then append.
        A list, so that calls from several threads never meet in one. Allocating anew takes 7 us, as one row.
    """

    shape: Shape
    idle: list[tuple[Workspace, int]]


@functools.lru_cache(maxsize=16)
def prediction_of(network: Network, block: int, dtype: np.dtype[Any]) -> Prediction:
    """Return what predictions of `block` rows at a time, in `dtype`, need to know."""
    return Prediction(resting_shape_of(network), [])


@functools.lru_cache(maxsize=64)
def resting_shape_of(network: Network) -> Shape:
    """Return a network in numbers as it is when it does not train: nothing is dropped."""
    shape = shape_of(network)
    layers = shape.layers.copy()
    layers["dropout"] = 0
    return shape._replace(layers=layers)


@functools.lru_cache(maxsize=64)
def rule_of(optimizer: Optimizer) -> np.void:
    """Return an optimiser in numbers, a RULE."""
    rule = np.zeros(1, RULE)[0]
    rule["clip_norm"] = UNBOUNDED if optimizer.clip_norm is None else optimizer.clip_norm
    rule["code"] = RULE_CODES.code(optimizer.rule)
    rule["constants"][: len(optimizer.constants)] = optimizer.constants
    return rule


def writable(array: Array) -> Array:
    """Return `array`, or a view of it that Numba does not see as read-only.

    Kernels never write to their inputs; without this a read-only X would compile anew.
    """
    if array.flags.writeable:
        return array
    pointer = array.__array_interface__["data"][0]
    interface = {**array.__array_interface__, "data": (pointer, False)}
    holder = type("Memory", (), {"__array_interface__": interface, "base": array})()
    return np.asarray(holder)
