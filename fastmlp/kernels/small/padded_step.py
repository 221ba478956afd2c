"""The step of one small network on padded arrays: products, rows, losses, and the gather of rows.

All sizes but the number of rows are integers, see `fastmlp.kernels.small.layouts.plan`. Products run over padding;
operations on rows mask the end of each row, so that padding stays 0.

The logits of hidden layers are not stored. An activation's derivative is computed from the activation's value, which
excludes gelu and silu. Nothing is checked, nothing is allocated.
"""

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import BIT, INT, ITEMSIZE, Symbol
from fastmlp.kernels.codegen.vectors import (
    NOTHING,
    NumberArray,
    RepeatedNumber,
    VectorArray,
    Vectors,
    carried,
    counted,
)
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.elementwise import losses
from fastmlp.kernels.elementwise.by_vectors import (
    Penalty,
    emit_drop,
    emit_penalty,
    emit_steps,
    emit_sums,
    scramble,
)
from fastmlp.kernels.elementwise.losses import LANES
from fastmlp.kernels.gemm.macrokernel import IN_PLACE, TRANSPOSED, Operands, write_product
from fastmlp.kernels.gemm.microkernel import stored
from fastmlp.kernels.gemm.packing import emit_transpose
from fastmlp.kernels.program import row_formulas
from fastmlp.kernels.program.arithmetic import PENALTY_LANES, chances, rows_as_one
from fastmlp.kernels.program.row_formulas import Row, number_at
from fastmlp.kernels.small.layouts import dividing_lanes, plan, up

TURNED_BYTES, FEW = 32, 3
"""Bytes of vectors for the transposed inputs of a transposed layer with few outputs: two shuffles of 32 bytes start in a
cycle. With more outputs FMAs of whole vectors count for more: the last layer of 54-120-7 took 0.82 of its time.
"""

ACROSS = 4
"""Vectors across a tile of a row, which hide the latency of FMAs: with one vector 30-100-1 took 3 % longer."""


