"""The barrier at which the workers of a step wait for one another, within compiled code.

0.1 us when all are running; who waits spins for a while and then yields, so that more workers than cores
still get on.
"""

# mypy: ignore-errors

import os

from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.types import INT, INT32, declare
from fastmlp.kernels.codegen.vectors import data_pointer
from fastmlp.kernels.program.records import ABANDONED, ARRIVED, GENERATION

SPINS = 2000
"""Polls before yielding: about 50 us, longer than the workers of one step lie apart."""

YIELD = "SwitchToThread" if os.name == "nt" else "sched_yield"


@intrinsic
def wait(typing_context, barrier, workers):
    """Return when all workers have come here, or when one of them never will. barrier : (BARRIER,) int64"""

    def emit(context, builder, signature, values):
        place = data_pointer(context, builder, barrier, values[0])
        with builder.if_then(builder.icmp_signed(">", values[1], INT(1))):
            emit_wait(builder, place, values[1])
        return context.get_dummy_value()

    return types.void(barrier, types.intp), emit


def emit_wait(builder, barrier, workers):
    """Write what `wait` does where there are several workers."""
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
