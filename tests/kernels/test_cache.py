"""Programs on disk: damaged, foreign, unwritable, turned off. All compile anew, and no other code runs."""

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import needs, pages
from support.terminals import WATCHED

import fastmlp

PACKAGE = Path(fastmlp.__file__).parent

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
"""Constants of Linux, for which Python has no names."""

pytestmark = pytest.mark.slow  # some twenty cold compilations, 5 s each

PREDICT = """
import numpy as np, fastmlp, sys
from fastmlp.backend import registry
kind = sys.argv[1] if len(sys.argv) > 1 else "float64"
X, out = np.linspace(-1, 1, 10, dtype=kind).reshape(5, 2), np.empty((5, 1), kind)
registry.get("baseline").predict(fastmlp.Network([2, 1]), np.array([0.1, 0.2, 0.3], kind), X, out)
print(out.ravel().tolist())
"""
"""A program that compiles in 2 s, a training's in 10."""


def start(cache, *arguments, **environment):
    environment = {**os.environ, "FASTMLP_CACHE_DIR": str(cache), **environment}
    return launched(WATCHED + PREDICT, environment, *arguments)


def launched(script, environment, *arguments, **options):
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **options)


def finish(process):
    out, err = process.communicate(timeout=needs.PATIENCE)
    assert process.returncode == 0, err
    return out, err.splitlines()


def run(cache, *arguments, **environment):
    return finish(start(cache, *arguments, **environment))


