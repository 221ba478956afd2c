"""Small networks of a call that take their steps together: the bits of `fit` alone, whoever ends when."""

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest
from support.callbacks import calling
from support.custom_components import gated
from support.noted import noted
from support.problems import data_set
from support.resuming import assert_same
from support.selection import matrix, quick

import fastmlp
from fastmlp import SGD, Adam, Callback, Cosine, DivergenceError, EarlyStopping, Model, Network, fit, fit_many
from fastmlp.backend import lanes
from fastmlp.kernels.jit import engine
from fastmlp.kernels.lanes.training import LaneBlocks
from fastmlp.kernels.small.layouts import lanes_of
from fastmlp.many import blocks, preparing, trainings
from fastmlp.many import lanes as many_lanes
from fastmlp.system import notices

X, Y = data_set("diabetes", 48)
ALONE = {"backend": "fused", "progress": False}


def network(number):
    return Network([10, 4, 1], hidden="tanh", l2=0.01 * (1 + number), dropout=0.1 * (1 + number % 3))


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["a block", "each looked into"])
def test_models_that_begin_and_end_at_other_times_have_the_bits_of_fit_alone(together, callbacks):
    given = [
        {"epochs": 2 + 5 * i % 3, "seed": 40 + i, "optimizer": Adam(0.002 * (1 + i)), "batch_size": 16}
        for i in range(19)
    ]
    lists = {name: [one[name] for one in given] for name in ("epochs", "seed", "optimizer")}
    networks = [network(i) for i in range(19)]
    options = {"batch_size": 16, "threads": 1, "callbacks": callbacks}
    models = fit_many(networks, X, Y, **lists, **options, **ALONE)
    for own, one, model in zip(networks, given, models, strict=True):
        assert_same(model, fit(own, X, Y, **one, **ALONE))
    assert sum(together) == 19 if not callbacks else sum(together) > 19
    assert max(together) == (7 if not callbacks else lanes_of(np.dtype("f8")))


@pytest.mark.parametrize("shuffle", [True, False])
def test_models_whose_rates_differ_are_prepared_once_and_have_the_bits_of_fit(together, monkeypatch, shuffle):
    prepared = noted(monkeypatch, preparing, "prepare")
    rates = [0.001, 0.02, Cosine(0.01, 4), lambda epochs: 0.01 / (1 + epochs), 0.02]
    rules = [Adam(rate) for rate in rates] + [SGD(0.01, 0.9), SGD(0.03, 0.9), "adam"]
    networks = [Network([10, 4, 1], hidden="tanh") for _ in rules]
    options = {"epochs": 4, "batch_size": 16, "shuffle": shuffle, **ALONE}
    models = fit_many(networks, X, Y, optimizer=rules, seed=7, threads=1, **options)
    assert len(prepared) == 2, "one of Adam, one of SGD"
    assert sum(together) == len(rules)
    for place, (rule, model) in enumerate(zip(rules, models, strict=True)):
        alone = fit(networks[0], X, Y, optimizer=rule, seed=7 + place, **options)
        assert_same(model, alone)
        assert_same(model.fit_more(X, Y, epochs=2), alone.fit_more(X, Y, epochs=2))


@matrix
@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": fastmlp.ScheduleFreeAdamW(0.02, warmup=3)},
        {"optimizer": SGD(0.02, 0.9), "average": fastmlp.EMA(0.9)},
        {"optimizer": Adam(0.02), "average": fastmlp.SWA(0.4), "callbacks": [Callback()]},
    ],
    ids=["a block, schedule-free", "a block, ema", "each looked into, swa"],
)
def test_averages_of_weights_have_the_bits_of_fit_alone(together, options):
    epochs = [2, 3, 5] if "callbacks" in options else [5, 5, 5]
    given = {**options, "batch_size": 16, **ALONE}
    models = fit_many(network(1), X, Y, epochs=epochs, seed=3, threads=1, **given)
    for i, model in enumerate(models):
        alone = fit(network(1), X, Y, epochs=epochs[i], seed=3 + i, **given)
        assert_same(model, alone)
        further = [one.fit_more(X, Y, epochs=2) for one in (model, alone)]
        assert_same(*further)
    assert together


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("kinds", [1, 3])
def test_a_block_may_have_more_models_than_a_vector_has_lanes(together, kinds, shuffle):
    count = 2 * lanes_of(np.dtype("f8")) + 3
    rates = [Adam(Cosine(0.01 * (1 + i), 3)) for i in range(kinds)]
    each = [(X + i % kinds, rates[i % kinds]) for i in range(count)]
    rows, optimizers = map(list, zip(*each, strict=True))
    options = {"epochs": 3, "batch_size": 16, "shuffle": shuffle, **ALONE}
    models = fit_many(network(1), rows, Y, optimizer=optimizers, seed=3, threads=1, **options)
    for i in range(0, count, 3):
        assert_same(models[i], fit(network(1), rows[i], Y, optimizer=optimizers[i], seed=3 + i, **options))
    assert together == [count]


