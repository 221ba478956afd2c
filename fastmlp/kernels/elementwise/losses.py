"""Losses of sixteen rows together, a row in each lane; users' losses of rows; and softmax.

A sum over a row's units is a chain of additions, and a row of 10 units fills no vector: the softmax and cross-entropy
of 128 such rows took 14 us row by row. Here logits and targets of sixteen rows are transposed, every sum over units is
a sum of vectors, and the deltas are transposed back: 3 us. Jitted loops over lanes took 0.8 s to compile.

Arrays are (units, LANES), and `sums` (3, LANES); lanes beyond the batch's last row hold anything. The losses of elements
are scaled before they are summed over units, because an element's loss may be near the greatest float.
"""

from functools import partial
from typing import TYPE_CHECKING

from llvmlite import ir
from numba import types

from fastmlp.formulas import elementary
from fastmlp.formulas.elementary import exp_nonpositive
from fastmlp.formulas.expressions import NUMBER, ONES
from fastmlp.formulas.numbers import at_least, fma, where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.row_expressions import OneByOne, Running, emit_row
from fastmlp.kernels.codegen.scalars import (
    LOG,
    ROW,
    clipped,
    emit_target_loss,
    form_of,
    log_chain_of,
    loss_form,
)
from fastmlp.kernels.codegen.symbols import FLOATS, Symbol
from fastmlp.kernels.codegen.vectors import (
    RepeatedNumber,
    VectorArray,
    Vectors,
    broadcast,
    counted,
    folded,
    of_arrays,
    of_code,
    operand,
)
from fastmlp.kernels.codegen.views import lesser, matrix
from fastmlp.kernels.codes import SOFTMAX
from fastmlp.kernels.gemm.packing import transpose
from fastmlp.kernels.program.arithmetic import LOSS_ROWS

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import activate


LANES = LOSS_ROWS
"""Rows of a part of the sum: a 512-bit vector of float32, two of float64."""

SCALES, LOSSES, LOG_TOTALS = range(3)
"""Rows of `sums`: the factors of the rows' losses, their losses, the logarithms of softmax's sums."""


def _operand(context, builder, kind, value):
    """An argument for `batched`: vectors of a matrix's rows, a `Matrix` of a vector, a vector of a float, an integer."""
    if isinstance(kind, types.Float):
        return Symbol(builder, broadcast(builder, value, LANES))
    argument = operand(context, builder, kind, value)
    if not isinstance(kind, types.Array) or kind.ndim == 1:
        return argument
    return VectorArray(Vectors(builder, kind.dtype, LANES * argument.itemsize), argument.data, argument.rows)


batched = partial(of_arrays, operand=_operand)


def counts(factor, weight):
    """The factor of a row's loss, or of several rows': the product in float64, rounded to the weight's dtype."""
    double = FLOATS[types.float64]
    if weight.lane != double:
        wide = ir.VectorType(double, weight.lanes) if weight.lanes else double
        return weight.number(factor * Symbol(factor.builder, factor.builder.fpext(weight.value, wide)))
    return factor * weight


@of_arrays
def weigh(factor, weights, first, count, sums):
    """sums[SCALES] = factor * weights[first : first + count]."""
    with counted(factor.builder, count) as i:
        sums[i] = counts(factor, weights[first + i])


def emit_total(sums, count=None):
    """Write the float64 sum of sums[LOSSES], by halves; a chain of additions took 3 % of a step of 3-4-1."""
    builder, double = sums.builder, FLOATS[types.float64]
    losses = where(sums[SCALES].equals(0.0), 0.0, sums[LOSSES]).value
    if count is not None:
        losses = builder.select(sums.v.first(count), losses, sums.v.zero)
    if sums.v.scalar != double:
        losses = builder.fpext(losses, ir.VectorType(double, sums.v.lanes))
    return folded(builder, Symbol(builder, losses), lambda a, b: a + b).value


@partial(batched, result="float64")
def total_loss(count, sums):
    """Return the sum that `emit_total` writes."""
    return emit_total(sums, count)


@batched
def softmax_by_lanes(logits, outputs, sums):
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
    """Set deltas of rows with the factor 0 to 0, since 0 * inf is NaN."""
    none = sums[SCALES].equals(0.0)
    for j in outputs.each():
        outputs[j] = where(none, 0.0, outputs[j])


@of_code("loss", results=0, operand=_operand)
def element_losses(entry, output, clips, parameters, logits, expected, outputs, sums):
    """Write sums[LOSSES] from logits, outputs and targets; outputs become the derivatives by the logits."""
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


