"""How much the disk cache takes, what gives way, and what is said where there is no room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numba
import pytest

from fastmlp.kernels.jit import cache
from fastmlp.kernels.jit.digest import Reach

MB = 1 << 20


def twice(x):
    return x + x


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """compiled(): a function with a cache in a directory of the test's, compiled when called."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_directories", set())  # those of other tests are not to be pruned
    return lambda: cache.kept_on_disk(numba.njit(twice), Reach(twice))


def filled(directory, base, count, size=MB // 4):
    """Save files as a process an hour ago did, one a second; return what loads them."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = cache._Files(directory, base)
    for i in range(count):
        files.save(i, bytes(size))
        os.utime(files._path(i), (1e9 + i, 1e9 + i))
    return files


def bytes_in(directory):
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def test_the_least_recently_used_gives_way(compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_BYTES", str(2 * MB))
    entry = compiled()
    own = filled(entry._cache._cache_file.directory, "own", 6)
    elsewhere = filled(tmp_path / "other_source" / "fastmlp", "elsewhere", 6)
    abandoned = own.directory / "own.0123abcd.tmp"
    abandoned.write_bytes(bytes(MB))
    os.utime(abandoned, (1, 1))
    foreign = [own.directory / "weights.bin", tmp_path / "other_source" / f"x.{'0' * 32}.bin"]
    for file in foreign:
        file.write_bytes(b"somebody's")
        os.utime(file, (1, 1))
    assert own.load(0) == elsewhere.load(0) == bytes(MB // 4)
    assert entry(2) == 4
    assert 1.5 * MB < bytes_in(tmp_path) <= 2 * MB + 20
    assert not abandoned.exists()
    assert all(file.exists() for file in foreign)
    there = [[files.load(i) is not None for i in range(6)] for files in (own, elsewhere)]
    assert there == [[True, False, False, True, True, True], [True, False, False, False, True, True]]
    again = compiled()
    assert again(2) == 4
    assert list(again.stats.cache_hits.values()) == [1], "what was saved last is gone"


def test_within_the_bound_nothing_goes(compiled, tmp_path):
    files = filled(tmp_path / "source" / "fastmlp", "own", 20)
    compiled()(2)
    assert all(files.load(i) is not None for i in range(20))


WORK = """
import os, sys
from pathlib import Path
from fastmlp.kernels.jit import cache
from fastmlp.kernels.jit.digest import Reach

directory, turn = Path(sys.argv[1]), int(sys.argv[2])
files, loaded = cache._Files(directory, "shared"), 0
for i in range(150):
    key = (i // 2 * 7 + turn) % 40  # twice in turn: what was saved last is there
    found = files.load(key)
    assert found in (None, bytes([key]) * 50_000)
    loaded += found is not None
    if found is None:
        files.save(key, bytes([key]) * 50_000)
        cache.prune([directory], 1 << 20)
assert loaded, "nothing was ever there"
"""


def test_processes_that_save_load_and_remove_at_once(tmp_path):
    commands = [[sys.executable, "-W", "error", "-c", WORK, str(tmp_path), str(turn)] for turn in range(3)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    said = [process.communicate(timeout=60)[1] for process in running]
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
def test_a_bound_that_leaves_no_room_keeps_nothing(given, why, compiled, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_BYTES", given)
    entry = compiled()
    assert cache.why_not_kept(entry) == why
    assert entry(2) == 4
    assert bytes_in(tmp_path) == 0


def test_what_is_lost_although_there_was_room_is_told_once(compiled, capsys):
    entry = compiled()
    assert cache.why_not_kept(entry) is None
    shutil.rmtree(entry._cache._cache_file.directory)
    assert entry(2) == 4
    assert entry(2.0) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastmlp: later runs will compile again, for ")
    assert line.endswith("takes no more files: No such file or directory")


FULL = """
import resource
import fastmlp

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))  # a write beyond fails as on a full disk
model = fastmlp.fit(
    fastmlp.Network([1, 1]), [[1.0]], [1.0], epochs=1, backend="specialized", optimizer=fastmlp.SGD(0.1)
)
"""


def test_on_a_full_disk_nobody_promises_that_later_runs_load(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "later runs will compile again" in line
    assert line.endswith("takes no more files: File too large")
    assert bytes_in(tmp_path) == 0
