"""Ctrl-C and SIGTERM: answered within a second, with a whole model, and with the file of a Checkpoint.

A second is one of a processor's time where that can be measured: how long other processes have the cores says
nothing of an answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support import needs
from support.interruptible_fits import LARGE, fit
from support.processes import importing
from support.selection import campaign, some_backends

import fastmlp
from fastmlp import Callback, Checkpoint, Interrupted, Network
from fastmlp.system import interrupts
from fastmlp.system.budget import cores
from fastmlp.training import checkpoint

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds

INT, TERM = signal.SIGINT, signal.SIGTERM


def answered(*case):
    """A case with one signal for `-m slow`, and with the other for `-m campaign`: each takes 3 to 7 s."""
    *what, first, second = case
    return [pytest.param(*what, first, marks=pytest.mark.slow), pytest.param(*what, second, marks=campaign)]


class At(Callback):
    """Does something at the end of the chunk that ends with a given step."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_chunk_end(self, run):
        if run.step == self.step:
            self.do(run)


def taken_by(child):
    """The processor time that a process has taken, in seconds; not on Linux, the time of day."""
    if sys.platform != "linux":
        return time.perf_counter()
    return time.clock_gettime(~child.pid << 3 | 2)  # Linux makes the id of a process's clock of its own id


def stop(run):
    run.stop("far enough")


def ctrl_c(run=None):
    signal.raise_signal(signal.SIGINT)


@some_backends
def test_ctrl_c_ends_at_the_chunk_s_end_and_the_error_has_the_model(backend, chunks, tmp_path):
    chunks(steps=1)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(backend, callbacks=[Checkpoint(tmp_path / "c", 99), At(7, ctrl_c)])
    assert isinstance(caught.value, Interrupted)
    model, expected = caught.value.model, fit(backend, callbacks=[At(7, stop)])
    assert model.stop_reason == "interrupted by SIGINT"
    assert model.history == expected.history
    np.testing.assert_array_equal(model.parameters, expected.parameters)
    assert fit(backend, resume=tmp_path / "c").history == fit(backend).history


def test_handlers_are_put_back_however_training_ends(chunks):
    chunks(steps=1)

    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def fail(run):
        raise RuntimeError("in a callback")

    before = handlers()
    fit()
    assert handlers() == before
    for do, error in ((ctrl_c, Interrupted), (fail, RuntimeError)):
        with pytest.raises(error):
            fit(callbacks=[At(3, do)])
        assert handlers() == before


def test_a_second_ctrl_c_does_not_wait(chunks):
    chunks(steps=1)
    seen = []

    def twice(run):
        ctrl_c()
        seen.append("first")
        ctrl_c()
        seen.append("second")

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(callbacks=[At(3, twice)])
    assert not isinstance(caught.value, Interrupted)
    assert seen == ["first"]


@pytest.mark.parametrize("kind", [RuntimeError, fastmlp.DivergenceError])
def test_ctrl_c_before_an_error_is_not_swallowed_with_it(kind, chunks):
    chunks(steps=1)

    def then_fail(run):
        ctrl_c()
        if kind is RuntimeError:
            raise RuntimeError("in a callback")
        run.stop_reason = None  # as if the signal had come during the next chunk
        run.parameters[...] = 1e308

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(callbacks=[At(3, then_fail)])
    assert type(caught.value.__context__) is kind


def test_a_program_s_own_handler_stays_in_charge(chunks):
    chunks(steps=1)
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        model = fit(callbacks=[At(3, lambda run: signal.raise_signal(signal.SIGTERM))])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert model.stop_reason is None


def test_ctrl_c_in_a_training_within_a_callback_ends_both(chunks):
    chunks(steps=1)
    ended = []

    class Ends(Callback):
        def on_train_end(self, run):
            ended.append(run.step)

    def inner(run):
        fit(callbacks=[At(5, ctrl_c), Ends()])

    with pytest.raises(Interrupted):
        fit(callbacks=[At(3, inner), Ends()])
    assert ended == [5, 3]


def test_a_signal_that_ends_the_process_stops_all_blocks_and_comes_again_after_the_outermost(monkeypatch):
    heard = []
    before = signal.signal(TERM, own := lambda number, frame: heard.append("the program"))
    monkeypatch.setattr(interrupts, "REPLACED", (own,))  # as if it was the default, which ends the process
    try:
        with interrupts.deferred(lambda reason: heard.append("outer")):
            with interrupts.deferred(lambda reason: heard.append("inner")):
                signal.raise_signal(TERM)
            heard.append("between")
    finally:
        signal.signal(TERM, before)
    assert heard == ["inner", "outer", "between", "the program"]


