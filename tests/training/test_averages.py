"""Averages of weights: what predictions and validation read, while steps go on from the weights."""

import numpy as np
import pytest
from support import naive
from support.callbacks import calling
from support.refusals import refusals
from support.resuming import StopAt, assert_same
from support.selection import some_backends

import fastmlp
from fastmlp import EMA, SGD, SWA, Adam, BatchNorm, Dense, Network, ScheduleFreeAdamW

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4))
Y = np.sin(X[:, :2])
NETWORK = Network([4, 5, 2], "tanh")
EPOCHS, PER_EPOCH = 6, 3
OPTIONS = {"seed": 0, "batch_size": 20}


def fit(backend="reference", network=NETWORK, epochs=EPOCHS, **options):
    return fastmlp.fit(network, X, Y, epochs=epochs, backend=backend, **OPTIONS, **options)


def trajectory(backend, optimizer, chunks):
    """The parameters after every step, as a callback sees them that has every step end a chunk."""
    found = []

    chunks(steps=1)
    noting = calling(on_chunk_end=lambda run: found.append(run.parameters.copy()))
    fit(backend, optimizer=optimizer, callbacks=[noting])
    assert len(found) == EPOCHS * PER_EPOCH
    return found


def ema(steps):
    mean = steps[0]
    for p in steps[1:]:
        mean = 0.8 * mean + 0.2 * p
    return mean


AVERAGES = {
    "ema": (EMA(0.8), ema),
    "swa": (SWA(0.5), lambda steps: np.mean(steps[len(steps) // 2 :], axis=0)),
}


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.05, amsgrad=True)], ids=["sgd", "amsgrad"])
@some_backends
def test_predictions_read_the_average_and_steps_do_not(backend, optimizer, name, chunks):
    average, expected = AVERAGES[name]
    plain, model = (fit(backend, optimizer=optimizer, average=one) for one in (None, average))
    assert model.history == plain.history
    # sums of 18 numbers of about 1
    np.testing.assert_allclose(
        model.parameters, expected(trajectory(backend, optimizer, chunks)), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("options", [{"average": EMA(0.8)}, {"optimizer": ScheduleFreeAdamW(0.05)}], ids=str)
def test_validation_callbacks_and_files_have_it(options, tmp_path):
    path, seen = tmp_path / "training.npz", []
    noting = calling(on_epoch_end=lambda run: seen.append(np.mean((run.predict(X[:10]) - Y[:10]) ** 2)))
    model = fit(validation=(X[:10], Y[:10]), callbacks=[noting, fastmlp.Checkpoint(path)], **options)
    np.testing.assert_allclose(model.history["validation_loss"], seen, rtol=1e-13)
    np.testing.assert_array_equal(fastmlp.load(path).parameters, model.parameters)


@some_backends
def test_an_average_from_a_share_of_the_steps_on_goes_on_to_the_bit(backend, tmp_path, chunks):
    """test_properties.py has the other averages, of which none goes by the number of epochs to come."""
    path, whole = tmp_path / "training.npz", fit(backend, average=SWA(0.2))
    chunks(steps=1)
    stopped = fit(backend, callbacks=[StopAt(4 * PER_EPOCH), fastmlp.Checkpoint(path)], average=SWA(0.2))
    assert_same(fit(backend, resume=path, average=SWA(0.2)), whole)
    assert_same(stopped.fit_more(X, Y, epochs=2), whole)


def test_another_rate_keeps_the_average():
    begun = fit(epochs=2, average=EMA(0.8), optimizer=Adam(0.05))
    more = begun.fit_more(X, Y, epochs=2, optimizer=Adam(0.0))
    # Steps stand still, and the average goes on towards them.
    assert not np.array_equal(more.parameters, begun.parameters)
    with pytest.raises(ValueError, match="average does not go with SparseAdam, which moves some rows only"):
        begun.fit_more(X, Y, epochs=2, optimizer=fastmlp.SparseAdam(0.05))


def test_frozen_layers_and_running_means_stay_what_they_are():
    layers = [Dense(6, name="first"), BatchNorm(), "relu", Dense(2)]
    network, frozen = Network(inputs=4, layers=layers), Adam(0.05, groups={"first": fastmlp.Group(rate=0)})
    plain, model = (fit(network=network, optimizer=frozen, average=one) for one in (None, EMA(0.8)))
    assert model.history == plain.history
    for layer, name in (("first", "weights"), ("batch_norm1", "mean"), ("batch_norm1", "variance")):
        np.testing.assert_array_equal(model.layers[layer][name], plain.layers[layer][name])
    assert not np.array_equal(model.layers["batch_norm1"]["gain"], plain.layers["batch_norm1"]["gain"])


def test_the_best_epoch_has_it():
    stopping = fastmlp.EarlyStopping(patience=2)
    model = fit(epochs=40, validation=(X[:10], -Y[:10]), callbacks=[stopping], average=EMA(0.8))
    best = np.mean((model.predict(X[:10]) + Y[:10]) ** 2)
    assert best == pytest.approx(min(model.history["validation_loss"]), rel=1e-12)


def test_a_stepper_predicts_with_the_mean_of_a_schedule_free_training(tmp_path):
    options = {"dtype": "float64", "backend": "reference"}
    stepper = fastmlp.Stepper(NETWORK, ScheduleFreeAdamW(0.05), seed=0, **options)
    start, oracle = stepper.parameters.copy(), naive.ScheduleFree()
    y = start
    for _ in range(7):
        stepper.forward(X)
        stepper.backward(np.ones((60, 2)) / 60, inputs=False)
        y = oracle.step(y, stepper.gradients.copy(), 0.05)
        stepper.update()
    np.testing.assert_allclose(stepper.parameters, y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(stepper.model().parameters, oracle.x, rtol=0, atol=1e-13)
    stepper.save(tmp_path / "stepper.npz")
    np.testing.assert_array_equal(
        fastmlp.load(tmp_path / "stepper.npz").parameters, stepper.model().parameters
    )
    other = fastmlp.Stepper(NETWORK, ScheduleFreeAdamW(0.05), seed=1, **options)
    other.load(tmp_path / "stepper.npz")
    assert other.step(X, Y) == stepper.step(X, Y)
    np.testing.assert_array_equal(other.parameters, stepper.parameters)


test_mistakes_are_said_in_one_line = refusals([
    (lambda: EMA(1.0), "decay must"),
    (lambda: SWA(-0.1), "start must"),
    (lambda: fit(average=0.9), "average must be an EMA or a SWA"),
    (lambda: fit(average=EMA(), optimizer=ScheduleFreeAdamW()), "which reads an average already"),
    (lambda: fit(average=EMA(), optimizer=fastmlp.SparseAdam()), "which moves some rows only"),
    (lambda: fastmlp.fit(NETWORK, lambda: iter([(X, Y)] * 2), window=60, average=SWA()), "blocks do not"),
    (lambda: ScheduleFreeAdamW(fastmlp.Cosine(0.1, length=3)), "takes a number for learning_rate"),
])  # fmt: skip
