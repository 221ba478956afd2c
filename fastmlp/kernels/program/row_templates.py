"""The first phase of a step: a worker's rows through all operations, to the loss, and back.

Templates as in `step_templates`. The operations (`fastmlp.model.operations`) are walked forward and back.
Products stand here, other operations in `operation_templates`, blocks of inputs in `input_templates`.
"""

# ruff: noqa: F821  (slots are bound later)
# mypy: ignore-errors

from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.views import (
    biases_of,
    chosen,
    lesser,
    matrix,
    no_order,
    output_of,
    part_of,
    rows_of,
    subrows_of,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import BATCH_NORM, DENSE, IDENTITY, RELU
from fastmlp.kernels.program.row_formulas import pass_on


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


def part_after(call, begin):
    """Return the end of operations [begin, ..): the next operation over the whole batch, or the last."""
    operations, end = call.operations, begin + 1
    while end < len(operations) and operations[end].kind != BATCH_NORM:
        end += 1
    return end


def part_before(call, end):
    """Return the begin of the operations before `end`: an operation over the whole batch, or the first."""
    operations, begin = call.operations, end - 1
    while begin > 0 and operations[begin].kind != BATCH_NORM:
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
        whole_forward(call, rows, of_all, step, end, moves, worker, workers)
        begin, end = end, part_after(call, end)
    return begin


def parts_backward(call, start, rows, of_all, first, last, block, end, step, worker, workers):
    """Take the deltas of a worker's rows from operation `end` to the first operation."""
    while end > 0:
        if call.rules[0, end].reached:
            whole_backward(call, rows, step, end, worker, workers)
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
    operations, parameters, memory = call.operations, call.parameters, call.memory
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    if call.bytes > 0:
        visited = vector(call.order, start + first, chosen(call.visits > 0, last - first, 0))
        part = rows_of(matrix(memory, call.batch_inputs, rows, call.n_in), first, last)
        convert_bytes(call.numbers, visited, start + first, call.scale, part)
    elif call.visits > 0 and not streams() and call.n_in > 0:
        part = rows_of(matrix(memory, call.batch_inputs, rows, call.n_in), first, last)
        gather(call.inputs, call.order, start + first, 0, part)
    source, order = inputs_of(call, start, rows)
    for number in range(begin, end):
        op = operations[number]
        a = rows_of(units_of(memory, call.activations, op, rows), first, last)
        if op.kind == DENSE:
            w, b = weights_of(parameters, op), biases_of(parameters, op)
            hidden, dense_in = op.gives_logits == 0, op.n_in - sparse_in_of(call, op)
            both = (dense_in > 0) & (dense_in < op.n_in)
            # A relu may end the tiles only if no sparse columns are added afterwards.
            relu = hidden & (op.activation == RELU) & (not both)
            joined = op.joined != 0
            ended = relu | (hidden & (op.activation == IDENTITY) & (not joined))
            # A product that needs no further pass is stored as the activations at once. A fused chain begins
            # with the logits, and its last operation stores activations.
            z = units_of(memory, chosen(ended, call.activations, call.logits), op, rows)
            if dense_in > 0:
                if number > 0:
                    below, order = operations[op.source], no_order()
                    source = output_of(memory, call.activations, call.dropped, below, rows)
                k = op.subrows
                x, out = subrows_of(source, k, dense_in), subrows_of(z, k, op.n_out)
                affine_rows(x, order, rows_of(w, 0, dense_in), b, out, first * k, last * k, relu, scratch)
            if dense_in < op.n_in:
                indptr, row_order = sparse_inputs_of(call, start + first, last - first)
                indices, values, part = call.indices, call.values, rows_of(z, first, last)
                if both:
                    # The dense columns' product has the bias already.
                    add_sparse_rows(indptr, indices, values, row_order, rows_of(w, dense_in, op.n_in), part)
                else:
                    affine_sparse_rows(indptr, indices, values, row_order, w, b, part, relu)
            if hidden and not (ended or joined):
                activate(op.activation, rows_of(z, first, last), a)
        elif op.is_block != 0:
            block_forward(call, rows, number, first, last, worker)
        else:
            operation_forward(call, start, rows, number, first, last)
        if op.dropout > 0:
            dropped = rows_of(units_of(memory, call.dropped, op, rows), first, last)
            drop_placed(call, start, step, number, first, op.dropout, a, dropped)


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


def rows_backward(call, start, rows, of_all, first, last, begin, end, step, worker):
    """Take the deltas of rows [first, last) back through operations [begin, end)."""
    # A first operation over the whole batch has only its delta written; a last one passes the delta on.
    operations, parameters, memory = call.operations, call.parameters, call.memory
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    if end < len(operations) and is_passed_on(call, end):
        operation_backward(call, rows, of_all, end, first, last)
    for number in range(end - 1, begin - 1, -1):
        # Neither the operation nor anything below it trains.
        if not call.rules[0, number].reached:
            continue
        op, delta = operations[number], units_of(memory, call.deltas, operations[number], rows)
        dense, part = op.kind == DENSE, rows_of(delta, first, last)
        if op.dropout > 0:
            drop_placed(call, start, step, number, first, op.dropout, part, part)
        # The loss has written derivatives by logits; the product above has multiplied by the relu's
        # derivative (`gates`).
        if dense and op.gives_logits == 0 and op.gated == 0 and op.activation != IDENTITY:
            a = rows_of(units_of(memory, call.activations, op, rows), first, last)
            z = rows_of(units_of(memory, call.logits, op, rows), first, last)
            activate_gradient(op.activation, z, a, part)
        if op.is_block != 0:
            block_backward(call, rows, number, first, last, worker)
            continue
        # The delta below a batch norm needs sums over all rows: `parts_backward` goes on from here.
        if op.kind == BATCH_NORM or not (is_passed_on(call, number) or op.fused > 0):
            continue
        if not dense:
            operation_backward(call, rows, of_all, number, first, last)
            continue
        dense_in, below = op.n_in - sparse_in_of(call, op), operations[op.source]
        w = rows_of(weights_of(parameters, op), 0, dense_in)
        a = units_of(memory, call.activations, below, rows)
        by_source = units_of(memory, call.deltas, below, rows)
        if op.adds == 0:
            k = op.subrows
            part = subrows_of(delta, k, op.n_out)
            a = subrows_of(a, k, dense_in)
            out = subrows_of(by_source, k, dense_in)
            input_gradient_rows(part, w, a, out, first * k, last * k, op.gates != 0, scratch)
        else:
            # Another reader has written to the source's delta: the product is formed apart, and added.
            added = matrix(memory, call.deltas + op.saved * rows, rows, dense_in)
            input_gradient_rows(delta, w, a, added, first, last, False, scratch)
            pass_on(rows_of(added, first, last), 0, True, rows_of(by_source, first, last))


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
