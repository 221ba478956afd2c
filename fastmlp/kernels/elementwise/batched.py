"""Losses of sixteen rows at once, one row in each lane; `elementwise.losses` transposes before and after.

Separate because it is written with vectors: jitted loops over lanes took 0.8 s to compile. Arrays are (units, LANES),
and `sums` (3, LANES), each row a vector or two; lanes beyond the batch's last row hold anything. The losses of
elements are scaled before they are summed over units, because one element's may be near the greatest float.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastmlp.formulas import elementary
from fastmlp.formulas.expressions import NUMBER
from fastmlp.formulas.numbers import at_least, fma, where
from fastmlp.kernels.codegen.arrays import RepeatedNumber, VectorNumbers
from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.scalars import (
    LOG,
    ROW,
    clipped,
    emit_target_loss,
    form_of,
    literal,
    log_chain_of,
)
from fastmlp.kernels.codegen.symbols import Symbol, intrinsic_of
from fastmlp.kernels.codegen.types import FLOATS, ITEMSIZE
from fastmlp.kernels.codegen.vectors import Vectors, broadcast, counted, data_pointer, folded
from fastmlp.kernels.codes import LOSS_CODES, SOFTMAX
from fastmlp.kernels.elementwise.row_losses import emit_row_loss
from fastmlp.kernels.program.arithmetic import LOSS_ROWS

LANES = LOSS_ROWS
"""Rows at once, those of one part of the sum: one 512-bit vector of float32, two of float64."""

SCALES, LOSSES, LOG_TOTALS = range(3)
"""Rows of `sums`: the factors of the rows' losses, their losses, the logarithms of softmax's sums."""


class Rows:
    """Writes loads and stores of the first LANES numbers of a matrix's rows.

    units : the number of rows; row_bytes : bytes from one to the next; both integers or `Symbol`s
    """

    def __init__(self, builder, dtype, pointer, units, row_bytes=None):
        self.builder, self.pointer, self.units = builder, pointer, units
        self.v = Vectors(builder, dtype, LANES * ITEMSIZE[dtype])
        self.row_bytes = row_bytes or self.v.bytes

    def _place(self, unit):
        return self.v.shift(self.pointer, unit * self.row_bytes)

    def __getitem__(self, unit):
        return Symbol(self.builder, self.v.load(self._place(unit)))

    def __setitem__(self, unit, symbol):
        self.v.store(symbol.value, self._place(unit))

    def each(self, count=None):
        """Yield the index of a written loop over all units, or over the first, once."""
        with counted(self.builder, self.units if count is None else count) as unit:
            yield unit


class RegisterRows(list):
    """Rows held in registers; loops over units are unrolled. v : vectors with a lane for each row"""

    def __init__(self, v, symbols):
        super().__init__(symbols)
        self.v, self.builder, self.units = v, v.builder, len(symbols)

    def each(self, count=None):
        """Yield each unit, or the first."""
        yield from range(self.units if count is None else count)


def _taken(context, builder, kind, value):
    """An argument for `batched`: `Rows` of a matrix, `VectorNumbers` of a vector, a vector of one float, an integer."""
    if isinstance(kind, types.Array) and kind.ndim == 1:
        return VectorNumbers(builder, kind.dtype, data_pointer(context, builder, kind, value))
    if isinstance(kind, types.Array):
        units = Symbol(
            builder, builder.extract_value(context.make_array(kind)(context, builder, value).shape, 0)
        )
        return Rows(builder, kind.dtype, data_pointer(context, builder, kind, value), units)
    return Symbol(builder, broadcast(builder, value, LANES) if isinstance(kind, types.Float) else value)


def batched(emit):
    """Return the intrinsic of `emit`, which takes `Rows`, `VectorNumbers`, vectors of one number, and integers."""
    made = intrinsic_of(emit, _taken)
    made.emit = emit
    return made


def counts(share, weight):
    """The factor of a row's loss, or of several rows': the product in float64, rounded to the weight's dtype."""
    double = FLOATS[types.float64]
    if weight.lane != double:
        wide = ir.VectorType(double, weight.lanes) if weight.lanes else double
        return weight.number(share * Symbol(share.builder, share.builder.fpext(weight.value, wide)))
    return share * weight


@intrinsic
def weigh(typing_context, share, weights, first, count, sums):
    """sums[SCALES] = share * weights[first : first + count]."""

    def emit(context, builder, signature, values):
        share, _, first, count, _ = (Symbol(builder, value) for value in values)
        source, target = (
            VectorNumbers(builder, array.dtype, data_pointer(context, builder, array, value))
            for array, value in ((weights, values[1]), (sums, values[4]))
        )
        with counted(builder, count) as i:
            target[i] = counts(share, source[first + i])
        return context.get_dummy_value()

    return types.void(types.float64, weights, types.intp, types.intp, sums), emit


