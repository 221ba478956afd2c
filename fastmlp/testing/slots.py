"""The table of slots: for each the calls to try, the reference's results, and the largest error allowed.

Tests and benchmarks run every row against every variant. So a new slot, case or variant is a new test and a
new benchmark without another line. The reference computes the expected results in float64 from the same
inputs: a tolerance bounds the kernel's rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend import reference, reference_losses, reference_operations
from fastmlp.backend.reference_rules import take_step
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.model.activations import ACTIVATIONS, HIDDEN
from fastmlp.model.heads import Objective
from fastmlp.model.loss import Loss
from fastmlp.model.losses import LOSSES, BinaryFocal, CrossEntropy, Huber, Quantiles, loss_of
from fastmlp.model.network import Network
from fastmlp.model.operations import Operation
from fastmlp.model.optimizers import NAMED, SGD, Adam, AdamW, Optimizer, RMSprop, ScheduleFreeAdamW
from fastmlp.model.rows import SparseRows
from fastmlp.model.rules import ROOM_FOR_CONSTANTS
from fastmlp.model.state import Array, initial_state
from fastmlp.testing import cases
from fastmlp.testing.cases import Case, CaseMaker, Sizes, drawn, eps, few_ulp, labelled, unset, wide

# --- products, and sums of columns ------------------------------------------------------------------


def _product(a: Array, b: Array) -> Array:
    """Return a @ b in float64; NaN of infinities is no mistake."""
    with np.errstate(invalid="ignore"):
        return np.asarray(wide(a) @ wide(b))


def _of_non_zeros(a: Array, b: Array) -> Array:
    """Return a @ b in float64 over the non-zeros of a, as sparse rows hold them."""
    return np.array([_product(row[None, row != 0], b[row != 0])[0] for row in a])


def _dot_bound(dtype: np.dtype[Any], a: Array, b: Array, product: Any = _product) -> Array:
    """Return a bound on a dot product's rounding, a random walk over n terms: 8 sigma (Higham 2002, 3.1)."""
    return np.asarray(8 * eps(dtype) * np.sqrt(a.shape[1]) * (product(np.abs(a), np.abs(b)) + 1))


