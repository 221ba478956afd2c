"""`backend="auto"`: what it begins with and has compiled in the background; a change changes no bit."""

from __future__ import annotations

import json

import needs
import pytest
from choosing import NETWORK, OPTIMIZER, work
from processes import python
from terminals import WATCHED

import fastmlp
from fastmlp.backend import auto, background_tasks, registry
from fastmlp.backend.auto import Auto
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.variant import Choice, Work
from fastmlp.model.descriptions import restored
from fastmlp.system import background

pytestmark = pytest.mark.usefixtures("place")


def test_a_short_training_compiles_nothing_for_itself_alone(requested, on_disk):
    assert Auto(work(1000)).name == "fused"
    on_disk.add("fused")
    assert Auto(work(1000)).name == "fused"
    assert requested == []


def test_what_is_on_the_disk_is_taken_at_once(requested, on_disk):
    on_disk.update(("fused", "specialized"))
    assert Auto(work(1)).name == "specialized"
    assert requested == []


def test_what_is_missing_is_looked_for_until_it_is_found_and_then_no_more(requested, monkeypatch):
    there, asked, network = set(), [], fastmlp.Network([7, 5, 2])

    def is_ready(entries, *training):
        asked.append(entries)
        return any(entries is registry.entries(name) for name in there)

    monkeypatch.setattr(Entries, "is_ready", is_ready)
    assert [Auto(work(1, network)).name for _ in range(2)] == ["fused", "fused"]
    there.update(("fused", "specialized"))
    assert Auto(work(1, network)).name == "specialized"
    asked.clear()
    assert Auto(work(1, network)).name == "specialized"
    assert asked == []


def test_a_long_training_begins_with_what_is_there_and_has_the_faster_one_compiled(requested, on_disk):
    on_disk.add("fused")
    assert Auto(work(10**8)).name == "fused"
    ((task, name, expected),) = requested
    assert (background_tasks.TASKS[task], name) == (auto.compile_in_background, "specialized")
    expected = Work(*restored(json.loads(json.dumps(expected))))
    assert (expected.network, expected.optimizer.rule) == (NETWORK, OPTIMIZER.rule)
    assert auto.field(expected).found == auto.field(work(10**8)).found, "it would compile another program"


def test_without_a_background_process_a_long_training_compiles(requested, on_disk, monkeypatch):
    monkeypatch.setattr(background, "is_possible", lambda: False)
    on_disk.add("fused")
    assert Auto(work(10**8)).name == "specialized"
    assert Auto(work(1000)).name == "fused"
    assert requested == []


@pytest.fixture
def other_bits(monkeypatch):
    """A user's backend of other bits, which has programs of single networks."""
    own = registry.variants()["specialized"]
    variant = own._replace(name="mine", seconds=lambda work: 1e-9, exact=False)
    monkeypatch.setitem(registry.registered, "mine", variant)


def test_a_backend_of_other_bits_depends_neither_on_the_disk_nor_on_threads(requested, on_disk, other_bits):
    """The same search in one process and in many, which have fewer cores each, has the same scores."""
    for ready in ((), ("fused",), ("fused", "mine")):
        on_disk.clear()
        on_disk.update(ready)
        for threads in (1, 2, 8, 64):
            names = [Auto(work(steps)._replace(threads=threads)).name for steps in (100, 10**9)]
            assert names == ["fused", "mine"]
            assert Auto(work(10**9)._replace(threads=threads), exact=True).name != "mine"


@pytest.mark.parametrize("rows", [32, 1024, 8192])
@pytest.mark.parametrize("l2", [0.0, 1e-4])
def test_penalties_and_large_batches_have_the_same_choice(rows, l2, requested, on_disk):
    network = fastmlp.Network([4, 32, 16, 4], l2=l2)
    on_disk.add("fused")
    assert Auto(work(100, network, rows=rows), exact=True).name == "fused"
    on_disk.add("specialized")
    assert Auto(work(100, network, rows=rows), exact=True).name == "specialized"
    assert requested == []


def test_the_notebook_s_program_is_taken_where_it_is_on_the_disk(requested, on_disk):
    """In registers, with the bits of `fused`."""
    tiny = work(100, fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse"), fastmlp.SGD(0.1), 4)
    assert Auto(tiny).name == "fused"
    on_disk.update(("fused", "specialized"))
    assert Auto(tiny).name == Auto(tiny, exact=True).name == "specialized"
    assert requested == []


def test_a_variant_of_a_user_s_is_taken_where_it_says_that_it_is_fastest(requested, on_disk, monkeypatch):
    variant = registry.variants()["tiled"]._replace(name="mine", seconds=lambda work: 1e-9, exact=False)
    monkeypatch.setitem(registry.registered, "mine", variant)
    assert Auto(work(10)).name == "mine"
    assert Auto(work(10), exact=True).name == "fused"


def test_what_auto_changes_between_has_the_same_bits():
    exact = [one.name for one in auto.field(work(1000)).exact]
    assert exact == ["fused", "packed", "specialized"]
    assert "baseline" not in [one.name for one in auto.field(work(1)).found]
    assert all(isinstance(choice, Choice) for choice in registry.choices().values())


CHANGED = """
import os, sys, time
import numpy as np, fastmlp
from fastmlp.backend import auto

rng = np.random.default_rng(0)
X, y = rng.standard_normal((256, 8)), rng.standard_normal((256, 3))
network = fastmlp.Network([8, 16, 3], "tanh")

def fit(backend, epochs, **options):
    return fastmlp.fit(
        network, X, y, epochs=epochs, batch_size=32, seed=0, threads=1, progress=False, backend=backend,
        **options,
    )

class Until(fastmlp.Callback):
    '''Ends the training some chunks after it may change; until then it leaves its core to the compiler.'''
    chunks = 0
    def on_chunk_end(self, run):
        ready = [*os.scandir(os.environ["FASTMLP_CACHE_DIR"] + "/fastmlp")]
        done = [one.name for one in ready if one.name.startswith("train_chunk@") and ".done" in one.name]
        self.chunks += bool(done)
        time.sleep(0.1)  # longer than between two looks at the disk
    def on_epoch_end(self, run):
        if self.chunks > 3:
            run.stop("changed")
    def next_epoch(self, run):
        return run.epoch + 500

fit("fused", 1)
began = time.perf_counter()
model = fit("auto", 3_000_000, callbacks=[Until()])
epochs = len(model.history["loss"])
same = fit("fused", epochs)
assert np.array_equal(model.parameters, same.parameters)
assert model.history == same.history
print(model.backend, epochs)
"""


@needs.locks
@pytest.mark.slow  # trains as long as a process of the least priority compiles
def test_a_training_changes_over_to_what_a_background_process_has_compiled(place):
    """The process compiles, the training goes on, and every bit is that of one that never changed."""
    done = python("-W", "error", "-c", WATCHED + CHANGED)
    assert done.stdout.split()[0] == "specialized", done.stdout
    # Of "fused"; none where the process beside was the faster one.
    assert done.stderr.count("compiling") <= 1, "the training itself has compiled"
    assert [*place.glob("*.request")] == []
