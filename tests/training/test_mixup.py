"""`fit(mixup=)`: rows and targets of a step are mixed, by draws that depend on seed and step alone."""

import numpy as np
import pytest
import scipy.sparse
from support.refusals import refusals
from support.resuming import assert_same
from support.selection import matrix
from support.threads_as_ranks import trained

import fastmlp
from fastmlp import SGD, Adam, BatchNorm, Categories, Dense, Head, Network, Numbers
from fastmlp.data.batches import Mixing
from fastmlp.model.backend import Chunk, Data

RNG = np.random.default_rng(0)
ROWS, BATCH = 50, 16
X = RNG.standard_normal((ROWS, 4))
Y = np.stack([np.sin(X[:, 0]), X[:, 1]], axis=1)
LABELS = RNG.integers(0, 3, ROWS)
NETWORK = Network([4, 7, 2], "tanh")
CLASSES = Network([4, 7, 3], "tanh", output="softmax", loss="cross_entropy")


def fit(network=NETWORK, x=X, y=Y, **options):
    given = {"epochs": 3, "batch_size": BATCH, "seed": 0, "mixup": 0.4, "backend": "fused"}
    return fastmlp.fit(network, x, y, **{**given, **options})


def chunk_of(order, bounds):
    starts, stops = np.array(bounds[:-1]), np.array(bounds[1:])
    totals = (stops - starts).astype(float)
    return Chunk(order, starts, stops, totals, np.full((len(starts), 2), 0.1), 8)


def test_rows_and_targets_are_mixed_by_one_share_a_step():
    order, own = RNG.permutation(ROWS)[:20], np.eye(ROWS)
    chunk, network = chunk_of(order, [0, 8, 16, 20]), Network([ROWS, ROWS])
    data, steps = Mixing.of(0.4, 4).mixed(network, Data(own, own, np.ones(ROWS)), chunk, 5)
    shares = []
    for start, stop in zip(steps.starts, steps.stops, strict=True):
        rows, visited = data.inputs[start:stop], order[start:stop]
        share = rows[np.arange(stop - start), visited].min()  # of a row that was mixed with another one
        left = rows - share * own[visited]
        np.testing.assert_allclose(left.sum(axis=1), 1 - share, rtol=0, atol=1e-15)
        others = left.argmax(axis=1)
        np.testing.assert_allclose(left, (1 - share) * own[others], rtol=0, atol=1e-15)
        assert sorted(others) == sorted(visited)
        shares.append(share)
    np.testing.assert_array_equal(data.inputs, data.targets)
    assert len(set(shares)) == 3


def test_shares_are_of_the_beta_distribution():
    stats = pytest.importorskip("scipy.stats")
    steps = 2000
    rows = np.array([[0.0], [1.0]])
    chunk = chunk_of(np.arange(2), [0, 2])
    chunk = chunk._replace(starts=np.zeros(steps, np.int64), stops=np.full(steps, 2))
    network = Network([1, 1])
    data, _ = Mixing.of(0.4, 0).mixed(network, Data(rows, rows, np.ones(2)), chunk, 0)
    mixed = data.inputs[::2, 0]  # 0 where the order is as it was, else 1 - share
    kept = mixed[mixed > 0]
    assert abs(len(kept) - steps / 2) < 4 * np.sqrt(steps / 4)
    assert stats.kstest(kept, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    np.testing.assert_array_equal(data.inputs, data.targets)


def test_a_step_is_that_on_the_mixed_rows():
    mixing = Mixing.of(0.4, 0)
    start = fit(CLASSES, y=LABELS, epochs=0)
    one_hot = np.eye(3)[LABELS]
    chunk = chunk_of(np.arange(ROWS), [0, ROWS])
    data, _ = mixing.mixed(CLASSES, Data(X, one_hot, np.ones(ROWS)), chunk, 0)
    options = {"epochs": 1, "batch_size": None, "optimizer": SGD(0.1), "initial": start, "seed": 0}
    ours = fit(CLASSES, y=LABELS, **options)
    by_hand = fastmlp.fit(CLASSES, data.inputs, data.targets, backend="fused", **options)
    assert_same(ours, by_hand)


def test_a_network_trains_and_is_measured_on_rows_as_they_are():
    model = fit(CLASSES, y=LABELS, epochs=30, validation=(X, LABELS), optimizer=Adam(0.02))
    assert model.history["validation_loss"][-1] < model.history["validation_loss"][0]
    probabilities = model.predict(X)
    expected = -np.log(probabilities[np.arange(ROWS), LABELS]).mean()
    assert model.history["validation_loss"][-1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "other",
    [{"threads": 2}, *[pytest.param({"backend": name}, marks=matrix) for name in ("tiled", "specialized")]],
    ids=str,
)
def test_threads_and_backends_have_the_same_bits(other):
    assert_same(fit(**other), fit())


def test_steps_whose_rows_are_mixed_together_do_not_show(chunks):
    whole = fit()
    chunks(mixed=1)
    assert_same(fit(), whole)


def test_bytes_are_mixed_as_the_numbers_that_they_stand_for():
    pixels = RNG.integers(0, 256, (ROWS, 4), np.uint8)
    network = Network([4, 7, 2], input_scale=1 / 256)
    of_bytes = fit(network, [(pixels, Y)], None, shuffle=False, dtype="float32")
    of_numbers = fit(Network([4, 7, 2]), pixels.astype("f4") / 256, Y, shuffle=False, dtype="float32")
    np.testing.assert_array_equal(of_bytes.parameters, of_numbers.parameters)


def test_a_larger_batch_of_several_is_mixed_as_one():
    several, one = fit(batch_size=8, accumulate=2, optimizer=SGD(0.1)), fit(optimizer=SGD(0.1))
    np.testing.assert_allclose(several.parameters, one.parameters, rtol=0, atol=1e-13)


def test_heads_batch_norms_and_missing_targets_are_mixed():
    heads = {"a": Head(2, loss="mse", missing=True), "b": Head(3, loss="cross_entropy", output="softmax")}
    network = Network(inputs=[Numbers(4)], layers=[Dense(7), BatchNorm(), "relu"], heads=heads)
    y = {"a": np.where(RNG.random((ROWS, 2)) < 0.2, np.nan, Y), "b": LABELS}
    ours = fit(network, [X], y, optimizer=SGD(0.1))
    reference = fit(network, [X], y, optimizer=SGD(0.1), backend="reference")
    np.testing.assert_allclose(ours.parameters, reference.parameters, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.history["a_loss"], reference.history["a_loss"], rtol=1e-12)


TABLES = Network(inputs=[Numbers(4), Categories([3], width=2)], layers=[Dense(2)])


test_mistakes_are_said_in_one_line = refusals([
    (lambda: fit(mixup=0.0), "mixup must be finite and above 0, got 0.0|mixup must be above 0, got 0.0"),
    (lambda: fit(mixup="x"), "mixup must be a number, got 'x'"),
    (lambda: fit(TABLES, [X, LABELS[:, None]]), "codes of Categories cannot be mixed"),
    (lambda: fit(x=scipy.sparse.csr_array(X)), "mixup mixes dense rows, and X is sparse"),
    (lambda: fit(sample_weight=np.linspace(1, 2, ROWS)), "mixup takes no sample_weight"),
    (lambda: trained(2, lambda one: fit(communicator=one)), "mixup does not go with a communicator"),
])  # fmt: skip
