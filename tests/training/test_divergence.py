"""A training whose numbers overflow ends in an error that says where, the same on every backend."""

import functools
import math
import pickle

import numpy as np
import pytest
from support.callbacks import calling
from support.problems import COMPILED_DTYPES, data_set
from support.selection import crossed, matrix, quick, some_backends

import fastmlp
from fastmlp import SGD, Adam, AdamW, Callback, DivergenceError, EarlyStopping, Network, RMSprop
from fastmlp.backend import registry

X, Y = data_set("diabetes", 50)

OVERFLOWS = {
    "sgd": (Network([10, 6, 1], hidden="tanh"), SGD(fastmlp.Exponential(0.5, 16.0), 0.9)),
    "relu, penalties": (Network([10, 6, 1], l2=0.01), SGD(30.0)),
    "adamw's decay": (Network([10, 1]), AdamW(1e8, weight_decay=0.01)),
    "rmsprop, dropout": (Network([10, 6, 1], dropout=0.3), RMSprop(fastmlp.Exponential(1.0, 625.0))),
    "one step of 10^200": (Network([10, 1]), SGD(1e200)),
    "exp": (Network([10, 1], output="exp", loss="poisson"), SGD(1e3)),
}


@matrix
def test_initial_arrays_that_can_be_read_once_diverge_as_lists_do():
    weights, biases = [np.ones((10, 6)), np.ones((6, 1))], [np.ones(6), np.ones(1)]
    given = OVERFLOWS["relu, penalties"]
    of_lists = diverge("reference", *given, initial=(weights, biases))
    once = diverge("reference", *given, initial=(iter(weights), iter(biases)))
    np.testing.assert_array_equal(once.parameters, of_lists.parameters)
    assert (once.step, once.history) == (of_lists.step, of_lists.history)


def diverge(backend, network, optimizer, **options):
    given = {"epochs": 100, "batch_size": 16, "seed": 1, "backend": backend, **options}
    with pytest.raises(DivergenceError) as caught:
        fastmlp.fit(network, X, np.abs(Y), optimizer=optimizer, **given)
    return caught.value


def only_until(chunks, step, backend, network, optimizer):
    """What a training has in hand after so many steps, looked at after each of them."""
    given, found = {"seed": 1, "backend": backend, "optimizer": optimizer}, {}
    looking = calling(on_chunk_end=lambda run: found.setdefault(run.step, run.parameters.copy()))
    chunks(steps=1)
    with pytest.raises(DivergenceError):
        fastmlp.fit(network, X, np.abs(Y), epochs=100, batch_size=16, callbacks=[looking], **given)
    found[0] = fastmlp.fit(network, X, np.abs(Y), epochs=0, **given).parameters
    return found[step]


@functools.cache
def oracle_of(name):
    """The error of the reference."""
    return diverge("reference", *OVERFLOWS[name])


@quick(1)
@crossed(backend=registry.backends(), name=list(OVERFLOWS))
def test_the_error_names_the_step_and_carries_what_was_finite_before_it(name, backend, chunks):
    network, optimizer = OVERFLOWS[name]
    ended = []
    noting = calling(on_train_end=lambda run: ended.append(run.step))
    error = diverge(backend, network, optimizer, callbacks=[noting])
    oracle = oracle_of(name)
    assert (error.epoch, error.step) == (oracle.epoch, oracle.step)
    assert str(error) == str(oracle)
    assert "\n" not in str(error)
    assert error.epoch == error.step // 4 == len(error.history["loss"])
    assert np.isfinite(error.history["loss"]).all()
    assert np.isfinite(error.parameters).all()
    np.testing.assert_array_equal(
        error.parameters, only_until(chunks, error.step, backend, network, optimizer)
    )
    assert len(ended) == 1


@some_backends
def test_where_chunks_end_changes_nothing(backend, chunks):
    network, optimizer = OVERFLOWS["sgd"]
    whole = diverge(backend, network, optimizer)
    for bound in (1, 2, 7):
        chunks(steps=bound)
        cut = diverge(backend, network, optimizer)
        assert (cut.step, cut.history) == (whole.step, whole.history)
        np.testing.assert_array_equal(cut.parameters, whole.parameters)


