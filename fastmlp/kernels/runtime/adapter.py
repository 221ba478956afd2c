"""Makes a `Backend` of a variant: descriptions become numbers here, and buffers are allocated."""

from __future__ import annotations

import functools
import importlib
import weakref
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.jit.bind import Program
from fastmlp.kernels.program.records import LAYER, RULE, UNBOUNDED, Shape, objective_of
from fastmlp.kernels.runtime.threads import call, run
from fastmlp.kernels.runtime.validation import (
    check_array,
    check_chunk,
    check_data,
    check_parameters,
    check_state,
)
from fastmlp.kernels.runtime.workspace import workspace
from fastmlp.kernels.variant import Variant, Work
from fastmlp.model.activations import activation_of
from fastmlp.model.backend import Backend, Chunk, Data
from fastmlp.model.layout import LayerSlices, layer_slices
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, check_optimizer
from fastmlp.model.state import TrainState

Array = NDArray[Any]

BLOCK_ROWS = 256
"""Rows that predict and evaluate take at a time: what they allocate does not grow with the data."""

IDLE_BYTES = 128 << 20
"""What workspaces may take between predictions, those of all models together."""


def compiled_backend(variant: Variant) -> Backend:
    """Return the variant as a backend; it compiles, or loads from the disk cache, when called."""
    if numba.config.DISABLE_JIT:
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the compiled backends need the compiler; "
            "unset it, or choose backend='reference'"
        )
    program = Program(variant)
    for module in variant.called_libraries():
        importlib.import_module(module)

    def predict(network: Network, parameters: Array, inputs: Array, out: Array) -> None:
        rows, dtype = len(inputs), parameters.dtype
        block = min(BLOCK_ROWS, rows)
        _, shape, idle, _ = prediction_of(network, parameters)
        check_parameters(shape, parameters)
        check_array("inputs", inputs, (rows, network.sizes[0]), dtype)
        check_array("out", out, (rows, network.sizes[-1]), dtype)
        try:
            work = idle.pop()
        except IndexError:
            work = None
        if work is None or work.block < block:
            work = Reusable(network, block, dtype)
        try:
            program.predict(
                writable(parameters), shape.layers, writable(inputs), work.memory, work.address, block, out
            )
        finally:
            if work.kept:
                idle.append(work)

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
        given = *shape, parameters, *rows, total, key, step, memory, places, gradients
        return float(call(program.gradient, *given))

    def update(
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        rate: float,
        bias_rate: float,
    ) -> TrainState:
        shape = shape_of(network)
        check_state(shape, state)
        call(program.update, shape.layers, rules_of(optimizer, len(shape.layers)), *state, rate, bias_rate)
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
        rules, source = rules_of(optimizer, len(shape.layers)), map(writable, data)
        given = *shape, rules, *state, *source, *map(writable, visits), losses, key
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


class Reusable:
    """A workspace of predictions, for the next ones of its model where it is kept: allocating takes 7 us.

    block : rows of a prediction that it has room for at a time
    address : of its PLACES
    kept : whether it may lie idle
    """

    __slots__ = ("__weakref__", "address", "block", "kept", "memory", "places")

    def __init__(self, network: Network, block: int, dtype: np.dtype[Any]) -> None:
        self.memory, self.places, _ = workspace(network, block, 1, dtype, predicting=True)
        self.address = self.places.__array_interface__["data"][0]
        self.block = block
        # Counted first: two threads that come at once may both find no room, but never both the last of it.
        _kept[id(self)] = self
        if self.memory.nbytes <= IDLE_BYTES < _kept_bytes():
            for prediction in list(_predictions.values()):
                prediction.idle.clear()
        self.kept = _kept_bytes() <= IDLE_BYTES
        if not self.kept:
            del _kept[id(self)]


_kept: weakref.WeakValueDictionary[int, Reusable] = weakref.WeakValueDictionary()
"""By their ids, those that lie idle, or will when their predictions are made."""


def _kept_bytes() -> int:
    found = [reference() for reference in _kept.valuerefs()]
    return sum(work.memory.nbytes for work in found if work is not None)


class Prediction(NamedTuple):
    """What the predictions of one model have in common, found by its parameters in 0.2 us.

    network : the model's
    shape : the network in numbers, without dropout
    idle : workspaces that predictions have left for the next: pop, then append. A list, so that calls from
        several threads never meet in one.
    watch : what takes this away when the parameters go
    """

    network: Network
    shape: Shape
    idle: list[Reusable]
    watch: weakref.ref[Array]


_predictions: dict[int, Prediction] = {}
"""By the ids of the models' parameters."""


def prediction_of(network: Network, parameters: Array) -> Prediction:
    """Return what predictions with these parameters have in common."""
    key = id(parameters)
    known = _predictions.get(key)
    if known is None or (known.network is not network and known.network != network):
        # Not by the module's names, which are gone when a process ends.
        predictions = _predictions
        watch = weakref.ref(parameters, lambda _: predictions.pop(key, None))
        known = _predictions[key] = Prediction(network, resting_shape_of(network), [], watch)
    return known


@functools.lru_cache(maxsize=64)
def resting_shape_of(network: Network) -> Shape:
    """Return a network in numbers as it is when it does not train: nothing is dropped."""
    shape = shape_of(network)
    layers = shape.layers.copy()
    layers["dropout"] = 0
    return shape._replace(layers=layers)


@functools.lru_cache(maxsize=64)
def rules_of(optimizer: Optimizer, layers: int) -> Array:
    """Return an optimiser in numbers, (layers,) RULE."""
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(layers)
    rules = np.zeros(layers, RULE)
    rules["clip_norm"] = UNBOUNDED if optimizer.clip_norm is None else optimizer.clip_norm
    rules["code"] = RULE_CODES.code(optimizer.rule)
    for layer, rule in enumerate(rules):
        rule["rate_factor"] = optimizer.rate_factor(layer)
        constants = optimizer.of_layer(layer).constants
        rule["constants"][: len(constants)] = constants
    return rules


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
