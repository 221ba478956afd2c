"""The barrier at which the workers of a step wait for one another, within compiled code.

0.1 us when two are running; who waits spins for a while and then yields, so that more workers than cores still get
on. Every arrival takes a cache line from the core that came before, one after another. Up to `FAN_IN` workers meet
at one place; of more each group of so many meets at a place of its own, and then one of each group with those of
the others: 96 workers wait for 8 and 12 such transfers, where one place would have 96 (`docs/many-cores.md`).
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
"""Polls before yielding: about 50 us, longer than the workers of one step lie apart."""

YIELD = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

FUNCTION = "fastmlp_barrier"


@intrinsic
def wait(typing_context, barrier, worker, workers):
    """Return when all workers have come here, or when one of them never will. barrier : (BARRIER,) int64"""

    def emit(context, builder, signature, values):
        place = data_pointer(context, builder, barrier, values[0])
        with builder.if_then(builder.icmp_signed(">", values[2], INT(1))):
            builder.call(function_of(builder.module), [place, *values[1:]])
        return context.get_dummy_value()

    return types.void(barrier, types.intp, types.intp), emit


def function_of(module):
    """Return the module's function of the barrier's address, the worker, and how many there are."""
    function = declare(module, FUNCTION, ir.VoidType(), [POINTER, INT, INT])
    if function.is_declaration:
        function.linkage = "internal"
        function.attributes.add("noinline")  # what waits need not be near, and a step waits in several places
        builder = ir.IRBuilder(function.append_basic_block())
        emit_wait(builder, *function.args)
        builder.ret_void()
    return function


def word(builder, place, index):
    """Return the address of a word behind a place, atomic operations on which see those of all workers."""
    return builder.gep(place, [index if isinstance(index, ir.Value) else INT(index)], source_etype=INT)


def read(builder, place, index):
    """Return a word."""
    return builder.load_atomic(word(builder, place, index), "seq_cst", 8, typ=INT)


def add_one(builder, place, index):
    """Add one to a word; return what it was."""
    return builder.atomic_rmw("add", word(builder, place, index), INT(1), "seq_cst")


def emit_wait(builder, barrier, worker, workers):
    """Write what several workers do."""
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
    """Write the wait of so many workers at a place; the last one does something before the others go on."""
    equal = lambda a, b: builder.icmp_signed("==", a, b)
    generation = read(builder, place, GENERATION)
    # Nothing is set back: of meeting g, counted from 0, the last is the ((g + 1) * members)-th who ever came.
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
