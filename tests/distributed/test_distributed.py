"""Trainings by several ranks are those of one, up to rounding; the ranks are threads here (`in_threads`)."""

from __future__ import annotations

import numpy as np
import pytest
from support.heads import GAPS, network
from support.selection import matrix
from support.several_ranks import (
    CASES,
    EPOCHS,
    HEADS,
    LOSS,
    NORMED,
    ROWS,
    WEIGHTS,
    X,
    Y,
    assert_close,
    averaged,
    fitted,
    settings_of,
)
from support.threads_as_ranks import Overlapping, Rank, ranks, trained

import fastmlp
from fastmlp import BatchNorm, Dense, Numbers, PiecewiseLinear
from fastmlp.backend import registry
from fastmlp.distributed.ranks import RankError
from fastmlp.distributed.training import DataParallel
from fastmlp.kernels import get_variant

DRY = HEADS.replaced(layers=HEADS.layers[:-1])
"""A network without dropout, of which each rank of local SGD has masks of its own."""

CUTS = {2: [60], 3: [0, 101], 4: [10, 11, 70]}
"""By size, where one rank's rows end: ragged ones, and ranks that have none."""


@pytest.mark.parametrize("name", CASES)
def test_several_ranks_train_as_one_does(name):
    settings = settings_of(CASES[name])
    expected = fitted(settings)
    for size, cuts in CUTS.items():
        assert_close(trained(size, lambda one, cuts=cuts: fitted(settings, one, cuts)), expected, settings)


QUICK = "dropout, penalties and clipping", "batch norms"
OTHERS = "sparse", "a frozen batch norm", "muon, and an average", "heads with gaps", "sparse and dense"
OTHERS += "rows of tables", "rows of all tables, and microbatches"


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=matrix) for name in OTHERS)])
def test_compiled_backends_do_too(name):
    settings = settings_of(CASES[name]) | {"backend": "fused"}
    expected = fitted(settings)
    for cuts in ([34, 68], [0, 101]):  # of which the latter leave two ranks without rows
        assert_close(trained(3, lambda one, cuts=cuts: fitted(settings, one, cuts)), expected, settings)


def test_bins_are_quantiles_of_the_first_rank_s_rows():
    network = fastmlp.Network(inputs=[Numbers(6, PiecewiseLinear(3))], layers=[Dense(1)], **LOSS)
    settings = settings_of({"network": network, "X": [X]})
    model = trained(2, lambda one: fitted(settings, one, [60]))
    alone = fastmlp.fit(network, [X[:60]], Y[:60], epochs=0, seed=3, backend="reference")
    np.testing.assert_array_equal(*(one.layers["piecewise_linear1"]["edges"] for one in (model, alone)))


def test_metrics_are_measured_by_the_first_rank_on_the_rows_of_all():
    seen = []

    def calls(y, output):
        seen.append(len(y))
        return len(seen)

    settings = settings_of({"metrics": [calls], "validation": (X[:10], Y[:10])})
    models = ranks(3, lambda one: fitted(settings, one, [0, 60]))
    assert seen == [30] * EPOCHS
    assert [model.history["validation_calls"] for model in models] == [[1.0, 2.0, 3.0]] * 3
    settings["metrics"] = ["accuracy"]  # of probabilities
    for error in ranks(2, lambda one: fitted(settings | {"network": fastmlp.Network([6, 1])}, one, [60])):
        assert isinstance(error, (ValueError, RankError))
        assert "metric 'accuracy': " in str(error)


@pytest.mark.parametrize("kind", [Rank, Overlapping])
def test_batch_norms_of_ranks_have_the_same_bits_on_any_number_of_threads(kind, monkeypatch):
    settings = settings_of(CASES["batch norms"]) | {"backend": "fused"}
    found = []
    for workers in (1, 2):
        variant = get_variant("fused")._replace(workers=lambda work, workers=workers: workers)
        backend = registry.backend_of(variant)
        monkeypatch.setattr("fastmlp.distributed.training.get", lambda name, backend=backend: backend)
        found.append(trained(3, lambda one: fitted(settings, one, [34, 68]), kind).parameters)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_local_sgd_averages_running_statistics(backend):
    """With a rate of 0 all that moves is the running state: to the average of the ranks' own batches."""
    network = fastmlp.Network(inputs=6, layers=[BatchNorm(0.2), Dense(1)])
    settings = settings_of({"network": network, "batch_size": None, "backend": backend})
    settings["optimizer"] = fastmlp.SGD(0.0)
    model = trained(2, lambda one: fitted(settings, DataParallel(one, average_every=1), [60]))
    norm, shares = model.layers["batch_norm1"], np.array([[60 / ROWS], [41 / ROWS]])
    variances = np.stack([part.var(axis=0, ddof=1) for part in (X[:60], X[60:])])
    kept = 0.8**EPOCHS
    np.testing.assert_allclose(norm["mean"], (1 - kept) * X.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        norm["variance"], kept + (1 - kept) * (shares * variances).sum(axis=0), rtol=1e-12
    )


