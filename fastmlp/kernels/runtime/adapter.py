"""Makes a `Backend` of a variant: turns descriptions into numbers, and allocates buffers."""

from __future__ import annotations

import functools
import importlib
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.jit import tuned
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import (
    APART,
    BARRIER,
    BLANK,
    LAYER,
    RULE,
    UNBOUNDED,
    WORDS,
    Call,
    Shape,
    address_of,
    objective_of,
)
from fastmlp.kernels.runtime.preparing import prepare
from fastmlp.kernels.runtime.summing import Summing
from fastmlp.kernels.runtime.threads import run
from fastmlp.kernels.runtime.validation import (
    FLOATS,
    check_array,
    check_chunk,
    check_data,
    check_inputs,
    check_parameters,
    check_state,
)
from fastmlp.kernels.runtime.workspace import Workspace, workspace, workspace_of
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Buffers, Choice, Work
from fastmlp.model.activations import activation_of
from fastmlp.model.backend import Backend, Chunk, Data, Shared
from fastmlp.model.byte_rows import ByteRows, unpacked
from fastmlp.model.layout import LayerSlices, layer_slices
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, check_optimizer
from fastmlp.model.sparse import Inputs, SparseRows
from fastmlp.model.state import TrainState

Array = NDArray[Any]

EVALUATED_ROWS = 256
"""Rows that `evaluate` takes at a time, so that its buffers do not grow with the data."""

NAMES = {dtype: dtype.name for dtype in FLOATS}
"""The names of dtypes: NumPy builds the text again at every `dtype.name`."""

IDLE_BYTES = 128 << 20
"""The most bytes that the workspaces of all models may hold between predictions."""


Ask = Callable[[Network, Optimizer, str, list[int]], None]


