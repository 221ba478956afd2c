"""The stages of a small network's step: each layer's products, activations, losses, the gather of rows.

Separate because stages know the layout (`fastmlp.kernels.small.padded`), while `fastmlp.kernels.gemm` and
`fastmlp.kernels.elementwise` know only places and sizes. Here all sizes but the number of rows are integers.

A *stage* is a part of a step on a workspace (one flat array): a function stage(memory, rows), which writes instructions
at the builder's position. `sequence` joins stages into one intrinsic. If each stage were a jitted function, Numba would
type, lower and optimise it again at every level: a program took 34 s to compile, and takes 3 s now.

The logits of hidden layers are not kept. An activation's derivative is computed from the activation's value, which
excludes gelu and silu. Nothing is checked, nothing is allocated.
"""

from numba import types

from fastmlp.kernels.codegen.arrays import NOTHING, RepeatedNumber, VectorNumbers
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.scalars import backward_of, constants_at
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import BIT, INT, INT32, ITEMSIZE
from fastmlp.kernels.codegen.vectors import Vectors, carried, counted, data_pointer
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.elementwise import batched
from fastmlp.kernels.elementwise.batched import LANES, Rows
from fastmlp.kernels.elementwise.column_sums import emit_sums
from fastmlp.kernels.elementwise.dropout import scramble
from fastmlp.kernels.elementwise.steps import emit_steps
from fastmlp.kernels.gemm.macrokernel import IN_PLACE, TRANSPOSED, Operands, write_product
from fastmlp.kernels.gemm.microkernel import stored
from fastmlp.kernels.gemm.packing import emit_transpose
from fastmlp.kernels.jit.disposable import Intrinsic
from fastmlp.kernels.small.copies import copy_row
from fastmlp.kernels.small.padded import dividing_lanes

TURNED_BYTES, FEW = 32, 3
"""Bytes of the vectors by which a transposed layer of few outputs reads the transpose of its inputs: two shuffles of
32 bytes start in a cycle, and less is wasted where rows are few. With more outputs FMAs of whole vectors count for
more: the last layer of 54-120-7 took 0.82 of its time by tiles of two whole vectors."""

ACROSS = 4
"""Vectors across a tile of one row, which hide the latency of FMAs: with one vector 30-100-1 took 3 % longer."""


