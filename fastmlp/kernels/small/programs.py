"""Programs of single small networks: by blocks of rows in a workspace, or in vector registers."""

# ruff: noqa: F821  (the templates' names are bound later)

from llvmlite import ir

from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.symbols import INT32, Symbol
from fastmlp.kernels.codegen.vectors import RepeatedNumber, Vectors, broadcast, counted, smaller
from fastmlp.kernels.codegen.views import constants_of, parameters_of, vector
from fastmlp.kernels.codes import LOSS_CODES
from fastmlp.kernels.elementwise.losses import counts
from fastmlp.kernels.program.step_numbers import loss_factor, penalty_factor
from fastmlp.kernels.small import row_stages, stages
from fastmlp.kernels.small.lane_numbers import RowRegisters, Slots
from fastmlp.kernels.small.lane_step import LaneStep
from fastmlp.kernels.small.layouts import plan
from fastmlp.kernels.small.stages import disposable

# --- templates --------------------------------------------------------------------------------------


def train_registers(call, worker, workers):
    """`train_chunk` of a network that stays in registers."""
    parameter = parameters_of(call.objective, 1)[0]
    run(
        call.parameters, call.inputs, call.targets, call.weights, call.order, call.starts, call.stops,
        call.totals, call.rates, call.losses, parameter,
    )  # fmt: skip


def train_blocks(call, worker, workers):
    """`train_chunk` by blocks of rows, on a single thread; the workspace is the private buffer."""
    wide_vectors()
    objective, work = call.objective, vector(call.memory, call.private, call.private_length)
    take_section(work, 0, call.parameters)
    if SECTIONS > 2:
        for k in range(2, SECTIONS):
            take_section(work, k, vector(call.moments, (k - 2) * call.size, call.size))
    take_numbers(work, call.operations)
    constants, parameter = constants_of(call.rules[0, 0]), parameters_of(objective, 1)[0]
    inputs, targets, weights, order = call.inputs, call.targets, call.weights, call.order
    for s in range(call.steps):
        start, stop = call.starts[s], call.stops[s]
        factor = loss_factor(objective.divisor, call.totals[s])
        l2 = objective.l2 * penalty_factor(objective.shared_penalty, call.totals[s])
        value = 0.0
        # The last step has moved the weights: their transposes, read by the backward pass, follow.
        renew(work, 0, 0, 0, 0)
        if BLOCKS:
            clear(work)
        for at in range(start, stop, BLOCK):
            rows = min(BLOCK, stop - at)
            take_rows(work, inputs, targets, weights, order, at, rows, factor)
            to_logits(work, rows, call.key, call.step + s, at - start)
            value = add_losses(work, rows, parameter, value)
            to_gradients(work, rows, call.key, call.step + s, at - start)
        value /= objective.value_divisor
        if PENALISED:
            value += penalties(work, l2)
        call.losses[s] = value
        t = float(call.step + s + 1)
        # Three sections: only weights have the penalty, and biases have a rate of their own.
        update_weights(work, l2, constants, call.rates[s, 0], t)
        if GAINS:
            update_gains(work, l2, constants, call.rates[s, 0], t)
        update_biases(work, l2, constants, call.rates[s, 1], t)
    give_section(work, 0, call.parameters)
    if SECTIONS > 2:
        for k in range(2, SECTIONS):
            give_section(work, k, vector(call.moments, (k - 2) * call.size, call.size))


# --- binding ----------------------------------------------------------------------------------------


