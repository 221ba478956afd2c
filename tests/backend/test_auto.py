"""`backend="auto"`: what it begins with and has compiled in the background; a change changes no bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import needs
import numpy as np
import pytest
from background_tasks import TASKS, wait_for
from terminals import WATCHED

import fastmlp
from fastmlp.backend import auto, background_tasks, registry
from fastmlp.backend.auto import Auto
from fastmlp.kernels.jit import spent as spent_module
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.jit.spent import Spent, key_of, spent
from fastmlp.kernels.variant import Choice, Work
from fastmlp.lab.explain import outlook
from fastmlp.model.descriptions import restored
from fastmlp.system import background

NETWORK, OPTIMIZER = fastmlp.Network([8, 16, 3], "tanh"), fastmlp.Adam()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of the test's, with nothing in it."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FASTMLP_BACKGROUND", "1")
    monkeypatch.setattr(auto, "recent_requests", {})
    for kept in (store.names, spent):
        kept.cache_clear()
    yield tmp_path / "fastmlp"
    for kept in (store.names, spent):
        kept.cache_clear()


@pytest.fixture
def requested(monkeypatch):
    """What background processes are requested to do."""
    requests = []
    monkeypatch.setattr(background, "is_possible", lambda: True)
    monkeypatch.setattr(background, "request", lambda place, name, *call: requests.append(call) or True)
    return requests


@pytest.fixture
def on_disk(monkeypatch):
    """Names of backends whose machine code is said to be on the disk."""
    names = set()
    monkeypatch.setattr(Auto, "is_ready", lambda self, one: one.name in names)
    return names


def work(steps, network=NETWORK, optimizer=OPTIMIZER, rows=32):
    return Work.of(network, optimizer, rows, np.dtype("f4"), 1, steps)


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
    command = [sys.executable, "-W", "error", "-c", WATCHED + CHANGED]
    done = subprocess.run(
        command, env={**os.environ}, capture_output=True, text=True, timeout=needs.PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "specialized", done.stdout
    # Of "fused"; none where the process beside was the faster one.
    assert done.stderr.count("compiling") <= 1, "the training itself has compiled"
    assert [*place.glob("*.request")] == []


# --- what has been spent ---------------------------------------------------------------------------------


def key():
    (own,) = (one for one in auto.field(work(1000)).found if one.name == "specialized")
    return key_of(own.bound)


def test_what_trainings_have_taken_is_counted_until_it_is_worth_the_program(requested, on_disk):
    on_disk.add("fused")
    spent().add(key(), 1.9)
    assert Auto(work(1000)).name == "fused"
    assert requested == []
    spent().add(key(), 0.2)
    assert [Auto(work(1000)).name for _ in range(3)] == ["fused"] * 3
    assert [call[:2] for call in requested] == [("compile", "specialized")]


def test_nothing_is_requested_without_a_background_process(requested, on_disk, monkeypatch):
    monkeypatch.setattr(background, "is_possible", lambda: False)
    on_disk.add("fused")
    spent().add(key(), 100.0)
    assert Auto(work(1000)).name == "fused"
    assert requested == []


def test_explain_tells_what_a_training_takes(requested, on_disk):
    def explained(steps):
        return " ".join(outlook(work(steps)))

    assert explained(1000).startswith(
        "A training of 1000 steps begins on fused, which is compiled first. It stays there: "
    )
    on_disk.add("fused")
    assert "begins on fused, which is compiled already. It stays there: specialized would save" in explained(
        1000
    )
    spent().add(key(), 0.5)
    assert (
        "Trainings have taken 0.5 s without it so far; once that is 2 s, it is compiled meanwhile"
        in explained(1000)
    )
    assert (
        "specialized is compiled in the background, in about 2 s. This changes over then, after about "
        in explained(10**8)
    )
    spent().add(key(), 1.6)
    assert "specialized is compiled in the background, in about 2 s. Later ones take that." in explained(1000)
    on_disk.add("specialized")
    assert explained(1) == (
        "A training of 1 steps begins on specialized, which is compiled already. "
        "It stays there: nothing of the same bits is faster."
    )
    assert requested == []


def test_sums_are_written_without_a_look_at_all_files(place, monkeypatch):
    monkeypatch.setattr(store, "prune", lambda *arguments: pytest.fail("it took 80 ms of every 100"))
    spent().add(key(), 1.0)
    assert len([*place.glob("spent.*")]) == 1


def test_what_is_spent_is_summed_over_processes(place):
    one, other = Spent(), Spent()
    one.add("a", 0.25)
    other.add("a", 0.5)
    other.add("b", 0.01)
    assert (Spent().seconds("a"), Spent().seconds("b")) == (0.75, 0.0)
    other.keep()
    other.keep()
    assert (Spent().seconds("a"), Spent().seconds("b")) == (0.75, 0.01)
    one.forget()
    one.add("c", 0.01)
    assert len([*place.glob("spent.*")]) == 1


def test_the_sums_of_the_programs_that_were_trained_last_are_kept(place, monkeypatch):
    monkeypatch.setattr(spent_module, "MOST_PROGRAMS", 2)
    sums = Spent()
    for name in ("a", "b", "a", "c"):
        sums.add(name, 1.0)
    assert [Spent().seconds(name) for name in "abc"] == [2.0, 0.0, 1.0]


FITS = """
import sys, time
import numpy as np, fastmlp
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.entries import MEASURED

rng = np.random.default_rng(0)
X, y = rng.standard_normal((256, 4)), rng.standard_normal((256, 3))
network = fastmlp.Network([4, 20, 14, 3], "tanh", l2=1e-4)

