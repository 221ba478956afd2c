"""The parts of a step by themselves, between which a user's own loss is computed.

Templates as those of `step_templates`: `forward` takes a batch through the layers and keeps what `backward`
needs in the call's memory; `penalize` and then `update` take the optimiser's step. Each operation is that of
a whole step, so together they have its bits.
"""

# mypy: ignore-errors

from functools import partial
from typing import TYPE_CHECKING

from numba import types

from fastmlp.formulas.numbers import fma
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.row_expressions import Running
from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.symbols import FLOATS, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, folded, of_arrays
from fastmlp.kernels.codegen.views import (
    biases_of,
    chosen,
    lesser,
    matrix,
    part_of,
    rows_of,
    units_in_columns,
    units_of,
    vector,
    weights_of,
)
from fastmlp.kernels.codes import DENSE, SOFTMAX
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.output_templates import (
    clear_unasked,
    outputs_backward,
    rows_loss,
    rows_outputs,
)
from fastmlp.kernels.program.row_formulas import pass_on
from fastmlp.kernels.program.row_templates import (
    part_before,
    parts_backward,
    parts_forward,
    rows_backward,
    rows_forward,
)
from fastmlp.kernels.program.slots import input_gradient_rows
from fastmlp.kernels.program.step_numbers import block_of, penalty_factor, worker_part
from fastmlp.kernels.program.weight_templates import clear, weights_step

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import (
        activate,
        activate_gradient,
        affine,
        penalty_gradient,
        weight_gradient,
    )


COLUMN_BYTES = 192
"""Bytes of a row of the matrices of `jacobian`, where rows of X are columns: the three vectors of a tile."""


# --- entry points; their arguments: a call, this worker's number, how many workers there are -------------


def forward(call, worker, workers):
    """Write the network's output for all samples, which are one batch, to call.out."""
    rows = call.samples
    first, last = worker_part(rows, worker, workers, LOSS_ROWS)
    block = block_of(call)
    begin = parts_forward(call, 0, rows, rows, first, last, block, call.step, True, worker, workers)
    for at in range(first, last, block):
        stop = lesser(at + block, last)
        rows_forward(call, 0, rows, at, stop, begin, call.depth, call.step, worker)
        rows_outputs(call, rows, at, stop, at)


def backward(call, worker, workers):
    """Write the gradient of a loss to call.gradients, and that by the inputs, given that by the outputs."""
    input_backward(call, worker, workers)
    wait(call.barrier, worker, workers)
    weights_step(call, 0, call.samples, call.step, 0.0, (0.0, 0.0), worker, workers)


def input_backward(call, worker, workers):
    """Take deltas from the outputs back to the inputs, as `backward` does, and leave call.gradients alone."""
    op, memory, rows = call.operations[0], call.memory, call.samples
    first, last = worker_part(rows, worker, workers, LOSS_ROWS)
    block, end = block_of(call), call.depth
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    begin = part_before(call, end)
    for at in range(first, last, block):
        stop = lesser(at + block, last)
        outputs_backward(call, rows, at, stop)
        rows_backward(call, 0, rows, rows, at, stop, begin, end, call.step, worker)
    parts_backward(call, 0, rows, rows, first, last, block, begin, call.step, worker, workers)
    # A caller without need for the derivative by X saves a product.
    if call.by_inputs_rows > 0:
        for at in range(first, last, block):
            stop = lesser(at + block, last)
            delta, out = units_of(memory, call.deltas, op, rows), call.by_inputs
            if op.kind == DENSE:
                w = weights_of(call.parameters, op)
                input_gradient_rows(delta, w, out, out, at, stop, False, scratch)
            else:  # the copy of the inputs
                pass_on(rows_of(delta, at, stop), 0, False, rows_of(out, at, stop))


