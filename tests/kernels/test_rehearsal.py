"""A cold training is compiled by several processes: each passes over what another process compiles."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path

import needs
import numpy as np
import pytest
from background_tasks import wait_for
from terminals import WATCHED

from fastmlp import Adam, Network
from fastmlp.backend import background_tasks, registry
from fastmlp.kernels.jit import engine, entries, rehearsal, store
from fastmlp.kernels.runtime import adapter
from fastmlp.kernels.runtime.preparing import prepare
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.descriptions import with_formulas
from fastmlp.model.layout import parameter_count
from fastmlp.model.state import initial_state
from fastmlp.system import background, locks

NETWORK, OPTIMIZER, ROWS = Network([5, 20, 3], output="softmax", loss="cross_entropy"), Adam(), [16, 7]


def trained(backend):
    """The state after some steps, as bytes."""
    rng, sizes = np.random.default_rng(0), NETWORK.sizes
    X, y = rng.random((23, 5), np.float32), np.eye(3, dtype=np.float32)[np.arange(23) % 3]
    state = initial_state(rng.standard_normal(parameter_count(Network(sizes))).astype(np.float32))
    stops = np.array([16, 23])
    chunk = Chunk(np.arange(23), stops - ROWS, stops, 1.0 * np.array(ROWS), np.full((2, 2), 0.1), 16)
    losses = np.empty(2)
    data = Data(X, y, np.ones(23, np.float32))
    after = backend.train_chunk(NETWORK, OPTIMIZER, state, data, chunk, 0, 1, losses)
    return [array.tobytes() for array in (after.parameters, after.moments, losses)]


@pytest.fixture(scope="module")
def expected():
    """What a training without a rehearsal comes to."""
    return trained(registry.get("fused"))


@pytest.fixture
def fresh(monkeypatch):
    """A program of which no piece has been called."""
    engine.common()
    place = engine.Engine()
    monkeypatch.setattr(engine, "common", lambda: place)
    monkeypatch.setattr(engine, "loaded_pieces", {})
    return registry.backend_of(registry.variants()["fused"])


def test_a_rehearsal_comes_back_to_what_others_are_at_and_changes_no_later_step(expected, fresh, monkeypatch):
    busy, requested, had = Counter({"rows_loss": 1, "weights_step": 2, "apply_rule": 1}), [], engine.code_of

    def found(name, key, compile_code, patient=True):
        name_of_piece = name.partition(".")[0]
        if not patient:
            requested.append(name_of_piece)
            if busy[name_of_piece]:
                busy[name_of_piece] -= 1
                return None
        return had(name, key, compile_code, patient)

    monkeypatch.setattr(engine, "code_of", found)
    assert prepare(fresh.train_chunk, fresh.predict, NETWORK, OPTIMIZER, "float32", ROWS)
    assert not busy.total()
    first = requested.index("rows_loss")
    assert "weights_step" in requested[first : requested.index("rows_loss", first + 1)], (
        "it waited for a piece"
    )
    monkeypatch.setattr(engine, "code_of", lambda name, *_: pytest.fail(f"{name} was left out"))
    assert trained(fresh) == expected


def test_a_rehearsal_writes_to_nothing_that_it_trains(fresh):
    state = initial_state(np.ones(parameter_count(NETWORK), np.float32))
    data = Data(*(np.ones(shape, np.float32) for shape in ((16, 5), (16, 3), 16)))
    once = np.zeros(1, np.int64)
    chunk = Chunk(np.arange(16), once, once + 16, np.ones(1), np.ones((1, 2)), 16)
    done = []

    def run():
        done.append(fresh.train_chunk(NETWORK, OPTIMIZER, state, data, chunk, 0, 1, np.empty(1)))

    assert rehearsal.rehearse(run, pytest.fail)
    assert done
    assert not rehearsal.is_under_way()
    assert (state.parameters == 1).all()
    assert (state.moments == 0).all()


def test_a_rehearsal_ends_where_another_process_never_does(fresh, monkeypatch):
    monkeypatch.setattr(rehearsal, "MOST_PATIENCE", 0.05)
    monkeypatch.setattr(engine, "code_of", lambda *_: None)
    meanwhile = []

    def run():
        raise rehearsal.Busy

    assert not rehearsal.rehearse(run, lambda: meanwhile.append(rehearsal.is_under_way()))
    assert set(meanwhile) == {True}


def test_a_rehearsal_that_fails_is_over(fresh):
    def run():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rehearsal.rehearse(run, run)
    assert not rehearsal.is_under_way()


def test_another_process_is_called_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_BACKGROUND", "1")
    monkeypatch.setattr(background, "TABLE", "background_tasks")
    assert background.call("touch", str(tmp_path / "there"))
    wait_for(tmp_path / "there")
    assert not background.call("touch", "x" * background.MOST_BYTES)


@needs.locks
def test_another_process_imports_nothing_from_where_it_happens_to_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    Path("json.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(background, "TABLE", "background_tasks")
    begun, start = [], background.start_process
    monkeypatch.setattr(background, "start_process", lambda *given: begun.append(start(*given)) or begun[-1])
    assert background.call("touch", str(tmp_path / "there"))
    assert begun[0].wait(needs.PATIENCE) == 0
    assert Path("there").exists()


@needs.locks
def test_a_lock_is_waited_for_in_vain_once(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(store, "MOST_PATIENCE", 0.3)

    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(locks, "time", types.SimpleNamespace(monotonic=time.monotonic, sleep=sleep))

    def waited():
        before = len(pauses)
        with store.only_one("piece", "key") as free:
            return free, len(pauses) > before

    with store.only_one("piece", "key"):  # a holder that is stopped; to the system each descriptor is another
        assert [waited(), waited()] == [(False, True), (False, False)]
    assert waited() == (True, False)
    with store.only_one("piece", "key"):
        assert waited() == (False, True), "it has been free since"


@needs.locks
def test_nobody_waits_for_locks_that_a_file_system_has_not(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))

    def flock(descriptor, how):
        raise OSError(errno.ENOSYS, "Function not implemented")  # Lustre without -o flock

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    store.directory()  # which is held from now on
    opened = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    began = time.monotonic()
    for patient in (True, False):
        with store.only_one("piece", "key", patient) as free:
            assert free
    assert time.monotonic() - began < store.MOST_PATIENCE / 2
    assert opened is None or len(os.listdir("/proc/self/fd")) == opened


def test_one_process_at_a_time_takes_part(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(registry, "get", lambda name: pytest.fail("there were two"))
    with store.only_partner() as alone:
        assert alone
        background_tasks.take_part("fused", with_formulas(NETWORK), with_formulas(OPTIMIZER), "float32", ROWS)


def test_who_compiles_a_network_s_own_program_requests_a_partner_for_predictions(monkeypatch):
    requested = []
    monkeypatch.setattr(adapter, "request_partner", lambda *given: requested.append(given))
    monkeypatch.setattr(entries.Entries, "is_ready", lambda *_: False)
    own = "specialized", registry.choice_of("specialized"), registry.entries("specialized")
    rehearsing, training = (adapter.compiled_backend(*own) for _ in range(2))
    assert prepare(rehearsing.train_chunk, rehearsing.predict, NETWORK, OPTIMIZER, "float32", ROWS)
    assert not requested, "a partner would have started another"
    trained(training)
    assert requested == [("specialized", NETWORK, OPTIMIZER, "float32", [16])]


COLD = """
import sys
import numpy as np, fastmlp
from fastmlp.kernels.jit import engine
from fastmlp.system import background

