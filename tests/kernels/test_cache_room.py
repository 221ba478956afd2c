"""How much the disk cache takes, what gives way, and what is said where there is no room."""

import os
import subprocess
import sys

import pytest
from support import needs
from support.processes import python

from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.store import MachineCode

MB = 1 << 20


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A directory of the test's for the cache; where its files are."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(store, "folders_lost", set())
    return tmp_path / "fastmlp"


def filled(place, name, count, size=MB // 4):
    """Save files as a process an hour ago did, one a second; return what loads one."""
    code = MachineCode("f", bytes(size), ("malloc",))
    for i in range(count):
        store.save(name, str(i), code)
        path = place / store.file_name(name, str(i))
        os.utime(path, (1e9 + i, 1e9 + i))
    return lambda i: store.load(name, str(i)) == code


def bytes_in(directory):
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_the_least_recently_used_gives_way(place, tmp_path, monkeypatch):
    own = filled(place, "own", 8)
    abandoned = place / "own.0123abcd.tmp"
    abandoned.write_bytes(bytes(MB))
    os.utime(abandoned, (1, 1))
    foreign = [place / "weights.bin", tmp_path / f"x.{'0' * 32}.bin"]
    for file in foreign:
        file.write_bytes(b"somebody's")
        os.utime(file, (1, 1))
    assert own(0)
    monkeypatch.setenv("FASTMLP_CACHE_BYTES", str(int(1.5 * MB)))
    store.save("new", "key", MachineCode("f", bytes(1000), ()))
    assert MB < bytes_in(tmp_path) <= 1.5 * MB + 20
    assert not abandoned.exists()
    assert all(file.exists() for file in foreign)
    assert [own(i) for i in range(8)] == [True, False, False, False, True, True, True, True]
    assert store.load("new", "key").object_code == bytes(1000), "what was saved last is gone"


def test_within_the_bound_nothing_goes(place):
    load = filled(place, "own", 20)
    assert all(load(i) for i in range(20))


WORK = """
import sys
from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.store import MachineCode

turn, loaded = int(sys.argv[1]), 0
for i in range(150):
    key = (i // 2 * 7 + turn) % 40  # twice in turn: what was saved last is there
    code = MachineCode("f", bytes([key]) * 50_000, ())
    found = store.load("shared", str(key))
    assert found in (None, code)
    loaded += found is not None
    if found is None:
        store.save("shared", str(key), code)
assert loaded, "nothing was ever there"
"""


@pytest.mark.slow  # processes, 2 s
def test_processes_that_save_load_and_remove_at_once(tmp_path):
    commands = [[sys.executable, "-W", "error", "-c", WORK, str(turn)] for turn in range(3)]
    environment = {**os.environ, "FASTMLP_CACHE_BYTES": str(MB)}
    running = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands
    ]
    said = [process.communicate(timeout=needs.PATIENCE)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    assert 0 < bytes_in(tmp_path) <= MB


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("lots", "FASTMLP_CACHE_BYTES must be a whole number of bytes, got 'lots'"),
        ("-1", "FASTMLP_CACHE_BYTES must be a whole number of bytes, got '-1'"),
        ("1000", f"FASTMLP_CACHE_BYTES is 1000, and a program needs up to {MB}"),
    ],
)
def test_a_bound_that_leaves_no_room_keeps_nothing(given, why, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_BYTES", given)
    assert store.why_not_saved() == why
    store.save("any", "key", MachineCode("f", b"code", ()))
    assert bytes_in(tmp_path) == 0


def test_what_is_lost_although_there_was_room_is_reported_once(place, monkeypatch, capsys):
    assert store.why_not_saved() is None

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    for key in ("one", "two"):
        store.save("any", key, MachineCode("f", b"code", ()))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastmlp: later runs will compile again, for ")
    assert line.endswith("takes no more files: No space left on device")
    assert bytes_in(place) == 0


FULL = """
import resource
import fastmlp

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, 1 << 10))  # a write beyond fails as on a full disk
model = fastmlp.fit(
    fastmlp.Network([1, 1]), [[1.0]], [1.0], epochs=1, backend="specialized", optimizer=fastmlp.SGD(0.1)
)
"""


@pytest.mark.slow  # a process that compiles, 7 s
@needs.posix("a limit of a file's size")
def test_on_a_full_disk_nobody_promises_that_later_runs_load(tmp_path):
    # Python writes the halves of files of bytecode there, and other processes read them.
    environment = {"FASTMLP_CACHE_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = python("-W", "error", "-c", FULL, **environment)
    (line,) = done.stderr.splitlines()
    assert "later runs will compile again" in line
    assert line.endswith("takes no more files: File too large")
    assert [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.tmp")] == []
