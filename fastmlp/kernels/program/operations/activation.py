"""An activation by itself, behind a layer that is no product."""

# mypy: ignore-errors

from typing import TYPE_CHECKING

from fastmlp.kernels.codegen.views import chosen, output_of, rows_of, units_of
from fastmlp.kernels.program.row_formulas import pass_on
from fastmlp.kernels.program.row_templates import is_passed_on

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import activate, activate_gradient


def forward(call, start, rows, number, first, last, worker):
    """Compute the activation."""
    memory, op = call.memory, call.operations[number]
    x = output_of(memory, call.activations, call.dropped, call.operations[op.source], rows)
    buffer = chosen(op.gives_logits != 0, call.logits, call.activations)
    activate(op.activation, rows_of(x, first, last), rows_of(units_of(memory, buffer, op, rows), first, last))


def backward(call, rows, of_all, number, first, last, worker):
    """Multiply the delta by the slope, and pass it to the source."""
    if not is_passed_on(call, number):
        return
    memory, op = call.memory, call.operations[number]
    below = call.operations[op.source]
    x = rows_of(output_of(memory, call.activations, call.dropped, below, rows), first, last)
    a = rows_of(units_of(memory, call.activations, op, rows), first, last)
    delta = rows_of(units_of(memory, call.deltas, op, rows), first, last)
    activate_gradient(op.activation, x, a, delta)
    pass_on(delta, 0, op.adds != 0, rows_of(units_of(memory, call.deltas, below, rows), first, last))
