"""Trainings that go on: `Model.fit_more` in the bits of one longer fit, and `fit(initial=model)`."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from support.continued_fits import X, Y, fit
from support.resuming import assert_same

import fastmlp
from fastmlp import SGD, Adam, Callback, Checkpoint, Cosine, EarlyStopping, Network, Warmup


def test_without_a_seed_the_model_has_it():
    first = fit(2, seed=None)
    assert_same(first.fit_more(X, Y, epochs=3), fit(5, seed=first.training.seed))


def test_what_a_model_keeps_of_its_training_is_its_optimiser(monkeypatch):
    """The moments and a few numbers: no rows, no orders, no gradients."""
    rows = np.tile(X, (200, 1)), np.tile(Y, 200)
    network = Network([10, 300, 1])
    model = fit(2, *rows, network=network)
    moments = 2 * model.parameters.nbytes
    size = len(pickle.dumps(model))
    model.training = None
    assert moments < size - len(pickle.dumps(model)) < moments + 4096
    with pytest.raises(ValueError, match="does not keep the training") as caught:
        model.fit_more(*rows, epochs=1)
    assert "initial=model" in str(caught.value)


@pytest.mark.parametrize("patience", [1, 4])
def test_early_stopping_goes_on_from_the_last_parameters_with_the_best_ones_kept(patience):
    options = {"validation": 0.3, "optimizer": Adam(0.1)}
    whole = fit(30, callbacks=[EarlyStopping(patience)], **options)
    assert len(whole.history["loss"]) < 30
    for epochs in (1, 2, len(whole.history["loss"]) - 1):
        first = fit(epochs, callbacks=[EarlyStopping(patience)], **options)
        assert_same(first.fit_more(X, Y, epochs=30 - epochs, callbacks=[EarlyStopping(patience)]), whole)
    # What had stopped stays so, and goes on where there is more patience, or none.
    stopped = fit(30, callbacks=[EarlyStopping(patience)], **options)
    assert_same(stopped.fit_more(X, Y, epochs=3, callbacks=[EarlyStopping(patience)]), whole)
    more = fit(len(whole.history["loss"]) + 3, **options)
    np.testing.assert_array_equal(stopped.fit_more(X, Y, epochs=3).parameters, more.parameters)


def test_on_other_rows_early_stopping_begins_anew():
    given = {"validation": (X, Y), "callbacks": [EarlyStopping(3)]}
    first = fit(3, **given)
    other = first.fit_more(X, Y, epochs=4, validation=(X, Y + 100), callbacks=[EarlyStopping(4)])
    # The best of the first rows would have been put back: no loss on the others comes near it.
    assert not np.array_equal(other.parameters, first.parameters)
    assert min(other.history["validation_loss"][3:]) > max(first.history["validation_loss"])


def test_from_rows_in_memory_to_blocks_of_them_and_back_early_stopping_begins_anew():
    """It failed: the state spoke of epochs that the history since then does not have."""
    for first, other in (((X, Y), ([(X, Y)], None)), (([(X, Y)], None), (X, Y))):
        begun = fit(2, *first, validation=(X, Y), callbacks=[EarlyStopping(2)])
        more = begun.fit_more(*other, epochs=2, validation=(X, Y), callbacks=[EarlyStopping(2)])
        assert len(more.history["loss"]) == 4


class Hoarding(Callback):
    """Keeps what it is given, and appends to it."""

    def __init__(self):
        self.seen = []

    def on_epoch_end(self, run):
        self.seen.append(run.epoch)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, run, state):
        self.seen = state["seen"]


def test_a_callback_that_goes_on_does_not_change_what_the_model_before_keeps():
    first = fit(2, callbacks=[Hoarding()])
    for _ in range(2):
        again = Hoarding()
        first.fit_more(X, Y, epochs=1, callbacks=[again])
        assert again.seen == [1, 2, 3]


HALF = Cosine(0.1, 5)

# a schedule, and its rate by whole epochs and updates done
COUNTED = {
    "by epoch": (HALF, lambda epoch, step: HALF.rates(np.array([epoch]), 1)[0]),
    "by step": (
        Cosine(0.1, 15, unit="step"),
        lambda epoch, step: Cosine(0.1, 15).rates(np.array([step]), 1)[0],
    ),
    "by both": (
        Warmup(HALF, 11, start_factor=0.0, unit="step"),
        lambda epoch, step: min(step, 11) / 11 * HALF.rates(np.array([epoch]), 1)[0],
    ),
}


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("count", COUNTED)
def test_other_rows_count_epochs_and_steps_on(count, backend):
    """Written out: after two epochs of 4 steps, five of 2 steps."""
    schedule, rate_at = COUNTED[count]
    network = Network([10, 1])  # without dropout and penalties a step of SGD is rate times gradient
    options = {"optimizer": SGD(schedule), "shuffle": False, "network": network, "backend": backend}
    first = fit(2, **options)
    again = first.fit_more(X[:32], Y[:32], epochs=3).fit_more(X[:32], Y[:32], epochs=2)
    assert_same(first.fit_more(X[:32], Y[:32], epochs=5), again)
    assert len(again.history["loss"]) == 7
    parameters = first.parameters.copy()
    for step in range(10):
        at = slice(16 * (step % 2), 16 * (step % 2) + 16)
        error = X[at] @ parameters[:10] + parameters[10] - Y[at]
        rate = rate_at(2 + step // 2, 8 + step)
        parameters[:10] -= rate * 2 * X[at].T @ error / 16
        parameters[10] -= rate * 2 * error.mean()
    np.testing.assert_allclose(again.parameters, parameters, rtol=1e-12)


def test_orders_and_adam_s_corrections_go_on_on_other_rows():
    first = fit(2)
    once = first.fit_more(X[:32], Y[:32], epochs=4)
    twice = first.fit_more(X[:32], Y[:32], epochs=1).fit_more(X[:32], Y[:32], epochs=3)
    assert_same(twice, once)
    anew = fit(4, X[:32], Y[:32], initial=first)
    assert not np.array_equal(anew.parameters, once.parameters)
    # A first step of Adam's is as long as its rate; with moments that have been gathered it is not.
    moved = [
        np.abs(model.parameters - first.parameters).max()
        for model in (
            fit(1, X[:16], Y[:16], initial=first, optimizer=Adam(0.01)),
            fit(2, optimizer=Adam(0.01)).fit_more(X[:16], Y[:16], epochs=1),
        )
    ]
    assert moved[0] == pytest.approx(0.01, rel=1e-3)
    assert moved[1] != pytest.approx(0.01, rel=1e-3)


def test_more_rows_than_a_batch_where_there_was_one_batch():
    first = fit(2, X[:16], Y[:16])
    once = first.fit_more(X, Y, epochs=4)
    assert_same(first.fit_more(X, Y, epochs=1).fit_more(X, Y, epochs=3), once)


def test_a_checkpoint_of_a_training_that_went_on_can_be_resumed(tmp_path):
    first = fit(2)
    first.fit_more(X, Y, epochs=2, callbacks=[Checkpoint(tmp_path / "c")])
    assert_same(fit(6, resume=tmp_path / "c"), fit(6))
    assert_same(fit(4, resume=tmp_path / "c").fit_more(X, Y, epochs=2), fit(6))
    for options in ({"optimizer": SGD(0.1)}, {"batch_size": 8}):
        with pytest.raises(ValueError, match="a Checkpoint keeps trainings with one kind of epochs"):
            first.fit_more(X, Y, epochs=1, callbacks=[Checkpoint(tmp_path / "c")], **options)
    with pytest.raises(ValueError, match="another rule or number of rows or batches: 50 rows before, 32 now"):
        first.fit_more(X[:32], Y[:32], epochs=1, callbacks=[Checkpoint(tmp_path / "c")])


def test_a_start_from_a_model_begins_all_else_anew():
    first = fit(3)
    arrays = fit(2, initial=(first.weights, first.biases))
    assert_same(fit(2, initial=first), arrays)
    np.testing.assert_array_equal(
        fit(0, initial=first, dtype=np.float32).parameters, first.parameters.astype("f4")
    )
    with pytest.raises(ValueError, match=r"shape \(10, 5\), got \(10, 6\)"):
        fit(1, network=Network([10, 5, 1]), initial=first)


def test_what_cannot_go_on(tmp_path):
    model = fit(1)
    fastmlp.save(model, tmp_path / "m")
    with pytest.raises(ValueError, match="does not keep the training"):
        fastmlp.load(tmp_path / "m").fit_more(X, Y, epochs=1)
    with pytest.raises(ValueError, match="goes on as it was, without validation rows"):
        model.fit_more(X, Y, epochs=1, validation=0.2)
    with pytest.raises(ValueError, match="was validated, and goes on with validation rows"):
        fit(1, validation=(X, Y)).fit_more(X, Y, epochs=1)
    with pytest.raises(TypeError, match="seed stays as it was; fit_more takes epochs, optimizer, batch_size"):
        model.fit_more(X, Y, epochs=1, seed=3)
    with pytest.raises(TypeError, match=r"optimizer must be an SGD, .* got 0\.1"):
        model.fit_more(X, Y, epochs=1, optimizer=0.1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        model.fit_more(X, Y, epochs=1, batch_size=0)
    with pytest.raises(TypeError, match="there is no option 'patience'"):
        model.fit_more(X, Y, epochs=1, patience=3)
    with pytest.raises(ValueError, match="epochs must be at least 0, got -1"):
        model.fit_more(X, Y, epochs=-1)