def test_threads_other_than_the_first_train_without_signals():
    models = []
    thread = threading.Thread(target=lambda: models.append(fit()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(models[0].parameters, fit().parameters)


CHILD = """
import sys, threading, time
import numpy as np
import fastmlp
from support import interruptible_fits as t

backend, path = sys.argv[1:]
ticks, seen = 0, []  # of another thread, and how many there were when each chunk ended

def tick():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.005)

class Started(fastmlp.Callback):
    def on_chunk_end(self, run):
        seen.append(ticks)
        if len(seen) == 5:  # compiled, and of full length
            print("started", flush=True)

t.fit(backend, t.LARGE, epochs=1)
threading.Thread(target=tick, daemon=True).start()
try:
    t.fit(backend, t.LARGE, epochs=10**9, callbacks=[Started(), fastmlp.Checkpoint(path, 10**9)])
except fastmlp.Interrupted as stop:
    finite, most = np.isfinite(stop.model.parameters).all(), max(np.diff(seen))
    print(len(stop.model.history["loss"]), finite, most, flush=True)
"""


@needs.kills
@pytest.mark.parametrize(
    ("backend", "number"),
    [*answered("fused", INT, TERM), *answered("baseline", INT, TERM), *answered("reference", TERM, INT)],
)
def test_a_signal_during_a_chunk_is_answered_within_a_second(backend, number, tmp_path, report_figure):
    path = tmp_path / "c"
    environment = {**os.environ, **importing()}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, backend, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "started\n"
        time.sleep(0.5)
        sent = taken_by(child)
        child.send_signal(number)
        said = child.stdout.readline().split()
        seconds = taken_by(child) - sent
        code = child.wait(timeout=needs.PATIENCE)
    finally:
        child.kill()
        child.stdout.close()
    assert seconds < cores()
    snapshot = checkpoint.read_training(path).snapshot
    if number == signal.SIGTERM:
        assert (code, said) == (-signal.SIGTERM, [])
    else:
        epochs, finite, most = said
        assert (code, int(epochs), finite) == (0, len(snapshot.history["loss"]), "True")
        # A chunk that kept Python's lock would stop the other thread for all of its 0.2 s: one tick between
        # two chunks is what that thread would have.
        assert int(most) > 4
        report_figure(f"answered in {seconds:.2f} s, another thread ran {most} times within a chunk")
    epochs = len(snapshot.history["loss"]) + 1
    whole = fit(backend, LARGE, epochs=epochs)
    resumed = fit(backend, LARGE, epochs=epochs, resume=path)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    assert resumed.history == whole.history


LONG = """
import sys
import numpy as np
import fastmlp

backend, dtype, what = sys.argv[1:]
rng = np.random.default_rng(0)
X = rng.standard_normal((1024 if what == "step" else 16384, 1024))
y = np.eye(10)[rng.integers(0, 10, len(X))]
epochs = []  # (parameters, losses) that a callback saw whole

class Watch(fastmlp.Callback):
    def on_train_begin(self, run):
        epochs.append((run.parameters.copy(), []))
    def on_chunk_end(self, run):
        epochs.append((run.parameters.copy(), list(run.history["loss"])))
        if len(epochs) == 2:  # compiled
            print("started", flush=True)

network = fastmlp.Network([1024, 2048, 2048, 10], output="softmax", loss="cross_entropy")
rows = slice(1024)
try:
    fastmlp.fit(
        network, X[rows], y[rows], epochs=100, batch_size=1024, optimizer=fastmlp.SGD(0.01), dtype=dtype,
        seed=0, backend=backend, threads=1, callbacks=[Watch()],
        validation=(X, y) if what == "validation" else None,
    )
except fastmlp.Interrupted as stop:
    (parameters, losses), model = epochs[-1], stop.model
    whole = model.history["loss"] == losses and np.array_equal(model.parameters, parameters)
    print(len(losses), whole, {*map(len, model.history.values())} == {len(losses)}, flush=True)
"""


@needs.kills
@pytest.mark.parametrize(
    ("backend", "dtype", "what", "number"),
    [
        *answered("fused", "float64", "step", INT, TERM),
        *answered("fused", "float64", "validation", TERM, INT),
        *answered("baseline", "float32", "step", INT, TERM),
        *answered("reference", "float64", "step", TERM, INT),
        *answered("reference", "float64", "validation", INT, TERM),
    ],
)
def test_a_signal_during_a_step_of_seconds_is_answered_within_one(
    backend, dtype, what, number, report_figure
):
    environment = {**os.environ, **importing()}
    command = [sys.executable, "-c", LONG, backend, dtype, what]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "started\n"
            time.sleep(0.25)
            sent = taken_by(child)
            child.send_signal(number)
            said = child.stdout.readline()
            seconds = taken_by(child) - sent
            code = child.wait(timeout=needs.PATIENCE)  # for the step that was left behind
        finally:
            child.kill()
    assert seconds < 1
    if number == signal.SIGTERM:
        assert (code, said) == (-signal.SIGTERM, "")
    else:
        assert code == 0
        epochs, *whole = said.split()
        assert (int(epochs) > 0, *whole) == (True, "True", "True")
        report_figure(f"answered in {seconds:.2f} s with a whole model of {epochs} epochs")


def test_a_first_chunk_of_tiny_steps_is_no_longer_than_others():
    """The reference takes half a millisecond for a step of seven layers, whatever their sizes."""
    deep, chunks = Network([10, *6 * [4], 1], hidden="gelu", dropout=0.1), []

    class First(Callback):
        def on_chunk_end(self, run):
            chunks.append(run.step)
            run.stop("seen")

    fit(network=deep, epochs=10**6, batch_size=None, optimizer=fastmlp.Adam(1e-4), callbacks=[First()])
    assert 1 < chunks[0] < 1000
