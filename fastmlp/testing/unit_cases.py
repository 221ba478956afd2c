"""Calls of the slots that work on units or weights one by one: activations, losses, rules, dropout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastmlp.backend import reference, reference_losses, reference_operations
from fastmlp.backend.reference_rules import take_step
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.model.activations import ACTIVATIONS, HIDDEN
from fastmlp.model.heads import Objective
from fastmlp.model.losses import LOSSES, BinaryFocal, CrossEntropy, Huber, Quantiles, loss_of
from fastmlp.model.network import Network
from fastmlp.model.operations import Operation
from fastmlp.model.optimizers import NAMED, SGD, Adam, AdamW, Optimizer, RMSprop, ScheduleFreeAdamW
from fastmlp.model.own_losses import Loss
from fastmlp.model.rules import ROOM_FOR_CONSTANTS
from fastmlp.model.state import Array, initial_state
from fastmlp.testing import cases
from fastmlp.testing.cases import (
    Case,
    CaseMaker,
    Sizes,
    drawn,
    eps,
    few_ulp,
    labelled,
    scratch_of,
    unset,
    wide,
)


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
            yield Case(labelled(name, found), arguments, {2: expected}, None, {2: bound}, None, not found)


def _activate_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = 4 * drawn(rng, dtype, sizes.rows, sizes.n_out)
    deltas = cases.values(rng, drawn(rng, dtype, *normal.shape))
    logits = cases.values(rng, normal, (np.nan, -0.0))
    for (found, delta), (_, z) in zip(deltas, logits, strict=True):
        for code, name in enumerate(HIDDEN):
            a = np.array(
                reference_losses.activate(name, z)
            )  # in a step it is an array of its own, for identity too
            with np.errstate(invalid="ignore"):
                expected = reference_losses.activate_gradient(name, wide(z), wide(a), wide(delta))
                # gelu's and silu's slopes are sums of terms of size |z|.
                bound = few_ulp(dtype, np.abs(delta) * np.maximum(np.abs(z), 1))
            yield Case(
                labelled(name, found), (code, z, a, delta), {3: expected}, None, {3: bound}, None, not found
            )


def _output_loss(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    rows, _, n_out = sizes
    z = 2 * drawn(rng, dtype, rows, n_out)
    weights = rng.integers(0, 3, rows).astype(dtype)
    weights[0] = 1
    scratch = scratch_of(sizes, dtype)
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
    share = weights.max() / total
    relative: Array | float = 0.0
    if (per_target := loss_of(objective.loss).outputs_per_target) > 1:
        # A likelihood's precisions are exponentials of logits, each with a relative error of the logit's
        # size, and they are factors of logarithms that cancel.
        spreads = np.hsplit(wide(z), per_target)[1:]
        precisions = np.tile(np.exp(-np.min(spreads, axis=0)), per_target)
        terms = np.nan_to_num(np.abs(expected[1]) + share * precisions)
        relative = 2 * eps(z.dtype) * (1 + np.nanmax(np.abs(z), initial=0)) * terms
    # The sum's rounding grows with sqrt(n), and more where equal terms round in the same way.
    walked = np.sqrt(z.size) * abs(expected[0])
    return Case(
        labelled(f"{objective.output}-{objective.loss}" + "-clipped" * objective.clips, found),
        (*numbers, z, targets, weights, scratch, unset(z.dtype, *z.shape, found=found)),
        {8: expected[1]},
        expected[0],
        {8: 8 * eps(z.dtype) * size * share + relative, -1: 8 * eps(z.dtype) * (size + walked)},
        7,
        not found,
    )


PENALTIES = ((0.0, 0.3), (0.2, 0.0), (0.2, 0.3))


def _penalised(w: Array, l1: float, l2: float) -> Operation:
    """Return the only operation of a network with the shape of these weights."""
    return Network([*w.shape], l1=l1, l2=l2).operations[0]


def _penalty(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = drawn(rng, dtype, sizes.n_in, sizes.n_out)
    for (found, w), (l1, l2) in itertools.product(cases.values(rng, normal, (np.nan,)), PENALTIES):
        expected = reference.penalty(_penalised(w, l1, l2), wide(w))
        bound = 8 * eps(dtype) * np.sqrt(sizes.n_out) * expected
        label = labelled(f"l1={l1:g},l2={l2:g}", found)
        yield Case(label, (l1, l2, w), {}, expected, {-1: bound}, None, not found)


def _penalty_gradient(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal, dw = drawn(rng, dtype, sizes.n_in, sizes.n_out), drawn(rng, dtype, sizes.n_in, sizes.n_out)
    for (found, w), (l1, l2) in itertools.product(cases.values(rng, normal, (np.nan,)), PENALTIES):
        by_w = reference.penalty_gradient(_penalised(w, l1, l2), wide(w))
        bound = few_ulp(dtype, np.abs(dw) + np.abs(by_w))
        label = labelled(f"l1={l1:g},l2={l2:g}", found)
        yield Case(label, (l1, l2, w, dw), {3: wide(dw) + by_w}, None, {3: bound}, None, not found)


def _drop(rng: np.random.Generator, dtype: np.dtype[Any], sizes: Sizes) -> Iterator[Case]:
    normal = drawn(rng, dtype, sizes.rows, sizes.n_out)
    for found, a in cases.values(rng, normal, (np.nan,)):
        # A step writes dropped activations to another array, and dropped deltas in place.
        for key, step, layer, first, p, out in (
            (7, 0, 0, 0, 0.5, unset(dtype, *a.shape, found=found)),
            (2**32 - 1, 2**33 + 5, 3, 21, 0.1, a),
        ):
            mask = reference_operations.dropout_mask(key, step, layer, (first + sizes.rows, sizes.n_out), p)[
                first:
            ]
            expected = np.where(mask, wide(a) / (1 - p), 0)  # NaN may be dropped, too
            arguments = (key, step, layer, first, p, a, out)
            label = labelled(f"p={p:g}" + ", in place" * (out is a), found)
            bound = few_ulp(dtype, expected, 2)
            yield Case(label, arguments, {6: expected}, None, {6: bound}, None, not found)


UNITS: dict[str, CaseMaker] = {
    "activate": _activate,
    "activate_gradient": _activate_gradient,
    "output_loss": _output_loss,
    "penalty": _penalty,
    "penalty_gradient": _penalty_gradient,
    "drop": _drop,
}
"""The slots of units and weights, with what makes their cases."""

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
    gradients = cases.values(rng, _vector(rng, dtype, sizes), (np.nan,))
    for (found, gradient), clip_norm in itertools.product(gradients, (0.5, 1e6)):
        state = initial_state(wide(parameters))._replace(gradients=wide(gradient))
        expected = reference.update(network, SGD(0.0, clip_norm=clip_norm), state, 0.0, 0.0).gradients
        label, bound = labelled(f"at {clip_norm:g}", found), few_ulp(dtype, expected)
        yield Case(label, (clip_norm, gradient), {1: expected}, None, {1: bound}, None, not found)


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
        yield Case(labelled(label, found), arguments, written, None, bound, None, not found)


STEPS: dict[str, CaseMaker] = {
    "clip": _clip,
    "apply_rule": _apply_rule,
}
"""The slots of steps, with what makes their cases."""
