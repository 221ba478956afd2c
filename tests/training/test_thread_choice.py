"""A training goes on with fewer threads where more take longer, and with more again when cores are free."""

import itertools
import pickle
import sys

import numpy as np
import pytest
from support import needs
from support.processes import python
from support.terminals import Terminal

import fastmlp
from fastmlp.system.compiling import Lap
from fastmlp.training import threads as threads_of_training
from fastmlp.training.loop import CHUNK_SECONDS
from fastmlp.training.threads import TRIAL_SECONDS, Threads

pytestmark = pytest.mark.xdist_group("clock")  # not beside other tests of threads and seconds

ONE = 1e-3
"""Seconds of a step on one thread, below."""


class Machine:
    """Where a step on so many threads takes `times[threads]` as long as on one: (times, share of a core)."""

    def __init__(self, most, times, running):
        self.most, self.times, self.running = most, times, running
        self.threads, self.pace = Threads(None), ONE
        self.seconds, self.steps, self.used, self.trials = 0.0, 0, [], 0

    def train(self, seconds, least=1):
        """Train for so many seconds, in chunks as `Training` takes them; the first one has few steps."""
        end = self.seconds + seconds
        while self.seconds < end:
            trial = self.threads.is_trial
            aim = TRIAL_SECONDS if trial else CHUNK_SECONDS
            steps = max(1, int(aim / self.pace)) if self.steps else least
            used = self.most if self.threads.most is None else min(self.most, self.threads.most)
            taken = steps * ONE * self.times[used]
            if self.threads.took(used, steps, Lap(taken, 0.0), self.running[used] * taken):
                self.pace = taken / steps
            self.seconds, self.steps = self.seconds + taken, self.steps + steps
            self.trials += trial
            self.used.append(used)
        return self.threads.used


@pytest.fixture(autouse=True)
def _announced_anew(monkeypatch):
    monkeypatch.setattr(threads_of_training, "available_cores", lambda: 64)
    threads_of_training.announced.clear()


def free(most):
    counts = range(1, most + 1)
    return Machine(most, {n: 1 / n for n in counts}, dict.fromkeys(counts, 1.0))


@pytest.mark.parametrize("most", [1, 2, 96])
def test_a_free_machine_keeps_all_threads_and_tries_fewer_for_less_than_a_hundredth_of_the_time(most):
    machine = free(most)
    assert machine.train(2.0) == most
    assert machine.trials == 0
    assert machine.train(100.0) == most
    assert machine.trials <= 6
    assert machine.steps * ONE / most > 0.99 * machine.seconds


@pytest.mark.parametrize("longer", [1.2, 4.0, 11.0])
@pytest.mark.parametrize("running", [0.4, 1.0])
def test_on_a_busy_machine_a_training_takes_at_most_a_tenth_longer_than_on_one_thread(longer, running):
    """Two threads take longer, and the one thread has its core for itself or shares it."""
    machine = Machine(2, {1: 1.0, 2: longer}, {1: running, 2: 0.5})
    assert machine.train(3.0, least=int(0.02 / longer / ONE) + 1) == 1
    assert machine.seconds < 1.1 * machine.steps * ONE
    assert machine.train(60.0) == 1
    assert machine.seconds < 1.05 * machine.steps * ONE


def test_two_threads_that_gain_on_a_busy_machine_stay():
    machine = Machine(2, {1: 1.0, 2: 0.7}, {1: 0.9, 2: 0.6})
    assert machine.train(10.0) == 2
    assert machine.seconds < 1.05 * 0.7 * machine.steps * ONE


def test_when_cores_are_free_again_all_threads_are_taken_again():
    machine = Machine(2, {1: 1.0, 2: 4.0}, {1: 0.5, 2: 0.3})
    assert machine.train(1.0) == 1
    machine.times, machine.running = {1: 0.5, 2: 0.25}, {1: 1.0, 2: 1.0}
    assert machine.train(2.5) == 2


def test_of_many_threads_some_are_left_and_more_come_back_by_doubling():
    counts = range(1, 33)
    busy = {n: max(1 / n, n / 100) for n in counts}  # from 11 threads on it takes longer
    machine = Machine(32, busy, {n: 1.0 if n <= 10 else 0.5 for n in counts})
    assert machine.train(5.0) in range(8, 13)
    assert [n for n, _ in itertools.groupby(machine.used)][:4] == [32, 24, 18, 14]
    machine.times, machine.running = free(32).times, dict.fromkeys(counts, 1.0)
    assert machine.train(20.0) == 32


def test_a_bound_that_is_given_holds():
    threads = Threads(3)
    assert threads.most == 3
    threads.took(3, 1, Lap(1.0, 0.0), 0.1)
    assert (threads.most, threads.is_trial) == (2, True)


def test_one_line_in_a_process_says_it(monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    for _ in range(2):
        Machine(2, {1: 1.0, 2: 4.0}, {1: 0.5, 2: 0.3}).train(0.7)
    assert shown.getvalue() == ""
    for _ in range(2):
        Machine(2, {1: 1.0, 2: 4.0}, {1: 0.5, 2: 0.3}).train(3.0)
    (line,) = shown.getvalue().splitlines()
    assert line == (
        "fastmlp: 2 threads take longer than 1 while other work has the cores; "
        "steps go on with 1, and try more again"
    )


ON_ONE_CORE = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np, fastmlp
from fastmlp.training.threads import Threads

taken, took = [], Threads.took
def noted(self, threads, *what):
    taken.append(threads)
    return took(self, threads, *what)
Threads.took = noted

rng = np.random.default_rng(0)
X, y = rng.standard_normal((4000, 64)).astype("f4"), rng.standard_normal(4000).astype("f4")
network = fastmlp.Network([64, 128, 128, 1], "relu")
class UntilOneIsTried(fastmlp.Callback):
    def on_epoch_end(self, run):
        if {*taken} == {1, 2}:
            run.stop("both were taken")
def fit(threads, epochs, *callbacks):
    del taken[:]
    options = dict(batch_size=256, seed=0, backend="fused")
    return fastmlp.fit(network, X, y, threads=threads, epochs=epochs, callbacks=callbacks, **options)
two = fit(2, 10**6, UntilOneIsTried())
assert two.threads in (1, 2) and {*taken} == {1, 2}, taken  # two on one core: one is tried
alone = fit(1, len(two.history["loss"]))
assert alone.threads == 1 and {*taken} == {1}
assert np.array_equal(two.parameters, alone.parameters) and two.history == alone.history
print("same")
"""


@needs.linux("processes held to one core")
def test_a_training_changes_its_threads_under_way_and_keeps_its_bits():
    assert python("-c", ON_ONE_CORE).stdout == "same\n"


def test_a_model_knows_the_threads_of_its_training(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((256, 300)), rng.standard_normal(256)
    network = fastmlp.Network([300, 200, 1])
    for threads in (1, 2):
        model = fastmlp.fit(network, X, y, epochs=1, batch_size=128, threads=threads, backend="fused")
        assert model.threads == threads
    assert pickle.loads(pickle.dumps(model)).threads == 2
    fastmlp.save(model, tmp_path / "model")
    assert fastmlp.load(tmp_path / "model").threads is None
    assert fastmlp.fit(network, X, y, epochs=0, backend="fused").threads is None
