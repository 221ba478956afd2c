"""A call of `fit_many` that ends early keeps what it has, and goes on from its file bit for bit."""

import signal
import time
from datetime import timedelta

import numpy as np
import pytest
from support.callbacks import calling
from support.problems import data_set
from support.resuming import assert_same

import fastmlp
from fastmlp import SGD, Adam, Checkpoint, CheckpointError, InterruptedMany, Model, Network, fit_many
from fastmlp.many import trainings as checkpointing

X, Y = data_set("diabetes", 60)
SMALL = Network([10, 4, 1], hidden="tanh", dropout=0.2)
NETWORKS = [SMALL, Network([10, 6, 1]), SMALL, SMALL, SMALL]
OPTIMIZERS = [Adam(), SGD(0.05, 0.9), Adam(), SGD(1e200), Adam(0.05)]
EPOCHS = [3, 4, 8, 5, 6]


def call(**options):
    given = {
        "epochs": EPOCHS,
        "seed": 3,
        "validation": 0.2,
        "batch_size": 9,
        "backend": "fused",
        "threads": 2,
    }
    callbacks = [fastmlp.EarlyStopping(2), at(0, 1, enough), *options.pop("callbacks", [])]
    return fit_many(NETWORKS, X, Y, optimizer=OPTIMIZERS, callbacks=callbacks, **{**given, **options})


def assert_all_same(models, whole):
    for model, one in zip(models, whole, strict=True):
        if one is None:
            assert model is None
        elif isinstance(one, Model):
            assert_same(model, one)
        else:
            assert isinstance(model, fastmlp.DivergenceError)
            np.testing.assert_array_equal(model.parameters, one.parameters)
            assert (model.epoch, model.step, model.history) == (one.epoch, one.step, one.history)


def at(model, epoch, do):
    """A callback that does something after an epoch of a model."""
    return calling(on_epoch_end=lambda run: (run.model_index, run.epoch) == (model, epoch) and do(run))


def enough(run):
    run.stop("enough")  # which it would not do again in a training that goes on from here


def crash(run):
    raise ZeroDivisionError


def interrupt(run):
    signal.raise_signal(signal.SIGINT)
    while run.stop_reason is None:  # the main thread hears of it
        time.sleep(0.001)


@pytest.mark.parametrize("model", [1, 2, 4])  # 0 stops, 3 diverges
def test_a_call_goes_on_where_it_ended(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpointing, "KEEP_SECONDS", 0)  # after every chunk
    whole, path = call(), tmp_path / "call"
    with pytest.raises(ZeroDivisionError):
        call(callbacks=[at(model, 2, crash), Checkpoint(path)])
    goes_on = call(resume=path, callbacks=[Checkpoint(path)], seed=None)
    assert_all_same(goes_on, whole)
    assert_all_same(fastmlp.load(path), whole)
    assert_all_same(call(resume=path), whole)  # of which nothing is left to do


def test_a_model_that_ends_as_the_call_is_stopped_was_not_stopped_by_that(tmp_path):
    whole, path = call(seed=6), tmp_path / "call"  # early stopping lets that model come to its end
    with pytest.raises(InterruptedMany):
        call(callbacks=[at(4, EPOCHS[4], interrupt), Checkpoint(path)], seed=6)
    assert_same(fastmlp.load(path)[4], whole[4])
    assert_all_same(call(resume=path, seed=6), whole)


def test_a_finished_call_may_be_prolonged(tmp_path):
    path, options = tmp_path / "call", {"n_models": 3, "seed": 1, "backend": "fused"}
    fit_many(SMALL, X, Y, epochs=2, callbacks=[Checkpoint(path)], **options)
    longer = fit_many(SMALL, X, Y, epochs=4, resume=path, **options)
    assert_all_same(longer, fit_many(SMALL, X, Y, epochs=4, **options))


def test_ctrl_c_keeps_what_is_finished(tmp_path):
    path, whole = tmp_path / "call", call()
    with pytest.raises(InterruptedMany) as caught:
        call(callbacks=[at(2, 2, interrupt), Checkpoint(path, timedelta(hours=1))], threads=1)
    models = caught.value.models
    assert "of 5 trainings had begun" in str(caught.value)
    assert models[2].stop_reason == "interrupted by SIGINT"
    assert_all_same(fastmlp.load(path), models)
    assert_all_same(call(resume=path), whole)


def test_ctrl_c_keeps_a_single_model_and_a_second_one_does_not_wait(tmp_path):
    path, options = tmp_path / "one", {"n_models": 1, "seed": 1, "backend": "fused", "epochs": 4}
    whole = fit_many(SMALL, X, Y, **options)
    with pytest.raises(InterruptedMany) as caught:
        fit_many(SMALL, X, Y, callbacks=[at(0, 2, interrupt), Checkpoint(path)], **options)
    assert caught.value.models[0].stop_reason == "interrupted by SIGINT"
    assert_all_same(fastmlp.load(path), caught.value.models)
    assert_all_same(fit_many(SMALL, X, Y, resume=path, **options), whole)

    def twice(run):
        interrupt(run)
        interrupt(run)
        raise AssertionError("the second Ctrl-C was not heard")

    with pytest.raises(KeyboardInterrupt) as caught:
        fit_many(SMALL, X, Y, callbacks=[at(0, 2, twice)], **options)
    assert not isinstance(caught.value, InterruptedMany)


def test_a_file_of_another_call_is_refused(tmp_path):
    path = tmp_path / "call"
    options = {"n_models": 2, "seed": 1, "backend": "fused", "epochs": 2}
    fit_many(SMALL, X, Y, callbacks=[Checkpoint(path)], **options)
    with pytest.raises(CheckpointError, match="holds 2 models, and this call has 3"):
        fit_many(SMALL, X, Y, resume=path, **{**options, "n_models": 3})
    with pytest.raises(CheckpointError, match=r"^model 0: .*these differ: data"):
        fit_many(SMALL, X + 1, Y, resume=path, **options)
    fastmlp.save(fit_many(SMALL, X, Y, **options)[0], path)
    with pytest.raises(CheckpointError, match="holds one model, not a list"):
        fit_many(SMALL, X, Y, resume=path, **options)
    with pytest.raises(ValueError, match="one Checkpoint at most, got 2"):
        fit_many(SMALL, X, Y, callbacks=[Checkpoint(path), Checkpoint(path)], **options)