def _affine(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    b = drawn(rng, dtype, n_out)
    scratch = cases.scratch_of(sizes, dtype)
    normal = drawn(rng, dtype, rows, n_in), drawn(rng, dtype, n_in, n_out)
    for label, x, w in cases.operands(rng, *normal):
        expected = _product(x, w) + wide(b)
        bound = _dot_bound(dtype, x, w) + few_ulp(dtype, b)
        arguments = (x, w, b, scratch, unset(dtype, rows, n_out, found=label))
        yield Case(label, arguments, {4: expected}, None, {4: bound}, 3)


def _weight_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal = drawn(rng, dtype, rows, n_in), drawn(rng, dtype, rows, n_out)
    scratch = cases.scratch_of(sizes, dtype)
    for label, columns, delta in cases.operands(rng, normal[0].T, normal[1]):
        x, bound = np.ascontiguousarray(columns.T), _dot_bound(dtype, columns, delta)
        arguments = (x, delta, scratch, unset(dtype, n_in, n_out, found=label))
        yield Case(label, arguments, {3: _product(columns, delta)}, None, {3: bound}, 2)


def _sparse(rng: np.random.Generator, dtype: np.dtype[Any], rows: int, columns: int) -> Array:
    """Return rows with a third of non-zeros, and a first row of zeros."""
    dense = np.where(rng.random((rows, columns)) < 1 / 3, drawn(rng, dtype, rows, columns), 0)
    dense[0] = 0
    return dense


def _affine_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    b, dense = drawn(rng, dtype, n_out), _sparse(rng, dtype, 3 * rows, n_in)
    normal = drawn(rng, dtype, n_in, n_out)
    orders = ("ordered", rng.integers(0, 3 * rows, rows)), ("straight", np.empty(0, np.int64))
    for found, samples, w in cases.operands(rng, dense, normal):
        for label, order in orders:
            x = samples[order if len(order) else slice(rows)]
            bound = _dot_bound(dtype, x, w, _of_non_zeros) + few_ulp(dtype, b)
            out = unset(dtype, rows, n_out, found=found)
            arguments = (*SparseRows.of(samples).arrays, order, w, b, out)
            expected = _of_non_zeros(x, w) + wide(b)
            yield Case(labelled(label, found), arguments, {6: expected}, None, {6: bound})


def _weight_gradient_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal, dense = drawn(rng, dtype, rows, n_out), _sparse(rng, dtype, n_in, rows)
    indices = rng.permutation(n_in)
    lists = ("listed", indices, np.argsort(indices)), ("every", indices[:0], slice(None))
    for found, columns, delta in cases.operands(rng, dense, normal):
        expected = _of_non_zeros(columns, delta)
        bound = _dot_bound(dtype, columns, delta, _of_non_zeros)
        for label, listed, at in lists:
            out = unset(dtype, n_in, n_out, found=found)
            arguments = (*SparseRows.of(columns).arrays, listed, delta, out)
            written, bounds = {5: expected[at]}, {5: bound[at]}
            yield Case(labelled(label, found), arguments, written, None, bounds)


def _bias_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    ones = np.ones((1, sizes.rows))
    for label, delta in cases.values(rng, drawn(rng, dtype, sizes.rows, sizes.n_out)):
        expected, bound = _product(ones, delta)[0], _dot_bound(dtype, ones, delta)[0]
        out = unset(dtype, sizes.n_out, found=label)
        yield Case(label, (delta, out), {1: expected}, None, {1: bound})


def _input_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal = drawn(rng, dtype, rows, n_out), drawn(rng, dtype, n_in, n_out)
    scratch = cases.scratch_of(sizes, dtype)
    for label, delta, transposed in cases.operands(rng, normal[0], normal[1].T):
        w, bound = np.ascontiguousarray(transposed.T), _dot_bound(dtype, delta, transposed)
        arguments = (delta, w, scratch, unset(dtype, rows, n_in, found=label))
        yield Case(label, arguments, {3: _product(delta, transposed)}, None, {3: bound}, 2)


def _gather(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, columns = sizes.rows, sizes.n_in
    order = rng.integers(0, 3 * rows, 2 * rows)
    # A batch of whole rows, visited in an order; and a block of columns, of rows as they come.
    places = ("ordered", order, rows, 0), ("straight", order[:0], rows, columns // 2)
    for found, source in cases.values(rng, drawn(rng, dtype, 3 * rows, columns)):
        for label, visited, start, column in places:
            out = unset(dtype, rows, columns - column, found=found)
            taken = visited[start:] if len(visited) else slice(start, start + rows)
            expected = wide(source[taken, column:])
            given = source, visited, start, column, out
            yield Case(labelled(label, found), given, {4: expected}, None, {4: 0.0})


# --- units and weights: activations, losses, penalties, dropout, rules ------------------------------


def _activate(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = 4 * drawn(rng, dtype, sizes.rows, sizes.n_out)
    # NumPy's formula of gelu and silu is NaN at -inf, where the kernels have the limit.
    for found, z in cases.values(rng, normal, (np.inf, -0.0, np.nan)):
        for code, name in enumerate(ACTIVATIONS):
            with np.errstate(invalid="ignore"):
                expected = reference_losses.activate(name, wide(z))
                bound = few_ulp(dtype, expected)
                if name == "softmax":
                    # The rounding of z - max is relative to the difference; that of the sum grows over n_out.
                    spread = z.max(axis=1, keepdims=True) - z
                    bound = 2 * eps(dtype) * expected * (4 + spread + np.sqrt(sizes.n_out))
            arguments = (code, z, unset(dtype, *z.shape, found=found))
            yield Case(labelled(name, found), arguments, {2: expected}, None, {2: bound})


def _activate_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = 4 * drawn(rng, dtype, sizes.rows, sizes.n_out)
    deltas = cases.values(rng, drawn(rng, dtype, *normal.shape))
    logits = cases.values(rng, normal, (np.nan, -0.0))
    for (found, delta), (_, z) in zip(deltas, logits, strict=True):
        for code, name in enumerate(HIDDEN):
            a = np.array(reference_losses.activate(name, z))  # a step has another array, for identity too
            with np.errstate(invalid="ignore"):
                expected = reference_losses.activate_gradient(name, wide(z), wide(a), wide(delta))
                # gelu's and silu's slopes are sums of terms of size |z|.
                bound = few_ulp(dtype, np.abs(delta) * np.maximum(np.abs(z), 1))
            yield Case(labelled(name, found), (code, z, a, delta), {3: expected}, None, {3: bound})


def _output_loss(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, _, n_out = sizes
    z = 2 * drawn(rng, dtype, rows, n_out)
    weights = rng.integers(0, 3, rows).astype(dtype)
    weights[0] = 1
    scratch = cases.scratch_of(sizes, dtype)
    losses: list[str | Loss] = [*LOSSES, Huber(0.7), Quantiles(0.3), CrossEntropy(0.1), BinaryFocal(0.5)]
    for loss in losses:
        entry = loss_of(loss)
        for output in entry.outputs:
            if (output == "softmax" and n_out == 1) or n_out % entry.outputs_per_target:
                continue
            objective = Objective.checked(n_out, output, loss)
            targets = rng.random((rows, n_out)).astype(dtype)
            if entry.targets == "distributions":
                targets /= targets.sum(axis=1, keepdims=True)
            per_target = entry.outputs_per_target
            targets = np.tile(targets[:, : n_out // per_target], per_target)
            expected = reference_losses.output_loss(objective, wide(z), wide(targets), wide(weights))
            yield _loss_case(objective, z, targets, weights, scratch, expected)
            lost = z.copy()
            lost[0, -1] = np.nan  # of a row that counts
            with np.errstate(invalid="ignore"):
                expected = reference_losses.output_loss(objective, wide(lost), wide(targets), wide(weights))
                yield _loss_case(objective, lost, targets, weights, scratch, expected, cases.NAN)
            if entry.clips and not entry.parameter:  # by scikit-learn: labels, and logits that saturate
                objective = Objective.checked(n_out, output, loss, "sklearn")
                far, labels = 20 * z, np.eye(n_out, dtype=dtype)[rng.integers(0, n_out, rows)]
                expected = reference_losses.output_loss(objective, far, labels, weights)  # eps is the dtype's
                yield _loss_case(objective, far, labels, weights, scratch, expected)


def _loss_case(
    objective: Objective,
    z: Array,
    targets: Array,
    weights: Array,
    scratch: Array,
    expected: tuple[float, Array],
    found: str = "",
) -> Case:
    total = float(weights.sum()) * objective.divisor
    codes = list(LOSSES).index(loss_of(objective.loss).name), list(ACTIVATIONS).index(objective.output)
    numbers = *codes, np.array(objective.loss_parameters), 1 / total
    outputs = np.abs(reference_losses.activate(objective.output, wide(z)))
    # Outputs, residuals and their products: the rounding of each is some ulp of at most this size.
    size = (1 + np.nanmax(np.abs(z), initial=0) + np.nanmax(outputs, initial=0)) ** 2
    fraction = weights.max() / total
    relative: Array | float = 0.0
    if (per_target := loss_of(objective.loss).outputs_per_target) > 1:
        # A likelihood's precisions are exponentials of logits, each with a relative error of the logit's
        # size, and they are factors of logarithms that cancel.
        spreads = np.hsplit(wide(z), per_target)[1:]
        precisions = np.tile(np.exp(-np.min(spreads, axis=0)), per_target)
        terms = np.nan_to_num(np.abs(expected[1]) + fraction * precisions)
        relative = 2 * eps(z.dtype) * (1 + np.nanmax(np.abs(z), initial=0)) * terms
    # The sum's rounding grows with sqrt(n), and more where equal terms round in the same way.
    walked = np.sqrt(z.size) * abs(expected[0])
    label = labelled(f"{objective.output}-{objective.loss}" + "-clipped" * objective.clips, found)
    arguments = (*numbers, z, targets, weights, scratch, unset(z.dtype, *z.shape, found=found))
    bound = {8: 8 * eps(z.dtype) * size * fraction + relative, -1: 8 * eps(z.dtype) * (size + walked)}
    return Case(label, arguments, {8: expected[1]}, expected[0], bound, 7)


PENALTIES = ((0.0, 0.3), (0.2, 0.0), (0.2, 0.3))


def _penalised(w: Array, l1: float, l2: float) -> Operation:
    """Return the single operation of a network with weights of this shape."""
    return Network([*w.shape], l1=l1, l2=l2).operations[0]


def _penalty(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = drawn(rng, dtype, sizes.n_in, sizes.n_out)
    for (found, w), (l1, l2) in itertools.product(cases.values(rng, normal, (np.nan,)), PENALTIES):
        expected = reference.penalty(_penalised(w, l1, l2), wide(w))
        bound = 8 * eps(dtype) * np.sqrt(sizes.n_out) * expected
        label = labelled(f"l1={l1:g},l2={l2:g}", found)
        yield Case(label, (l1, l2, w), {}, expected, {-1: bound})


def _penalty_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal, dw = drawn(rng, dtype, sizes.n_in, sizes.n_out), drawn(rng, dtype, sizes.n_in, sizes.n_out)
    for (found, w), (l1, l2) in itertools.product(cases.values(rng, normal, (np.nan,)), PENALTIES):
        by_w = reference.penalty_gradient(_penalised(w, l1, l2), wide(w))
        bound = few_ulp(dtype, np.abs(dw) + np.abs(by_w))
        label = labelled(f"l1={l1:g},l2={l2:g}", found)
        yield Case(label, (l1, l2, w, dw), {3: wide(dw) + by_w}, None, {3: bound})


def _drop(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = drawn(rng, dtype, sizes.rows, sizes.n_out)
    for found, a in cases.values(rng, normal, (np.nan,)):
        # A step writes dropped activations to another array, and dropped deltas in place.
        for key, step, layer, first, p, out in (
            (7, 0, 0, 0, 0.5, unset(dtype, *a.shape, found=found)),
            (2**32 - 1, 2**33 + 5, 3, 21, 0.1, a),
        ):
            shape = first + sizes.rows, sizes.n_out
            mask = reference_operations.dropout_mask(key, step, layer, shape, p)
            expected = np.where(mask[first:], wide(a) / (1 - p), 0)  # NaN may be dropped, too
            arguments = (key, step, layer, first, p, a, out)
            label = labelled(f"p={p:g}" + ", in place" * (out is a), found)
            bound = few_ulp(dtype, expected, 2)
            yield Case(label, arguments, {6: expected}, None, {6: bound})


OPTIMIZERS: dict[str, Optimizer] = {
    **{kind.__name__.lower(): kind(0.01) for kind in NAMED},
    "momentum": SGD(0.1, 0.9),
    "nesterov": SGD(0.1, 0.9, nesterov=True),
    "rmsprop with momentum": RMSprop(0.01, momentum=0.9),
    "adam, epsilon hat": Adam(0.001, epsilon_hat=True),
    "amsgrad": Adam(0.001, amsgrad=True),
    "adamw, amsgrad": AdamW(0.001, amsgrad=True),
    "schedule-free, warmup": ScheduleFreeAdamW(0.01, weight_decay=0.1, warmup=9),
}
"""Optimisers by labels: every class, and settings with other rules."""

STEPS_BEFORE = 3
"""The reference's steps before a case, for moments."""


def _vector(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Array:
    """Return drawn numbers (P,) for a layer's parameters."""
    return drawn(rng, dtype, (sizes.n_in + 1) * sizes.n_out)


def _clip(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    network, parameters = Network([sizes.n_in, sizes.n_out]), _vector(rng, dtype, sizes)
    gradients = cases.values(rng, _vector(rng, dtype, sizes), (np.nan,))
    for (found, gradient), clip_norm in itertools.product(gradients, (0.5, 1e6)):
        state = initial_state(wide(parameters))._replace(gradients=wide(gradient))
        expected = reference.update(network, SGD(0.0, clip_norm=clip_norm), state, 0.0, 0.0).gradients
        label, bound = labelled(f"at {clip_norm:g}", found), few_ulp(dtype, expected)
        yield Case(label, (clip_norm, gradient), {1: expected}, None, {1: bound})


def _apply_rule(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    parameters, before = _vector(rng, dtype, sizes), _vector(rng, np.dtype(float), sizes)
    gradients = cases.values(rng, _vector(rng, dtype, sizes), (np.nan,))
    for (found, gradient), (label, optimizer) in itertools.product(gradients, OPTIMIZERS.items()):
        rate, t = float(optimizer.rates(np.array([STEPS_BEFORE]), 1)[0, 0]), STEPS_BEFORE + 1
        rates, moments = np.full(parameters.shape, rate), np.zeros((optimizer.moment_rows, parameters.size))
        for step in range(1, t):
            take_step(optimizer, wide(parameters), before / step, moments, rates, step)
        constants = np.zeros(ROOM_FOR_CONSTANTS)
        constants[: len(optimizer.constants)] = optimizer.constants
        scalars = RULE_CODES.code(optimizer.rule), rate, constants, float(t)
        arguments = (*scalars, gradient, parameters, moments.astype(dtype))
        p, kept = (wide(array) for array in arguments[-2:])
        # A step adds terms of about this size, each with an error of a few ulp.
        terms = np.abs(gradient) + gradient * gradient + np.abs(kept).sum(axis=0)
        take_step(optimizer, p, wide(gradient), kept, rates, t)
        written = {5: p, 6: kept}
        bound = {i: few_ulp(dtype, np.abs(expected) + terms) for i, expected in written.items()}
        yield Case(labelled(label, found), arguments, written, None, bound)


AGREEMENT_SIZES = (
    *(Sizes(1, 1, 1), Sizes(4, 3, 2), Sizes(1, 17, 33), Sizes(1, 5, 150), Sizes(33, 10, 3)),
    *(Sizes(40, 20, 2), Sizes(19, 100, 65), Sizes(64, 32, 16), Sizes(48, 130, 60)),
)
"""A row, a unit, few units of many rows, sizes between multiples of a vector, more than a panel."""

PACKED = {"pack_always_rows": 32, "pack_delta_rows": 128}
"""Thresholds: the last of these sizes has W and the deltas copied into panels, on every machine."""

BENCHMARK_SIZES = (Sizes(32, 30, 100), Sizes(128, 784, 128), Sizes(256, 256, 256), Sizes(128, 128, 10))


class Slot(NamedTuple):
    """A slot: a name, a maker of cases; the signature stands in `fastmlp.kernels.variants.baseline`."""

    name: str
    make: CaseMaker

    def cases(self, rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
        """Yield calls of the slot on a batch and a layer of these sizes, with the reference's results."""
        for case in self.make(rng, dtype, sizes):
            yield case._replace(slot=self.name)


MAKERS: tuple[CaseMaker, ...] = (
    *(_affine, _weight_gradient, _affine_sparse, _weight_gradient_sparse, _bias_gradient, _input_gradient),
    *(_gather, _activate, _activate_gradient, _output_loss, _penalty, _penalty_gradient, _drop, _clip),
    _apply_rule,
)

SLOTS = {(name := make.__name__.removeprefix("_")): Slot(name, make) for make in MAKERS}
