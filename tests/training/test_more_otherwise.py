"""`Model.fit_more` with another optimiser or batch size, and after a user has written parameters."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support.continued_fits import X, Y, fit
from support.resuming import StopAt, assert_same

import fastmlp
from fastmlp import SGD, Adam, Callback, EarlyStopping, Network, RMSprop

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
    assert not np.array_equal(model.parameters, model.training.snapshot.parameters)
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
    # Trainings leave orders by their seed: no other test has this one.
    first = fit(3, seed=1000 + len(again))
    first.fit_more(given["x"], given["y"], epochs=2, batch_size=given["batch_size"])
    assert drawn == [(epoch, 0) for epoch in range(5)]


def test_early_stopping_begins_anew_with_another_rule():
    first = fit(3, callbacks=[EarlyStopping(1)])
    other = first.fit_more(X, Y, epochs=4, optimizer=SGD(0.0), callbacks=[EarlyStopping(2)], batch_size=50)
    assert len(other.history["loss"]) == 6
    assert "not improved" in other.stop_reason