@pytest.mark.parametrize("steps", [{"batch_size": 4}, {"batch_size": 2, "accumulate": 2}])
def test_local_sgd_takes_no_step_on_a_single_row_of_a_batch_norm(steps):
    settings = settings_of({"network": NORMED, "epochs": 2, **steps})
    model = trained(3, lambda one: fitted(settings, DataParallel(one, average_every=3), [1, 50]))
    assert np.isfinite(model.parameters).all()
    assert model.history["loss"][-1] > 0


def test_the_dtype_and_the_backend_that_auto_takes_are_those_of_all():
    settings = settings_of({"X": X.astype(np.float32), "backend": "auto"})
    models = ranks(2, lambda one: fitted(settings, one, [60]))
    assert {(model.backend, model.parameters.dtype.name) for model in models} == {("fused", "float32")}
    np.testing.assert_array_equal(models[0].parameters, models[1].parameters)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_one_rank_has_the_bits_of_no_communicator(backend):
    settings = settings_of(CASES["dropout, penalties and clipping"]) | {"backend": backend}
    one, none = trained(1, lambda one: fitted(settings, one)), fitted(settings)
    np.testing.assert_array_equal(one.parameters, none.parameters)
    assert one.history == none.history


def test_repeats_have_the_same_bits():
    settings = settings_of(CASES["weights, and a share held out"])
    first, again = (trained(3, lambda one: fitted(settings, one, [34, 68])) for _ in range(2))
    np.testing.assert_array_equal(first.parameters, again.parameters)
    assert first.history == again.history


def test_an_average_after_every_step_of_all_rows_is_the_synchronous_step():
    # the mean of p - rate * v over ranks is that of one v, for an optimiser that is linear in gradients
    settings = settings_of({"batch_size": None, "epochs": 9, "optimizer": fastmlp.SGD(0.1, 0.9)})
    settings["sample_weight"] = WEIGHTS
    assert_close(averaged(settings, 1), fitted(settings), settings)


def test_losses_of_heads_in_local_sgd_are_those_of_all_rows():
    settings = settings_of(CASES["heads with gaps"] | {"batch_size": None, "epochs": 1, "network": DRY})
    del (
        settings["validation"],
        settings["metrics"],
    )  # measured behind the step, which goes by each rank's own entries
    for name, (loss,) in fitted(settings).history.items():
        assert averaged(settings, 1).history[name] == [pytest.approx(loss, rel=1e-13)]
    whole = network(l2=1e-3), {"price": GAPS["flag"][:ROWS, :2] == 1, "kind": Y.astype(int), "flag": X[:, :3]}
    settings |= {"network": whole[0], "y": whole[1], "epochs": 9, "optimizer": fastmlp.SGD(0.1)}
    assert_close(averaged(settings, 1), fitted(settings), settings)


@pytest.mark.parametrize("cuts", [(34, 68), (0, 99)], ids=["equal", "ragged"])
def test_averages_every_few_steps_train(cuts):
    settings = settings_of({"optimizer": fastmlp.Adam(2e-2), "epochs": 12, "batch_size": 8})
    found, alone = averaged(settings, 5, cuts), fitted(settings)
    assert found.history["loss"][-1] < (alone.history["loss"][0] + alone.history["loss"][-1]) / 2
    assert not np.array_equal(found.parameters, averaged(settings, 4, cuts).parameters)


class Seeing(fastmlp.Callback):
    """Keeps what a rank's callbacks see after every chunk."""

    def __init__(self):
        self.seen = []

    def on_chunk_end(self, run):
        self.seen.append(run.parameters.tobytes())


def test_nobody_sees_parameters_between_two_averages(chunks):
    settings = settings_of(CASES["dropout, penalties and clipping"]) | {"batch_size": 8}
    expected = averaged(settings, 3)
    chunks(seconds=0.0)  # as few steps as may be
    seeing = [Seeing() for _ in range(3)]

    def job(one):
        spread = DataParallel(one, average_every=3)
        return fitted({**settings, "callbacks": [seeing[one.rank]]}, spread, [34, 68])

    np.testing.assert_array_equal(trained(3, job).parameters, expected.parameters)
    assert len(seeing[0].seen) == EPOCHS * 5  # of 13 steps, after 3, 6, 9, 12 and 13
    assert seeing[0].seen == seeing[1].seen == seeing[2].seen


def test_validation_rows_may_be_spread_over_ranks_too():
    settings = settings_of({})
    own = {0: slice(0, 0), 1: slice(0, 80), 2: slice(80, ROWS)}

    def job(one):
        rows = own[one.rank]
        return fitted({**settings, "validation": (X[rows], Y[rows], WEIGHTS[rows])}, one, [34, 68])

    assert_close(trained(3, job), fitted({**settings, "validation": (X, Y, WEIGHTS)}), settings)
