"""Rows that come block by block train in the bits of one array; an error names the block that is wrong."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
import scipy.sparse
from support.blocks import (
    BLOCKS,
    PIECES,
    RNG,
    ROWS,
    W,
    X,
    Y,
    filling,
    fit,
    no_thread_is_left,  # noqa: F401  # a fixture
)
from support.resuming import StopAt, assert_same
from support.selection import matrix

import fastmlp
from fastmlp import (
    Adam,
    BatchNorm,
    Callback,
    Checkpoint,
    CheckpointError,
    Dense,
    Dropout,
    EarlyStopping,
    Network,
    TimeLimit,
)
from fastmlp.data.windows import Windows
from fastmlp.training import loop

LARGE = [pytest.param(size, marks=matrix) for size in (1, 8, ROWS)]


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("batch_size", [16, 200, *LARGE])
def test_the_bits_are_those_of_one_array(batch_size, backend):
    options = {"batch_size": batch_size, "backend": backend}
    whole = fit(X, Y, sample_weight=W, shuffle=False, **options)
    for window in (None, max(batch_size, 17), max(batch_size, ROWS)):
        assert_same(fit(shuffle=False, window=window, **options), whole)
    whole = fit(X, Y, sample_weight=W, **options)
    for window in (None, max(batch_size, ROWS)):
        assert_same(fit(window=window, **options), whole)
    assert_same(fit(X, Y, sample_weight=W, window=max(batch_size, ROWS), **options), whole)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_csr_blocks_have_the_bits_of_one_matrix(backend):
    dense = np.where(RNG.random((ROWS, 5)) < 0.5, X, 0)
    blocks = [(scipy.sparse.csr_array(dense[rows]), Y[rows]) for rows in PIECES]
    whole = fit(scipy.sparse.csr_array(dense), Y, backend=backend)
    assert_same(fit(blocks, backend=backend), whole)
    whole = fit(scipy.sparse.csr_array(dense), Y, backend=backend, shuffle=False)
    for window in (16, 30):
        assert_same(fit(blocks, backend=backend, shuffle=False, window=window), whole)
    assert_same(fit(scipy.sparse.csr_array(dense), Y, backend=backend, shuffle=False, window=30), whole)


def test_windows_are_shuffled_from_the_seed(monkeypatch):
    """Each window in itself; carried rows come first."""
    seen = []

    class Spy(loop.Training):
        def advance(self, state, chunk):
            steps = zip(chunk.starts, chunk.stops, strict=True)
            seen.append(np.concatenate([self.data.inputs[chunk.order[a:b], 0] for a, b in steps]))
            return super().advance(state, chunk)

    monkeypatch.setattr("fastmlp.training.trainer.Training", Spy)
    first = np.arange(ROWS, dtype=float)[:, None] * np.ones(5)
    blocks = [(first[rows], Y[rows]) for rows in PIECES]
    fit(blocks, window=30, epochs=2, network=Network([5, 2]), optimizer=fastmlp.SGD(1e-9))
    order = np.concatenate(seen).astype(int)
    assert len(order) == 2 * ROWS
    for epoch in (order[:ROWS], order[ROWS:]):
        for start in range(0, ROWS, 30):
            some = epoch[start : start + 30]
            assert sorted(some) == [*range(start, min(start + 30, ROWS))]
            assert not np.array_equal(some, np.sort(some))
    assert not np.array_equal(order[:ROWS], order[ROWS:])
    assert not np.array_equal(order[:30], order[30:60] - 30), "each window has an order of its own"
    again, seen[:] = order, []
    fit(blocks, window=30, epochs=2, network=Network([5, 2]), optimizer=fastmlp.SGD(1e-9))
    np.testing.assert_array_equal(np.concatenate(seen), again)


def test_what_the_thread_has_read_ahead_changes_nothing(monkeypatch):
    """Whether an epoch's length is known at first goes by the source, not by how far its reading has come."""
    blocks = [(X[:8], Y[:8]), (X[8:9], Y[8:9])]
    network = Network(inputs=5, layers=[Dense(6), BatchNorm(), Dropout(0.5), Dense(2)])
    options = {"network": network, "batch_size": 8, "window": 8, "epochs": 3}
    models, take = [], Windows.next
    for seconds in (0.0, 0.2):
        monkeypatch.setattr(Windows, "next", lambda *given, wait=seconds: time.sleep(wait) or take(*given))
        models.append(fit(lambda: iter(blocks), **options))
    assert_same(*models)


