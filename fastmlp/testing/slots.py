"""The table of slots: for each the calls to try, the reference's results, and the largest error allowed.

Tests and benchmarks run every row against every variant. So a new slot, case or variant is a new test and a
new benchmark without another line. The reference computes the expected results in float64 from the same
inputs: a tolerance bounds the kernel's own rounding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import reference
from fastmlp.backend.registry import get_variant
from fastmlp.kernels.runtime.workspace import scratch_length
from fastmlp.model import optimizers
from fastmlp.model.activations import ACTIVATIONS, HIDDEN
from fastmlp.model.layout import aligned
from fastmlp.model.losses import LOSSES
from fastmlp.model.network import Network
from fastmlp.model.rules import MOST_CONSTANTS, RULES
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import TrainState

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


class Case(NamedTuple):
    """One call of a slot.

    label : what distinguishes it from the other cases, e.g. "relu"
    arguments : the slot's arguments; those in `written` are outputs, some of them also inputs
    written : {position of an output: expected array}, float64
    returned : expected return value, or None
    bound : {position: largest absolute error allowed}, arrays or scalars
    scratch : position of the array that a slot may leave in any state, or None
    slot : the slot's name
    """

    label: str
    arguments: tuple[Any, ...]
    written: dict[int, Array]
    returned: float | None
    bound: dict[int, Any]
    scratch: int | None = None
    slot: str = ""

    def fresh(self) -> tuple[Any, ...]:
        """Return the arguments with copies of all arrays but the scratch; an array given twice stays one."""
        kept = () if self.scratch is None else (self.scratch,)
        arrays = {
            id(a): a.copy()
            for i, a in enumerate(self.arguments)
            if isinstance(a, np.ndarray) and i not in kept
        }
        return tuple(arrays.get(id(a), a) for a in self.arguments)

    def inputs(self) -> dict[int, Array]:
        """Return by position the arrays of which a slot must not change a bit."""
        written = [self.arguments[i] for i in self.written]
        return {
            i: a
            for i, a in enumerate(self.arguments)
            if isinstance(a, np.ndarray) and i != self.scratch and not any(a is out for out in written)
        }

    def check(self, arguments: tuple[Any, ...], returned: Any) -> None:
        """Raise AssertionError unless a call of `fresh` arguments agrees with the reference.

        A slot must also leave its inputs as they were: what comes after it in a step reads them. The error is
        one line: the argument, the index that is farthest off, what was got there and what was wanted.
        """
        for position, given in self.inputs().items():
            array = arguments[position]
            if array.tobytes() != given.tobytes():
                bits = np.dtype(f"u{array.itemsize}")
                index = _first(array.view(bits) != given.view(bits))
                raise AssertionError(
                    f"{self._element(position, array, index)} is an input, which a slot must not change: "
                    f"it was {given[index]} and is {array[index]}"
                )
        for position, expected in self.written.items():
            array = arguments[position]
            error = np.abs(_wide(array) - expected)
            bound = np.broadcast_to(self.bound[position], error.shape)
            wrong = ~(error <= bound)  # NaN, too
            if wrong.any():
                index = np.unravel_index(np.argmax(error - bound), error.shape)
                raise AssertionError(
                    f"{self._element(position, array, index)} is {array[index]} and should be "
                    f"{expected[index]:.9g}: off by {error[index]:.3g}, allowed are {bound[index]:.3g}; "
                    f"{np.count_nonzero(wrong)} of {wrong.size} elements are off"
                )
        if self.returned is not None:
            # A sum in float64 of positive and negative terms has the error of its terms.
            allowed = self.bound[-1]
            if returned is None or not abs(returned - self.returned) <= allowed:
                raise AssertionError(
                    f"{self._named()} returns {returned} and should return {self.returned:.9g}, "
                    f"within {allowed:.3g}"
                )

    def _named(self) -> str:
        return f"{self.slot}, {self.label}," if self.label else self.slot

    def _element(self, position: int, array: Array, index: tuple[Any, ...]) -> str:
        """Return what an element is called in the slot's signature."""
        parameters = list(inspect.signature(get_variant("baseline").slots[self.slot]).parameters)
        place = ", ".join(map(str, index))
        return (
            f"{self._named()} argument {position}: {parameters[position]}[{place}] "
            f"(shape {array.shape}, {array.dtype})"
        )


def _first(where: Array) -> tuple[Any, ...]:
    """Return the index of the first element that holds."""
    return tuple(np.argwhere(where)[0])


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


