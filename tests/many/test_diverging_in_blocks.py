"""Models that diverge in a block: the error of `fit` alone, and the others go on in fewer vectors."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from support.lane_networks import ALONE, X, Y, network
from support.resuming import assert_same
from support.selection import matrix

from fastmlp import EMA, SGD, Adam, DivergenceError, InterruptedMany, Model, fit, fit_many
from fastmlp.kernels.lanes.training import LaneBlocks
from fastmlp.kernels.small.eligible import lanes_of
from fastmlp.many import blocks, trainings
from fastmlp.system import notices


def assert_same_divergence(one, alone):
    assert isinstance(one, DivergenceError)
    np.testing.assert_array_equal(one.parameters, alone.parameters)
    assert (one.epoch, one.step, one.history) == (alone.epoch, alone.step, alone.history)
    assert str(one) == str(alone)


@pytest.fixture
def vectors(monkeypatch, cut_blocks):
    """How many vectors the networks of a block fill in each chunk, which is a step or a few."""
    found, take = [], LaneBlocks.take

    def counted(self, *given):
        found.append(self.vectors_of(len(self.finite)))
        return take(self, *given)

    monkeypatch.setattr(LaneBlocks, "take", counted)
    cut_blocks(steps=4)
    return found


@pytest.mark.parametrize(
    ("batch_size", "shuffle", "optimizer", "average"),
    [
        (16, True, Adam, None),
        pytest.param(16, False, SGD, None, marks=matrix),
        pytest.param(None, True, Adam, None, marks=matrix),
        (16, True, SGD, EMA(0.9)),
    ],
)
@pytest.mark.usefixtures("together")
def test_lanes_of_models_that_diverge_are_freed(vectors, batch_size, shuffle, optimizer, average):
    """In every order: of the first models, of the last, of some between, and at last of all."""
    lanes = lanes_of(np.dtype("f8"))
    count = 4 * lanes - 1
    ends = [[3, 9, 5, 99, 99][place * 7 % 5] for place in range(count)]
    ends[: lanes + 1] = [2] * (lanes + 1)

    def rates(end):
        return optimizer(lambda epoch: 0.01 if epoch < end else 1e300)

    kinds = {end: rates(end) for end in {*ends}}
    own = [X + place % 2 for place in range(count)]
    options = {"epochs": 14, "batch_size": batch_size, "shuffle": shuffle, "average": average, **ALONE}
    given = {"optimizer": [kinds[end] for end in ends], "seed": 3, "threads": 1}
    models = fit_many([network(i) for i in range(count)], own, Y, **given, **options)
    assert vectors[0] == 4
    assert vectors == sorted(vectors, reverse=True)
    finite = sum(isinstance(model, Model) for model in models)
    assert 0 < finite < count
    fewest = -(-finite // lanes)
    assert fewest <= vectors[-1] < 4
    assert vectors[-1] == fewest or fewest > blocks.FREED_FRACTION * vectors[-1]
    for i, (model, end) in enumerate(zip(models, ends, strict=True)):
        if i > lanes + 1 and i % 3:
            continue
        alone = {"optimizer": kinds[end], "seed": 3 + i, **options}
        if end == 99:
            assert_same(model, one := fit(network(i), own[i], Y, **alone))
            assert_same(model.fit_more(own[i], Y, epochs=2), one.fit_more(own[i], Y, epochs=2))
            continue
        with pytest.raises(DivergenceError) as raised:
            fit(network(i), own[i], Y, **alone)
        assert_same_divergence(model, raised.value)


@pytest.mark.parametrize("shuffle", [True, False])
def test_models_of_a_block_that_all_diverge_within_an_epoch_train_once(
    together, monkeypatch, cut_blocks, shuffle
):
    def alone(*_):
        raise AssertionError("a model of the block was trained by itself, too")

    monkeypatch.setattr(trainings, "LaneTraining", alone)
    cut_blocks(seconds=0.0)  # a chunk is a step
    options = {"optimizer": Adam(1e300), "epochs": 2, "batch_size": 4, "shuffle": shuffle, "seed": 0}
    models = fit_many(network(1), X, Y, n_models=3, **options, **ALONE)
    assert [type(model) for model in models] == [DivergenceError] * 3
    assert together == [3]


def test_a_block_of_which_all_diverge_ends_at_once(vectors, together):
    optimizer = Adam(lambda epoch: 0.01 if epoch < 2 else 1e300)
    models = fit_many(
        network(1), X, Y, n_models=3, optimizer=optimizer, epochs=90, batch_size=None, seed=0, **ALONE
    )
    assert [model.epoch for model in models] == [3, 3, 3]
    assert (len(vectors), together) == (1, [3])


def assert_those_that_diverge_leave_the_rest_alone(optimizers, y, batch_size):
    options = {"epochs": 1, "batch_size": batch_size, **ALONE}
    models = fit_many(network(1), X, y, optimizer=optimizers, seed=3, **options)
    for i, optimizer in enumerate(optimizers):
        given = {"optimizer": optimizer, "seed": 3 + i, **options}
        if optimizer.learning_rate < 1:
            assert_same(models[i], fit(network(1), X, y, **given))
            continue
        with pytest.raises(DivergenceError) as alone:
            fit(network(1), X, y, **given)
        np.testing.assert_array_equal(models[i].parameters, alone.value.parameters)
        assert (models[i].step, models[i].history) == (alone.value.step, alone.value.history)


def test_those_of_a_block_that_diverge_leave_the_rest_alone(together):
    assert_those_that_diverge_leave_the_rest_alone([*map(Adam, (1e300, 1e-3, 1e-2, 1e250))], Y, 16)
    assert together == [4]  # no training of their own


def test_models_of_a_block_that_fails_train_alone_one_after_another(together, monkeypatch):
    def full(*_):
        raise MemoryError

    handlers = []
    monkeypatch.setattr(notices.Bar, "move", lambda *_: handlers.append(signal.getsignal(signal.SIGINT)))
    monkeypatch.setattr(blocks, "Training", full)
    assert_those_that_diverge_leave_the_rest_alone([*map(Adam, (1e300, 1e-3, 1e-2, 1e250))], Y, 16)
    assert together[0] == 4
    assert handlers == handlers[:1] * 4, "a training that has ended would hear of Ctrl-C"


@pytest.mark.usefixtures("together")
def test_ctrl_c_while_the_step_of_one_that_diverged_is_looked_for_keeps_the_models(monkeypatch):
    begun = blocks.Training

    def interrupted(*given):
        signal.raise_signal(signal.SIGINT)
        return begun(*given)

    monkeypatch.setattr(blocks, "Training", interrupted)
    optimizers = [*map(Adam, (1e-3, 1e300, 1e-2))]
    options = {"epochs": 1, "batch_size": 16, "seed": 3, **ALONE}
    with pytest.raises(KeyboardInterrupt) as caught:
        fit_many(network(1), X, Y, optimizer=optimizers, **options)
    assert isinstance(caught.value, InterruptedMany)
    assert [type(one) for one in caught.value.models] == [Model, DivergenceError, Model]


@pytest.mark.slow
def test_parameters_that_do_not_fit_after_the_last_step_are_a_divergence(together):
    assert_those_that_diverge_leave_the_rest_alone([*map(SGD, (1e-7, 1e306))], 1e4 * Y, None)
    assert together[0] == 2
