"""Trainings by several ranks are those of one, up to rounding; the ranks are threads here (`in_threads`)."""

import gc
import itertools
import weakref

import numpy as np
import pytest
from support.callbacks import calling
from support.heads import GAPS, network
from support.selection import crossed, matrix, quick
from support.several_ranks import (
    CASES,
    EPOCHS,
    EPS,
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
    rng,
    settings_of,
)
from support.threads_as_ranks import Overlapping, Rank, ranks, trained

import fastmlp
from fastmlp import BatchNorm, Dense, Numbers, PiecewiseLinear
from fastmlp.backend import registry
from fastmlp.checkpoints.fingerprints import fingerprint_by_rows
from fastmlp.distributed.ranks import RankError, SeveralRanks
from fastmlp.distributed.training import DataParallel
from fastmlp.kernels import get_variant
from fastmlp.model.backend import Chunk, Data, Shared
from fastmlp.model.rows import SparseRows
from fastmlp.model.state import initial_state
from fastmlp.training.ranks import ALONE

DRY = HEADS.replaced(layers=HEADS.layers[:-1])
"""A network without dropout, of which each rank of local SGD has masks of its own."""

CUTS = {2: [60], 3: [0, 101], 4: [10, 11, 70]}
"""By size, where one rank's rows end: ragged ones, and ranks that have none."""


@quick(4)
@pytest.mark.parametrize("name", CASES)
def test_several_ranks_train_as_one_does(name):
    settings = settings_of(CASES[name])
    expected = fitted(settings)
    for size, cuts in CUTS.items():
        assert_close(trained(size, lambda one, cuts=cuts: fitted(settings, one, cuts)), expected, settings)


QUICK = "dropout, penalties and clipping", "batch norms"
OTHERS = "sparse", "a frozen batch norm", "muon, and an average", "heads with gaps", "sparse and dense"
OTHERS += "rows of tables", "rows of all tables, and microbatches"


@matrix
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


@matrix
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


@quick(1)
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


@matrix
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


@matrix
@pytest.mark.parametrize("cuts", [(34, 68), (0, 99)], ids=["equal", "ragged"])
def test_averages_every_few_steps_train(cuts):
    settings = settings_of({"optimizer": fastmlp.Adam(2e-2), "epochs": 12, "batch_size": 8})
    found, alone = averaged(settings, 5, cuts), fitted(settings)
    assert found.history["loss"][-1] < (alone.history["loss"][0] + alone.history["loss"][-1]) / 2
    assert not np.array_equal(found.parameters, averaged(settings, 4, cuts).parameters)


def test_nobody_sees_parameters_between_two_averages(chunks):
    settings = settings_of(CASES["dropout, penalties and clipping"]) | {"batch_size": 8}
    expected = averaged(settings, 3)
    chunks(seconds=0.0)  # as few steps as may be
    seen = [[] for _ in range(3)]

    def job(one):
        spread = DataParallel(one, average_every=3)
        noting = calling(on_chunk_end=lambda run: seen[one.rank].append(run.parameters.tobytes()))
        return fitted({**settings, "callbacks": [noting]}, spread, [34, 68])

    np.testing.assert_array_equal(trained(3, job).parameters, expected.parameters)
    assert len(seen[0]) == EPOCHS * 5  # of 13 steps, after 3, 6, 9, 12 and 13
    assert seen[0] == seen[1] == seen[2]


def test_validation_rows_may_be_spread_over_ranks_too():
    settings = settings_of({})
    own = {0: slice(0, 0), 1: slice(0, 80), 2: slice(80, ROWS)}

    def job(one):
        rows = own[one.rank]
        return fitted({**settings, "validation": (X[rows], Y[rows], WEIGHTS[rows])}, one, [34, 68])

    assert_close(trained(3, job), fitted({**settings, "validation": (X, Y, WEIGHTS)}), settings)


# --- sums over ranks within a step ------------------------------------------------------------------------


def shared_step(backend, network, parameters, data, rows, *, together=None):
    """The gradient of some rows of a batch, their share of its objective, and in how many pieces it came."""
    state, ranges = initial_state(parameters.copy()), []

    def add(s, first, last):
        assert s == 0
        ranges.append((first, last))

    size = parameters.size
    whole = np.array([len(data.weights)])
    shared = Shared(rows, add, together or size, len(rows), lambda numbers: numbers, whole, True)
    ends = np.array([0]), np.array([len(rows)])
    totals, rates = np.array([data.weights.sum()]), np.zeros((1, 2))
    chunk, losses = Chunk(rows, *ends, totals, rates, len(data.weights)), np.empty(1)
    backend.train_chunk(network, fastmlp.SGD(), state, data, chunk, 5, None, losses, shared=shared)
    np.testing.assert_array_equal(state.parameters, parameters)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    return state.gradients, losses[0], len(ranges)


