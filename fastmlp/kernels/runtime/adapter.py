"""A variant as a `Backend`: checks arguments, and runs machine code in sessions."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import UNSUMMED, WORDS, address_of
from fastmlp.kernels.runtime.described import (
    check_array,
    check_chunk,
    check_data,
    check_inputs,
    check_parameters,
    check_state,
    resting_shape_of,
    shape_of,
)
from fastmlp.kernels.runtime.session import Idle, Session, prediction, words_of_inputs
from fastmlp.kernels.runtime.workspace import Products
from fastmlp.kernels.thresholds import VALUES, value
from fastmlp.kernels.variant import Work
from fastmlp.model.backend import Backend, Chunk, Data, Shared, evaluated
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import Inputs, SparseRows, unpacked
from fastmlp.model.state import Array, TrainState
from fastmlp.system.budget import available_cores

PARAMETERS, OUT, INPUTS, SAMPLES = (WORDS[name] for name in ("parameters", "out", "inputs", "samples"))

EVALUATED_ROWS = 256
"""Rows of a part in `evaluate`: buffers do not grow with the data."""


def compiled_backend(code: Entries) -> Backend:
    """Return a variant as a backend. Code is compiled, or loaded, at a function's first call."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        raise RuntimeError(
            "NUMBA_DISABLE_JIT is set, and the compiled backends need the compiler; "
            "unset it, or choose backend='reference'"
        )
    for module in code.variant.libraries:
        importlib.import_module(module)
    made = CompiledBackend(code)
    return Backend(code.variant.name, made.predict, made.evaluate, made.gradient, made.train_chunk, made.bind)


