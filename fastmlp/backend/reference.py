"""The whole mathematics in NumPy: the shortest right text, and the oracle of all backends.

Rows of X are samples, z is a layer's linear output, a the activation, delta the derivative of the loss by z.
Every formula is written once and plainly; speed belongs to the compiled backends.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference_losses import activate, activate_gradient, heads_loss, output_loss, total_of
from fastmlp.backend.reference_operations import (
    NormBatch,
    block_functions,
    dropout_mask,
    operate,
    operate_gradient,
    sections_of,
)
from fastmlp.backend.reference_rules import move_average, orthogonal, take_step
from fastmlp.model.backend import Backend, Chunk, Data, Shared
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.layout import arrays_of
from fastmlp.model.network import Network
from fastmlp.model.operations import INPUTS, Operation, table_marks
from fastmlp.model.optimizers import Muon, Optimizer, check_optimizer
from fastmlp.model.rows import ByteRows, Inputs, SparseRows, dense_columns, find_nonzero_columns, unpacked
from fastmlp.model.state import Array, TrainState, takes_bfloat16

Product = Callable[[Any, Any, tuple[int, ...]], Any]


DIVERGING = np.errstate(over="ignore", invalid="ignore")
"""No NumPy warnings of a diverging training, as in kernels; the losses show the divergence."""


def penalty_factor(network: Network, total: float) -> float:
    """Return the factor of a penalty in the objective of a batch with this sum of weights."""
    if network.convention == "torch":
        return 1.0
    return 1 / total if total > 0 else 0.0


def penalty(op: Operation, w: Array) -> float:
    """Return the penalties on a product's weights."""
    # In this order no penalty of 0 meets the infinite square of a weight that is finite.
    return float((op.l1 * np.abs(w) + op.l2 / 2 * w * w).sum())


def penalty_gradient(op: Operation, w: Array) -> Array:
    """Return the derivative of `penalty` by w."""
    return op.l1 * np.sign(w) + op.l2 * w


def factor(network: Network, inputs: Inputs | ByteRows) -> tuple[Any, Any]:
    """Return the dense columns of inputs, and the sparse columns as SciPy's matrix, or None."""
    network.check_sparse(isinstance(inputs, SparseRows))
    sparse = inputs.matrix() if isinstance(inputs, SparseRows) else None
    return dense_columns(unpacked(inputs)), sparse


def product(a: Any, b: Any, layer: tuple[int, ...]) -> Any:
    """Return a @ b, a product of a layer (n_in, n_out)."""
    return a @ b


def product_of_rounded(a: Any, b: Any, layer: tuple[int, ...]) -> Any:
    """Return a @ b, with dense operands rounded to bfloat16 if the layer is large enough."""
    dense = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return bfloat16(a) @ bfloat16(b) if dense and takes_bfloat16(*layer) else a @ b


def bfloat16(x: Array) -> Array:
    """Return float32 numbers rounded to bfloat16, to nearest and ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)


def move_state(network: Network, parameters: Array, passed: ForwardPass) -> None:
    """Move the running means and variances in parameters (P,) towards the batch's."""
    for op in network.operations:
        if op.kind.key == "batch_norm":
            batch, momentum = passed.batch, op.layer.momentum  # type: ignore[union-attr]
            state = sections_of(parameters, op).state
            assert batch is not None
            mean, variance = batch.moments(passed.source(op.sources[0]))
            unbiased = variance * batch.rows / (batch.rows - 1)
            state[...] = (1 - momentum) * state + momentum * np.stack([mean, unbiased])


def forward(
    network: Network, parameters: Array, inputs: Inputs | ByteRows, product: Product = product
) -> Array:
    """Return the last layer's logits (rows, n_out), without dropout."""
    return pass_forward(network, parameters, inputs, None, 0, None, product).logits[-1]


@DIVERGING
def predict(
    network: Network, parameters: Array, inputs: Inputs, out: Array, product: Product = product
) -> None:
    """Write the network's output for inputs (rows, n_in) to out (rows, n_out)."""
    out[...] = outputs(network, pass_forward(network, parameters, inputs, None, 0, None, product))


