"""Makes a `Backend` of a variant: checks what it is given, allocates buffers, and calls machine code."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit import tuned
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import BARRIER
from fastmlp.kernels.runtime.calls import (
    NAMES,
    accumulating,
    call_of,
    extent_of,
    lists_for,
    matrices_for,
    tables_for,
    words_of,
    words_of_heads,
    words_of_ranks,
)
from fastmlp.kernels.runtime.chunks import Idle, PreparedCall, kind_of
from fastmlp.kernels.runtime.described import no_rules, resting_shape_of, rules_of, shape_of
from fastmlp.kernels.runtime.predictions import Reusable, known_predictions, prediction_of
from fastmlp.kernels.runtime.summing import Summing
from fastmlp.kernels.runtime.validation import (
    check_array,
    check_chunk,
    check_data,
    check_inputs,
    check_parameters,
    check_state,
)
from fastmlp.kernels.runtime.workspace import workspace
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Choice, Work
from fastmlp.model.backend import Backend, Chunk, Data, Shared, evaluated
from fastmlp.model.byte_rows import unpacked
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.sparse import Inputs, SparseRows
from fastmlp.model.state import TrainState

Array = NDArray[Any]

EVALUATED_ROWS = 256
"""Rows that `evaluate` takes at a time, so that its buffers do not grow with the data."""


def compiled_backend(name: str, choice: Choice, entries: Entries) -> Backend:
    """Return a variant as a backend. Its functions compile their code, or load it, when first called."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the compiled backends need the compiler; "
            "unset it, or choose backend='reference'"
        )
    for module in choice.libraries:
        importlib.import_module(module)
    tuned.take_kept()  # first, because `thread_us` decides the number of threads of the first step

    idle = Idle()

    def predict(network: Network, parameters: Array, inputs: Inputs, out: Array) -> None:
        known, dtype = known_predictions.get(id(parameters)), parameters.dtype
        if known is None or known.network is not network or known.dtype is not dtype:
            known = prediction_of(network, parameters)
        rows, idle = len(inputs), known.idle
        if sparse := isinstance(inputs, SparseRows):
            check_inputs(inputs, rows, network.n_in, dtype)
        else:
            check_array("inputs", inputs, (rows, network.n_in), dtype)
        check_array("out", out, (rows, network.n_out), dtype)
        try:
            work = idle.pop()
        except IndexError:
            work = None
        if (
            work is None
            or work.sparse != sparse
            or work.entries is not entries
            or (work.batch < rows and work.batch < value("predicted_rows"))
        ):
            batch = min(rows, value("predicted_rows"))
            extent = extent_of(network, sparse)
            work = Reusable(entries, extent, sparse, known.shape, dtype, batch, choice.buffers)
        try:
            work.predict(parameters, inputs, out)
        finally:
            if work.kept:
                idle.append(work)

    def evaluate(network: Network, parameters: Array, data: Data) -> Any:
        shape = resting_shape_of(network)
        check_parameters(shape, parameters)
        check_data(shape, data, parameters.dtype)
        batch = min(EVALUATED_ROWS, len(data.inputs))
        losses = np.empty(1)
        arrays = {"totals": data.weights.sum(dtype=np.float64, keepdims=True), "losses": losses}
        extent = extent_of(network, isinstance(data.inputs, SparseRows))
        work = workspace(extent, batch, 1, parameters.dtype, buffers=choice.buffers)
        heads = words_of_heads(network, data)
        call = call_of(shape, work, parameters=parameters, steps=1, **words_of(data), **arrays, **heads)
        entries.get("evaluate", NAMES[parameters.dtype])(call.address)
        return evaluated(network, heads["head_losses"][:, 0] if heads else losses)

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
        extent = extent_of(network, isinstance(data.inputs, SparseRows))
        work = workspace(extent, rows, 1, parameters.dtype, buffers=choice.buffers)
        arrays |= lists_for(data.inputs, rows, 1) | tables_for(network, rows, 1)
        rules = no_rules(len(shape.operations))
        arrays |= words_of(data) | words_of_heads(network, data)
        call = call_of(shape, work, rules, steps=1, step=step, key=key, leads=1, **arrays)
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
        check_state(shape, state, optimizer.moment_rows)
        given: dict[str, Any] = dict(zip(TrainState._fields, state[:3], strict=False))
        given |= {"rules": rules_of(optimizer, network), "rates": np.array([[rate, bias_rate]])}
        if touched is not None:
            check_array("touched", touched, (network.sparse_in,), np.bool_)
            given |= {"touched": touched, "marks": len(touched)}
        given |= matrices_for(network, optimizer, state.parameters.dtype, 1, choice.buffers)
        call = call_of(shape, None, step=state.step, steps=1, **given)
        entries.get("update", NAMES[state.parameters.dtype])(call.address)
        return state.at(state.step + 1)

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
        check_state(shape, state, optimizer.moment_rows)
        check_data(shape, data, dtype)
        heads: dict[str, Any] = {}
        if network.heads:
            totals: Any = chunk.head_totals
            heads = {"head_totals": totals, "head_losses": losses[1:]}
            check_array("head_totals", totals, losses[1:].shape, np.float64)
            losses = losses[0]
        check_array("losses", losses, chunk.starts.shape, np.float64)
        dense = not isinstance(data.inputs, SparseRows)
        if dense and optimizer.rule.touched_only and network.takes_sparse:
            data, dense = data._replace(inputs=SparseRows.of(np.asarray(unpacked(data.inputs)))), False
        kind = kind_of(network, optimizer, state, data, chunk, threads, shared)
        known = idle.take(kind, state)
        if known is None or chunk is not known.chunk:
            check_chunk(chunk, 1 if shared is None else 0, network.needs_batches)
            if network.needs_batches:
                network.check_rows(chunk.stops - chunk.starts if shared is None else shared.batch_rows)
        ready = known or made_for(network, optimizer, data, chunk, threads, shared)
        summing = None if shared is None else Summing(shared, state.gradients, ready.barrier)
        if chunk is not ready.chunk:
            ready.show_chunk(chunk)
        given = {
            "parameters": state.parameters, "gradients": state.gradients, "moments": state.moments,
            "step": state.step, "key": key, "losses": losses, "leads": 1, **words_of(data),
        }  # fmt: skip
        if not dense:
            given |= lists_for(data.inputs, chunk.batch_size, ready.workers)
        if heads:
            given |= heads
        if shared is not None and summing is not None:
            given |= words_of_ranks(shared, summing, chunk)
        ready.call.show(given)
        threads = ready.run()
        if summing is not None:
            summing.check()
        idle.leave(kind, state, ready)
        return state.at(state.step + len(losses), threads)

    def made_for(
        network: Network,
        optimizer: Optimizer,
        data: Data,
        chunk: Chunk,
        threads: int | None,
        shared: Shared | None,
    ) -> PreparedCall:
        """Return a new call for a chunk, and for others of its kind."""
        rows, dtype, bound, workers, cores = chunk.batch_size, data.targets.dtype, None, 1, None
        whole = shared is None and not chunk.microbatch  # a step of this process alone, of all of its rows
        if choice.specialize is not None and whole and isinstance(data.inputs, np.ndarray):
            bound = choice.specialize(network, optimizer, rows, dtype)
        if choice.workers is not None and bound is None:
            typical = rows if shared is None else shared.rows
            work_of_step = Work.of(network, optimizer, typical, dtype, threads)
            if isinstance(data.inputs, SparseRows):
                work_of_step = work_of_step.with_inputs(data.inputs.numbers_of_row)
            workers = choice.workers(work_of_step)
            cores = work_of_step.threads if threads is None else None
        own = NAMES[dtype]
        entry = entries.of_network(bound, own) if bound else entries.get("train_chunk", own)
        extent = extent_of(network, isinstance(data.inputs, SparseRows))
        private, barrier = bound.private if bound else 0, np.zeros(BARRIER, np.int64)
        work = workspace(extent, rows, workers, dtype, private, buffers=choice.buffers)
        matrices = matrices_for(network, optimizer, dtype, workers, choice.buffers)
        given = {"barrier": barrier, **matrices, **accumulating(network, optimizer, dtype, chunk)}
        given |= tables_for(network, rows, workers)
        call = call_of(shape_of(network), work, rules_of(optimizer, network), **given)
        return PreparedCall(
            network, optimizer, entry, call, bound, workers, cores, barrier, work.memory.nbytes
        )

    return Backend(name, predict, evaluate, gradient, update, train_chunk)