class CompiledBackend:
    """The functions of a variant, as in `Backend`."""

    def __init__(self, code: Entries) -> None:
        self._code = code
        self._idle, self._idle_predictions = Idle(), Idle()

    def predict(self, network: Network, parameters: Array, inputs: Inputs, out: Array) -> None:
        """Write the network's output for inputs (rows, n_in) to out (rows, n_out)."""
        dtype, rows, sparse = parameters.dtype, len(inputs), type(inputs) is SparseRows
        check_parameters(resting_shape_of(network), parameters)
        check_inputs(inputs, rows, network.n_in, dtype)
        check_array("out", out, (rows, network.n_out), dtype)
        kind = id(network), dtype, sparse
        session = self._idle_predictions.take(kind)
        # A session for fewer rows than these has too small a buffer, and would take them in needlessly short
        # batches.
        if session is None or (session.rows < rows and session.rows < value("predicted_rows")):
            session = prediction(self._code, network, dtype, inputs)
        # The addresses alone: an idle session keeps nothing of a model alive.
        words = session.words
        words[PARAMETERS], words[OUT] = address_of(parameters), address_of(out)
        if sparse:
            session.show(words_of_inputs(inputs))
        else:
            words[INPUTS], words[SAMPLES] = address_of(inputs), rows
        session.entry("predict")(session.address)
        self._idle_predictions.leave(kind, session)

    def evaluate(self, network: Network, parameters: Array, data: Data) -> Any:
        """Return the loss over all rows of data, with heads an array."""
        session, losses = self._on_all_rows(network, parameters, data)
        session.run("evaluate")
        return evaluated(network, losses[1:, 0] if network.heads else losses[:, 0])

    def gradient(
        self, network: Network, parameters: Array, data: Data, key: int, step: int, gradients: Array
    ) -> float:
        """Write the gradient over all rows of data to gradients (P,); return the objective."""
        session, losses = self._on_all_rows(network, parameters, data, gradients)
        session.show({"step": step, "key": key})
        session.run("gradient")
        return losses.item(0)

    def bind(
        self,
        network: Network,
        parameters: Array,
        data: Data,
        gradients: Array,
        template: str = "gradient",
        products: Products = (),
        **values: Any,
    ) -> Callable[..., float]:
        """Return an entry point for these arrays, which returns the objective.

        products : (n_in, n_out) of the entry point's products, besides those of the network
        values : more arrays and numbers of the record; the entry point takes some by name at each run
        """
        session, losses = self._on_all_rows(network, parameters, data, gradients, products)
        session.set(values)
        entry, (loss, *_) = session.entry(template), losses

        def objective(**values: Any) -> float:
            if values:
                session.set(values)
            entry(session.address)
            return float(loss.item())

        return objective

    def _on_all_rows(
        self,
        network: Network,
        parameters: Array,
        data: Data,
        gradients: Array | None = None,
        products: Products = (),
    ) -> tuple[Session, NDArray[np.float64]]:
        """Return a session on all rows, and where an entry point writes the losses (1 + heads, 1).

        gradients : as of `gradient`, None at rest; products : as of `bind`
        """
        check_parameters(shape_of(network), parameters)
        check_data(shape_of(network), data, parameters.dtype)
        inputs, targets, weights = data
        rows, sparse = len(inputs), isinstance(inputs, SparseRows)
        losses = np.empty((1 + len(network.heads), 1))
        # A gradient is of one batch, whose numbers must all stay for the way back.
        most = min(EVALUATED_ROWS, rows) if gradients is None else rows
        session = Session(
            self._code, network, parameters.dtype, most, at_rest=gradients is None, sparse=sparse,
            products=products,
        )  # fmt: skip
        totals = weights.sum(dtype=np.float64, keepdims=True)
        head_totals = network.head_totals(targets, weights)[:, None].copy() if network.heads else totals
        session.set({
            **words_of_inputs(inputs), "parameters": parameters, "targets": targets, "weights": weights,
            "totals": totals, "losses": losses, "head_totals": head_totals, "head_losses": losses[1:],
            "steps": 1,
        })  # fmt: skip
        if gradients is not None:
            check_array("gradients", gradients, parameters.shape, parameters.dtype)
            session.set({
                "gradients": gradients, "rates": np.zeros((1, 2)), "starts": np.zeros(1, np.int64),
                "stops": np.full(1, rows),
            })  # fmt: skip
            if isinstance(inputs, SparseRows):
                session.make_lists(inputs, inputs.most(rows), rows)
        return session, losses

    def train_chunk(
        self,
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
        """Take a chunk's steps; write the objectives to losses (steps,), and return the new state."""
        shape, dtype, sums = shape_of(network), state.parameters.dtype, losses
        check_state(shape, state, optimizer.moment_rows)
        check_data(shape, data, dtype)
        if network.heads:
            check_array("head_totals", chunk.head_totals, losses[1:].shape, np.float64)  # type: ignore[arg-type]
            sums = losses[0]
        check_array("losses", sums, chunk.starts.shape, np.float64)
        if optimizer.rule.sparse_updates and network.takes_sparse and not isinstance(data.inputs, SparseRows):
            # A sparse update has to know the columns without a non-zero, also of dense rows.
            data = data._replace(inputs=SparseRows.of(np.asarray(unpacked(data.inputs))))
        inputs, targets, weights = data
        numbers = inputs.numbers_of_row if isinstance(inputs, SparseRows) else -1
        kind = (
            id(network), id(optimizer), dtype, chunk.most_rows, chunk.microbatch, threads,
            -1 if shared is None else shared.rows, type(inputs), numbers, VALUES.tobytes(),
        )  # fmt: skip
        known = self._idle.take(kind)
        if known is not None and known.cores is not None and known.cores != available_cores():
            known = None  # other trainings take cores now, or no more
        # A chunk that comes again is read-only, and was checked when it came first.
        if known is None or chunk is not known.chunk:
            check_chunk(chunk, 1 if shared is None else 0, network.needs_batches)
            if network.needs_batches:
                network.check_rows(chunk.stops - chunk.starts if shared is None else shared.batch_rows)
        session = known or self._session_of(network, optimizer, data, chunk, threads, shared)
        if chunk is not session.chunk:
            session.show_chunk(chunk)
        values = {
            **words_of_inputs(inputs), "parameters": state.parameters, "gradients": state.gradients,
            "moments": state.moments, "step": state.step, "key": key, "losses": sums, "targets": targets,
            "weights": weights, "leads": 1,
        }  # fmt: skip
        if isinstance(inputs, SparseRows):
            session.make_lists(inputs, inputs.most(chunk.most_rows), chunk.most_rows)
        if network.heads:
            values["head_losses"] = losses[1:]
        summing = None
        if shared is not None:
            summing = Summing(shared, state.gradients, session.barrier)
            values |= summing.words_of(chunk)
        session.show(values)
        threads = session.run("train_chunk")
        if summing is not None:
            summing.check()
        self._idle.leave(kind, session)
        return state.at(state.step + len(sums), threads)

    def _session_of(
        self,
        network: Network,
        optimizer: Optimizer,
        data: Data,
        chunk: Chunk,
        threads: int | None,
        shared: Shared | None,
    ) -> Session:
        """Return a new session for chunks of a kind."""
        variant, inputs, program, workers, cores = self._code.variant, data.inputs, None, 1, None
        rows, dtype = chunk.most_rows, data.targets.dtype
        whole = shared is None and not chunk.microbatch  # a step of this process alone, of all of its rows
        if variant.specialize is not None and whole and isinstance(inputs, np.ndarray):
            program = variant.specialize(network, optimizer, rows, dtype)
        if variant.workers is not None and program is None:
            # The threads follow this rank's part of a batch, which differs from step to step.
            typical = rows if shared is None else shared.rows
            work = Work.of(network, optimizer, typical, dtype, threads)
            if isinstance(inputs, SparseRows):
                work = work.with_inputs(inputs.numbers_of_row)
            workers, cores = variant.workers(work), work.threads if threads is None else None
        return Session(
            self._code, network, dtype, rows, optimizer, workers=workers, program=program,
            sparse=isinstance(inputs, SparseRows), microbatch=chunk.microbatch, cores=cores,
        )  # fmt: skip


SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


class Summing:
    """The functions of a `Shared` for calls from programs within a step (`call_back`).

    gradients : (P,), with ranges named by programs
    barrier : of the program, where success is written
    """

    def __init__(self, shared: Shared, gradients: NDArray[Any], barrier: NDArray[Any]) -> None:
        errors: list[BaseException] = []

        def for_programs(function: Callable[[int, int, int], Any]) -> Any:
            def call(step: int, first: int, last: int) -> None:
                try:
                    function(step, first, last)
                    barrier[UNSUMMED] = 0
                except BaseException as error:
                    errors.append(error)

            # The object must live as long as programs may call the address: `Summing` holds it.
            return SIGNATURE(call)

        self._shared, self._errors, self._barrier = shared, errors, barrier
        self._add = for_programs(shared.add)
        self._total = for_programs(lambda step, first, last: shared.total(gradients[first:last]))

    def words_of(self, chunk: Chunk) -> dict[str, Any]:
        """Return the words of a call record for shared steps."""
        shared = self._shared
        check_array("positions", shared.positions, chunk.order.shape, np.int64)
        check_array("batch_rows", shared.batch_rows, chunk.starts.shape, np.int64)
        # Not by `ctypes.cast`, whose result and argument hold one another: a cycle would keep the rows.
        summing, totalling = (
            ctypes.c_void_p.from_buffer(function).value or 0 for function in (self._add, self._total)
        )
        values: dict[str, Any] = {
            "summing": summing, "totalling": totalling, "leads": int(shared.leads),
            "together": shared.together, "positions": shared.positions, "batch_rows": shared.batch_rows,
            "nonzero_columns": shared.nonzero_columns, "row_marks": shared.row_marks,
        }  # fmt: skip
        return {name: value for name, value in values.items() if value is not None}

    def check(self) -> None:
        """Raise the error of the program, if any.

        ctypes drops an error before the function's first line, as from a second Ctrl-C.
        """
        if self._barrier[UNSUMMED]:
            raise self._errors[0] if self._errors else KeyboardInterrupt
