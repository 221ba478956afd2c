"""`fit_many`: each model has the bits of `fit` alone, and what goes wrong stays where it is."""

import contextlib
import ctypes
import functools
import gc
import signal
import threading
import tracemalloc
import weakref
from inspect import signature

import numpy as np
import pytest
from scipy import sparse
from support.callbacks import calling
from support.problems import data_set
from support.resuming import assert_same
from support.selection import campaign, matrix, quick

import fastmlp
from fastmlp import SGD, Adam, Callback, Dense, DivergenceError, Network, Numbers, fit, fit_many, predict_many
from fastmlp.fitting import USUAL
from fastmlp.kernels.jit.engine import _SIGNATURE, each, table_of
from fastmlp.kernels.lanes.training import HUGE_PAGE, new_objectives
from fastmlp.many import predicting
from fastmlp.model.layout import parameter_count

X, Y = data_set("diabetes", 60)
LABELS = (np.median(Y) < Y).astype(int)
SMALL, HUGE = Network([10, 4, 1], hidden="tanh"), Network([10, 2000, 2000, 1])
SHAPES = (SMALL, Network([10, 6, 1], dropout=0.3), Network([10, 5, 3, 1], l2=0.01), SMALL)
OPTIMIZERS = (
    SGD(0.05, 0.9),
    Adam(fastmlp.Cosine(0.01, 5)),
    fastmlp.RMSprop(0.01),
    fastmlp.AdamW(0.02, clip_norm=1.0),
)

fit_many_fused = functools.partial(fit_many, backend="fused")
fit_fused = functools.partial(fit, backend="fused")


