"""The programs of single small networks: templates whose global names are bound to stages of known sizes.

Separate from `fastmlp.kernels.small.eligible`, which loads no compiler.
"""

# ruff: noqa: F821  (the templates' names are bound later)

from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.views import constants_of, parameters_of, vector
from fastmlp.kernels.program.step_numbers import loss_share, penalty_share
from fastmlp.kernels.small import registers, row_stages, stages
from fastmlp.kernels.small.padded import plan

# --- templates -----------------------------------------------------------------------------------


def train_registers(call, worker, workers):
    """`train_chunk` of a network that stays in registers."""
    parameter = parameters_of(call.objective, 1)[0]
    run(
        call.parameters, call.inputs, call.targets, call.weights, call.order, call.starts, call.stops,
        call.totals, call.rates, call.losses, parameter,
    )  # fmt: skip


def train_blocks(call, worker, workers):
    """`train_chunk` by blocks of rows, on one thread; the workspace is the private buffer."""
    wide_vectors()
    objective, own = call.objective, vector(call.memory, call.private, call.private_length)
    take_section(own, 0, call.parameters)
    if SECTIONS > 2:
        for k in range(2, SECTIONS):
            take_section(own, k, vector(call.moments, (k - 2) * call.size, call.size))
    take_numbers(own, call.operations)
    constants, parameter = constants_of(call.rules[0, 0]), parameters_of(objective, 1)[0]
    inputs, targets, weights, order = call.inputs, call.targets, call.weights, call.order
    for s in range(call.steps):
        start, stop = call.starts[s], call.stops[s]
        share = loss_share(objective.divisor, call.totals[s])
        l2 = objective.l2 * penalty_share(objective.shared_penalty, call.totals[s])
        value = 0.0
        renew(own, 0, 0, 0, 0)
        if BLOCKS:
            clear(own)
        for at in range(start, stop, BLOCK):
            rows = min(BLOCK, stop - at)
            take_rows(own, inputs, targets, weights, order, at, rows, share)
            to_logits(own, rows, call.key, call.step + s, at - start)
            value = add_losses(own, rows, parameter, value)
            to_gradients(own, rows, call.key, call.step + s, at - start)
        value /= objective.value_divisor
        if PENALISED:
            value += penalties(own, l2)
        call.losses[s] = value
        t = float(call.step + s + 1)
        update_weights(own, l2, constants, call.rates[s, 0], t)
        if GAINS:
            update_gains(own, l2, constants, call.rates[s, 0], t)
        update_biases(own, l2, constants, call.rates[s, 1], t)
    give_section(own, 0, call.parameters)
    if SECTIONS > 2:
        for k in range(2, SECTIONS):
            give_section(own, k, vector(call.moments, (k - 2) * call.size, call.size))


# --- binding -------------------------------------------------------------------------------------


def block_names(constants):
    """Return the global names of `train_blocks`: its stages and constants."""
    where, operations = plan(constants), constants.operations
    layers, last = where.layers, len(operations) - 1
    to_logits, to_gradients = [], []
    for number, (one, layer) in enumerate(zip(operations, layers, strict=True)):
        below = operations[one.sources[0]].activation if one.sources[0] >= 0 else "identity"
        if one.kind == "dense":
            activation = "identity" if number == last else one.activation
            forward = [stages.forward(layer, activation, where), stages.activate(layer, activation)]
            back = [
                stages.activate_gradient(layer, activation),
                stages.gradient(layer, where, constants.blocks),
                stages.backward(layer, below, where),
            ]
        else:
            forward = [row_stages.forward(one, layer)]
            back = [row_stages.gradient(one, layer, where, constants.blocks), row_stages.backward(one, layer)]
        dropped = row_stages.drop(one, number, layer.outputs, layer.dropped, layer.out_stride)
        to_logits += [*forward, dropped]
        undropped = row_stages.drop(one, number, layer.deltas, layer.deltas, layer.out_stride)
        to_gradients[:0] = [undropped, *back]
    products = [layer for one, layer in zip(operations, layers, strict=True) if one.kind == "dense"]
    return {
        "renew": stages.sequence([stages.refresh(layer, where) for layer in layers]),
        "take_rows": stages.gather(where),
        "to_logits": stages.sequence(to_logits),
        "add_losses": stages.loss_of(constants, where),
        "to_gradients": stages.sequence(to_gradients),
        "penalties": stages.penalties(products),
        "update_weights": stages.update(constants.rule, 0, where.weights, where, constants.l2),
        "update_gains": stages.update(
            constants.rule, where.weights, where.gains - where.weights, where, False
        ),
        "update_biases": stages.update(
            constants.rule, where.gains, where.section - where.gains, where, False
        ),
        "GAINS": where.gains > where.weights,
        "clear": stages.cleared(where),
        "take_numbers": row_stages.take_numbers(operations, layers),
        "take_section": stages.copies(where, inwards=True),
        "give_section": stages.copies(where, inwards=False),
        "SECTIONS": where.sections,
        "PENALISED": constants.l2,
        "BLOCK": constants.rows,
        "BLOCKS": constants.blocks,
    }


def register_names(constants):
    """Return the global names of `train_registers`."""
    return {"run": registers.chunk(constants)}
