"""Programs on disk: damaged, foreign, unwritable, turned off. All compile anew, and no other code runs."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import needs
import pytest

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
"""Of Linux, which Python has no names for."""

pytestmark = pytest.mark.slow  # some twenty cold compilations, 5 s each

TRAIN = """
import numpy as np, fastmlp, sys
X = np.linspace(-1, 1, 10).reshape(5, 2)
kind = sys.argv[1] if len(sys.argv) > 1 else "float64"
model = fastmlp.fit(fastmlp.Network([2, 1]), X, X[:, 0], epochs=3, seed=0, backend="baseline", dtype=kind)
print(model.history["loss"])
"""


def start(cache, *arguments, **environment):
    return launched(TRAIN, {**os.environ, "FASTMLP_CACHE_DIR": str(cache), **environment}, *arguments)


def launched(script, environment, *arguments, **options):
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **options
    )


def finish(process):
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out, err.splitlines()


def run(cache, *arguments, **environment):
    return finish(start(cache, *arguments, **environment))


def programs(cache):
    """The files of programs; those of the pieces that they call lie beside them."""
    return sorted(cache.rglob("*train_chunk*.bin"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with one program in it: its directory, the program's file, and what the training printed."""
    cache = tmp_path_factory.mktemp("cache")
    losses, (line,) = run(cache)
    assert "later runs load it from the disk cache" in line
    (file,) = programs(cache)
    return cache, file, losses


def test_the_second_process_loads(filled):
    cache, _, losses = filled
    assert run(cache) == (losses, [])


DAMAGE = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "shorter than its checksum": lambda content: content[:10],
    "a flipped bit in the checksum": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a flipped bit in the code": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "another pickle": lambda content: b"\x80\x04." + content,
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("what", ["train_chunk*", "affine.*"])
def test_a_damaged_file_is_compiled_anew_and_replaced(filled, kind, what):
    cache, program, losses = filled
    (file,) = cache.rglob(f"{what}.bin")
    damaged = DAMAGE[kind](file.read_bytes())
    file.write_bytes(damaged)
    got, said = run(cache)
    assert got == losses
    assert ["compiling" in line for line in said] == [True] * (file == program)
    assert file.read_bytes() != damaged
    assert run(cache) == (losses, []), "the damaged file was not replaced"


def test_pieces_that_are_lost_are_compiled_anew(filled):
    cache, program, losses = filled
    lost = [file for file in cache.rglob("*.bin") if file != program]
    assert lost
    for file in lost:
        file.unlink()
    assert run(cache) == (losses, [])
    assert all(file.exists() for file in lost)


@needs.modes
def test_a_file_that_others_can_write_is_not_loaded(filled):
    cache, file, losses = filled
    file.chmod(0o622)
    assert len(run(cache)[1]) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    assert run(cache) == (losses, [])


@needs.modes
def test_a_directory_that_others_can_write_to_is_not_used(filled):
    cache, file, losses = filled
    file.parent.chmod(0o777)
    got, (line,) = run(cache)
    file.parent.chmod(0o700)
    assert got == losses
    assert "others could write to" in line
    assert "will compile again" in line


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_directory_that_somebody_else_owns_is_not_used(filled):
    cache, file, losses = filled
    os.chown(file.parent, 1234, 1234)
    got, (line,) = run(cache)
    os.chown(file.parent, os.geteuid(), os.getegid())
    assert got == losses
    assert "others could write to" in line


def test_the_switch_turns_it_off(filled, tmp_path):
    cache, _, losses = filled
    for directory in (cache, tmp_path):
        got, (line,) = run(directory, FASTMLP_CACHE="0")
        assert got == losses
        assert line.endswith("later runs will compile again, for FASTMLP_CACHE is 0")
    assert list(tmp_path.rglob("*.bin")) == []


HOMES = {"a read-only home": "", "no home": "missing", "a file for a home": "file", "no user either": None}

NO_USER = """
import pwd
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
"""
"""As in a container that runs under a number of its own; expanduser then leaves "~" as it is."""


def heed_modes():
    """Let the modes of files count for root, too; others have nothing to give up."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


@needs.modes
@pytest.mark.parametrize("kind", HOMES)
def test_without_a_place_to_write_to_it_compiles_and_says_so(filled, kind, tmp_path):
    """Nobody may write to the package or to where we are, and only the home is left."""
    package = shutil.copytree(PACKAGE, tmp_path / "fastmlp", ignore=shutil.ignore_patterns("__pycache__"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_text("not a directory")
    before = sorted(tmp_path.rglob("*"))
    names = {"FASTMLP_CACHE_DIR", "HOME", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    if HOMES[kind] is not None:
        environment["HOME"] = str(home / HOMES[kind])
    script = TRAIN if "HOME" in environment else NO_USER + TRAIN
    locked = [path for path in (home, package, *package.rglob("*")) if path.is_dir()]
    for directory in locked:
        directory.chmod(0o555)
    try:
        given = {**environment, "PYTHONPATH": str(tmp_path)}
        got, (line,) = finish(launched(script, given, cwd=home, preexec_fn=heed_modes))
    finally:
        for directory in locked:
            directory.chmod(0o755)
    assert got == filled[2]
    assert "later runs will compile again, for there is no directory to write to" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_eight_cold_processes_at_once(tmp_path, told):
    """Two dtypes in turn: what one writes must never be taken for the other's."""
    processes = [start(tmp_path, kind) for kind in ("float32", "float64") * 4]
    first = [finish(process)[0] for process in processes]
    assert len(set(first[::2])) == len(set(first[1::2])) == 1
    for kind, losses in zip(("float32", "float64"), first[:2], strict=True):
        assert run(tmp_path, kind) == (losses, [])
    assert len(programs(tmp_path)) == 2
    assert list(tmp_path.rglob("*.tmp")) == []
    told("8 cold processes at once, 2 programs, nothing lost")


def test_bounds_checking_has_programs_of_its_own(filled):
    cache, _, losses = filled
    before = len(programs(cache))
    got, said = run(cache, NUMBA_BOUNDSCHECK="1")
    assert got == losses
    assert len(said) == 1
    assert len(programs(cache)) == before + 1


def test_without_the_compiler_there_is_one_line_and_the_reference(tmp_path):
    process = start(tmp_path, NUMBA_DISABLE_JIT="1")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("RuntimeError: NUMBA_DISABLE_JIT is set")
    assert "backend='reference'" in err
