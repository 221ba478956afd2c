"""The barrier for a step's workers, in compiled code.

A waiting worker polls for about as long as a wake-up takes, and then sleeps until the barrier opens, so that
the core is free for the missing worker, or for other programs. Opening a barrier without sleepers calls
nothing. Each arrival moves a cache line from the core of the arrival before, so arrivals at a node
are serial. Up to `FAN_IN` workers therefore meet at a single node. More workers form groups: each group meets
at its node, and then a worker of each group meets the other groups at the root. So 96 workers wait for 8 and
then 12 such transfers, where a single node would need 96 (`docs/measured/threads.md`).

Order of memory, for processors such as ARM's that keep no order by themselves:

- All workers see after the barrier everything written by a worker before its arrival. Each arrival releases
  that to the next arrival, the last arrival releases all to the generation, and readers of the generation
  acquire all.
- A worker reads the generation before it arrives, and no older value than at its last departure: the worker
  has read that value before, or acquired the value from a worker that had.
- No wake-up is lost. The opener moves the generation, and then reads the number of sleepers. A sleeper counts
  itself, and then the system compares the generation. At least one of both sees the other, as both are in the
  single order of `seq_cst`. The system's comparison is none of our instructions, so a fence stands before it.
- `is_abandoned` may read its word at any moment: the word only ends steps without readers of their results.
"""

from functools import partial

from llvmlite import ir

from fastmlp.kernels.codegen.symbols import INT, INT32, POINTER, declare
from fastmlp.kernels.codegen.vectors import of_arrays
from fastmlp.kernels.program.records import (
    ABANDONED,
    ARRIVED,
    FAN_IN,
    GENERATION,
    MOST_GROUPS,
    NODE,
    SLEEPERS,
)
from fastmlp.kernels.program.workers import FUNCTIONS, SEEN, VALUE, WORD

# A barrier of two running workers takes 0.1 us.
SPINS = 50_000
"""Polls before a worker sleeps: about 40 us, as long as a wake-up."""

NAP, MOST_NAPS = 10, 100
"""Microseconds of the first nap where the system has no sleep; the factor of nap n is n, up to the most naps."""

FUNCTION = "fastmlp_barrier"


@of_arrays
def wait(barrier, worker, workers):
    """Return when all workers have arrived, or when closed. barrier : (BARRIER,) int64"""
    build = barrier.builder
    with build.if_then((workers > 1).value):
        build.call(function_of(build.module), [barrier.data, worker.value, workers.value])


@partial(of_arrays, result="boolean")
def is_abandoned(barrier):
    """Return whether a worker has failed and steps end. barrier : (BARRIER,) int64"""
    build = barrier.builder
    abandoned = build.load_atomic(word(build, barrier.data, ABANDONED), "monotonic", 8, typ=INT)
    return build.icmp_signed("!=", abandoned, INT(0))


def function_of(module):
    """Return the module's function of the barrier's address, worker and workers, written at the first call."""
    function = declare(module, FUNCTION, ir.VoidType(), [POINTER, INT, INT])
    if function.is_declaration:
        function.linkage = "internal"
        function.attributes.add("noinline")  # a step waits several times
        builder = ir.IRBuilder(function.append_basic_block())
        emit_wait(builder, *function.args)
        builder.ret_void()
    return function


def word(builder, node, index):
    """Return the address of word `index` of a node."""
    return builder.gep(node, [index if isinstance(index, ir.Value) else INT(index)], source_etype=INT)


def read(builder, node, index):
    """Return a word; all workers see the same order of these reads and of `add`."""
    return builder.load_atomic(word(builder, node, index), "seq_cst", 8, typ=INT)


def add(builder, node, index, number=1):
    """Add a number to a word atomically; return the value before."""
    return builder.atomic_rmw("add", word(builder, node, index), INT(number), "seq_cst")