def some_rows(models, most=40, seed=0):
    """Places of rows for each model, drawn with repeats, of unlike numbers."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, len(X), most - model) for model in range(models)]


def assert_all_same(models, alone):
    assert len(models) == len(alone)
    for model, one in zip(models, alone, strict=True):
        assert_same(model, one)
        assert model.parameters.dtype == one.parameters.dtype
        assert model.network == one.network


@pytest.mark.parametrize("threads", [1, 3])
def test_each_model_has_the_bits_of_fit_alone(threads):
    rows, weights = some_rows(4), 1.0 + np.arange(60) % 3
    epochs, stopping = [3, 5, 2, 4], fastmlp.EarlyStopping(2)
    models = fit_many_fused(
        list(SHAPES), X, Y, optimizer=list(OPTIMIZERS), epochs=epochs, rows=rows, sample_weight=weights,
        batch_size=[7, 16, None, 8], shuffle=[True, False, True, True], seed=5, validation=0.25,
        average=[None, fastmlp.EMA(), None, None], callbacks=[stopping], threads=threads, metrics=["r2"],
    )  # fmt: skip
    alone = [
        fit_fused(
            SHAPES[i], X[rows[i]], Y[rows[i]], optimizer=OPTIMIZERS[i], epochs=epochs[i],
            sample_weight=weights[rows[i]], batch_size=[7, 16, None, 8][i], shuffle=i != 1, seed=5 + i,
            validation=0.25, average=fastmlp.EMA() if i == 1 else None, metrics=["r2"],
            callbacks=[fastmlp.EarlyStopping(2)],
        )
        for i in range(4)
    ]  # fmt: skip
    assert_all_same(models, alone)
    assert not hasattr(stopping, "best")  # each model has a copy
    more = models[1].fit_more(X[rows[1]], Y[rows[1]], epochs=2)
    assert_same(more, alone[1].fit_more(X[rows[1]], Y[rows[1]], epochs=2))


def test_models_may_have_data_of_their_own():
    rng = np.random.default_rng(1)
    own = [rng.standard_normal((count, 10)) for count in (3, 17, 64)]
    own[1] = own[1].astype(np.float32)
    targets = [x[:, :1] - x[:, 1:2] for x in own]
    initial = fit_fused(SMALL, X, Y, epochs=1, seed=9)
    models = fit_many_fused(SMALL, own, targets, epochs=3, seed=[4, 4, 7], initial=[None, None, initial])
    alone = [
        fit_fused(SMALL, x, y, epochs=3, seed=seed, initial=begun)
        for x, y, seed, begun in zip(own, targets, (4, 4, 7), (None, None, initial), strict=True)
    ]
    assert_all_same(models, alone)
    assert [model.parameters.dtype for model in models] == [np.float64, np.float32, np.float64]


def test_rows_are_those_of_sparse_inputs_and_of_heads():
    rows, dense = some_rows(2), np.where(X > 0, X, 0)
    models = fit_many_fused(SMALL, sparse.csr_array(dense), Y, rows=rows, epochs=2, seed=0)
    alone = [
        fit_fused(SMALL, sparse.csr_array(dense[some]), Y[some], epochs=2, seed=i)
        for i, some in enumerate(rows)
    ]
    assert_all_same(models, alone)
    heads = {"size": fastmlp.Head(1), "group": fastmlp.Head(2, output="softmax", loss="cross_entropy")}
    both = Network(inputs=10, layers=[Dense(4)], heads=heads)
    models = fit_many_fused(both, X, {"size": Y, "group": LABELS}, rows=rows, epochs=2, seed=0)
    alone = [
        fit_fused(both, X[some], {"size": Y[some], "group": LABELS[some]}, epochs=2, seed=i)
        for i, some in enumerate(rows)
    ]
    assert_all_same(models, alone)
    outputs = predict_many(models, X)
    assert outputs["group"].shape == (2, 60, 2)
    assert (outputs["size"][1] == models[1].predict(X)["size"]).all()


FORMS_OF_X = {
    "a list of blocks": lambda *blocks: [*blocks],
    "plain lists": lambda *blocks: [block.tolist() for block in blocks],
    "a tuple of them": lambda *blocks: blocks,
    "an array for each model": lambda *blocks: [np.hstack(blocks)] * 2,
    "blocks for each model": lambda *blocks: [[*blocks], blocks],
}


@quick(1)
@pytest.mark.parametrize("given", FORMS_OF_X)
def test_a_list_of_blocks_is_one_x(given):
    numbers, codes = X[:, :2], LABELS.reshape(-1, 1)
    network = Network(inputs=[Numbers(2), fastmlp.Categories([2], 2)], layers=[Dense(4), Dense(1)])
    rows = some_rows(2)
    models = fit_many_fused(network, FORMS_OF_X[given](numbers, codes), Y, rows=rows, epochs=2, seed=0)
    alone = [
        fit_fused(network, [numbers[some], codes[some]], Y[some], epochs=2, seed=i)
        for i, some in enumerate(rows)
    ]
    assert_all_same(models, alone)


def test_a_block_of_wrong_columns_is_named_as_fit_does():
    network = Network(inputs=[Numbers(2), fastmlp.Categories([2], 2)], layers=[Dense(4), Dense(1)])
    with pytest.raises(ValueError, match=r"^model 0: X\[0\] must have shape \(rows, 2\), got \(60, 3\)$"):
        fit_many(network, [X[:, :3], LABELS], Y, n_models=3)


def test_one_class_in_a_fold_is_no_mistake():
    network = Network([10, 4, 2], output="softmax", loss="cross_entropy")
    folds = [np.flatnonzero(LABELS == 1), np.arange(60)]
    models = fit_many_fused(network, X, LABELS, rows=folds, epochs=2, seed=0)
    assert_same(models[0], fit_fused(network, X[folds[0]], LABELS[folds[0]], epochs=2, seed=0))


def test_trainings_that_stop_in_every_order():
    noting = calling(
        on_epoch_end=lambda run: run.epoch > run.model_index * 7 % 5 and run.stop(f"{run.model_index}")
    )
    models = fit_many_fused(SMALL, X, Y, n_models=12, epochs=9, seed=0, callbacks=[noting], threads=3)
    assert [len(model.history["loss"]) for model in models] == [1 + i * 7 % 5 for i in range(12)]
    assert [model.stop_reason for model in models] == [f"{i}" for i in range(12)]


def test_a_single_model_trains_in_the_thread_of_its_call():
    threads = []
    noting = calling(on_epoch_end=lambda run: threads.append(threading.current_thread()))
    models = fit_many_fused(SMALL, X, Y, n_models=1, epochs=2, seed=3, callbacks=[noting])
    assert_all_same(models, [fit_fused(SMALL, X, Y, epochs=2, seed=3)])
    assert threads == [threading.current_thread()] * 2


def test_no_models_are_an_empty_list():
    assert fit_many(SMALL, X, Y, n_models=0) == []
    assert fit_many([], X, Y, seed=3) == []


def test_the_options_have_the_values_of_fit_where_none_is_given():
    rows, of_fit = ("network", "X", "y", "communicator"), signature(fit).parameters
    usual = {name: one.default for name, one in of_fit.items() if name not in rows}
    assert {"fit": None, **usual} == USUAL
    of_many = signature(fit_many).parameters
    assert {*of_many} == {*of_fit, "networks", "n_models", "rows"} - {"network", "window"}
    assert all(of_many[name].default == value for name, value in usual.items() if name != "window")


class Seen(Callback):
    """Notes which models begin, beyond the copies that the models have."""

    begun: list[int] = []  # noqa: RUF012  # shared by all copies

    def __init__(self):
        self.mine = []

    def on_train_begin(self, run):
        self.begun.append(run.model_index)
        self.mine.append(run.model_index)
        assert self.mine == [run.model_index]


MISTAKES = {
    "an empty fold": ({"rows": [[0, 1], []]}, ValueError, r"model 1: rows must .* at least one row"),
    "rows beyond X": ({"rows": [[0, 60]]}, ValueError, r"model 0: rows must be indices in \[0, 60\), got 60"),
    "rows that are a mask": ({"rows": [[0], [True]]}, TypeError, "model 1: rows must hold whole numbers"),
    "a wrong y": ({"y": [Y, Y[:3]]}, ValueError, r"model 1: y must have shape"),
    "a wrong y of rows": ({"y": [Y, Y[:3]], "rows": [9, 9, 9]}, ValueError, r"rows has 3"),
    "no number": ({"X": [X, np.full_like(X, np.nan)]}, ValueError, "model 1: X must be finite"),
    "no network": ({"networks": [SMALL, 3]}, TypeError, "model 1: network must be a Network, got 3"),
    "a seed": ({"seed": [1, -1]}, ValueError, r"seed\[1\] must be at least 0"),
    "an epoch": ({"epochs": [1, -1]}, ValueError, "model 1: epochs must be at least 0"),
    "lists of two lengths": ({"seed": [1], "epochs": [1, 2]}, ValueError, "epochs has 2, seed has 1"),
    "no number of models": ({}, ValueError, "give n_models, or a list"),
    "blocks": ({"X": iter([]), "n_models": 1}, TypeError, "X must be an array"),
    "MPI": ({"n_models": 2, "communicator": object()}, ValueError, "fit_many trains in one process"),
    "no threads": ({"n_models": 2, "threads": 0}, ValueError, "threads must be at least 1"),
    "a lock": ({"n_models": 2, "callbacks": [Seen()]}, TypeError, "which cannot be copied"),
    "one model, rows of text": (
        {"X": X.astype(str).astype(object), "n_models": 1},
        TypeError, "^X must hold real numbers, got dtype obj",
    ),
    "one model, texts to learn": (
        {"y": Y.astype(str), "n_models": 1}, TypeError, "^y must hold real numbers, got dtype <U",
    ),
    "one model, a list for two": ({"n_models": 1, "seed": [1, 2]}, ValueError, "n_models is 1, seed has 2"),
    "one model, a wrong y": ({"n_models": 1, "y": Y[:3]}, ValueError, "model 0: y must have shape"),
    "one model, an epoch": ({"n_models": 1, "epochs": -1}, ValueError, "model 0: epochs must be at least 0"),
    "a wrong seed": ({"n_models": 1, "seed": -1}, ValueError, "^seed must be at least 0, got -1"),
    "no seed": ({"n_models": 1, "seed": [None]}, TypeError, r"seed\[0\] must be a whole number, got None"),
    "not a number of models": ({"n_models": True}, TypeError, "n_models must be a whole number, got True"),
    "iterators": (
        {"n_models": 1, "initial": map(iter, [[np.ones((10, 5)), np.ones((4, 1))], [np.ones(4), Y[:1]]])},
        ValueError, r"initial weights\[0\] must have shape \(10, 4\), got \(10, 5\)",
    ),
    "one block": (
        {"networks": Network(inputs=[Numbers(10)], layers=[Dense(1)]), "X": [X]},
        ValueError, "give n_models, or a list with one for each model",
    ),
    "not a callback": ({"n_models": 1, "callbacks": None}, TypeError, "callbacks must be a list of Callback"),
    "no memory": ({"n_models": 2**20, "networks": HUGE}, ValueError, r"1048576 models take \d+,\d{3} GiB"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_anything_is_trained(mistake):
    given, error, words = MISTAKES[mistake]
    seen = Seen()
    if mistake == "a lock":
        given["callbacks"][0].lock = threading.Lock()
    options = {"networks": SMALL, "X": X, "y": Y, "callbacks": [seen], **given}
    Seen.begun.clear()
    with pytest.raises(error, match=words) as caught:
        fit_many(options.pop("networks"), options.pop("X"), options.pop("y"), **options)
    assert "\n" not in str(caught.value)
    assert not Seen.begun


def test_one_bar_shows_all_models(capsys):
    fit_many_fused(SMALL, X, Y, n_models=3, epochs=1, progress=True)
    shown = capsys.readouterr().err
    assert shown.startswith("\rtraining:   0%|")
    assert "/3.00 [" in shown
    assert "epoch" not in shown


def test_what_cannot_predict_is_refused_by_its_place():
    models = fit_many_fused(SMALL, X, Y, optimizer=[SGD(0.01), SGD(1e200)], epochs=3, seed=0)
    with pytest.raises(TypeError, match=r"models\[1\] must be a Model, got DivergenceError\(in epoch 1"):
        predict_many(models, X)
    with pytest.raises(ValueError, match=r"models\[1\] has 9 inputs and 1 outputs, and models\[0\] has 10"):
        predict_many([models[0], fit_fused(Network([9, 1]), X[:, 1:], Y, epochs=0)], X)
    for none in ([], models[0]):
        with pytest.raises(TypeError, match="models must be a list of Model, at least one"):
            predict_many(none, X)


def test_a_list_of_models_is_one_file(tmp_path):
    models = fit_many_fused(
        list(SHAPES),
        X,
        Y,
        optimizer=[*OPTIMIZERS[:3], SGD(1e200)],
        epochs=3,
        seed=0,
        dtype=[None, "f4", None, None],
    )
    fastmlp.save(models, tmp_path / "many")
    loaded = fastmlp.load(tmp_path / "many")
    assert_all_same(loaded[:3], models[:3])
    np.testing.assert_array_equal(loaded[3].parameters, models[3].parameters)
    assert (loaded[3].step, loaded[3].history) == (models[3].step, models[3].history)
    fastmlp.save([], tmp_path / "none")
    assert fastmlp.load(tmp_path / "none") == []
    with pytest.raises(TypeError, match=r"model\[1\] must be a Model or a DivergenceError, got 3"):
        fastmlp.save([models[0], 3], tmp_path / "many")
    with pytest.raises(fastmlp.CheckpointError, match="holds models without their trainings"):
        fit_many(SMALL, X, Y, n_models=4, resume=tmp_path / "many")
    with pytest.raises(fastmlp.CheckpointError, match="it holds a list of models"):
        fit(SMALL, X, Y, resume=tmp_path / "many")


@pytest.mark.slow
def test_a_mix_of_forty_shapes_of_many_models():
    rng = np.random.default_rng(3)
    shapes = [
        Network([10, *rng.integers(2, 20, 1 + i % 2), 1], hidden=("tanh", "relu")[i % 2]) for i in range(40)
    ]
    rows = some_rows(500, most=540)
    rates = [SGD(1e200 if i == 250 else 0.01) for i in range(500)]
    models = fit_many(
        [shapes[i % 40] for i in range(500)], X, Y, rows=rows, optimizer=rates, epochs=3, seed=0
    )
    assert isinstance(models[250], DivergenceError)
    for i in range(0, 500, 9):
        assert_same(
            models[i], fit(shapes[i % 40], X[rows[i]], Y[rows[i]], optimizer=rates[i], epochs=3, seed=i)
        )


@pytest.mark.parametrize(
    "count", [pytest.param(1_000, marks=pytest.mark.slow), pytest.param(10_000, marks=campaign)]
)
def test_thousands_of_models(count):
    models = fit_many_fused(SMALL, X, Y, n_models=count, epochs=2, seed=0)
    for i in (0, 1, count // 2, count - 1):
        assert_same(models[i], fit_fused(SMALL, X, Y, epochs=2, seed=i))
    assert predict_many(models, X[:2]).shape == (count, 2, 1)


# --- predictions in one call of machine code --------------------------------------------------------------


NETWORKS = [
    Network([10, 4, 1], hidden="tanh"),
    Network([10, 70, 1], dropout=0.3),
    Network(inputs=10, layers=[Dense(5), fastmlp.LayerNorm(), Dense(1)]),
]


def models(backends, dtypes):
    return [
        fit(network, X, Y, epochs=1, seed=0, backend=backend, dtype=dtype, progress=False)
        for network in NETWORKS
        for backend in backends
        for dtype in dtypes
    ]


def assert_as_each_does(some, rows):
    outputs = predict_many(some, rows)
    assert outputs.shape == (len(some), rows.shape[0], 1)
    for model, output in zip(some, outputs, strict=True):
        np.testing.assert_array_equal(output, model.predict(rows))


@matrix
def test_models_of_every_backend_and_dtype_predict_as_each_does(monkeypatch):
    monkeypatch.setattr(predicting, "THREAD_FLOPS", 1.0)  # on as many threads as there are cores
    some = models(["reference", "fused"], ["f4", "f8"])
    assert_as_each_does(some, np.tile(X, (30, 1)))  # more rows than are predicted at a time
    assert_as_each_does(some[:1], X[:1])


def test_sparse_rows_are_predicted_as_each_does():
    assert_as_each_does(models(["fused"], ["f8"])[:2], sparse.csr_array(np.where(X > 0, X, 0)))


def test_parameters_of_another_network_are_refused():
    some = models(["fused"], ["f8"])
    some[1].parameters = some[0].parameters
    with pytest.raises(ValueError, match="parameters must be a C-contiguous float64 array of shape"):
        predict_many(some, X)


def test_each_worker_runs_its_calls_up_to_the_first_error():
    ran = []
    error = ZeroDivisionError("in call 7")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(error))  # whoever returns it gives it away

    def run(call, worker, workers):
        ran.append((call, worker, workers))
        return id(error) if call == 7 else None

    function = _SIGNATURE(run)
    address = ctypes.cast(function, ctypes.c_void_p).value
    table = table_of([address] * 8, np.arange(1, 9))
    each()(table.ctypes.data, 1, 3)
    assert ran == [(2, 0, 1), (5, 0, 1), (8, 0, 1)]
    ran.clear()
    with pytest.raises(ZeroDivisionError, match="in call 7"):
        each()(table.ctypes.data, 0, 2)
    assert [call for call, *_ in ran] == [1, 3, 5, 7]


# --- one model, trained as by fit in the thread of its call -----------------------------------------------


OPTIONS = {"epochs": 3, "batch_size": 16, "backend": "fused", "progress": False}

PLAIN = {
    "a number of models": {"n_models": 1, "seed": 3},
    "a list of networks": {"networks": [SMALL], "seed": 3},
    "a list of rows": {"X": [X], "y": [Y], "seed": [3]},
    "lists of options": {
        "n_models": 1, "optimizer": [SGD(fastmlp.Cosine(0.1, 3), 0.9)], "epochs": [2], "seed": 3,
    },
    "validation": {"n_models": 1, "validation": 0.25, "seed": 3, "dtype": np.float32},
    "blank lists": {"n_models": 1, "callbacks": [], "metrics": [], "seed": 3, "threads": 2},
}  # fmt: skip
"""Arguments of one model that are those of `fit`, or lists of one."""

OTHERS = {
    "callbacks": {"callbacks": [Callback()]},
    "rows": {"rows": np.arange(40)},
    "metrics": {"metrics": ["r2"], "validation": 0.25},
    "sparse rows": {"X": sparse.csr_array(X)},
    "a bar": {"progress": True},
}
"""Arguments of one model that `fit_many` reads by itself."""


def trained(given):
    given = {"networks": SMALL, "X": X, "y": Y, **OPTIONS, **given}
    return fit_many(given.pop("networks"), given.pop("X"), given.pop("y"), **given)


@pytest.mark.parametrize("given", PLAIN)
def test_plain_arguments_are_those_of_fit(given):
    options = PLAIN[given]
    [model] = trained(options)
    own = {name: value[0] if isinstance(value, list) and value else value for name, value in options.items()}
    for name in ("networks", "X", "y", "n_models"):
        own.pop(name, None)
    alone = fit(SMALL, X, Y, **{**OPTIONS, **own})
    assert_same(model, alone)
    assert (model.backend, model.threads) == (alone.backend, alone.threads)
    assert_same(model.fit_more(X, Y, epochs=2), alone.fit_more(X, Y, epochs=2))


@pytest.mark.parametrize("given", OTHERS)
def test_others_train_as_by_fit(given):
    options = {"seed": 3, **OTHERS[given]}
    [model] = trained({"n_models": 1, **options})
    rows = options.pop("rows", slice(None))
    assert_same(model, fit(SMALL, options.pop("X", X)[rows], Y[rows], **{**OPTIONS, **options}))


def test_what_raises_while_it_is_read_is_read_once():
    def weights():
        yield np.ones((10, 4))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        trained({"n_models": 1, "initial": (weights(), [np.ones(4), np.ones(1)])})


def test_one_that_diverges_leaves_its_error():
    [error] = trained({"n_models": 1, "optimizer": SGD(1e200), "seed": 3})
    with pytest.raises(DivergenceError) as alone:
        fit(SMALL, X, Y, optimizer=SGD(1e200), seed=3, **OPTIONS)
    assert isinstance(error, DivergenceError)
    np.testing.assert_array_equal(error.parameters, alone.value.parameters)
    assert (error.step, error.history, error.__traceback__) == (alone.value.step, alone.value.history, None)


def at_epoch(number, do):
    """Return a schedule of a user's that does something once the training is under way."""

    def rate(epoch):
        if epoch == number:
            do()
        return 0.01

    return rate


