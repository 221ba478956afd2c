"""What happens around the steps: orders, chunks, seeds, histories, weights, validation."""

from itertools import pairwise

import numpy as np
import pytest
from support import naive
from support.auto_choice import have_chosen
from support.problems import data_set
from support.selection import some_backends
from support.small_fits import SMALL, X, Y, fit
from support.updates import update

import fastmlp
from fastmlp import SGD, Adam, Callback, Network
from fastmlp.backend import registry
from fastmlp.data import batches
from fastmlp.data.seeding import GROUP_ROWS, RowOrders
from fastmlp.model.backend import Data
from fastmlp.model.layout import flatten
from fastmlp.model.state import initial_state
from fastmlp.training.loop import EpochLosses

# The same sums in another order or grouping: some ulp a step.
RELATIVE = 1e-11


# --- orders, batches and chunks ------------------------------------------------------------------


@some_backends
def test_without_shuffling_rows_are_visited_in_order_and_the_last_batch_is_short(backend):
    start = fit(backend, epochs=0)
    model = fit(backend, shuffle=False, initial=(start.weights, start.biases))
    engine = registry.get("reference")
    state = initial_state(flatten(start.weights, start.biases, SMALL, np.dtype(float)))
    optimizer, losses = SGD(0.05, 0.5), []
    for _ in range(4):
        total = 0.0
        for first in range(0, 50, 16):
            x, y = X[first : first + 16], Y[first : first + 16, None]
            data = Data(x, y, np.ones(len(x)))
            value = engine.gradient(SMALL, state.parameters, data, 0, 0, state.gradients)
            total += value * len(x)
            state = update("reference", SMALL, optimizer, state, (0.05, 0.05))
        losses.append(total / 50)
    np.testing.assert_allclose(model.parameters, state.parameters, rtol=RELATIVE, atol=1e-13)
    np.testing.assert_allclose(model.history["loss"], losses, rtol=RELATIVE)


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own():
    visits = batches.Batches(7, 3, RowOrders(0))
    seen = []
    for first, last in ((0, 1), (1, 5), (5, 6), (6, 12)):  # chunks that end anywhere
        order, starts, stops, rows = visits.visit(first, last - first)
        seen += [order[a:b].tolist() for a, b in zip(starts, stops, strict=True)]
        assert rows.tolist() == [len(some) for some in seen[first:]]
    assert [len(rows) for rows in seen] == [3, 3, 1] * 4
    epochs = [[*seen[i], *seen[i + 1], *seen[i + 2]] for i in range(0, 12, 3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("rows", [1, 4, 100, 5000, 10_000])
def test_an_order_depends_on_seed_rows_epoch_and_window_alone(rows):
    """However many are drawn at once, in whatever sequence, across the bounds of generators."""
    epochs = 3 * max(1, GROUP_ROWS // rows) + 2
    expected = np.empty((epochs, rows), np.int64)
    RowOrders(7).draw(0, expected)
    assert (np.sort(expected, axis=1) == np.arange(rows)).all()
    if rows > 4:
        assert len(np.unique(expected, axis=0)) == epochs
    given, rng = RowOrders(7), np.random.default_rng(rows)
    found = np.empty_like(expected)
    for epoch in (0, 1, epochs - 1, *rng.integers(0, epochs, 20).tolist()):
        count = min(epochs - epoch, int(rng.integers(1, 5)))
        given.draw(epoch, found[:count])
        np.testing.assert_array_equal(found[:count], expected[epoch : epoch + count])
        given.draw(epoch, found[:1], window=2)
        RowOrders(7).draw(epoch, found[1:2], window=2)
        np.testing.assert_array_equal(*found[:2])
        if rows > 4:
            assert (found[0] != expected[epoch]).any()


def test_means_over_epochs_do_not_depend_on_where_chunks_end():
    rng = np.random.default_rng(0)
    objectives, counts = rng.random((3, 70)) * 1e3, rng.random(70)
    for per_epoch in (1, 2, 7, 70):
        whole = EpochLosses(per_epoch, 2).means(counts, objectives).tolist()
        losses, found = EpochLosses(per_epoch, 2), [[], [], []]
        unsized, closed = EpochLosses(None, 2), [[], [], []]
        for start, stop in pairwise([0, 1, 2, 6, 7, 8, 20, 35, 69, 70]):
            means = losses.means(counts[start:stop], objectives[:, start:stop]).tolist()
            for curve, more in zip(found, means, strict=True):
                curve += more
        for start in range(0, 70, per_epoch):
            unsized.means(counts[start : start + per_epoch], objectives[:, start : start + per_epoch])
            for curve, more in zip(closed, unsized.close(), strict=True):
                curve += more
        assert found == whole == closed
        shares = (objectives * counts).reshape(3, -1, per_epoch).sum(axis=2)
        expected = shares / counts.reshape(-1, per_epoch).sum(axis=1)
        np.testing.assert_allclose(whole, expected, rtol=1e-13)


def test_the_sum_of_large_losses_is_finite():
    losses = EpochLosses(3)
    assert losses.means(np.ones(3), np.full(3, 1e308)) == [[pytest.approx(1e308)]]


@some_backends
def test_where_chunks_end_changes_nothing(backend, chunks):
    network = Network([10, 6, 1], dropout=0.3)
    options = {"sample_weight": np.arange(50) % 3, "optimizer": Adam(fastmlp.Cosine(0.01, 50, unit="step"))}
    whole = fit(backend, network, epochs=20, **options)
    for bound in ({"steps": 3}, {"steps": 1 << 14, "visits": 40}, {"visits": 1 << 22, "seconds": 0.0}):
        chunks(**bound)
        cut = fit(backend, network, epochs=20, **options)
        np.testing.assert_array_equal(cut.parameters, whole.parameters)
        assert cut.history == whole.history


class Watcher(Callback):
    def on_epoch_end(self, run):
        assert np.isfinite(run.parameters).all()


@some_backends
def test_watching_changes_nothing(backend):
    alone = fit(backend)
    watched = fit(backend, validation=(X, Y), callbacks=[Watcher()], progress=True)
    np.testing.assert_array_equal(alone.parameters, watched.parameters)
    assert alone.history["loss"] == pytest.approx(watched.history["loss"], rel=1e-14)


@some_backends
def test_batch_sizes_beyond_the_rows_mean_all_rows(backend):
    whole, beyond = fit(backend, batch_size=None), fit(backend, batch_size=51)
    np.testing.assert_array_equal(whole.parameters, beyond.parameters)


# --- seeds ----------------------------------------------------------------------------------------


@some_backends
def test_a_seed_reproduces_and_another_differs(backend):
    network = Network([10, 6, 1], dropout=0.2)
    one, same, other = (fit(backend, network, seed=seed, validation=0.2) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.parameters, same.parameters)
    assert one.history == same.history
    assert not np.allclose(one.parameters, other.parameters)
    unseeded = [fit(backend, network, seed=None, epochs=0).parameters for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_dropout_and_validation_do_not_disturb_the_start():
    starts = [
        fit("reference", network, epochs=0, seed=3, validation=held).parameters
        for network in (SMALL, Network([10, 6, 1], hidden="tanh", dropout=0.5))
        for held in (None, 0.3)
    ]
    for start in starts[1:]:
        np.testing.assert_array_equal(start, starts[0])


# --- history ------------------------------------------------------------------------------------------


@some_backends
def test_the_loss_of_an_epoch_is_measured_before_each_update_and_weighted_by_rows(backend):
    weights = 1.0 + np.arange(50) % 4
    start = fit(backend, epochs=0)
    still = fit(backend, optimizer=SGD(0.0), epochs=2, sample_weight=weights)
    expected = np.average((start.predict(X)[:, 0] - Y) ** 2, weights=weights)
    assert still.history["loss"] == pytest.approx([expected] * 2, rel=RELATIVE)
    one_step = fit(backend, epochs=1, batch_size=None)
    assert one_step.history["loss"] == pytest.approx(
        [np.mean((start.predict(X)[:, 0] - Y) ** 2)], rel=RELATIVE
    )


@some_backends
def test_no_epochs_give_an_untrained_model(backend):
    model = fit(backend, epochs=0, validation=(X, Y))
    assert model.history == {"loss": [], "validation_loss": []}
    assert model.predict(X).shape == (50, 1)
    assert model.stop_reason is None
    assert backend in repr(model)


@some_backends
@pytest.mark.parametrize("scale", [1.0, 3e153])
def test_a_validation_of_many_rows_is_measured_in_parts_to_the_same_mean(backend, scale, long_calls):
    rows, targets = np.tile(X, (14, 1)), scale * np.tile(Y, 14)
    weights = np.ones(700)
    weights[256:512] = 0  # a part of the 256 rows that one has at least
    options = {"epochs": 2, "validation": (rows, targets, weights)}
    whole = fit(backend, **options)
    long_calls(0)
    parts = fit(backend, **options)
    np.testing.assert_allclose(parts.history["validation_loss"], whole.history["validation_loss"], RELATIVE)


@some_backends
def test_the_penalties_are_a_part_of_the_loss_and_not_of_the_validation_loss(backend):
    network = Network([10, 6, 1], l1=0.1, l2=0.5)
    model = fit(backend, network, optimizer=SGD(0.0), epochs=1, batch_size=None, validation=(X, Y))
    penalty = sum(0.1 * np.abs(w).sum() + 0.25 * (w**2).sum() for w in model.weights)
    history = model.history
    assert history["loss"][0] - history["validation_loss"][0] == pytest.approx(penalty, rel=RELATIVE)


# --- sample weights -------------------------------------------------------------------------------


@some_backends
@pytest.mark.parametrize(
    ("output", "loss"), [("identity", "mse"), ("softmax", "cross_entropy"), ("exp", "poisson")]
)
def test_whole_weights_are_repeated_rows(backend, output, loss):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, 50)
    assert 32 < counts.sum() <= 64  # so that "specialized" has one program for both
    y = rng.dirichlet(np.ones(3), 50)
    network = Network([10, 5, 3], output=output, loss=loss)
    options = {"batch_size": None, "epochs": 5}
    weighted = fit(backend, network, y=y, sample_weight=counts, **options)
    repeated = fit(backend, network, np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0), **options)
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=RELATIVE, atol=1e-13)
    assert weighted.history["loss"] == pytest.approx(repeated.history["loss"], rel=RELATIVE)


@some_backends
def test_rows_of_weight_zero_contribute_nothing(backend):
    weights = np.ones(50)
    weights[20:] = 0
    x, y = X.copy(), Y.copy()
    x[20:] *= 1e3
    y[20:] = -1e3
    options = {"batch_size": 10, "shuffle": False, "sample_weight": weights}
    one, other = fit(backend, **options), fit(backend, x=x, y=y, **options)
    np.testing.assert_array_equal(one.parameters, other.parameters)
    assert one.history == other.history
    assert np.isfinite(one.parameters).all()


# --- start, dtype ---------------------------------------------------------------------------------


@some_backends
def test_a_given_start_is_copied_and_results_are_the_models_own(backend):
    weights, biases = [np.ones((10, 6)), np.ones((6, 1))], [np.zeros(6), np.zeros(1)]
    before = [a.copy() for a in (*weights, *biases)]
    model = fit(backend, initial=(weights, biases))
    for array, kept in zip((*weights, *biases), before, strict=True):
        np.testing.assert_array_equal(array, kept)
        assert not np.shares_memory(array, model.parameters)
    for array in (*model.weights, *model.biases):
        assert np.shares_memory(array, model.parameters)
    again = fit(backend, initial=(model.weights, model.biases), epochs=0)
    np.testing.assert_array_equal(again.parameters, model.parameters)


@some_backends
@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        ("float32", None, "float32"),
        ("float64", None, "float64"),
        ("float16", None, "float64"),
        ("int32", None, "float64"),
        ("float64", "float32", "float32"),
        ("float32", np.float64, "float64"),
    ],
)
def test_dtypes(backend, given, dtype, expected):
    model = fit(backend, x=X.astype(given), y=Y.astype("float64"), epochs=1, dtype=dtype)
    assert model.parameters.dtype == expected
    assert model.predict(X).dtype == expected
    assert all(w.dtype == expected for w in (*model.weights, *model.biases))


