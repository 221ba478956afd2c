"""L-BFGS: directions are those of the two-loop recursion, steps satisfy the strong Wolfe conditions."""

import functools
import gc
import math
import sys
import types

import numpy as np
import pytest
import scipy.optimize
from support import smooth_rows
from support.selection import matrix, quick
from support.smooth_rows import KINDS, X, Y

import fastmlp
from fastmlp import LBFGS, Dense, Head, LayerNorm, Network
from fastmlp.kernels.program.records import WHOLE, WHOLE_VECTORS
from fastmlp.kernels.program.whole_steps import CURVATURE, DECREASE
from fastmlp.second_order.objective import in_numpy


def two_loops(pairs, gradient):
    """Algorithm 7.4 of Nocedal and Wright, with equation 7.20; pairs : the oldest first."""
    q, factors = gradient.copy(), []
    for s, y in pairs[::-1]:
        factors.append((s @ q) / (y @ s))
        q -= factors[-1] * y
    s, y = pairs[-1]
    r = (s @ y) / (y @ y) * q
    for (s, y), factor in zip(pairs, factors[::-1], strict=True):
        r += s * (factor - (y @ r) / (y @ s))
    return -r


class Search:
    """The steps of L-BFGS along a function of x, which returns the loss and the gradient."""

    def __init__(self, function, x, pairs, count=0):
        self.points, size = [], x.size
        state = np.zeros(1, WHOLE).view(np.recarray)[0]
        state.history, state.pairs, state.max_evaluations = len(pairs) // 2, count, 20
        state.goal, state.min_gradient, state.divisor = np.nan, -1.0, 1.0
        state.single = pairs.dtype == np.float32
        vectors = dict(zip(WHOLE_VECTORS, np.zeros((len(WHOLE_VECTORS), size)), strict=True))
        self.call = types.SimpleNamespace(
            parameters=x, gradients=np.zeros(size), moments=pairs.astype(np.float64), whole=state,
            room=np.zeros(len(pairs)), **vectors, size=size, iterations=1, curves=np.empty((6, 1)),
        )  # fmt: skip

        def gradient_at(call):
            self.points.append(call.parameters.copy())
            loss, call.gradients[...] = function(call.parameters)
            return loss

        self.steps = in_numpy(gradient_at=gradient_at)

    @property
    def gradient(self):
        return self.call.down

    @property
    def count(self):
        return int(self.call.whole.pairs)

    def iterate(self):
        """Take an iteration; return whether it lowered the loss."""
        self.steps["lbfgs"](self.call, 0, 1)
        return self.call.whole.reason == 0


def strong_wolfe(at, loss, slope, first, most):
    """The step that is found, and whether it satisfies the conditions."""
    call = types.SimpleNamespace(whole=types.SimpleNamespace(max_evaluations=most))
    find = in_numpy(try_step=lambda call, step: (step, *at(step)))["strong_wolfe"]
    step, _, sound = find(call, loss, slope, first)
    return step, sound


def rosenbrock(x):
    return scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)


@pytest.mark.parametrize("history", [1, 3, 7])
def test_directions_are_those_of_the_two_loop_recursion(history):
    x = np.linspace(-1, 1.5, 6)
    search = Search(rosenbrock, x, np.zeros((2 * history, 6)))
    kept, before, directions = [], (x.copy(), rosenbrock(x)[1]), 0
    for _ in range(25):
        expected = two_loops(kept[-history:], before[1]) if kept else -before[1]
        assert search.iterate()
        moved = x - before[0]
        if search.count:
            direction = moved / np.linalg.norm(moved)
            np.testing.assert_allclose(direction, expected / np.linalg.norm(expected), rtol=1e-6, atol=1e-9)
            directions += 1
        assert (x == search.points[-1]).all()
        kept = [*kept, (moved, search.gradient - before[1])] if search.count else []
        before = x.copy(), search.gradient.copy()
    assert directions > 20


