"""The first phase of a step: a worker's rows through all operations, to the loss, and back.

Templates as in `step_templates`. The operations (`fastmlp.model.operations`) are walked forward and back;
what an operation does stands in its file in `fastmlp.kernels.program.operations`.
"""

# mypy: ignore-errors

from typing import TYPE_CHECKING

from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.views import chosen, lesser, matrix, no_order, rows_of, units_of, vector
from fastmlp.kernels.program.slots import (
    operation_backward,
    operation_forward,
    operation_statistics,
    operation_statistics_gradient,
    streams,
)

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import drop, gather


def part_after(call, begin):
    """Return the end of operations [begin, ..): the next operation over the whole batch, or the last."""
    operations, end = call.operations, begin + 1
    while end < len(operations) and operations[end].whole_batch == 0:
        end += 1
    return end


def part_before(call, end):
    """Return the begin of the operations before `end`: an operation over the whole batch, or the first."""
    operations, begin = call.operations, end - 1
    while begin > 0 and operations[begin].whole_batch == 0:
        begin -= 1
    return begin


def parts_forward(call, start, rows, of_all, first, last, block, step, moves, worker, workers):
    """Take a worker's rows [first, last) to the last operation over the whole batch; return its number or 0.

    of_all : rows of the batch on all ranks; block : rows at a time; moves : whether running states move
    """
    begin, end = 0, part_after(call, 0)
    while end < call.depth:
        for at in range(first, last, block):
            rows_forward(call, start, rows, at, lesser(at + block, last), begin, end, step, worker)
        file = call.operations[end].file
        operation_statistics(file, call, rows, of_all, step, end, moves, worker, workers)
        begin, end = end, part_after(call, end)
    return begin


def parts_backward(call, start, rows, of_all, first, last, block, end, step, worker, workers):
    """Take the deltas of a worker's rows from operation `end` to the first operation."""
    while end > 0:
        if call.rules[0, end].reached:
            operation_statistics_gradient(call.operations[end].file, call, rows, step, end, worker, workers)
        begin = part_before(call, end)
        for at in range(first, last, block):
            stop = lesser(at + block, last)
            rows_backward(call, start, rows, of_all, at, stop, begin, end, step, worker)
        end = begin


def rows_forward(call, start, rows, first, last, begin, end, step, worker):
    """Take rows [first, last) of a batch of `rows` rows through operations [begin, end), to the last logits.

    call : a `call_record.CallRecord`; start : see `inputs_of`
    step : updates before this step, for the dropout masks; worker : the owner of the scratch
    """
    take_inputs(call, start, rows, first, last)
    for number in range(begin, end):
        op = call.operations[number]
        operation_forward(op.file, call, start, rows, number, first, last, worker)
        if op.dropout > 0:
            a = rows_of(units_of(call.memory, call.activations, op, rows), first, last)
            dropped = rows_of(units_of(call.memory, call.dropped, op, rows), first, last)
            drop_placed(call, start, step, number, first, op.dropout, a, dropped)


def rows_backward(call, start, rows, of_all, first, last, begin, end, step, worker):
    """Take the deltas of rows [first, last) back through operations [begin, end)."""
    # A first operation over the whole batch has only its delta written; a last one passes the delta on.
    operations = call.operations
    if end < len(operations):
        operation_backward(operations[end].file, call, rows, of_all, end, first, last, worker)
    for number in range(end - 1, begin - 1, -1):
        op = operations[number]
        # Neither the operation nor anything below it trains.
        if not call.rules[0, number].reached:
            continue
        if op.dropout > 0:
            delta = rows_of(units_of(call.memory, call.deltas, op, rows), first, last)
            drop_placed(call, start, step, number, first, op.dropout, delta, delta)
        # The delta below a batch norm needs sums over all rows: `parts_backward` goes on from here.
        if op.whole_batch == 0:
            operation_backward(op.file, call, rows, of_all, number, first, last, worker)


def take_inputs(call, start, rows, first, last):
    """Convert or gather rows [first, last) of a batch's inputs, where products do not read them in place."""
    if call.bytes > 0:
        visited = vector(call.order, start + first, chosen(call.visits > 0, last - first, 0))
        part = rows_of(matrix(call.memory, call.batch_inputs, rows, call.n_in), first, last)
        convert_bytes(call.numbers, visited, start + first, call.scale, part)
    elif call.visits > 0 and not streams() and call.n_in > 0:
        part = rows_of(matrix(call.memory, call.batch_inputs, rows, call.n_in), first, last)
        gather(call.inputs, call.order, start + first, 0, part)


def drop_placed(call, start, step, number, first, p, a, out):
    """`drop` for a part of a step's rows, with the masks of the rows' positions among all rows."""
    if call.placed == 0:
        drop(call.key, step, number, start - call.starts[step - call.step] + first, p, a, out)
    else:
        # Rows of a rank lie scattered in the batch of all ranks, and a mask is a function of the position
        # there.
        for i in range(a.shape[0]):
            row, position = rows_of(out, i, i + 1), call.positions[start + first + i]
            drop(call.key, step, number, position, p, rows_of(a, i, i + 1), row)


def inputs_of(call, start, rows):
    """Return the inputs of a batch from visit `start` on, and the order of its rows, empty without one."""
    if call.bytes == 0:
        if call.visits == 0:
            return rows_of(call.inputs, start, start + rows), no_order()
        # Kernels that stream read each row where it lies; the others, and bytes, have the batch gathered.
        if streams():
            return call.inputs, vector(call.order, start, rows)
    return matrix(call.memory, call.batch_inputs, rows, call.n_in), no_order()


def sparse_inputs_of(call, start, rows):
    """Return the indptr of a batch's sparse inputs, and the order of its rows, as `inputs_of`."""
    if call.visits == 0:
        return vector(call.indptr, start, rows + 1), no_order()
    return call.indptr, vector(call.order, start, rows)


def sparse_in_of(call, op):
    """Return how many inputs of a product, the last inputs, are columns of sparse rows."""
    return chosen(call.bounds > 0, op.sparse_in, 0)


def is_passed_on(call, number):
    """Return whether the loss's derivative by an operation's source is needed, see `RULE`."""
    op = call.operations[number]
    first, other = op.source, op.other
    return (first >= 0 and call.rules[0, first].reached) or (other >= 0 and call.rules[0, other].reached)


def convert_bytes(numbers, order, first, scale, out):
    """out (visited, columns) = numbers (rows, columns) uint8 at order (visited,) int64, times scale[0].

    Without an order, out has rows first, first + 1, .. of numbers. scale : (1,) float64
    """
    wide_vectors()
    columns, factor = out.shape[1], out.dtype.type(scale[0])
    for i in range(out.shape[0]):
        row = order[i] if len(order) > 0 else first + i
        source, target = vector(numbers, row * columns, columns), vector(out, i * columns, columns)
        for j in range(columns):
            target[j] = out.dtype.type(source[j]) * factor