def test_an_error_under_way_names_the_model_and_trains_once():
    calls = []

    def fail():
        calls.append(1)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        trained({"n_models": 1, "optimizer": Adam(at_epoch(1, fail))})
    assert caught.value.__notes__ == ["in the training of model 0"]
    assert calls == [1]


def test_ctrl_c_keeps_a_divergence():
    rate = at_epoch(1, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(fastmlp.InterruptedMany) as caught:
        trained({"n_models": 1, "optimizer": Adam(lambda epoch: 1e300 + rate(epoch)), "seed": 3})
    [model] = caught.value.models
    assert isinstance(model, DivergenceError)


def test_ctrl_c_leaves_no_cycle_that_holds_the_rows():
    x, rate = X.copy(), at_epoch(1, lambda: signal.raise_signal(signal.SIGINT))
    watched = weakref.ref(x)
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(fastmlp.InterruptedMany):
            trained({"X": x, "n_models": 1, "optimizer": Adam(rate)})
        del x
        assert watched() is None
    finally:
        gc.enable()


# --- what a model takes: parameters, moments and some objects of Python's ---------------------------------


NETWORK = Network([10, 4, 1], hidden="tanh")
MODELS = 192

OBJECTS = {"a block": 1_900, "each looked into": 8_000}
"""Bytes of Python's for a model, at most, beside 8 for each epoch."""
EPOCHS = 20


@matrix
@pytest.mark.parametrize("way", OBJECTS)
def test_a_model_takes_its_parameters_and_moments_and_little_else(way, lane_programs):
    lane_programs(is_worth=lambda *_: True)
    options = {"epochs": EPOCHS, "batch_size": 16, "backend": "fused", "progress": False, "seed": 0}
    callbacks = [] if way == "a block" else [Callback()]
    fit_many(NETWORK, X, Y, n_models=MODELS, callbacks=callbacks, **options)  # loads all that it calls
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        models = fit_many(NETWORK, X, Y, n_models=MODELS, callbacks=callbacks, **options)
        gc.collect()
        taken = (tracemalloc.get_traced_memory()[0] - before) / MODELS
    finally:
        tracemalloc.stop()
    numbers = (3 * parameter_count(NETWORK) + EPOCHS) * 8
    assert numbers < taken < numbers + OBJECTS[way]
    assert np.isfinite(models[-1].parameters).all()


@pytest.mark.parametrize(("steps", "models"), [(1, 8), (1000, 16), (1000, 256), (1100, 256), (4000, 256)])
def test_losses_lie_on_huge_pages_where_these_take_little_more(steps, models):
    losses = new_objectives(steps, models)
    losses[...] = np.arange(models)
    assert losses.flags.c_contiguous
    taken = -(-losses.nbytes // HUGE_PAGE) * HUGE_PAGE
    if taken <= 1.5 * losses.nbytes:
        assert losses.__array_interface__["data"][0] % HUGE_PAGE == 0
    else:
        assert losses.base is None
    assert (losses.shape, losses.sum()) == ((steps, models), steps * models * (models - 1) / 2)
