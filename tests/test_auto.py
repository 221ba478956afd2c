"""`backend="auto"`: what it begins with, what it has compiled beside, and that a change changes no bit."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import needs
import numpy as np
import pytest

import fastmlp
from fastmlp.backend import auto, registry
from fastmlp.backend.auto import Auto
from fastmlp.kernels.jit import store
from fastmlp.kernels.variant import Choice, Work
from fastmlp.system import background

NETWORK, OPTIMIZER = fastmlp.Network([8, 16, 3], "tanh"), fastmlp.Adam()


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A cache of the test's, with nothing in it."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FASTMLP_BACKGROUND", "1")
    store.names.cache_clear()
    yield tmp_path / "fastmlp"
    store.names.cache_clear()


@pytest.fixture
def asked(monkeypatch):
    """What processes beside are asked for."""
    requests = []
    monkeypatch.setattr(background, "is_possible", lambda: True)
    monkeypatch.setattr(background, "ask", lambda place, name, *call: requests.append(call) or True)
    return requests


@pytest.fixture
def on_disk(monkeypatch):
    """Names of backends whose machine code is said to be on the disk."""
    names = set()
    monkeypatch.setattr(Auto, "_is_ready", lambda self, one: one.name in names)
    return names


def work(steps, network=NETWORK, optimizer=OPTIMIZER, rows=32):
    return Work.of(network, optimizer, rows, np.dtype("f4"), 1, steps)


def test_a_short_training_compiles_nothing_for_itself_alone(asked, on_disk):
    assert Auto(work(1000)).name == "fused"
    on_disk.add("fused")
    assert Auto(work(1000)).name == "fused"
    assert asked == []


def test_what_is_on_the_disk_is_taken_at_once(asked, on_disk):
    on_disk.update(("fused", "specialized"))
    assert Auto(work(1)).name == "specialized"
    assert asked == []


def test_a_long_training_begins_with_what_is_there_and_has_the_faster_compiled_beside(asked, on_disk):
    on_disk.add("fused")
    assert Auto(work(10**8)).name == "fused"
    ((function, name, wanted),) = asked
    assert (function, name, wanted.network) == (auto.compile_beside, "specialized", NETWORK)


def test_where_nobody_can_compile_beside_a_long_training_compiles(asked, on_disk, monkeypatch):
    monkeypatch.setattr(background, "is_possible", lambda: False)
    on_disk.add("fused")
    assert Auto(work(10**8)).name == "specialized"
    assert Auto(work(1000)).name == "fused"
    assert asked == []


def test_a_backend_of_other_bits_does_not_depend_on_the_disk(asked, on_disk, monkeypatch):
    """Large batches: sums in groups."""
    large = work(10**9, fastmlp.Network([4, 32, 16, 4]), rows=8192)
    assert [Auto(large).name for _ in (1, 2)] == ["specialized"] * 2
    on_disk.update(("fused", "specialized"))
    assert Auto(large._replace(steps=100)).name == "fused"
    assert Auto(large, exact=True).name == "fused"


def test_the_notebook_s_program_is_taken_where_it_is_on_the_disk(asked, on_disk):
    """In registers, with the bits of `fused`."""
    tiny = work(100, fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse"), fastmlp.SGD(0.1), 4)
    assert Auto(tiny).name == "fused"
    on_disk.update(("fused", "specialized"))
    assert Auto(tiny).name == Auto(tiny, exact=True).name == "specialized"
    assert asked == []


def test_a_backend_of_other_bits_does_not_depend_on_the_threads(asked, on_disk):
    """The same search in one process and in many, which have fewer cores each, has the same scores."""
    summed_in_groups = fastmlp.Network([4, 32, 16, 4])
    for steps in (10**power for power in range(2, 9)):
        full = work(steps, summed_in_groups, rows=8192)
        assert not any(one.exact for one in auto.field(full).found if one.name == "specialized")
        assert len({Auto(full._replace(threads=threads)).name for threads in (1, 2, 8, 64)}) == 1


def test_a_variant_of_a_user_s_is_taken_where_it_says_that_it_is_fastest(asked, on_disk, monkeypatch):
    variant = registry.variants()["tiled"]._replace(name="mine", seconds=lambda work: 1e-9, exact=False)
    monkeypatch.setitem(registry._files, "mine", variant)
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
    def hear_by(self, run):
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
def test_a_training_changes_over_to_what_a_process_beside_has_compiled(place):
    """The process compiles, the training goes on, and every bit is that of one that never changed."""
    command = [sys.executable, "-W", "error", "-c", CHANGED]
    done = subprocess.run(
        command, env={**os.environ}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "specialized", done.stdout
    assert done.stderr.count("compiling") == 1, "the training itself has compiled"
    assert [*place.glob("*.request")] == []


# --- processes beside ------------------------------------------------------------------------------------


def note(path, text):
    with open(path, "a") as file:
        file.write(text)


def wait_for(path, text):
    latest = time.monotonic() + 30
    while time.monotonic() < latest:
        if path.exists() and path.read_text() == text:
            return
        time.sleep(0.02)
    raise AssertionError(f"{path.read_text() if path.exists() else 'nothing'} is not {text}")


def ask(place, name, *call):
    place.mkdir(parents=True, exist_ok=True)
    return background.ask(place, name, *call)


@needs.locks
def test_what_is_asked_for_is_done_once_by_another_process(place, tmp_path):
    told = tmp_path / "told"
    for name in ("a", "a", "b"):
        # Of a module that the other process can import.
        assert ask(place, name, os.open, str(told.with_suffix(f".{name}")), os.O_CREAT)
    wait_for(told.with_suffix(".b"), "")
    wait_for(told.with_suffix(".a"), "")
    assert [*place.glob("*.request")] == []


@needs.locks
def test_a_request_that_fails_leaves_the_next_to_be_done(place, tmp_path):
    path = tmp_path / "made"
    assert ask(place, "1", int, "no number")
    assert ask(place, "2", os.mkdir, str(path))
    latest = time.monotonic() + 30
    while not path.exists() and time.monotonic() < latest:
        time.sleep(0.02)
    assert path.exists()


def test_what_cannot_be_pickled_is_not_asked_for(place):
    assert not ask(place, "no", lambda: None)
    assert [*place.glob("*")] == []


@needs.locks
@pytest.mark.parametrize("reason", ["switch", "one core", "no interpreter", "frozen", "embedded"])
def test_without_a_core_or_where_it_is_turned_off_there_is_nobody_beside(reason, monkeypatch):
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
from pathlib import Path
from fastmlp.system import background
place = Path(sys.argv[1]); place.mkdir(parents=True, exist_ok=True)
background.ask(place, "long", __import__("time").sleep, 20)
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
def test_nobody_waits_for_a_process_beside(place, way):
    began = time.monotonic()
    command = [sys.executable, "-W", "error", "-c", ENDS, str(place), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 15


@needs.locks
def test_a_killed_holder_leaves_no_lock(place):
    place.mkdir(parents=True)
    hold = (
        "import sys, time; from pathlib import Path; from fastmlp.system import background\n"
        "with background._lock(Path(sys.argv[1])) as held: print(held, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    assert background._is_served(place)
    process.kill()
    process.wait()
    assert not background._is_served(place)
    process.stdout.close()