def compiled_backend(name: str, choice: Choice, entries: Entries, ask: Ask | None = None) -> Backend:
    """Return a variant as a backend. Its functions compile their code, or load it, when first called.

    ask : starts a process that takes part in `prepare`, whose arguments it gets; None if there is none
    """
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the compiled backends need the compiler; "
            "unset it, or choose backend='reference'"
        )
    for module in choice.libraries:
        importlib.import_module(module)
    tuned.take_kept()  # first, because `thread_us` decides the number of threads of the first step

    def predict(network: Network, parameters: Array, inputs: Inputs, out: Array) -> None:
        known, dtype = _predictions.get(id(parameters)), parameters.dtype
        if known is None or known.network is not network or known.dtype is not dtype:
            known = prediction_of(network, parameters)
        rows, sizes, idle = len(inputs), network.sizes, known.idle
        if isinstance(inputs, SparseRows):
            check_inputs(inputs, rows, sizes[0], dtype)
            sizes = sizes_of(network, inputs)
        else:
            check_array("inputs", inputs, (rows, sizes[0]), dtype)
        check_array("out", out, (rows, sizes[-1]), dtype)
        try:
            work = idle.pop()
        except IndexError:
            work = None
        if (
            work is None
            or work.sizes != sizes
            or work.entries is not entries
            or (work.batch < rows and work.batch < value("predicted_rows"))
        ):
            batch = min(rows, value("predicted_rows"))
            work = Reusable(entries, sizes, known.shape, parameters, batch, choice.buffers)
        try:
            work.predict(inputs, out)
        finally:
            if work.kept:
                idle.append(work)

    def evaluate(network: Network, parameters: Array, data: Data) -> float:
        shape = resting_shape_of(network)
        check_parameters(shape, parameters)
        check_data(shape, data, parameters.dtype)
        batch = min(EVALUATED_ROWS, len(data.inputs))
        losses = np.empty(1)
        arrays = {"totals": data.weights.sum(dtype=np.float64, keepdims=True), "losses": losses}
        sizes = sizes_of(network, data.inputs)
        work = workspace(sizes, batch, 1, parameters.dtype, buffers=choice.buffers)
        call = call_of(shape, work, parameters=parameters, **told_of(data), **arrays)
        entries.get("evaluate", NAMES[parameters.dtype])(call.address)
        return float(losses[0])

    def gradient(
        network: Network,
        parameters: Array,
        data: Data,
        key: int,
        step: int,
        gradients: Array,
    ) -> float:
        shape, rows = shape_of(network), len(data.inputs)
        check_parameters(shape, parameters)
        check_data(shape, data, parameters.dtype)
        check_array("gradients", gradients, parameters.shape, parameters.dtype)
        losses = np.empty(1)
        arrays: dict[str, Any] = {
            "parameters": parameters, "gradients": gradients, "losses": losses,
            "totals": data.weights.sum(dtype=np.float64, keepdims=True), "rates": np.zeros((1, 2)),
            "barrier": np.zeros(BARRIER, np.int64),
            "starts": np.zeros(1, np.int64), "stops": np.full(1, rows),
        }  # fmt: skip
        sizes = sizes_of(network, data.inputs)
        work = workspace(sizes, rows, 1, parameters.dtype, buffers=choice.buffers)
        arrays |= lists_for(data.inputs, rows, 1)
        rules = no_rules(len(shape.layers))
        call = call_of(shape, work, rules, steps=1, step=step, key=key, **told_of(data), **arrays)
        entries.get("gradient", NAMES[parameters.dtype])(call.address)
        return float(losses[0])

    def update(
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        rate: float,
        bias_rate: float,
        touched: NDArray[np.bool_] | None = None,
    ) -> TrainState:
        shape = shape_of(network)
        check_state(shape, state)
        *arrays, step = state
        given: dict[str, Any] = dict(zip(TrainState._fields, arrays, strict=False))
        given |= {"rules": rules_of(optimizer, len(shape.layers)), "rates": np.array([[rate, bias_rate]])}
        if touched is not None:
            check_array("touched", touched, (network.sizes[0],), np.bool_)
            given |= {"touched": touched, "marks": len(touched)}
        call = call_of(shape, None, step=step, steps=1, **given)
        entries.get("update", NAMES[state.parameters.dtype])(call.address)
        return state.at(step + 1)

    def train_chunk(
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        data: Data,
        chunk: Chunk,
        key: int,
        threads: int | None,
        losses: NDArray[np.float64],
        shared: Shared | None = None,
    ) -> TrainState:
        shape, dtype = shape_of(network), state.parameters.dtype
        check_state(shape, state)
        check_data(shape, data, dtype)
        check_chunk(chunk, losses, 1 if shared is None else 0)
        if optimizer.rule.touched_only and not isinstance(data.inputs, SparseRows):
            data = data._replace(inputs=SparseRows.of(np.asarray(unpacked(data.inputs))))
        rows, workers, bound = chunk.batch_size, 1, None
        if choice.specialize is not None and shared is None and isinstance(data.inputs, np.ndarray):
            bound = choice.specialize(network, optimizer, rows, dtype)
        if choice.workers is not None and (bound is None or bound.most_workers > 1):
            typical = rows if shared is None else shared.rows
            work_of_step = Work.of(network, optimizer, typical, dtype, threads)
            if isinstance(data.inputs, SparseRows):
                work_of_step = work_of_step.with_inputs(len(data.inputs.values) // len(data.inputs))
            workers = choice.workers(work_of_step)
        if bound:
            entry, workers = entries.of_network(bound, NAMES[dtype]), min(workers, bound.most_workers)
        else:
            entry = entries.get("train_chunk", NAMES[dtype], lambda: begin(network, optimizer, data, chunk))
        sizes = sizes_of(network, data.inputs)
        private = bound.private if bound else 0
        work = workspace_of(state.gradients, sizes, rows, workers, dtype, private, False, choice.buffers)
        barrier = np.zeros(BARRIER, np.int64)
        summing = None if shared is None else Summing(shared.add, barrier)
        call = call_of(
            shape, work, rules_of(optimizer, len(shape.layers)),
            parameters=state.parameters, gradients=state.gradients, moments=state.moments, step=state.step,
            order=chunk.order, starts=chunk.starts, stops=chunk.stops, totals=chunk.totals, rates=chunk.rates,
            visits=len(chunk.order), steps=len(losses), key=key, losses=losses, barrier=barrier,
            **told_of(data), **lists_for(data.inputs, rows, workers), **told_of_ranks(shared, summing, chunk),
        )  # fmt: skip
        run(functools.partial(entry, call.address), workers, barrier)
        if summing is not None:
            summing.check()
        entries.mark_ready(network, optimizer, NAMES[dtype], bound)
        return state.at(state.step + len(losses))

    def begin(network: Network, optimizer: Optimizer, data: Data, chunk: Chunk) -> None:
        """Prepare a training on dense rows of which the disk has nothing."""
        rows = sorted({*(chunk.stops - chunk.starts).tolist()} - {0})
        if ask is not None and rows and isinstance(data.inputs, np.ndarray):
            what = network, optimizer, NAMES[data.inputs.dtype], rows
            ask(*what)
            prepare(train_chunk, predict, *what)

    return Backend(name, predict, evaluate, gradient, update, train_chunk)


def told_of_ranks(shared: Shared | None, summing: Summing | None, chunk: Chunk) -> dict[str, Any]:
    """Return what a call is told of ranks that take its steps together; without them nothing."""
    if shared is None or summing is None:
        return {}
    check_array("places", shared.places, chunk.order.shape, np.int64)
    told: dict[str, Any] = {
        "places": shared.places, "placed": len(shared.places),
        "summing": summing.address, "together": shared.together,
    }  # fmt: skip
    if shared.touched is not None:
        told |= {"touched": shared.touched, "marks": len(shared.touched)}
    return told


def sizes_of(network: Network, inputs: Inputs | ByteRows) -> tuple[int, ...]:
    """Return the units of every layer, as `workspace.lengths` takes them."""
    return (0, *network.sizes[1:]) if isinstance(inputs, SparseRows) else network.sizes


def told_of(data: Data) -> dict[str, Any]:
    """Return a call's arrays and numbers of the data, by their names in `fastmlp.kernels.program.records`."""
    inputs = data.inputs
    told: dict[str, Any] = {"inputs": inputs}
    if isinstance(inputs, SparseRows):
        told = sparse_told(inputs)
    elif isinstance(inputs, ByteRows):
        told = {"numbers": inputs.numbers, "scale": np.array([inputs.scale]), "bytes": len(inputs)}
    return {**told, "targets": data.targets, "weights": data.weights, "samples": len(inputs)}


def sparse_told(inputs: SparseRows) -> dict[str, Any]:
    """Return a call's arrays and numbers of sparse inputs."""
    arrays = dict(zip(("indptr", "indices", "values"), inputs.arrays, strict=True))
    return {**arrays, "bounds": len(inputs.indptr), "stored": len(inputs.values)}


def lists_for(inputs: Inputs | ByteRows, rows: int, workers: int) -> dict[str, Any]:
    """Return the buffers for lists of the columns of up to `rows` sparse rows; none for dense rows."""
    if not isinstance(inputs, SparseRows):
        return {}
    terms = inputs.most(rows)
    if terms >= MOST_TERMS:
        raise ValueError(
            f"a batch may have {MOST_TERMS - 1} non-zeros, {rows} rows have up to {terms}; take fewer rows"
        )
    apart, all_terms, all_places = APART // 8 * workers, workers * terms, (rows + APART // 8) * workers
    counted, words, listed = inputs.n_in + 2 * apart, inputs.n_in // 64 + apart, inputs.n_in + apart
    return {
        "terms": terms, "counted": counted, "words": words, "listed": listed, "all_terms": all_terms,
        "all_places": all_places,
        "list_marks": np.zeros(words, np.uint64),
        "list_counts": np.zeros(counted, np.int32), "list_columns": np.empty(listed, np.int64),
        "list_starts": np.empty(listed, np.int64), "list_samples": np.empty(all_terms, np.int32),
        "list_numbers": np.empty(all_terms, inputs.dtype), "list_places": np.empty(all_places, np.int64),
    }  # fmt: skip


MOST_TERMS = 2**31
"""A batch must have fewer non-zeros, because they are counted in 32 bits."""


def call_of(shape: Shape, work: Workspace | None, rules: Rules | None = None, **given: Any) -> Call:
    """Return a call of a network's program.

    work : buffers with room for a step; rules : of the optimiser, if the call takes a step
    given : arrays and numbers by their names in `fastmlp.kernels.program.records`
    """
    given |= shape.words
    known = BLANK
    if work is not None:
        known, given["memory"], given["sums"] = work.words, work.memory, work.sums
    if rules is not None:
        given["rules"] = rules.address
    return Call(known, given, shape, rules)


@functools.lru_cache(maxsize=64)
def no_rules(layers: int) -> Rules:
    """Return rules for `gradient`, which reads from them only that the optimiser clips, and takes no step."""
    rules = np.zeros(layers, RULE)
    rules["rate_factor"] = 1
    return Rules(rules, address_of(rules))


class Rules(NamedTuple):
    """An optimiser in numbers. records : (layers,) RULE; address : where they are"""

    records: Array
    address: int


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
    return Shape.of(layers, objective)


class Reusable:
    """A call that predicts, with its workspace. It is kept for the next prediction: allocating takes 7 us.

    entries : of the backend that predicts; batch : rows that it has room for at a time
    sizes : as `sizes_of` gives them, for inputs that it has room for
    kept : whether it may be kept between predictions, see `IDLE_BYTES`
    buffers : see `fastmlp.kernels.variant.Choice`
    """

    __slots__ = ("__weakref__", "_call", "_entry", "batch", "bytes", "entries", "kept", "sizes")

    def __init__(
        self,
        entries: Entries,
        sizes: tuple[int, ...],
        shape: Shape,
        parameters: Array,
        batch: int,
        buffers: Buffers | None,
    ) -> None:
        work = workspace(sizes, batch, 1, parameters.dtype, predicting=True, buffers=buffers)
        self.entries, self._entry = entries, entries.get("predict", NAMES[parameters.dtype])
        self.sizes = sizes
        self._call = call_of(shape, work)
        # The address alone: a reference would keep the parameters alive (see `Prediction.watch`).
        self._call.words[PARAMETERS] = address_of(parameters)
        self.batch, self.bytes = batch, work.memory.nbytes
        # Counted before the check: two threads may both find no room, but never both take the last.
        _kept[id(self)] = self
        if self.bytes <= IDLE_BYTES < _kept_bytes():
            for prediction in list(_predictions.values()):
                prediction.idle.clear()
        self.kept = _kept_bytes() <= IDLE_BYTES
        if not self.kept:
            del _kept[id(self)]

    def predict(self, inputs: Inputs, out: Array) -> None:
        """Write the network's output for inputs (rows, n_in) to out (rows, n_out)."""
        call = self._call
        words = call.words
        words[OUT], words[SAMPLES] = address_of(out), len(inputs)
        if isinstance(inputs, SparseRows):
            for name, told in sparse_told(inputs).items():
                words[WORDS[name]] = address_of(told) if isinstance(told, np.ndarray) else told
        else:
            words[INPUTS] = address_of(inputs)
        self._entry(call.address)


PARAMETERS, INPUTS, OUT, SAMPLES = (WORDS[name] for name in ("parameters", "inputs", "out", "samples"))

_kept: weakref.WeakValueDictionary[int, Reusable] = weakref.WeakValueDictionary()
"""By their ids, the calls that are kept, idle or at work."""


def _kept_bytes() -> int:
    found = [reference() for reference in _kept.valuerefs()]
    return sum(work.bytes for work in found if work is not None)


class Prediction(NamedTuple):
    """What all predictions of one model share. It is found by the model's parameters in 0.2 us.

    network : the model's
    dtype : of the parameters, which an array of NumPy's can change in place
    shape : the network in numbers, without dropout
    idle : calls that predictions have left for the next ones. A prediction pops one and appends it
        afterwards, so that two threads never use the same one.
    watch : a weak reference that removes this when the parameters are deleted
    """

    network: Network
    dtype: np.dtype[Any]
    shape: Shape
    idle: list[Reusable]
    watch: weakref.ref[Array]


_predictions: dict[int, Prediction] = {}
"""By the ids of the models' parameters."""


def prediction_of(network: Network, parameters: Array) -> Prediction:
    """Return what all predictions with these parameters share; ValueError if they are not the network's.

    They are checked once: NumPy does not resize an array that has a weak reference.
    """
    key = id(parameters)
    known = _predictions.get(key)
    if (
        known is None
        or known.dtype != parameters.dtype
        or (known.network is not network and known.network != network)
    ):
        # A local name: the module's globals may be None already when a process ends.
        predictions = _predictions
        shape = resting_shape_of(network)
        check_parameters(shape, parameters)
        watch = weakref.ref(parameters, lambda _: predictions.pop(key, None))
        known = _predictions[key] = Prediction(network, parameters.dtype, shape, [], watch)
    return known


@functools.lru_cache(maxsize=64)
def resting_shape_of(network: Network) -> Shape:
    """Return a network in numbers for predictions: without dropout."""
    shape = shape_of(network)
    layers = shape.layers.copy()
    layers["dropout"] = 0
    return Shape.of(layers, shape.objective)


@functools.lru_cache(maxsize=64)
def rules_of(optimizer: Optimizer, layers: int) -> Rules:
    """Return an optimiser in numbers."""
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(layers)
    rules = np.zeros(layers, RULE)
    rules["clip_norm"] = UNBOUNDED if optimizer.clip_norm is None else optimizer.clip_norm
    rules["code"] = RULE_CODES.code(optimizer.rule)
    rules["touched_only"] = optimizer.rule.touched_only
    for layer, rule in enumerate(rules):
        rule["rate_factor"] = optimizer.rate_factor(layer)
        constants = optimizer.of_layer(layer).constants
        rule["constants"][: len(constants)] = constants
    return Rules(rules, address_of(rules))