def output_loss(loss, output, parameters, factor, z, targets, weights, scratch, delta):
    """Contract of baseline's slot. scratch : of 3 * LANES * (units + 1) numbers"""
    rows, units = z.shape
    size = units * LANES
    logits, expected = matrix(scratch, 0, units, LANES), matrix(scratch, size, units, LANES)
    outputs, sums = matrix(scratch, 2 * size, units, LANES), matrix(scratch, 3 * size, 3, LANES)
    clips = parameters[0] < 0
    objective = 0.0
    for start in range(0, rows, LANES):
        count = lesser(LANES, rows - start)
        # Lanes beyond the last row hold old numbers; their results are not used.
        transpose(count, units, z, start * units, units, logits, 0, LANES)
        transpose(count, units, targets, start * units, units, expected, 0, LANES)
        weigh(factor, weights, start, count, sums)
        if output == SOFTMAX:
            softmax_by_lanes(logits, outputs, sums)
            # A loss of rows reads the logits before `softmax_by_lanes` subtracted their maximum.
            if loss_form(loss) == ROW:
                transpose(count, units, z, start * units, units, logits, 0, LANES)
        else:
            activate(output, logits, outputs)
        element_losses(loss, output, clips, parameters, logits, expected, outputs, sums)
        blank(outputs, sums)
        transpose(units, count, outputs, 0, LANES, delta, start * units, units)
        objective += total_loss(count, sums)
    return objective


# --- users' losses of rows, whose expressions have sums and maxima over units: of one row, or of sixteen ---


def emit_row_loss(entry, each, arrays, scale):
    """Write the loss of a row, or of several, not scaled; arrays["output"] become the scaled derivatives."""
    arrays, fixed = {**arrays, ONES: RepeatedNumber(scale.number(1.0))}, {NUMBER: arrays[NUMBER][0]}

    def read(unit, mask):
        return {name: array[unit] for name, array in arrays.items() if name != NUMBER}

    def write(unit, mask, number):
        arrays["output"][unit] = scale * number

    known = emit_row(OneByOne(each, scale), read, [(entry.delta, write)], fixed, [entry.value])
    value = known[id(entry.value)]
    return value if isinstance(value, Symbol) else scale.number(value)


@of_code("loss")
def row_loss(entry, scale, parameters, logits, targets, outputs):
    """Return a user's loss of a row; outputs (units,) become scale times the derivative. 0 for fastmlp's losses."""
    if entry.element:
        return scale.number(0.0)
    arrays = {"parameter": parameters, "logit": logits, "target": targets, "output": outputs}
    arrays[NUMBER] = RepeatedNumber(parameters[0])

    def each():
        with counted(scale.builder, logits.units) as unit:
            yield unit

    return emit_row_loss(entry, each, arrays, scale)


# --- softmax by whole vectors of a row: each lane has a maximum and a sum, which are combined by halves ----


@of_arrays
def softmax_of_rows(z, out):
    """out (rows, classes) = exp(z) / its row sums; each row's maximum is subtracted from z first; out may be z."""
    build = z.builder
    v = Vectors(build, z.dtype, host().vector_bytes)

    def within(mask, value, other):
        """The value in the lanes of a row, the other value beyond."""
        return value if mask is None else Symbol(build, build.select(mask, value.value, other.value))

    def of_all(value, combine):
        """The combination of all lanes, in every lane."""
        return Symbol(build, broadcast(build, folded(build, value, combine).value, v.lanes))

    with counted(build, z.rows) as i:
        source, target = z.at(i), out.at(i)
        first, none = Symbol(build, v.broadcast(source)), Symbol(build, v.zero)
        at = lambda row, j: v.shift(row, j * v.itemsize)
        load = lambda row, j, mask: Symbol(build, v.load(at(row, j), mask))
        top, total = Running(first), Running(none)

        def raise_top(j, mask):
            top.value = at_least(top.value, within(mask, load(source, j, mask), first))

        def add_term(j, mask):
            term = exp_nonpositive(load(source, j, mask) - highest)
            v.store(term.value, at(target, j), mask)
            total.value = total.value + within(mask, term, none)

        def divide(j, mask):
            v.store((load(target, j, mask) * inverse).value, at(target, j), mask)

        v.over(z.columns, raise_top)
        highest = of_all(top.value, at_least)
        v.over(z.columns, add_term)
        inverse = 1.0 / of_all(total.value, lambda a, b: a + b)
        v.over(z.columns, divide)