def loss_backward(call, worker, workers):
    """Write the squared norm of the gradient of each sample's own loss to call.losses; of a chain."""
    # Each block of samples is a batch of its own, so that all of it stays in the caches.
    operations, memory, samples, n_in = call.operations, call.memory, call.samples, call.n_in
    block, depth = lesser(block_of(call), call.batch), call.depth
    for at in range(0, samples, block):
        rows = lesser(block, samples - at)
        rows_forward(call, at, rows, 0, rows, 0, depth, call.step, worker)
        rows_loss(call, 0, at, rows, 0, rows, worker)
        rows_backward(call, at, rows, rows, 0, rows, 0, depth, call.step, worker)
        for i in range(rows):
            total, read = 0.0, square_sum(vector(call.inputs, (at + i) * n_in, n_in))
            for number in range(depth):
                op = operations[number]
                offset = op.units * rows + i * op.n_out
                delta = square_sum(vector(memory, call.deltas + offset, op.n_out))
                # The gradient of a sample is the outer product of its inputs and deltas: its squared norm is
                # the product of theirs, and the matrix is never formed.
                total += delta * (read + (op.trains_bias != 0))
                if number + 1 < depth:
                    read = square_sum(vector(memory, call.activations + offset, op.n_out))
            call.losses[at + i] = total


def forward_in_columns(call, at, rows, worker):
    """Take samples [at, at + rows) of a chain forward, each a column of all matrices."""
    # So vectors are full whatever the units are, and no weights are transposed on the way back.
    memory, parameters = call.memory, call.parameters
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    below = matrix(memory, call.batch_inputs, call.n_in, rows)
    copy_transposed(rows_of(call.inputs, at, at + rows), below, 0, 1)
    for number in range(call.depth):
        op = call.operations[number]
        z = units_in_columns(memory, call.logits, op, rows)
        a = units_in_columns(memory, call.activations, op, rows)
        # z = W' x: with samples in columns a forward product is the kernel of weight gradients.
        weight_gradient(weights_of(parameters, op), below, scratch, z)
        add_to_rows(biases_of(parameters, op), z)
        if op.activation == SOFTMAX:
            # Softmax goes over a sample's outputs, which lie in a column here: it is computed on rows.
            turned = matrix(memory, call.batch_targets, rows, op.n_out)
            copy_transposed(z, turned, 0, 1)
            activate(op.activation, turned, turned)
            copy_transposed(turned, a, 0, 1)
        else:
            activate(op.activation, z, a)
        below = a


def backward_in_columns(call, above, rows, worker, out):
    """out = the weights of an operation times its deltas, of samples in columns."""
    memory = call.memory
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    delta = units_in_columns(memory, call.deltas, above, rows)
    nothing = vector(memory, call.batch_weights, rows)
    clear(nothing)
    # W times deltas in columns: a forward product without biases.
    affine(weights_of(call.parameters, above), delta, nothing, scratch, out)


def slope_in_columns(call, op, rows, delta):
    """delta *= the slopes of an operation's activation, of samples in columns."""
    z = units_in_columns(call.memory, call.logits, op, rows)
    a = units_in_columns(call.memory, call.activations, op, rows)
    activate_gradient(op.activation, z, a, delta)


def jacobian(call, worker, workers):
    """Write the Jacobian of a chain, (n_out, n_in) of each sample, to call.by_inputs."""
    # The last block of samples ends with the last one, and may repeat some.
    memory, operations, samples = call.memory, call.operations, call.samples
    rows, last = COLUMN_BYTES // memory.itemsize, call.depth - 1
    inputs, above = matrix(memory, call.batch_inputs, call.n_in, rows), operations[last]
    for start in range(0, samples, rows):
        at = lesser(start, samples - rows)
        forward_in_columns(call, at, rows, worker)
        z = units_in_columns(memory, call.logits, above, rows)
        a = units_in_columns(memory, call.activations, above, rows)
        delta = units_in_columns(memory, call.deltas, above, rows)
        for output in range(call.n_out):
            softmax_slopes(a, output, above.activation == SOFTMAX, delta)
            if above.activation != SOFTMAX:
                of_output = rows_of(delta, output, output + 1)
                of_z, of_a = rows_of(z, output, output + 1), rows_of(a, output, output + 1)
                activate_gradient(above.activation, of_z, of_a, of_output)
            for number in range(last, 0, -1):
                op = operations[number - 1]
                out = units_in_columns(memory, call.deltas, op, rows)
                backward_in_columns(call, operations[number], rows, worker, out)
                slope_in_columns(call, op, rows, out)
            backward_in_columns(call, operations[0], rows, worker, inputs)
            copy_transposed(inputs, call.by_inputs, at * call.n_out + output, call.n_out)


