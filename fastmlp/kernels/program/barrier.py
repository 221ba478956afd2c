"""The barrier at which the workers of a step wait for one another, within compiled code.

A barrier of two running workers takes 0.1 us. A worker that waits polls for a while and then yields its core, so
that more workers than cores still make progress. Each arrival moves a cache line from the core of the arrival
before it, so arrivals at one place follow one another. Up to `FAN_IN` workers therefore meet at one place. More
workers form groups: each group meets at a place of its own, and then one worker of each group meets the others at
the root. So 96 workers wait for 8 and then 12 such transfers, where one place would need 96
(`docs/many-cores.md`).
"""

# mypy: ignore-errors

import sys

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.kernels.codegen.types import INT, INT32, POINTER, declare
from fastmlp.kernels.codegen.vectors import data_pointer
from fastmlp.kernels.program.records import ABANDONED, ARRIVED, FAN_IN, GENERATION, MOST_GROUPS, PLACE

SPINS = 2000
"""Polls before a worker yields: about 50 us, more than the time between the arrivals of one step's workers."""

YIELD = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

FUNCTION = "fastmlp_barrier"


@intrinsic
def wait(typing_context, barrier, worker, workers):
    """Return when all workers have arrived, or when one of them has failed. barrier : (BARRIER,) int64"""

    def emit(context, builder, signature, values):
        place = data_pointer(context, builder, barrier, values[0])
        with builder.if_then(builder.icmp_signed(">", values[2], INT(1))):
            builder.call(function_of(builder.module), [place, *values[1:]])
        return context.get_dummy_value()

    return types.void(barrier, types.intp, types.intp), emit


def function_of(module):
    """Return the module's function (barrier's address, worker, workers), written when first asked for."""
    function = declare(module, FUNCTION, ir.VoidType(), [POINTER, INT, INT])
    if function.is_declaration:
        function.linkage = "internal"
        function.attributes.add("noinline")  # a step waits in several places
        builder = ir.IRBuilder(function.append_basic_block())
        emit_wait(builder, *function.args)
        builder.ret_void()
    return function


def word(builder, place, index):
    """Return the address of word `index` of a place."""
    return builder.gep(place, [index if isinstance(index, ir.Value) else INT(index)], source_etype=INT)


def read(builder, place, index):
    """Return a word; all workers see the same order of such reads and of `add_one`."""
    return builder.load_atomic(word(builder, place, index), "seq_cst", 8, typ=INT)


def add_one(builder, place, index):
    """Add one to a word, as one atomic operation; return the value before."""
    return builder.atomic_rmw("add", word(builder, place, index), INT(1), "seq_cst")


def emit_wait(builder, barrier, worker, workers):
    """Write the barrier: one meeting of up to FAN_IN workers, else one of each group and one of the groups."""
    equal = lambda a, b: builder.icmp_signed("==", a, b)
    less = lambda a, b: builder.icmp_signed("<", a, b)
    parts = lambda count, size: builder.sdiv(builder.sub(builder.add(count, size), INT(1)), size)

    with (
        builder.if_then(equal(read(builder, barrier, ABANDONED), INT(0))),
        builder.if_else(less(INT(FAN_IN), workers)) as (many, few),
    ):
        with few:
            emit_meeting(builder, barrier, barrier, workers)
        with many:
            fair = parts(workers, INT(MOST_GROUPS))
            size = builder.select(less(fair, INT(FAN_IN)), INT(FAN_IN), fair)
            group = builder.sdiv(worker, size)
            left = builder.sub(workers, builder.mul(group, size))
            members = builder.select(less(left, size), left, size)
            own = word(builder, barrier, builder.mul(builder.add(group, INT(1)), INT(PLACE)))
            all_groups = lambda: emit_meeting(builder, barrier, barrier, parts(workers, size))
            emit_meeting(builder, barrier, own, members, all_groups)


def emit_meeting(builder, barrier, place, members, before_opening=None):
    """Write a meeting of `members` workers at a place.

    before_opening : writes what the last worker to arrive does before the others may go on
    """
    equal = lambda a, b: builder.icmp_signed("==", a, b)
    generation = read(builder, place, GENERATION)
    # Arrivals are never reset to 0: meeting g, counted from 0, ends with arrival number (g + 1) * members.
    last_of_all = builder.sub(builder.mul(builder.add(generation, INT(1)), members), INT(1))
    with builder.if_else(equal(add_one(builder, place, ARRIVED), last_of_all)) as (opens, waits):
        with opens:
            if before_opening is not None:
                before_opening()
            add_one(builder, place, GENERATION)
        with waits:
            before = builder.block
            head, spin, give_way, after = map(
                builder.append_basic_block, ("head", "spin", "give_way", "after")
            )
            builder.branch(head)
            builder.position_at_end(head)
            spins = builder.phi(INT)
            builder.cbranch(equal(read(builder, place, GENERATION), generation), spin, after)
            builder.position_at_end(spin)
            more = builder.add(spins, INT(1))
            builder.cbranch(builder.icmp_signed(">", more, INT(SPINS)), give_way, head)
            builder.position_at_end(give_way)
            builder.call(declare(builder.module, YIELD, INT32, []), [])
            builder.cbranch(equal(read(builder, barrier, ABANDONED), INT(0)), head, after)
            for value, block in ((INT(0), before), (more, spin), (more, give_way)):
                spins.add_incoming(value, block)
            builder.position_at_end(after)
