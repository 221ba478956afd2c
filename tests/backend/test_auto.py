"""`backend="auto"`: what it begins with, and when it compiles a faster program; a change changes no bit."""

import threading

import numpy as np
import pytest
from support import pages
from support.auto_choice import work
from support.processes import python
from support.terminals import WATCHED

import fastmlp
from fastmlp.backend import auto, choice, programs, registry
from fastmlp.backend.auto import Auto
from fastmlp.backend.programs import Rental
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.variant import Variant
from fastmlp.lab.table import outlook
from fastmlp.system import budget

pytestmark = pytest.mark.usefixtures("place", "no_files")


def test_a_training_of_which_nothing_is_compiled_begins_with_what_serves_all_networks(on_disk):
    assert {Auto(work(steps)).name for steps in (1, 10**8, None)} == {"fused"}


def test_what_is_on_the_disk_is_taken_at_once(on_disk):
    on_disk.update(("fused", "specialized"))
    assert Auto(work(1)).name == "specialized"


def test_what_is_missing_is_looked_for_until_it_is_found_and_then_no_more(monkeypatch):
    there, asked, network = set(), [], fastmlp.Network([7, 5, 2])

    def has(entries, *training):
        asked.append(entries)
        return any(entries is registry.entries(name) for name in there)

    monkeypatch.setattr(Entries, "has", has)
    assert [Auto(work(1, network)).name for _ in range(2)] == ["fused", "fused"]
    there.update(("fused", "specialized"))
    assert Auto(work(1, network)).name == "specialized"
    asked.clear()
    assert Auto(work(1, network)).name == "specialized"
    assert asked == []


def key():
    return auto.field(work(1000)).fastest.key


def test_a_program_is_compiled_once_as_much_is_lost_as_that_takes_and_as_much_is_to_come(on_disk):
    on_disk.add("fused")
    cost, long = 2.0, 10**8
    assert not Auto(work(long)).is_due()
    Rental(key()).lose(0.9 * cost)
    assert not Auto(work(long)).is_due()
    under_way = Auto(work(1000))
    Rental(key()).lose(0.2 * cost)
    assert Auto(work(long)).is_due()
    assert Auto(work(None)).is_due()
    assert not under_way.is_due(), "it ends before it has saved what compiling takes"
    assert Auto(work(1000)).is_due(), "as much is expected to come as has been lost before"


@pytest.mark.parametrize(("cores", "here"), [(1, True), (2, False)])
def test_a_program_is_compiled_by_a_thread_where_a_core_is_free(cores, here, lane_programs):
    lane_programs(available_cores=lambda: cores)
    done, rental = [], Rental("a")
    rental.lose(100.0)
    assert rental.is_bought(100.0, lambda: done.append(threading.current_thread())) == here
    if not here:
        (compiler,) = programs.compilers.values()
        compiler.join()
        assert done == [compiler]
        assert compiler.daemon
        assert rental.is_bought(100.0, done.clear), "what a thread has not compiled is compiled here"


def test_an_error_of_a_compilation_reaches_the_training(on_disk, monkeypatch, lane_programs):
    """Where a thread has failed, the training takes the program, and meets the same error."""
    lane_programs(available_cores=lambda: 2)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    on_disk.add("fused")
    Rental(key()).lose(100.0)
    chosen = Auto(work(10**8))

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(chosen, "compile", fail)
    chosen.take_faster(chosen.faster)
    (compiler,) = programs.compilers.values()
    compiler.join()
    assert chosen.name == "fused"
    chosen.take_faster(chosen.faster)
    assert chosen.name == "specialized"


def test_explain_tells_what_a_training_takes(on_disk):
    def explained(steps):
        return " ".join(outlook(work(steps)))

    assert explained(1000).startswith("A training of 1000 steps begins on fused, which is compiled first. ")
    on_disk.add("fused")
    assert "begins on fused, which is compiled already. It stays there: specialized would save" in explained(
        1000
    )
    assert "steps it has lost 2 s without specialized, which is compiled then" in explained(10**8)
    Rental(key()).lose(0.5)
    assert explained(1000).endswith("Trainings of this process have lost 0.5 s without it so far.")
    on_disk.add("specialized")
    assert explained(1) == (
        "A training of 1 steps begins on specialized, which is compiled already. "
        "It stays there: no backend of the same bits has a smaller estimate."
    )


def test_what_begins_on_a_program_of_its_own_needs_no_other_training(monkeypatch):
    monkeypatch.setattr(Entries, "has", lambda entries, program, dtype: program != "train_chunk")
    described = fastmlp.Network([6, 5, 2], "tanh"), fastmlp.Adam(), 32, np.dtype(np.float32), 1
    assert choice.is_ready(*described)


@pytest.fixture
def other_bits(monkeypatch):
    """A user's backend of other bits, which has programs of single networks."""
    own = registry.variants()["specialized"]
    variant = own._replace(name="mine", seconds=lambda work: 1e-9, exact=False)
    monkeypatch.setitem(registry.registered, "mine", variant)


def test_a_backend_of_other_bits_depends_neither_on_the_disk_nor_on_threads(on_disk, other_bits):
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
def test_penalties_and_large_batches_have_the_same_choice(rows, l2, on_disk):
    network = fastmlp.Network([4, 32, 16, 4], l2=l2)
    on_disk.add("fused")
    assert Auto(work(100, network, rows=rows), exact=True).name == "fused"
    on_disk.add("specialized")
    assert Auto(work(100, network, rows=rows), exact=True).name == "specialized"


