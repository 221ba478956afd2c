"""Ctrl-C and SIGTERM: answered within a second, with a whole model, and with the file of a Checkpoint.

A second is one of a processor's time where that can be measured: how long other processes have the cores says
nothing of an answer.
"""

import inspect
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support import needs
from support.auto_choice import have_chosen
from support.callbacks import calling
from support.interruptible_fits import LARGE, X, Y, fit
from support.processes import importing
from support.selection import campaign, matrix, some_backends

import fastmlp
from fastmlp import Checkpoint, Interrupted, Network
from fastmlp.backend import reference
from fastmlp.checkpoints import checkpoint
from fastmlp.system import interrupts
from fastmlp.system.budget import cores
from fastmlp.training import threads

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds

INT, TERM = signal.SIGINT, signal.SIGTERM


def answered(*case):
    """A case with one signal for `-m slow`, and with the other for `-m campaign`: each takes 3 to 7 s."""
    *what, first, second = case
    return [pytest.param(*what, first, marks=pytest.mark.slow), pytest.param(*what, second, marks=campaign)]


def at(step, do):
    """A callback that does something at the end of the chunk that ends with a given step."""
    return calling(on_chunk_end=lambda run: run.step == step and do(run))


def taken_by(child):
    """The processor time that a process has taken, in seconds; not on Linux, the time of day."""
    if sys.platform != "linux":
        return time.perf_counter()
    return time.clock_gettime(~child.pid << 3 | 2)  # Linux makes the id of a process's clock of its own id


def answer_to(number, pause, script, *arguments):
    """Send a signal to a script that has started; return its words, the seconds to them, its exit code."""
    command, environment = [sys.executable, "-c", script, *arguments], {**os.environ, **importing()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "started\n"
            time.sleep(pause)
            sent = taken_by(child)
            child.send_signal(number)
            said = child.stdout.readline().split()
            seconds = taken_by(child) - sent
            return said, seconds, child.wait(timeout=needs.PATIENCE)  # for a step that was left behind, too
        finally:
            child.kill()


def stop(run):
    run.stop("far enough")


def ctrl_c(run=None):
    signal.raise_signal(signal.SIGINT)


@some_backends
def test_ctrl_c_ends_at_the_chunk_s_end_and_the_error_has_the_model(backend, chunks, tmp_path):
    chunks(steps=1)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(backend, callbacks=[Checkpoint(tmp_path / "c", 99), at(7, ctrl_c)])
    assert isinstance(caught.value, Interrupted)
    model, expected = caught.value.model, fit(backend, callbacks=[at(7, stop)])
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
            fit(callbacks=[at(3, do)])
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
        fit(callbacks=[at(3, twice)])
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
        fit(callbacks=[at(3, then_fail)])
    assert type(caught.value.__context__) is kind


def test_a_program_s_own_handler_stays_in_charge(chunks):
    chunks(steps=1)
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        model = fit(callbacks=[at(3, lambda run: signal.raise_signal(signal.SIGTERM))])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert model.stop_reason is None


def test_ctrl_c_in_a_training_within_a_callback_ends_both(chunks):
    chunks(steps=1)
    ended = []

    noting = calling(on_train_end=lambda run: ended.append(run.step))

    def inner(run):
        fit(callbacks=[at(5, ctrl_c), noting])

    with pytest.raises(Interrupted):
        fit(callbacks=[at(3, inner), noting])
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
    said, seconds, code = answer_to(number, 0.5, CHILD, backend, str(path))
    assert seconds < cores()
    snapshot = checkpoint.read_training(path)
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
    said, seconds, code = answer_to(number, 0.25, LONG, backend, dtype, what)
    assert seconds < 1
    if number == signal.SIGTERM:
        assert (code, said) == (-signal.SIGTERM, [])
    else:
        assert code == 0
        epochs, *whole = said
        assert (int(epochs) > 0, *whole) == (True, "True", "True")
        report_figure(f"answered in {seconds:.2f} s with a whole model of {epochs} epochs")


@matrix
def test_a_first_chunk_of_tiny_steps_is_no_longer_than_others():
    """The reference takes half a millisecond for a step of seven layers, whatever their sizes."""
    deep, chunks = Network([10, *6 * [4], 1], hidden="gelu", dropout=0.1), []
    first = calling(on_chunk_end=lambda run: chunks.append(run.step) or run.stop("seen"))
    fit(network=deep, epochs=10**6, batch_size=None, optimizer=fastmlp.Adam(1e-4), callbacks=[first])
    assert 1 < chunks[0] < 1000


# --- a step, or a validation, of seconds is left behind; here every call counts as long -------------------


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
    assert checkpoint.read_training(path).step == step
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
