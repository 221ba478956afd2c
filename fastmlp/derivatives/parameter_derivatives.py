"""Derivatives by the parameters, row by row: gradients of losses and of outputs.

The gradient of a row by the weights of a product is the outer product of the row's inputs and deltas. The
norm of the gradient is the product of both norms, and no gradient is formed (Goodfellow, "Efficient
per-example gradient computations", 2015).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference import members_loss
from fastmlp.backend.reference_losses import activate, heads_loss, logistic
from fastmlp.data.arrays import clean_targets
from fastmlp.derivatives.input_derivatives import Rows
from fastmlp.derivatives.tape import Array, Tape, logit_steps, table_rows
from fastmlp.exchange.steps import ExportStep, graph_of
from fastmlp.model.backend import Data
from fastmlp.model.heads import Objective
from fastmlp.model.layout import named_views
from fastmlp.model.losses import loss_of
from fastmlp.model.rows import Inputs
from fastmlp.trained.model import Model

Cotangents = Callable[[slice, list[Array]], Sequence[Array]]
"""Returns cotangents (directions, rows, units) of each output layer's logits."""


class ParameterRows(Rows):
    """The rows of a call, with the indices of arrays among the parameters (P,).

    outputs : of each row, with derivatives by all parameters; 0 where no derivatives are formed
    logits, inputs : as of `Rows`
    """

    def __init__(
        self, model: Model, X: Any, outputs: int = 1, logits: bool = False, inputs: Inputs | None = None
    ) -> None:
        super().__init__(model, X, max(outputs, 1), logits, inputs)
        self.numbers = max(1, outputs * len(self.parameters))

    @functools.cached_property
    def ends(self) -> dict[str, int]:
        """The steps of the logits, by output name or member number."""
        steps, network = self.graph.steps, self.network
        if network.members == 1:
            return logit_steps(self.graph, self.graph.outputs, self.activations)
        at, last = steps[-1].one.sources[0], []  # the mean is a sum of sums, times a number
        for _ in range(network.members - 1):
            at, end = steps[at].one.sources
            last.append(end)
        ends = {str(i): end for i, end in enumerate([at, *reversed(last)])}
        return logit_steps(self.graph, ends, dict.fromkeys(ends, network.output))

    @functools.cached_property
    def indices(self) -> dict[str, NDArray[np.int64]]:
        """The indices of each trained array in the flat vector, by name."""
        markers = -1.0 - np.arange(len(self.parameters))  # no constant is negative
        trains = np.zeros(len(markers), bool)
        for one in self.network.operations:
            trains[one.weights : one.trained] = True
            if not one.trains_bias:
                trains[one.biases : one.trained] = False
        found = {}
        for step in graph_of(self.network.replaced(input_scale=1.0), markers).steps:
            for name, array in step.arrays.items():
                numbers = array[1:-1] if step.one.kind.key == "categories" else array
                indices = (-1 - numbers.reshape(-1)).astype(np.int64)
                if not step.fixed and (indices >= 0).all() and trains[indices].all():
                    found[name] = indices
        return found

    def jacobians(self, most: int, cotangents: Cotangents) -> Iterator[tuple[slice, Array]]:
        """Yield blocks of rows with derivatives (directions, rows, P).

        most : rows of a block; cotangents : of the logits of some rows, with logits=True
        """
        self.__dict__.pop("graph", None)  # the parameters may have changed
        for some in self.slices(most):
            tape, steps = Tape(self.graph, self.dense(some)), [*self.ends.values()]
            found = cotangents(some, [tape.values[step] for step in steps])
            yield some, parameter_jacobian(self, tape, dict(zip(steps, found, strict=True)))

    def deltas(self, logits: Sequence[Array], targets: Array) -> list[Array]:
        """Return derivatives of each row's loss by the logits of heads or members."""
        network, ones = self.network, np.ones(len(targets), targets.dtype)
        if network.heads:  # the mean over a row's own entries: some may be missing, or count otherwise
            deltas = heads_loss(network, logits, targets, ones, np.ones(len(network.heads)))[1]
            weights = network.head_weights(targets, ones)
            return [
                np.divide(delta, weight[:, None], out=np.zeros_like(delta), where=weight[:, None] > 0)
                for delta, weight in zip(deltas, weights.astype(ones.dtype), strict=True)
            ]
        delta = members_loss(network, np.hstack(logits), Data(ones[:, None], targets, ones), 1.0)[1]
        return np.split(delta, network.members, axis=1)

    def seeds_of_loss(self, tape: Tape, targets: Array) -> dict[int, Array]:
        """Return `deltas` by the steps of the logits on a tape."""
        steps = [*self.ends.values()]
        return dict(zip(steps, self.deltas([tape.values[step] for step in steps], targets), strict=True))