def test_the_notebook_s_program_is_taken_where_it_is_on_the_disk(on_disk):
    """In registers, with the bits of `fused`."""
    tiny = work(100, fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse"), fastmlp.SGD(0.1), 4)
    assert Auto(tiny).name == "fused"
    on_disk.update(("fused", "specialized"))
    assert Auto(tiny).name == Auto(tiny, exact=True).name == "specialized"


def test_a_variant_of_a_user_s_is_taken_where_it_says_that_it_is_fastest(on_disk, monkeypatch):
    variant = registry.variants()["tiled"]._replace(name="mine", seconds=lambda work: 1e-9, exact=False)
    monkeypatch.setitem(registry.registered, "mine", variant)
    assert Auto(work(10)).name == "mine"
    assert Auto(work(10), exact=True).name == "fused"


def test_what_auto_changes_between_has_the_same_bits():
    exact = [one.name for one in auto.field(work(1000)).exact]
    assert exact == ["fused", "specialized"]
    assert "baseline" not in [one.name for one in auto.field(work(1)).candidates]
    assert all(isinstance(choice, Variant) for choice in registry.choices().values())


CHANGED = """
import os, sys, threading, time
import numpy as np, fastmlp
from fastmlp.backend import programs

rng = np.random.default_rng(0)
X, y = rng.standard_normal((256, 8)), rng.standard_normal((256, 3))
network = fastmlp.Network([8, 16, 3], "tanh")

def fit(backend, epochs, **options):
    return fastmlp.fit(
        network, X, y, epochs=epochs, batch_size=32, seed=0, threads=1, progress=False, backend=backend,
        **options,
    )

class Until(fastmlp.Callback):
    '''Ends the training some chunks after it may change.'''
    chunks = 0
    def on_chunk_end(self, run):
        ready = [one.name for one in os.scandir(os.environ["FASTMLP_CACHE_DIR"] + "/fastmlp")]
        self.chunks += any(one.startswith("train_chunk@") and one.endswith(".bin") for one in ready)
    def on_epoch_end(self, run):
        if self.chunks > 3 and not any(one.is_alive() for one in programs.compilers.values()):
            run.stop("changed")
    def next_epoch(self, run):
        return run.epoch + 500

programs.about_seconds_of_a_network = lambda: 0.3
fit("fused", 1)
model = fit("auto", 3_000_000, callbacks=[Until()])
epochs = len(model.history["loss"])
same = fit("fused", epochs)
assert np.array_equal(model.parameters, same.parameters)
assert model.history == same.history
print(model.backend, len(programs.compilers))
"""


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("cores", [1, 2])
def test_a_training_changes_over_to_the_program_of_its_network(cores, place):
    """On one core it compiles the program itself; every bit is that of a training that never changed."""
    if cores > len(budget.affinity()):
        pytest.skip("there is one core")
    pinned = f"import os; os.sched_setaffinity(0, [*os.sched_getaffinity(0)][:{cores}])\n"
    done = python("-W", "error", "-c", WATCHED + pinned + CHANGED)
    assert done.stdout.split() == ["specialized", str(cores - 1)]
    assert done.stderr.count("compiling") == 3 - cores, "a thread's compilation is announced to nobody"


SHORT = """
import sys
import numpy as np, fastmlp
from fastmlp.backend import programs

rng = np.random.default_rng(0)
X, y = rng.standard_normal((256, 4)), rng.standard_normal((256, 3))
network = fastmlp.Network([4, 20, 14, 3], "tanh", l2=1e-4)
programs.about_seconds_of_a_network = lambda: 0.2

def fit(backend):
    return fastmlp.fit(
        network, X, y, epochs=500, batch_size=32, seed=0, threads=1, progress=False, backend=backend
    )

expected = fit("fused")
taken = []
while "specialized" not in taken:
    model = fit("auto")
    assert np.array_equal(model.parameters, expected.parameters)
    assert model.history == expected.history
    taken.append(model.backend)
print(taken[0], taken.count("fused") > 2)
"""


@pytest.mark.slow  # compiles
def test_short_trainings_come_to_the_program_of_their_network(place):
    """None of them is worth it, all of them together are; every bit stays."""
    assert python("-W", "error", "-c", SHORT).stdout.split() == ["fused", "True"]


LEFT = """
import sys, threading, time
import numpy as np
from fastmlp.backend import programs
from fastmlp.backend.auto import Auto
from fastmlp.backend.programs import Rental
from support.auto_choice import work

chosen = Auto(work(10**8))
programs.Rental(chosen.faster.key).lose(100.0)
chosen.take_faster(chosen.faster)
time.sleep(float(sys.argv[1]))
print([one.is_alive() for one in programs.compilers.values()])
"""


@pytest.mark.slow  # compiles
@pytest.mark.skipif(len(budget.affinity()) < 2, reason="there is one core")
@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.4, 0.6])
def test_a_process_that_ends_waits_for_no_compilation(seconds, place):
    done = python("-W", "error", "-c", LEFT, seconds, PYTHONPATH=str(pages.ROOT / "tests"))
    assert (done.stdout, done.stderr) == ("[True]\n", "")
