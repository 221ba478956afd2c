"""An error of a callback, or of what is around trainings, ends the call and names the model."""

import copy
import gc
import signal
import threading
import weakref

import numpy as np
import pytest
from support.callbacks import calling
from support.problems import data_set
from support.selection import campaign, quick

import fastmlp
from fastmlp import SGD, Adam, Callback, Checkpoint, Dense, DivergenceError, Head, Network, fit, fit_many
from fastmlp.backend import lanes
from fastmlp.system import budget

X, Y = data_set("diabetes", 48)
SMALL = Network([10, 4, 1], hidden="tanh")
OPTIONS = {"epochs": 3, "batch_size": 16, "seed": 0, "backend": "fused", "progress": False}
FAILING = 2
"""The place of the model whose callback raises."""

HOOKS = ("on_train_begin", "next_epoch", "on_epoch_end", "on_chunk_end", "on_train_end", "state_dict")


class Mine(Exception):
    """What only a callback of a test raises."""


class Fails(Callback):
    """Fails in a hook, of some models, from an epoch on; its copies note in one list what is called."""

    def __init__(self, hook="none", models=(), epoch=0, fails=None):
        self.hook, self.models, self.epoch, self.fails = hook, models, epoch, fails
        self.seen = []

    def __deepcopy__(self, memo):
        return copy.copy(self)

    def _called(self, hook, run):
        self.seen.append((hook, run.model_index))
        if hook == self.hook and run.model_index in self.models and run.epoch >= self.epoch:
            self.fails()

    def on_train_begin(self, run):
        self._run = run
        self._called("on_train_begin", run)

    def next_epoch(self, run):
        self._called("next_epoch", run)
        return run.epoch + 1

    def on_epoch_end(self, run):
        self._called("on_epoch_end", run)

    def on_chunk_end(self, run):
        self._called("on_chunk_end", run)

    def on_train_end(self, run):
        self._called("on_train_end", run)

    def state_dict(self):
        self._called("state_dict", self._run)
        return {"epoch": self._run.epoch}

    def load_state_dict(self, run, state):
        self._called("load_state_dict", run)

    def ended(self):
        return [model for hook, model in self.seen if hook == "on_train_end"]


def raises(hook, model):
    """A callback of one model, once its second epoch is under way where it can."""
    return Fails(hook, (model,), 0 if hook == "on_train_begin" else 1, raising(Mine(hook)))


def raising(error):
    def fails():
        raise error

    return fails


@pytest.fixture(params=[True, False], ids=["in lanes", "each alone"])
def in_lanes(lane_programs, request):
    """Whether small networks take their steps together, or each by itself."""
    taken, train = [], lanes.blocks_of
    lane_programs(
        is_worth=lambda *_: request.param, blocks_of=lambda *given: taken.append(1) or train(*given)
    )
    yield request.param
    assert not taken or request.param


def assert_ends_the_call(threads, callbacks, word, model=FAILING, **options):
    given = {"n_models": 8, "callbacks": callbacks, "threads": threads, **OPTIONS, **options}
    with pytest.raises(Mine) as caught:
        fit_many(SMALL, X, Y, **given)
    assert caught.value.args == (word,)
    assert caught.value.__notes__ == [f"in the training of model {model}"]


@quick(8)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("n_models", "model"), [(8, FAILING), (1, 0)])
@pytest.mark.usefixtures("in_lanes")
def test_of_any_hook(hook, threads, n_models, model):
    failing = raises(hook, model)
    assert_ends_the_call(threads, [failing], hook, model, n_models=n_models)
    assert len(failing.ended()) == len({*failing.ended()})
    assert (model in failing.ended()) == (hook != "on_train_begin")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("in_lanes")
