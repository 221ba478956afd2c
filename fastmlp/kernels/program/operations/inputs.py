"""The copy of columns of X at the begin of a block of inputs; nothing is derived by the copy."""

# mypy: ignore-errors

from typing import TYPE_CHECKING

from fastmlp.kernels.codegen.views import rows_of, units_of
from fastmlp.kernels.program.row_templates import inputs_of

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import gather


def forward(call, start, rows, number, first, last, worker):
    """Copy the columns."""
    op = call.operations[number]
    out = rows_of(units_of(call.memory, call.activations, op, rows), first, last)
    source, order = inputs_of(call, start, rows)
    gather(source, order, first, op.column, out)
