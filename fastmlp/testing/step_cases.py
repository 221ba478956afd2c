"""Calls of the slots that apply a gradient: clipping, and the rules of all optimisers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend import reference
from fastmlp.model import optimizers
from fastmlp.model.network import Network
from fastmlp.model.rules import ROOM_FOR_CONSTANTS, RULES
from fastmlp.model.state import TrainState
from fastmlp.testing import not_finite
from fastmlp.testing.cases import Array, Case, CaseMaker, Sizes, drawn, few_ulp, labelled, wide


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
    gradient, parameters, first = (drawn(rng, dtype, (sizes.n_in + 1) * sizes.n_out) for _ in range(3))
    return _StepVectors(network, gradient, parameters, first, np.abs(drawn(rng, dtype, gradient.size)))


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
    bound = {i: few_ulp(dtype, np.abs(expected) + terms) for i, expected in written.items()}
    return Case(labelled(label, found), arguments, written, None, bound, None, not found)


def _clip(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    vectors = _vectors(rng, dtype, sizes)
    gradients = not_finite.values(rng, vectors.gradient, (np.nan,))
    for (found, gradient), clip_norm in itertools.product(gradients, (0.5, 1e6)):
        given = vectors._replace(gradient=gradient)
        expected = given.after(optimizers.SGD(0.0, clip_norm=clip_norm), 0, 0.0).gradients
        label, bound = labelled(f"at {clip_norm:g}", found), few_ulp(dtype, expected)
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
"""A label, an optimiser and the number of steps taken before, for every rule."""


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


STEPS: dict[str, CaseMaker] = {
    "clip": _clip,
    "apply_rule": _apply_rule,
}
"""The slots of steps, with what makes their cases."""