def emit_wait(builder, barrier, worker, workers):
    """Write the barrier: a single meeting of up to FAN_IN workers, else a meeting by group and of the groups."""
    less = lambda a, b: builder.icmp_signed("<", a, b)
    parts = lambda count, size: builder.sdiv(builder.sub(builder.add(count, size), INT(1)), size)

    with builder.if_else(less(INT(FAN_IN), workers)) as (many, few):
        with few:
            emit_meeting(builder, barrier, workers)
        with many:
            # Beyond FAN_IN * MOST_GROUPS workers the groups grow: the array has room for MOST_GROUPS nodes.
            fair = parts(workers, INT(MOST_GROUPS))
            size = builder.select(less(fair, INT(FAN_IN)), INT(FAN_IN), fair)
            group = builder.sdiv(worker, size)
            left = builder.sub(workers, builder.mul(group, size))
            members = builder.select(less(left, size), left, size)
            node = word(builder, barrier, builder.mul(builder.add(group, INT(1)), INT(NODE)))
            # The last worker of a group goes to the root, while the rest wait at the group's node for its
            # return.
            all_groups = lambda: emit_meeting(builder, barrier, parts(workers, size))
            emit_meeting(builder, node, members, all_groups)


def emit_meeting(builder, node, members, before_opening=None):
    """Write a meeting of `members` workers at a node; a closed node lets workers through at once.

    before_opening : writes the last worker's actions before the opening
    """
    generation = read(builder, node, GENERATION)
    # A closed node has a negative generation: its workers go through, and take no further step.
    with builder.if_then(builder.icmp_signed(">=", generation, INT(0))):
        # Arrivals are never reset to 0: meeting g, counted from 0, ends with arrival number (g + 1) * members.
        last_of_all = builder.sub(builder.mul(builder.add(generation, INT(1)), members), INT(1))
        is_last = builder.icmp_signed("==", add(builder, node, ARRIVED), last_of_all)
        with builder.if_else(is_last) as (opens, waits):
            with opens:
                if before_opening is not None:
                    before_opening()
                # The generation moves before the sleepers are counted. In the other order a worker could
                # count itself in between, and sleep for ever.
                add(builder, node, GENERATION)
                # Who fell asleep is counted. Who counts after this reading finds another generation, and stays awake.
                with builder.if_then(builder.icmp_signed("!=", read(builder, node, SLEEPERS), INT(0))):
                    emit_wake(builder, node)
            with waits:
                emit_waiting(builder, node, generation)


def emit_waiting(builder, node, generation):
    """Write polls of the node's generation until a change; after SPINS polls each comes after a sleep."""
    before = builder.block
    head, spin, sleep, after = map(builder.append_basic_block, ("head", "spin", "sleep", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    spins = builder.phi(INT)
    same = builder.icmp_signed("==", read(builder, node, GENERATION), generation)
    builder.cbranch(same, spin, after)
    builder.position_at_end(spin)
    more = builder.add(spins, INT(1))
    builder.cbranch(builder.icmp_signed(">", more, INT(SPINS)), sleep, head)
    builder.position_at_end(sleep)
    add(builder, node, SLEEPERS)
    # The system's comparison of the generation is none of our instructions: the fence keeps it behind the
    # count.
    builder.fence("seq_cst")
    emit_sleep(builder, node, generation, builder.sub(more, INT(SPINS)))
    add(builder, node, SLEEPERS, -1)
    builder.branch(head)
    for value, block in ((INT(0), before), (more, spin), (more, sleep)):
        spins.add_incoming(value, block)
    builder.position_at_end(after)


def emit_sleep(builder, node, generation, times):
    """Write a sleep until the node's generation changes, or of some microseconds; times : from 1, in a row"""
    if FUNCTIONS:
        emit_call(builder, FUNCTIONS["sleep"], node, generation)
        return
    shorter = builder.icmp_signed("<", times, INT(MOST_NAPS))
    nap = builder.mul(builder.select(shorter, times, INT(MOST_NAPS)), INT(NAP))
    builder.call(declare(builder.module, "usleep", INT32, [INT32]), [builder.trunc(nap, INT32)])


def emit_wake(builder, node):
    """Write the waking of all sleepers at a node."""
    if FUNCTIONS:
        emit_call(builder, FUNCTIONS["wake"], node)


def emit_call(builder, function, node, generation=None):
    """Write the call of a function of `workers.FUNCTIONS`."""
    (name, arguments), known = function, {WORD: word(builder, node, GENERATION)}
    if generation is not None:
        # In the entry block: memory of an `alloca` in a loop is freed only at the function's end.
        with builder.goto_entry_block():
            seen = builder.alloca(INT)
        builder.store(generation, seen)
        known |= {VALUE: generation, SEEN: seen}
    values = [known[argument] if isinstance(argument, str) else INT(argument) for argument in arguments]
    builder.call(declare(builder.module, name, INT, [value.type for value in values]), values)
