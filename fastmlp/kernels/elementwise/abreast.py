"""Losses of sixteen rows at once, a row to a lane: what `fastmlp.kernels.elementwise.narrow` does between two transposes.

Separate because it is written in vectors, where jitted loops over lanes took 0.8 s to compile. Arrays are
(units, LANES), and `sums` (3, LANES), a vector to each row; lanes beyond the batch's last row hold anything.
What is summed over units is scaled first: the loss of an element may be near the greatest float.
"""

# mypy: ignore-errors

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas import elementary
from fastmlp.formulas.expressions import NUMBER
from fastmlp.formulas.numbers import at_least, fma, where
from fastmlp.kernels.codegen.scalars import chain_of, clipped, literal
from fastmlp.kernels.codegen.symbols import Symbol, intrinsic_of
from fastmlp.kernels.codegen.vectors import FLOATS, INT, ITEMSIZE, broadcast, counted, data_pointer
from fastmlp.kernels.codes import LOSS_CODES, SOFTMAX
from fastmlp.kernels.elementwise.row_losses import First, Numbers, Running, emit_row_loss

LANES = 16
"""Rows abreast: a wide vector of float32, two of float64."""

SCALES, LOSSES, LOG_TOTALS = range(3)
"""Rows of `sums`: what the rows count, their losses, the logarithms of softmax's sums."""


class Rows:
    """Emits loads and stores of an array's rows."""

    def __init__(self, builder, dtype, pointer, units):
        self.builder, self.pointer, self.units = builder, pointer, units
        self.type, self.align = ir.VectorType(FLOATS[dtype], LANES), ITEMSIZE[dtype]

    def _place(self, unit):
        at = INT(unit) if isinstance(unit, int) else unit
        return self.builder.gep(self.pointer, [at], source_etype=self.type)

    def __getitem__(self, unit):
        return Symbol(self.builder, self.builder.load(self._place(unit), typ=self.type, align=self.align))

    def __setitem__(self, unit, symbol):
        self.builder.store(symbol.value, self._place(unit), align=self.align)

    def each(self):
        """The loop over units."""
        return counted(self.builder, self.units)


def _taken(context, builder, kind, value):
    """An argument as `abreast` says: rows of an array, numbers of another, a vector of one float, an integer."""
    if isinstance(kind, types.Array) and kind.ndim == 1:
        return Numbers(builder, kind.dtype, data_pointer(context, builder, kind, value))
    if isinstance(kind, types.Array):
        units = builder.extract_value(context.make_array(kind)(context, builder, value).shape, 0)
        return Rows(builder, kind.dtype, data_pointer(context, builder, kind, value), units)
    return Symbol(builder, broadcast(builder, value, LANES) if isinstance(kind, types.Float) else value)


def abreast(emit):
    """Make of `emit`, which takes `Rows`, vectors of one number, and integers, what jitted code calls."""
    return intrinsic_of(emit, _taken)


@intrinsic
def weigh(typing_context, share, weights, first, count, sums):
    """sums[SCALES] = share * weights[first : first + count]."""

    def emit(context, builder, signature, values):
        source = data_pointer(context, builder, weights, values[1])
        target = data_pointer(context, builder, sums, values[4])
        element, double = FLOATS[weights.dtype], FLOATS[types.float64]
        convert = builder.fptrunc if element != double else lambda value, kind: value
        widen = builder.fpext if element != double else convert
        with counted(builder, values[3]) as i:
            at = builder.gep(source, [builder.add(values[2], i)], source_etype=element)
            scale = builder.fmul(values[0], widen(builder.load(at, typ=element), double))
            builder.store(convert(scale, element), builder.gep(target, [i], source_etype=element))
        return context.get_dummy_value()

    return types.void(types.float64, weights, types.intp, types.intp, sums), emit