@crossed(backend=registry.backends(), inputs=["dense", "sparse"])
def test_the_gradients_of_parts_add_up_to_the_batch_s(backend, inputs):
    network = fastmlp.Network([6, 9, 2], dropout=0.4, l2=0.1)
    bare = fastmlp.Network([6, 9, 2], dropout=0.4)
    parameters = rng.standard_normal(6 * 9 + 9 + 9 * 2 + 2)
    data = Data(SparseRows.of(X) if inputs == "sparse" else X, rng.random((ROWS, 2)), WEIGHTS)
    backend, whole, summed = registry.get(backend), np.empty_like(parameters), np.zeros_like(parameters)
    objective = backend.gradient(network, parameters, data, 5, 0, whole)
    # the last process has no row of the batch
    parts = np.arange(0, ROWS, 3), np.delete(np.arange(ROWS), np.s_[::3]), np.empty(0, np.int64)
    for rows, own in zip(parts, [bare, bare, network], strict=True):
        share, loss, _ = shared_step(backend, own, parameters, data, rows)
        summed += share
        objective -= loss
    np.testing.assert_allclose(summed, whole, rtol=0, atol=ROWS * EPS * np.abs(whole).max())
    assert abs(objective) < 10 * ROWS * EPS


def test_a_gradient_has_the_same_bits_on_several_threads_and_in_pieces():
    network = fastmlp.Network([40, 24, 8], dropout=0.2)
    data = Data(rng.standard_normal((ROWS, 40)), rng.standard_normal((ROWS, 8)), np.ones(ROWS))
    parameters, variant = rng.standard_normal(40 * 24 + 24 + 24 * 8 + 8) / 8, get_variant("fused")
    found = []
    for workers in (1, 3):
        backend = registry.backend_of(variant._replace(workers=lambda work, workers=workers: workers))
        for together in (None, 300):
            gradients, _, ranges = shared_step(
                backend, network, parameters, data, np.arange(ROWS), together=together
            )
            # 13 rows of 24 have 300 numbers, so 16 are summed together, 16 more, and the rest
            assert ranges == (1 if together is None else 3)
            found.append(gradients)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("name", ["dropout, penalties and clipping", "sparse", "schedules"])
