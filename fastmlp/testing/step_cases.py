"""Calls of the slots that apply a gradient: clipping, and the rules of all optimisers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmlp.backend import reference
from fastmlp.backend.reference_rules import take_step
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.model.network import Network
from fastmlp.model.optimizers import NAMED, SGD, Adam, AdamW, Optimizer, RMSprop, ScheduleFreeAdamW
from fastmlp.model.rules import ROOM_FOR_CONSTANTS
from fastmlp.model.state import initial_state
from fastmlp.testing import not_finite
from fastmlp.testing.cases import Array, Case, CaseMaker, Sizes, drawn, few_ulp, labelled, wide

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
"""Optimisers by labels: all of fastmlp's, and more settings of some, so that every rule is among them."""

STEPS_BEFORE = 3
"""The reference's steps before that of a case, which make its moments."""


def _vector(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Array:
    """Return as many numbers (P,) as a network of one layer has parameters."""
    return drawn(rng, dtype, (sizes.n_in + 1) * sizes.n_out)


def _clip(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    network, parameters = Network([sizes.n_in, sizes.n_out]), _vector(rng, dtype, sizes)
    gradients = not_finite.values(rng, _vector(rng, dtype, sizes), (np.nan,))
    for (found, gradient), clip_norm in itertools.product(gradients, (0.5, 1e6)):
        state = initial_state(wide(parameters))._replace(gradients=wide(gradient))
        expected = reference.update(network, SGD(0.0, clip_norm=clip_norm), state, 0.0, 0.0).gradients
        label, bound = labelled(f"at {clip_norm:g}", found), few_ulp(dtype, expected)
        yield Case(label, (clip_norm, gradient), {1: expected}, None, {1: bound}, None, not found)


def _apply_rule(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    parameters, before = _vector(rng, dtype, sizes), _vector(rng, np.dtype(float), sizes)
    gradients = not_finite.values(rng, _vector(rng, dtype, sizes), (np.nan,))
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
        yield Case(labelled(label, found), arguments, written, None, bound, None, not found)


STEPS: dict[str, CaseMaker] = {
    "clip": _clip,
    "apply_rule": _apply_rule,
}
"""The slots of steps, with what makes their cases."""