def _wide(array: Array) -> Array:
    return array.astype(np.float64)


def _eps(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps)


def _dot_bound(dtype: np.dtype[Any], a: Array, b: Array) -> Array:
    """Return a bound on a dot product's rounding, which grows as a random walk over n terms: 8 sigma.

    The worst case is n * eps: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), 3.1.
    """
    return 8 * _eps(dtype) * np.sqrt(a.shape[1]) * (np.abs(_wide(a)) @ np.abs(_wide(b)) + 1)


def _few_ulp(dtype: np.dtype[Any], expected: Array, ulp: float = 8) -> Array:
    """Return `ulp` units in the last place, relative above 1 in magnitude, absolute below."""
    return ulp * _eps(dtype) * np.maximum(np.abs(expected), 1)


def _unset(dtype: np.dtype[Any], *shape: int) -> Array:
    """Return an array of NaN. NaN in a result shows that a slot reads the array, or does not write it."""
    return np.full(shape, np.nan, dtype)


def _scratch(sizes: Sizes, dtype: np.dtype[Any]) -> Array:
    length = scratch_length(max(sizes.n_in, sizes.n_out), sizes.rows, dtype.itemsize, sizes.n_out)
    scratch = aligned(length, dtype)
    scratch[:] = np.nan
    return scratch


# --- matmuls -------------------------------------------------------------------------------------