def programs(cache):
    """The files of programs; those of the functions that they call lie next to them."""
    return sorted(cache.rglob("*predict*.bin"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache with one program in it: its directory, the program's file, and what the process printed."""
    cache = tmp_path_factory.mktemp("cache")
    printed, (line,) = run(cache)
    assert "later runs load it from the disk cache" in line
    (file,) = programs(cache)
    return cache, file, printed


def test_the_second_process_loads(filled):
    cache, _, printed = filled
    assert run(cache) == (printed, [])


DAMAGE = {
    "emptied": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "shorter than its checksum": lambda content: content[:10],
    "a flipped bit in the checksum": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "a flipped bit in the code": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "another pickle": lambda content: b"\x80\x04." + content,
}  # fmt: skip


# A program takes longer to compile than a function that it calls; one reader reads both.
OF_A_PROGRAM = [("predict*", kind) for kind in ("truncated", "a flipped bit in the code")]


@pytest.mark.parametrize(("what", "kind"), [*OF_A_PROGRAM, *(("affine-*", kind) for kind in DAMAGE)])
def test_a_damaged_file_is_compiled_anew_and_replaced(filled, what, kind):
    cache, program, printed = filled
    (file,) = cache.rglob(f"{what}.bin")
    damaged = DAMAGE[kind](file.read_bytes())
    file.write_bytes(damaged)
    got, said = run(cache)
    assert got == printed
    assert ["compiling" in line for line in said] == [True] * (file == program)
    assert file.read_bytes() != damaged
    assert run(cache) == (printed, []), "the damaged file was not replaced"


def test_functions_that_are_lost_are_compiled_anew(filled):
    cache, program, printed = filled
    lost = [file for file in cache.rglob("*.bin") if file != program]
    assert lost
    for file in lost:
        file.unlink()
    assert run(cache) == (printed, [])
    assert all(file.exists() for file in lost)


@needs.modes
def test_a_file_that_others_can_write_is_not_loaded(filled):
    cache, file, printed = filled
    file.chmod(0o622)
    assert len(run(cache)[1]) == 1
    assert not file.stat().st_mode & 0o022
    assert run(cache) == (printed, [])


@needs.modes
def test_a_directory_that_others_can_write_to_is_not_used(filled):
    cache, file, printed = filled
    file.parent.chmod(0o777)
    got, (line,) = run(cache)
    file.parent.chmod(0o700)
    assert got == printed
    assert "others could write to" in line
    assert "will compile again" in line


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away, and acts for others"
)


@needs_root
def test_a_directory_that_somebody_else_owns_is_not_used(filled):
    cache, file, printed = filled
    os.chown(file.parent, 1234, 1234)
    got, (line,) = run(cache)
    os.chown(file.parent, os.geteuid(), os.getegid())
    assert got == printed
    assert f"another user owns {str(file.parent)!r}" in line


def test_the_switch_turns_it_off(filled):
    cache, _, printed = filled
    before = sorted(cache.rglob("*"))
    got, (line,) = run(cache, FASTMLP_CACHE="0")
    assert got == printed
    assert line.endswith("later runs will compile again, for FASTMLP_CACHE is 0")
    assert sorted(cache.rglob("*")) == before


def respect_modes():
    """Let the modes of files count for root, too; others have nothing to give up."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)


def with_no_place_but(home, script, tmp_path):
    """Run a script where nobody may write to the package or to where we are; return as `finish`.

    home : a path in a folder that nobody may write to either; None for no such variable
    """
    package = pages.copy(PACKAGE, tmp_path / "fastmlp")
    here = tmp_path / "home"
    here.mkdir()
    (here / "file").write_text("not a directory")
    before = sorted(tmp_path.rglob("*"))
    names = {"FASTMLP_CACHE_DIR", "HOME", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PYTHONPATH": str(tmp_path)} | ({} if home is None else {"HOME": str(here / home)})
    locked = [path for path in (here, package, *package.rglob("*")) if path.is_dir()]
    for directory in locked:
        directory.chmod(0o555)
    try:
        return finish(launched(script, environment, cwd=here, preexec_fn=respect_modes))
    finally:
        for directory in locked:
            directory.chmod(0o755)
        assert sorted(tmp_path.rglob("*")) == before


@needs.modes
def test_without_a_place_to_write_to_it_compiles_and_says_so(filled, tmp_path):
    got, (line,) = with_no_place_but("", PREDICT, tmp_path)
    assert got == filled[2]
    place = tmp_path / "home" / ".cache" / "fastmlp"
    assert f"later runs will compile again, for {str(place)!r} cannot be used (Permission denied); " in line
    assert line.endswith("FASTMLP_CACHE_DIR can name another directory")


NO_USER = """
import pwd
def nobody(number):
    raise KeyError(number)
pwd.getpwuid = nobody
"""
"""A user without a name, as in a container; expanduser then leaves "~" as it is."""

WHY = """
from fastmlp.kernels.jit import store
print(store.why_not_saved())
"""


@needs.modes
@pytest.mark.parametrize(
    ("home", "script", "reason"),
    [
        ("missing", WHY, "/home/missing/.cache/fastmlp' cannot be used (Permission denied)"),
        ("file", WHY, "/home/file' is a link or no directory"),
        (None, NO_USER + WHY, "there is no directory to write to"),
    ],
)
def test_a_home_that_is_none_is_no_place_to_write_to(home, script, reason, tmp_path):
    why, said = with_no_place_but(home, script, tmp_path)
    assert f"{reason}; FASTMLP_CACHE_DIR can name" in why
    assert said == []


@needs.modes
def test_a_cache_of_one_s_own_that_is_read_only_is_read(filled):
    cache, file, printed = filled
    before, script = sorted(cache.rglob("*")), WATCHED + PREDICT
    environment = {**os.environ, "FASTMLP_CACHE_DIR": str(cache)}
    file.parent.chmod(0o555)
    try:
        assert finish(launched(script, environment, preexec_fn=respect_modes)) == (printed, [])
        _, (line,) = finish(launched(script, environment, "float32", preexec_fn=respect_modes))
    finally:
        file.parent.chmod(0o755)
    assert f"later runs will compile again, for {str(file.parent)!r} can only be read; " in line
    assert sorted(cache.rglob("*")) == before


AS_ANOTHER = """
import importlib, os, sys
import fastmlp
from fastmlp.kernels.jit import store
for name in sys.argv[2].split():  # another user may not be able to read them
    importlib.import_module(name)
dir(fastmlp)  # reads the list of public names
store.package_digest()  # nor this
os.setgroups([]), os.setgid(65534), os.setuid(65534)
"""

AFTERWARDS = """
from fastmlp.kernels.jit import engine
print(engine.compiled, "numba" in sys.modules)
print(*(name for name, module in sys.modules.items() if getattr(module, "__spec__", None)))
"""


@needs_root
def test_what_root_has_compiled_nobody_compiles_again():
    """As in an image of a container that `fastmlp warmup` has filled, and that runs as another user."""
    cache = Path(tempfile.mkdtemp())
    cache.chmod(0o755)
    try:
        environment = {**os.environ, "FASTMLP_CACHE_DIR": str(cache)}
        printed, _ = finish(launched(PREDICT, environment, "float64"))
        root, said = finish(launched(WATCHED + PREDICT + AFTERWARDS, environment, "float64"))
        modules = root.splitlines()[-1]
        script = WATCHED + AS_ANOTHER + PREDICT + AFTERWARDS
        nobody, also_said = finish(launched(script, environment, "float64", modules))
    finally:
        shutil.rmtree(cache)
    assert said == also_said == []
    assert root.splitlines()[:-1] == nobody.splitlines()[:-1] == [*printed.splitlines(), "[] False"]


def test_cold_processes_at_once(tmp_path, report_figure):
    """Two dtypes in turn: what one writes must never be taken for the other's."""
    processes = [start(tmp_path, kind) for kind in ("float32", "float64") * 2]
    first = [finish(process)[0] for process in processes]
    assert len(set(first[::2])) == len(set(first[1::2])) == 1
    for kind, printed in zip(("float32", "float64"), first[:2], strict=True):
        assert run(tmp_path, kind) == (printed, [])
    assert len(programs(tmp_path)) == 2
    assert list(tmp_path.rglob("*.tmp")) == []
    report_figure("4 cold processes at once, 2 programs, nothing lost")


def test_bounds_checking_has_programs_of_its_own(filled):
    cache, _, printed = filled
    before = len(programs(cache))
    got, said = run(cache, NUMBA_BOUNDSCHECK="1")
    assert got == printed
    assert len(said) == 1
    assert len(programs(cache)) == before + 1


def test_without_the_compiler_there_is_one_line_and_the_reference(tmp_path):
    process = start(tmp_path, NUMBA_DISABLE_JIT="1")
    _, err = process.communicate(timeout=needs.PATIENCE)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("RuntimeError: NUMBA_DISABLE_JIT is set")
    assert "backend='reference'" in err