class PaddedStep:
    """Writes the parts of a small network's step, by `SmallConstants`, into a workspace of `plan`.

    work : a `Matrix` (size,); word : the hash of dropout's key and the step; first : the block's first row in the batch
    """

    word = first = None

    def __init__(self, work, constants):
        self.builder, self.dtype, self.base = work.builder, work.dtype, work.data
        self.itemsize, self.constants, self.plan = ITEMSIZE[self.dtype], constants, plan(constants)
        self.v, self.last = self.vectors(host().vector_bytes // self.itemsize), self.plan.layers[-1]

    def at(self, offset):
        """The address of the element at an offset."""
        return self.v.shift(self.base, offset * self.itemsize)

    def vectors(self, lanes):
        """`Vectors` of the workspace's dtype with this number of lanes."""
        return Vectors(self.builder, self.dtype, lanes * self.itemsize)

    def numbers(self, offset):
        """The numbers from an offset on."""
        return NumberArray(self.builder, self.dtype, self.at(offset))

    def product(
        self, lanes, a, b, c, rows, columns, depth, *, start=NOTHING, start_row=0, end=stored, packing=IN_PLACE,
        across=None, **options,
    ):  # fmt: skip
        """Write C = end(start + A B) by vectors of `lanes` lanes, see `write_product`; start : an address

        a : the offset of A, the distance of its rows and of its columns, in elements; b, c : without columns
        """
        size = self.itemsize
        (a, a_row, a_step), (b, b_row), (c, c_row) = a, b, c
        operands = Operands(
            self.at(a), self.at(b), self.at(c), rows, columns, depth, a_row * size, a_step * size,
            b_row * size, c_row * size, start=start, start_row=start_row * size,
            packing=packing, across=across or (max(1, ACROSS // rows) if isinstance(rows, int) else 1),
        )  # fmt: skip
        write_product(self.vectors(lanes), operands, end, **options)

    def over_rows(self, rows, stride, offsets, formula):
        """Write a formula of the numbers at `offsets`, padding included, for rows of `stride`; the first gets the result."""
        arrays = [VectorArray(self.v, self.at(offset), apart=self.itemsize) for offset in offsets]
        with counted(self.builder, rows * stride, self.v.lanes) as i:
            arrays[0][i] = formula(*(array[i] for array in arrays))

    def entry(self, layer):
        """The activation of a layer; the last product's is the loss's."""
        is_last = layer is self.last and layer.step.kind == "dense"
        return ACTIVATION_CODES.of_key("identity" if is_last else layer.step.activation)

    # --- passes --------------------------------------------------------------------------------------

    def forward(self, rows):
        """Write the outputs of all operations for a block of rows; the last are logits."""
        for number, layer in enumerate(self.plan.layers):
            if layer.step.kind == "dense":
                self.dense_forward(layer, rows)
            else:
                out = layer.outputs, layer.out_stride, layer.step.units
                self.each_row(layer, rows, {"out": out}, row_formulas.forward, *layer.step.ending)
            self.drop(number, rows, layer.outputs, layer.dropped)

    def backward(self, rows):
        """Write the deltas of all operations, and the gradients of a block of rows."""
        for number, layer in reversed([*enumerate(self.plan.layers)]):
            self.drop(number, rows, layer.deltas, layer.deltas)
            if layer.step.kind != "dense":
                self.row_gradient(layer, rows)
                self.row_backward(layer, rows)
                continue
            self.activate_gradient(layer, rows)
            self.gradient(layer, rows)
            self.pass_down(layer, rows)

    def drop(self, number, rows, source, target):
        """Write an operation's dropout, from source to target; nothing without dropout."""
        layer = self.plan.layers[number]
        if layer.step.dropout == 0:
            return
        threshold, scale = chances(layer.step.dropout)
        word = scramble(self.word ^ number)
        source, target = (lambda i, at=at: self.at(i * layer.out_stride + at) for at in (source, target))
        emit_drop(self.v, rows, layer.n_out, word, self.first, threshold, scale, source, target)

    # --- products ------------------------------------------------------------------------------------

    def dense_forward(self, layer, rows):
        """Write outputs = activation(inputs W + b)."""
        a, biases, entry = (layer.inputs, layer.in_stride), self.at(layer.biases), self.entry(layer)
        if layer.is_transposed:
            lanes, across = min(layer.lanes, TURNED_BYTES // self.itemsize), None
            if layer.lanes > lanes and FEW < layer.n_out <= host().accumulators // 2:
                lanes, across = layer.lanes, 2
            self.product(
                lanes, (layer.weights, layer.in_stride, 1), a, (layer.outputs, self.plan.most_rows),
                layer.n_out, rows, layer.n_in, start=biases, start_row=1, packing=TRANSPOSED, across=across,
                spreads=True,
            )  # fmt: skip
            return
        end = lambda total, *_: entry.formula(Symbol(self.builder, total)).value
        self.product(
            layer.lanes, (*a, 1), (layer.weights, layer.out_stride), (layer.outputs, layer.out_stride),
            rows, layer.out_stride, layer.n_in, start=biases, end=end if entry.short else stored,
        )  # fmt: skip
        if not entry.short:
            self.over_rows(rows, layer.out_stride, [layer.outputs], entry.formula)

    def activate_gradient(self, layer, rows):
        """Write the activation's derivative on deltas, unless the reader's tiles have it."""
        entry = self.entry(layer)
        if entry.name != "identity" and layer.deltas != layer.outputs:
            formula = lambda delta, a: backward_of(entry, delta, None, a)
            self.over_rows(rows, layer.out_stride, (layer.deltas, layer.outputs), formula)

    def pass_down(self, layer, rows):
        """Write input_deltas = deltas W', times the derivative of the source's short activation."""
        if layer.input_deltas < 0:
            return
        v = self.vectors(dividing_lanes(layer.in_stride, self.plan.most))
        entry = self.entry(self.plan.layers[layer.step.sources[0]])
        target = layer.input_deltas if layer.added < 0 else layer.added
        deltas = (1, self.plan.most_rows) if layer.is_transposed else (layer.out_stride, 1)
        weights = layer.weights if layer.is_transposed else layer.transpose

        def end(total, target, guide, mask):
            address = v.shift(target, (layer.inputs - layer.input_deltas) * v.itemsize)
            a, delta = (Symbol(self.builder, x) for x in (v.load(address, mask), total))
            return backward_of(entry, delta, None, a).value

        self.product(
            v.lanes, (layer.deltas, *deltas), (weights, layer.in_stride), (target, layer.in_stride), rows,
            layer.in_stride, layer.n_out, end=end if layer.ends_below and entry.short_backward else stored,
        )  # fmt: skip
        if layer.added >= 0:
            offsets = layer.input_deltas, target
            self.over_rows(rows, layer.in_stride, offsets, lambda below, new: below + new)

    def gradient(self, layer, rows):
        """Write the gradients of weights and biases over a block's rows, or add to earlier blocks'."""
        section, adds = self.plan.section, self.constants.blocks
        stride = layer.in_stride if layer.is_transposed else layer.out_stride
        weights, biases = section + layer.weights, self.at(section + layer.biases)
        start = {"start": self.at(weights), "start_row": stride} if adds else {}
        if layer.is_transposed:
            # Columns of padding, where an activation may differ from 0, are left out: their weights must stay 0.
            self.product(
                layer.lanes, (layer.deltas, self.plan.most_rows, 1), (layer.inputs, stride), (weights, stride),
                # The tiles read the rows of deltas anyway, and sum them: the gradient of the biases.
                layer.n_out, layer.n_in, rows, a_sums=biases, **start,
            )  # fmt: skip
            return
        self.product(
            layer.lanes, (layer.inputs, 1, layer.in_stride), (layer.deltas, stride), (weights, stride),
            layer.n_in, stride, rows, **start,
        )  # fmt: skip
        self.sum_rows(layer, rows, biases)

    def sum_rows(self, layer, rows, out):
        """Write the sums of deltas over a block's rows, or add to earlier blocks': gradients of biases or a shift."""
        v, stride = self.vectors(layer.lanes), layer.out_stride
        emit_sums(v, rows, stride, self.at(layer.deltas), stride * v.itemsize, out, self.constants.blocks)

    def refresh(self):
        """Write the transposes of weights, for `pass_down`."""
        for layer in self.plan.layers:
            if layer.transpose >= 0:
                v = self.vectors(min(layer.lanes, dividing_lanes(layer.in_stride, self.plan.most)))
                emit_transpose(
                    v, self.at(layer.weights), self.at(layer.transpose), layer.out_stride, layer.n_in,
                    layer.out_stride * v.itemsize, layer.in_stride * v.itemsize, edges=layer.n_in % v.lanes > 0,
                )  # fmt: skip

    # --- operations on rows --------------------------------------------------------------------------

    def each_row(self, layer, rows, others, write, *options):
        """Write write(kind, row, *options) for each row, or subrow, of an operation.

        others : besides the sources and the parameters, by name an array's offset, the distance of its rows (0 for one
            row), and of its subrows
        """
        op, v = layer.step, self.vectors(row_formulas.LANES)
        (gain, shift), units, saved = op.lengths, op.units, op.entry.saved
        offsets = {
            "x": (layer.inputs, layer.in_stride, units), "other": (layer.other, layer.other_stride, units),
            "gain": (layer.weights, 0, gain // op.subrows), "shift": (layer.biases, 0, shift // op.subrows),
            "saved": (layer.saved, op.subrows * saved, saved), **others,
        }  # fmt: skip
        numbers = [Symbol(self.builder, v.broadcast(self.at(layer.numbers + i))) for i in range(op.numbers)]

        def write_row(i, cut):
            addresses = {
                name: self.at(i * stride + cut * step + at if stride else cut * step + at)
                for name, (at, stride, step) in offsets.items()
                if at >= 0
            }
            write(op.entry, Row(v, units, float(units), addresses, numbers), *options)

        with counted(self.builder, rows) as i:
            if op.subrows == 1:
                write_row(i, 0)
            else:
                with counted(self.builder, op.subrows) as cut:
                    write_row(i, cut)

    def row_backward(self, layer, rows):
        """Write, or add to, the deltas of an operation's sources."""
        if layer.input_deltas < 0:
            return
        units, stride = layer.step.units, layer.out_stride
        others = {
            "a": (layer.outputs, stride, units), "delta": (layer.deltas, stride, units),
            "out": (layer.input_deltas, layer.in_stride, units),
            "out2": (layer.other_deltas, layer.other_stride, units),
        }  # fmt: skip
        self.each_row(layer, rows, others, row_formulas.backward, layer.step.adds, *layer.step.ending)

    def row_gradient(self, layer, rows):
        """Write the gradients of gain and shift over a block's rows, or add to earlier blocks'."""
        op, (gains, shifts) = layer.step, layer.step.lengths
        if not gains:
            return
        gain, v = self.plan.section + layer.weights, self.vectors(layer.lanes)
        # Formulas add to the gradient row by row, so that it begins with 0.
        if not self.constants.blocks:
            self.clear(gain, up(gains, v.lanes), v)
        others = {
            "delta": (layer.deltas, layer.out_stride, op.units),
            "out": (gain, 0, gains // op.subrows),
        }
        self.each_row(layer, rows, others, row_formulas.gradient)
        if shifts:
            self.sum_rows(layer, rows, self.at(self.plan.section + layer.biases))

    def clear(self, offset, count, v):
        """Write 0 to `count` numbers, whole vectors."""
        with counted(self.builder, count, v.lanes) as i:
            v.store(v.zero, self.at(i + offset))

    def take_numbers(self, records):
        """Copy hyperparameters to the workspace; records : of all operations"""
        like = Symbol(self.builder, ir.Constant(self.v.scalar, 0.0))
        for number, layer in enumerate(self.plan.layers):
            offset = number * records.dtype.size + records.dtype.offset("numbers")
            numbers = NumberArray(self.builder, types.float64, self.v.shift(records.data, offset))
            for i in range(layer.step.numbers):
                self.numbers(layer.numbers)[i] = like.number(number_at(numbers, i, self.itemsize))

    # --- losses and steps ----------------------------------------------------------------------------

    def loss(self, rows, parameter, value):
        """Return a float64 value plus the losses of a block's rows; write the deltas of the logits."""
        add = lambda first, total: [self.builder.fadd(*total, self.loss_of(first, parameter))]
        return Symbol(self.builder, carried(self.builder, 0, rows, [value.value], add, LANES)[0])

    def loss_of(self, first, parameter):
        """Write the loss of LANES rows from `first` on; return a float64."""
        plan, layer, builder, size = self.plan, self.last, self.builder, self.itemsize
        entry, output = LOSS_CODES.of_key(self.constants.loss), ACTIVATION_CODES.of_key(self.constants.output)
        units, width, stride, lanes = layer.n_out, plan.most_rows, layer.out_stride, self.vectors(LANES)
        rows_at = lambda offset, row: VectorArray(lanes, self.at(offset), units, row * size)
        if layer.is_transposed:
            offsets = layer.outputs, plan.targets, layer.deltas
            logits, expected, outputs = (rows_at(first + offset, width) for offset in offsets)
        else:
            v = self.vectors(min(layer.lanes, LANES))
            by_lane = [plan.batched + i * LANES * stride for i in range(3)]
            by_row = [first * stride + offset for offset in (layer.outputs, plan.targets, layer.deltas)]
            logits, expected, outputs = (rows_at(offset, LANES) for offset in by_lane)
            # A lane is a row here, so that a sum over outputs adds vectors and needs no sum across lanes.
            for source, target in zip(by_row[:2], by_lane):
                emit_transpose(
                    v, self.at(source), self.at(target), stride, LANES, stride * size, LANES * size, False
                )
        sums = rows_at(first + plan.sums, width)
        if entry.of_logs:
            losses.softmax_by_lanes.emit(logits, outputs, sums)
        else:
            for j in logits.each():
                outputs[j] = output.formula(logits[j])
        code = Symbol(builder, INT(ACTIVATION_CODES.code_of_key(output.key)))
        clips, parameters = Symbol(builder, BIT(self.constants.clips)), RepeatedNumber(parameter)
        losses.element_losses.emit(entry, code, clips, parameters, logits, expected, outputs, sums)
        losses.blank.emit(outputs, sums)
        if not layer.is_transposed:
            emit_transpose(
                v, self.at(by_lane[2]), self.at(by_row[2]), LANES, stride, LANES * size, stride * size, False
            )
        return losses.emit_total(sums)

    def penalties(self, flat, l2):
        """Return the sum of the products' penalties, float64; flat : the caller's parameters, overwritten"""
        value, v = Symbol(self.builder, ir.Constant(ir.DoubleType(), 0.0)), self.vectors(PENALTY_LANES)
        penalty = Penalty(v, None, Symbol(self.builder, ir.Constant(v.scalar, 0.0)).number(l2))
        for layer in self.plan.layers:
            if layer.step.kind != "dense":
                continue
            as_one, stride, address = rows_as_one(layer.n_out), layer.out_stride, self.at(layer.weights)
            columns, rows = min(stride, up(layer.n_out, PENALTY_LANES)), layer.n_in
            count = rows * columns
            if layer.is_transposed or as_one > 1:
                # Rows count together, or are columns here: the sum reads the weights one after another.
                columns = stride = layer.n_out * as_one
                count = layer.n_in * layer.n_out
                rows = -(-count // columns)
                if not layer.is_transposed or layer.n_out > 1:
                    self.copy_layer(layer, 0, flat, inwards=False)
                    address = v.shift(flat, layer.step.flat * v.itemsize)
            rows = Symbol(self.builder, INT(rows))
            value = value + Symbol(self.builder, emit_penalty(penalty, address, rows, columns, stride, count))
        return value

    def update(self, rates, of_rule, t, l2):
        """Take a step of all parameters; rates : of weights and biases; l2 : of weights, or None"""
        rule, where = RULE_CODES.of_key(self.constants.rule), self.plan
        rate, bias_rate = rates
        # Only weights have the penalty, and biases have a rate of their own.
        parts = (0, where.weights, rate, l2), (where.weights, where.gains, rate, None)
        for first, stop, rate, penalty in (*parts, (where.gains, where.section, bias_rate, None)):
            parameters, gradients, *moments = (
                self.numbers(number * where.section + first) for number in range(where.sections)
            )
            if stop > first:
                arrays = gradients, parameters, *moments
                emit_steps(rule, stop - first, arrays, rate, of_rule, t, penalty)

    # --- copies --------------------------------------------------------------------------------------

    def gather(self, inputs, targets, weights, order, start, rows, factor):
        """Copy a block's rows of data; factor : of the losses"""
        plan, last, n_in, n_out = self.plan, self.last, self.plan.layers[0].n_in, self.last.n_out
        scales, lanes = self.numbers(plan.sums), self.vectors(LANES)
        # The loss is computed for LANES rows at once: those after the last one get the factor 0.
        lanes.store(lanes.zero, self.at((rows - 1) // LANES * LANES + plan.sums))
        with counted(self.builder, rows) as r:
            row = order[start + r]
            source = lambda array, columns: self.v.shift(array.data, row * (columns * self.itemsize))
            self.copy_row(source(inputs, n_in), self.at(r * n_in + plan.inputs), n_in)
            expected = source(targets, n_out)
            if last.is_transposed:
                from_row = NumberArray(self.builder, self.dtype, expected)
                to_lane = self.numbers(r + plan.targets)
                for j in range(n_out):
                    to_lane[j * plan.most_rows] = from_row[j]
            else:
                self.copy_row(expected, self.at(r * last.out_stride + plan.targets), n_out)
            scales[r] = losses.counts(factor, weights[row])

    def copy_row(self, source, target, count):
        """Write a copy of `count` elements by the longest vectors; the last two vectors overlap."""
        v = self.vectors(min(self.plan.most, 1 << (count.bit_length() - 1)))
        for at in (*range(0, count - v.lanes + 1, v.lanes), *([count - v.lanes] if count % v.lanes else [])):
            v.store(v.load(v.shift(source, at * v.itemsize)), v.shift(target, at * v.itemsize))

    def copy_section(self, number, flat, inwards):
        """Write the copies between a flat vector (P,) and a section, padded with 0."""
        for layer in self.plan.layers:
            self.copy_layer(layer, number, flat, inwards)

    def copy_layer(self, layer, number, flat, inwards):
        """Write the copy of a layer's weights and biases, or gain and shift; flat : the address of a vector (P,)"""
        v, size, base, n_out = (
            self.vectors(layer.lanes),
            self.itemsize,
            number * self.plan.section,
            layer.n_out,
        )

        def rows(count, start, offset, length, stride):
            """Write the copies of `count` rows of `length` numbers, which lie `stride` apart in the section."""
            # Rows without padding are one array of whole vectors.
            if length == stride:
                count, length, stride = count * stride // v.lanes, v.lanes, v.lanes
            with counted(self.builder, count) as i:
                plain = v.shift(v.shift(flat, start * size), i * (length * size))
                padded = v.shift(self.at(base + offset), i * (stride * size))
                # Products run over the padding, which must add 0.
                if inwards and length < stride:
                    v.store(v.zero, v.shift(padded, (stride - v.lanes) * size))
                self.copy_row(*((plain, padded) if inwards else (padded, plain)), length)

        (weights, biases), begin = layer.step.lengths, layer.step.flat
        if layer.weights < 0:
            return
        if layer.step.kind != "dense":
            rows(1, begin, layer.weights, weights, up(weights, layer.lanes))
        elif not layer.is_transposed:
            rows(layer.n_in, begin, layer.weights, n_out, layer.out_stride)
        else:
            if inwards:  # the numbers are scattered, with the padding between them
                self.clear(base + layer.weights, n_out * layer.in_stride, v)
            plain = NumberArray(self.builder, self.dtype, v.shift(flat, begin * size))
            padded = self.numbers(base + layer.weights)
            with counted(self.builder, layer.n_in) as i:
                for j in range(n_out):
                    if inwards:
                        padded[i + j * layer.in_stride] = plain[i * n_out + j]
                    else:
                        plain[i * n_out + j] = padded[i + j * layer.in_stride]
        if biases:
            rows(1, begin + weights, layer.biases, n_out, layer.out_stride)