@intrinsic
def total_loss(typing_context, count, sums):
    """Return the first `count` of sums[LOSSES], added one by one in float64; rows that count 0 add 0."""

    def emit(context, builder, signature, values):
        place = data_pointer(context, builder, sums, values[1])
        element, double = FLOATS[sums.dtype], FLOATS[types.float64]
        total = cgutils.alloca_once_value(builder, ir.Constant(double, 0.0))
        at = lambda row, i: builder.gep(place, [builder.add(INT(row * LANES), i)], source_etype=element)
        read = lambda row, i: builder.load(at(row, i), typ=element)
        with counted(builder, values[0]) as i:
            none = builder.fcmp_ordered("==", read(SCALES, i), ir.Constant(element, 0.0))
            loss = builder.select(none, ir.Constant(element, 0.0), read(LOSSES, i))
            loss = loss if element == double else builder.fpext(loss, double)
            builder.store(builder.fadd(builder.load(total), loss), total)
        return builder.load(total)

    return types.float64(types.intp, sums), emit


@abreast
def softmax(logits, outputs, sums):
    """outputs = softmax down the columns; logits less their maximum; sums[LOG_TOTALS]."""
    top = Running(logits[0])
    with logits.each() as j:
        top.value = at_least(top.value, logits[j])
    total = Running(logits[0].number(0.0))
    with logits.each() as j:
        z = logits[j] - top.value
        e = elementary.exp_nonpositive(z)
        logits[j], outputs[j] = z, e
        total.value = total.value + e
    inverse = 1.0 / total.value
    sums[LOG_TOTALS] = elementary.log(total.value)
    with logits.each() as j:
        outputs[j] = outputs[j] * inverse


@abreast
def cross_entropy(clips, logits, wanted, outputs, sums):
    """After `softmax`: sums[LOSSES] = scale * sum of -wanted * log(outputs); outputs become the deltas."""
    scales, log_total, loss = sums[SCALES], sums[LOG_TOTALS], Running(logits[0].number(0.0))
    with logits.each() as j:
        y = wanted[j]
        loss.value = fma(y, log_total - logits[j], loss.value)
        outputs[j] = scales * (outputs[j] - y)
    sums[LOSSES] = scales * clipped.formula(clips, loss.value)


@abreast
def blank(outputs, sums):
    """Deltas of rows that count 0 become exactly 0: 0 * inf must not arise."""
    none = sums[SCALES].equals(0.0)
    with outputs.each() as j:
        outputs[j] = where(none, 0.0, outputs[j])


@intrinsic
def element_losses(typing_context, loss, output, clips, parameters, logits, wanted, outputs, sums):
    """sums[LOSSES] of logits, outputs and targets; outputs become the derivative by the logits.

    loss : its code, a constant
    """
    if literal(loss):
        entry = LOSS_CODES[loss.literal_value]
        kinds = types.intp, types.boolean, parameters, logits, wanted, outputs, sums

        def emit(context, builder, signature, values):
            taken = (_taken(context, builder, *pair) for pair in zip(kinds, values[1:], strict=True))
            emit_element_losses(entry, *taken)
            return context.get_dummy_value()

        return types.void(loss, *kinds), emit


def emit_element_losses(entry, output, clips, parameters, logits, wanted, outputs, sums):
    """Write what `element_losses` does."""
    scales, builder = sums[SCALES], logits.builder
    if entry.element is None:
        arrays = {"logit": logits, "target": wanted, "output": outputs, "parameter": parameters}
        arrays[NUMBER] = First(parameters)
        sums[LOSSES] = scales * emit_row_loss(builder, entry, logits.units, arrays, scales)
        return
    none = scales.number(0.0)
    total, along = Running(none), Running(none)
    of_unit = lambda j: entry.element(logits[j], outputs[j], wanted[j], none + parameters[j])
    if "softmax" in entry.outputs:
        with builder.if_then(output.equals(SOFTMAX).value), outputs.each() as j:
            along.value = fma(outputs[j], of_unit(j)[1], along.value)
    with outputs.each() as j:
        value, slope = of_unit(j)
        value = clipped.formula(clips, value) if entry.clips else value
        total.value = fma(scales, value, total.value)
        outputs[j] = scales * chain_of(entry, output, slope - along.value, outputs[j])
    sums[LOSSES] = total.value