@some_backends
def test_labels_and_one_hot_rows_are_the_same(backend):
    x, y = data_set("iris")
    network = Network([4, 5, 3], output="softmax", loss="cross_entropy")
    models = [
        fit(backend, network, x, labels) for labels in (y, y.astype(float), y.astype(np.uint8), np.eye(3)[y])
    ]
    for model in models[1:]:
        np.testing.assert_array_equal(model.parameters, models[0].parameters)


# --- validation ---------------------------------------------------------------------------------


@some_backends
def test_validation_given(backend):
    weights = 1.0 + np.arange(10)
    model = fit(backend, validation=(X[:10], Y[:10], weights))
    expected = naive.loss("mse", "identity", model.predict(X[:10]), Y[:10, None], weights)
    assert model.history["validation_loss"][-1] == pytest.approx(expected, rel=RELATIVE)
    assert len(model.history["validation_loss"]) == len(model.history["loss"]) == 4


def test_validation_split_off_is_not_trained_on(monkeypatch):
    seen = []
    reference = registry.get("reference")

    def spy(network, optimizer, state, data, *others):
        seen.append(data)
        return reference.train_chunk(network, optimizer, state, data, *others)

    have_chosen(monkeypatch, reference._replace(train_chunk=spy))
    model = fit("reference", validation=0.3, epochs=1, sample_weight=1 + np.arange(50.0))
    trained = seen[0].inputs
    assert len(trained) == 35
    held = np.array([i for i in range(50) if not (X[i] == trained).all(axis=1).any()])
    assert len(held) == 15
    expected = np.average((model.predict(X[held])[:, 0] - Y[held]) ** 2, weights=1.0 + held)
    assert model.history["validation_loss"] == pytest.approx([expected], rel=RELATIVE)
