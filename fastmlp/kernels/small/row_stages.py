"""The stages of a small network's operations on rows: norms, unitwise operations, sums, concatenations, dropout.

Separate because a row is taken by itself here, masked at its end, so that padding stays 0; products and activations
of `fastmlp.kernels.small.stages` run over padding.
"""

# mypy: ignore-errors

from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.vectors import counted
from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.elementwise.column_sums import emit_sums
from fastmlp.kernels.elementwise.dropout import emit_drop, scramble
from fastmlp.kernels.program.arithmetic import chances
from fastmlp.kernels.program.row_formulas import LANES, Row, writer_of
from fastmlp.kernels.small.padded import up

MACHINE_EPSILON = {4: 2.0**-23, 8: 2.0**-52}
"""The epsilon of a norm that has none of its own, by the bytes of a number."""


def _each_row(memory, rows, units, offsets, do):
    """Write do(row) for each row; offsets : by name an array's offset and the distance of its rows, 0 for one row."""
    v = memory.vectors(LANES)
    with counted(memory.builder, rows) as i:
        places = {
            name: memory.at(i * stride + at if stride else at) for name, (at, stride) in offsets.items()
        }
        do(Row(v, units, float(units), places))


def row_forward(one, row, epsilon):
    """Write an operation that is no product on a row, a `Row`; epsilon : of a norm"""
    match one.kind:
        case "add":
            row.write(lambda x, other: x + other, ("x", "other"))
        case "copy":
            row.write(lambda x: x, ("x",))
        case "activation":
            row.write(ACTIVATION_CODES.of_key(one.activation).formula, ("x",))
        case "concatenate":
            row.write(lambda x: x, ("x",))
            row.second(one.n_out - one.n_in, "out", one.n_in).write(lambda other: other, ("other",))
        case _:
            writer_of(one.entry).forward(one.entry, row, epsilon)


def row_backward(one, row):
    """Write the deltas of a row's sources to out and out2, or add to them."""
    match one.kind:
        case "add":
            row.write(lambda d: d, ("delta",), adds=one.adds[0])
            row.write(lambda d: d, ("delta",), "out2", adds=one.adds[1])
        case "copy":
            row.write(lambda d: d, ("delta",), adds=one.adds[0])
        case "activation":
            entry = ACTIVATION_CODES.of_key(one.activation)
            row.write(lambda d, x, a: backward_of(entry, d, x, a), ("delta", "x", "a"), adds=one.adds[0])
        case "concatenate":
            row.write(lambda d: d, ("delta",), adds=one.adds[0])
            second = row.second(one.n_out - one.n_in, "delta", one.n_in)
            second.write(lambda d: d, ("delta",), "out2", adds=one.adds[1])
        case _:
            writer_of(one.entry).backward(one.entry, row, one.adds[0])


def epsilon_of(one, itemsize):
    """Return the epsilon of a norm; itemsize : bytes of a number"""
    return MACHINE_EPSILON[itemsize] if one.epsilon is None else one.epsilon


def forward(one, layer):
    """The stage of an operation that is no product."""
    x, out = (layer.inputs, layer.in_stride), (layer.outputs, layer.out_stride)
    offsets = {"x": x, "out": out, "gain": (max(layer.weights, 0), 0), "shift": (max(layer.biases, 0), 0)}
    offsets["kept"] = max(layer.kept, 0), one.entry.kept
    if layer.other >= 0:
        offsets["other"] = layer.other, layer.other_stride

    def stage(memory, rows):
        do = lambda row: row_forward(one, row, epsilon_of(one, memory.itemsize))
        _each_row(memory, rows, one.n_in, offsets, do)

    return stage


def backward(one, layer):
    """The stage that writes the deltas of its sources, or adds to them; None where it reads the rows of X."""
    if layer.input_deltas < 0:
        return None
    offsets = {
        "x": (layer.inputs, layer.in_stride), "a": (layer.outputs, layer.out_stride),
        "delta": (layer.deltas, layer.out_stride), "out": (layer.input_deltas, layer.in_stride),
        "gain": (max(layer.weights, 0), 0), "kept": (max(layer.kept, 0), one.entry.kept),
    }  # fmt: skip
    if layer.other >= 0:
        offsets["out2"] = layer.other_deltas, layer.other_stride
    return lambda memory, rows: _each_row(memory, rows, one.n_in, offsets, lambda row: row_backward(one, row))


def gradient(one, layer, plan, adds):
    """The stage of the gradients of gain and shift over a block's rows; added to those before if `adds`."""
    if not layer.gain:
        return None
    kind = one.entry
    gain, shift = plan.gradients + layer.weights, plan.gradients + layer.biases
    offsets = {
        "x": (layer.inputs, layer.in_stride), "delta": (layer.deltas, layer.out_stride), "out": (gain, 0),
        "gain": (layer.weights, 0), "kept": (max(layer.kept, 0), one.entry.kept),
    }  # fmt: skip

    def stage(memory, rows):
        v = memory.vectors(layer.lanes)
        if not adds:
            with counted(memory.builder, up(layer.gain, v.lanes), v.lanes) as i:
                v.store(v.zero, memory.at(i + gain))
        _each_row(memory, rows, one.n_in, offsets, lambda row: writer_of(kind).gradient(kind, row))
        if layer.shift:
            stride = layer.out_stride
            emit_sums(v, rows, stride, memory.at(layer.deltas), stride * v.itemsize, memory.at(shift), adds)

    return stage


def drop(one, number, source, target, stride):
    """The stage of an operation's dropout, from one place to another; None where it has none."""
    if one.dropout == 0:
        return None
    threshold, scale = chances(one.dropout)

    def stage(memory, rows):
        word, row = scramble(memory.word ^ number), lambda offset: lambda i: memory.at(i * stride + offset)
        emit_drop(memory.v, rows, one.n_out, word, memory.first, threshold, scale, row(source), row(target))

    return stage
