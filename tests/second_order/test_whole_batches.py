"""Trainings whose steps read all rows are like any others, and what does not compose with them is refused."""

import numpy as np
import pytest
import scipy.sparse
from support.refusals import refusals
from support.selection import quick
from support.smooth_rows import NETWORK, X, Y, fit

import fastmlp
from fastmlp import EMA, LBFGS, BatchNorm, Checkpoint, Dense, LevenbergMarquardt, Members, Network, TimeLimit

OPTIMIZERS = {
    "few pairs": LBFGS(history=2), "pairs": LBFGS(),
    "other factors": LevenbergMarquardt(damping_decrease=0.3, damping_increase=7),
    "nielsen": LevenbergMarquardt(nielsen=True), "evidence": LevenbergMarquardt(evidence=True),
}  # fmt: skip


@quick(2)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_training_in_two_parts_is_that_in_one(name, dtype, tmp_path):
    network = NETWORK.unpenalised() if name == "evidence" else NETWORK
    given, file = {"optimizer": OPTIMIZERS[name], "dtype": dtype}, tmp_path / "training"
    whole = fit(network, epochs=9, **given)
    fit(network, epochs=4, callbacks=[Checkpoint(file)], **given)
    parts = fit(network, epochs=4, **given).fit_more(X, Y, epochs=5, progress=False)
    resumed = fit(network, epochs=9, resume=file, **given)
    for run in fastmlp.iter_fit(network, X, Y, epochs=9, seed=0, progress=False, **given):
        seen = run.model()
    for model in (parts, resumed, seen):
        np.testing.assert_array_equal(model.parameters, whole.parameters)
        assert model.history == whole.history
    assert whole.parameters.dtype == dtype


CHANGES = [{"threads": 2}, {"callbacks": [TimeLimit(100)]}]
OF_PAIRS = [{"validation": (X, Y)}, {"batch_size": 7}, {"x": scipy.sparse.csr_array(X)}]


def test_threads_callbacks_and_sparse_rows_change_nothing():
    for optimizer, changes, rtol in (
        (LBFGS(), [*CHANGES, *OF_PAIRS], 1e-9),
        (LevenbergMarquardt(), [*CHANGES, {"backend": "fused"}], 0),
    ):
        alone = fit(optimizer=optimizer, threads=1).parameters
        for options in changes:
            found = fit(optimizer=optimizer, **options).parameters
            np.testing.assert_allclose(found, alone, rtol=rtol)


@pytest.mark.parametrize(
    ("optimizer", "curves"),
    [(LBFGS(), ["loss", "gradient"]), (LevenbergMarquardt(), ["loss", "damping", "gradient"])],
)
def test_starts_are_trained_together(optimizer, curves):
    models = fastmlp.fit_many(NETWORK, X, Y, n_models=4, seed=3, optimizer=optimizer, epochs=5)
    for seed, model in enumerate(models, 3):
        alone = fit(optimizer=optimizer, epochs=5, seed=seed)
        np.testing.assert_array_equal(model.parameters, alone.parameters)
        assert [*model.history] == curves


def refused(optimizer, network=NETWORK, **options):
    return lambda: fit(network, optimizer=optimizer, **options)


LM = LevenbergMarquardt()
NORMED = Network(inputs=3, layers=[Dense(4), BatchNorm(), Dense(2)])
SHARED = Network(inputs=3, layers=[Members(2), Dense(2)])

test_what_does_not_compose_is_refused_in_one_line = refusals(
    [
        (refused(LBFGS(), Network([3, 4, 2], l1=0.1)), "LBFGS takes no l1, .*; Adam does"),
        (refused(LBFGS(), Network([3, 4, 2], dropout=0.1)), "LBFGS takes no dropout"),
        (refused(LBFGS(), mixup=0.2), "LBFGS reads all rows in each step; leave out mixup"),
        (refused(LBFGS(), average=EMA(0.9)), "leave out average"),
        (lambda: LBFGS(history=0), "history"),
        (lambda: LBFGS(max_evaluations=0), "max_evaluations"),
        (lambda: LBFGS(min_gradient=-1.0), "min_gradient"),
        (lambda: LBFGS(goal="low"), "goal"),
        (refused(LM, Network([3, 4, 2], l1=0.1)), "LevenbergMarquardt takes no l1, .*; Adam does"),
        (refused(LM, Network([3, 4, 2], dropout=0.1)), "takes no dropout"),
        (refused(LM, NORMED), "takes no BatchNorm"),
        (refused(LM, SHARED), "takes no Members"),
        (refused(LM, Network([3, 4, 2], loss="mae")), "the losses mse with identity .*; got mae with id"),
        (refused(LM, mixup=0.2), "reads all rows in each step; leave out mixup"),
        (refused(LM, accumulate=2), "leave out accumulate"),
        (refused(LM, average=EMA(0.9)), "leave out average"),
        (refused(LM, dtype="bfloat16"), "computes in float64; leave out dtype='bfloat16'"),
        (refused(LevenbergMarquardt(evidence=True)), "finds the penalty; leave"),
        (refused(LM, x=[(X, Y)], y=None), "takes rows of one process in memory, got blocks of rows"),
        (lambda: fastmlp.Stepper(NETWORK, LM), "must take steps of batches, got LevenbergMarquardt"),
    ]
)  # fmt: skip