def test_models_of_a_block_go_on_and_are_kept_as_those_of_fit(together):
    rng = np.random.default_rng(0)
    own = [rng.standard_normal((rows, 10)) for rows in (40, 48, 40, 40)]
    targets = [x[:, 0] - x[:, 1] for x in own]
    begun = fit(network(0), *(part[:40] for part in (own[1], targets[1])), epochs=1, seed=9, **ALONE)
    options = {"optimizer": Adam(Cosine(0.1, 6)), "epochs": 3, "batch_size": 16, **ALONE}
    initial = [None, None, begun, None]
    models = fit_many(network(1), own, targets, seed=[7, 1, 2, 2**70], initial=initial, **options)
    for i, seed in ((0, 7), (2, 2), (3, 2**70)):
        alone = fit(network(1), own[i], targets[i], seed=seed, initial=initial[i], **options)
        assert_same(models[i], alone)
        assert (models[i].backend, models[i].threads) == (alone.backend, alone.threads)
        further = alone.fit_more(own[i], targets[i], epochs=2)
        for one in (models[i], pickle.loads(pickle.dumps(models[i])), copy.deepcopy(models[i])):
            assert_same(one.fit_more(own[i], targets[i], epochs=2), further)
        models[i].history["loss"].clear()  # which is its own
        assert_same(models[i].fit_more(own[i], targets[i], epochs=2), further)
    assert together == [3]


@matrix
def test_layers_of_a_users_own_go_together_whatever_they_begin_with(together):
    networks = [
        Network(
            inputs=10,
            layers=[fastmlp.Dense(4), snake_from(1.0 + i), gated, fastmlp.Dense(1)],
            l2=0.1 * (1 + i),
        )
        for i in range(3)
    ]
    options = {"epochs": 2, "batch_size": 16, **ALONE}
    models = fit_many(networks, X, Y, seed=3, threads=1, **options)
    for i, (own, model) in enumerate(zip(networks, models, strict=True)):
        assert_same(model, fit(own, X, Y, seed=3 + i, **options))
    assert sum(together) == 3


def snake_from(first):
    def function(z, frequency):
        return z + np.sin(frequency * z) ** 2 / frequency

    return fastmlp.Layer("snake", function, parameters={"frequency": ("units", first)})


def test_one_that_diverges_and_others_that_stop_leave_the_rest_alone(together):
    rates = [1e-3] * 5 + [1e300] + [0.1, 0.01] * 4
    optimizers = [Adam(rate) for rate in rates]
    stopping = EarlyStopping(patience=1)
    options = {"epochs": 12, "batch_size": 16, "validation": 0.25, **ALONE}
    models = fit_many(network(1), X, Y, optimizer=optimizers, seed=3, callbacks=[stopping], **options)
    assert isinstance(models[5], DivergenceError)
    with pytest.raises(DivergenceError) as alone:
        fit(network(1), X, Y, optimizer=optimizers[5], seed=8, callbacks=[EarlyStopping(1)], **options)
    np.testing.assert_array_equal(models[5].parameters, alone.value.parameters)
    stopped = 0
    for i in {*range(len(rates))} - {5}:
        one = fit(
            network(1), X, Y, optimizer=optimizers[i], seed=3 + i, callbacks=[EarlyStopping(1)], **options
        )
        assert_same(models[i], one)
        stopped += models[i].stop_reason is not None
    assert stopped
    assert together