def spare_of(call, rows):
    """Return the offset of spare room, behind the units of all operations in call.dropped."""
    last = call.operations[call.depth - 1]
    return call.dropped + (last.units + last.n_out) * rows


def push_in_columns(call, at, direction, rows, worker):
    """Write tangents along call.tangents or an input: of logits to call.deltas, of outputs to spare room."""
    memory, operations, parameters = call.memory, call.operations, call.parameters
    scratch = part_of(memory, call.scratch, call.scratch_length, worker)
    below = matrix(memory, call.batch_inputs, call.n_in, rows)
    if direction < 0:
        copy_transposed(rows_of(call.tangents, at, at + rows), below, 0, 1)
    for number in range(call.depth):
        op = operations[number]
        tangent = units_in_columns(memory, call.deltas, op, rows)
        if number > 0 or direction < 0:
            weight_gradient(weights_of(parameters, op), below, scratch, tangent)
        else:
            # Along one input the tangents are a row of the weights, the same for all samples.
            clear(vector(tangent, 0, tangent.size))
            add_to_rows(vector(parameters, op.weights + direction * op.n_out, op.n_out), tangent)
        below = matrix(memory, spare_of(call, rows), op.n_out, rows)
        pass_on(tangent, 0, False, below)
        slope_in_columns(call, op, rows, below)


def jvp(call, worker, workers):
    """Write the Jacobian of each sample of a chain times its row of call.tangents to call.out."""
    rows = COLUMN_BYTES // call.memory.itemsize
    columns = matrix(call.memory, spare_of(call, rows), call.n_out, rows)
    for start in range(0, call.samples, rows):
        at = lesser(start, call.samples - rows)
        forward_in_columns(call, at, rows, worker)
        push_in_columns(call, at, -1, rows, worker)
        copy_transposed(columns, call.out, at, 1)


def hessian(call, worker, workers):
    """Write tangents of the gradient of call.by_outputs times the outputs of a chain to call.by_inputs."""
    # Along call.tangents, or along every input where call.by_inputs has so many rows a sample.
    memory, operations, samples = call.memory, call.operations, call.samples
    rows, last = COLUMN_BYTES // memory.itemsize, call.depth - 1
    directions, above = call.by_inputs_rows // samples, operations[last]
    inputs = matrix(memory, call.batch_inputs, call.n_in, rows)
    asked = matrix(memory, call.batch_targets, call.n_out, rows)
    for start in range(0, samples, rows):
        at = lesser(start, samples - rows)
        forward_in_columns(call, at, rows, worker)
        copy_transposed(rows_of(call.by_outputs, at, at + rows), asked, 0, 1)
        pass_on(asked, 0, False, units_in_columns(memory, call.deltas, above, rows))
        for number in range(last, -1, -1):
            op = operations[number]
            delta = units_in_columns(memory, call.deltas, op, rows)
            curvature = units_in_columns(memory, call.dropped, op, rows)
            if number < last:
                backward_in_columns(call, operations[number + 1], rows, worker, delta)
            pass_on(delta, 0, False, curvature)
            z = units_in_columns(memory, call.logits, op, rows)
            a = units_in_columns(memory, call.activations, op, rows)
            activate_gradient(op.curvature, z, a, curvature)
            slope_in_columns(call, op, rows, delta)
            if number == last:
                # Outputs that are not asked for may have an infinite slope, and 0 * inf is NaN.
                clear_unasked(asked, 0, 1, delta)
                clear_unasked(asked, 0, 1, curvature)
        for direction in range(directions):
            push_in_columns(call, at, chosen(directions > 1, direction, -1), rows, worker)
            for number in range(last, -1, -1):
                op = operations[number]
                delta = units_in_columns(memory, call.deltas, op, rows)
                slopes = matrix(memory, spare_of(call, rows), op.n_out, rows)
                if number < last:
                    backward_in_columns(call, operations[number + 1], rows, worker, slopes)
                    slope_in_columns(call, op, rows, slopes)
                # The curvature of the layer stands in the buffer of dropout, which derivatives do not need.
                bend(units_in_columns(memory, call.dropped, op, rows), slopes, number < last, delta)
            backward_in_columns(call, operations[0], rows, worker, inputs)
            copy_transposed(inputs, call.by_inputs, at * directions + direction, directions)


