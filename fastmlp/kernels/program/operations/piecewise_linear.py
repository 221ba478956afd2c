"""The position of each number of a block in bins, whose edges do not train: see `PiecewiseLinear`."""

# mypy: ignore-errors

from fastmlp.kernels.codegen.views import output_of, rows_of, span, vector
from fastmlp.kernels.program.columns import units_of_column
from fastmlp.kernels.program.weight_templates import clear


def forward(call, start, rows, number, first, last, worker):
    """Compute the units."""
    op = call.operations[number]
    below, n = call.operations[op.source], op.n_out // op.columns
    x = rows_of(output_of(call.memory, call.activations, call.dropped, below, rows), first, last)
    for g in range(op.columns):
        out, unit = units_of_column(call, call.activations, op, g, rows, first, last)
        edges = vector(call.parameters, op.trained + g * n, n)
        bins(x, g, edges, vector(call.parameters, op.trained + op.n_out + g * n, n), unit, out)


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Clear the gradient of the state, which a norm or a sum over ranks reads."""
    op = call.operations[number]
    if worker == 0:
        clear(span(call.gradients, op.trained, op.end))


def bins(x, column, edges, slopes, unit, out):
    """Columns of out from `unit` on = column x by bins; edges, slopes : (bins,)"""
    count = len(edges)
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(x.shape[0]):
        value = x[i, column]
        for j in range(count):
            fraction = (value - edges[j]) * slopes[j]
            lowest, highest = (zero if j > 0 else -one), (one if j < count - 1 else one + one)
            fraction = lowest if fraction < lowest else fraction
            out[i, unit + j] = highest if fraction > highest else fraction
