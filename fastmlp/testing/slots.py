"""The table of slots: for each the calls to try, the reference's results, and the largest error allowed.

Tests and benchmarks run every row against every variant. So a new slot, case or variant is a new test and a
new benchmark without another line. The reference computes the expected results in float64 from the same
inputs: a tolerance bounds the kernel's own rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import reference, reference_losses, reference_operations
from fastmlp.kernels.runtime.workspace import scratch_length
from fastmlp.model import optimizers
from fastmlp.model.activations import ACTIVATIONS, HIDDEN
from fastmlp.model.losses import LOSSES, Loss, loss_of
from fastmlp.model.network import Network
from fastmlp.model.objective import Objective
from fastmlp.model.operations import Operation
from fastmlp.model.own_losses import BinaryFocal, CrossEntropy, Huber, Quantiles
from fastmlp.model.rules import ROOM_FOR_CONSTANTS, RULES
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import TrainState
from fastmlp.testing import not_finite
from fastmlp.testing.cases import Case, wide
from fastmlp.testing.guards import guarded

Array = NDArray[Any]


class Sizes(NamedTuple):
    """A batch and a layer: rows of n_in inputs to n_out units."""

    rows: int
    n_in: int
    n_out: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.n_in}x{self.n_out}"


AGREEMENT_SIZES = (
    Sizes(1, 1, 1),
    Sizes(4, 3, 2),
    Sizes(1, 17, 33),
    Sizes(1, 5, 150),
    Sizes(33, 10, 3),
    Sizes(40, 20, 2),
    Sizes(19, 100, 65),
    Sizes(64, 32, 16),
    Sizes(48, 130, 60),
)
"""One row, one unit, few units of many rows, sizes that are no multiple of a vector. The last are large
enough for W and the deltas to be copied into panels."""

BENCHMARK_SIZES = (Sizes(32, 30, 100), Sizes(128, 784, 128), Sizes(256, 256, 256), Sizes(128, 128, 10))


CaseMaker = Callable[[np.random.Generator, "np.dtype[Any]", Sizes], Iterator[Case]]


class Slot(NamedTuple):
    """A slot: its name, and what makes its cases; `fastmlp.kernels.variants.baseline` has its signature."""

    name: str
    make: CaseMaker

    def cases(self, rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
        """Yield calls of the slot on a batch and a layer of these sizes, with what the reference says."""
        for case in self.make(rng, dtype, sizes):
            yield case._replace(slot=self.name)


def _normal(rng: np.random.Generator, dtype: np.dtype[Any], *shape: int) -> Array:
    return rng.standard_normal(shape).astype(dtype)


def _eps(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps)


def _product(a: Array, b: Array) -> Array:
    """Return a @ b in float64; NaN of what is not finite is no mistake."""
    with np.errstate(invalid="ignore"):
        return np.asarray(wide(a) @ wide(b))


def _of_non_zeros(a: Array, b: Array) -> Array:
    """Return a @ b in float64 over what is not 0 in a, all that sparse rows hold."""
    return np.array([_product(row[None, row != 0], b[row != 0])[0] for row in a])


def _dot_bound(dtype: np.dtype[Any], a: Array, b: Array, product: Any = _product) -> Array:
    """Return a bound on a dot product's rounding, which grows as a random walk over n terms: 8 sigma.

    The worst case is n * eps: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), 3.1.
    """
    return np.asarray(8 * _eps(dtype) * np.sqrt(a.shape[1]) * (product(np.abs(a), np.abs(b)) + 1))


def _both(label: str, found: str) -> str:
    return f"{label}, {found}" if found else label


def _few_ulp(dtype: np.dtype[Any], expected: Array, ulp: float = 8) -> Array:
    """Return `ulp` units in the last place, relative above 1 in magnitude, absolute below."""
    return np.asarray(ulp * _eps(dtype) * np.fmax(np.abs(expected), 1))  # of NaN as of 1


def _unset(dtype: np.dtype[Any], *shape: int, found: str = "") -> Array:
    """Return an array of NaN. NaN in a result shows that a slot reads the array, or does not write it.

    found : the label of `not_finite`; where a result may be NaN, the array holds another number
    """
    return np.full(shape, 1e9 if found else np.nan, dtype)


def _scratch(sizes: Sizes, dtype: np.dtype[Any]) -> Array:
    length = scratch_length(max(sizes.n_in, sizes.n_out), sizes.rows, dtype.itemsize, sizes.n_out)
    return guarded(_unset(dtype, length))


# --- matmuls -------------------------------------------------------------------------------------


def _affine(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    b = _normal(rng, dtype, n_out)
    scratch = _scratch(sizes, dtype)
    normal = _normal(rng, dtype, rows, n_in), _normal(rng, dtype, n_in, n_out)
    for label, x, w in not_finite.operands(rng, *normal):
        expected = _product(x, w) + wide(b)
        bound = _dot_bound(dtype, x, w) + _few_ulp(dtype, b)
        arguments = (x, w, b, scratch, _unset(dtype, rows, n_out, found=label))
        yield Case(label, arguments, {4: expected}, None, {4: bound}, 3, not label)


def _weight_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal = _normal(rng, dtype, rows, n_in), _normal(rng, dtype, rows, n_out)
    scratch = _scratch(sizes, dtype)
    for label, columns, delta in not_finite.operands(rng, normal[0].T, normal[1]):
        x, bound = np.ascontiguousarray(columns.T), _dot_bound(dtype, columns, delta)
        arguments = (x, delta, scratch, _unset(dtype, n_in, n_out, found=label))
        yield Case(label, arguments, {3: _product(columns, delta)}, None, {3: bound}, 2, not label)


def _sparse(rng: np.random.Generator, dtype: np.dtype[Any], rows: int, columns: int) -> Array:
    """Return rows of which a third of the numbers is not 0, and the first has none."""
    dense = np.where(rng.random((rows, columns)) < 1 / 3, _normal(rng, dtype, rows, columns), 0)
    dense[0] = 0
    return dense


def _affine_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    b, dense = _normal(rng, dtype, n_out), _sparse(rng, dtype, 3 * rows, n_in)
    normal = _normal(rng, dtype, n_in, n_out)
    orders = ("ordered", rng.integers(0, 3 * rows, rows)), ("straight", np.empty(0, np.int64))
    for found, samples, w in not_finite.operands(rng, dense, normal):
        for label, order in orders:
            x = samples[order if len(order) else slice(rows)]
            bound = _dot_bound(dtype, x, w, _of_non_zeros) + _few_ulp(dtype, b)
            out = _unset(dtype, rows, n_out, found=found)
            arguments = (*SparseRows.of(samples).arrays, order, w, b, out)
            expected = _of_non_zeros(x, w) + wide(b)
            yield Case(_both(label, found), arguments, {6: expected}, None, {6: bound}, None, not found)


def _weight_gradient_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal, dense = _normal(rng, dtype, rows, n_out), _sparse(rng, dtype, n_in, rows)
    places = rng.permutation(n_in)
    lists = ("listed", places, np.argsort(places)), ("every", places[:0], slice(None))
    for found, columns, delta in not_finite.operands(rng, dense, normal):
        expected = _of_non_zeros(columns, delta)
        bound = _dot_bound(dtype, columns, delta, _of_non_zeros)
        for label, listed, at in lists:
            out = _unset(dtype, n_in, n_out, found=found)
            arguments = (*SparseRows.of(columns).arrays, listed, delta, out)
            written, bounds = {5: expected[at]}, {5: bound[at]}
            yield Case(_both(label, found), arguments, written, None, bounds, None, not found)


def _bias_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    ones = np.ones((1, sizes.rows))
    for label, delta in not_finite.values(rng, _normal(rng, dtype, sizes.rows, sizes.n_out)):
        expected, bound = _product(ones, delta)[0], _dot_bound(dtype, ones, delta)[0]
        out = _unset(dtype, sizes.n_out, found=label)
        yield Case(label, (delta, out), {1: expected}, None, {1: bound}, None, not label)


def _input_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    normal = _normal(rng, dtype, rows, n_out), _normal(rng, dtype, n_in, n_out)
    scratch = _scratch(sizes, dtype)
    for label, delta, transposed in not_finite.operands(rng, normal[0], normal[1].T):
        w, bound = np.ascontiguousarray(transposed.T), _dot_bound(dtype, delta, transposed)
        arguments = (delta, w, scratch, _unset(dtype, rows, n_in, found=label))
        yield Case(label, arguments, {3: _product(delta, transposed)}, None, {3: bound}, 2, not label)


def _gather(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    order = rng.integers(0, 3 * sizes.rows, sizes.rows)
    for label, source in not_finite.values(rng, _normal(rng, dtype, 3 * sizes.rows, sizes.n_in)):
        out = _unset(dtype, sizes.rows, sizes.n_in, found=label)
        yield Case(label, (source, order, out), {2: wide(source[order])}, None, {2: 0.0}, None, not label)


# --- elementwise ---------------------------------------------------------------------------------


def _activate(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = 4 * _normal(rng, dtype, sizes.rows, sizes.n_out)
    # NumPy's formula of gelu and silu is NaN at -inf, where the kernels have the limit.
    for found, z in not_finite.values(rng, normal, (np.inf, -0.0, np.nan)):
        for code, name in enumerate(ACTIVATIONS):
            with np.errstate(invalid="ignore"):
                expected = reference_losses.activate(name, wide(z))
                bound = _few_ulp(dtype, expected)
                if name == "softmax":
                    # The rounding of z - max is relative to the difference; that of the sum grows over n_out.
                    spread = z.max(axis=1, keepdims=True) - z
                    bound = 2 * _eps(dtype) * expected * (4 + spread + np.sqrt(sizes.n_out))
            arguments = (code, z, _unset(dtype, *z.shape, found=found))
            yield Case(_both(name, found), arguments, {2: expected}, None, {2: bound}, None, not found)


def _activate_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = 4 * _normal(rng, dtype, sizes.rows, sizes.n_out)
    deltas = not_finite.values(rng, _normal(rng, dtype, *normal.shape))
    logits = not_finite.values(rng, normal, (np.nan, -0.0))
    for (found, delta), (_, z) in zip(deltas, logits, strict=True):
        for code, name in enumerate(HIDDEN):
            a = np.array(
                reference_losses.activate(name, z)
            )  # in a step it is an array of its own, for identity too
            with np.errstate(invalid="ignore"):
                expected = reference_losses.activate_gradient(name, wide(z), wide(a), wide(delta))
                # gelu's and silu's slopes are sums of terms of size |z|.
                bound = _few_ulp(dtype, np.abs(delta) * np.maximum(np.abs(z), 1))
            yield Case(
                _both(name, found), (code, z, a, delta), {3: expected}, None, {3: bound}, None, not found
            )


def _output_loss(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, _, n_out = sizes
    z = 2 * _normal(rng, dtype, rows, n_out)
    weights = rng.integers(0, 3, rows).astype(dtype)
    weights[0] = 1
    scratch = _scratch(sizes, dtype)
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
            if entry.outputs_per_target > 1:
                targets = np.tile(targets[:, : n_out // 2], 2)
            expected = reference_losses.output_loss(objective, wide(z), wide(targets), wide(weights))
            yield _loss_case(objective, z, targets, weights, scratch, expected)
            lost = z.copy()
            lost[0, -1] = np.nan  # of a row that counts
            with np.errstate(invalid="ignore"):
                expected = reference_losses.output_loss(objective, wide(lost), wide(targets), wide(weights))
                yield _loss_case(objective, lost, targets, weights, scratch, expected, not_finite.NAN)
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
    share = weights.max() / total
    relative: Array | float = 0.0
    if loss_of(objective.loss).outputs_per_target > 1:
        # A likelihood's precisions are exponentials of logits, each with a relative error of the logit's
        # size, and they are factors of logarithms that cancel.
        precisions = np.tile(np.exp(-np.hsplit(wide(z), 2)[1]), 2)
        terms = np.nan_to_num(np.abs(expected[1]) + share * precisions)
        relative = 2 * _eps(z.dtype) * (1 + np.nanmax(np.abs(z), initial=0)) * terms
    # The sum's rounding grows with sqrt(n), and more where equal terms round in the same way.
    walked = np.sqrt(z.size) * abs(expected[0])
    return Case(
        _both(f"{objective.output}-{objective.loss}" + "-clipped" * objective.clips, found),
        (*numbers, z, targets, weights, scratch, _unset(z.dtype, *z.shape, found=found)),
        {8: expected[1]},
        expected[0],
        {8: 8 * _eps(z.dtype) * size * share + relative, -1: 8 * _eps(z.dtype) * (size + walked)},
        7,
        not found,
    )


PENALTIES = ((0.0, 0.3), (0.2, 0.0), (0.2, 0.3))


def _penalised(w: Array, l1: float, l2: float) -> Operation:
    """Return the only operation of a network with the shape of these weights."""
    return Network([*w.shape], l1=l1, l2=l2).operations[0]


def _penalty(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = _normal(rng, dtype, sizes.n_in, sizes.n_out)
    for (found, w), (l1, l2) in itertools.product(not_finite.values(rng, normal, (np.nan,)), PENALTIES):
        expected = reference.penalty(_penalised(w, l1, l2), wide(w))
        bound = 8 * _eps(dtype) * np.sqrt(sizes.n_out) * expected
        label = _both(f"l1={l1:g},l2={l2:g}", found)
        yield Case(label, (l1, l2, w), {}, expected, {-1: bound}, None, not found)


def _penalty_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal, dw = _normal(rng, dtype, sizes.n_in, sizes.n_out), _normal(rng, dtype, sizes.n_in, sizes.n_out)
    for (found, w), (l1, l2) in itertools.product(not_finite.values(rng, normal, (np.nan,)), PENALTIES):
        by_w = reference.penalty_gradient(_penalised(w, l1, l2), wide(w))
        bound = _few_ulp(dtype, np.abs(dw) + np.abs(by_w))
        label = _both(f"l1={l1:g},l2={l2:g}", found)
        yield Case(label, (l1, l2, w, dw), {3: wide(dw) + by_w}, None, {3: bound}, None, not found)


def _drop(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = _normal(rng, dtype, sizes.rows, sizes.n_out)
    for found, a in not_finite.values(rng, normal, (np.nan,)):
        # A step writes dropped activations to another array, and dropped deltas in place.
        for key, step, layer, first, p, out in (
            (7, 0, 0, 0, 0.5, _unset(dtype, *a.shape, found=found)),
            (2**32 - 1, 2**33 + 5, 3, 21, 0.1, a),
        ):
            mask = reference_operations.dropout_mask(key, step, layer, (first + sizes.rows, sizes.n_out), p)[
                first:
            ]
            expected = np.where(mask, wide(a) / (1 - p), 0)  # NaN may be dropped, too
            arguments = (key, step, layer, first, p, a, out)
            label = _both(f"p={p:g}" + ", in place" * (out is a), found)
            bound = _few_ulp(dtype, expected, 2)
            yield Case(label, arguments, {6: expected}, None, {6: bound}, None, not found)


# --- steps ---------------------------------------------------------------------------------------


class _StepVectors(NamedTuple):
    """A gradient, parameters and two moments (P,), as a one-layer network's."""

    network: Network
    gradient: Array
    parameters: Array
    first: Array
    second: Array

    def after(self, optimizer: optimizers.Optimizer, step: int, rate: float) -> TrainState:
        """Return what the reference makes of them in float64."""
        state = TrainState(
            wide(self.parameters),
            wide(self.gradient),
            np.stack([wide(self.first), wide(self.second)]),
            step,
        )
        return reference.update(self.network, optimizer, state, rate, rate)


