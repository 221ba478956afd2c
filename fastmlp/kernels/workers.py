"""Threads that run one compiled program together, and the barrier that joins them within it.

Workers are Python threads inside nogil code, started for a chunk of about 0.2 s: a start costs
some 50 us, and no pool is left behind that a fork, an exception or a second fit could find in the
wrong state. Within a chunk they meet at an atomic barrier, 0.1 us when all are running, and
spin for a while before they yield, so that more workers than cores still get on.
"""

# mypy: ignore-errors

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.pieces import INNER, OPTIONS
from fastmlp.kernels.program import Team

SPINS = 2000
"""Polls before yielding: about 50 us, longer than the workers of one step lie apart."""

ARRIVED, GENERATION, ABANDONED = 0, 16, 17
"""Places in the barrier's array: one that all write, on a cache line of its own; two that all read."""

BARRIER = 32
"""Numbers in the barrier's array."""

YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"


def run(program: Callable[[Team], None], workers: int) -> None:
    """Call program(team) once for each worker, on threads of their own but for the first.

    Where the system has no more threads to give, by fewer workers, who compute the same bits. If one
    fails, the others leave the barrier, what they wrote is of no use, and its error is raised.
    """
    if workers == 1:
        program(Team(0, 1, np.zeros(BARRIER, np.int64)))
    else:
        _Gang(program).run(workers)


class _Gang:
    """Threads that wait until it is known how many they are."""

    def __init__(self, program: Callable[[Team], None]) -> None:
        self._program = program
        self._barrier = np.zeros(BARRIER, np.int64)
        self._gate = threading.Event()
        self._workers = 0
        self._errors: list[BaseException] = []

    def run(self, workers: int) -> None:
        others: list[threading.Thread] = []
        try:
            for worker in range(1, workers):
                thread = threading.Thread(target=self._enter, args=(worker,), daemon=True)
                thread.start()
                others.append(thread)
        except RuntimeError:
            pass  # "can't start new thread"
        except BaseException:
            self._gate.set()  # to nobody's work
            raise
        self._workers = 1 + len(others)
        self._enter(0)
        for thread in others:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _enter(self, worker: int) -> None:
        try:
            if worker == 0:
                self._gate.set()
            self._gate.wait()
            if self._workers:
                self._program(Team(worker, self._workers, self._barrier))
        except BaseException as error:
            self._barrier[ABANDONED] = 1
            self._errors.append(error)


def _address(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index], source_etype=ir.IntType(64))


@intrinsic
def fetch_add(typing_context, array, index, amount):
    """Atomically add to array[index]; return what it held before."""

    def emit(context, builder, signature, arguments):
        place = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(array, types.intp, types.int64), emit


@intrinsic
def load(typing_context, array, index):
    """Atomically read array[index]."""

    def emit(context, builder, signature, arguments):
        place = _address(context, builder, signature.args[0], arguments[0], arguments[1])
        return builder.load_atomic(place, "seq_cst", 8, typ=ir.IntType(64))

    return types.int64(array, types.intp), emit


@intrinsic
def give_way(typing_context):
    """Let the scheduler run somebody else."""

    def emit(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        name = YIELD
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), emit


@numba.njit(_nrt=False, **OPTIONS, **INNER)
def wait(team):
    """Return when all workers of the team have come here, or when one of them never will."""
    if team.workers == 1 or load(team.barrier, ABANDONED) != 0:
        return
    generation = load(team.barrier, GENERATION)
    if fetch_add(team.barrier, ARRIVED, 1) == team.workers - 1:
        fetch_add(team.barrier, ARRIVED, -team.workers)
        fetch_add(team.barrier, GENERATION, 1)
        return
    spins = 0
    while load(team.barrier, GENERATION) == generation:
        spins += 1
        if spins > SPINS:
            give_way()
            if load(team.barrier, ABANDONED) != 0:
                return
