"""Makes a `Backend` of a variant: checks what it is given, allocates buffers, and calls machine code."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit import tuned
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import BARRIER
from fastmlp.kernels.runtime.calls import NAMES, call_of, lists_for, sizes_of, told_of, told_of_ranks
from fastmlp.kernels.runtime.described import no_rules, resting_shape_of, rules_of, shape_of
from fastmlp.kernels.runtime.predictions import Reusable, known_predictions, prediction_of
from fastmlp.kernels.runtime.preparing import prepare
from fastmlp.kernels.runtime.summing import Summing
from fastmlp.kernels.runtime.threads import run
from fastmlp.kernels.runtime.validation import (
    check_array,
    check_chunk,
    check_data,
    check_inputs,
    check_parameters,
    check_state,
)
from fastmlp.kernels.runtime.workspace import workspace, workspace_of
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Choice, Work
from fastmlp.model.backend import Backend, Chunk, Data, Shared
from fastmlp.model.byte_rows import unpacked
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.sparse import Inputs, SparseRows
from fastmlp.model.state import TrainState

Array = NDArray[Any]

EVALUATED_ROWS = 256
"""Rows that `evaluate` takes at a time, so that its buffers do not grow with the data."""

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
        known, dtype = known_predictions.get(id(parameters)), parameters.dtype
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
