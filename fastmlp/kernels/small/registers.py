"""A whole chunk in vector registers, for networks of a few dozen parameters and batches of up to 16 rows.

Separate because nothing here reads or writes memory between steps. Each lane holds one row of the batch. Every
parameter is a vector of equal lanes that stays in a register (a phi node of the loop over steps) for the whole
chunk. So the forward pass needs no broadcast. A gradient is a chain over the rows; each row's numbers are first
copied to all lanes, so the result is in every lane. Sums over lanes took as long at 3-4-1 with 4 rows, and half as
long at 5-5-3-2 with 16, but their bits were others.

The spare lanes of a short batch repeat its last row with a factor of 0.
"""

from itertools import pairwise

from llvmlite import ir
from numba import types

from fastmlp.formulas.numbers import fma, where
from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import BIT, INT, INT32, ITEMSIZE
from fastmlp.kernels.codegen.vectors import Vectors, broadcast, counted, data_pointer, shuffle, smaller
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES
from fastmlp.kernels.elementwise import abreast
from fastmlp.kernels.elementwise.row_losses import Numbers, Running, Same
from fastmlp.kernels.jit.disposable import Intrinsic
from fastmlp.kernels.program.arithmetic import descended


class _Step:
    """Writes one step on lists of vectors, `Symbol`s."""

    def __init__(self, constants):
        self.hidden = [ACTIVATION_CODES.of_key(key) for key in constants.hidden]
        self.output, self.loss_entry = (
            ACTIVATION_CODES.of_key(constants.output),
            LOSS_CODES.of_key(constants.loss),
        )

    def forward(self, layers, x):
        """The activations of all layers; the last are logits. layers : [(weights [i][j], biases [j])]"""
        activations = [x]
        for k, (weights, biases) in enumerate(layers):
            logits = []
            for j, total in enumerate(biases):
                for i, a in enumerate(activations[-1]):
                    total = fma(a, weights[i][j], total)
                logits.append(total)
            last = k == len(layers) - 1
            activations.append(logits if last else [self.hidden[k].formula(z) for z in logits])
        return activations

    def loss(self, v, logits, targets, shares, parameter, clips):
        """The loss, float64, and the deltas."""
        outputs = abreast.Held(v, [self.output.formula(z) for z in logits])
        sums = abreast.Held(v, [shares, None, None])
        code = Symbol(v.builder, INT(ACTIVATION_CODES.code_of_key(self.output.key)))
        abreast.emit_element_losses(
            self.loss_entry, code, Symbol(v.builder, BIT(clips)), Same(parameter), abreast.Held(v, logits),
            targets, outputs, sums,
        )  # fmt: skip
        abreast.blank.emit(outputs, sums)
        return Symbol(v.builder, abreast.emit_total(sums)), outputs

    def backward(self, layers, activations, deltas, rate, bias_rate):
        """The layers after the step, in the order of `fastmlp.kernels.program.arithmetic`."""
        updated = []
        for k in reversed(range(len(layers))):
            weights, biases = layers[k]
            before, by_row = activations[k], [_rows_of(delta) for delta in deltas]
            rows = range(len(by_row[0]))
            zero = deltas[0].number(0.0)

            def weight_after(weight, a, delta, rows=rows, zero=zero):
                total = zero
                for row in rows:
                    total = fma(a[row], delta[row], total)
                return descended(weight, rate, total)

            def bias_after(bias, delta):
                total = delta[0]
                for one in delta[1:]:
                    total = total + one
                return descended(bias, bias_rate, total)

            inputs = [_rows_of(a) for a in before]
            new_weights = [
                [weight_after(w, a, delta) for w, delta in zip(row, by_row)]
                for a, row in zip(inputs, weights)
            ]
            updated.append((new_weights, [bias_after(*pair) for pair in zip(biases, by_row)]))
            if k:
                passed = []
                for a, row in zip(before, weights):
                    total = zero
                    for d, w in zip(deltas, row):
                        total = fma(d, w, total)
                    passed.append(backward_of(self.hidden[k - 1], total, None, a))
                deltas = passed
        return updated[::-1]


def _rows_of(vector):
    """Each lane of a vector, in every lane."""
    build, value, lanes = vector.builder, vector.value, vector.lanes
    return [Symbol(build, shuffle(build, value, value, [lane] * lanes)) for lane in range(lanes)]


def chunk(constants):
    """The intrinsic that runs all steps of a chunk of batches of at most constants.rows rows.

    (parameters, inputs, targets, weights, order, starts, stops, shares, rates, losses, parameter), where
    shares (steps,) and rates (steps, 2) are float64.
    """
    sizes, lanes = constants.sizes, constants.rows
    shapes = list(pairwise(sizes))

    @Intrinsic
    def run(
        typingctx, parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses, parameter
    ):  # fmt: skip
        dtype = parameters.dtype

        def codegen(context, builder, signature, args):
            v = Vectors(builder, dtype, lanes * ITEMSIZE[dtype])
            step = _Step(constants)
            flat, x_data, y_data, counting, order_at, starts_at, stops_at, totals_at, rates_at, losses_at = (
                Numbers(builder, array.dtype, data_pointer(context, builder, array, value))
                for array, value in zip(signature.args[:-1], args)
            )
            steps = builder.extract_value(context.make_array(starts)(context, builder, args[5]).shape, 0)
            # A stack slot that is only read and written as a whole: LLVM turns it into a phi, which is a register.
            slots = [
                Running(Symbol(builder, broadcast(builder, flat[p].value, lanes)))
                for p in range(sum((n_in + 1) * n_out for n_in, n_out in shapes))
            ]
            with counted(builder, Symbol(builder, steps)) as s:
                start, stop = starts_at[s], stops_at[s]
                rows = [order_at[smaller(start + lane, stop - 1)] for lane in range(lanes)]

                def column(numbers, width, i):
                    """One number of each row."""
                    vector = ir.Constant(v.type, ir.Undefined)
                    for lane, row in enumerate(rows):
                        number = numbers[row * width + i].value
                        vector = builder.insert_element(vector, number, INT32(lane))
                    return Symbol(builder, vector)

                x = [column(x_data, sizes[0], i) for i in range(sizes[0])]
                y = [column(y_data, sizes[-1], i) for i in range(sizes[-1])]
                total = totals_at[s] * float(sizes[-1])
                shares = abreast.counts(where(total > 0.0, 1.0 / total, 0.0), column(counting, 1, 0))
                shares = shares.choose(Symbol(builder, v.first(stop - start)), shares, 0.0)
                layers, p = [], 0
                values = [slot.value for slot in slots]
                for n_in, n_out in shapes:
                    matrix = [values[p + i * n_out : p + (i + 1) * n_out] for i in range(n_in + 1)]
                    layers.append((matrix[:-1], matrix[-1]))
                    p += (n_in + 1) * n_out
                activations = step.forward(layers, x)
                parameter = Symbol(builder, args[-1])
                losses_at[s], deltas = step.loss(v, activations[-1], y, shares, parameter, constants.clips)
                rate, bias_rate = (rates_at[s * 2 + i] for i in range(2))
                updated = step.backward(layers, activations, deltas, rate, bias_rate)
                fresh = [w for weights, biases in updated for row in (*weights, biases) for w in row]
                for slot, value in zip(slots, fresh):
                    slot.value = value
            for p, slot in enumerate(slots):
                flat[p] = Symbol(builder, builder.extract_element(slot.value.value, INT32(0)))
            return context.get_dummy_value()

        arrays = (parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses)
        return types.none(*arrays, types.float64), codegen

    return run
