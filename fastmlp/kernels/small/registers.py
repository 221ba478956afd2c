"""A whole chunk in vector registers, for networks of a few dozen parameters and batches of up to 16 rows.

Separate because nothing here reads or writes memory between steps. Each lane holds one row of the batch. Every
parameter is a vector of equal lanes that stays in a register (a phi node of the loop over steps) for the whole
chunk. So the forward pass needs no broadcast. A gradient is a chain over the rows; each row's numbers are first
copied to all lanes, so the result is in every lane. Sums over lanes took as long at 3-4-1 with 4 rows, and half as
long at 5-5-3-2 with 16, but their bits were others.

The spare lanes of a short batch repeat its last row with a factor of 0.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.arrays import RepeatedNumber, VectorNumbers
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import INT32, ITEMSIZE
from fastmlp.kernels.codegen.vectors import Vectors, broadcast, counted, data_pointer, smaller
from fastmlp.kernels.codes import LOSS_CODES
from fastmlp.kernels.elementwise import batched
from fastmlp.kernels.jit.disposable import Intrinsic
from fastmlp.kernels.program.step_numbers import loss_share
from fastmlp.kernels.small.lane_layout import lengths
from fastmlp.kernels.small.lane_numbers import RowRegisters, Slots
from fastmlp.kernels.small.lane_step import LaneStep


def chunk(constants):
    """The intrinsic that runs all steps of a chunk of batches of at most constants.lanes rows.

    (parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses, parameter), where
    totals (steps,) and rates (steps, 2) are float64.
    """
    lanes, count = constants.lanes, constants.parameters
    of_row = constants.n_out // LOSS_CODES.of_key(constants.loss).outputs_per_target

    @Intrinsic
    def run(
        typingctx, parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses, parameter
    ):  # fmt: skip
        dtype = parameters.dtype

        def codegen(context, builder, signature, args):
            v = Vectors(builder, dtype, lanes * ITEMSIZE[dtype])
            flat, x_data, y_data, counting, order_at, starts_at, stops_at, totals_at, rates_at, losses_at = (
                VectorNumbers(builder, array.dtype, data_pointer(context, builder, array, value))
                for array, value in zip(signature.args[:-1], args)
            )
            steps = builder.extract_value(context.make_array(starts)(context, builder, args[5]).shape, 0)
            # A stack slot that is only read and written as a whole: LLVM turns it into a phi, which is a register.
            held = RowRegisters(v, Slots())
            for p in range(count):
                held[p] = Symbol(builder, broadcast(builder, flat[p].value, lanes))
            step, of_loss = LaneStep(v, constants, held), RepeatedNumber(Symbol(builder, args[-1]))
            with counted(builder, Symbol(builder, steps)) as s:
                start, stop = starts_at[s], stops_at[s]
                rows = [order_at[smaller(start + lane, stop - 1)] for lane in range(lanes)]

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

                step.inputs, step.targets = columns(x_data, constants.n_in), columns(y_data, constants.n_out)
                share = loss_share.formula(float(of_row), totals_at[s])
                scales = columns(counting, 1)
                shares = batched.counts(share, scales[0])
                scales[0] = shares.choose(Symbol(builder, v.first(stop - start)), shares, 0.0)
                step.scales = scales
                step.clear()
                # LLVM leaves out x + -0.0: a chain begins with the first row's.
                for one in constants.operations:
                    weights, biases = lengths(one)
                    for bias in range(one.flat + weights, one.flat + weights + biases):
                        step.gradients[bias] = -step.zero
                step.forward(1)
                losses_at[s] = step.loss(1, of_loss)
                rate, bias_rate = (rates_at[s * 2 + i] for i in range(2))
                # Gradients of one layer at a time: those of all took 5 % longer at 5-5-3-2.
                step.backward(1, then=lambda one: step.update(one, [], rate, bias_rate, [], None, None))
            for p in range(count):
                flat[p] = Symbol(builder, builder.extract_element(held[p].value, INT32(0)))
            return context.get_dummy_value()

        arrays = (parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses)
        return types.none(*arrays, types.float64), codegen

    return run
