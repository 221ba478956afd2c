"""What holds of every training: however it is cut, and whoever calls the loop, its bits are those of `fit`.

Each network, source, optimiser, option and backend is in some of the cases;
each property is tried on all cases.
"""

import contextlib
import itertools
import pickle
import signal
import weakref
from datetime import timedelta

import numpy as np
import pytest
import scipy.sparse
from support.callbacks import calling
from support.resuming import StopAt, assert_same
from support.selection import few, quick

import fastmlp
from fastmlp import EMA, SGD, Callback, Checkpoint, Cosine, Dense, EarlyStopping, Head, Network, Numbers

ROWS, BATCH, EPOCHS = 49, 16, 4  # the last row joins the batch before where a batch norm needs two
STEPS = -(-ROWS // BATCH)
RNG = np.random.default_rng(5)
X = RNG.integers(-8, 8, (ROWS, 6)) / 8.0
Y = np.sin(X.sum(axis=1, keepdims=True))
GAPS = np.where(RNG.random((ROWS, 1)) < 0.2, np.nan, Y)
LABELS = RNG.integers(0, 3, ROWS)
CODES = RNG.integers(-1, 5, (ROWS, 2))
WEIGHTS = 1.0 + np.arange(ROWS) % 3

NETWORKS = {
    "plain": Network([6, 7, 1], hidden="tanh"),
    "dropped": Network(
        inputs=6, layers=[Dense(8, "relu"), fastmlp.LayerNorm(), fastmlp.Dropout(0.3), Dense(1)]
    ),
    "batches": Network(
        inputs=6, layers=[Dense(5), fastmlp.BatchNorm(), fastmlp.Residual(Dense(5, "silu")), Dense(1)]
    ),
    "codes": Network(inputs=[Numbers(4), fastmlp.Categories([5, 5])], layers=[Dense(6, "relu"), Dense(1)]),
    "heads": Network(
        inputs=[Numbers(4), Numbers(2)],
        layers=[Dense(8, "relu")],
        heads={"value": Head(1, missing=True), "kind": Head(3, loss="cross_entropy")},
    ),
}
RULES = {
    "sgd": SGD(Cosine(0.05, 6), 0.9, True, bias_learning_rate=0.01, clip_norm=0.5),
    "adam": fastmlp.Adam(0.05),
    "adamw": fastmlp.AdamW(Cosine(0.01, 3 * STEPS * EPOCHS, unit="step"), weight_decay=0.1, clip_norm=1.0),
    "rmsprop": fastmlp.RMSprop(fastmlp.Warmup(fastmlp.StepDecay(0.01, 2), 5, unit="step"), momentum=0.5),
    "free": fastmlp.ScheduleFreeAdamW(0.05, warmup=4),
}


def source(network, kind="array", rows=slice(None)):
    """The inputs and targets of some rows, as `fit` takes them."""
    second = {"codes": CODES, "heads": X[:, 4:]}.get(network)
    inputs = X[rows] if second is None else [X[rows, :4], second[rows]]
    targets = {"value": GAPS[rows], "kind": LABELS[rows]} if network == "heads" else Y[rows]
    if kind == "sparse":
        return scipy.sparse.csr_array(inputs), targets
    if kind == "parts":
        return [source(network, "array", slice(*cut)) for cut in ((0, 9), (9, 40), (40, ROWS))], None
    return inputs, targets


MEASURED = {"validation": source("heads"), "metrics": {"kind": ["accuracy"]}}

CASES = {
    "plain": ("plain", "array", "sgd", {}),
    "an average, in parts": ("plain", "parts", "adamw", {"average": EMA(0.9)}),
    "all rows to a step": ("plain", "array", "rmsprop", {"batch_size": None}),
    "in order": ("plain", "array", "free", {"shuffle": False}),
    "early stopping": ("plain", "array", "adam", {"validation": source("plain"), "sample_weight": WEIGHTS}),
    "sparse": ("dropped", "sparse", "adamw", {}),
    "dropout": ("dropped", "array", "rmsprop", {"average": EMA(0.8)}),
    "batch norms": ("batches", "array", "adamw", {"accumulate": 2}),
    "batch norms in parts": ("batches", "parts", "sgd", {}),
    "codes": ("codes", "array", "adamw", {}),
    "codes in parts": ("codes", "parts", "rmsprop", {"accumulate": 2}),
    "heads, mixed": ("heads", "array", "sgd", {"mixup": 0.3}),
    "heads in parts, measured": ("heads", "parts", "adamw", MEASURED),
}
every_case = pytest.mark.parametrize("case", CASES)
every_backend = pytest.mark.parametrize("backend", [*few(("reference", "fused")), *few(("specialized",))])


@pytest.fixture
def training(case, backend):
    """training(**options) are the arguments of `fit`; of rows in parts, windows of 20 or of a step."""
    network, kind, rule, own = CASES[case]

    def arguments(callbacks=(), **options):
        window = {"window": max(20, BATCH * own.get("accumulate", 1))} if kind == "parts" else {}
        common = {"optimizer": RULES[rule], "epochs": EPOCHS, "batch_size": BATCH, "seed": 3, "threads": 1}
        given = {**common, **window, "backend": backend, **own, **options}
        return (NETWORKS[network], *source(network, kind)), {
            **given,
            "callbacks": [*stopping(case), *callbacks],
        }

    return arguments


def stopping(case):
    """A callback that has a state, where there is validation."""
    return [EarlyStopping(99)] if "validation" in CASES[case][3] else []


@pytest.fixture
def more(case):
    """more(model, epochs) is the model that goes on, with what `fit_more` does not keep."""
    network, kind, _, own = CASES[case]
    given = {name: own[name] for name in ("validation", "sample_weight") if name in own}

    def go_on(model, epochs):
        rows = source(network, kind)
        return model.fit_more(*rows, epochs=epochs, callbacks=stopping(case), progress=False, **given)

    return go_on


def fit(training, **options):
    given, named = training(**options)
    return fastmlp.fit(*given, **named)


@quick(5)
@every_backend
@every_case
def test_more_epochs_are_those_of_a_longer_training(training, more):
    whole = fit(training)
    for first in (0, 1, EPOCHS - 1):
        begun = fit(training, epochs=first)
        before = begun.parameters.copy(), {name: [*values] for name, values in begun.history.items()}
        for model in (begun, begun, pickle.loads(pickle.dumps(begun))):
            assert_same(more(model, EPOCHS - first), whole)
        np.testing.assert_array_equal(begun.parameters, before[0])
        assert begun.history == before[1]


def noting(seen):
    """A callback that notes the rows that were visited before each step at a chunk's end."""
    return calling(on_chunk_end=lambda run: seen.update({run.step: run.rows_seen}))


@quick(3)
@every_backend
@every_case
def test_stopping_at_any_chunk_and_going_on_is_not_stopping(training, more, chunks, tmp_path):
    whole, seen = fit(training), {}
    chunks(steps=1)
    assert_same(fit(training, callbacks=[noting(seen)]), whole)
    per_epoch = len(seen) // EPOCHS
    for step in range(1, len(seen), 2):
        path, again = tmp_path / str(step), {}
        stopped = fit(training, callbacks=[StopAt(step), Checkpoint(path)])
        assert_same(fit(training, callbacks=[noting(again)], resume=path), whole)
        later = per_epoch * (step // per_epoch + 1)  # of blocks an epoch's rows may not be known before
        assert {pair for pair in again.items() if pair[0] > later} <= seen.items()
        assert_same(more(stopped, EPOCHS - len(stopped.history["loss"])), whole)


@quick(12)
@every_backend
@every_case
def test_a_loop_of_one_s_own_is_fit(training):
    given, named = training()
    whole, seen = fit(training), []
    for run in fastmlp.iter_fit(*given, **named):
        seen.append(run.epoch)
    assert seen == [1, 2, 3, 4]
    assert_same(run.model(), whole)


@quick(5)
@every_backend
@every_case
def test_a_loop_that_is_left_goes_on(training, more, chunks):
    chunks(steps=1)
    whole = fit(training)
    for most in (1, STEPS, STEPS + 2):
        given, named = training()
        for run in fastmlp.iter_fit(*given, every=timedelta(microseconds=1), **named):
            within = run.model()
            if run.step == most:
                break
        for model in (within, run.model()):
            assert_same(more(model, EPOCHS - run.epoch), whole)


@quick(8)
@every_backend
@every_case
def test_a_rate_that_a_loop_has_changed_stays_changed(training, more, tmp_path):
    models = []
    for left_at in (EPOCHS, 2):
        given, named = training(callbacks=[Checkpoint(tmp_path / "c")])
        for run in fastmlp.iter_fit(*given, **named):
            if run.epoch == 1:
                run.rate_factor = 0.25
            if run.epoch == left_at:
                break
        models.append(run.model())
    whole, half = models
    assert_same(more(half, EPOCHS - 2), whole)
    assert_same(fit(training, resume=tmp_path / "c"), whole)
    assert (whole.parameters != fit(training).parameters).any()


IN_PARTS = [
    name for name, (_, kind, _, own) in CASES.items() if kind == "array" and "sample_weight" not in own
]
IN_PARTS.remove("all rows to a step")  # which blocks do not give


@quick(6)
@every_backend
@pytest.mark.parametrize("case", IN_PARTS)
def test_parts_cut_anywhere_are_the_array(training, case):
    parts, _ = source(CASES[case][0], "parts")
    for options in ({"shuffle": False, "window": 32}, {"shuffle": False, "window": 40}, {"window": ROWS}):
        (network, x, y), named = training(**options)
        of_parts = fastmlp.fit(network, parts, **named)
        del named["window"]
        assert_same(of_parts, fastmlp.fit(network, x, y, **named))


@quick(6)
@every_backend
@pytest.mark.parametrize("case", [name for name, case in CASES.items() if case[1] != "parts"])
def test_many_models_are_a_loop_of_fit(training):
    given, named = training(seed=[3, 4, 5])
    for seed, model in zip((3, 4, 5), fastmlp.fit_many(*given, n_models=3, **named), strict=True):
        assert_same(model, fit(training, seed=seed))


@quick(12)
@every_backend
@every_case
def test_threads_change_nothing(training):
    assert_same(fit(training, threads=2), fit(training))


@pytest.mark.parametrize("network", ["plain", "dropped", "batches"])
@pytest.mark.parametrize("rule", [SGD(0.05, 0.9), fastmlp.RMSprop(0.01)], ids=["sgd", "rmsprop"])
@every_backend
def test_a_stepper_over_the_rows_that_fit_visits_is_fit(network, rule, backend):
    options = {"seed": 3, "backend": backend, "threads": 1}
    model = fastmlp.fit(
        NETWORKS[network], X, Y, optimizer=rule, epochs=EPOCHS, batch_size=BATCH, shuffle=False, **options
    )
    stepper = fastmlp.Stepper(NETWORKS[network], rule, dtype="float64", most_rows=BATCH + 1, **options)
    bounds = [0, 16, 32, ROWS] if network == "batches" else [0, 16, 32, 48, ROWS]
    for start, stop in [*itertools.pairwise(bounds)] * EPOCHS:
        stepper.step(X[start:stop], Y[start:stop])
    np.testing.assert_array_equal(stepper.parameters, model.parameters)


# --- a loop of one's own ----------------------------------------------------------------------------------

PLAIN = (NETWORKS["plain"], X, Y)
OPTIONS = {"epochs": 6, "batch_size": BATCH, "seed": 1}


def test_two_loops_that_take_turns_disturb_one_another_in_nothing():
    whole = [fastmlp.fit(*PLAIN, **{**OPTIONS, "seed": seed}) for seed in (1, 2)]
    loops = [fastmlp.iter_fit(*PLAIN, **{**OPTIONS, "seed": seed}) for seed in (1, 2)]
    runs = [None, None]
    for runs in zip(*loops, strict=True):
        assert runs[0].epoch == runs[1].epoch
    for run, model in zip(runs, whole, strict=True):
        assert_same(run.model(), model)


@pytest.mark.parametrize(("every", "seen"), [(1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (9, [6])])
def test_the_run_comes_after_so_many_epochs_and_at_the_end(every, seen):
    assert [run.epoch for run in fastmlp.iter_fit(*PLAIN, every=every, **OPTIONS)] == seen


def test_callbacks_see_the_loop_s_training_from_its_beginning_to_its_end():
    told = []
    noting = calling(
        on_train_begin=lambda run: told.append("begin"), on_train_end=lambda run: told.append("end")
    )
    for run in fastmlp.iter_fit(*PLAIN, callbacks=[noting], **OPTIONS):
        told.append(run.epoch)
        if run.epoch == 2:
            run.rate_factor = 0.0
        if run.epoch == 4:
            run.parameters[...] = 0
            break
    assert told == ["begin", 1, 2, 3, 4, "end"]
    model = run.model()
    assert not model.parameters.any()
    assert len(model.history["loss"]) == 4


def test_early_stopping_ends_the_loop_and_leaves_the_best():
    options = {"epochs": 400, "validation": 0.3, "optimizer": SGD(0.3, 0.9), "average": EMA(0.5)}
    options = {**OPTIONS, **options}
    whole = fastmlp.fit(*PLAIN, callbacks=[EarlyStopping(3)], **options)
    *_, run = fastmlp.iter_fit(*PLAIN, callbacks=[EarlyStopping(3)], **options)
    assert run.epoch < 400
    assert_same(run.model(), whole)


def test_ctrl_c_in_the_loop_s_body_is_python_s_own_and_within_a_chunk_it_keeps_the_model():
    loop = fastmlp.iter_fit(*PLAIN, **OPTIONS)
    next(loop)
    with pytest.raises(KeyboardInterrupt) as caught:
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, fastmlp.Interrupted)

    noting = calling(on_epoch_end=lambda run: run.epoch == 3 and signal.raise_signal(signal.SIGINT))
    with pytest.raises(fastmlp.Interrupted) as caught:
        list(fastmlp.iter_fit(*PLAIN, callbacks=[noting], **OPTIONS))
    model = caught.value.model
    assert len(model.history["loss"]) == 3
    assert_same(model.fit_more(X, Y, epochs=3), fastmlp.fit(*PLAIN, **OPTIONS))


@pytest.mark.parametrize("where", ["on_train_begin", "on_epoch_end", "on_train_end"])
def test_ctrl_c_ends_the_loop_at_once_and_no_turn_swallows_it(where):
    turns = []

    def press(run):
        if where != "on_epoch_end" or run.epoch == 3:
            signal.raise_signal(signal.SIGINT)

    def loop():
        for run in fastmlp.iter_fit(*PLAIN, callbacks=[calling(**{where: press})], **OPTIONS):
            turns.append(run.epoch)
            if run.epoch == 3 and where == "on_epoch_end":
                break

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert turns == {"on_train_begin": [], "on_epoch_end": [1, 2]}.get(where, [1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize("how", ["break", "stop", "error"])
def test_a_checkpoint_is_written_where_the_loop_ends(how, tmp_path):
    path, whole = tmp_path / "c", fastmlp.fit(*PLAIN, **OPTIONS)

    def loop():
        for run in fastmlp.iter_fit(*PLAIN, callbacks=[Checkpoint(path, 99)], **OPTIONS):
            if run.epoch == 3 and how == "stop":
                run.stop("enough")
            elif run.epoch == 3:
                assert how == "break"
                return

    with pytest.raises(AssertionError) if how == "error" else contextlib.nullcontext():
        loop()
    saved = fastmlp.load(path)
    assert saved.stop_reason == ("enough" if how == "stop" else "its loop was left")
    assert len(saved.history["loss"]) == 3
    assert_same(fastmlp.fit(*PLAIN, resume=path, **OPTIONS), whole)


def looped(*given, **named):
    return list(fastmlp.iter_fit(*given, **named))


@pytest.mark.parametrize("train", [fastmlp.fit, looped])
def test_a_model_of_a_callback_stays_as_it_was_and_goes_on(train):
    models, whole = [], fastmlp.fit(*PLAIN, **OPTIONS)

    class Keep(Callback):
        def on_train_begin(self, run):
            assert run.model().training is None

        def on_epoch_end(self, run):
            models.append(run.model())

    train(*PLAIN, callbacks=[Keep(), EarlyStopping(99)], **OPTIONS)
    assert len(models) == 6
    for epoch, model in enumerate(models, 1):
        assert len(model.history["loss"]) == epoch
        more = model.fit_more(X, Y, epochs=6 - epoch, callbacks=[EarlyStopping(99)])
        np.testing.assert_array_equal(more.training.parameters, whole.parameters)
        assert more.history == whole.history


def test_a_model_is_to_be_had_after_an_error():
    for run in fastmlp.iter_fit(*PLAIN, **{**OPTIONS, "optimizer": SGD(0.05)}):
        last = run
        if run.epoch == 2:
            run.parameters[...] = np.nan
            break
    assert np.isnan(last.model().parameters).all()

    class Fails(Callback):
        def on_epoch_end(self, run):
            self.run = run
            assert run.epoch < 2

    with pytest.raises(AssertionError):
        fastmlp.fit(*PLAIN, callbacks=[fails := Fails()], **OPTIONS)
    assert len(fails.run.model().history["loss"]) == 2


def test_a_run_that_fit_has_ended_keeps_no_rows():
    rows, kept = X.copy(), []
    noting = calling(on_epoch_end=lambda run: kept.append(run))
    fastmlp.fit(NETWORKS["plain"], rows, Y, callbacks=[noting], **OPTIONS)
    alive = weakref.ref(rows)
    del rows
    assert alive() is None


def test_an_error_in_the_body_ends_the_training():
    ended = []

    def body():
        noting = calling(on_train_end=lambda run: ended.append(run.epoch))
        for run in fastmlp.iter_fit(*PLAIN, callbacks=[noting], **OPTIONS):
            assert run.epoch < 2

    with pytest.raises(AssertionError):
        body()
    assert ended == [2]


@pytest.mark.parametrize(
    ("options", "said"), [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"epoch": 3}, "unexpected keyword argument 'epoch'"),
        ({"optimizer": "adma"}, "adma"),
        ({"communicator": object()}, "iter_fit trains in one process"),
    ],
)  # fmt: skip
def test_careless_arguments_are_refused_before_the_first_step(options, said):
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        fastmlp.iter_fit(*PLAIN, **options)
    assert "\n" not in str(caught.value)


def test_no_loop_of_no_epochs():
    assert not [*itertools.islice(fastmlp.iter_fit(*PLAIN, epochs=0), 5)]