def root_of(objective: Objective, z: Array) -> tuple[Array, Array]:
    """Return a root of the loss's second derivative by the logits z (rows, k).

    The result has the diagonal (rows, k) and the columns (k, rows, k), for squares without the factor 2.
    """
    loss, k = loss_of(objective.loss).name, z.shape[1]
    match objective.output:
        case "identity":
            diagonal = np.ones_like(z)
        case "sigmoid":
            diagonal = logistic(z) * logistic(-z)
        case _:
            diagonal = np.asarray(activate(objective.output, z))
    if loss != "mse":
        diagonal = np.sqrt(diagonal)
    columns = diagonal[None] * np.eye(k)[:, None]
    if objective.output == "softmax":  # diag(p) - p p' has the root diag(sqrt p) - p sqrt(p)'
        columns = columns - diagonal.T[:, :, None] * (diagonal**2)[None]
    return diagonal, columns


def _lookups(tape: Tape, step: ExportStep, indices: dict[str, NDArray[np.int64]]) -> Iterator[Any]:
    """Yield indices (rows, width) of table rows, with columns of delta."""
    codes, begin = tape.values[step.one.sources[0]], 0
    for column, (name, table) in enumerate(step.arrays.items()):
        of_rows = indices[name].reshape(-1, table.shape[1])
        yield of_rows[table_rows(codes[:, column], table) - 1], slice(begin, begin + table.shape[1])
        begin += table.shape[1]


def parameter_jacobian(rows: ParameterRows, tape: Tape, seeds: dict[int, Array]) -> Array:
    """Return derivatives (.., rows, P) by all parameters, from cotangents."""
    lead = next(iter(seeds.values())).shape[:-1]
    out = np.zeros((*lead, len(rows.parameters)), rows.dtype)
    line = np.arange(lead[-1])[:, None]
    for step, delta in tape.deltas(seeds):
        if step.one.kind.key == "categories":
            for indices, columns in _lookups(tape, step, rows.indices):
                out[..., line, indices] += delta[..., columns]
            continue
        for name, by_array in tape.by_arrays(step, delta):
            if (indices := rows.indices.get(name)) is not None:
                first, last = int(indices[0]), int(indices[-1]) + 1
                # An array is mostly contiguous; of sparse blocks the rows of weights may not.
                where = slice(first, last) if np.array_equal(indices, range(first, last)) else indices
                out[..., where] += by_array
    return out


def parameter_gradients(model: Model, X: Any, y: Any) -> Array:
    """Return the gradients (rows, P) of each row's loss."""
    rows = ParameterRows(model, X)
    targets = clean_targets("y", y, model.network, len(rows), rows.dtype)
    out = np.empty((len(rows), len(rows.parameters)), rows.dtype)
    for some, tape in rows.blocks():
        out[some] = parameter_jacobian(rows, tape, rows.seeds_of_loss(tape, targets[some]))
    return out


def parameter_names(model: Model) -> list[str]:
    """Return names of all parameters, "layer.array[index]", in flat order."""
    names = [""] * len(model.parameters)
    numbers = np.arange(len(names), dtype=np.float64)
    for layer, arrays in named_views(numbers, model.network).items():
        for name, array in arrays.items():
            for index, number in np.ndenumerate(array):
                names[int(number)] = f"{layer}.{name}[{', '.join(map(str, index))}]"
    return names


def gradient_norms(model: Model, X: Any, y: Any) -> Array:
    """Return the Euclidean norms (rows,) of each row's gradient."""
    rows = ParameterRows(model, X, 0)
    targets = clean_targets("y", y, model.network, len(rows), rows.dtype)
    out = np.empty(len(rows), rows.dtype)
    if not rows.is_chain:
        for some, tape in rows.blocks():
            out[some] = _norms(rows, tape, rows.seeds_of_loss(tape, targets[some]))
        return out
    out[:] = np.sqrt(rows.passes.squared_norms(rows.dense(slice(0, len(rows))), targets))
    rows.release()
    return out


def _norms(rows: ParameterRows, tape: Tape, seeds: dict[int, Array]) -> Array:
    squares = np.zeros(len(next(iter(seeds.values()))))
    shared: dict[str, list[tuple[Array, Array]]] = {}
    for step, delta in tape.deltas(seeds):
        kind = step.one.kind.key
        if kind == "categories":
            squares += _squares(delta)
        elif kind == "dense":
            weights, biases = step.arrays
            shared.setdefault(weights, []).append((tape.values[step.one.sources[0]], delta))
            if biases in rows.indices:
                squares += _squares(delta)
        else:
            squares += sum(_squares(g) for name, g in tape.by_arrays(step, delta) if name in rows.indices)
    for pairs in shared.values():  # products that share their weights, of members, have cross terms
        for x, delta in pairs:
            for other, g in pairs:
                squares += np.einsum("ri,ri->r", x, other) * np.einsum("ri,ri->r", delta, g)
    return np.sqrt(squares)


def _squares(x: Array) -> Array:
    return np.einsum("ri,ri->r", x, x)
