"""Stages of a small network's operations on rows: formulas of a row, activations, concatenations, dropout.

These stages mask the end of each row, so that padding stays 0; products of `stages` run over padding.
"""

from functools import partial

from llvmlite import ir
from numba import types

from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import NumberArray, counted
from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.elementwise.by_vectors import emit_drop, emit_sums, scramble
from fastmlp.kernels.program import row_formulas
from fastmlp.kernels.program.arithmetic import chances
from fastmlp.kernels.program.row_formulas import LANES, Row, number_at
from fastmlp.kernels.small.layouts import up
from fastmlp.kernels.small.stages import Memory, disposable


def _each_row(memory, rows, layer, offsets, do):
    """Write do(row) for each row, or subrow, of an operation.

    offsets : by name an array's offset, the distance of its rows (0 for one row), and of its subrows
    """
    v, builder, one = memory.vectors(LANES), memory.builder, layer.step
    numbers = [
        Symbol(builder, v.broadcast(memory.at(layer.numbers + number))) for number in range(one.numbers)
    ]

    def write(i, cut):
        addresses = {
            name: memory.at(i * stride + cut * step + at if stride else cut * step + at)
            for name, (at, stride, step) in offsets.items()
        }
        do(Row(v, one.units, float(one.units), addresses, numbers))

    with counted(builder, rows) as i:
        if one.subrows == 1:
            write(i, 0)
        else:
            with counted(builder, one.subrows) as cut:
                write(i, cut)


def row_forward(one, row):
    """Write an operation other than a product on a `Row`."""
    match one.kind:
        case "copy" | "concatenate":
            row.write(lambda x: x, ("x",))
            if one.kind == "concatenate":
                row.second(one.n_out - one.n_in, "out", one.n_in).write(lambda other: other, ("other",))
        case "activation":
            row.write(ACTIVATION_CODES.of_key(one.activation).formula, ("x",))
        case _:
            row_formulas.forward(one.entry, row)


def row_backward(one, row):
    """Write, or add to, the deltas of a row's sources, out and out2."""
    match one.kind:
        case "copy" | "concatenate":
            row.write(lambda d: d, ("delta",), adds=one.adds[0])
            if one.kind == "concatenate":
                second = row.second(one.n_out - one.n_in, "delta", one.n_in)
                second.write(lambda d: d, ("delta",), "out2", adds=one.adds[1])
        case "activation":
            entry = ACTIVATION_CODES.of_key(one.activation)
            row.write(lambda d, x, a: backward_of(entry, d, x, a), ("delta", "x", "a"), adds=one.adds[0])
        case _:
            row_formulas.backward(one.entry, row, one.adds)


def _offsets(layer, out, others):
    """The offsets of an operation's arrays: see `_each_row`. out : of the output; others : by name"""
    one = layer.step
    (gain, shift), units, saved = one.lengths, one.units, one.entry.saved
    offsets = {
        "x": (layer.inputs, layer.in_stride, units), "gain": (max(layer.weights, 0), 0, gain // one.subrows),
        "shift": (max(layer.biases, 0), 0, shift // one.subrows),
        "saved": (max(layer.saved, 0), one.subrows * saved, saved), "out": out,
    }  # fmt: skip
    if layer.other >= 0:
        offsets["other"] = layer.other, layer.other_stride, units
    return offsets | others


def forward(layer):
    """Return the stage of an operation other than a product."""
    offsets, do = (
        _offsets(layer, (layer.outputs, layer.out_stride, layer.step.units), {}),
        partial(row_forward, layer.step),
    )
    return lambda memory, rows: _each_row(memory, rows, layer, offsets, do)


def backward(layer):
    """Return the stage of the sources' deltas; None where the source is the rows of X."""
    if layer.input_deltas < 0:
        return None
    units = layer.step.units
    others = {
        "a": (layer.outputs, layer.out_stride, units), "delta": (layer.deltas, layer.out_stride, units),
    }  # fmt: skip
    if layer.other >= 0:
        others["out2"] = layer.other_deltas, layer.other_stride, units
    offsets = _offsets(layer, (layer.input_deltas, layer.in_stride, units), others)
    do = partial(row_backward, layer.step)
    return lambda memory, rows: _each_row(memory, rows, layer, offsets, do)


def gradient(layer, plan, adds):
    """Return the stage of the gradients of gain and shift over a block's rows; `adds` to earlier blocks'."""
    one, (gains, shifts) = layer.step, layer.step.lengths
    if not gains:
        return None
    gain, shift = plan.section + layer.weights, plan.section + layer.biases
    others = {"delta": (layer.deltas, layer.out_stride, one.units)}
    offsets = _offsets(layer, (gain, 0, gains // one.subrows), others)

    def stage(memory, rows):
        v = memory.vectors(layer.lanes)
        # Formulas add to the gradient row by row, so that it begins with 0.
        if not adds:
            with counted(memory.builder, up(gains, v.lanes), v.lanes) as i:
                v.store(v.zero, memory.at(i + gain))
        _each_row(memory, rows, layer, offsets, partial(row_formulas.gradient, one.entry))
        if shifts:
            stride = layer.out_stride
            emit_sums(v, rows, stride, memory.at(layer.deltas), stride * v.itemsize, memory.at(shift), adds)

    return stage


def take_numbers(layers):
    """Return the intrinsic (work, operations) that copies hyperparameters to the workspace."""

    @disposable
    def take(work, records):
        memory, record = Memory(work), records.dtype
        like = Symbol(work.builder, ir.Constant(memory.v.scalar, 0.0))
        for number, layer in enumerate(layers):
            offset = number * record.size + record.offset("numbers")
            numbers = NumberArray(work.builder, types.float64, memory.v.shift(records.data, offset))
            for i in range(layer.step.numbers):
                value = like.number(number_at(numbers, i, memory.itemsize)).value
                work.builder.store(value, memory.at(layer.numbers + i))

    return take


def drop(layer, number, source, target):
    """Return the stage of an operation's dropout, from source to target; None without dropout."""
    one, stride = layer.step, layer.out_stride
    if one.dropout == 0:
        return None
    threshold, scale = chances(one.dropout)

    def stage(memory, rows):
        word, row = scramble(memory.word ^ number), lambda offset: lambda i: memory.at(i * stride + offset)
        emit_drop(memory.v, rows, one.n_out, word, memory.first, threshold, scale, row(source), row(target))

    return stage
