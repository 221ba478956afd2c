"""Single steps of a network on fixed arrays: sessions are made once, and shown each batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import error_of
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import WORDS
from fastmlp.kernels.runtime.described import resting_shape_of, shape_of
from fastmlp.kernels.runtime.session import Session, words_of_inputs
from fastmlp.kernels.variant import Work
from fastmlp.model.backend import Batch, step_totals
from fastmlp.model.network import Network
from fastmlp.model.operations import table_marks
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import SparseRows, find_nonzero_columns
from fastmlp.model.state import TrainState

SHARED_SECONDS = 1e-3
"""Threads take part in steps of at least this length: to start the threads of a step takes 50 us."""

Runner = Callable[[], int | None]
"""Runs an entry point on a session; returns None, or a code for `error_of`."""


class CompiledSteps:
    """The steps of a backend (`fastmlp.backend.stepping.Steps`), on the state's arrays.

    code : the backend's entry points
    batch : as in `Steps`; key : of the dropout masks
    """

    def __init__(
        self,
        code: Entries,
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        batch: Batch,
        key: int,
        threads: int,
    ) -> None:
        self._code, self._network, self._optimizer = code, network, optimizer
        self._state, self._batch, self._key, self._threads = state, batch, key, threads
        self._most_rows = len(batch.inputs)
        self._dtype = state.parameters.dtype
        self.rates = np.zeros((1, 2))
        self._loss, self._total, self._stop = np.zeros(1), np.zeros(1), np.zeros(1, np.int64)
        self._head_losses = np.zeros((len(network.heads), 1))
        self._head_totals = np.zeros_like(self._head_losses) if network.heads else self._total
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
        self._sessions: dict[tuple[bool, bool], Session] = {}
        """Sessions of whole steps and of halves, for dense or sparse inputs."""
        self._specialized: list[Session] = []
        self._runners: dict[tuple[str, int, int], Runner] = {}
        """Runners of entry points, by template, the record's address, and the number of workers."""
        self._chosen: dict[tuple[bool, int], tuple[Session, Runner]] = {}
        """Sessions and runners of whole steps, by density and number of rows."""
        self._workers_for: dict[int, int] = {}
        self._sparse: SparseRows | None = None
        """The inputs of the last `forward`, if sparse."""
        self._rows = 0
        norms = [np.arange(op.trained, op.end) for op in network.operations if op.kind.state]
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
        session, taken = self._chosen.get((sparse is None, rows)) or self._choose(sparse is None, rows)
        if sparse is not None:
            self._show_sparse(session, sparse)
        words = session.words
        words[STEP], words[SAMPLES], self._stop[0], self._total[0] = at, rows, rows, total
        if (failed := taken()) is not None:
            raise error_of(failed)
        return self._loss.item()

    def forward(self, rows: int, training: bool, at: int, sparse: SparseRows | None) -> None:
        """Write the outputs of a batch; training : with dropout, as in step `at`."""
        dense = sparse is None
        session = self._passing = self._sessions.get((dense, False)) or self._session_of(dense, whole=False)
        if sparse is not None:
            self._show_sparse(session, sparse)
        words = session.words
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
        session = self._update
        if self._applied is not self._state.gradients:
            np.copyto(self._applied, self._state.gradients)
        if self._network.penalises:
            self._total[0] = self._rows
            session.entry("penalize")(session.address)
        session.words[STEP] = at
        if self._sparse_updates and self._rows:
            inputs = self._batch.inputs[: self._rows] if self._sparse is None else self._sparse
            session.set({"nonzero_columns": find_nonzero_columns(inputs)})
        if self._updates_sparsely and self._rows:
            inputs = self._batch.inputs[: self._rows] if self._sparse is None else self._sparse.dense
            session.set({"row_marks": table_marks(self._network.operations, inputs)})
        session.run("update")

    @functools.cached_property
    def _update(self) -> Session:
        return self._made(None, self._applied, optimizer=self._optimizer)

    def _run_half(self, template: str) -> None:
        """Run an entry point on the last rows of `forward`."""
        workers, address = self._workers(self._rows), self._passing.address
        taken = self._runners.get((template, address, workers)) or self._runner(
            self._passing, template, workers
        )
        if (failed := taken()) is not None:
            raise error_of(failed)

    def _runner(self, session: Session, template: str, workers: int) -> Runner:
        """Return a new runner of an entry point on a session, which is kept."""
        if workers == 1:
            runner = session.entry(template).on(session.address)
        else:
            runner = functools.partial(_run, session, template, workers)
        self._runners[template, session.address, workers] = runner
        return runner

    def _made(self, rows: int | None, gradients: NDArray[Any], **options: Any) -> Session:
        """Return a session on the fixed arrays. gradients : of the state, or in their place"""
        state, arrays = self._state, self._batch._asdict()
        arrays["out"] = arrays.pop("outputs")
        session = Session(self._code, self._network, self._dtype, rows, **options)
        session.set({
            **arrays, "parameters": state.parameters, "moments": state.moments, "gradients": gradients,
            "starts": np.zeros(1, np.int64), "stops": self._stop, "totals": self._total, "rates": self.rates,
            "losses": self._loss, "key": self._key, "head_totals": self._head_totals,
            "head_losses": self._head_losses,
        })  # fmt: skip
        return session

    def _session_of(self, dense: bool, whole: bool) -> Session:
        """Return the new session of whole steps, or of halves, for dense or sparse inputs, which is kept."""
        rows, gradients = self._most_rows, self._passing_gradient if whole else self._state.gradients
        session = self._sessions[dense, whole] = self._made(
            rows, gradients, workers=self._workers(rows), sparse=not dense,
            optimizer=self._optimizer if whole else None,
        )  # fmt: skip
        return session

    def _show_sparse(self, session: Session, inputs: SparseRows) -> None:
        terms = len(inputs.values)
        session.make_lists(inputs, terms, self._most_rows, room=2 * terms)
        session.set(words_of_inputs(inputs))

    def _choose(self, dense: bool, rows: int) -> tuple[Session, Runner]:
        """Return the session of steps on so many rows, and its runner."""
        program, specialize, workers = None, self._code.variant.specialize, 1
        if specialize is not None and dense:
            program = specialize(self._network, self._optimizer, rows, self._dtype)
        if program is None:
            session = self._sessions.get((dense, True)) or self._session_of(dense, whole=True)
            workers = self._workers(rows)
        elif known := [made for made in self._specialized if made.rows >= rows]:
            session = known[0]  # all have the same bits: a short batch needs no program of its own
        else:
            session = self._made(rows, self._state.gradients, program=program, optimizer=self._optimizer)
            session.set({"order": np.arange(self._most_rows)})
            self._specialized.append(session)
        chosen = self._chosen[dense, rows] = session, self._runner(session, "train_chunk", workers)
        return chosen

    def _workers(self, rows: int) -> int:
        """Return how many workers take a batch of so many rows."""
        variant = self._code.variant
        if self._threads == 1 or variant.workers is None or variant.seconds is None:
            return 1
        if rows not in self._workers_for:
            work = Work.of(self._network, self._optimizer, rows, self._dtype, self._threads)
            pays = variant.seconds(work._replace(threads=1)) >= SHARED_SECONDS
            most = self._threads if rows == self._most_rows else self._workers(self._most_rows)
            self._workers_for[rows] = min(variant.workers(work), most) if pays else 1
        return self._workers_for[rows]


def _run(session: Session, template: str, workers: int) -> None:
    """Run an entry point on several threads; return None as a runner without an error."""
    session.run(template, workers)


SAMPLES, STEP, OPERATIONS, BY_INPUTS_ROWS = (
    WORDS[name] for name in ("samples", "step", "operations", "by_inputs_rows")
)