begun, start = [], background.start_process
background.start_process = lambda *given: begun.append(start(*given)) or begun[-1]
X = np.random.default_rng(0).random((70, 9), np.float32)
network = fastmlp.Network([9, 40, 10], output="softmax", loss="cross_entropy")
model = fastmlp.fit(network, X, np.arange(70) % 10, epochs=2, seed=0, progress=False, backend=sys.argv[1])
model.predict(X)
print(model.parameters.tobytes().hex(), len(begun), *engine.compiled, sep="\\n")
assert [process.wait(600) for process in begun] == [0] * len(begun)
"""


def cold(cache, backend="fused", **environment):
    environment = {**os.environ, "FASTMLP_CACHE_DIR": str(cache), "FASTMLP_TUNE": "0", **environment}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", WATCHED + COLD, backend], env=environment, stdout=pipe, stderr=pipe, text=True
    )


def outcome(process):
    """The parameters, how many processes were begun, what was compiled, and how many lines said so."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    parameters, begun, *compiled = out.splitlines()
    return parameters, int(begun), compiled, err.count("fastmlp: compiling")


@pytest.mark.slow
def test_processes_share_what_a_cold_training_compiles(tmp_path):
    parameters, begun, whole, notices = outcome(cold(tmp_path / "alone", FASTMLP_BACKGROUND="0"))
    assert (begun, notices) == (0, 1)
    assert any(name.startswith("predict") for name in whole)

    several = [cold(tmp_path / "two", FASTMLP_BACKGROUND="0") for _ in range(2)]
    both = [outcome(process) for process in several]
    assert {one[0] for one in both} == {parameters}
    assert sum(one[3] for one in both) == 1
    assert Counter(name for one in both for name in one[2]) == Counter(whole), "none twice, none left out"
    assert min(len(one[2]) for one in both) > len(whole) // 8

    with_partner = outcome(cold(tmp_path / "partner", FASTMLP_BACKGROUND="1"))
    assert with_partner[0] == parameters
    assert with_partner[1] == 1
    assert with_partner[3] <= 1
    assert len(with_partner[2]) < len(whole)
    assert not set(with_partner[2]) - set(whole)

    own = outcome(cold(tmp_path / "own", "specialized", FASTMLP_BACKGROUND="1"))
    assert own[:2] == (parameters, 1)