class Memory:
    """A workspace in code that is being written."""

    def __init__(self, context, builder, array, value):
        self.builder, self.dtype = builder, array.dtype
        self.itemsize = ITEMSIZE[array.dtype]
        self.base = data_pointer(context, builder, array, value)
        self.v = self.vectors(host().vector_bytes // self.itemsize)
        self.word = self.first = None
        """The hash of dropout's key and the step, and the place in the batch of the block's first row."""

    def at(self, offset):
        """The place of the element at an offset."""
        return self.v.shift(self.base, offset * self.itemsize)

    def vectors(self, lanes):
        """`Vectors` of the workspace's dtype with this number of lanes."""
        return Vectors(self.builder, self.dtype, lanes * self.itemsize)

    def product(
        self, lanes, a, b, c, rows, columns, depth, start=NOTHING, start_row=0, end=stored, packing=IN_PLACE,
        across=None, **options,
    ):  # fmt: skip
        """Write C = end(start + A B) by vectors of `lanes` lanes, see `write_product`.

        a : the offset of A, the distance of its rows and of its columns, in elements; b, c : without columns
        start : a place
        across : vectors across a tile, where columns are a run-time value; usually those that fill `ACROSS` sums
        """
        size = self.itemsize
        (a, a_row, a_step), (b, b_row), (c, c_row) = a, b, c
        operands = Operands(
            self.at(a), self.at(b), self.at(c), rows, columns, depth, a_row * size, a_step * size,
            b_row * size, c_row * size, start=start, start_row=start_row * size,
            packing=packing, across=across or (max(1, ACROSS // rows) if isinstance(rows, int) else 1),
        )  # fmt: skip
        write_product(self.vectors(lanes), operands, end, **options)


def sequence(stages):
    """One intrinsic (work, rows, key, step, first) that runs stages in order; those that are None are left out.

    key, step : of the dropout masks; first : the place in the batch of the first row
    """

    @Intrinsic
    def run(typingctx, work, rows, key, step, first):
        def codegen(context, builder, signature, values):
            memory, rows = Memory(context, builder, work, values[0]), Symbol(builder, values[1])
            key, step, memory.first = (Symbol(builder, builder.trunc(value, INT32)) for value in values[2:])
            memory.word = scramble(key ^ step)
            for stage in filter(None, stages):
                stage(memory, rows)
            return context.get_dummy_value()

        return types.none(work, *[types.int64] * 4), codegen

    return run


# --- activations -----------------------------------------------------------------------------------


def over_rows(memory, rows, stride, offsets, formula):
    """Write the formula of the numbers at `offsets`, for `rows` rows of `stride`. The result goes to the first offset.

    It runs over whole vectors, columns of padding included, and beyond the last row.
    """
    v = memory.v
    first, *_ = places = [memory.at(offset) for offset in offsets]
    with counted(memory.builder, rows * stride, v.lanes) as i:
        numbers = [Symbol(memory.builder, v.load(v.shift(place, i * v.itemsize))) for place in places]
        v.store(formula(*numbers).value, v.shift(first, i * v.itemsize))


def activate(layer, key):
    """The stage of a layer's activation, in place; None where `forward` has applied it."""
    entry = ACTIVATION_CODES.of_key(key)
    if entry.short:
        return None
    return lambda memory, rows: over_rows(memory, rows, layer.out_stride, [layer.outputs], entry.formula)


def activate_gradient(layer, key):
    """The stage that multiplies the deltas of the outputs by the derivative; None where the reader's tiles have."""
    entry = ACTIVATION_CODES.of_key(key)
    if entry.name == "identity" or layer.deltas == layer.outputs:
        return None
    formula = lambda delta, a: backward_of(entry, delta, None, a)
    offsets = layer.deltas, layer.outputs
    return lambda memory, rows: over_rows(memory, rows, layer.out_stride, offsets, formula)


# --- one layer -----------------------------------------------------------------------------------


def forward(layer, activation, plan):
    """The stage outputs = inputs W + b, with the activation if it is short."""
    entry = ACTIVATION_CODES.of_key(activation)

    def transposed(memory, rows):
        lanes, across = min(layer.lanes, TURNED_BYTES // memory.itemsize), None
        if layer.lanes > lanes and FEW < layer.n_out <= host().accumulators // 2:
            lanes, across = layer.lanes, 2
        memory.product(
            lanes, (layer.weights, layer.in_stride, 1), (layer.inputs, layer.in_stride),
            (layer.outputs, plan.most_rows), layer.n_out, rows, layer.n_in, memory.at(layer.biases), 1,
            packing=TRANSPOSED, across=across, spreads=True,
        )  # fmt: skip

    def stage(memory, rows):
        def end(total, target, guide, mask):
            return entry.formula(Symbol(memory.builder, total)).value

        memory.product(
            layer.lanes, (layer.inputs, layer.in_stride, 1), (layer.weights, layer.out_stride),
            (layer.outputs, layer.out_stride), rows, layer.out_stride, layer.n_in, memory.at(layer.biases),
            end=end if entry.short else stored,
        )  # fmt: skip

    return transposed if layer.is_transposed else stage


def backward(layer, activation, plan):
    """The stage input_deltas = deltas W', times the derivative of the activation of the inputs if that is short.

    activation : that of the source. It ends the deltas only where no other operation adds to them.
    """
    if layer.input_deltas < 0:
        return None
    entry = ACTIVATION_CODES.of_key(activation)
    ends = layer.ends_below and entry.short_backward
    target = layer.input_deltas if layer.added < 0 else layer.added
    deltas = (1, plan.most_rows) if layer.is_transposed else (layer.out_stride, 1)
    weights = layer.weights if layer.is_transposed else layer.transpose

    def stage(memory, rows):
        v = memory.vectors(dividing_lanes(layer.in_stride, plan.most))

        def end(total, target, guide, mask):
            place = v.shift(target, (layer.inputs - layer.input_deltas) * v.itemsize)
            a, delta = (Symbol(memory.builder, x) for x in (v.load(place, mask), total))
            return backward_of(entry, delta, None, a).value

        memory.product(
            v.lanes, (layer.deltas, *deltas), (weights, layer.in_stride),
            (target, layer.in_stride), rows, layer.in_stride, layer.n_out, end=end if ends else stored,
        )  # fmt: skip
        if layer.added >= 0:
            over_rows(
                memory, rows, layer.in_stride, (layer.input_deltas, target), lambda below, new: below + new
            )

    return stage


def gradient(layer, plan, adds):
    """The stage of the gradients of weights and biases over a block's rows, added to those before if `adds`."""
    section, stride = plan.section, layer.in_stride if layer.is_transposed else layer.out_stride

    def stage(memory, rows):
        weights, biases = section + layer.weights, memory.at(section + layer.biases)
        start = {"start": memory.at(weights), "start_row": stride} if adds else {}
        if layer.is_transposed:
            # Columns of padding, where an activation may differ from 0, are left out: their weights must stay 0.
            memory.product(
                layer.lanes, (layer.deltas, plan.most_rows, 1), (layer.inputs, stride), (weights, stride),
                layer.n_out, layer.n_in, rows, a_sums=biases, **start,
            )  # fmt: skip
            return
        memory.product(
            layer.lanes, (layer.inputs, 1, layer.in_stride), (layer.deltas, stride), (weights, stride),
            layer.n_in, stride, rows, **start,
        )  # fmt: skip
        v = memory.vectors(layer.lanes)
        emit_sums(v, rows, stride, memory.at(layer.deltas), stride * v.itemsize, biases, adds)

    return stage


def refresh(layer, plan):
    """The stage that transposes W for `backward`; None where nothing reads the transpose."""
    if layer.transpose < 0 or layer.is_transposed:
        return None

    def stage(memory, rows):
        v = memory.vectors(min(layer.lanes, dividing_lanes(layer.in_stride, plan.most)))
        emit_transpose(
            v, memory.at(layer.weights), memory.at(layer.transpose), layer.out_stride, layer.n_in,
            layer.out_stride * v.itemsize, layer.in_stride * v.itemsize, edges=layer.n_in % v.lanes > 0,
        )  # fmt: skip

    return stage


# --- losses ----------------------------------------------------------------------------------------


def loss_of(constants, plan):
    """intrinsic(work, rows, parameter, value): return value plus the losses of the rows; write their deltas."""
    layer = plan.layers[-1]
    clips, entry = constants.clips, LOSS_CODES.of_key(constants.loss)
    output = ACTIVATION_CODES.code_of_key(constants.output)
    units, width, stride = layer.n_out, plan.most_rows, layer.out_stride

    def emit(memory, first, parameter):
        """Write the loss of LANES rows, of which the first is `first`."""
        builder, size = memory.builder, memory.itemsize
        rows_at = lambda place, row: Rows(builder, memory.dtype, memory.at(place), units, row * size)
        if layer.is_transposed:
            offsets = layer.outputs, plan.targets, layer.deltas
            logits, expected, outputs = (rows_at(first + offset, width) for offset in offsets)
        else:
            v = memory.vectors(min(layer.lanes, LANES))
            there = [plan.batched + i * LANES * stride for i in range(3)]
            here = [first * stride + offset for offset in (layer.outputs, plan.targets, layer.deltas)]
            logits, expected, outputs = (rows_at(place, LANES) for place in there)
            for source, target in zip(here[:2], there):
                emit_transpose(
                    v, memory.at(source), memory.at(target), stride, LANES, stride * size, LANES * size, False
                )
        sums = Rows(builder, memory.dtype, memory.at(first + plan.sums), 3, width * size)
        clipping = Symbol(builder, BIT(clips))
        if entry.of_logs:
            batched.softmax.emit(logits, outputs, sums)
        else:
            for j in logits.each():
                outputs[j] = ACTIVATION_CODES[output].formula(logits[j])
        code, parameters = Symbol(builder, INT(output)), RepeatedNumber(parameter)
        batched.emit_element_losses(entry, code, clipping, parameters, logits, expected, outputs, sums)
        batched.blank.emit(outputs, sums)
        if not layer.is_transposed:
            emit_transpose(
                v, memory.at(there[2]), memory.at(here[2]), LANES, stride, LANES * size, stride * size, False
            )
        return batched.emit_total(sums)

    @Intrinsic
    def loss(typingctx, work, rows, parameter, value):
        def codegen(context, builder, signature, values):
            memory = Memory(context, builder, work, values[0])
            rows, parameter = (Symbol(builder, number) for number in values[1:3])
            add = lambda first, total: [builder.fadd(*total, emit(memory, first, parameter))]
            return carried(builder, 0, rows, [values[3]], add, LANES)[0]

        return types.float64(work, types.int64, types.float64, types.float64), codegen

    return loss


# --- steps ---------------------------------------------------------------------------------------


def update(key, at, count, plan, penalised):
    """intrinsic(work, penalty, constants, rate, t): take a rule's step of `count` parameters from `at` on."""
    entry = RULE_CODES.of_key(key)
    parameters, gradients, *moments = (number * plan.section + at for number in range(plan.sections))

    @Intrinsic
    def take(typingctx, work, penalty, constants, rate, t):
        def codegen(context, builder, signature, args):
            memory = Memory(context, builder, work, args[0])
            pointers = [memory.at(offset) for offset in (gradients, parameters, *moments)]
            numbers_at = constants_at(context, builder, constants, args[2])
            penalty, rate, t = (Symbol(builder, args[i]) for i in (1, 3, 4))
            added = penalty if penalised else None
            emit_steps(builder, work.dtype, entry, count, pointers, rate, numbers_at, t, added)
            return context.get_dummy_value()

        return types.void(work, types.float64, constants, types.float64, types.float64), codegen

    return take


# --- rows of a batch -----------------------------------------------------------------------------


def gather(plan):
    """intrinsic(work, inputs, targets, weights, order, start, rows, share): copy a block's rows to the workspace.

    It is an intrinsic because a loop of Numba's copies element by element: LLVM cannot know that inputs and
    work do not overlap.
    """
    first, last = plan.layers[0], plan.layers[-1]
    n_in, n_out, most = first.n_in, last.n_out, plan.most

    @Intrinsic
    def copy_rows(typingctx, work, inputs, targets, weights, order, start, rows, share):
        def codegen(context, builder, signature, args):
            memory = Memory(context, builder, work, args[0])
            size = memory.itemsize
            inputs, targets, weights, order = (
                data_pointer(context, builder, *pair) for pair in zip(signature.args[1:5], args[1:5])
            )
            start, rows, share = (Symbol(builder, value) for value in args[5:])
            scales = VectorNumbers(builder, work.dtype, memory.at(plan.sums))
            counting = VectorNumbers(builder, work.dtype, weights)
            # The loss is computed for LANES rows at once: those after the last one get the factor 0.
            batched_ = memory.vectors(LANES)
            batched_.store(batched_.zero, memory.at((rows - 1) // LANES * LANES + plan.sums))
            with counted(builder, rows) as r:
                place = builder.gep(order, [(start + r).value], source_etype=INT)
                row = Symbol(builder, builder.load(place, typ=INT))
                source = lambda array, columns: memory.v.shift(array, row * (columns * size))
                copy_row(memory, source(inputs, n_in), memory.at(r * n_in + plan.inputs), n_in, most)
                expected = source(targets, n_out)
                if last.is_transposed:
                    from_row = VectorNumbers(builder, work.dtype, expected)
                    to_lane = VectorNumbers(builder, work.dtype, memory.at(r + plan.targets))
                    for j in range(n_out):
                        to_lane[j * plan.most_rows] = from_row[j]
                else:
                    copy_row(memory, expected, memory.at(r * last.out_stride + plan.targets), n_out, most)
                scales[r] = batched.counts(share, counting[row])
            return context.get_dummy_value()

        numbers = (types.int64, types.int64, types.float64)
        return types.none(work, inputs, targets, weights, order, *numbers), codegen

    return copy_rows
