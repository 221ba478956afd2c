"""Single steps of a network on fixed arrays: calls are made once, and updated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import error_of
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import WORDS
from fastmlp.kernels.runtime.calls import NAMES, NetworkCall, lists_for, words_of_inputs
from fastmlp.kernels.runtime.described import resting_shape_of, shape_of
from fastmlp.kernels.variant import SpecializedProgram, Variant, Work
from fastmlp.model.backend import Batch, step_totals
from fastmlp.model.network import Network
from fastmlp.model.operations import table_marks
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import SparseRows, find_nonzero_columns
from fastmlp.model.state import TrainState

SHARED_SECONDS = 1e-3
"""Threads take part in steps of at least this length: to start the threads of a step takes 50 us."""

Runner = Callable[[], int | None]
"""Runs an entry point on a call; returns None, or a code for `error_of`."""


class CompiledSteps:
    """The steps of a variant (`fastmlp.backend.stepping.Steps`), on the state's arrays.

    variant, entries : of the backend
    batch : as in `Steps`; key : of the dropout masks
    """

    def __init__(
        self,
        variant: Variant,
        entries: Entries,
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        batch: Batch,
        key: int,
        threads: int,
    ) -> None:
        self._variant, self._entries, self._network, self._optimizer = variant, entries, network, optimizer
        self._state, self._batch, self._key, self._threads = state, batch, key, threads
        self._most_rows = len(batch.inputs)
        self._dtype = state.parameters.dtype
        self.rates = np.zeros((1, 2))
        self._loss, self._total, self._stop = np.zeros(1), np.zeros(1), np.zeros(1, np.int64)
        self._head_totals, self._head_losses = np.zeros((2, len(network.heads), 1))
        self._operations = {
            training: shape.words["operations"]
            for training, shape in ((True, shape_of(network)), (False, resting_shape_of(network)))
        }
        self._updates_sparsely = network.updates_sparsely(optimizer)
        self._sparse_updates = optimizer.rule.sparse_updates and network.takes_sparse
        changes = network.penalises or optimizer.clip_norm is not None or optimizer.rule.orthogonal
        self._applied = np.empty_like(state.gradients) if changes else state.gradients
        """The optimiser's gradient, where different from the loss's gradient."""
        self._passing_gradient = np.empty_like(state.gradients)
        """The gradient of a whole step; few pages are ever written."""
        self._penalises = network.penalises
        self._steps: dict[bool, NetworkCall] = {}
        """Calls of a whole step, for dense or sparse inputs."""
        self._halves: dict[bool, NetworkCall] = {}
        """Calls of the halves of a step."""
        self._runners: dict[tuple[str, int], Runner] = {}
        """Runners of the halves on one thread, by template and the call's address."""
        self._specialized: list[NetworkCall] = []
        self._chosen: dict[tuple[bool, int], tuple[NetworkCall, Runner]] = {}
        """Calls and runners of whole steps, by density and number of rows."""
        self._workers_for: dict[int, int] = {}
        self._sparse: SparseRows | None = None
        """The inputs of the last `forward`, if sparse."""
        self._rows = 0
        norms = [np.arange(one.trained, one.end) for one in network.operations if one.kind.state]
        self._norms = np.concatenate(norms) if norms else None
        """Where a batch's statistics stand among the gradients from a forward to its backward."""
        self._statistics: NDArray[Any] | None = None

    def step(self, rows: int, total: float, at: int, sparse: SparseRows | None) -> float:
        """Take step `at` on a batch; return its objective before the step. total : of the rows' weights"""
        if self._sparse_updates and sparse is None:
            sparse = SparseRows.of(self._batch.inputs[:rows])
        if self._network.heads:
            targets, weights = self._batch.targets[:rows], self._batch.weights[:rows]
            self._head_totals[:, 0] = step_totals(self._network.head_weights(targets, weights))
        call, taken = self._chosen.get((sparse is None, rows)) or self._choose(sparse is None, rows)
        if sparse is not None:
            self._tell_sparse(call, sparse)
        words = call.words
        words[STEP], words[SAMPLES], self._stop[0], self._total[0] = at, rows, rows, total
        if (failed := taken()) is not None:
            raise error_of(failed)
        return self._loss.item()

    def forward(self, rows: int, training: bool, at: int, sparse: SparseRows | None) -> None:
        """Write the outputs of a batch; training : with dropout, as in step `at`."""
        dense = sparse is None
        call = self._passing = self._halves.get(dense) or self._make_halves(dense)
        if sparse is not None:
            self._tell_sparse(call, sparse)
        words = call.words
        words[SAMPLES], words[STEP], words[OPERATIONS] = rows, at, self._operations[training]
        self._sparse, self._rows = sparse, rows
        self._run_half("forward")
        if self._norms is not None:
            self._statistics = self._state.gradients[self._norms] if training else None

    def backward(self, by_inputs: bool) -> None:
        """Write the gradient of a loss, given the derivative by the last outputs.

        by_inputs : True to write the derivative by the inputs, too
        """
        if self._statistics is not None:  # a backward, or the user, has overwritten them
            self._state.gradients[self._norms] = self._statistics
        self._passing.words[BY_INPUTS_ROWS] = self._rows if by_inputs else 0
        self._run_half("backward")

    def update(self, at: int) -> None:
        """Take the optimiser's step `at` along the gradient of the loss and of the penalties."""
        call = self._update
        if self._applied is not self._state.gradients:
            np.copyto(self._applied, self._state.gradients)
        if self._penalises:
            self._total[0] = self._rows
            self._entries.get("penalize", NAMES[self._dtype])(call.address)
        call.words[STEP] = at
        if self._sparse_updates and self._rows:
            inputs = self._batch.inputs[: self._rows] if self._sparse is None else self._sparse
            call.set({"nonzero_columns": find_nonzero_columns(inputs)})
        if self._updates_sparsely and self._rows:
            inputs = self._batch.inputs[: self._rows] if self._sparse is None else self._sparse.dense
            call.set({"row_marks": table_marks(self._network.operations, inputs)})
        call.run()

    @functools.cached_property
    def _update(self) -> NetworkCall:
        return self._call(None, gradients=self._applied, program="update")

    def _run_half(self, template: str) -> None:
        """Run an entry point on the last rows of `forward`."""
        call = self._passing
        if self._threads > 1:
            call.entry = self._entries.get(template, NAMES[self._dtype])
            call.run(self._workers(self._rows))
            return
        if (half := self._runners.get((template, call.address))) is None:
            entry = self._entries.get(template, NAMES[self._dtype])
            half = self._runners[template, call.address] = entry.on(call.address)
        if (failed := half()) is not None:
            raise error_of(failed)

    def _call(
        self,
        rows: int | None,
        workers: int = 1,
        gradients: NDArray[Any] | None = None,
        sparse: bool = False,
        program: str | SpecializedProgram | None = None,
        steps: bool = True,
    ) -> NetworkCall:
        """Return a call on the fixed arrays. gradients : in the place of the state's; steps : by the rule"""
        state = self._state
        call = NetworkCall(
            self._entries, self._variant.buffers, program, self._network, self._dtype, rows, workers,
            optimizer=self._optimizer if steps else None, sparse=sparse,
        )  # fmt: skip
        given = self._batch._asdict()
        given["out"] = given.pop("outputs")
        call.set({
            **given, "parameters": state.parameters, "moments": state.moments,
            "gradients": state.gradients if gradients is None else gradients, "starts": np.zeros(1, np.int64),
            "stops": self._stop, "totals": self._total, "rates": self.rates, "losses": self._loss,
            "key": self._key, "head_totals": self._head_totals, "head_losses": self._head_losses,
        })  # fmt: skip
        return call

    def _make_halves(self, dense: bool) -> NetworkCall:
        rows = self._most_rows
        call = self._halves[dense] = self._call(rows, self._workers(rows), sparse=not dense, steps=False)
        return call

    def _make_step(self, dense: bool) -> NetworkCall:
        rows, gradient = self._most_rows, self._passing_gradient
        call = self._call(rows, self._workers(rows), gradient, not dense, "train_chunk")
        self._steps[dense] = call
        return call

    def _tell_sparse(self, call: NetworkCall, inputs: SparseRows) -> None:
        terms = len(inputs.values)
        if terms >= call.words[TERMS]:
            workers = self._workers(self._most_rows)
            call.set(lists_for(inputs, max(1, 2 * terms), self._most_rows, workers))  # rows may be empty
        call.set(words_of_inputs(inputs))

    def _choose(self, dense: bool, rows: int) -> tuple[NetworkCall, Runner]:
        """Return the call of steps on so many rows, and its runner."""
        program, specialize, workers = None, self._variant.specialize, 1
        if specialize is not None and dense:
            program = specialize(self._network, self._optimizer, rows, self._dtype)
        if program is None:
            call, workers = self._steps.get(dense) or self._make_step(dense), self._workers(rows)
        elif known := [one for one in self._specialized if one.rows >= rows]:
            call = known[0]  # all have the same bits: a short batch needs no program of its own
        else:
            call = self._call(rows, program=program)
            call.set({"order": np.arange(self._most_rows)})
            self._specialized.append(call)
        runner = call.entry.on(call.address) if workers == 1 else functools.partial(_run, call, workers)
        chosen = self._chosen[dense, rows] = call, runner
        return chosen

    def _workers(self, rows: int) -> int:
        """Return how many workers take a batch of so many rows."""
        variant = self._variant
        if self._threads == 1 or variant.workers is None or variant.seconds is None:
            return 1
        if rows not in self._workers_for:
            work = Work.of(self._network, self._optimizer, rows, self._dtype, self._threads)
            pays = variant.seconds(work._replace(threads=1)) >= SHARED_SECONDS
            most = self._threads if rows == self._most_rows else self._workers(self._most_rows)
            self._workers_for[rows] = min(variant.workers(work), most) if pays else 1
        return self._workers_for[rows]


def _run(call: NetworkCall, workers: int) -> None:
    """Run a call on several threads; return None as a runner without an error."""
    call.run(workers)


SAMPLES, STEP, OPERATIONS, BY_INPUTS_ROWS, TERMS = (
    WORDS[name] for name in ("samples", "step", "operations", "by_inputs_rows", "terms")
)
