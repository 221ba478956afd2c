"""Ctrl-C and SIGTERM: answered within a second, with a whole model, and with the file of a Checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from problems import data_set

import fastmlp
from fastmlp import Callback, Checkpoint, Interrupted, Network, checkpoint, loop, registry

X, Y = data_set("diabetes", 50)
SMALL = Network([10, 6, 1], hidden="tanh", dropout=0.2)

LARGE = Network([10, 256, 256, 1], dropout=0.2)
"""Its chunks last their 0.2 s; those of SMALL have all the steps that a chunk may have sooner."""

every_backend = pytest.mark.parametrize("backend", registry.backends())

INT, TERM = signal.SIGINT, signal.SIGTERM


def then_slow(cases, others):
    """The cases, and the others for `-m slow`: each takes 3 to 7 s."""
    return [*cases, *(pytest.param(*other, marks=pytest.mark.slow) for other in others)]


def fit(backend="reference", network=SMALL, **options):
    # Of the BLAS's own threads the reference has no use here, and beside other processes they spin.
    threads = 1 if backend == "reference" else None
    given = {"epochs": 20, "batch_size": 16, "seed": 1, "backend": backend, "threads": threads, **options}
    copies = 100 if network is LARGE else 1
    return fastmlp.fit(network, np.tile(X, (copies, 1)), np.tile(Y, copies), **given)


class At(Callback):
    """Does something at the end of the chunk that ends with a given step."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def on_chunk_end(self, run):
        if run.step == self.step:
            self.do(run)


def stop(run):
    run.stop("far enough")


def ctrl_c(run=None):
    signal.raise_signal(signal.SIGINT)


@every_backend
def test_ctrl_c_ends_at_the_chunk_s_end_and_the_error_has_the_model(backend, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(backend, callbacks=[Checkpoint(tmp_path / "c", 99), At(7, ctrl_c)])
    assert isinstance(caught.value, Interrupted)
    model, wanted = caught.value.model, fit(backend, callbacks=[At(7, stop)])
    assert model.stop_reason == "interrupted by SIGINT"
    assert model.history == wanted.history
    np.testing.assert_array_equal(model.parameters, wanted.parameters)
    assert fit(backend, resume=tmp_path / "c").history == fit(backend).history


def test_handlers_are_put_back_however_training_ends(monkeypatch):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)

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


def test_a_second_ctrl_c_does_not_wait(monkeypatch):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)
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
def test_ctrl_c_before_an_error_is_not_swallowed_with_it(kind, monkeypatch):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)

    def then_fail(run):
        ctrl_c()
        if kind is RuntimeError:
            raise RuntimeError("in a callback")
        run.stop_reason = None  # as if the signal had come during the next chunk
        run.parameters[...] = 1e308

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(callbacks=[At(3, then_fail)])
    assert type(caught.value.__context__) is kind


def test_a_program_s_own_handler_stays_in_charge(monkeypatch):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        model = fit(callbacks=[At(3, lambda run: signal.raise_signal(signal.SIGTERM))])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert model.stop_reason is None


def test_ctrl_c_in_a_training_within_a_callback_ends_both(monkeypatch):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)
    ended = []

    class Ends(Callback):
        def on_train_end(self, run):
            ended.append(run.step)

    def inner(run):
        fit(callbacks=[At(5, ctrl_c), Ends()])

    with pytest.raises(Interrupted):
        fit(callbacks=[At(3, inner), Ends()])
    assert ended == [5, 3]


def test_threads_other_than_the_first_train_without_signals():
    models = []
    thread = threading.Thread(target=lambda: models.append(fit()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(models[0].parameters, fit().parameters)


# --- a signal that comes while compiled code runs -----------------------------------------------------------

CHILD = """
import sys, threading, time
import numpy as np
import fastmlp
import test_interrupts as t

backend, path = sys.argv[1:]
ticks = []

def tick():
    while True:
        ticks.append(time.perf_counter())
        time.sleep(0.005)

class Started(fastmlp.Callback):
    chunks = 0
    def on_chunk_end(self, run):
        self.chunks += 1
        if self.chunks == 5:  # compiled, and of full length
            ticks.clear()
            print("started", flush=True)

t.fit(backend, t.LARGE, epochs=1)
threading.Thread(target=tick, daemon=True).start()
try:
    t.fit(backend, t.LARGE, epochs=10**9, callbacks=[Started(), fastmlp.Checkpoint(path, 10**9)])
except fastmlp.Interrupted as stop:
    gap = max(np.diff(ticks))
    print(len(stop.model.history["loss"]), np.isfinite(stop.model.parameters).all(), gap, flush=True)
"""


@pytest.mark.parametrize(
    ("backend", "number"),
    then_slow(
        [("reference", INT), ("baseline", INT), ("fused", INT), ("fused", TERM)],
        [("reference", TERM), ("baseline", TERM)],
    ),
)
def test_a_signal_during_a_chunk_is_answered_within_a_second(backend, number, tmp_path, told):
    path = tmp_path / "c"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, backend, str(path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "started\n"
        time.sleep(0.5)
        sent = time.perf_counter()
        child.send_signal(number)
        said = child.stdout.readline().split()
        seconds = time.perf_counter() - sent
        code = child.wait(timeout=10)
    finally:
        child.kill()
        child.stdout.close()
    assert seconds < 1
    snapshot = checkpoint.read_training(path).snapshot
    if number == signal.SIGTERM:
        assert (code, said) == (-signal.SIGTERM, [])
    else:
        epochs, finite, gap = said
        assert (code, int(epochs), finite) == (0, len(snapshot.history["loss"]), "True")
        # A chunk that kept Python's lock would stop the other thread for all of its 0.2 s.
        assert float(gap) < 0.15
        told(f"answered in {seconds:.2f} s, another thread paused for {float(gap):.3f} s at most")
    epochs = len(snapshot.history["loss"]) + 1
    whole = fit(backend, LARGE, epochs=epochs)
    resumed = fit(backend, LARGE, epochs=epochs, resume=path)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    assert resumed.history == whole.history


# --- a signal during a step, or a validation, that takes seconds itself -------------------------------------

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


@pytest.mark.parametrize(
    ("backend", "dtype", "what", "number"),
    then_slow(
        [("fused", "float64", "step", TERM), ("fused", "float64", "validation", INT)],
        [
            ("fused", "float64", "step", INT),
            ("fused", "float64", "validation", TERM),
            *(("baseline", "float32", "step", number) for number in (INT, TERM)),
            *(
                ("reference", "float64", what, number)
                for what in ("step", "validation")
                for number in (INT, TERM)
            ),
        ],
    ),
)
def test_a_signal_during_a_step_of_seconds_is_answered_within_one(backend, dtype, what, number, told):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LONG, backend, dtype, what]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout.readline() == "started\n"
            time.sleep(0.25)
            sent = time.perf_counter()
            child.send_signal(number)
            said = child.stdout.readline()
            seconds = time.perf_counter() - sent
            code = child.wait(timeout=10)  # for the step that was left behind
        finally:
            child.kill()
    assert seconds < 1
    if number == signal.SIGTERM:
        assert (code, said) == (-signal.SIGTERM, "")
    else:
        assert code == 0
        epochs, *whole = said.split()
        assert (int(epochs) > 0, *whole) == (True, "True", "True")
        told(f"answered in {seconds:.2f} s with a whole model of {epochs} epochs")