def test_sums_that_overlap_with_the_gradient_give_the_same_bits(name, monkeypatch):
    monkeypatch.setattr("fastmlp.distributed.steps.BUCKET_BYTES", 64)
    settings = settings_of(CASES[name]) | {"backend": "fused"}
    expected = trained(3, lambda one: fitted(settings, one, [34, 68]))

    def job(one):
        model = fitted(settings, one, [34, 68])
        assert one.begun == 2 * EPOCHS * -(-ROWS // 16)  # of three layers the first two, in every step
        return model

    found = trained(3, job, Overlapping)
    np.testing.assert_array_equal(found.parameters, expected.parameters)
    assert found.history == expected.history


def test_an_error_within_a_sum_ends_the_step_and_is_raised():
    network, variant = fastmlp.Network([6, 5, 2]), get_variant("fused")
    data = Data(X, rng.random((ROWS, 2)), np.ones(ROWS))
    state = initial_state(rng.standard_normal(6 * 5 + 5 + 5 * 2 + 2))
    before = state.parameters.copy()
    starts = np.arange(0, 40, 4)
    chunk = Chunk(np.arange(40), starts, starts + 4, np.full(10, 4.0), np.ones((10, 2)), 4)

    def add(s, first, last):
        if s == 3:
            raise OSError("the cable")

    for workers in (1, 2):
        backend = registry.backend_of(variant._replace(workers=lambda work, workers=workers: workers))
        places, losses = np.tile(np.arange(4), 10), np.full(10, np.nan)
        shared = Shared(places, add, state.parameters.size, 4, np.asarray, np.full(10, 4), True)
        with pytest.raises(OSError, match="the cable"):
            backend.train_chunk(
                network, fastmlp.SGD(1e-3), state, data, chunk, 0, None, losses, shared=shared
            )
        assert np.isfinite(losses).sum() == 4
    assert not np.array_equal(state.parameters, before)


def test_nothing_of_a_step_is_left_to_the_garbage_collector():
    data = Data(X, rng.random((ROWS, 2)), np.ones(ROWS))
    network, state = fastmlp.Network([6, 5, 2]), initial_state(rng.standard_normal(6 * 5 + 5 + 5 * 2 + 2))

    def add(s, first, last):
        pass

    watch, rows = weakref.ref(add), np.arange(4)
    shared = Shared(rows, add, state.parameters.size, 4, np.asarray, rows[:1] + 4, True)
    chunk = Chunk(rows, rows[:1], rows[:1] + 4, np.full(1, 4.0), np.ones((1, 2)), 4)
    gc.disable()
    try:
        registry.get("fused").train_chunk(
            network, fastmlp.SGD(1e-3), state, data, chunk, 0, 1, np.empty(1), shared
        )
        del add, shared
        assert watch() is None
    finally:
        gc.enable()


# --- files and models go on at any number of ranks --------------------------------------------------------


@quick(1)
@pytest.mark.parametrize(("then", "now"), [(3, 2), (2, 1), (1, 3)])
def test_a_checkpoint_of_rank_0_resumes_at_another_size(then, now, tmp_path):
    path = tmp_path / "training.npz"
    settings = settings_of(CASES["weights, and a share held out"])
    cuts = {1: [], 2: [50], 3: [0, 40]}

    def begin(one):
        return fitted({**settings, "epochs": 2, "callbacks": [fastmlp.Checkpoint(path)]}, one, cuts[then])

    def go_on(one):
        return fitted({**settings, "resume": path if one.rank == 0 else "not there"}, one, cuts[now])

    trained(then, begin)
    assert_close(trained(now, go_on), fitted(settings), settings)
    if then > 1:
        assert_close(fitted({**settings, "resume": path}), fitted(settings), settings)
    other = {**settings, "sample_weight": WEIGHTS[::-1].copy(), "resume": path}
    with pytest.raises(fastmlp.CheckpointError, match=r"of another training; these differ: .*data"):
        trained(now, lambda one: fitted(other, one, cuts[now]))


def test_the_checkpoint_of_a_training_without_communicator_is_one_process_s(tmp_path):
    path = tmp_path / "training.npz"
    settings = settings_of({"resume": path})
    fitted({**settings_of({}), "epochs": 2, "callbacks": [fastmlp.Checkpoint(path)]})
    for error in ranks(2, lambda one: fitted(settings, one, [50])):
        assert isinstance(error, fastmlp.CheckpointError)
        assert "without a communicator" in str(error)
    np.testing.assert_array_equal(
        trained(1, lambda one: fitted(settings, one)).parameters, fitted(settings_of({})).parameters
    )


def gone_on(model, settings, communicator, cuts, epochs, rows=slice(None)):
    """`fit_more` on this rank's part of some rows; on all of them without a communicator."""
    given = {name: settings[name] for name in ("X", "sample_weight") if name in settings} | {"y": Y}
    given = {name: array[rows] for name, array in given.items()}
    options = {"validation": settings.get("validation"), "progress": False}
    if communicator is not None:
        bounds = [0, *cuts, len(given["y"])]
        rank = communicator.communicator.rank if isinstance(communicator, DataParallel) else communicator.rank
        own = slice(bounds[rank], bounds[rank + 1])
        given = {name: array[own] for name, array in given.items()}
        options["communicator"] = communicator
    return model.fit_more(**given, epochs=epochs, **options)


@quick(2)
@pytest.mark.parametrize(
    "name", ["dropout, penalties and clipping", "weights, and a share held out", "schedules", "sparse"]
)
@pytest.mark.parametrize(("then", "now"), [(2, 2), (3, 2), (2, 1), (1, 3)])
def test_fit_more_goes_on_at_any_size(name, then, now):
    settings, cuts = settings_of(CASES[name]), {1: [], 2: [50], 3: [0, 40]}
    first = {**settings, "epochs": 2}
    begun = fitted(first) if then == 1 else trained(then, lambda one: fitted(first, one, cuts[then]))
    models = [gone_on(begun, settings, None, (), 1)] if now == 1 else []
    models += ranks(now, lambda one: gone_on(begun, settings, one, cuts[now], 1))
    for model in models:
        assert_close(model, fitted(settings), settings)
        assert len(model.history["loss"]) == EPOCHS
    assert len(begun.history["loss"]) == 2


def test_fit_more_has_the_bits_of_one_longer_fit_and_keeps_the_state_of_callbacks():
    settings = settings_of(CASES["weights, and a share held out"])

    class Counting(fastmlp.Callback):
        epochs = 0

        def on_epoch_end(self, run):
            self.epochs += 1

        def state_dict(self):
            return {"epochs": self.epochs}

        def load_state_dict(self, run, state):
            self.epochs = state["epochs"]

    def job(one):
        first = fitted({**settings, "epochs": 2, "callbacks": [Counting()]}, one, [34, 68])
        bounds = slice([0, 34, 68][one.rank], [34, 68, ROWS][one.rank])
        counting = Counting()
        more = first.fit_more(
            X[bounds], Y[bounds], sample_weight=WEIGHTS[bounds], epochs=1, callbacks=[counting],
            communicator=one, progress=False,
        )  # fmt: skip
        assert counting.epochs == 3  # the same rows, known by a sample of them
        return more

    expected, found = trained(3, lambda one: fitted(settings, one, [34, 68])), trained(3, job)
    np.testing.assert_array_equal(found.parameters, expected.parameters)
    assert found.history == expected.history


@pytest.mark.parametrize("average_every", [None, 4])
def test_fit_more_takes_what_was_written_and_another_rule_on_several_ranks(average_every):
    settings = settings_of({"optimizer": fastmlp.RMSprop(0.01), "epochs": 2})
    begun = fitted(settings)
    begun.parameters[...] *= 0.5

    def job(one):
        own = slice(None) if one is None else slice(*((0, 50), (50, ROWS))[one.rank])
        spread = one and DataParallel(one, average_every=average_every)
        noting = calling(
            on_epoch_end=lambda run: run.history.setdefault("score", []).append(float(run.predict(X).mean()))
        )
        return begun.fit_more(
            X[own], Y[own], epochs=2, optimizer=fastmlp.SGD(0.05), batch_size=20, callbacks=[noting],
            communicator=spread, progress=False,
        )  # fmt: skip

    together = trained(2, job)  # after every epoch all ranks have the same bits
    assert len(together.history["score"]) == 2
    if average_every is None:
        assert_close(together, job(None), settings)


def test_fit_more_on_other_rows_averages_by_the_epochs_that_they_make():
    settings = settings_of({"optimizer": fastmlp.SGD(0.05, 0.9), "epochs": 2})

    def spread(one):
        return DataParallel(one, average_every=3)

    begun = trained(2, lambda one: fitted(settings, spread(one), [50]))
    alone = fitted(settings)
    rows = slice(0, 64)  # 4 steps to an epoch, where there were 7
    averaged = trained(2, lambda one: gone_on(begun, settings, spread(one), [32], 2, rows))
    assert averaged.history["loss"][:2] == begun.history["loss"]
    assert len(averaged.history["loss"]) == 4
    together = trained(2, lambda one: gone_on(alone, settings, one, [32], 2, rows))
    assert_close(together, gone_on(alone, settings, None, (), 2, rows), settings)


def test_models_of_different_trainings_do_not_go_on_together():
    settings = settings_of({"epochs": 1})
    models = fitted(settings), fitted({**settings, "optimizer": fastmlp.Adam(2e-2)})
    for error in ranks(2, lambda one: gone_on(models[one.rank], settings, one, [50], 1)):
        assert isinstance(error, RankError)
        assert str(error).startswith("all ranks must have the same optimizer")
    begun = fitted({**settings, "epochs": 2})
    for error in ranks(2, lambda one: gone_on([models[0], begun][one.rank], settings, one, [50], 1)):
        assert isinstance(error, RankError)
        assert str(error).startswith("the parameters of rank 1 are not those of rank 0")


def test_a_fingerprint_goes_by_rows_and_their_places_and_not_by_ranks():
    data = Data(X, Y[:, None], WEIGHTS)
    expected = fingerprint_by_rows(ALONE, data)

    def of_ranks(data, *cuts):
        bounds = [0, *cuts, ROWS]

        def job(one):
            own = slice(bounds[one.rank], bounds[one.rank + 1])
            return fingerprint_by_rows(SeveralRanks(one, None), data.take(own))

        return trained(len(bounds) - 1, job)

    assert of_ranks(data, 40) == of_ranks(data, 0, 100) == expected
    assert of_ranks(data._replace(inputs=SparseRows.of(X)), 13) == expected
    swapped = np.arange(ROWS)
    swapped[[3, 4]] = 4, 3
    changed = [data.take(swapped)]
    for name in ("targets", "weights"):
        array = getattr(data, name).copy()
        array.flat[-1] = np.nextafter(array.flat[-1], 9)
        changed.append(data._replace(**{name: array}))
    assert len({expected, *(of_ranks(one, 40) for one in changed)}) == 4