def block_names(constants):
    """Return the global names of `train_blocks`: its stages and constants."""
    where, operations, rule = plan(constants), constants.operations, constants.rule
    layers, last = where.layers, len(operations) - 1
    to_logits, to_gradients = [], []
    for number, layer in enumerate(layers):
        one = layer.step
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
            forward = [row_stages.forward(layer)]
            back = [row_stages.gradient(layer, where, constants.blocks), row_stages.backward(layer)]
        to_logits += [*forward, row_stages.drop(layer, number, layer.outputs, layer.dropped)]
        to_gradients[:0] = [row_stages.drop(layer, number, layer.deltas, layer.deltas), *back]
    products = [layer for layer in layers if layer.step.kind == "dense"]
    return {
        "renew": stages.sequence([stages.refresh(layer, where) for layer in layers]),
        "take_rows": stages.gather(where),
        "to_logits": stages.sequence(to_logits),
        "add_losses": stages.loss_of(constants, where),
        "to_gradients": stages.sequence(to_gradients),
        "penalties": stages.penalties(products),
        "update_weights": stages.update(rule, 0, where.weights, where, constants.l2),
        "update_gains": stages.update(rule, where.weights, where.gains - where.weights, where, False),
        "update_biases": stages.update(rule, where.gains, where.section - where.gains, where, False),
        "GAINS": where.gains > where.weights,
        "clear": stages.cleared(where),
        "take_numbers": row_stages.take_numbers(layers),
        "take_section": stages.copies(where, inwards=True),
        "give_section": stages.copies(where, inwards=False),
        "SECTIONS": where.sections,
        "PENALISED": constants.l2,
        "BLOCK": constants.rows,
        "BLOCKS": constants.blocks,
    }


# --- in registers -----------------------------------------------------------------------------------


def register_names(constants):
    """Return the global names of `train_registers`: the steps of a chunk, of at most constants.lanes rows each.

    Each lane holds one row of the batch. Every parameter is a vector of equal lanes that stays in a register (a phi node of
    the loop over steps) for the whole chunk, so the forward pass needs no broadcast. A gradient is a chain over the rows,
    whose numbers are first copied to all lanes. Spare lanes of a short batch repeat its last row with a factor of 0.
    """
    lanes, count = constants.lanes, constants.parameters
    of_row = constants.n_out // LOSS_CODES.of_key(constants.loss).outputs_per_target

    @disposable
    def run(
        parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses, parameter
    ):  # fmt: skip
        builder = parameters.builder
        v = Vectors(builder, parameters.dtype, lanes * parameters.itemsize)
        # A stack slot that is only read and written as a whole: LLVM turns it into a phi, which is a register.
        held = RowRegisters(v, Slots())
        for p in range(count):
            held[p] = Symbol(builder, broadcast(builder, parameters[p].value, lanes))
        step, of_loss = LaneStep(v, constants, held), RepeatedNumber(parameter)
        with counted(builder, starts.units) as s:
            start, stop = starts[s], stops[s]
            rows = [order[smaller(start + lane, stop - 1)] for lane in range(lanes)]

            def columns(numbers, width):
                """Return the numbers of all rows, a vector for each column."""
                found = RowRegisters(v, {})
                for i in range(width):
                    vector = ir.Constant(v.type, ir.Undefined)
                    # Rows lie apart in memory: their numbers are inserted one by one, once a step.
                    for lane, row in enumerate(rows):
                        number = numbers[row * width + i].value
                        vector = builder.insert_element(vector, number, INT32(lane))
                    found[i] = Symbol(builder, vector)
                return found

            step.inputs, step.targets = columns(inputs, constants.n_in), columns(targets, constants.n_out)
            factor = loss_factor.formula(float(of_row), totals[s])
            scales = columns(weights, 1)
            factors = counts(factor, scales[0])
            scales[0] = factors.choose(Symbol(builder, v.first(stop - start)), factors, 0.0)
            step.scales = scales
            step.clear()
            # LLVM leaves out x + -0.0: a chain begins with the first row's.
            for one in constants.operations:
                first = one.flat + one.lengths[0]
                for bias in range(first, first + one.lengths[1]):
                    step.gradients[bias] = -step.zero
            step.forward(1)
            losses[s] = step.loss(1, of_loss)
            rate, bias_rate = (rates[s * 2 + i] for i in range(2))
            # Gradients of one layer at a time: those of all took 5 % longer at 5-5-3-2.
            step.backward(1, then=lambda one: step.update(one, [], rate, bias_rate, [], None, None))
        for p in range(count):
            parameters[p] = Symbol(builder, builder.extract_element(held[p].value, INT32(0)))

    return {"run": run}
