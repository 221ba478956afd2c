"""Users' losses whose expressions have sums and maxima over a row's units: of one row, or of sixteen at once."""

# mypy: ignore-errors

from fastmlp.formulas.expressions import NUMBER, ONES
from fastmlp.kernels.codegen.arrays import RepeatedNumber
from fastmlp.kernels.codegen.row_expressions import OneByOne, emit_row
from fastmlp.kernels.codegen.scalars import of_code
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import counted


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


@of_code("loss")
def row_loss(entry, scale, parameters, logits, targets, outputs):
    """Return a user's loss of one row; 0 for a loss of fastmlp's own.

    logits, targets, outputs : (units,); outputs become scale times the derivative by the logits
    parameters : (units,) float64
    """
    if entry.element:
        return scale.number(0.0)
    arrays = {"parameter": parameters, "logit": logits, "target": targets, "output": outputs}
    arrays[NUMBER] = RepeatedNumber(parameters[0])

    def each():
        with counted(scale.builder, logits.units) as unit:
            yield unit

    return emit_row_loss(entry, each, arrays, scale)
