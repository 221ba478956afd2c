"""An error of a callback, or of what is around trainings, ends the call and names the model."""

from __future__ import annotations

import pytest
from problems import data_set

from fastmlp import SGD, Adam, Callback, Checkpoint, Network, fit, fit_many
from fastmlp.backend import lanes
from fastmlp.many import blocks

X, Y = data_set("diabetes", 48)
SMALL = Network([10, 4, 1], hidden="tanh")
OPTIONS = {"epochs": 3, "batch_size": 16, "seed": 0, "backend": "fused", "progress": False}
FAILING = 2
"""The place of the model whose callback raises."""

HOOKS = ("on_train_begin", "next_epoch", "on_epoch_end", "on_chunk_end", "state_dict", "on_train_end")


class Mine(Exception):
    """What only a callback of a test raises."""


class Raises(Callback):
    """Raises in one of its hooks, of one model, once its second epoch is under way where it can."""

    def __init__(self, hook, model):
        self.hook, self.model = hook, model
        self.ended = []

    def __deepcopy__(self, memo):
        copied = type(self)(self.hook, self.model)
        copied.ended = self.ended
        return copied

    def _called(self, hook, run):
        at = 0 if hook == "on_train_begin" else 1
        if (hook, run.model_index) == (self.hook, self.model) and run.epoch >= at:
            raise Mine(hook)

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
        self.ended.append(run.model_index)
        self._called("on_train_end", run)

    def state_dict(self):
        self._called("state_dict", self._run)
        return {"epoch": self._run.epoch}

    def load_state_dict(self, run, state):
        self._called("load_state_dict", run)


@pytest.fixture(params=[True, False], ids=["in lanes", "each alone"])
def in_lanes(monkeypatch, request):
    """Whether small networks take their steps together, or each by itself."""
    monkeypatch.setattr(lanes.LaneProgram, "is_worth", lambda *_: request.param)
    taken, train = [], lanes.train_in_lanes
    monkeypatch.setattr(lanes, "train_in_lanes", lambda *given: taken.append(1) or train(*given))
    yield request.param
    assert not taken or request.param


def assert_ends_the_call(threads, callbacks, word, **options):
    with pytest.raises(Mine) as caught:
        fit_many(SMALL, X, Y, n_models=8, callbacks=callbacks, threads=threads, **{**OPTIONS, **options})
    assert caught.value.args == (word,)
    assert caught.value.__notes__ == [f"in the training of model {FAILING}"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.usefixtures("in_lanes")
def test_of_any_hook(hook, threads):
    raises = Raises(hook, FAILING)
    assert_ends_the_call(threads, [raises], hook)
    assert len(raises.ended) == len({*raises.ended})
    assert (FAILING in raises.ended) == (hook != "on_train_begin")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("in_lanes")
def test_of_what_a_resumed_call_takes_over(tmp_path, threads):
    path = tmp_path / "call.npz"
    with pytest.raises(Mine):
        fit_many(
            SMALL, X, Y, n_models=8, callbacks=[Raises("on_train_end", FAILING), Checkpoint(path)],
            threads=threads, **OPTIONS,
        )  # fmt: skip
    callbacks = [Raises("load_state_dict", FAILING), Checkpoint(path)]
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


def test_what_fails_for_all_lanes_reaches_the_caller(monkeypatch):
    def full(*_):
        raise MemoryError("full")

    monkeypatch.setattr(lanes.LaneProgram, "is_worth", lambda *_: True)
    monkeypatch.setattr(lanes, "train_in_lanes", full)
    raises = Raises("none", FAILING)
    with pytest.raises(MemoryError, match="full") as caught:
        fit_many(SMALL, X, Y, n_models=3, callbacks=[raises], threads=1, **OPTIONS)
    assert caught.value.__notes__ == [f"in the training of model {index}" for index in range(3)]
    assert sorted(raises.ended) == [0, 1, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_in_a_block_itself_reaches_the_caller(threads, monkeypatch):
    calls = []

    def wrong(*_):
        calls.append(1)
        raise IndexError("ours")

    monkeypatch.setattr(lanes.LaneProgram, "is_worth", lambda *_: True)
    monkeypatch.setattr(blocks.BlockTraining, "take_steps", wrong)
    with pytest.raises(IndexError, match="ours"):
        fit_many(SMALL, X, Y, n_models=4, threads=threads, **OPTIONS)
    assert calls == [1]


@pytest.mark.parametrize("callbacks", [[], [Callback()]], ids=["a block", "each looked into"])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_between_trainings_reaches_the_caller(threads, callbacks, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(lanes.LaneProgram, "is_worth", full)
    with pytest.raises(OSError, match="no space left"):
        fit_many(SMALL, X, Y, n_models=4, callbacks=callbacks, threads=threads, **OPTIONS)


@pytest.mark.parametrize("hook", HOOKS)
def test_of_a_single_model(hook):
    with pytest.raises(Mine) as caught:
        fit_many(SMALL, X, Y, n_models=1, callbacks=[Raises(hook, 0)], **OPTIONS)
    assert caught.value.args == (hook,)
    assert caught.value.__notes__ == ["in the training of model 0"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hook", HOOKS)
def test_of_fit(hook, threads):
    raises = Raises(hook, None)
    with pytest.raises(Mine, match=f"^{hook}$"):
        fit(SMALL, X, Y, optimizer=SGD(0.1), callbacks=[raises], threads=threads, **OPTIONS)
    assert raises.ended == ([] if hook == "on_train_begin" else [None])
