"""Trainings that go on: `Model.fit_more` in the bits of one longer fit, and `fit(initial=model)`."""

import copy
import pickle

import numpy as np
import pytest
from support.problems import data_set
from support.resuming import StopAt, assert_same

import fastmlp
from fastmlp import SGD, Adam, Callback, Checkpoint, Cosine, EarlyStopping, Network, RMSprop, Warmup

X, Y = data_set("diabetes", 50)
NETWORK, ADAM = Network([10, 6, 1], hidden="tanh", dropout=0.3, l2=0.01), Adam(Cosine(0.01, 5))


def fit(epochs, x=X, y=Y, network=NETWORK, **options):
    given = {"optimizer": ADAM, "batch_size": 16, "seed": 1, "backend": "reference", **options}
    return fastmlp.fit(network, x, y, epochs=epochs, **given)


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


# --- another optimiser or batch size, and parameters that a user has written ------------------------------


PLAIN = {"network": Network([10, 6, 1], "tanh"), "optimizer": SGD(0.02), "shuffle": False}
"""Options of a training that has no state besides its parameters."""


def write_all(model):
    model.parameters[...] = 0.25


def write_a_weight(model):
    model.weights[0][3, 2] = 5.0


def replace(model):
    model.parameters = model.parameters[::-1].copy()


