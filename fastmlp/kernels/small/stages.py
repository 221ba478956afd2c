"""Stages of a small network's step: products, activations, losses, and the gather of rows.

A *stage* is a part of a step on a workspace (one flat array): a function stage(memory, rows), which writes instructions
at the builder's position; all sizes but the number of rows are integers. `sequence` joins stages into one intrinsic: with
a jitted function for each stage a program took 34 s to compile, and takes 3 s now.

The logits of hidden layers are not stored. An activation's derivative is computed from the activation's value, which
excludes gelu and silu. Nothing is checked, nothing is allocated.
"""

from functools import partial

from llvmlite import ir

from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import BIT, INT, INT32, ITEMSIZE, Symbol
from fastmlp.kernels.codegen.vectors import (
    NOTHING,
    NumberArray,
    RepeatedNumber,
    VectorArray,
    Vectors,
    carried,
    counted,
    of_arrays,
)
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES
from fastmlp.kernels.elementwise import losses
from fastmlp.kernels.elementwise.by_vectors import (
    Penalty,
    constants_at,
    emit_penalty,
    emit_steps,
    emit_sums,
    scramble,
)
from fastmlp.kernels.elementwise.losses import LANES
from fastmlp.kernels.gemm.macrokernel import IN_PLACE, TRANSPOSED, Operands, write_product
from fastmlp.kernels.gemm.microkernel import stored
from fastmlp.kernels.gemm.packing import emit_transpose
from fastmlp.kernels.jit.emission import Intrinsic
from fastmlp.kernels.program.arithmetic import PENALTY_LANES, PENALTY_ROWS, PENALTY_TERMS, rows_as_one
from fastmlp.kernels.small.layouts import dividing_lanes, up

TURNED_BYTES, FEW = 32, 3
"""Bytes of vectors for the transposed inputs of a transposed layer with few outputs: two shuffles of 32 bytes start in a
cycle. With more outputs FMAs of whole vectors count for more: the last layer of 54-120-7 took 0.82 of its time.
"""

ACROSS = 4
"""Vectors across a tile of a row, which hide the latency of FMAs: with one vector 30-100-1 took 3 % longer."""


disposable = partial(of_arrays, make=Intrinsic)
"""`of_arrays` for intrinsics that are deleted with their program."""


