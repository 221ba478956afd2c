"""Steps of one network on arrays that stay where they are: call records are made once, and updated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import Entry, error_of
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import BARRIER, WORDS, Call
from fastmlp.kernels.runtime.calls import (
    NAMES,
    call_of,
    column_lists,
    extent_of,
    matrices_for,
    tables_for,
    words_of_sparse,
)
from fastmlp.kernels.runtime.described import no_rules, resting_shape_of, rules_of, shape_of
from fastmlp.kernels.runtime.threads import run
from fastmlp.kernels.runtime.workspace import workspace
from fastmlp.kernels.variant import Bound, Choice, Work
from fastmlp.model.backend import Batch, step_totals
from fastmlp.model.inputs import table_marks
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.sparse import SparseRows, touched_by
from fastmlp.model.state import TrainState

SHARED_SECONDS = 1e-3
"""Threads take part in steps of at least this length: they are started for each, which takes 50 us."""


Alone = Callable[[], int | None]


class Calls(NamedTuple):
    """The calls on one kind of inputs, dense or sparse: a whole step, and its two halves."""

    step: Call
    halves: Call


class StepProgram(NamedTuple):
    """What takes a whole step.

    alone : takes it on this thread, see `Entry.on`
    most : rows that it has room for
    """

    entry: Entry
    call: Call
    alone: Alone
    workers: int
    most: int

    @classmethod
    def of(cls, entry: Entry, call: Call, workers: int, most: int) -> StepProgram:
        """Return what takes a whole step by this entry point on this call."""
        return cls(entry, call, entry.on(call.address), workers, most)


class CompiledSteps:
    """The steps of a variant (`fastmlp.backend.stepping.Steps`); its arrays are those of the state.

    choice, entries : of the variant
    batch : as in `Steps`; key : of the dropout masks
    """

    def __init__(
        self,
        choice: Choice,
        entries: Entries,
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        batch: Batch,
        key: int,
        threads: int,
    ) -> None:
        self._choice, self._entries, self._network, self._optimizer = choice, entries, network, optimizer
        self._state, self._batch, self._key, self._threads = state, batch, key, threads
        self._most_rows = most_rows = len(batch.inputs)
        self._dtype, count = state.parameters.dtype, len(network.operations)
        self.rates = np.zeros((1, 2))
        self._loss, self._total, self._stop = np.zeros(1), np.zeros(1), np.zeros(1, np.int64)
        self._barrier = np.zeros(BARRIER, np.int64)
        self._head_totals, self._head_losses = np.zeros((2, len(network.heads), 1))
        self._order = np.arange(most_rows)
        self._operations = {
            training: shape.words["operations"]
            for training, shape in ((True, shape_of(network)), (False, resting_shape_of(network)))
        }
        self._moves_touched = network.moves_touched(optimizer)
        self._touched_only = optimizer.rule.touched_only and network.takes_sparse
        self._rules, self._no_rules = rules_of(optimizer, network), no_rules(count)
        changes = network.penalises or optimizer.clip_norm is not None or optimizer.rule.orthogonal
        self._applied = np.empty_like(state.gradients) if changes else state.gradients
        """The gradient that the optimiser applies, where it differs from that of the loss."""
        self._passing_gradient = np.empty_like(state.gradients)
        """What a whole step writes of its gradient; few pages of it are ever touched."""
        self._penalises = network.penalises
        self._update = self._call(None, gradients=self._applied, **self._matrices(1))
        self._calls: dict[bool, Calls] = {}
        self._forwards: dict[bool, tuple[Call, Alone]] = {}
        self._programs: list[StepProgram] = []
        self._chosen: dict[tuple[bool, int], StepProgram] = {}
        self._shares: dict[int, int] = {}
        self._terms = -1
        self._sparse: SparseRows | None = None
        """The inputs of the last `forward`, if they are sparse."""
        self._rows = 0
        norms = [np.arange(one.trained, one.end) for one in network.operations if one.kind.state]
        self._norms = np.concatenate(norms) if norms else None
        """Where a batch's statistics stand among the gradients from a forward to its backward."""
        self._statistics: NDArray[Any] | None = None

    def step(self, rows: int, total: float, at: int, sparse: SparseRows | None) -> float:
        """Take step `at` on a batch; return its objective before the step. total : of the rows' weights"""
        if self._touched_only and sparse is None:
            sparse = SparseRows.of(self._batch.inputs[:rows])
        if self._network.heads:
            targets, weights = self._batch.targets[:rows], self._batch.weights[:rows]
            self._head_totals[:, 0] = step_totals(self._network.head_weights(targets, weights))
        program = self._chosen.get((sparse is None, rows)) or self._choose(sparse is None, rows)
        call = program.call
        if sparse is not None:
            self._tell_sparse(call, sparse)
        words = call.words
        words[STEP], words[SAMPLES], self._stop[0], self._total[0] = at, rows, rows, total
        if program.workers > 1:
            self._run(program.entry, call, program.workers)
        elif (failed := program.alone()) is not None:
            raise error_of(failed)
        return self._loss.item()

    def forward(self, rows: int, training: bool, at: int, sparse: SparseRows | None) -> None:
        """Write the outputs of a batch; training : whether units are dropped, as in step `at`."""
        dense = sparse is None
        call, alone = self._passing = self._forwards.get(dense) or self._make_forward(dense)
        if sparse is not None:
            self._tell_sparse(call, sparse)
        words = call.words
        words[SAMPLES], words[STEP], words[OPERATIONS] = rows, at, self._operations[training]
        self._sparse, self._rows = sparse, rows
        if self._threads > 1:
            self._run(self._forward, call, self._workers(rows))
        elif (failed := alone()) is not None:
            raise error_of(failed)
        if self._norms is not None:
            self._statistics = self._state.gradients[self._norms] if training else None

    def backward(self, by_inputs: bool) -> None:
        """Write the gradient of a loss, given its derivative by the outputs of the last `forward`.

        by_inputs : whether to write its derivative by the inputs, too
        """
        call, _ = self._passing
        if self._statistics is not None:  # a backward, or the user, has overwritten them
            self._state.gradients[self._norms] = self._statistics
        call.words[BY_INPUTS_ROWS] = self._rows if by_inputs else 0
        self._run(self._backward, call, self._workers(self._rows))

    def update(self, at: int) -> None:
        """Take the optimiser's step `at` along the gradient of the loss and of the penalties."""
        call = self._update
        if self._applied is not self._state.gradients:
            np.copyto(self._applied, self._state.gradients)
        if self._penalises:
            self._total[0] = self._rows
            self._penalize(call.address)
        call.words[STEP] = at
        if self._touched_only and self._rows:
            touched = touched_by(self._batch.inputs[: self._rows] if self._sparse is None else self._sparse)
            call.set({"touched": touched, "marks": len(touched)})
        if self._moves_touched and self._rows:
            inputs = self._batch.inputs[: self._rows] if self._sparse is None else self._sparse.dense
            marks = table_marks(self._network.operations, inputs)
            call.set({"row_marks": marks, "table_rows": len(marks)})
        self._apply(call.address)

    @functools.cached_property
    def _forward(self) -> Entry:
        return self._entries.get("forward", NAMES[self._dtype])

    @functools.cached_property
    def _backward(self) -> Entry:
        return self._entries.get("backward", NAMES[self._dtype])

    @functools.cached_property
    def _apply(self) -> Entry:
        return self._entries.get("update", NAMES[self._dtype])

    @functools.cached_property
    def _penalize(self) -> Entry:
        return self._entries.get("penalize", NAMES[self._dtype])

    def _run(self, entry: Entry, call: Call, workers: int) -> None:
        if workers == 1:
            entry(call.address)
        else:
            self._barrier[...] = 0
            run(functools.partial(entry, call.address), workers, self._barrier)

    def _call(self, work: Any, rules: Any = None, **given: Any) -> Call:
        """Return a call on the arrays that stay where they are."""
        state = self._state
        arrays = {"parameters": state.parameters, "gradients": state.gradients, "moments": state.moments}
        arrays |= self._batch._asdict()
        arrays["out"] = arrays.pop("outputs")
        numbers = {
            "starts": np.zeros(1, np.int64), "stops": self._stop, "totals": self._total, "rates": self.rates,
            "losses": self._loss, "barrier": self._barrier, "steps": 1, "key": self._key, "leads": 1,
            "head_totals": self._head_totals, "head_losses": self._head_losses,
        }  # fmt: skip
        return call_of(shape_of(self._network), work, rules or self._rules, **{**arrays, **numbers, **given})

    def _matrices(self, workers: int) -> dict[str, Any]:
        buffers = self._choice.buffers
        return matrices_for(self._network, self._optimizer, self._dtype, workers, buffers)

    def _make_calls(self, dense: bool) -> Calls:
        """Return the calls on one kind of inputs, which share a workspace."""
        extent = extent_of(self._network, not dense)
        workers = self._workers(self._most_rows)
        work = workspace(extent, self._most_rows, workers, self._dtype, buffers=self._choice.buffers)
        tables = tables_for(self._network, self._most_rows, workers)
        calls = self._calls[dense] = Calls(
            self._call(work, gradients=self._passing_gradient, **self._matrices(workers), **tables),
            self._call(work, self._no_rules, **tables),
        )
        return calls

    def _make_forward(self, dense: bool) -> tuple[Call, Alone]:
        call = (self._calls.get(dense) or self._make_calls(dense)).halves
        self._forwards[dense] = made = call, self._forward.on(call.address)
        return made

    def _tell_sparse(self, call: Call, inputs: SparseRows) -> None:
        terms = len(inputs.values)
        if terms > self._terms:
            self._terms, workers = 2 * terms, self._workers(self._most_rows)
            lists = column_lists(self._terms, self._most_rows, inputs.n_in, self._dtype, workers)
            for one in self._calls[False]:
                one.set(lists)
        call.set(words_of_sparse(inputs))

    def _choose(self, dense: bool, rows: int) -> StepProgram:
        """Return what takes steps of so many rows: the program of the network alone, if it has one."""
        bound, specialize = None, self._choice.specialize
        if specialize is not None and dense:
            bound = specialize(self._network, self._optimizer, rows, self._dtype)
        if bound is None:
            entry = self._entries.get("train_chunk", NAMES[self._dtype])
            calls = self._calls.get(dense) or self._make_calls(dense)
            program = StepProgram.of(entry, calls.step, self._workers(rows), self._most_rows)
        else:
            # All have the same bits: a short batch needs no program of its own.
            same = (one for one in self._programs if one.most >= rows)
            program = next(same, None) or self._bound(bound, rows)
        self._chosen[dense, rows] = program
        return program

    def _bound(self, bound: Bound, rows: int) -> StepProgram:
        work = workspace(
            extent_of(self._network, False),
            rows,
            1,
            self._dtype,
            bound.private,
            buffers=self._choice.buffers,
        )
        call = self._call(work, order=self._order, visits=self._most_rows)
        program = StepProgram.of(self._entries.of_network(bound, NAMES[self._dtype]), call, 1, rows)
        self._programs.append(program)
        return program

    def _workers(self, rows: int) -> int:
        """Return how many workers take a batch of so many rows."""
        choice = self._choice
        if self._threads == 1 or choice.workers is None or choice.seconds is None:
            return 1
        if rows not in self._shares:
            work = Work.of(self._network, self._optimizer, rows, self._dtype, self._threads)
            pays = choice.seconds(work._replace(threads=1)) >= SHARED_SECONDS
            most = self._threads if rows == self._most_rows else self._workers(self._most_rows)
            self._shares[rows] = min(choice.workers(work), most) if pays else 1
        return self._shares[rows]


SAMPLES, STEP, OPERATIONS, BY_INPUTS_ROWS = (
    WORDS[name] for name in ("samples", "step", "operations", "by_inputs_rows")
)