def test_orders_of_windows_are_those_of_their_epochs(drawn):
    first = fit(window=60, epochs=2)
    first.fit_more(BLOCKS, epochs=1)
    assert drawn == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_labels_and_dtypes_follow_the_blocks():
    labels = RNG.integers(0, 3, ROWS)
    network = Network([5, 3], output="softmax", loss="cross_entropy")
    for dtype in (np.float32, np.float64, np.int8):
        x = (10 * X).astype(dtype)
        blocks = [(x[rows].tolist() if dtype == np.float64 else x[rows], labels[rows]) for rows in PIECES]
        assert_same(fit(blocks, network=network), fit(x, labels, network=network))


def test_blocks_that_have_become_fewer_end_what_goes_on_behind_their_end(tmp_path, chunks):
    chunks(steps=1)
    options = {"window": 32, "epochs": 1}
    for step, rows in ((4, 40), (4, 64)):  # the steps visited are more than there are now, or as many
        path = tmp_path / "c"
        stopped = fit(**options, callbacks=[Checkpoint(path, 99), StopAt(step)])
        fewer = [(X[:rows], Y[:rows], W[:rows])]
        with pytest.raises(ValueError, match=f"epoch 1 has only {rows} rows; the training that goes on"):
            fit(fewer, **options, resume=path)
        with pytest.raises(ValueError, match=f"epoch 1 has only {rows} rows; the training that goes on"):
            stopped.fit_more(fewer, epochs=1)


def test_a_training_goes_on_with_other_blocks_and_with_arrays():
    first = fit(epochs=2, shuffle=False)
    other = first.fit_more(BLOCKS[1:], epochs=2)
    assert_same(first.fit_more(BLOCKS[1:], epochs=1).fit_more(BLOCKS[1:], epochs=1), other)
    first.fit_more(X, Y, epochs=1).fit_more(BLOCKS, epochs=1)


def test_another_training_is_not_resumed(tmp_path):
    path = tmp_path / "c"
    fit(window=30, callbacks=[Checkpoint(path)])
    for what, other in {"window": {"window": 31}, "data": {"x": BLOCKS[1:]}, "seed": {"seed": 4}}.items():
        with pytest.raises(CheckpointError, match=rf"of another training; these differ: .*\b{what}\b"):
            fit(**{"window": 30, **other}, resume=path)
    with pytest.raises(CheckpointError, match=r"these differ: .*data"):
        fit(X, Y, resume=path)
    with pytest.raises(CheckpointError, match="holds 3 epochs, more than epochs=2"):
        fit(window=30, epochs=2, resume=path)
    assert_same(fit(window=30, epochs=5, resume=path), fit(window=30, epochs=5))


def test_a_time_limit_and_an_error_of_a_callback_leave_no_thread():
    assert fit(epochs=10**6, callbacks=[TimeLimit(0.05)]).stop_reason == "time limit of 0.05 s reached"

    class Broken(Callback):
        def on_epoch_end(self, run):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(callbacks=[Broken()])


def test_ctrl_c_does_not_wait_for_a_block_that_does_not_come():
    gate, first_is_over, epochs = threading.Event(), threading.Event(), iter((1, 2))

    class Tell(Callback):
        def on_epoch_end(self, run):
            first_is_over.set()

    def slow():
        yield X, Y
        if next(epochs) == 2:
            first_is_over.wait(600)
            signal.raise_signal(signal.SIGINT)
            gate.wait(600)
            yield X, Y

    with pytest.raises(fastmlp.Interrupted) as caught:
        fit(slow, epochs=9, callbacks=[Tell()])
    assert filling(), "the next block was waited for"
    model = caught.value.model
    assert len(model.history["loss"]) == 1
    assert model.stop_reason == "interrupted by SIGINT"
    gate.set()
    for thread in filling():
        thread.join(600)


def test_validation_blocks_and_early_stopping():
    held = [(X[:50], Y[:50], W[:50]), (X[50:], Y[50:], W[50:])]
    expected = fit(X, Y, epochs=20, validation=(X, Y, W), callbacks=[EarlyStopping(1)], optimizer=Adam(0.1))
    model = fit(
        [(X, Y)], epochs=20, validation=lambda: iter(held), callbacks=[EarlyStopping(1)], optimizer=Adam(0.1)
    )
    assert_same(model, expected)
    assert len(model.history["loss"]) < 20


def test_validation_in_several_windows_is_a_weighted_mean(windows):
    windows(held_out=1)
    rows = np.tile(X, (6, 1)), np.tile(Y, (6, 1)), np.repeat(np.arange(6.0) + 1, ROWS)
    model = fit(validation=lambda: [rows])  # 256 rows at a time
    expected = fit(validation=rows)
    np.testing.assert_array_equal(model.parameters, expected.parameters)
    np.testing.assert_allclose(
        model.history["validation_loss"], expected.history["validation_loss"], rtol=1e-6
    )