class Memory:
    """A workspace in code that is being written. work : a `Matrix` (size,)"""

    def __init__(self, work):
        self.builder, self.dtype = work.builder, work.dtype
        self.itemsize, self.base = ITEMSIZE[self.dtype], work.data
        self.v = self.vectors(host().vector_bytes // self.itemsize)
        self.word = self.first = None
        """The hash of dropout's key and step, and the block's first position in the batch."""

    def at(self, offset):
        """The address of the element at an offset."""
        return self.v.shift(self.base, offset * self.itemsize)

    def vectors(self, lanes):
        """`Vectors` of the workspace's dtype with this number of lanes."""
        return Vectors(self.builder, self.dtype, lanes * self.itemsize)

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


def sequence(stages):
    """Return the intrinsic (work, rows, key, step, first) of stages in order, without Nones."""

    @disposable
    def run(work, rows, key, step, first):
        memory = Memory(work)
        key, step, memory.first = (
            Symbol(work.builder, work.builder.trunc(n.value, INT32)) for n in (key, step, first)
        )
        memory.word = scramble(key ^ step)
        for stage in filter(None, stages):
            stage(memory, rows)

    return run


# --- activations -----------------------------------------------------------------------------------


def over_rows(memory, rows, stride, offsets, formula):
    """Write a formula of the numbers at `offsets`, padding included, for rows of `stride`; the first gets the result."""
    v = memory.v
    first, *_ = addresses = [memory.at(offset) for offset in offsets]
    with counted(memory.builder, rows * stride, v.lanes) as i:
        numbers = [Symbol(memory.builder, v.load(v.shift(address, i * v.itemsize))) for address in addresses]
        v.store(formula(*numbers).value, v.shift(first, i * v.itemsize))


def activate(layer, key):
    """Return the stage of a layer's activation, in place; None where `forward` has applied the activation."""
    entry = ACTIVATION_CODES.of_key(key)
    if entry.short:
        return None
    return lambda memory, rows: over_rows(memory, rows, layer.out_stride, [layer.outputs], entry.formula)


def activate_gradient(layer, key):
    """Return the stage of the activation's derivative on deltas; None where the reader's tiles have it."""
    entry = ACTIVATION_CODES.of_key(key)
    if entry.name == "identity" or layer.deltas == layer.outputs:
        return None
    formula = lambda delta, a: backward_of(entry, delta, None, a)
    offsets = layer.deltas, layer.outputs
    return lambda memory, rows: over_rows(memory, rows, layer.out_stride, offsets, formula)


# --- one layer -----------------------------------------------------------------------------------


def forward(layer, activation, plan):
    """Return the stage outputs = inputs W + b, with a short activation."""
    entry = ACTIVATION_CODES.of_key(activation)

    def transposed(memory, rows):
        lanes, across = min(layer.lanes, TURNED_BYTES // memory.itemsize), None
        if layer.lanes > lanes and FEW < layer.n_out <= host().accumulators // 2:
            lanes, across = layer.lanes, 2
        memory.product(
            lanes, (layer.weights, layer.in_stride, 1), (layer.inputs, layer.in_stride),
            (layer.outputs, plan.most_rows), layer.n_out, rows, layer.n_in, start=memory.at(layer.biases), start_row=1,
            packing=TRANSPOSED, across=across, spreads=True,
        )  # fmt: skip

    def stage(memory, rows):
        def end(total, target, guide, mask):
            return entry.formula(Symbol(memory.builder, total)).value

        memory.product(
            layer.lanes, (layer.inputs, layer.in_stride, 1), (layer.weights, layer.out_stride),
            (layer.outputs, layer.out_stride), rows, layer.out_stride, layer.n_in, start=memory.at(layer.biases),
            end=end if entry.short else stored,
        )  # fmt: skip

    return transposed if layer.is_transposed else stage


def backward(layer, activation, plan):
    """Return the stage input_deltas = deltas W', times the derivative of the source's short activation."""
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
            address = v.shift(target, (layer.inputs - layer.input_deltas) * v.itemsize)
            a, delta = (Symbol(memory.builder, x) for x in (v.load(address, mask), total))
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
    """Return the stage of the gradients of weights and biases over a block's rows; `adds` to earlier blocks'."""
    section, stride = plan.section, layer.in_stride if layer.is_transposed else layer.out_stride

    def stage(memory, rows):
        weights, biases = section + layer.weights, memory.at(section + layer.biases)
        start = {"start": memory.at(weights), "start_row": stride} if adds else {}
        if layer.is_transposed:
            # Columns of padding, where an activation may differ from 0, are left out: their weights must stay 0.
            memory.product(
                layer.lanes, (layer.deltas, plan.most_rows, 1), (layer.inputs, stride), (weights, stride),
                # The tiles read the rows of deltas anyway, and sum them: the gradient of the biases.
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
    """Return the stage of W's transpose for `backward`; None where nothing reads the transpose."""
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
    """Return the intrinsic (work, rows, parameter, value) of value plus the rows' losses, and of their deltas."""
    layer = plan.layers[-1]
    clips, entry = constants.clips, LOSS_CODES.of_key(constants.loss)
    output = ACTIVATION_CODES.code_of_key(constants.output)
    units, width, stride = layer.n_out, plan.most_rows, layer.out_stride

    def emit(memory, first, parameter):
        """Write the loss of LANES rows from `first` on."""
        builder, size = memory.builder, memory.itemsize
        lanes = memory.vectors(LANES)
        rows_at = lambda offset, row: VectorArray(lanes, memory.at(offset), units, row * size)
        if layer.is_transposed:
            offsets = layer.outputs, plan.targets, layer.deltas
            logits, expected, outputs = (rows_at(first + offset, width) for offset in offsets)
        else:
            v = memory.vectors(min(layer.lanes, LANES))
            there = [plan.batched + i * LANES * stride for i in range(3)]
            here = [first * stride + offset for offset in (layer.outputs, plan.targets, layer.deltas)]
            logits, expected, outputs = (rows_at(offset, LANES) for offset in there)
            # A lane is a row here, so that a sum over outputs adds vectors and needs no sum across lanes.
            for source, target in zip(here[:2], there):
                emit_transpose(
                    v, memory.at(source), memory.at(target), stride, LANES, stride * size, LANES * size, False
                )
        sums = rows_at(first + plan.sums, width)
        clipping = Symbol(builder, BIT(clips))
        if entry.of_logs:
            losses.softmax_by_lanes.emit(logits, outputs, sums)
        else:
            for j in logits.each():
                outputs[j] = ACTIVATION_CODES[output].formula(logits[j])
        code, parameters = Symbol(builder, INT(output)), RepeatedNumber(parameter)
        losses.element_losses.emit(entry, code, clipping, parameters, logits, expected, outputs, sums)
        losses.blank.emit(outputs, sums)
        if not layer.is_transposed:
            emit_transpose(
                v, memory.at(there[2]), memory.at(here[2]), LANES, stride, LANES * size, stride * size, False
            )
        return losses.emit_total(sums)

    @partial(disposable, result="float64")
    def loss(work, rows, parameter, value):
        memory, builder = Memory(work), work.builder
        add = lambda first, total: [builder.fadd(*total, emit(memory, first, parameter))]
        return carried(builder, 0, rows, [value.value], add, LANES)[0]

    return loss


# --- steps ---------------------------------------------------------------------------------------


def update(key, at, count, plan, penalised):
    """Return the intrinsic (work, penalty, constants, rate, t) of a step of `count` parameters from `at` on."""
    entry = RULE_CODES.of_key(key)
    parameters, gradients, *moments = (number * plan.section + at for number in range(plan.sections))

    @disposable
    def take(work, penalty, constants, rate, t):
        memory = Memory(work)
        arrays = [
            NumberArray(work.builder, memory.dtype, memory.at(n)) for n in (gradients, parameters, *moments)
        ]
        added = penalty if penalised else None
        emit_steps(entry, count, arrays, rate, constants_at(constants), t, added)

    return take


# --- rows of a batch -----------------------------------------------------------------------------


def gather(plan):
    """Return the intrinsic (work, inputs, targets, weights, order, start, rows, factor) that copies a block's rows.

    A loop of Numba's would copy element by element: LLVM cannot know that inputs and work do not overlap.
    """
    first, last = plan.layers[0], plan.layers[-1]
    n_in, n_out, most = first.n_in, last.n_out, plan.most

    @disposable
    def copy_rows(work, inputs, targets, weights, order, start, rows, factor):
        memory, builder, size = Memory(work), work.builder, work.itemsize
        scales = NumberArray(builder, memory.dtype, memory.at(plan.sums))
        # The loss is computed for LANES rows at once: those after the last one get the factor 0.
        lanes = memory.vectors(LANES)
        lanes.store(lanes.zero, memory.at((rows - 1) // LANES * LANES + plan.sums))
        with counted(builder, rows) as r:
            row = order[start + r]
            source = lambda array, columns: memory.v.shift(array.data, row * (columns * size))
            copy_row(memory, source(inputs, n_in), memory.at(r * n_in + plan.inputs), n_in, most)
            expected = source(targets, n_out)
            if last.is_transposed:
                from_row = NumberArray(builder, memory.dtype, expected)
                to_lane = NumberArray(builder, memory.dtype, memory.at(r + plan.targets))
                for j in range(n_out):
                    to_lane[j * plan.most_rows] = from_row[j]
            else:
                copy_row(memory, expected, memory.at(r * last.out_stride + plan.targets), n_out, most)
            scales[r] = losses.counts(factor, weights[row])

    return copy_rows


# --- copies between the caller's flat vectors and the padded sections -----------------------------


def copy_row(memory, source, target, count, most):
    """Write a copy of `count` elements by the longest vectors; the last two vectors overlap."""
    v = memory.vectors(min(most, 1 << (count.bit_length() - 1)))
    for at in (*range(0, count - v.lanes + 1, v.lanes), *([count - v.lanes] if count % v.lanes else [])):
        v.store(v.load(v.shift(source, at * v.itemsize)), v.shift(target, at * v.itemsize))


def cleared(plan):
    """Return the intrinsic (work,) that clears the gradients, a section of whole vectors."""

    @disposable
    def clear(work):
        memory = Memory(work)
        with counted(memory.builder, plan.section, memory.v.lanes) as i:
            memory.v.store(memory.v.zero, memory.at(i + plan.section))

    return clear


def copies(plan, inwards):
    """Return the intrinsic (work, number, vector) of copies between a flat vector (P,) and a section, padded with 0."""

    @disposable
    def copy(work, number, vector):
        memory, base = Memory(work), number * plan.section
        for layer in plan.layers:
            _copy_layer(memory, vector.data, layer, base, plan.most, inwards)

    return copy


def _copy_layer(memory, flat, layer, base, most, inwards):
    """Write the copy of a layer's weights and biases, or gain and shift."""
    v, size, builder = memory.vectors(layer.lanes), memory.itemsize, memory.builder
    n_in, n_out = layer.n_in, layer.n_out

    def rows(count, given, offset, length, stride):
        """Write the copies of `count` rows of `length` numbers, which lie `stride` apart in the section."""
        # Rows without padding are one array of whole vectors.
        if length == stride:
            count, length, stride = count * stride // v.lanes, v.lanes, v.lanes
        with counted(builder, count) as i:
            there = v.shift(memory.v.shift(flat, given * size), i * (length * size))
            here = v.shift(memory.at(base + offset), i * (stride * size))
            # Products run over the padding, which must add 0.
            if inwards and length < stride:
                v.store(v.zero, v.shift(here, (stride - v.lanes) * size))
            copy_row(memory, *((there, here) if inwards else (here, there)), length, most)

    (weights, biases), begin = layer.step.lengths, layer.step.flat
    if layer.weights < 0:
        return
    if layer.step.kind != "dense":
        rows(1, begin, layer.weights, weights, up(weights, layer.lanes))
    elif not layer.is_transposed:
        rows(n_in, begin, layer.weights, n_out, layer.out_stride)
    else:
        if inwards:
            # All is cleared first: the numbers are scattered, with the padding between them.
            with counted(builder, n_out * layer.in_stride, v.lanes) as i:
                v.store(v.zero, v.shift(memory.at(base + layer.weights), i * size))
        there = NumberArray(builder, memory.dtype, memory.v.shift(flat, begin * size))
        here = NumberArray(builder, memory.dtype, memory.at(base + layer.weights))
        with counted(builder, n_in) as i:
            for j in range(n_out):
                if inwards:
                    here[i + j * layer.in_stride] = there[i * n_out + j]
                else:
                    there[i * n_out + j] = here[i + j * layer.in_stride]
    if biases:
        rows(1, begin + weights, layer.biases, n_out, layer.out_stride)


# --- penalties: the sum of `fastmlp.kernels.elementwise.by_vectors` in the padded layout ----------------------

# Rows of few weights, of which several count as one, lie apart here, and a last layer may lie transposed.


def penalties(layers):
    """Return the intrinsic (work, l2) of the sum of the layers' penalties, float64."""

    @partial(disposable, result="float64")
    def total(work, l2):
        memory, value = Memory(work), ir.Constant(ir.DoubleType(), 0.0)
        v = memory.vectors(PENALTY_LANES)
        l2 = Symbol(work.builder, ir.Constant(v.scalar, 0.0)).number(l2)
        for layer in layers:
            value = work.builder.fadd(value, emit_layer_penalty(memory, layer, Penalty(v, None, l2)))
        return value

    return total


def emit_layer_penalty(memory, layer, penalty):
    """Write a layer's penalty; return a float64."""
    if layer.is_transposed or rows_as_one(layer.n_out) > 1:
        return emit_apart(memory, layer, penalty)
    columns = min(layer.out_stride, up(layer.n_out, PENALTY_LANES))
    rows = Symbol(memory.builder, INT(layer.n_in))
    address = memory.at(layer.weights)
    return emit_penalty(penalty, address, rows, columns, layer.out_stride, layer.n_in * columns)


def emit_apart(memory, layer, penalty):
    """Write the penalty of a transposed layer, or of a layer with several rows as one.

    A vector holds the weights of one output in a round of the chains, or one row of weights.
    """
    builder, n_in, n_out = memory.builder, layer.n_in, layer.n_out
    as_one = rows_as_one(n_out)
    around = as_one * PENALTY_ROWS
    if layer.is_transposed:
        v, count = memory.vectors(around), n_out
        offset = lambda number, i: i + number * layer.in_stride
        held = lambda row, unit: (unit, row)
    else:
        v, count = memory.vectors(layer.out_stride), around
        offset = lambda number, i: (i + number) * layer.out_stride
        held = lambda row, unit: (row, unit)

    def added(i, values, edge=False):
        addresses = [memory.at(offset(number, i) + layer.weights) for number in range(count)]
        left = lambda number: n_in - i if layer.is_transposed else v.lanes if i + number < n_in else 0
        masks = [v.first(left(number)) if edge else None for number in range(count)]
        return [
            penalty.added(v.load(*pair), value) for *pair, value in zip(addresses, masks, values, strict=True)
        ]

    total = penalty.none
    for first in range(0, n_in, around * PENALTY_TERMS):
        last = min(first + around * PENALTY_TERMS, n_in)
        whole = last - (last - first) % around
        values = carried(builder, first, whole, [v.zero] * count, added, around)
        if whole < last:
            values = added(whole, values, True)
        chains = []
        for row in range(0, around, as_one):
            chain = penalty.v.zero
            for lane in range(as_one * n_out):
                vector, at = held(row + lane // n_out, lane % n_out)
                number = builder.extract_element(values[vector], INT32(at))
                chain = builder.insert_element(chain, number, INT32(lane))
            chains.append(chain)
        total = penalty.grouped(total, chains)
    return penalty.whole(total)