def _affine(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    x, w, b = _normal(rng, dtype, rows, n_in), _normal(rng, dtype, n_in, n_out), _normal(rng, dtype, n_out)
    expected = _wide(x) @ _wide(w) + _wide(b)
    bound = _dot_bound(dtype, x, w) + _few_ulp(dtype, b)
    scratch = _scratch(sizes, dtype)
    yield Case("", (x, w, b, scratch, _unset(dtype, rows, n_out)), {4: expected}, None, {4: bound}, 3)


def _weight_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    x, delta = _normal(rng, dtype, rows, n_in), _normal(rng, dtype, rows, n_out)
    expected = _wide(x).T @ _wide(delta)
    bound = _dot_bound(dtype, x.T, delta)
    scratch = _scratch(sizes, dtype)
    yield Case("", (x, delta, scratch, _unset(dtype, n_in, n_out)), {3: expected}, None, {3: bound}, 2)


def _sparse(rng: np.random.Generator, dtype: np.dtype[Any], rows: int, columns: int) -> SparseRows:
    """Return rows of which a third of the numbers is not 0, and the first has none."""
    dense = np.where(rng.random((rows, columns)) < 1 / 3, _normal(rng, dtype, rows, columns), 0)
    dense[0] = 0
    return SparseRows.of(dense)


def _affine_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    w, b = _normal(rng, dtype, n_in, n_out), _normal(rng, dtype, n_out)
    samples = _sparse(rng, dtype, 3 * rows, n_in)
    for label, order in (("ordered", rng.integers(0, 3 * rows, rows)), ("straight", np.empty(0, np.int64))):
        x = samples.matrix().toarray()[order if len(order) else slice(rows)]
        expected = _wide(x) @ _wide(w) + _wide(b)
        bound = _dot_bound(dtype, x, w) + _few_ulp(dtype, b)
        out = _unset(dtype, rows, n_out)
        yield Case(label, (*samples.arrays, order, w, b, out), {6: expected}, None, {6: bound})


def _weight_gradient_sparse(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    delta, columns = _normal(rng, dtype, rows, n_out), _sparse(rng, dtype, n_in, rows)
    expected = _wide(columns.matrix().toarray()) @ _wide(delta)
    bound = _dot_bound(dtype, columns.matrix().toarray(), delta)
    places = rng.permutation(n_in)
    for label, listed, at in (("listed", places, np.argsort(places)), ("every", places[:0], slice(None))):
        out = _unset(dtype, n_in, n_out)
        arguments = (*columns.arrays, listed, delta, out)
        yield Case(label, arguments, {5: expected[at]}, None, {5: bound[at]})


def _bias_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    delta = _normal(rng, dtype, sizes.rows, sizes.n_out)
    expected = _wide(delta).sum(axis=0)
    bound = _dot_bound(dtype, np.ones((1, sizes.rows)), delta)[0]
    yield Case("", (delta, _unset(dtype, sizes.n_out)), {1: expected}, None, {1: bound})


def _input_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, n_in, n_out = sizes
    delta, w = _normal(rng, dtype, rows, n_out), _normal(rng, dtype, n_in, n_out)
    expected = _wide(delta) @ _wide(w).T
    bound = _dot_bound(dtype, delta, w.T)
    scratch = _scratch(sizes, dtype)
    yield Case("", (delta, w, scratch, _unset(dtype, rows, n_in)), {3: expected}, None, {3: bound}, 2)


def _gather(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    source = _normal(rng, dtype, 3 * sizes.rows, sizes.n_in)
    order = rng.integers(0, len(source), sizes.rows)
    out = _unset(dtype, sizes.rows, sizes.n_in)
    yield Case("", (source, order, out), {2: _wide(source[order])}, None, {2: 0.0})


# --- elementwise ---------------------------------------------------------------------------------


def _activate(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    z = 4 * _normal(rng, dtype, sizes.rows, sizes.n_out)
    for code, name in enumerate(ACTIVATIONS):
        expected = reference.activate(name, _wide(z))
        bound = _few_ulp(dtype, expected)
        if name == "softmax":
            # The rounding of z - max is relative to the difference; that of the sum grows over n_out terms.
            spread = z.max(axis=1, keepdims=True) - z
            bound = 2 * _eps(dtype) * expected * (4 + spread + np.sqrt(sizes.n_out))
        yield Case(name, (code, z, _unset(dtype, *z.shape)), {2: expected}, None, {2: bound})


def _activate_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    z = 4 * _normal(rng, dtype, sizes.rows, sizes.n_out)
    delta = _normal(rng, dtype, sizes.rows, sizes.n_out)
    for code, name in enumerate(HIDDEN):
        a = np.array(reference.activate(name, z))  # in a step it is an array of its own, for identity too
        expected = reference.activate_gradient(name, _wide(z), _wide(a), _wide(delta))
        # gelu's and silu's slopes are sums of terms of size |z|.
        bound = _few_ulp(dtype, np.abs(delta) * np.maximum(np.abs(z), 1))
        yield Case(name, (code, z, a, delta), {3: expected}, None, {3: bound})


def _output_loss(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, _, n_out = sizes
    z = 2 * _normal(rng, dtype, rows, n_out)
    weights = rng.integers(0, 3, rows).astype(dtype)
    weights[0] = 1
    scratch = _scratch(sizes, dtype)
    for loss in LOSSES:
        for output in LOSSES[loss].outputs:
            if output == "softmax" and n_out == 1:
                continue
            network = Network([1, n_out], output=output, loss=loss, huber_delta=0.7, quantile=0.3)
            targets = rng.random((rows, n_out)).astype(dtype)
            if loss == "cross_entropy":
                targets /= targets.sum(axis=1, keepdims=True)
            expected = reference.output_loss(network, _wide(z), _wide(targets), _wide(weights))
            yield _loss_case(network, z, targets, weights, scratch, expected)
            if "entropy" in loss:  # scikit-learn's convention clips: labels, and logits that saturate
                network = Network([1, n_out], output=output, loss=loss, convention="sklearn")
                far, labels = 20 * z, np.eye(n_out, dtype=dtype)[rng.integers(0, n_out, rows)]
                expected = reference.output_loss(network, far, labels, weights)  # eps is the dtype's
                yield _loss_case(network, far, labels, weights, scratch, expected)


def _loss_case(
    network: Network, z: Array, targets: Array, weights: Array, scratch: Array, expected: tuple[float, Array]
) -> Case:
    total = float(weights.sum()) * network.divisor
    codes = list(LOSSES).index(network.loss), list(ACTIVATIONS).index(network.output)  # type: ignore[arg-type]
    numbers = *codes, np.array(network.loss_parameters), 1 / total
    outputs = np.abs(reference.activate(network.output, _wide(z)))
    # Outputs, residuals and their products: the rounding of each is some ulp of at most this size.
    size = (1 + np.abs(z).max() + outputs.max()) ** 2
    share = weights.max() / total
    # The sum's rounding grows with sqrt(n), and more where equal terms round in the same way.
    walked = np.sqrt(z.size) * abs(expected[0])
    return Case(
        f"{network.output}-{network.loss}" + "-clipped" * network.clips,
        (*numbers, z, targets, weights, scratch, _unset(z.dtype, *z.shape)),
        {8: expected[1]},
        expected[0],
        {8: 8 * _eps(z.dtype) * size * share, -1: 8 * _eps(z.dtype) * (size + walked)},
        7,
    )


PENALTIES = ((0.0, 0.3), (0.2, 0.0), (0.2, 0.3))


def _penalty(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    w = _normal(rng, dtype, sizes.n_in, sizes.n_out)
    for l1, l2 in PENALTIES:
        expected = reference.penalty(Network([*w.shape], l1=l1, l2=l2), _wide(w))
        bound = 8 * _eps(dtype) * np.sqrt(sizes.n_out) * expected
        yield Case(f"l1={l1:g},l2={l2:g}", (l1, l2, w), {}, expected, {-1: bound})


def _penalty_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    w, dw = _normal(rng, dtype, sizes.n_in, sizes.n_out), _normal(rng, dtype, sizes.n_in, sizes.n_out)
    for l1, l2 in PENALTIES:
        by_w = reference.penalty_gradient(Network([*w.shape], l1=l1, l2=l2), _wide(w))
        bound = _few_ulp(dtype, np.abs(dw) + np.abs(by_w))
        yield Case(f"l1={l1:g},l2={l2:g}", (l1, l2, w, dw), {3: _wide(dw) + by_w}, None, {3: bound})


def _drop(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    a = _normal(rng, dtype, sizes.rows, sizes.n_out)
    # A step writes dropped activations to another array, and dropped deltas in place.
    for key, step, layer, first, p, out in (
        (7, 0, 0, 0, 0.5, _unset(dtype, *a.shape)),
        (2**32 - 1, 2**33 + 5, 3, 21, 0.1, a),
    ):
        mask = reference.dropout_mask(key, step, layer, (first + sizes.rows, sizes.n_out), p)[first:]
        expected = _wide(a) * mask / (1 - p)
        arguments = (key, step, layer, first, p, a, out)
        label = f"p={p:g}" + ", in place" * (out is a)
        yield Case(label, arguments, {6: expected}, None, {6: _few_ulp(dtype, expected, 2)})


# --- steps ---------------------------------------------------------------------------------------


class _Vectors(NamedTuple):
    """A gradient, parameters and two moments (P,), as a one-layer network's."""

    network: Network
    gradient: Array
    parameters: Array
    first: Array
    second: Array

    def after(self, optimizer: optimizers.Optimizer, step: int, rate: float) -> TrainState:
        """Return what the reference makes of them in float64."""
        state = TrainState(
            _wide(self.parameters),
            _wide(self.gradient),
            np.stack([_wide(self.first), _wide(self.second)]),
            step,
        )
        return reference.update(self.network, optimizer, state, rate, rate)


def _vectors(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> _Vectors:
    network = Network([sizes.n_in, sizes.n_out])
    gradient, parameters, first = (_normal(rng, dtype, (sizes.n_in + 1) * sizes.n_out) for _ in range(3))
    return _Vectors(network, gradient, parameters, first, np.abs(_normal(rng, dtype, gradient.size)))


def _step_case(label: str, scalars: tuple[Any, ...], vectors: _Vectors, after: TrainState) -> Case:
    _, gradient, parameters, first, second = vectors
    arguments = (*scalars, gradient, parameters, first, second)
    at = len(scalars) + 1
    written = {at: after.parameters} | {at + 1 + i: after.moments[i] for i in range(2)}
    dtype = parameters.dtype
    terms = np.abs(gradient) + np.abs(first) + np.abs(second) + gradient * gradient
    # A step adds terms of about this size, each with an error of a few ulp.
    bound = {i: _few_ulp(dtype, np.abs(expected) + terms) for i, expected in written.items()}
    return Case(label, arguments, written, None, bound)


def _clip(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    vectors = _vectors(rng, dtype, sizes)
    for clip_norm in (0.5, 1e6):
        after = vectors.after(optimizers.SGD(0.0, clip_norm=clip_norm), 0, 0.0)
        bound = _few_ulp(dtype, after.gradients)
        yield Case(f"at {clip_norm:g}", (clip_norm, vectors.gradient), {1: after.gradients}, None, {1: bound})


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
    for label, optimizer, step in OPTIMIZERS:
        given = vectors._replace(first=np.abs(vectors.first)) if "rms" in label else vectors  # a mean square
        rate = float(optimizer.rates(np.array([step]), 1)[0, 0])
        constants = np.zeros(MOST_CONSTANTS + 1)
        constants[: len(optimizer.constants)] = optimizer.constants
        scalars = list(RULES).index(optimizer.rule.name), rate, constants, float(step + 1)
        yield _step_case(label, scalars, given, given.after(optimizer, step, rate))


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
