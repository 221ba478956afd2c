"""A step, or a validation, of seconds is left behind after a signal; here every call counts as long."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
import time

import numpy as np
import pytest
from support import needs
from support.auto_choice import have_chosen
from support.interruptible_fits import X, Y, fit

import fastmlp
from fastmlp import Checkpoint, Interrupted
from fastmlp.backend import reference
from fastmlp.system import interrupts
from fastmlp.training import checkpoint, threads

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds


class Held:
    """A function that sends Ctrl-C in its call of a given number, from 0, and then does not return."""

    def __init__(self, function, number):
        self.function, self.number = function, number
        self.calls = 0
        self.gate = threading.Event()

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == self.number + 1:
            signal.raise_signal(signal.SIGINT)
            assert self.gate.wait(timeout=needs.PATIENCE)
        return self.function(*arguments)


@pytest.fixture
def held(monkeypatch, long_calls):
    """held(name, number) has the number-th call of the reference's function of that name held up."""
    long_calls(0)
    monkeypatch.setattr(interrupts, "PATIENCE", 0.01)
    gates = []

    def hold(name, number):
        hindered = Held(getattr(reference.BACKEND, name), number)
        gates.append(hindered.gate)
        backend = reference.BACKEND._replace(**{name: hindered})
        have_chosen(monkeypatch, backend)

    yield hold
    for gate in gates:
        gate.set()


@pytest.mark.parametrize("step", range(9))
def test_a_checkpoint_is_written_of_what_stood_before_a_step_left_behind(
    step, held, monkeypatch, tmp_path, chunks
):
    chunks(steps=1)
    options = {"epochs": 3, "validation": 0.2, "optimizer": fastmlp.Adam()}
    path = tmp_path / "c"

    def callbacks():
        return [fastmlp.EarlyStopping(), Checkpoint(path, 99)]

    held("train_chunk", step)
    with pytest.raises(Interrupted):
        fit(callbacks=callbacks(), **options)
    assert checkpoint.read_training(path).snapshot.step == step
    monkeypatch.undo()
    resumed = fit(resume=path, callbacks=callbacks(), **options)
    whole = fit(callbacks=callbacks(), **options)
    assert resumed.history == whole.history
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


def estimator(**options):
    given = {"hidden_layer_sizes": (6,), "batch_size": 16, "random_state": 1, **options}
    return fastmlp.MLPRegressor(**given)


@pytest.mark.filterwarnings("ignore:Training interrupted", "ignore:Stochastic Optimizer")
def test_an_estimator_whose_validation_is_left_behind_is_that_of_the_epoch_before(
    held, monkeypatch, long_calls
):
    long_calls(threads.most_seconds(73, 20))  # of the 50 rows, not of a batch
    held("evaluate", 2)
    stopped = estimator(validation_set=(X, Y)).fit(X, Y)
    monkeypatch.undo()
    whole = estimator(validation_set=(X, Y), max_iter=2, backend="reference").fit(X, Y)
    assert (stopped.n_iter_, stopped.t_) == (whole.n_iter_, whole.t_) == (2, 100)
    assert stopped.validation_loss_curve_ == whole.validation_loss_curve_
    for one, other in zip(stopped.coefs_, whole.coefs_, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("ignore:Training interrupted")
@pytest.mark.parametrize("metric", [None, "r2"])
def test_scores_of_early_stopping_are_left_behind_too(metric, held):
    held("predict", 2)
    stopped = estimator(early_stopping=True, stopping_metric=metric).fit(X, Y)
    assert (stopped.n_iter_, len(stopped.loss_curve_), len(stopped.validation_scores_)) == (3, 3, 2)


def wait_hit_at(place):
    """Have a KeyboardInterrupt raised at the place-th instruction of a wait; return whether it was."""
    lines, first = inspect.getsourcelines(interrupts.until_stopped)
    started = first + next(i for i, line in enumerate(lines) if "return call()" in line)
    seen = 0

    def trace(frame, event, argument):
        nonlocal seen
        waits = seen or frame.f_code is interrupts.until_stopped.__code__
        if not waits or "weakref" in frame.f_code.co_filename:  # where Python only tells of errors
            return None
        frame.f_trace = trace  # Python 3.13 wants it before it traces opcodes
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and (seen or frame.f_lineno > started):
            seen += 1
            if seen > place:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for that when tracing begins, in any frame
    sys.settrace(trace)
    try:
        interrupts.until_stopped(lambda: time.sleep(0.01), lambda: False)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_the_error_of_a_second_ctrl_c_may_come_at_any_instruction_of_a_wait(monkeypatch):
    """The thread ends all the same: one that waited at a lock for ever would keep the process from ending."""
    monkeypatch.setattr(interrupts, "POLL", 0.005)
    before = set(threading.enumerate())
    places = 0
    while wait_hit_at(places):
        places += 1
    assert places > 20
    until = time.monotonic() + needs.PATIENCE
    while (left := set(threading.enumerate()) - before) and time.monotonic() < until:
        time.sleep(0.01)
    assert not left
