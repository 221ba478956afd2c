"""A whole chunk in vector registers, for networks of a few dozen parameters and batches of up to 16 rows.

Separate because nothing here reads or writes memory between steps. Each lane holds one row of the batch. Every
parameter is a vector of equal lanes that stays in a register (a phi node of the loop over steps) for the whole
chunk. So the forward pass needs no broadcast. A gradient is a chain over the rows; each row's numbers are first
copied to all lanes, so the result is in every lane. Sums over lanes took as long at 3-4-1 with 4 rows, and half as
long at 5-5-3-2 with 16, but their bits were others.

The spare lanes of a short batch repeat its last row with a factor of 0.
"""

from llvmlite import ir

from fastmlp.kernels.codegen.symbols import INT32, Symbol
from fastmlp.kernels.codegen.vectors import RepeatedNumber, Vectors, broadcast, counted, smaller
from fastmlp.kernels.codes import LOSS_CODES
from fastmlp.kernels.elementwise.losses import counts
from fastmlp.kernels.program.step_numbers import loss_share
from fastmlp.kernels.small.lane_layout import lengths
from fastmlp.kernels.small.lane_numbers import RowRegisters, Slots
from fastmlp.kernels.small.lane_step import LaneStep
from fastmlp.kernels.small.stages import disposable


def chunk(constants):
    """The intrinsic that runs all steps of a chunk of batches of at most constants.lanes rows.

    (parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses, parameter), where
    totals (steps,) and rates (steps, 2) are float64.
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
                """The numbers of all rows, a vector for each column."""
                found = RowRegisters(v, {})
                for i in range(width):
                    vector = ir.Constant(v.type, ir.Undefined)
                    for lane, row in enumerate(rows):
                        number = numbers[row * width + i].value
                        vector = builder.insert_element(vector, number, INT32(lane))
                    found[i] = Symbol(builder, vector)
                return found

            step.inputs, step.targets = columns(inputs, constants.n_in), columns(targets, constants.n_out)
            share = loss_share.formula(float(of_row), totals[s])
            scales = columns(weights, 1)
            shares = counts(share, scales[0])
            scales[0] = shares.choose(Symbol(builder, v.first(stop - start)), shares, 0.0)
            step.scales = scales
            step.clear()
            # LLVM leaves out x + -0.0: a chain begins with the first row's.
            for one in constants.operations:
                first = one.flat + lengths(one)[0]
                for bias in range(first, first + lengths(one)[1]):
                    step.gradients[bias] = -step.zero
            step.forward(1)
            losses[s] = step.loss(1, of_loss)
            rate, bias_rate = (rates[s * 2 + i] for i in range(2))
            # Gradients of one layer at a time: those of all took 5 % longer at 5-5-3-2.
            step.backward(1, then=lambda one: step.update(one, [], rate, bias_rate, [], None, None))
        for p in range(count):
            parameters[p] = Symbol(builder, builder.extract_element(held[p].value, INT32(0)))

    return run