FUNCTIONS = {
    "a long way": (lambda a: (a - 1000) ** 2, lambda a: 2 * (a - 1000), 1.0),
    "a short way": (lambda a: (a - 1e-3) ** 2, lambda a: 2 * (a - 1e-3), 1.0),
    # Moré and Thuente (1994), equation 5.1
    "a flat way": (lambda a: -a / (a * a + 2), lambda a: (a * a - 2) / (a * a + 2) ** 2, 1e-3),
    "a wall": (
        lambda a: -math.log(1 - a) - 3 * a if a < 1 else math.nan,
        lambda a: 1 / (1 - a) - 3 if a < 1 else math.nan,
        50.0,
    ),
    "waves": (lambda a: 0.1 * a * a - math.sin(5 * a), lambda a: 0.2 * a - 5 * math.cos(5 * a), 3.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_step_satisfies_the_strong_wolfe_conditions(name):
    loss, slope, first = FUNCTIONS[name]
    tried = []

    def at(step):
        tried.append(step)
        return loss(step), slope(step)

    found, sound = strong_wolfe(at, loss(0.0), slope(0.0), first, 20)
    assert sound
    assert found == tried[-1]
    assert loss(found) <= loss(0.0) + DECREASE * found * slope(0.0)
    assert abs(slope(found)) <= CURVATURE * abs(slope(0.0))


def test_the_best_step_stays_when_trials_end():
    tried = []

    def at(step):  # falls for ever
        tried.append(step)
        return -step, -1.0

    assert strong_wolfe(at, 0.0, -1.0, 1.0, 4) == (64.0, False)
    assert tried == [1.0, 4.0, 16.0, 64.0]
    assert strong_wolfe(lambda step: (math.inf, math.inf), 0.0, -1.0, 1.0, 4) == (0.0, False)
    # A step that is low enough and still steep, and then worse ones: it is taken, and evaluated last.
    losses = {1.0: (-1.0, -1.0)}
    tried.clear()

    def cliff(step):
        tried.append(step)
        return losses.get(step, (9.0, 9.0))

    found, sound = strong_wolfe(cliff, 0.0, -1.0, 1.0, 4)
    assert (found, sound, tried[-1], len(tried)) == (1.0, False, 1.0, 5)


def test_trials_end_where_no_number_is_left_between_two():
    tried = []

    def wall(step):  # whose gradient does not foresee it
        tried.append(step)
        return (-step, -1.0) if step <= 0.7 else (9.0, 9.0)

    found, sound = strong_wolfe(wall, 0.0, -1.0, 1.0, 1000)
    assert (found, sound) == (pytest.approx(0.7), False)
    assert tried[-1] == found
    assert len(tried) < 400


@matrix
def test_it_finds_a_minimum_with_about_the_evaluations_of_scipy():
    x = np.full(20, -0.7)
    search = Search(rosenbrock, x, np.zeros((20, 20)))
    theirs = scipy.optimize.minimize(
        scipy.optimize.rosen, x.copy(), jac=scipy.optimize.rosen_der, method="L-BFGS-B",
        options={"ftol": 0, "gtol": 1e-6},
    )  # fmt: skip
    assert search.iterate()
    while np.abs(search.gradient).max() > 1e-6:
        assert search.iterate()
        assert len(search.points) < 400
    np.testing.assert_allclose(x, 1, atol=1e-5)
    assert len(search.points) < 1.3 * theirs.nfev


def test_it_ends_where_nothing_is_lower():
    x = np.array([3.0, -4.0])
    search = Search(lambda x: (float(x @ x), 2 * x), x, np.zeros((8, 2)))
    while search.iterate():
        assert search.call.whole.loss == x @ x
    np.testing.assert_allclose(x, 0, atol=1e-7)
    assert not search.iterate()
    assert search.count == 0


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("stop", [1, 2, 3, 4, 9, 15])
def test_it_goes_on_from_its_pairs_with_the_same_bits(stop, dtype):
    x = np.linspace(-1, 1.5, 9)
    search = Search(rosenbrock, x, np.zeros((6, 9), dtype))
    for _ in range(stop):
        assert search.iterate()
    pairs, first = search.call.moments.astype(dtype), x.astype(dtype)
    np.testing.assert_array_equal(pairs, search.call.moments)
    np.testing.assert_array_equal(first + (x - first).astype(dtype).astype(np.float64), x)
    other_x = x.copy()
    other = Search(rosenbrock, other_x, pairs, search.count)
    for _ in range(6):
        assert search.iterate()
        assert other.iterate()
        np.testing.assert_array_equal(other_x, x)
        np.testing.assert_array_equal(other.call.moments, search.call.moments)
        assert (other.count, other.call.whole.loss) == (search.count, search.call.whole.loss)


# --- a training like any other ---------------------------------------------------------------------------

fit = functools.partial(smooth_rows.fit, optimizer=LBFGS())


@quick(1)
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_it_reaches_a_minimum_of_the_objective(backend):
    weights = np.random.default_rng(1).integers(0, 3, 60).astype(float)
    model = fit(epochs=3000, sample_weight=weights, backend=backend)
    assert model.stop_reason.startswith(("the gradient's norm is ", "no step along the gradient"))
    assert model.history["gradient"][-1] < 1e-5

    def objective(parameters):
        a, b, c, d = np.split(parameters, [15, 20, 30])
        found = np.tanh(X @ a.reshape(3, 5) + b) @ c.reshape(5, 2) + d
        fits = weights @ np.square(found - Y).mean(axis=1) / weights.sum()
        return fits + 0.005 * (a @ a + c @ c)

    assert model.history["loss"][-1] == pytest.approx(objective(model.parameters), rel=1e-12)
    lower = scipy.optimize.minimize(objective, model.parameters, options={"gtol": 1e-9})
    assert lower.fun > 0.999999 * model.history["loss"][-1]
    assert (np.diff(model.history["loss"]) <= 0).all()


def test_the_compiled_steps_are_those_of_numpy():
    """Also past the point where the oldest pair is replaced; later, rounding has grown."""
    one, other = (
        fit(epochs=8, optimizer=LBFGS(history=3), dtype="float64", backend=backend)
        for backend in ("reference", "fused")
    )
    for curve in ("loss", "gradient"):
        np.testing.assert_allclose(one.history[curve], other.history[curve], rtol=1e-8)
    np.testing.assert_allclose(one.parameters, other.parameters, rtol=1e-7, atol=1e-9)


OBJECTIVES = {
    "cross_entropy": (Network([3, 5, 3], output="softmax"), KINDS),
    "scikit-learn's": (Network([3, 5, 2], l2=0.1, convention="sklearn"), Y),
    "a norm": (Network(inputs=3, layers=[Dense(5), LayerNorm(), "tanh", Dense(2)]), Y),
    "quantiles": (Network([3, 5, 1], loss="pinball"), Y[:, :1]),
    "heads": (
        Network(inputs=3, layers=[Dense(5), "tanh"], heads={"a": Head(2), "b": Head(3, output="softmax")}),
        {"a": Y, "b": KINDS},
    ),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_falls_and_is_that_of_other_optimisers(name):
    network, y = OBJECTIVES[name]
    model = fit(network, y=y, epochs=12)
    more = model.fit_more(X, y, epochs=1, progress=False)
    start = fit(network, y=y, epochs=0)
    whole_batch = {"optimizer": fastmlp.SGD(0.0), "batch_size": None, "dtype": "float64"}
    before, after = (
        fit(network, y=y, epochs=1, initial=one, **whole_batch).history for one in (start, model)
    )
    for curve in network.loss_curves:
        assert model.history[curve][0] == pytest.approx(before[curve][0], rel=1e-12)
        assert more.history[curve][-1] == pytest.approx(after[curve][0], rel=1e-9)
    assert after["loss"][0] <= model.history["loss"][-1] < 0.9 * model.history["loss"][0]


def test_a_training_leaves_no_cycle_that_keeps_the_rows():
    rows = X.copy()
    before = sys.getrefcount(rows)
    gc.collect()
    gc.disable()
    try:
        fit(x=rows, epochs=2)
        assert sys.getrefcount(rows) == before
    finally:
        gc.enable()


def test_parameters_that_a_callback_changes_are_gone_on_from():
    class Reset(fastmlp.Callback):
        def on_epoch_end(self, run):
            if run.epoch == 5:
                run.parameters[...] = 0.1

    model = fit(epochs=8, callbacks=[Reset()])
    there = fit(
        epochs=1, initial=([np.full((3, 5), 0.1), np.full((5, 2), 0.1)], [np.full(5, 0.1), np.full(2, 0.1)])
    )
    assert model.history["loss"][5] == there.history["loss"][0]
    assert model.history["loss"][7] < model.history["loss"][5]


def test_it_ends_at_the_goal_and_at_a_flat_place():
    model = fit(epochs=500, optimizer=LBFGS(goal=2.5))
    assert model.history["loss"][-1] <= 2.5 < model.history["loss"][-2]
    assert model.stop_reason.startswith("the loss is ")
    model = fit(epochs=500, optimizer=LBFGS(min_gradient=1e-2))
    assert model.history["gradient"][-1] < 1e-2 <= model.history["gradient"][-2]
    model = fit(Network([3, 1]), y=X[:, :1], epochs=500, optimizer=LBFGS(min_gradient=0))
    assert model.history["loss"][-1] < 1e-28
    assert len(model.history["loss"]) < 100


def test_steps_that_are_too_long_for_numbers_are_taken_back():
    network = Network([3, 1], output="exp", loss="poisson")
    start = ([np.full((3, 1), 15.0)], [np.zeros(1)])
    model = fit(network, x=3 * X, y=np.ones((60, 1)), epochs=300, initial=start)
    assert model.history["loss"][0] > 1e80
    assert model.history["loss"][-1] < 1e-9 * model.history["loss"][0]