EXPLODES = fastmlp.Exponential(1.0, 1e3)
BEGINNINGS = {
    "drawn": lambda fit, **options: fit(optimizer=RMSprop(EXPLODES, momentum=0.5), **options),
    "given": lambda fit, **options: fit(
        optimizer=SGD(EXPLODES, 0.9), initial=fit(optimizer=SGD(1e-3), epochs=1), **options
    ),
    "an average": lambda fit, **options: fit(optimizer=Adam(EXPLODES), average=fastmlp.EMA(0.9), **options),
    "the same rule": lambda fit, **options: fit(optimizer=Adam(1e-3), epochs=2).fit_more(
        X, np.abs(Y), epochs=100, optimizer=Adam(EXPLODES), **options
    ),
    "another rule": lambda fit, **options: fit(optimizer=SGD(1e-3), epochs=2).fit_more(
        X, np.abs(Y), epochs=100, optimizer=SGD(EXPLODES, 0.9), **options
    ),
}


@pytest.mark.parametrize("begins", BEGINNINGS)
def test_a_first_chunk_that_nobody_sees_leaves_what_one_that_is_seen_leaves(begins):
    """Without callbacks its steps are taken on no copy, and the training begins again."""

    def fit(**options):
        given = {"epochs": 100, "batch_size": 16, "seed": 1, "backend": "fused", "progress": False}
        return fastmlp.fit(Network([10, 6, 1], "tanh"), X, np.abs(Y), **{**given, **options})

    errors = []
    for callbacks in ([], [Callback()]):
        with pytest.raises(DivergenceError) as caught:
            BEGINNINGS[begins](fit, callbacks=callbacks)
        errors.append(caught.value)
    unseen, seen = errors
    assert seen.step > 1
    assert (unseen.epoch, unseen.step, unseen.history) == (seen.epoch, seen.step, seen.history)
    np.testing.assert_array_equal(unseen.parameters, seen.parameters)


@some_backends
def test_dead_units_and_weights_whose_squares_overflow_do_not_count(backend):
    """0 * inf must not arise: neither in a relu that is off, nor in a penalty of weight 0."""
    network = Network([2, 3, 2])
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 2)).astype(np.float32), rng.standard_normal((9, 2)).astype(np.float32)
    with pytest.raises(DivergenceError) as caught:
        fastmlp.fit(
            network, x, y, optimizer=SGD(1.0), epochs=2, batch_size=2, shuffle=False, seed=21,
            sample_weight=np.arange(9), validation=(x, y), backend=backend,
        )  # fmt: skip
    assert caught.value.step == 10  # the reference once gave up after 8
    assert np.abs(caught.value.parameters).max() > 1e21


@some_backends
def test_a_parameter_that_overflows_in_the_last_step_with_a_finite_loss(backend):
    with pytest.raises(DivergenceError) as caught:
        fastmlp.fit(
            Network([10, 1]), X, 1e3 * Y, optimizer=SGD(1e308), epochs=1, batch_size=None, backend=backend
        )
    error = caught.value
    assert (error.epoch, error.step) == (0, 0)
    assert "epoch 1, after 0 updates" in str(error)


@some_backends
def test_an_infinite_weight_that_the_loss_does_not_show(backend):
    """A sigmoid of an infinite input is 1: the loss stays finite, the model would not be."""
    network = Network([1, 1, 1], hidden="sigmoid")
    initial = ([np.array([[1.7e308]]), np.ones((1, 1))], [np.zeros(1), np.zeros(1)])
    x, y = np.array([[1e-308], [-1e-308]]), np.array([5.0, 5.0])
    with pytest.raises(DivergenceError) as caught:
        fastmlp.fit(
            network, x, y, optimizer=AdamW(1e9, weight_decay=1e9), initial=initial, epochs=9, backend=backend
        )
    assert caught.value.step == 0
    assert caught.value.parameters[0] == 1.7e308