def penalize(call, worker, workers):
    """Add the derivative of the penalties to call.gradients; call.totals has the weight of the batch."""
    operations, factor = call.operations, penalty_factor(call.objective.shared_penalty, call.totals[0])
    for number in range(len(operations)):
        op = operations[number]
        if op.kind == DENSE:
            w, dw = weights_of(call.parameters, op), weights_of(call.gradients, op)
            penalty_gradient(op.l1 * factor, op.l2 * factor, w, dw)


# --- loops over samples in columns --------------------------------------------------------------------------


def softmax_slopes(a, output, is_softmax, delta):
    """delta (units, rows) = the derivative of an output by the logits, of softmax a; else 1 for itself."""
    wide_vectors()
    units, rows = a.shape
    one = a.dtype.type(1)
    of_output = vector(a, output * rows, rows)
    for j in range(units):
        is_output = one if j == output else a.dtype.type(0)
        probability, slopes = vector(a, j * rows, rows), vector(delta, j * rows, rows)
        for i in range(rows):
            slopes[i] = of_output[i] * (is_output - probability[i]) if is_softmax else is_output


def add_to_rows(b, out):
    """out (units, rows) += b (units,)."""
    wide_vectors()
    for j in range(out.shape[0]):
        row = vector(out, j * out.shape[1], out.shape[1])
        for i in range(out.shape[1]):
            row[i] += b[j]


def bend(curvature, slopes, adds, tangent):
    """tangent of a cotangent = curvature * tangent of a logit, + slopes where `adds`; all of one shape."""
    wide_vectors()
    n = curvature.size
    c, s, t = vector(curvature, 0, n), vector(slopes, 0, n), vector(tangent, 0, n)
    for i in range(len(t)):
        t[i] = c[i] * t[i] + s[i] if adds else c[i] * t[i]


def copy_transposed(x, out, first, step):
    """Rows first, first + step, .. of out (.., n) = the columns of x (n, columns)."""
    for j in range(x.shape[1]):
        for i in range(x.shape[0]):
            out[first + j * step, i] = x[i, j]


@partial(of_arrays, result="float64")
def square_sum(x):
    """Return the sum of the squares of a few numbers x (n,): whole vectors are added, then their halves."""
    build = x.builder
    v = Vectors(build, x.dtype, host().vector_bytes)
    total = Running(Symbol(build, v.zero))

    def add(i, mask):
        element = Symbol(build, v.load(v.shift(x.data, i * v.itemsize), mask))
        total.value = fma(element, element, total.value)

    v.over(x.units, add)
    result = folded(build, total.value, lambda a, b: a + b).value
    return result if x.dtype == types.float64 else build.fpext(result, FLOATS[types.float64])