def emit_total(sums, count=None):
    """Write the sum of sums[LOSSES], or of the first `count`, in float64; rows with the factor 0 add 0.

    It sums by halves, lane i and lane i + LANES / 2 first: a chain of additions took 3 % of a step of 3-4-1.
    """
    builder, double = sums.builder, FLOATS[types.float64]
    losses = where(sums[SCALES].equals(0.0), 0.0, sums[LOSSES]).value
    if count is not None:
        losses = builder.select(sums.v.first(count), losses, sums.v.zero)
    if sums.v.scalar != double:
        losses = builder.fpext(losses, ir.VectorType(double, sums.v.lanes))
    return folded(builder, Symbol(builder, losses), lambda a, b: a + b).value


@intrinsic
def total_loss(typing_context, count, sums):
    """Return the sum that `emit_total` writes."""

    def emit(context, builder, signature, values):
        return emit_total(_taken(context, builder, sums, values[1]), Symbol(builder, values[0]))

    return types.float64(types.intp, sums), emit


@batched
def softmax(logits, outputs, sums):
    """outputs = softmax over the units; logits -= their maximum; sums[LOG_TOTALS] are written."""
    top = Running(logits[0])
    for j in logits.each():
        top.value = at_least(top.value, logits[j])
    total = Running(logits[0].number(0.0))
    for j in logits.each():
        z = logits[j] - top.value
        e = elementary.exp_nonpositive(z)
        logits[j], outputs[j] = z, e
        total.value = total.value + e
    inverse = 1.0 / total.value
    sums[LOG_TOTALS] = elementary.log(total.value)
    for j in logits.each():
        outputs[j] = outputs[j] * inverse


@batched
def blank(outputs, sums):
    """Deltas of rows with the factor 0 become exactly 0, where 0 * inf would be NaN."""
    none = sums[SCALES].equals(0.0)
    for j in outputs.each():
        outputs[j] = where(none, 0.0, outputs[j])


@intrinsic
def element_losses(typing_context, loss, output, clips, parameters, logits, expected, outputs, sums):
    """Write sums[LOSSES] from logits, outputs and targets; outputs become the derivatives by the logits.

    loss : its code, a constant
    """
    if literal(loss):
        entry = LOSS_CODES[loss.literal_value]
        kinds = types.intp, types.boolean, parameters, logits, expected, outputs, sums

        def emit(context, builder, signature, values):
            taken = (_taken(context, builder, *pair) for pair in zip(kinds, values[1:], strict=True))
            emit_element_losses(entry, *taken)
            return context.get_dummy_value()

        return types.void(loss, *kinds), emit


def emit_element_losses(entry, output, clips, parameters, logits, expected, outputs, sums):
    """Write the code of `element_losses`."""
    scales, builder, form = sums[SCALES], logits.builder, form_of(entry)
    if form == ROW:
        arrays = {"logit": logits, "target": expected, "output": outputs, "parameter": parameters}
        arrays[NUMBER] = RepeatedNumber(parameters[0])
        sums[LOSSES] = scales * emit_row_loss(entry, logits.each, arrays, scales)
        return
    none = scales.number(0.0)
    total, along = Running(none), Running(none)
    if form == LOG:
        log_total, numbers = sums[LOG_TOTALS], (none + parameters[0], none + parameters[1])
        of_unit = lambda j: entry.element(
            logits[j] - log_total, outputs[j], expected[j], numbers, total.value
        )
        if not entry.by_logit:
            for j in outputs.each():
                along.value = along.value + of_unit(j)[1]
        for j in outputs.each():
            total.value, slope = of_unit(j)
            outputs[j] = scales * log_chain_of(entry, slope, outputs[j], along.value)
        sums[LOSSES] = scales * (clipped.formula(clips, total.value) if entry.clips else total.value)
        return
    if "softmax" in entry.outputs:
        with builder.if_then(output.equals(SOFTMAX).value):
            for j in outputs.each():
                z, a = logits[j], outputs[j]
                _, (slope,) = entry.of_target([z], [a], expected[j], none + parameters[j])
                along.value = fma(a, slope, along.value)
    for j in outputs.each(outputs.units // entry.outputs_per_target):
        value = emit_target_loss(
            entry, output, along.value, scales, none + parameters[j], logits, expected, outputs, j
        )
        value = clipped.formula(clips, value) if entry.clips else value
        total.value = fma(scales, value, total.value)
    sums[LOSSES] = total.value