@pytest.mark.parametrize("write", [write_all, write_a_weight, replace])
@pytest.mark.parametrize("stopping", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_what_is_written_into_a_model_is_what_it_goes_on_from(write, stopping, again):
    """After early stopping it went on from its own last parameters, and threw away what was written."""
    model = fit(3, callbacks=[EarlyStopping(9)] if stopping else [], **PLAIN)
    model = pickle.loads(pickle.dumps(model))
    write(model)
    callbacks = [EarlyStopping(9)] if again else []
    same = model.fit_more(X, Y, epochs=0, callbacks=callbacks)
    np.testing.assert_array_equal(same.parameters, model.parameters)
    more = same.fit_more(X, Y, epochs=2, callbacks=callbacks)
    anew = fit(2, initial=model, callbacks=callbacks, **PLAIN)
    np.testing.assert_array_equal(more.parameters, anew.parameters)
    assert more.history["loss"][3:] == anew.history["loss"]


def test_where_nothing_was_written_it_goes_on_from_the_last_parameters():
    """Of a training that grew worse: the model has the best."""
    options = {"optimizer": Adam(0.3), "callbacks": [EarlyStopping(99)]}
    model = fit(12, **options)
    model.parameters[...] = model.parameters.copy()
    assert not np.array_equal(model.parameters, model.training.parameters)
    assert_same(model.fit_more(X, Y, epochs=3, callbacks=[EarlyStopping(99)]), fit(15, **options))


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("callbacks", [[], [EarlyStopping(9)]])
def test_a_copy_of_a_model_has_arrays_of_its_own(copied, callbacks):
    model = fit(2, callbacks=callbacks)
    twin = copied(model)
    assert (twin.network, twin.history, twin.backend) == (model.network, model.history, model.backend)
    whole = model.fit_more(X, Y, epochs=2)
    twin.parameters[...] = 0.0
    twin.history["loss"].append(0.0)
    assert not twin.predict(X).any()
    assert_same(model.fit_more(X, Y, epochs=2), whole)
    np.testing.assert_array_equal(twin.fit_more(X, Y, epochs=0).parameters, 0.0)


def test_values_that_are_added_to_a_history_are_not_the_trainings():
    model = fit(2)
    expected = model.fit_more(X, Y, epochs=2)
    model.history["loss"].append(0.0)
    assert_same(model.fit_more(X, Y, epochs=2), expected)
    assert len(model.fit_more(X, Y, epochs=2, batch_size=5).history["loss"]) == 4
    del model.history["loss"][1:]
    with pytest.raises(ValueError, match=r"history\['loss'\] has 1 values, the training has 2"):
        model.fit_more(X, Y, epochs=2)


def test_a_curve_that_a_callback_keeps_is_not_that_of_its_next_training():
    class Scores(Callback):
        def __init__(self):
            self.scores = []

        def on_train_begin(self, run):
            self.scores.clear()
            run.history["score"] = self.scores

        def on_epoch_end(self, run):
            self.scores.append(run.epoch)

    scores = Scores()
    model = fit(3, callbacks=[scores])
    fit(2, callbacks=[scores])
    assert model.history["score"] == [1, 2, 3]
    assert len(model.fit_more(X, Y, epochs=1).history["loss"]) == 4


def test_no_epochs_more_take_no_step_of_the_one_under_way(chunks):
    chunks(steps=1)
    stopped = fit(3, callbacks=[StopAt(6)])  # of 4 steps an epoch
    np.testing.assert_array_equal(stopped.fit_more(X, Y, epochs=0).parameters, stopped.parameters)


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize(
    "kind",
    [
        lambda rate: SGD(rate),
        lambda rate: SGD(rate, 0.9, True),
        lambda rate: RMSprop(rate, momentum=0.5),
        lambda rate: Adam(rate, clip_norm=0.5),
    ],
)
def test_an_optimiser_of_the_same_rule_goes_on_with_the_moments(kind, backend):
    """In the bits of one training whose rate changes between."""
    whole = fit(5, optimizer=kind(lambda epochs: 0.01 if epochs < 2 else 0.002), backend=backend)
    first = fit(2, optimizer=kind(0.01), backend=backend)
    second = first.fit_more(X, Y, epochs=1, optimizer=kind(0.002))
    assert_same(second.fit_more(X, Y, epochs=2), whole)
    assert_same(first.fit_more(X, Y, epochs=3, optimizer=None), fit(5, optimizer=kind(0.01), backend=backend))


@pytest.mark.parametrize("backend", ["reference", "fused", "auto"])
@pytest.mark.parametrize("rows", [(X, Y), ([(X, Y)], None)])
def test_an_optimiser_of_another_rule_begins_with_moments_of_zero(backend, rows):
    plain = {**PLAIN, "backend": backend}
    first = fit(3, *rows, **{**plain, "optimizer": RMSprop(0.01, momentum=0.5)})
    for optimizer in (Adam(0.01), SGD(0.02, 0.9), SGD(0.02)):
        more = first.fit_more(*rows, epochs=1, optimizer=optimizer)
        more = more.fit_more(*rows, epochs=2)
        anew = fit(3, *rows, initial=first, **{**plain, "optimizer": optimizer})
        np.testing.assert_array_equal(more.parameters, anew.parameters)
        assert more.history["loss"] == first.history["loss"] + anew.history["loss"]


@pytest.mark.parametrize("rows", [(X, Y), ([(X, Y)], None)])
def test_another_batch_size_goes_on_with_parameters_and_moments(rows):
    first = fit(2, *rows, **PLAIN)
    for batch_size in (7, None) if rows[1] is not None else (7,):
        more = first.fit_more(*rows, epochs=1, batch_size=batch_size)
        anew = fit(3, *rows, initial=first, batch_size=batch_size, **PLAIN)
        assert_same(more.fit_more(*rows, epochs=2), first.fit_more(*rows, epochs=3, batch_size=batch_size))
        np.testing.assert_array_equal(more.fit_more(*rows, epochs=2).parameters, anew.parameters)
    # A first step of Adam's takes every parameter as far as the rate; with gathered moments it does not.
    adam = fit(2, *rows, optimizer=Adam(0.01), network=PLAIN["network"])
    moved = np.abs(adam.fit_more(*rows, epochs=1, batch_size=50).parameters - adam.parameters)
    assert moved.min() < 0.005


@pytest.mark.parametrize("rows", [(X, Y), ([(X, Y)], None)])
@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_schedules_count_on_over_batch_sizes_and_rules(rows, optimizer):
    epochs_seen, steps = [], []

    class Steps(fastmlp.Schedule):
        def rates(self, updates, steps_per_epoch, since):
            steps.extend(updates.tolist())
            return np.full(len(updates), 0.01)

    model = fit(3, *rows, **PLAIN)  # of 4 steps
    model = model.fit_more(
        *rows, epochs=2, optimizer=optimizer(lambda epochs: epochs_seen.append(epochs) or 0.01)
    )
    model = model.fit_more(*rows, epochs=2, batch_size=10)  # of 5
    assert sorted({*epochs_seen}) == [3, 4, 5, 6]
    model.fit_more(*rows, epochs=1, optimizer=RMSprop(Steps()))
    assert steps == [*range(30, 35)]


def test_an_epoch_under_way_is_left_with_another_batch_size(chunks):
    chunks(steps=1)
    stopped = fit(3, callbacks=[StopAt(6)], **PLAIN)  # of 4 steps an epoch
    more = stopped.fit_more(X, Y, epochs=2, batch_size=25)
    np.testing.assert_array_equal(more.parameters, fit(2, initial=stopped, batch_size=25, **PLAIN).parameters)
    assert len(more.history["loss"]) == 3


@pytest.mark.parametrize("again", [{"batch_size": 25}, {"x": X[:40], "y": Y[:40]}])
def test_epochs_of_another_length_have_the_orders_of_their_numbers(again, drawn):
    given = {"x": X, "y": Y, "batch_size": 16, **again}
    first = fit(3)
    first.fit_more(given["x"], given["y"], epochs=2, batch_size=given["batch_size"])
    assert drawn == [(epoch, 0) for epoch in range(5)]


def test_early_stopping_begins_anew_with_another_rule():
    first = fit(3, callbacks=[EarlyStopping(1)], seed=7)
    other = first.fit_more(X, Y, epochs=4, optimizer=SGD(0.0), callbacks=[EarlyStopping(2)], batch_size=50)
    assert len(other.history["loss"]) == 6
    assert "not improved" in other.stop_reason
