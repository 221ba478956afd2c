"""Programs of single small networks: by blocks of rows in a workspace, or in vector registers."""

from functools import partial
from typing import TYPE_CHECKING

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.symbols import FLOATS, INT32, Symbol
from fastmlp.kernels.codegen.vectors import RepeatedNumber, Vectors, broadcast, counted, of_arrays, smaller
from fastmlp.kernels.codegen.views import constants_of, vector
from fastmlp.kernels.codes import LOSS_CODES
from fastmlp.kernels.elementwise.by_vectors import constants_at, scramble
from fastmlp.kernels.elementwise.losses import counts
from fastmlp.kernels.jit.emission import Intrinsic
from fastmlp.kernels.program.step_numbers import loss_factor, penalty_factor
from fastmlp.kernels.small.lane_numbers import RowRegisters, Slots
from fastmlp.kernels.small.lane_step import LaneStep
from fastmlp.kernels.small.padded_step import PaddedStep

if TYPE_CHECKING:

    def run(*arguments):
        """Take the steps of a chunk: the function of `block_names` or `register_names`."""


disposable = partial(of_arrays, make=Intrinsic)
"""`of_arrays` for intrinsics that are deleted with their program."""

# --- by blocks of rows ------------------------------------------------------------------------------


def train_blocks(call, worker, workers):
    """`train_chunk` by blocks of rows, on a single thread; the workspace is the private buffer."""
    wide_vectors()
    objective, head = call.objective, call.heads[0]
    run(
        vector(call.memory, call.private, call.private_length), call.operations, call.parameters, call.moments,
        (call.inputs, call.targets, call.weights, call.order), (call.starts, call.stops, call.totals, call.rates),
        call.losses, (call.key, call.step), constants_of(call.rules[0, 0]), call.head_numbers[0, 0],
        (head.divisor, objective.value_divisor, objective.shared_penalty, objective.l2),
    )  # fmt: skip


def block_names(constants):
    """Return the global names of `train_blocks`: the steps of a chunk."""

    @disposable
    def run(
        work, operations, parameters, moments, data, steps, losses, dropout, of_rule, parameter, objective
    ):  # fmt: skip
        (starts, stops, totals, rates), (key, before) = steps, dropout
        divisor, value_divisor, shares_penalty, l2_of_all = objective
        builder, double = work.builder, FLOATS[types.float64]
        step, of_rule, count = PaddedStep(work, constants), constants_at(of_rule), constants.parameters
        flat = {0: parameters.data}
        for k in range(step.plan.sections - 2):
            flat[2 + k] = step.v.shift(moments.data, k * count * step.itemsize)
        short = lambda number: Symbol(builder, builder.trunc(number.value, INT32))
        step.take_numbers(operations)
        for section, address in flat.items():
            step.copy_section(section, address, inwards=True)
        with counted(builder, starts.units) as s:
            start, rows_of_step, total = starts[s], stops[s] - starts[s], totals[s]
            factor, l2 = loss_factor.formula(divisor, total), None
            step.word = scramble(short(key) ^ short(before + s))
            # The last step has moved the weights: their transposes, read by the backward pass, follow.
            step.refresh()
            if constants.blocks:
                step.clear(step.plan.section, step.plan.section, step.v)
            value = Running(Symbol(builder, ir.Constant(double, 0.0)))
            with counted(builder, rows_of_step, constants.rows) as at:
                rows, step.first = smaller(rows_of_step - at, constants.rows), short(at)
                step.gather(*data, start + at, rows, factor)
                step.forward(rows)
                value.value = step.loss(rows, parameter, value.value)
                step.backward(rows)
            value_of_step = value.value / value_divisor
            if constants.l2:
                l2 = l2_of_all * penalty_factor.formula(shares_penalty, total)
                value_of_step = value_of_step + step.penalties(parameters.data, l2)
            losses[s] = value_of_step
            t = Symbol(builder, builder.sitofp((before + s + 1).value, double))
            step.update([rates[s * 2 + i] for i in range(2)], of_rule, t, l2)
        for section, address in flat.items():
            step.copy_section(section, address, inwards=False)

    return {"run": run}


# --- in registers -----------------------------------------------------------------------------------


def train_registers(call, worker, workers):
    """`train_chunk` of a network that stays in registers."""
    run(
        call.parameters, call.inputs, call.targets, call.weights, call.order, call.starts, call.stops,
        call.totals, call.rates, call.losses, call.head_numbers[0, 0],
    )  # fmt: skip


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
                by_column = RowRegisters(v, {})
                for i in range(width):
                    vector = ir.Constant(v.type, ir.Undefined)
                    # Rows lie apart in memory: their numbers are inserted one by one, once a step.
                    for lane, row in enumerate(rows):
                        number = numbers[row * width + i].value
                        vector = builder.insert_element(vector, number, INT32(lane))
                    by_column[i] = Symbol(builder, vector)
                return by_column

            step.inputs, step.targets = columns(inputs, constants.n_in), columns(targets, constants.n_out)
            factor = loss_factor.formula(float(of_row), totals[s])
            scales = columns(weights, 1)
            factors = counts(factor, scales[0])
            scales[0] = factors.choose(Symbol(builder, v.first(stop - start)), factors, 0.0)
            step.scales = scales
            step.clear()
            # LLVM leaves out x + -0.0: a chain begins with the first row's.
            for op in constants.operations:
                first = op.flat + op.lengths[0]
                for bias in range(first, first + op.lengths[1]):
                    step.gradients[bias] = -step.zero
            step.forward(1)
            losses[s] = step.loss(1, of_loss)
            rate, bias_rate = (rates[s * 2 + i] for i in range(2))
            # Gradients of one layer at a time: those of all took 5 % longer at 5-5-3-2.
            step.backward(1, then=lambda op: step.update(op, [], rate, bias_rate, [], None, None))
        for p in range(count):
            parameters[p] = Symbol(builder, builder.extract_element(held[p].value, INT32(0)))

    return {"run": run}
