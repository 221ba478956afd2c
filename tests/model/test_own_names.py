"""What a user's pieces are known by: in memory, in files, in other processes, and in compiled programs."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.base import clone
from support.compilations import AfterOneStep, compilations
from support.custom_pieces import ONE_HOT, Lion, X, Y, focal, hard, mish, quantiles, sine, smoothed, train

import fastmlp
from fastmlp import Activation, CheckpointError, Loss, Network, Rule


def predictions(*hidden):
    network = Network([5, *[4] * len(hidden), 1], hidden)
    return fastmlp.fit(network, X, Y[:, 0], epochs=1, seed=0, backend="baseline", progress=False).predict(X)


def test_two_pieces_of_one_name_are_two():
    first, second = Activation("one", np.tanh), Activation("one", np.sin)
    assert first != second
    assert first == Activation("one", lambda z: np.tanh(z))
    np.testing.assert_allclose(predictions(first, second), predictions("tanh", second), rtol=1e-12)
    assert not np.allclose(predictions(first, second), predictions(second, first))


@pytest.mark.parametrize("piece", [mish, sine, focal, quantiles, smoothed, Lion], ids=repr)
def test_copies_are_equal(piece):
    for other in (pickle.loads(pickle.dumps(piece)), copy.deepcopy(piece)):
        assert other == piece
        assert hash(other) == hash(piece)
        assert other.digest == piece.digest


def test_estimators_are_cloned_and_pickled():
    estimator = fastmlp.MLPClassifier((4,), mish, loss=focal, tol=0.1, random_state=0, backend="baseline")
    estimator.fit(X, ONE_HOT[:, 0])
    again = clone(estimator)
    assert (again.activation, again.loss) == (mish, focal)
    restored = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(restored.predict_proba(X), estimator.predict_proba(X))


def compiled_by_training(network, optimizer):
    with compilations() as names:
        model = fastmlp.fit(
            network, X, Y, optimizer=optimizer, epochs=1, seed=0, backend="baseline", progress=False
        )
    return names, model.parameters


@pytest.mark.slow  # two processes, 5 s
def test_another_process_compiles_nothing():
    given = Network([5, 4, 3], mish, loss=quantiles), Lion(0.01)
    _, expected = compiled_by_training(*given)
    made = Parallel(n_jobs=2)(delayed(compiled_by_training)(*given) for _ in range(2))
    for names, parameters in made:
        assert names == []
        np.testing.assert_array_equal(parameters, expected)


@pytest.mark.parametrize("backend", ["fused", "specialized"])
def test_other_parameters_and_constants_compile_nothing(backend):
    def fit(parameter, beta1, default):
        loss = Loss("own_huber", huber_loss, parameter=parameter)
        rule = Rule("lion", lion_step, moments=1, constants={"beta1": 0.9, "beta2": default})
        network = Network([5, 6, 3], hard, loss=loss)
        return fastmlp.fit(
            network,
            X,
            Y,
            optimizer=rule(0.01, beta1=beta1),
            epochs=1,
            seed=0,
            backend=backend,
            progress=False,
        )

    before = fit(0.7, 0.9, 0.99)
    with compilations() as names:
        after = fit(0.1, 0.5, 0.9)
    assert names == []
    reference = before.network.loss, after.network.loss
    assert reference[0] != reference[1]
    assert not np.allclose(before.parameters, after.parameters)


def huber_loss(output, target, d):
    error = abs(output - target)
    return np.where(error < d, 0.5 * error**2, d * (error - d / 2))


def lion_step(p, g, moments, rate, c, t):
    (m,) = moments
    return p - rate * np.sign(c.beta1 * m + (1 - c.beta1) * g), c.beta2 * m + (1 - c.beta2) * g


def test_files_ask_for_their_pieces(tmp_path):
    path = tmp_path / "model.npz"
    model = train("mish, sine, focal", "reference")
    fastmlp.save(model, path)
    loaded = fastmlp.load(path, pieces=[focal, sine, mish, hard])
    assert loaded.network == model.network
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    for given, says in (
        ([], "was trained with 'mish', a piece of your own: give it in pieces"),
        ([mish, sine, Loss("focal", huber_loss, "sigmoid", parameter=1.0)], "another 'focal' than is given"),
    ):
        with pytest.raises(CheckpointError, match=says) as caught:
            fastmlp.load(path, pieces=given)
        assert "\n" not in str(caught.value)


def test_two_pieces_of_one_name_are_distinguished_in_a_file(tmp_path):
    first, second = Activation("one", np.tanh), Activation("one", np.sin)
    network = Network([5, 4, 4, 3], [first, second])
    fastmlp.save(
        fastmlp.fit(network, X, Y, epochs=1, backend="reference", progress=False), tmp_path / "model"
    )
    assert fastmlp.load(tmp_path / "model", pieces=[second, first]).network == network


@pytest.mark.parametrize("name", ["selu", "mish", "hardswish"])
def test_a_name_that_came_later_is_still_free(tmp_path, name):
    own = Activation(name, lambda z: 0.5 * z)
    network = Network([5, 4, 4, 3], [own, name])
    model = fastmlp.fit(network, X, Y, epochs=1, backend="reference", progress=False)
    fastmlp.save(model, tmp_path / "model")
    for loaded in (fastmlp.load(tmp_path / "model", pieces=[own]), pickle.loads(pickle.dumps(model))):
        assert loaded.network.hidden == (own, name)
        np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


@pytest.mark.parametrize("given", [mish, 3, [np.tanh], ["mish"]])
def test_pieces_for_a_file_are_pieces(tmp_path, given):
    with pytest.raises(TypeError, match=r"^(every one of )?pieces must be "):
        fastmlp.load(tmp_path / "model", pieces=given)


def test_a_loss_with_another_parameter_is_another(tmp_path):
    path = tmp_path / "model.npz"
    fastmlp.save(train("quantiles, own Adam, clipped", "reference"), path)
    other = Loss(
        "quantiles", lambda o, t, q: np.maximum((1 - q) * (o - t), q * (t - o)), parameter=[0.2, 0.5, 0.8]
    )
    with pytest.raises(CheckpointError, match="another 'quantiles'"):
        fastmlp.load(path, pieces=[mish, other])


@pytest.mark.parametrize("name", ["mish, sine, focal", "quantiles, own Adam, clipped"])
def test_a_training_continues_bit_for_bit(tmp_path, chunks, name):
    chunks(steps=1)
    path = tmp_path / "training"
    train(name, "reference", callbacks=[fastmlp.Checkpoint(path, 99), AfterOneStep()])
    resumed = train(name, "reference", resume=path, callbacks=[fastmlp.Checkpoint(path, 99)])
    np.testing.assert_array_equal(resumed.parameters, train(name, "reference").parameters)
    with pytest.raises(CheckpointError, match="these differ: optimizer"):
        train(name, "reference", resume=path, optimizer=Lion(1.0), callbacks=[fastmlp.Checkpoint(path, 99)])
