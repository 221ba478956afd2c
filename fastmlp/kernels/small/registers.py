"""A whole chunk in vector registers, for networks of a few dozen parameters and batches of up to 16 rows.

Separate because nothing here touches memory between steps. One lane is one row of the batch; every
parameter is a vector of equal lanes that lives in a register (a phi node of the step loop) from the
first step of a chunk to the last, so the forward pass needs no broadcast and a gradient is a sum
over lanes that leaves its result in every lane. A step is then bound by the latency of one pass
through the network, most of it the sigmoid: 3-4-1 has about 170 instructions in a step.

Spare lanes of a short batch repeat its last row with a share of 0.
"""

from itertools import pairwise

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import INT, INT32, broadcast, sum_lanes
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES
from fastmlp.kernels.jit.disposable import Intrinsic
from fastmlp.kernels.small.lanes import Machine


class _Step:
    """Emits one step on lists of vectors."""

    def __init__(self, machine, constants, lanes):
        self.machine, self.builder, self.lanes = machine, machine.builder, lanes
        self.hidden = [ACTIVATION_CODES.of_key(key) for key in constants.hidden]
        self.output, self.loss_entry = (
            ACTIVATION_CODES.of_key(constants.output),
            LOSS_CODES.of_key(constants.loss),
        )

    def constant(self, value):
        return self.machine.constant(value, self.lanes)

    def call(self, formula, *vectors):
        """What a formula of one result gives."""
        return formula(*(Symbol(self.builder, vector) for vector in vectors)).value

    def forward(self, layers, x):
        """All layers' activations, the last being logits. layers : [(weights [i][j], biases [j])]"""
        activations = [x]
        for k, (weights, biases) in enumerate(layers):
            logits = []
            for j, total in enumerate(biases):
                for i, a in enumerate(activations[-1]):
                    total = self.machine.multiply_add(a, weights[i][j], total)
                logits.append(total)
            last = k == len(layers) - 1
            activations.append(logits if last else [self.call(self.hidden[k].formula, z) for z in logits])
        return activations

    def loss(self, logits, targets, share, parameter):
        """The loss summed over outputs, lane by lane, and the deltas."""
        builder, total, deltas, entry = self.builder, self.constant(0), [], self.loss_entry
        none = builder.fcmp_ordered("==", share, self.constant(0))
        for logit, target in zip(logits, targets):
            z, y = Symbol(builder, logit), Symbol(builder, target)
            a = self.output.formula(z)
            term, slope = entry.element(z, a, y, Symbol(builder, parameter))
            slope = slope if entry.by_logit else backward_of(self.output, slope, z, a)
            delta = builder.fmul(slope.value, share)
            # 0 * inf must not arise: a row without weight contributes exactly nothing.
            deltas.append(builder.select(none, self.constant(0), delta))
            total = builder.select(none, total, self.machine.multiply_add(term.value, share, total))
        return total, deltas

    def backward(self, layers, activations, deltas, rate, bias_rate):
        """The layers after the step."""
        builder, updated = self.builder, []
        less = lambda p, change: builder.fsub(p, sum_lanes(builder, change))
        for k in reversed(range(len(layers))):
            weights, biases = layers[k]
            before = activations[k]
            steps = [builder.fmul(d, rate) for d in deltas]
            new_weights = [
                [less(w, builder.fmul(a, s)) for w, s in zip(row, steps)] for a, row in zip(before, weights)
            ]
            new_biases = [less(b, builder.fmul(d, bias_rate)) for b, d in zip(biases, deltas)]
            updated.append((new_weights, new_biases))
            if k:
                passed = []
                for a, row in zip(before, weights):
                    total = builder.fmul(deltas[0], row[0])
                    for d, w in zip(deltas[1:], row[1:]):
                        total = self.machine.multiply_add(d, w, total)
                    passed.append(
                        backward_of(
                            self.hidden[k - 1], Symbol(builder, total), None, Symbol(builder, a)
                        ).value
                    )
                deltas = passed
        return updated[::-1]


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
            element, double = context.get_data_type(dtype), ir.DoubleType()
            data = [
                cgutils.create_struct_proxy(t)(context, builder, a) for t, a in zip(signature.args[:-1], args)
            ]
            (
                flat,
                x_data,
                y_data,
                weight_data,
                order_at,
                starts_at,
                stops_at,
                totals_at,
                rates_at,
                losses_at,
            ) = (d.data for d in data)

            machine = Machine(builder, None, element)
            emitter = _Step(machine, constants, lanes)
            spread = lambda s: broadcast(builder, s, lanes)
            read = lambda pointer, i: builder.load(builder.gep(pointer, [i]))
            narrowed = lambda s: s if element == double else builder.fptrunc(s, element)
            widened = lambda s: s if element == double else builder.fpext(s, double)
            vector = ir.VectorType(element, lanes)

            slots = []
            for p in range(sum((a + 1) * b for a, b in shapes)):
                # A stack slot only ever read and written whole: LLVM makes it a phi, that is, a register.
                slots.append(cgutils.alloca_once(builder, vector))
                builder.store(spread(read(flat, INT(p))), slots[p])
            numbers = ir.Constant(ir.VectorType(INT, lanes), [INT(i) for i in range(lanes)])
            with cgutils.for_range(builder, builder.extract_value(data[5].shape, 0), intp=INT) as loop:
                s = loop.index
                start, stop = read(starts_at, s), read(stops_at, s)
                last = builder.sub(stop, INT(1))
                x = [ir.Constant(vector, ir.Undefined) for _ in range(sizes[0])]
                y = [ir.Constant(vector, ir.Undefined) for _ in range(sizes[-1])]
                weighted = ir.Constant(ir.VectorType(double, lanes), ir.Undefined)
                for lane in range(lanes):
                    at = builder.add(start, INT(lane))
                    row = read(order_at, builder.select(builder.icmp_signed("<", at, stop), at, last))
                    for into, source, width in ((x, x_data, sizes[0]), (y, y_data, sizes[-1])):
                        base = builder.gep(source, [builder.mul(row, INT(width))])
                        for i in range(width):
                            into[i] = builder.insert_element(into[i], read(base, INT(i)), INT32(lane))
                    weight = widened(read(weight_data, row))
                    weighted = builder.insert_element(weighted, weight, INT32(lane))
                real = builder.icmp_signed("<", numbers, spread(builder.sub(stop, start)))
                total = builder.fmul(read(totals_at, s), ir.Constant(double, float(sizes[-1])))
                some = builder.fcmp_ordered(">", total, ir.Constant(double, 0.0))
                share = builder.fdiv(ir.Constant(double, 1.0), total)
                share = builder.select(some, share, ir.Constant(double, 0.0))
                shares = builder.fmul(weighted, spread(share))
                shares = shares if element == double else builder.fptrunc(shares, vector)
                shares = builder.select(real, shares, emitter.constant(0))
                layers, p = [], 0
                values = [builder.load(slot) for slot in slots]
                for n_in, n_out in shapes:
                    rows = [values[p + i * n_out : p + (i + 1) * n_out] for i in range(n_in + 1)]
                    layers.append((rows[:-1], rows[-1]))
                    p += (n_in + 1) * n_out
                activations = emitter.forward(layers, x)
                loss, deltas = emitter.loss(activations[-1], y, shares, spread(narrowed(args[-1])))
                summed = builder.extract_element(sum_lanes(builder, loss), INT32(0))
                builder.store(widened(summed), builder.gep(losses_at, [s]))
                twice = builder.mul(s, INT(2))
                rate, bias_rate = (
                    spread(narrowed(read(rates_at, builder.add(twice, INT(i))))) for i in range(2)
                )
                updated = emitter.backward(layers, activations, deltas, rate, bias_rate)
                fresh = [w for weights, biases in updated for row in (*weights, biases) for w in row]
                for slot, value in zip(slots, fresh):
                    builder.store(value, slot)
            for p, slot in enumerate(slots):
                value = builder.extract_element(builder.load(slot), INT32(0))
                builder.store(value, builder.gep(flat, [INT(p)]))
            return context.get_dummy_value()

        arrays = (parameters, inputs, targets, weights, order, starts, stops, totals, rates, losses)
        return types.none(*arrays, types.float64), codegen

    return run
