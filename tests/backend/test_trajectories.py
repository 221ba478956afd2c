"""Whole trainings on real data: every backend and dtype ends where the reference does."""

from types import FunctionType

import numpy as np
import pytest
from support.problems import COMPILED_DTYPES
from support.selection import FEW, crossed, quick
from support.trajectories import EPOCHS, TRAININGS, allowed, check, expected

from fastmlp.backend import registry
from fastmlp.model import optimizers, schedules
from fastmlp.model.activations import HIDDEN
from fastmlp.model.losses import LOSSES, loss_of


# The functions of other variants are tried one by one, and their programs, of 3 to 8 s, by the matrix.
@quick(4)
@crossed(
    tried={*FEW, "specialized"}, backend=registry.variants(), name=list(TRAININGS),
    dtype=COMPILED_DTYPES,
)  # fmt: skip
def test_a_training_ends_where_the_reference_does(backend, name, dtype):
    check(name, backend, dtype)


@quick(3)
@pytest.mark.parametrize("name", TRAININGS)
def test_the_reference_itself_stays_within_the_bound_in_float32(name):
    check(name, "reference", np.float32)


@quick(3)
@pytest.mark.parametrize("name", TRAININGS)
def test_the_bounds_are_tight_and_the_trainings_learn(name):
    assert max(allowed(name, np.float64)) < 1e-12
    assert max(allowed(name, np.float32)) < 3e-4
    trace = expected(name).losses
    assert len(trace) == EPOCHS
    assert trace[-1] < 0.95 * trace[0]


def test_the_table_meets_everything_there_is():
    trainings = TRAININGS.values()
    hidden = [names for t in trainings if (names := t.options.get("hidden"))]
    met = {name for names in hidden for name in ([names] if isinstance(names, str) else names)}
    assert met == set(HIDDEN)
    elsewhere = {"focal", "binary_focal", "gamma_deviance", "gaussian", "negative_binomial"}  # test_losses.py
    assert {loss_of(t.options["loss"]).name for t in trainings} == set(LOSSES) - elsewhere
    assert {type(t.optimizer) for t in trainings} == set(optimizers.NAMED)
    rates = {type(t.optimizer.learning_rate) for t in trainings}
    known = {v for v in vars(schedules).values() if isinstance(v, type) and issubclass(v, schedules.Schedule)}
    # Constant stands behind a plain number, ByFunction behind a function, Exponential under a warm-up.
    hidden = {schedules.Schedule, schedules.Constant, schedules.ByFunction, schedules.Exponential}
    assert rates | hidden >= known
    assert FunctionType in rates
