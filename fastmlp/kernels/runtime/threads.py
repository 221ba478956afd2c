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
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.subnormals import heed_subnormals
from fastmlp.kernels.codegen.vectors import INT, INT32, byte_pointer, data_pointer, declare
from fastmlp.kernels.jit.lazy import calling, emitted
from fastmlp.kernels.program.records import Team

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
        call(program, Team(0, 1, np.zeros(BARRIER, np.int64)))
    else:
        _Gang(program).run(workers)


def call(program: Callable[..., Any], *arguments: Any) -> Any:
    """Return program(*arguments), a program that takes subnormal numbers for 0."""
    try:
        return program(*arguments)
    except BaseException:
        heed_subnormals()  # it ended before it put back how this thread computes
        raise


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
                call(self._program, Team(worker, self._workers, self._barrier))
        except BaseException as error:
            self._barrier[ABANDONED] = 1
            self._errors.append(error)


def emit_wait(builder, arguments, kinds, code):
    """Write what `wait` does where there are several workers."""
    workers, barrier = arguments
    place = lambda index: builder.gep(barrier, [INT(index)], source_etype=INT)
    read = lambda index: builder.load_atomic(place(index), "seq_cst", 8, typ=INT)
    add = lambda index, amount: builder.atomic_rmw("add", place(index), amount, "seq_cst")
    equal = lambda a, b: builder.icmp_signed("==", a, b)

    with builder.if_then(equal(read(ABANDONED), INT(0))):
        generation = read(GENERATION)
        last = equal(add(ARRIVED, INT(1)), builder.sub(workers, INT(1)))
        with builder.if_else(last) as (opens, waits):
            with opens:
                add(ARRIVED, builder.neg(workers))
                add(GENERATION, INT(1))
            with waits:
                before = builder.block
                head, spin, give_way, after = map(
                    builder.append_basic_block, ("head", "spin", "give_way", "after")
                )
                builder.branch(head)
                builder.position_at_end(head)
                spins = builder.phi(INT)
                builder.cbranch(equal(read(GENERATION), generation), spin, after)
                builder.position_at_end(spin)
                more = builder.add(spins, INT(1))
                builder.cbranch(builder.icmp_signed(">", more, INT(SPINS)), give_way, head)
                builder.position_at_end(give_way)
                builder.call(declare(builder.module, YIELD, INT32, []), [])
                builder.cbranch(equal(read(ABANDONED), INT(0)), head, after)
                for value, block in ((INT(0), before), (more, spin), (more, give_way)):
                    spins.add_incoming(value, block)
                builder.position_at_end(after)


WAIT = emitted("wait", emit_wait)


@intrinsic
def wait(typing_context, team):
    """Return when all workers of the team have come here, or when one of them never will."""

    def emit(context, builder, signature, values):
        _, workers, barrier = (builder.extract_value(values[0], i) for i in range(len(Team._fields)))
        with builder.if_then(builder.icmp_signed(">", workers, INT(1))):
            place = byte_pointer(builder, data_pointer(context, builder, team.types[-1], barrier))
            signature = types.void(types.intp, types.voidptr)
            calling(WAIT, 0)(context, builder, signature, [workers, place])
        return context.get_dummy_value()

    return types.void(team), emit
