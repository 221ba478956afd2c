"""The gradient: the reference against finite differences, the compiled backends against the reference."""

import functools

import numpy as np
import pytest
from support import naive
from support.problems import COMPILED_DTYPES, LIKELIHOODS, PAIRS, eps, parameters_for, targets_for
from support.selection import crossed, quick

from fastmlp import Huber, Network, Quantiles
from fastmlp.backend import registry
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Data
from fastmlp.model.layout import flatten
from fastmlp.model.losses import loss_of

SIZES = (3, 5, 4, 2)
ROWS = 6
KEY, STEP = 1234567890, 3
H = 1e-6
FROM_KINKS = 1e-3

EXTRAS = {
    "plain": {}, "l1 l2": {"l1": 0.02, "l2": 0.3}, "dropout": {"dropout": [0.3, 0.5]}, "weights": {},
    "all": {"l1": 0.02, "l2": 0.3, "dropout": [0.0, 0.4]},
    "sklearn": {"l1": 0.02, "l2": 0.3, "convention": "sklearn"},
}  # fmt: skip


PARAMETERS = {"huber": Huber(0.8), "pinball": Quantiles(0.3)}


class Problem:
    """A network, rows and parameters at which the objective is smooth."""

    def __init__(self, hidden, output, loss, extra, seed):
        rng = np.random.default_rng(seed)
        self.network = Network(
            SIZES, hidden=hidden, output=output, loss=PARAMETERS.get(loss, loss), **EXTRAS[extra]
        )
        self.weights, self.biases = parameters_for(SIZES, rng)
        sample_weight = np.ones(ROWS)
        if extra in ("weights", "all", "sklearn"):
            sample_weight = np.array([0.5, 2.0, 0.0, 1.0, 3.0, 0.25])
        self.data = Data(
            rng.standard_normal((ROWS, SIZES[0])), targets_for(loss, rng, ROWS, SIZES[-1]), sample_weight
        )
        self.parameters = flatten(self.weights, self.biases, self.network, np.dtype(float))

    def pre_activations(self):
        n = self.network
        dropout = [one.dropout for one in n.operations[:-1]]
        return naive.pre_activations(
            self.weights, self.biases, n.activations[:-1], self.data.inputs, dropout, KEY, STEP
        )

    def distance_to_a_kink(self):
        """How far the nearest pre-activation or residual is from where a slope jumps."""
        *hidden, logits = self.pre_activations()
        residuals = np.abs(naive.OUTPUTS[self.network.output](logits) - self.data.targets)
        jumps = {"mae": residuals, "pinball": residuals, "huber": np.abs(residuals - 0.8)}
        found = [np.abs(z).min() for z in hidden]
        return min([*found, jumps.get(loss_of(self.network.loss).name, residuals + 1).min()])

    def cast(self, dtype):
        return self.parameters.astype(dtype), Data(*(a.astype(dtype) for a in self.data))


@functools.cache
def smooth_problem(hidden, output, loss, extra):
    return next(
        problem
        for problem in (Problem(hidden, output, loss, extra, seed) for seed in range(100))
        if problem.distance_to_a_kink() > FROM_KINKS
    )


ALL_PAIRS = PAIRS + LIKELIHOODS

CASES = [
    (hidden, output, loss, list(EXTRAS)[(i + j) % len(EXTRAS)])
    for i, hidden in enumerate(HIDDEN)
    for j, (output, loss) in enumerate(ALL_PAIRS)
]
"""All activations x outputs x losses; the extras take turns, so that each meets most of them."""


CONSISTENT = {
    (hidden, output, loss): "all" if (loss, extra) == ("mse", "sklearn") else extra
    for hidden, output, loss, extra in CASES
}
"""Extras with the gradient of the objective, which scikit-learn's squared loss of several outputs has not."""


@quick(8)
@crossed(hidden=HIDDEN, pair=ALL_PAIRS)
def test_the_reference_agrees_with_central_differences(hidden, pair):
    output, loss = pair
    extra = CONSISTENT[hidden, output, loss]
    problem = smooth_problem(hidden, output, loss, extra)
    reference = registry.get("reference")
    unused = np.empty_like(problem.parameters)

    def objective(parameters):
        return reference.gradient(problem.network, parameters, problem.data, KEY, STEP, unused)

    got = np.empty_like(problem.parameters)
    value = reference.gradient(problem.network, problem.parameters, problem.data, KEY, STEP, got)
    correct = np.empty_like(got)
    for i in range(len(got)):
        step = np.zeros_like(got)
        step[i] = H
        correct[i] = (objective(problem.parameters + step) - objective(problem.parameters - step)) / (2 * H)
    # Rounding of the two values (a few ulp of about 10 sums) over the step; truncation, of order
    # h^2 = 1e-12, is below that.
    allowed = 10 * eps(float) * max(1.0, abs(value)) / H
    np.testing.assert_allclose(got, correct, rtol=0, atol=allowed)


@crossed(tried=["reference"], backend=registry.backends(), pair=ALL_PAIRS, extra=["all", "sklearn"])
def test_the_objective_is_the_transcribed_one(backend, pair, extra):
    """Of the reference, with which compiled ones are compared below, and by the matrix of all."""
    output, loss = pair
    problem = smooth_problem("tanh", output, loss, extra)
    network, data = problem.network, problem.data
    got = registry.get(backend).gradient(
        network, problem.parameters, data, KEY, STEP, np.empty_like(problem.parameters)
    )
    logits = problem.pre_activations()[-1]
    convention = network.convention
    correct = naive.loss(loss, output, logits, data.targets, data.weights, 0.8, 0.3, convention)
    for w in problem.weights:
        penalty = 0.02 * np.abs(w).sum() + 0.3 / 2 * (w**2).sum()
        correct += penalty / (data.weights.sum() if convention == "sklearn" else 1)
    assert got == pytest.approx(correct, rel=1e-13)  # some hundred roundings of eps, at random


@quick(1)
@crossed(backend=registry.variants(), hidden=HIDDEN, dtype=COMPILED_DTYPES)
def test_a_compiled_gradient_agrees_with_the_reference(backend, dtype, hidden):
    for _, output, loss, extra in (case for case in CASES if case[0] == hidden):
        problem = smooth_problem(hidden, output, loss, extra)
        parameters, data = problem.cast(dtype)
        got, correct = np.empty_like(parameters), np.empty_like(parameters)
        value = registry.get(backend).gradient(problem.network, parameters, data, KEY, STEP, got)
        expected = registry.get("reference").gradient(problem.network, parameters, data, KEY, STEP, correct)
        # Sums of at most 6 terms through 3 layers and back, each with its few ulp; terms cancel,
        # so the largest gradient sets the scale.
        allowed = 32 * eps(dtype) * max(1.0, np.abs(correct).max())
        case = f"{backend}: {hidden}, {output}, {loss}, {extra}"
        np.testing.assert_allclose(got, correct, rtol=0, atol=allowed, err_msg=case)
        assert value == pytest.approx(expected, rel=32 * eps(dtype)), case