def _vectors(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> _StepVectors:
    network = Network([sizes.n_in, sizes.n_out])
    gradient, parameters, first = (_normal(rng, dtype, (sizes.n_in + 1) * sizes.n_out) for _ in range(3))
    return _StepVectors(network, gradient, parameters, first, np.abs(_normal(rng, dtype, gradient.size)))


def _step_case(
    label: str, found: str, scalars: tuple[Any, ...], vectors: _StepVectors, after: TrainState
) -> Case:
    _, gradient, parameters, first, second = vectors
    arguments = (*scalars, gradient, parameters, first, second)
    at = len(scalars) + 1
    written = {at: after.parameters} | {at + 1 + i: after.moments[i] for i in range(2)}
    dtype = parameters.dtype
    terms = np.abs(gradient) + np.abs(first) + np.abs(second) + gradient * gradient
    # A step adds terms of about this size, each with an error of a few ulp.
    bound = {i: _few_ulp(dtype, np.abs(expected) + terms) for i, expected in written.items()}
    return Case(_both(label, found), arguments, written, None, bound, None, not found)


def _clip(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    vectors = _vectors(rng, dtype, sizes)
    gradients = not_finite.values(rng, vectors.gradient, (np.nan,))
    for (found, gradient), clip_norm in itertools.product(gradients, (0.5, 1e6)):
        given = vectors._replace(gradient=gradient)
        expected = given.after(optimizers.SGD(0.0, clip_norm=clip_norm), 0, 0.0).gradients
        label, bound = _both(f"at {clip_norm:g}", found), _few_ulp(dtype, expected)
        yield Case(label, (clip_norm, gradient), {1: expected}, None, {1: bound}, None, not found)


OPTIMIZERS = (
    ("sgd", optimizers.SGD(0.1), 0),
    ("momentum", optimizers.SGD(0.1, 0.9), 0),
    ("nesterov", optimizers.SGD(0.1, 0.9, nesterov=True), 0),
    ("rmsprop", optimizers.RMSprop(0.01), 0),
    ("rmsprop with momentum", optimizers.RMSprop(0.01, momentum=0.9), 0),
    ("adam", optimizers.Adam(0.001), 0),
    ("adam, epsilon hat", optimizers.Adam(0.001, epsilon_hat=True), 3),
    ("adamw", optimizers.AdamW(0.001), 10),
    ("sparse adam", optimizers.SparseAdam(0.001), 3),
)
"""For every rule: a label, an optimiser that has it, and the number of steps taken before."""


def _apply_rule(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    vectors = _vectors(rng, dtype, sizes)
    gradients = not_finite.values(rng, vectors.gradient, (np.nan,))
    for (found, gradient), (label, optimizer, step) in itertools.product(gradients, OPTIMIZERS):
        # rmsprop's first moment is a mean square.
        first = np.abs(vectors.first) if "rms" in label else vectors.first
        given = vectors._replace(gradient=gradient, first=first)
        rate = float(optimizer.rates(np.array([step]), 1)[0, 0])
        constants = np.zeros(ROOM_FOR_CONSTANTS)
        constants[: len(optimizer.constants)] = optimizer.constants
        scalars = list(RULES).index(optimizer.rule.name), rate, constants, float(step + 1)
        yield _step_case(label, found, scalars, given, given.after(optimizer, step, rate))


SLOTS = {
    slot.name: slot
    for slot in (
        Slot("affine", _affine),
        Slot("weight_gradient", _weight_gradient),
        Slot("affine_sparse", _affine_sparse),
        Slot("weight_gradient_sparse", _weight_gradient_sparse),
        Slot("bias_gradient", _bias_gradient),
        Slot("input_gradient", _input_gradient),
        Slot("gather", _gather),
        Slot("activate", _activate),
        Slot("activate_gradient", _activate_gradient),
        Slot("output_loss", _output_loss),
        Slot("penalty", _penalty),
        Slot("penalty_gradient", _penalty_gradient),
        Slot("drop", _drop),
        Slot("clip", _clip),
        Slot("apply_rule", _apply_rule),
    )
}
