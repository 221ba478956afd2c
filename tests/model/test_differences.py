"""Derivatives of networks of all layers, blocks and heads are differences of their values."""

import numpy as np
import pytest
from support import custom_components, custom_layers, heads, input_blocks
from support.layer_networks import INPUTS, OUTPUTS, SHARING, TABLED, drawn_at_random, network, rows_of
from support.problems import parameters_for
from support.selection import quick

import fastmlp
from fastmlp import BatchNorm, Categories, Dense, Network, Numbers, Periodic, Residual, SparseNumbers, Stepper
from fastmlp.backend import registry
from fastmlp.model.backend import Data
from fastmlp.model.layout import flatten, parameter_count

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(9, INPUTS))
SPARSE = [Numbers(3, Periodic(4)), Categories(input_blocks.LEVELS, width=2), SparseNumbers(70)]
CODED = [input_blocks.NUMBERS, input_blocks.CODES]
BEFORE = [Dense(INPUTS, "tanh"), BatchNorm(), Residual(BatchNorm())]

STEPPED = {
    **{f"drawn {seed}": (network([*BEFORE, *drawn_at_random(seed)]), ROWS) for seed in range(6)},
    "members": (network(SHARING), ROWS),
    "members of a softmax": (network(SHARING, output="softmax", loss="cross_entropy"), ROWS),
    "members with norms": (network(custom_layers.MEMBERS), ROWS),
    **{name: (input_blocks.network(one), CODED) for name, one in input_blocks.EMBEDDINGS.items()},
    "sparse": (Network(inputs=SPARSE, layers=[Dense(9, "tanh"), Dense(2)]), [*CODED, input_blocks.WORDS]),
    "heads": (heads.network(missing=True, weighted=True), heads.X),
    **{
        f"output {output}": (Network([INPUTS, 5, OUTPUTS], "tanh", output, loss, input_scale=0.5), ROWS)
        for output, loss in [("sigmoid", "mse"), ("softmax", "mse"), ("exp", "poisson")]
    },
}
"""Networks, and rows; of one array derivatives are by the rows, too."""


def trained_of(made):
    """1 of the parameters that train, 0 of states and of biases that are held."""
    trained = np.zeros(parameter_count(made))
    for one in made.operations:
        trained[one.weights : one.trained if one.trains_bias else one.biases] = 1
    return trained


@quick(4)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("name", STEPPED)
def test_derivatives_of_outputs(name, backend, training):
    made, X = STEPPED[name]
    initial = input_blocks.fit(made, epochs=0) if name in input_blocks.EMBEDDINGS else None  # with bins
    stepper = Stepper(made, fastmlp.SGD(0.1), seed=0, dtype="float64", backend=backend, initial=initial)
    rng, trained = np.random.default_rng(3), trained_of(made)
    stepper.parameters[...] += 0.1 * np.abs(rng.normal(size=trained.size)) * trained  # away from gains of 1
    start, along, by_rows, h = stepper.parameters.copy(), rng.normal(size=trained.size), 0.0, 1e-6
    along *= trained
    across = rng.normal(size=X.shape) if isinstance(X, np.ndarray) else None
    by_outputs = rng.normal(size=stepper.forward(X, training=training).shape)
    by_X = stepper.backward(by_outputs, inputs=across is not None)
    if across is not None:
        by_rows = (by_X * across).sum()
    expected = stepper.gradients @ along + by_rows

    def value(step):
        stepper.parameters[...] = start + step * along
        rows = X if across is None else X + step * across
        return float((stepper.forward(rows, training=training) * by_outputs).sum())

    assert (value(h) - value(-h)) / (2 * h) == pytest.approx(expected, rel=1e-6)


def objectives():
    """Networks of custom components and of the table: data, parameters, directions, what is little."""
    X = custom_components.X
    for name, (made, y, _) in custom_components.CASES.items():
        y = np.broadcast_to(y.reshape(len(y), -1), (len(y), made.n_out)).copy()
        parameters = flatten(*parameters_for(made.widths, np.random.default_rng(1)), made, np.dtype(float))
        yield name, made, Data(X, y, np.arange(len(X)) % 3.0), parameters, np.eye(len(parameters)), 1e-7
    for name, layers in custom_layers.LISTS.items():
        made = Network(inputs=5, layers=layers)
        yield name, made, Data(X, X[:, :2] ** 2, np.ones(len(X))), *drawn(made, 50), 1e-6
    for name, made in TABLED.items():
        rows = [rows_of(part, 20, np.random.default_rng(0)) for part in made.blocks]
        data = Data(np.hstack(rows) if rows else RNG.normal(size=(20, INPUTS)), Y, np.ones(20))
        yield f"{name} of the table", made, data, *drawn(made, 20), 1e-6


def drawn(made, directions):
    """Parameters, and directions in which all of them move; a unit of each would be ten times as many."""
    count = parameter_count(made)
    moves = np.random.default_rng(2).choice([-1.0, 1.0], (directions, count)) * trained_of(made)
    return np.random.default_rng(1).normal(0, 0.5, count), moves


Y = RNG.normal(size=(20, OUTPUTS))
OBJECTIVES = {name: case for name, *case in objectives()}


@quick(9)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_of_the_reference_are_differences_of_the_objective(name):
    made, data, parameters, directions, little = OBJECTIVES[name]
    gradient = registry.get("reference").gradient
    found, unused = np.empty_like(parameters), np.empty_like(parameters)
    gradient(made, parameters, data, 7, 0, found)
    parts = [one for one in made.operations if one.is_block and one.trained > one.weights]
    assert [one.name for one in parts if not found[one.weights : one.trained].any()] == []
    for direction in directions:
        sides = [parameters + step * direction for step in (-1e-6, 1e-6)]
        low, high = (gradient(made, side, data, 7, 0, unused) for side in sides)
        assert (high - low) / 2e-6 == pytest.approx(found @ direction, rel=1e-6, abs=little)
