"""Processes that compile in the background: requests, locks, and who has none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import needs
import pytest
from background_tasks import TASKS, wait_for
from processes import python

from fastmlp.kernels.jit import store
from fastmlp.system import background

pytestmark = pytest.mark.usefixtures("place")


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
    try:
        python("-W", "error", "-c", ENDS, Path(__file__).parents[1], way, end)
    finally:
        end.touch()


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
