"""Users' losses whose expressions have sums and maxima over a row's units: of one row, or of sixteen at once."""

# mypy: ignore-errors

from numba import types
from numba.extending import intrinsic

from fastmlp.formulas.expressions import NUMBER, ONES
from fastmlp.kernels.codegen.arrays import RepeatedNumber, VectorNumbers
from fastmlp.kernels.codegen.row_expressions import OneByOne, emit_row
from fastmlp.kernels.codegen.scalars import literal
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import counted
from fastmlp.kernels.codes import LOSS_CODES


def emit_row_loss(entry, each, arrays, scale):
    """Write the loss of a row, or of several; return it, not scaled, a `Symbol`.

    each : see `OneByOne`
    arrays : the values of the expressions' variables, by unit; those of "output" become the scaled derivatives
    scale : the factor of the row's loss, or of several rows', a `Symbol`
    """
    arrays, fixed = {**arrays, ONES: RepeatedNumber(scale.number(1.0))}, {NUMBER: arrays[NUMBER][0]}

    def read(unit, mask):
        return {name: array[unit] for name, array in arrays.items() if name != NUMBER}

    def write(unit, mask, number):
        arrays["output"][unit] = scale * number

    known = emit_row(OneByOne(each, scale), read, [(entry.delta, write)], fixed, [entry.value])
    value = known[id(entry.value)]
    return value if isinstance(value, Symbol) else scale.number(value)


@intrinsic
def row_loss(typing_context, loss, scale, parameters, z, targets, delta):
    """Return a user's loss of one row; 0 for a loss of fastmlp's own. loss : its code, a constant

    z, targets, delta : (units,); delta holds the outputs, and becomes scale times the derivative by z
    parameters : (units,) float64
    """
    if literal(loss) and isinstance(scale, types.Float):
        entry = LOSS_CODES[loss.literal_value]

        def emit(context, builder, signature, values):
            scaled = Symbol(builder, values[1])
            if entry.element:
                return scaled.number(0.0).value
            names = ("parameter", "logit", "target", "output")
            pairs = zip(signature.args[2:], values[2:], strict=True)
            arrays = {
                name: VectorNumbers.of_array(context, builder, *pair)
                for name, pair in zip(names, pairs, strict=True)
            }
            arrays[NUMBER] = RepeatedNumber(arrays["parameter"][0])

            def each():
                with counted(builder, arrays["logit"].units) as unit:
                    yield unit

            return emit_row_loss(entry, each, arrays, scaled).value

        return scale(loss, scale, parameters, z, targets, delta), emit