@DIVERGING
def predict_members(network: Network, parameters: Array, inputs: Inputs, product: Product) -> Array:
    """Return the outputs of each member (members, rows, n_out) for inputs (rows, n_in)."""
    passed = pass_forward(network, parameters, inputs, None, 0, None, product)
    return np.ascontiguousarray(member_outputs(network, passed).transpose(1, 0, 2))


@DIVERGING
def evaluate(network: Network, parameters: Array, data: Data, product: Product = product) -> Any:
    """Return the loss over all rows of data, without dropout and penalties; with heads all losses."""
    passed = pass_forward(network, parameters, data.inputs, None, 0, None, product)
    if network.heads:
        return heads_loss(network, passed.heads(network), data.targets, data.weights)[0]
    return members_loss(network, passed.logits[-1], data)[0]


def subrows_of(op: Operation, x: Any) -> Any:
    """Return rows (rows, subrows * units) of an operation, cut: (rows * subrows, units)."""
    return x if op.subrows == 1 else x.reshape(len(x) * op.subrows, x.shape[1] // op.subrows)


def whole_rows(op: Operation, x: Array) -> Array:
    """Return the rows before `subrows_of`."""
    return x if op.subrows == 1 else x.reshape(len(x) // op.subrows, x.shape[1] * op.subrows)


def members_loss(network: Network, z: Array, data: Data, total: float | None = None) -> tuple[float, Array]:
    """Return the mean of members' losses, of logits z (rows, members * n_out), and the derivative by z."""
    k = network.members
    total = k * (total_of(data.weights) if total is None else total)
    targets, weights = np.repeat(data.targets, k, axis=0), np.repeat(data.weights, k)
    loss, delta = output_loss(network.objective, z.reshape(-1, network.n_out), targets, weights, total)
    return loss, delta.reshape(z.shape)


class ForwardPass(NamedTuple):
    """A batch after the forward pass, for `pass_back`; lists have an entry for each operation.

    batch : the statistics of batch norms; None for running statistics without dropout
    inputs, sparse : the dense and the sparse columns of X, see `factor`
    logits : of products, before the activation; of other operations the output
    activations : after the activation; scales : the factors of dropout; outputs : the product of both
    """

    batch: NormBatch | None
    inputs: Any
    sparse: Any
    logits: list[Array]
    activations: list[Array]
    scales: list[Array]
    outputs: list[Array]

    def heads(self, network: Network) -> list[Array]:
        """Return the logits of each head, or of the only output."""
        return [z for z, op in zip(self.logits, network.operations, strict=True) if op.is_head]

    def source(self, index: int) -> Any:
        """Return the rows of a source in `Operation.sources`, without sparse columns."""
        return self.inputs if index == INPUTS else self.outputs[index]

    def sparse_of(self, op: Operation) -> Any:
        """Return the sparse columns of a product behind its source, or None."""
        return self.sparse if op.sparse_in else None


def outputs(network: Network, passed: ForwardPass) -> Array:
    """Return the outputs (rows, n_out), heads side by side."""
    if not network.heads:
        return member_outputs(network, passed).mean(axis=1)
    heads = zip(network.heads.values(), passed.heads(network), strict=True)
    return np.hstack([activate(head.objective.output, z) for head, z in heads])


def member_outputs(network: Network, passed: ForwardPass) -> Array:
    """Return the outputs of each member, (rows, members, n_out)."""
    z = passed.logits[-1].reshape(-1, network.n_out)
    return activate(network.output, z).reshape(-1, network.members, network.n_out)


def by_logits(network: Network, passed: ForwardPass, by_outputs: Array) -> Array | list[Array]:
    """Return the derivative of a loss by the last logits, or each head's, given the derivative by outputs."""
    if not network.heads:
        z, k = passed.logits[-1].reshape(-1, network.n_out), network.members
        per_network = np.repeat(by_outputs, k, axis=0) / by_outputs.dtype.type(k)
        return activate_gradient(network.output, z, activate(network.output, z), per_network).reshape(
            len(per_network) // k, -1
        )
    by_heads, columns = [], columns_of_heads(network.heads)
    for (name, head), z in zip(network.heads.items(), passed.heads(network), strict=True):
        per_network, output = by_outputs[:, columns[name]], head.objective.output
        by_heads.append(activate_gradient(output, z, activate(output, z), per_network))
    return by_heads


def pass_forward(
    network: Network,
    parameters: Array,
    inputs: Inputs | ByteRows,
    key: int | None,
    step: int,
    positions: NDArray[np.int64] | None = None,
    product: Product = product,
    batch: NormBatch | None = None,
) -> ForwardPass:
    """Take a batch through all operations.

    key : of the dropout masks; None: no dropout, and a batch norm uses its running state
    positions, batch : for rows of a larger batch, see `dropout_mask`; and the statistics of the batch
    """
    if key is not None and batch is None:
        batch = NormBatch(len(inputs))
    passed = ForwardPass(batch, *factor(network, inputs), [], [], [], [])
    last = len(network.operations) - 1
    for number, op in enumerate(network.operations):
        arrays = sections_of(parameters, op)
        x, other = passed.source(op.sources[0]), passed.source(op.sources[-1])
        if op.sources[0] == INPUTS and not op.is_dense:
            x = x[:, op.column : op.column + op.n_in]
        if op.is_block:
            units = block_functions(op)[0](op.layer, x, arrays_of(parameters, op))
            z = a = units.reshape(len(x), op.n_out)
        elif op.is_dense:
            subrows = subrows_of(op, x)
            w, behind = arrays.first[: subrows.shape[1]], arrays.first[subrows.shape[1] :]
            z = product(subrows, w, w.shape) + arrays.second
            if (sparse := passed.sparse_of(op)) is not None:
                z += sparse @ behind
            z = whole_rows(op, z)
            a = z if number == last else activate(op.activation, z)
        else:
            z = a = operate(op, x, other, arrays, batch)
        scale = np.ones((), parameters.dtype)
        if op.dropout and key is not None:
            mask = dropout_mask(key, step, number, a.shape, op.dropout, positions)
            scale = mask * parameters.dtype.type(1 / (1 - op.dropout))
        for array, written in zip((z, a, scale, a * scale), passed[3:], strict=True):
            written.append(array)
    return passed


def pass_back(
    network: Network,
    parameters: Array,
    passed: ForwardPass,
    delta: Any,
    gradients: Array,
    product: Product = product,
    by_inputs: bool = False,
) -> Array | None:
    """Write a loss's gradient to gradients (P,), given the derivative by the last logits, or by all heads'.

    Returns the derivative by the inputs if required.
    """
    operations, last = network.operations, len(network.operations) - 1
    by_output: dict[int, Any] = {last: delta}
    if network.heads:
        by_output = dict(zip([i for i, op in enumerate(operations) if op.is_head], delta, strict=True))
    for number in reversed(range(len(operations))):
        op = operations[number]
        views, (by_first, by_second, by_state) = sections_of(parameters, op), sections_of(gradients, op)
        by_state[...] = 0
        if number not in by_output:  # numbers of the inputs, by which nothing is derived
            continue
        delta, x = by_output.pop(number) * passed.scales[number], passed.source(op.sources[0])
        if op.is_dense and number < last:
            delta = activate_gradient(op.activation, passed.logits[number], passed.activations[number], delta)
        if op.is_block:
            arrays, by_arrays = (arrays_of(vector, op) for vector in (parameters, gradients))
            by_x = block_functions(op)[1](op.layer, delta, x, arrays, by_arrays)
            if by_x is not None:
                by_output[op.sources[0]] = by_x
            continue
        if views.second.size:
            by_second[...] = delta.sum(axis=0) if op.trains_bias else 0
        by_sources: tuple[Any, ...] = ()
        if not op.is_dense:
            other = passed.source(op.sources[-1])
            *by_each, by_gain = operate_gradient(op, x, other, views, delta, passed.batch)
            by_sources = tuple(by_each)
            if by_gain is not None:
                by_first[...] = by_gain
        else:
            x, by_subrows = subrows_of(op, x), subrows_of(op, delta)
            w = views.first[: x.shape[1]]
            by_first[: x.shape[1]] = product(x.T, by_subrows, w.shape)
            if (sparse := passed.sparse_of(op)) is not None:
                by_first[x.shape[1] :] = sparse.T @ delta
            if by_inputs or op.sources[0] != INPUTS:
                by_sources = (whole_rows(op, product(by_subrows, w.T, w.shape)),)
        for source, by_source in zip(op.sources, by_sources, strict=False):
            if by_source is None or (source == INPUTS and not by_inputs):  # of blocks, each reads its columns
                continue
            by_output[source] = by_output[source] + by_source if source in by_output else by_source
    return by_output.get(INPUTS)


def penalize(network: Network, parameters: Array, total: float, gradients: Array) -> float:
    """Add the penalties' derivative to gradients (P,), return the penalties; total : the batch's weight."""
    factor, penalties = penalty_factor(network, total), 0.0
    for op in network.dense:
        weights, by_weights = sections_of(parameters, op).first, sections_of(gradients, op).first
        by_weights += factor * penalty_gradient(op, weights)
        penalties += factor * penalty(op, weights)
    return penalties


@DIVERGING
def gradient(
    network: Network,
    parameters: Array,
    data: Data,
    key: int,
    step: int,
    gradients: Array,
    *,
    positions: NDArray[np.int64] | None = None,
    total: float | None = None,
    product: Product = product,
    moves: bool = False,
    batch: NormBatch | None = None,
    penalises: bool = True,
    head_totals: NDArray[np.float64] | None = None,
) -> float:
    """Write the objective's gradient over all rows of data to gradients (P,); return the objective.

    positions, total, batch, head_totals : for rows of a larger batch, see `dropout_mask`, `output_loss` and
        `heads_loss`
    moves : True moves running means and variances; penalises : True counts penalties
    """
    total = total_of(data.weights) if total is None else total
    passed = pass_forward(network, parameters, data.inputs, key, step, positions, product, batch)
    loss: Any
    delta: Any
    if network.heads:
        logits = passed.heads(network)
        loss, delta = heads_loss(network, logits, data.targets, data.weights, head_totals)
    else:
        loss, delta = members_loss(network, passed.logits[-1], data, total)
    pass_back(network, parameters, passed, delta, gradients, product)
    if moves:
        move_state(network, parameters, passed)
    penalties = penalize(network, parameters, total, gradients) if penalises else 0.0
    if network.heads:
        loss[0] += penalties
        return loss
    return loss + penalties


def marked_indices(network: Network, op: Operation, marks: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the indices in the flat vector of an operation's marked table rows, ascending."""
    indices = []
    for table in network.tables:
        if op.weights <= table.start < op.biases:
            rows = np.flatnonzero(marks[table.mark : table.mark + table.levels + 1])
            indices.append((table.start + rows[:, None] * table.width + np.arange(table.width)).reshape(-1))
    return np.concatenate(indices)


@DIVERGING
def update(
    network: Network,
    optimizer: Optimizer,
    state: TrainState,
    rate: float,
    bias_rate: float,
    nonzero_columns: NDArray[np.bool_] | None = None,
    marks: NDArray[np.int32] | None = None,
) -> TrainState:
    """Apply state.gradients in place; return the state after the step.

    marks : `table_marks` of the batch, if only the batch's rows of tables may move
    """
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(network)
    g = state.gradients
    for op in network.operations:
        if optimizer.rate_of(op) == 0:
            g[op.weights : op.end] = 0
    if optimizer.clip_norm is not None:
        g *= min(1.0, optimizer.clip_norm / (float(np.linalg.norm(g.astype(np.float64))) + 1e-6))
    for op in network.operations:
        if factor := optimizer.rate_of(op):
            parts: list[Any] = [slice(op.weights, op.biases), slice(op.biases, op.trained)]
            if op.sparse_in and nonzero_columns is not None and optimizer.rule.sparse_updates:
                moved = np.concatenate([np.ones(op.n_in - op.sparse_in, np.bool_), nonzero_columns])
                parts[0] = op.weights + np.flatnonzero(np.repeat(moved, op.n_out))
            if op.updates_sparsely(optimizer.rule) and marks is not None:
                parts[0] = marked_indices(network, op, marks)
            sections = optimizer.of_layer(op), parts, (rate, bias_rate)
            for of_part, at, step_rate in zip(*sections, strict=True):
                p, moments = state.parameters[at], state.moments[:, at]
                if isinstance(of_part, Muon):
                    shape = op.n_in, op.n_out
                    g[at] = orthogonal(of_part, g[at].reshape(shape), moments[0].reshape(shape)).reshape(-1)
                rates = np.full(p.shape, step_rate, g.dtype) * g.dtype.type(factor)
                take_step(of_part, p, g[at], moments, rates, state.step + 1)
                if optimizer.keeps_signs:
                    p[moments[optimizer.own_rule.moments] * p < 0] = 0
                move_average(optimizer, p, moments, state.step + 1)
                state.parameters[at], state.moments[:, at] = p, moments
    return state._replace(step=state.step + 1)


def microbatches(chunk: Chunk, rows: int, joins: bool) -> list[tuple[int, int]]:
    """Return [first, last) of each microbatch of a step's batch of rows.

    rows : of all ranks; joins : True if a single last row joins the microbatch before
    """
    bounds = [*range(0, max(1, rows - joins), chunk.microbatch or max(1, rows)), rows]
    return list(itertools.pairwise(bounds))


def train_chunk(
    network: Network,
    optimizer: Optimizer,
    state: TrainState,
    data: Data,
    chunk: Chunk,
    key: int,
    threads: int | None,
    losses: NDArray[np.float64],
    *,
    shared: Shared | None = None,
    product: Product = product,
) -> TrainState:
    """Take the chunk's steps; write each step's objective to losses (steps,) float64."""
    network.check_rows(chunk.stops - chunk.starts if shared is None else shared.batch_rows)
    for s, (start, stop) in enumerate(zip(chunk.starts, chunk.stops, strict=True)):
        rows = chunk.order[start:stop]
        batch_data, positions, of_all = data.take(rows), np.arange(stop - start), int(stop - start)
        total, batch = None, None
        if shared is not None:
            positions, of_all = shared.positions[start:stop], int(shared.batch_rows[s])
        head_totals = None if chunk.head_totals is None else chunk.head_totals[:, s]
        if shared is not None or chunk.microbatch:
            total = float(chunk.totals[s])
        losses[..., s] = 0.0
        for first, last in microbatches(chunk, of_all, network.needs_batches):
            own, earlier = slice(*np.searchsorted(positions, (first, last))), state.gradients.copy()
            if shared is not None:
                batch = NormBatch(last - first, shared.total)
            losses[..., s] += gradient(
                network, state.parameters, batch_data.take(own), key, state.step, state.gradients,
                positions=positions[own], total=total, product=product, moves=True, batch=batch,
                penalises=last == of_all, head_totals=head_totals,
            )  # fmt: skip
            if first:
                state.gradients[...] += earlier
        goes_by_columns = optimizer.rule.sparse_updates and network.takes_sparse
        nonzero_columns = find_nonzero_columns(unpacked(batch_data.inputs)) if goes_by_columns else None
        marks = None
        if network.updates_sparsely(optimizer):
            marks = table_marks(network.operations, dense_columns(unpacked(batch_data.inputs)))
            if shared is not None and shared.row_marks is not None:
                shared.row_marks[...] = marks
        if shared is not None:
            shared.add(s, 0, state.gradients.size)
            nonzero_columns, marks = shared.nonzero_columns, shared.row_marks
        rate, bias_rate = chunk.rates[s].tolist()
        state = update(network, optimizer, state, rate, bias_rate, nonzero_columns, marks)
    return state


BACKEND = Backend("reference", predict, evaluate, gradient, train_chunk)


ROUNDED = Backend(
    "reference_bfloat16",
    functools.partial(predict, product=product_of_rounded),
    functools.partial(evaluate, product=product_of_rounded),
    functools.partial(gradient, product=product_of_rounded),
    functools.partial(train_chunk, product=product_of_rounded),
)
"""The reference with operands of products in bfloat16, as `fit(dtype="bfloat16")` has them."""


BACKENDS = {backend.name: backend for backend in (BACKEND, ROUNDED)}