def fit(backend, epochs):
    return fastmlp.fit(
        network, X, y, epochs=epochs, batch_size=32, seed=0, threads=1, progress=False, backend=backend
    )

backend, seconds = sys.argv[1], float(sys.argv[2])
if backend == "fused":
    fit(backend, 1)
    store.names().put(MEASURED, "0.3")
else:
    model, expected = None, fit("fused", 500)
    latest = time.monotonic() + seconds
    while model is None or time.monotonic() < latest:
        model = fit(backend, 500)
        assert np.array_equal(model.parameters, expected.parameters)
        assert model.history == expected.history
        print(model.backend)
        if model.backend == "specialized":
            break
"""


def fits(backend, seconds=0.0, **environment):
    """The backends that trainings of one shape took, which a process began in so many seconds."""
    command = [sys.executable, "-W", "error", "-c", FITS, backend, str(seconds)]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=needs.PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "network" not in done.stderr, "a training itself has compiled"
    return done.stdout.split()


@needs.locks
@pytest.mark.slow  # trains until a process of the least priority has compiled
@pytest.mark.parametrize("seconds", [0.15, 300.0], ids=["many processes", "one process"])
def test_short_trainings_come_to_the_program_of_their_network(seconds, place):
    """None of them is worth it, all of them together are; every bit stays."""
    fits("fused")
    assert {*fits("auto", 1.0, FASTMLP_BACKGROUND="0")} == {"fused"}
    assert [*place.glob("*.request")] == []
    for file in place.glob("spent.*"):
        file.unlink()
    latest, taken = time.monotonic() + needs.PATIENCE, []
    while "specialized" not in taken and time.monotonic() < latest:
        taken += fits("auto", seconds)
    assert (taken[0], taken[-1]) == ("fused", "specialized")


# --- processes beside ------------------------------------------------------------------------------------


@pytest.fixture
def send(place, monkeypatch):
    """What asks in the test's directory for a task of the tests'."""
    monkeypatch.setattr(background, "TABLE", "background_tasks")
    return lambda *request: background.request(store.directory(), *request)


@needs.locks
def test_what_is_requested_is_done_once_by_another_process(place, send, tmp_path):
    for name in ("a", "a", "b"):
        assert send(name, "touch", str(tmp_path / name))
    wait_for(tmp_path / "a")
    wait_for(tmp_path / "b")
    assert [*place.glob("*.request")] == []


@needs.locks
def test_a_request_that_fails_leaves_the_next_to_be_done(send, tmp_path):
    assert send("1", "make", "/no/such/place")
    assert send("2", "os.remove", str(tmp_path))  # no task of the table
    assert send("3", "make", str(tmp_path / "made"))
    wait_for(tmp_path / "made")


@needs.locks
@pytest.mark.parametrize("kind", ["a directory", "a link", "no JSON"])
def test_what_is_no_request_keeps_no_process(kind, place, tmp_path):
    directory, strange = store.directory(), place / "strange.request"
    if kind == "a directory":
        strange.mkdir()
        with pytest.raises(OSError, match=str(strange.name)):
            background.serve(directory, {})
        return
    request = json.dumps(["touch", str(tmp_path / "done")])
    target = strange if kind == "no JSON" else tmp_path / "elsewhere"
    target.write_text(request[1:] if kind == "no JSON" else request)
    if kind == "a link":
        strange.symlink_to(target)
    background.serve(directory, TASKS)
    assert not (tmp_path / "done").exists()
    assert not strange.exists()


@needs.locks
@pytest.mark.parametrize("reason", ["switch", "one core", "no interpreter", "frozen", "embedded"])
def test_without_a_core_or_where_it_is_turned_off_there_is_no_background_process(reason, monkeypatch):
    monkeypatch.setattr(background, "cores", lambda: 2)
    assert background.is_possible()
    if reason == "switch":
        monkeypatch.setenv("FASTMLP_BACKGROUND", "0")
    elif reason == "one core":
        monkeypatch.setattr(background, "cores", lambda: 1)
    elif reason == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    else:
        monkeypatch.setattr(sys, "executable", None if reason == "no interpreter" else "/usr/bin/uwsgi")
    assert not background.is_possible()


ENDS = """
import os, signal, sys
from fastmlp.kernels.jit import spent as spent_module
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.spent import Spent, key_of, spent
from fastmlp.system import background
sys.path.append(sys.argv[1])
background.TABLE = "background_tasks"
background.request(store.directory(), "long", "wait for", sys.argv[3])
if sys.argv[2] == "fork":
    if (child := os.fork()) == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
elif sys.argv[2] == "Ctrl-C":
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
"""


@needs.forks
@pytest.mark.parametrize("way", ["exit", "fork", "Ctrl-C"])
def test_nobody_waits_for_a_background_process(place, way, tmp_path):
    """It ends only afterwards."""
    end = tmp_path / "end"
    command = [sys.executable, "-W", "error", "-c", ENDS, str(Path(__file__).parents[1]), way, str(end)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=needs.PATIENCE, check=False)
    finally:
        end.touch()
    assert done.returncode == 0, done.stderr


@needs.locks
def test_a_killed_holder_leaves_no_lock(place):
    hold = (
        "import time; from fastmlp.kernels.jit import store; from fastmlp.system import background\n"
        "with background.serving_lock(store.directory()) as held: print(held, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    assert background.is_served(store.directory())
    process.kill()
    process.wait()
    assert not background.is_served(store.directory())
    process.stdout.close()