@pytest.mark.parametrize("weight", [2.0, 0.25])
def test_equal_weights_in_a_block_are_scaled_as_those_of_fit(together, weight):
    options = {"sample_weight": np.full(len(X), weight), "epochs": 2, "batch_size": 16, **ALONE}
    models = fit_many(network(1), X, Y, n_models=3, seed=3, **options)
    assert together == [3]
    for i, model in enumerate(models):
        assert_same(model, fit(network(1), X, Y, seed=3 + i, **options))


@pytest.mark.parametrize("worth", [1e-6, 1e6], ids=["long blocks", "short ones"])
def test_short_blocks_train_in_the_thread_of_their_call(together, monkeypatch, take_steps, worth):
    found, lanes = [], lanes_of(np.dtype("f8"))
    take_steps(lambda self, take, steps: found.append(threading.current_thread()) or take(self, steps))
    monkeypatch.setattr(many_lanes, "SECONDS_OF_A_THREAD", worth)
    monkeypatch.setattr(many_lanes, "MOST", lanes)
    fit_many(network(1), X, Y, n_models=2 * lanes, seed=3, epochs=2, batch_size=16, threads=2, **ALONE)
    assert (threading.current_thread() in found) == (worth > 1)
    assert together == [lanes] * 2


@pytest.mark.parametrize("shuffle", [True, False])
def test_ctrl_c_keeps_what_a_block_has_come_to(together, take_steps, cut_blocks, shuffle):
    def interrupted(self, take, steps):
        take(self, steps)
        signal.raise_signal(signal.SIGINT)
        while self.stop_reason is None:  # the main thread hears of it
            time.sleep(0.001)

    cut_blocks(seconds=0.0)  # a chunk is a step
    take_steps(interrupted)
    options = {"epochs": 4, "batch_size": 16, "shuffle": shuffle, "threads": 1, **ALONE}
    with pytest.raises(fastmlp.InterruptedMany) as caught:
        fit_many(network(1), X, Y, n_models=3, seed=3, **options)
    model, whole = caught.value.models[1], fit(network(1), X, Y, seed=4, **options)
    assert model.stop_reason == "interrupted by SIGINT"
    assert (model.history["loss"], together) == ([], [3])  # in the middle of the first epoch
    assert_same(model.fit_more(X, Y, epochs=4), whole)


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["a block", "each looked into"])
def test_another_number_of_models_compiles_nothing(together, callbacks):
    options = {"batch_size": 16, "epochs": 2, "callbacks": callbacks, "threads": 1, **ALONE}
    fit_many(network(0), X, Y, n_models=2, optimizer=Adam(), **options)
    known = len(engine.compiled)
    for models in (3, 9):
        rates = [Adam(0.001 * (1 + i)) for i in range(models)]
        fit_many([network(i) for i in range(models)], X, Y, optimizer=rates, **options)
    assert len(engine.compiled) == known
    assert sum(together) >= 13


def test_few_short_trainings_compile_nothing(lane_programs):
    def compiled(*_):
        raise AssertionError("a program was compiled for two short trainings")

    lane_programs(blocks_of=compiled, is_ready=False)
    fit_many(network(0), X, Y, n_models=2, epochs=1, **ALONE)


@matrix
def test_a_program_is_compiled_once_trainings_have_lost_its_price(lane_programs):
    """Also where no call saves it by itself."""
    other, taken = Network([10, 7, 1], hidden="tanh"), []
    train = lanes.blocks_of
    lane_programs(
        about_seconds_of_a_network=lambda: 1e-9, available_cores=lambda: 1, is_ready=False,
        saved_by=lambda *_: 1e-12, blocks_of=lambda *given: taken.append(given) or train(*given),
    )  # fmt: skip
    fit_many(other, X, Y, n_models=2, epochs=1, **ALONE)
    assert not taken
    fit_many(other, X, Y, n_models=2, epochs=1, **ALONE)
    assert taken