@some_backends
def test_a_validation_loss_that_overflows(backend):
    network = Network([1, 1], output="exp", loss="poisson")
    initial = ([np.ones((1, 1))], [np.zeros(1)])
    held = (np.array([[800.0]]), np.array([1.0]))
    with pytest.raises(DivergenceError) as caught:
        fastmlp.fit(
            network, [[0.1], [0.2]], [1.0, 1.0], optimizer=SGD(0.0), initial=initial, epochs=3,
            validation=held, backend=backend,
        )  # fmt: skip
    assert (caught.value.epoch, caught.value.step) == (1, 1)
    assert math.isfinite(caught.value.history["loss"][0])


def test_early_stopping_s_best_does_not_overwrite_what_the_error_carries(chunks):
    error = diverge("reference", *OVERFLOWS["sgd"], callbacks=[EarlyStopping(300)])
    finite = only_until(chunks, error.step, "reference", *OVERFLOWS["sgd"])
    np.testing.assert_array_equal(error.parameters, finite)


def test_the_error_travels_between_processes():
    error = diverge("reference", *OVERFLOWS["sgd"])
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    np.testing.assert_array_equal(copy.parameters, error.parameters)


@some_backends
@pytest.mark.parametrize("l1", [0.0, 1e-3])
def test_a_weight_whose_square_overflows_is_no_divergence(backend, l1):
    """A weight of 1e20 in float32, for an input of 1e-20: only an l2 penalty would square it."""
    initial = ([np.full((1, 1), 1e20)], [np.zeros(1)])
    model = fastmlp.fit(
        Network([1, 1], l1=l1), [[1e-20]], [0.0], optimizer=SGD(0.0), initial=initial, epochs=1,
        dtype="float32", backend=backend,
    )  # fmt: skip
    # The square of 1, and the penalty; a few roundings of each.
    assert model.history["loss"] == pytest.approx([1 + l1 * 1e20], rel=8 * float(np.finfo(np.float32).eps))


@some_backends
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_losses_whose_sum_overflows_are_no_divergence(backend, loss):
    """Of ten outputs each is near float32's greatest number, and their mean is finite."""
    y = np.full((8, 10), {"mse": 1.2e19, "mae": 1e38}[loss])
    model = fastmlp.fit(
        Network([1, 10], loss=loss), np.zeros((8, 1)), y, optimizer=SGD(0.0), epochs=1, dtype="float32",
        backend=backend,
    )  # fmt: skip
    assert model.history["loss"] == pytest.approx([{"mse": 1.44e38, "mae": 1e38}[loss]], rel=1e-5)


@crossed(backend=registry.backends(), scale=[1e-310, 1e-40, 1e30, -1e30], dtype=COMPILED_DTYPES)
def test_subnormal_and_huge_inputs_are_no_divergence(backend, scale, dtype):
    """Rows of one value each, that nothing cancels: the float64 reference's answer is the answer."""
    network = Network([2, 2], output="softmax", loss="cross_entropy")
    x = np.array([[1, 0], [0, 1], [0, 1]]) * scale
    initial = ([np.array([[1.0, -1], [-1, 1]])], [np.array([0.5, -0.5])])
    options = {"initial": initial, "epochs": 1, "optimizer": SGD(0.0), "shuffle": False}
    model, oracle = (
        fastmlp.fit(network, x, [0, 1, 0], backend=name, dtype=kind, **options)
        for name, kind in ((backend, dtype), ("reference", np.float64))
    )
    close = {"rtol": 8 * np.finfo(dtype).eps, "atol": 0}  # a sum of three terms, an exp and a log
    np.testing.assert_allclose(model.history["loss"], oracle.history["loss"], **close)
    np.testing.assert_allclose(model.predict(x), oracle.predict(x), **close)
    for optimizer in (Adam(), RMSprop()):  # whose second moments overflow in float32
        learnt = fastmlp.fit(
            network, x, [0, 1, 0], backend=backend, dtype=dtype, optimizer=optimizer, epochs=3
        )
        assert np.isfinite(learnt.parameters).all()
