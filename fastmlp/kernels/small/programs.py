"""The programs of single small networks: templates whose global names are bound to stages of known sizes.

Separate from `fastmlp.kernels.small.eligible`, which loads no compiler.
"""

# ruff: noqa: F821  (the templates' names are bound later)
# mypy: ignore-errors

from __future__ import annotations

from fastmlp.kernels.codegen.scalars import accumulate, wide_vectors
from fastmlp.kernels.codegen.views import constants_of, parameters_of, vector
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.kernels.jit.disposable import stage
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.records import APART
from fastmlp.kernels.program.templates import loss_share, penalty_share
from fastmlp.kernels.small import registers, stages
from fastmlp.kernels.small.copies import copy_in, copy_out
from fastmlp.kernels.small.padded import plan, table

# --- templates -----------------------------------------------------------------------------------


def train_registers(call, worker, workers):
    """As the template `train_chunk`."""
    parameter = parameters_of(call.objective, 1)[0]
    run(
        call.parameters, call.inputs, call.targets, call.weights, call.order, call.starts, call.stops,
        call.totals, call.rates, call.losses, parameter,
    )  # fmt: skip


def train_blocks(call, worker, workers):
    """As the template `train_chunk`; a worker's workspace is its row of the private buffer."""
    wide_vectors()
    objective, memory, moments = call.objective, call.memory, call.moments
    shared = vector(memory, call.private, call.private_length)
    own = vector(memory, call.private + worker * call.private_length, call.private_length)
    for i in range(SHARED):
        own[i] = 0
    copy_in(own, 0, call.parameters, LAYOUT)
    copy_in(own, FIRST, moments[0], LAYOUT)
    copy_in(own, SECOND, moments[1], LAYOUT)
    constants, parameter = constants_of(call.rules[0]), parameters_of(objective, 1)[0]
    inputs, targets, weights, order, sums = call.inputs, call.targets, call.weights, call.order, call.sums
    for s in range(call.steps):
        start, stop = call.starts[s], call.stops[s]
        share = loss_share(objective.divisor, call.totals[s])
        l2 = objective.l2 * penalty_share(objective.shared_penalty, call.totals[s])
        value = 0.0
        renew(own, 0)
        parity, low, high = s % 2, 0, 1
        turn = SHARED + parity * GROUPS * SECTION
        if GROUPED:
            low, high = GROUPS * worker // workers, GROUPS * (worker + 1) // workers
        blocks = (stop - start + BLOCK - 1) // BLOCK
        for group in range(low, high):
            first = start + blocks * group // GROUPS * BLOCK
            last = min(start + blocks * (group + 1) // GROUPS * BLOCK, stop)
            loss = 0.0
            if BLOCKS:
                clear(own, 0)
            for at in range(first, last, BLOCK):
                rows = min(BLOCK, last - at)
                take_rows(own, inputs, targets, weights, order, at, rows, share)
                to_logits(own, rows)
                loss = add_losses(own, rows, parameter, loss)
                to_gradients(own, rows)
            if GROUPED:
                hand_over(own, shared, turn + group * SECTION)
                sums[(parity * GROUPS + group) * APART // 8] = loss
            else:
                value = loss
        if GROUPED:
            # One barrier a step is enough: even and odd steps write the groups' gradients to different places.
            wait(call.barrier, worker, workers)
            add_groups(own, shared, turn)
            for group in range(GROUPS):
                value += sums[(parity * GROUPS + group) * APART // 8]
        value /= objective.value_divisor
        if PENALISED:
            value += 0.5 * l2 * squares(own)
        if worker == 0:
            call.losses[s] = value
        t = float(call.step + s + 1)
        update_weights(own, l2, constants, call.rates[s, 0], t)
        update_biases(own, l2, constants, call.rates[s, 1], t)
    if worker == 0:
        copy_out(own, 0, call.parameters, LAYOUT)
        if MOMENTS > 0:
            copy_out(own, FIRST, moments[0], LAYOUT)
        if MOMENTS > 1:
            copy_out(own, SECOND, moments[1], LAYOUT)


# --- binding -------------------------------------------------------------------------------------


def squares_of(count):
    """The stage that sums the squares of the weights; padding adds 0."""

    @stage
    def squares(work) -> float:
        wide_vectors()
        total = type(work[0])(0)
        for i in range(count):
            total = accumulate(total, work[i] * work[i])
        return total

    return squares


def group_stages(where, groups):
    """The stages that clear the gradients, copy a group's to the shared place, and sum all groups' in their order."""
    g_at, section = where.gradients, where.section

    @stage
    def clear(work, rows):
        for i in range(section):
            work[g_at + i] = 0

    @stage
    def hand_over(own, shared, to):
        for i in range(section):
            shared[to + i] = own[g_at + i]

    @stage
    def add_groups(own, shared, turn):
        for i in range(section):
            own[g_at + i] = shared[turn + i]
        for group in range(1, groups):
            for i in range(section):
                own[g_at + i] += shared[turn + group * section + i]

    return {"clear": clear, "hand_over": hand_over, "add_groups": add_groups}


def block_names(constants):
    """Return the global names of `train_blocks`: its stages and constants."""
    where = plan(constants)
    layers = where.layers
    names = [*constants.hidden, "identity"]
    to_logits = [
        part
        for layer, name in zip(layers, names, strict=True)
        for part in (stages.forward(layer, name, where), stages.activate(layer, name))
    ]
    to_gradients = [
        part
        for layer, name in zip(reversed(layers), ("identity", *constants.hidden)[::-1], strict=True)
        for part in (
            stages.gradient(layer, where, constants.blocks),
            stages.backward(layer, name, where),
            stages.activate_gradient(layer, name),
        )
    ]
    return {
        "renew": stages.sequence([stages.refresh(layer, where) for layer in layers]),
        "take_rows": stages.gather(where),
        "to_logits": stages.sequence(to_logits),
        "add_losses": stages.loss_of(constants, where),
        "to_gradients": stages.sequence(to_gradients),
        "squares": squares_of(where.weights),
        "update_weights": stages.update(constants.rule, 0, where.weights, where, constants.l2),
        "update_biases": stages.update(
            constants.rule, where.weights, where.section - where.weights, where, False
        ),
        **group_stages(where, constants.groups),
        "LAYOUT": table(layers),
        "SHARED": where.shared,
        "SECTION": where.section,
        "FIRST": where.first,
        "SECOND": where.second,
        "MOMENTS": RULE_CODES.of_key(constants.rule).moments,
        "PENALISED": constants.l2,
        "BLOCK": constants.rows,
        "BLOCKS": constants.blocks,
        "GROUPED": constants.groups > 1,
        "GROUPS": constants.groups,
    }


def register_names(constants):
    """Return the global names of `train_registers`."""
    return {"run": registers.chunk(constants)}