def test_a_program_that_costs_time_is_neither_taken_nor_compiled(lane_programs):
    def taken(*_):
        raise AssertionError("a slower program was taken, because it was on the disk")

    lane_programs(about_seconds_of_a_network=lambda: 1e-9, lane_seconds=lambda *_: 1.0)
    lane_programs(blocks_of=taken)
    for is_ready in (True, False):
        lane_programs(is_ready=is_ready)
        for callbacks in ([], [Callback()]):
            fit_many(network(0), X, Y, n_models=2, epochs=1, callbacks=callbacks, **ALONE)


def test_models_that_would_go_no_faster_together_go_one_after_another(lane_programs):
    seen = []

    lane_programs(lane_seconds=lambda *_: 1.0)
    noting = calling(on_epoch_end=lambda run: seen.append(run.model_index))
    fit_many(network(0), X, Y, n_models=3, epochs=2, threads=1, callbacks=[noting], **ALONE)
    assert seen == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
def test_a_thread_compiles_what_trainings_find():
    odd = Network([10, 9, 1], hidden="tanh")
    program = lanes.program_of("fused", odd, Adam(), 48, 16, np.dtype("f8"))
    program.compile()
    assert program.is_ready
    known = len(engine.compiled)
    models = fit_many(odd, X, Y, n_models=5, seed=0, epochs=1, batch_size=16, **ALONE)
    assert len(engine.compiled) == known
    assert_same(models[4], fit(odd, X, Y, seed=4, epochs=1, batch_size=16, **ALONE))


# --- models that diverge in a block -----------------------------------------------------------------------


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


@quick(1)
@pytest.mark.parametrize(
    ("batch_size", "shuffle", "optimizer", "average"),
    [
        (16, True, Adam, None),
        pytest.param(16, False, SGD, None, marks=matrix),
        pytest.param(None, True, Adam, None, marks=matrix),
        (16, True, SGD, fastmlp.EMA(0.9)),
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


@quick(1)
@pytest.mark.parametrize("shuffle", [True, False])
def test_models_of_a_block_that_all_diverge_within_an_epoch_train_once(
    together, monkeypatch, cut_blocks, shuffle
):
    def alone(*_):
        raise AssertionError("a model of the block was trained by itself, too")

    monkeypatch.setattr(trainings, "LaneTraining", alone)
    cut_blocks(seconds=0.0)  # a chunk is a step
    options = {"optimizer": Adam(1e300), "epochs": 2, "batch_size": 16, "shuffle": shuffle, "seed": 0}
    models = fit_many(network(1), X, Y, n_models=3, **options, **ALONE)
    assert [type(model) for model in models] == [DivergenceError] * 3
    assert together == [3]


@matrix
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
    monkeypatch.setattr(blocks, "initial_state", full)
    assert_those_that_diverge_leave_the_rest_alone([*map(Adam, (1e300, 1e-3, 1e-2, 1e250))], Y, 16)
    assert together[0] == 4
    assert handlers == handlers[:1] * 4, "a training that has ended would hear of Ctrl-C"


@pytest.mark.usefixtures("together")
def test_ctrl_c_while_the_step_of_one_that_diverged_is_looked_for_keeps_the_models(monkeypatch):
    begun = blocks.initial_state

    def interrupted(*given):
        signal.raise_signal(signal.SIGINT)
        return begun(*given)

    monkeypatch.setattr(blocks, "initial_state", interrupted)
    optimizers = [*map(Adam, (1e-3, 1e300, 1e-2))]
    options = {"epochs": 1, "batch_size": 16, "seed": 3, **ALONE}
    with pytest.raises(KeyboardInterrupt) as caught:
        fit_many(network(1), X, Y, optimizer=optimizers, **options)
    assert isinstance(caught.value, fastmlp.InterruptedMany)
    assert [type(one) for one in caught.value.models] == [Model, DivergenceError, Model]


@pytest.mark.slow
def test_parameters_that_do_not_fit_after_the_last_step_are_a_divergence(together):
    assert_those_that_diverge_leave_the_rest_alone([*map(SGD, (1e-7, 1e306))], 1e4 * Y, None)
    assert together[0] == 2