def test_of_what_a_resumed_call_takes_over(tmp_path, threads):
    path = tmp_path / "call.npz"
    with pytest.raises(Mine):
        fit_many(
            SMALL, X, Y, n_models=8, callbacks=[raises("on_train_end", FAILING), Checkpoint(path)],
            threads=threads, **OPTIONS,
        )  # fmt: skip
    callbacks = [raises("load_state_dict", FAILING), Checkpoint(path)]
    assert_ends_the_call(threads, callbacks, "load_state_dict", resume=path)


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["a block", "each looked into"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("in_lanes")
def test_of_a_schedule(threads, callbacks):
    def rate(epoch):
        if epoch == 1:
            raise Mine("schedule")
        return 0.1

    optimizers = [Adam(0.1)] * 8
    optimizers[FAILING] = Adam(rate)
    assert_ends_the_call(threads, callbacks, "schedule", optimizer=optimizers)


def test_what_fails_for_all_lanes_reaches_the_caller(lane_programs):
    def full(*_):
        raise MemoryError("full")

    lane_programs(is_worth=lambda *_: True, blocks_of=full)
    never = Fails()
    with pytest.raises(MemoryError, match="full") as caught:
        fit_many(SMALL, X, Y, n_models=3, callbacks=[never], threads=1, **OPTIONS)
    assert caught.value.__notes__ == [f"in the training of model {index}" for index in range(3)]
    assert sorted(never.ended()) == [0, 1, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_in_a_block_itself_reaches_the_caller(threads, take_steps, lane_programs):
    calls = []

    def wrong(*_):
        calls.append(1)
        raise IndexError("ours")

    lane_programs(is_worth=lambda *_: True)
    take_steps(wrong)
    with pytest.raises(IndexError, match="ours"):
        fit_many(SMALL, X, Y, n_models=4, threads=threads, **OPTIONS)
    assert calls == [1]


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["a block", "each looked into"])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_between_trainings_reaches_the_caller(threads, callbacks, lane_programs):
    def full(*_):
        raise OSError("no space left")

    lane_programs(is_worth=full)
    with pytest.raises(OSError, match="no space left"):
        fit_many(SMALL, X, Y, n_models=4, callbacks=callbacks, threads=threads, **OPTIONS)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hook", HOOKS)
def test_of_fit(hook, threads):
    failing = raises(hook, None)
    with pytest.raises(Mine, match=f"^{hook}$"):
        fit(SMALL, X, Y, optimizer=SGD(0.1), callbacks=[failing], threads=threads, **OPTIONS)
    assert failing.ended() == ([] if hook == "on_train_begin" else [None])


# --- errors of trainings that a callback makes -------------------------------------------------------------


def another(fails):
    """A callback that trains a network of its own at the end of an epoch, which does not end well."""
    return calling(on_epoch_end=lambda run: run.epoch == 2 and run.model_index in (0, FAILING) and fails())


def diverges():
    fit(Network([1, 1]), [[1e30]], [1e30], optimizer=SGD(1e30), epochs=3, backend="reference", progress=False)


def is_interrupted():
    noting = calling(on_epoch_end=lambda run: signal.raise_signal(signal.SIGINT))
    fit(Network([10, 2, 1]), X, Y, callbacks=[noting], backend="reference", progress=False)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n_models", [1, 8])
@pytest.mark.usefixtures("in_lanes")
def test_a_training_in_a_callback_that_diverges_is_no_model_s(threads, n_models):
    with pytest.raises(DivergenceError) as caught:
        fit_many(SMALL, X, Y, n_models=n_models, threads=threads, callbacks=[another(diverges)], **OPTIONS)
    assert caught.value.parameters.shape == (2,)
    assert "in the training of model" in caught.value.__notes__[0]


def test_the_model_of_a_training_in_a_callback_that_ctrl_c_ends_is_no_model_s():
    with pytest.raises(fastmlp.Interrupted) as caught:
        fit_many(SMALL, X, Y, n_models=1, callbacks=[another(is_interrupted)], **OPTIONS)
    assert caught.value.model.network.widths == (10, 2, 1)
    assert caught.value.__notes__ == ["in the training of model 0"]


# --- what is left ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("in_lanes")
def test_a_call_that_several_callbacks_have_ended_goes_on_from_its_file(tmp_path, threads):
    """Those that the others' errors have stopped had not come to their ends."""

    class RaisesInSome(Callback):
        def __init__(self, models):
            self.models = models

        def on_epoch_end(self, run):
            if run.epoch == 2 and run.model_index in self.models:
                raise Mine(run.model_index)

    path = tmp_path / "call.npz"

    def call(models=(), **more):
        given = {"threads": threads, **OPTIONS, "callbacks": [RaisesInSome(models), Checkpoint(path)], **more}
        return fit_many(SMALL, X, Y, n_models=8, **given)

    with pytest.raises(Mine):
        call((1, 4, 6))
    resumed, whole = call(resume=path), call(callbacks=[RaisesInSome(())])
    assert [one.stop_reason for one in resumed] == [None] * 8
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_array_equal(one.parameters, other.parameters)


@quick(1)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n_models", [1, 3])
def test_an_error_leaves_nothing_to_the_garbage_collector(n_models, threads):
    class Remembers(Callback):
        def on_epoch_end(self, run):
            parameters.append(weakref.ref(run.parameters))
            raise Mine

    parameters = []
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(Mine):
            fit_many(SMALL, X, Y, n_models=n_models, threads=threads, callbacks=[Remembers()], **OPTIONS)
        assert len(parameters) >= 1
        assert [one() for one in parameters] == [None] * len(parameters)
    finally:
        gc.enable()


# --- all of it at random -----------------------------------------------------------------------------------

NETWORKS = {
    "small": SMALL,
    "wide": Network([10, 40, 40, 1], hidden="relu", dropout=0.1),
    "batch norm": Network(inputs=10, layers=[Dense(6), fastmlp.BatchNorm(), Dense(1)]),
    "heads": Network(
        inputs=10, layers=[Dense(6, "relu")], heads={"one": Head(1), "other": Head(1, loss="huber")}
    ),
}


class Falsy(Exception):
    """An error that is false, as that of a library with a length."""

    def __bool__(self):
        return False


def recursion():
    recursion()


ERRORS = (
    *(Mine, ValueError, KeyboardInterrupt, SystemExit, StopIteration, GeneratorExit, MemoryError),
    *(AssertionError, Falsy, OSError, StopAsyncIteration),
)


def around():
    """What a call leaves as it was: threads, the handler of Ctrl-C, and shares of cores."""
    threads = {one.ident for one in threading.enumerate() if "tqdm" not in one.name}
    return threads, signal.getsignal(signal.SIGINT), budget.available_cores(), [*budget.limits]


def at_random(seed, path):
    """Draw a call whose callbacks fail; hold what it raises and leaves, and its file, to what they should be.

    Returns what it was, in words.
    """
    rng = np.random.default_rng(seed)
    count, epochs, files = int(rng.integers(1, 10)), int(rng.integers(2, 7)), rng.random() < 0.6
    name, hook = str(rng.choice([*NETWORKS])), str(rng.choice(HOOKS[: 5 + files]))
    models = sorted(int(one) for one in rng.permutation(count)[: rng.integers(1, count + 1)])
    kind = [*ERRORS, RecursionError, DivergenceError][rng.integers(len(ERRORS) + 2)]
    fails = {RecursionError: recursion, DivergenceError: diverges}.get(kind) or raising(kind(seed))
    at = 0 if hook in ("on_train_begin", "on_train_end") else int(rng.integers(1, epochs))
    failing = Fails(hook, models, at, fails)
    never = Fails()
    given = {
        "n_models": count, "threads": int(rng.integers(1, 3)), "epochs": epochs, "batch_size": 16, "seed": 0,
        "backend": str(rng.choice(["fused", "auto", "specialized", "reference"])),
        "progress": bool(rng.random() < 0.1), "validation": 0.25 if rng.random() < 0.4 else None,
        "optimizer": Adam(0.01) if rng.random() < 0.5 else SGD(0.05, 0.9),
    }  # fmt: skip
    stops = [fastmlp.EarlyStopping(patience=2)] if given["validation"] else []
    order = rng.permutation(2 + len(stops))
    words = f"{kind.__name__} in {hook} of {models}, {name}, {given}, seed {seed}"
    targets = {"one": Y, "other": Y} if name == "heads" else Y

    def call(one, to_file, **more):
        several = [one, Fails(), *stops]
        several = [several[place] for place in order] + [Checkpoint(path, every=1 + seed % 3)] * to_file
        return fit_many(NETWORKS[name], X, targets, callbacks=several, **given, **more)

    before, caught = around(), None
    try:
        call(failing, files)
    except BaseException as error:
        caught = error
    assert around() == before, words
    if caught is None:
        assert hook not in ("on_train_begin", "on_train_end"), words
    else:
        # Python makes a RuntimeError of a StopIteration in a generator.
        assert isinstance(caught, (kind, RuntimeError) if kind is StopIteration else kind), (
            f"{words}: {caught!r}"
        )
        assert caught.__notes__[-1] in [f"in the training of model {index}" for index in models], words
    begun = [model for one, model in failing.seen if one == "on_train_begin"]
    ended = failing.ended()
    assert len(ended) == len({*ended}), words
    assert {*begun} - {*ended} <= ({*models} if hook == "on_train_begin" else set()), words
    whole = call(never, False)
    again = call(never, True, resume=path) if files and path.exists() else whole
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one.parameters, other.parameters, words)
        assert (one.history, one.stop_reason) == (other.history, other.stop_reason), words
    return words


@campaign  # 0.1 to 1 s each
@pytest.mark.parametrize("seed", range(300))
def test_callbacks_that_fail_at_random(seed, tmp_path):
    at_random(seed, tmp_path / "call.npz")
