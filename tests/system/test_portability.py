"""Guards for what Windows and macOS lack, or do in another way, each with that taken from Python here.

Nothing of this replaces a run on those systems; `docs/portability.md` says what has been run where.
"""

import ast
import ctypes
import errno
import functools
import importlib
import inspect
import os
import re
import signal
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import needs, pages
from support.processes import python
from support.selection import matrix

import fastmlp
from benchmarks import processes
from fastmlp.files import archive
from fastmlp.kernels.jit import store
from fastmlp.kernels.program import workers
from fastmlp.system import budget, interrupts, private_files
from fastmlp.system.budget import EFFICIENCY, on_linux, on_macos, on_windows, worth_using

CONTENT = ({"name": "any"}, {"values": np.arange(5.0)})

takes_from_posix = needs.posix("what Windows lacks is taken from it")

LACKING = """
import ctypes, logging, os, random, signal, subprocess, sys, threading  # with the real os

WANTING = (
    *("fork", "register_at_fork", "sched_getaffinity", "sched_setaffinity", "geteuid", "getuid", "nice"),
    *("fchown", "chown", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY"),
    *("forkpty", "getegid", "getloadavg", "killpg", "mkfifo", "pathconf", "setsid", "statvfs", "sysconf"),
)
SIGNALS = ("SIGALRM", "SIGCHLD", "SIGKILL", "SIGSTOP", "SIGUSR1", "alarm", "pthread_kill", "setitimer")
for module, names in ((os, WANTING), (signal, SIGNALS)):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # importing it raises ImportError
"""

KEEPING = """
def keeping(real):
    # Windows has no name for a file that is open, and takes none from one.
    def call(*paths, **options):
        for descriptor in range(3, 64):
            try:
                held = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                continue
            if held in map(os.path.realpath, map(os.fspath, paths)):
                raise PermissionError(13, f"{held} is open in this process")
        return real(*paths, **options)

    return call


os.replace, os.unlink, os.remove = keeping(os.replace), keeping(os.unlink), keeping(os.remove)
real_open = os.open


def open_file(path, flags, mode=0o777, *, dir_fd=None):
    if os.path.isdir(path):
        raise PermissionError(13, "a directory cannot be opened", str(path))
    return real_open(path, flags, mode)


os.open = open_file

from fastmlp.system import private_files

private_files.KEEPS_OPEN_FILES = True
"""

A_TRAINING = """
import numpy as np
import fastmlp
from benchmarks import processes
from fastmlp.files import archive
from fastmlp.kernels.jit import store

X = np.random.default_rng(0).normal(size=(40, 3))
y = (X[:, 0] > 0).astype(float)
network = fastmlp.Network([3, 5, 1], output="sigmoid", loss="binary_cross_entropy")
options = {"backend": "reference", "seed": 0, "batch_size": 10}
folder = os.getcwd()
path = os.path.join(folder, "run.npz")
callbacks = [fastmlp.Checkpoint(path, every=1)]
half = fastmlp.fit(network, X, y, epochs=2, callbacks=callbacks, **options)
# What a process left behind that ended while it wrote:
abandoned = os.path.join(folder, archive.temporary_name("run.npz", "0" * 8))
open(abandoned, "w").close()
os.utime(abandoned, (1, 1))
whole = fastmlp.fit(network, X, y, epochs=4, callbacks=callbacks, resume=path, **options)
again = fastmlp.load(path)
assert (again.predict(X) == whole.predict(X)).all()
straight = fastmlp.fit(network, X, y, epochs=4, **options)
assert (straight.parameters == whole.parameters).all()
assert os.listdir(folder) == ["run.npz"], os.listdir(folder)

os.environ["FASTMLP_CACHE_DIR"] = folder
assert store.why_not_saved() is None
with store.only_one("program", "key"):  # nobody is waited for
    store.write("program", "key", b"machine code")
store.write("program", "key", b"machine code")
assert store.read("program", "key") == b"machine code"
print("as on Windows")
"""


@takes_from_posix
def test_a_training_its_files_and_the_cache_do_without_what_windows_lacks(tmp_path):
    code, root = LACKING + KEEPING + A_TRAINING, str(Path(__file__).parents[2])  # for benchmarks/
    assert python("-W", "error", "-c", code, cwd=tmp_path, PYTHONPATH=root).stdout == "as on Windows\n"


COLLECTING = """
import contextlib
import joblib.externals.loky, pytest, sklearn.utils.estimator_checks  # these go by the system's name

names = ("mpi4py.MPI", "onnx", "onnxruntime", "pandas", "platformdirs", "polars", "pyarrow.dataset", "torch")
for name in names:
    with contextlib.suppress(ImportError):
        __import__(name)
"""

COLLECTED = """
if __name__ == "__main__":
    sys.exit(pytest.main([*sys.argv[1:], "-n0", "-q", "--collect-only", "-p", "no:cacheprovider"]))
"""


@takes_from_posix
@pytest.mark.slow
def test_all_tests_are_collected_without_what_windows_lacks():
    script = COLLECTING + LACKING + COLLECTED
    command = ["-c", script, "tests", "benchmarks", "-m", "slow or not slow"]
    inherited = {name: None for name in os.environ if name.startswith("PYTEST_")}
    python(*command, cwd=pages.ROOT, **inherited)


def test_a_rename_over_a_file_that_is_read_is_tried_again(tmp_path, monkeypatch):
    refusals = [PermissionError(13, "in use")] * 3

    class Busy:
        def replace(self, source, target, **where):
            if refusals:
                raise refusals.pop()
            os.replace(source, target, **where)

    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    monkeypatch.setattr(private_files, "os", Busy())
    with pytest.raises(PermissionError):  # POSIX refuses for another reason, and for good
        private_files.replace(tmp_path / "new", tmp_path / "old")
    monkeypatch.setattr(private_files, "KEEPS_OPEN_FILES", True)
    private_files.replace(tmp_path / "new", tmp_path / "old")
    assert not refusals
    assert (tmp_path / "old").read_text() == "new"
    refusals.extend([PermissionError(13, "in use")] * 10000)
    monkeypatch.setattr(private_files, "MOST_SECONDS", 0.05)
    with pytest.raises(PermissionError, match="in use"):
        private_files.replace(tmp_path / "old", tmp_path / "new")


def test_without_locks_a_writer_leaves_what_another_is_about_to_rename(tmp_path, monkeypatch):
    path, rename = tmp_path / "file", archive.replace

    def another_writes_first(source, target):
        monkeypatch.setattr(archive, "replace", rename)
        archive.write(path, *CONTENT)
        rename(source, target)

    monkeypatch.setattr(archive, "fcntl", None)
    monkeypatch.setattr(archive, "KEEPS_OPEN_FILES", True)  # so it is closed before it is renamed
    monkeypatch.setattr(archive, "replace", another_writes_first)
    archive.write(path, *CONTENT)
    assert os.listdir(tmp_path) == ["file"]


class Called:
    """Stands for a module; notes the calls of one function, which may fail with an errno."""

    def __init__(self, real, name, code=None):
        self.__dict__.update(real=real, name=name, code=code, seen=[])

    def __getattr__(self, name):
        if name != self.name:
            return getattr(self.real, name)

        def call(*arguments):
            self.seen.append(arguments)
            if self.code is not None:
                raise OSError(self.code, os.strerror(self.code))

        return call


@takes_from_posix
@pytest.mark.parametrize("code", [None, errno.ENOTSUP], ids=["a disk", "of the network"])
def test_macos_flushes_the_drive_too(tmp_path, monkeypatch, code):
    fcntl = Called(importlib.import_module("fcntl"), "fcntl", code)
    fcntl.__dict__["F_FULLFSYNC"] = 51
    system = Called(os, "fsync")
    monkeypatch.setattr(archive, "fcntl", fcntl)
    monkeypatch.setattr(archive, "os", system)
    archive.write(tmp_path / "file", *CONTENT)
    assert [flag for _, flag in fcntl.seen] == [51]
    # The directory by fsync, and the file where nothing better is known.
    assert len(system.seen) == (1 if code is None else 2)


@takes_from_posix
def test_a_directory_that_cannot_be_flushed_is_left_so(tmp_path, monkeypatch):
    for code, passes in ((errno.EINVAL, True), (errno.EIO, False)):
        monkeypatch.setattr(archive, "os", Called(os, "fsync", code))
        if passes:
            archive.sync_directory(tmp_path)
        else:
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                archive.sync_directory(tmp_path)


def test_cores_are_counted_without_affinities_and_control_groups(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert budget.allowed_cores() == 6
    assert budget.quota.__wrapped__(tmp_path, tmp_path / "nothing") == float("inf")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert budget.allowed_cores() == 1


@pytest.mark.parametrize(
    ("platform", "given", "expected"),
    [
        ("darwin", {}, "home/Library/Caches/fastmlp"),
        ("win32", {}, "local/fastmlp"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/fastmlp"),
        ("linux", {}, "home/.cache/fastmlp"),
    ],
)
def test_the_cache_lies_where_the_system_keeps_caches(platform, given, expected, monkeypatch, tmp_path):
    for name in ("FASTMLP_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name, folder in given.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", platform)
        patch.setitem(sys.modules, "platformdirs", None)
        del sys.modules["platformdirs"]  # it looks at the platform when it is imported
        if platform == "win32":  # which answers through its own libraries
            patch.setattr("platformdirs.windows.get_win_folder", lambda name: str(tmp_path / "local"))
        assert store.default_folder() == tmp_path / expected


def test_nobody_owns_a_file_where_there_are_no_owners(monkeypatch):
    open_to_all = os.stat_result((0o100666, 0, 0, 1, 12345, 0, 0, 0, 0, 0))
    if private_files.HAS_OWNERS:
        assert private_files.why_not_trusted(open_to_all)
    monkeypatch.setattr(private_files, "HAS_OWNERS", False)
    assert private_files.why_not_trusted(open_to_all) is None


@pytest.mark.parametrize(
    ("system", "machine", "library", "sleep", "wake"),
    [
        ("linux", "x86_64", {}, ("syscall", 202, "word", 128, "value", 0), ("syscall", 202, "word", 129)),
        ("linux", "aarch64", {}, ("syscall", 98, "word", 128, "value", 0), ("syscall", 98, "word", 129)),
        ("win32", "AMD64", {}, ("WaitOnAddress", "word", "seen", 8, 2**32 - 1), ("WakeByAddressAll", "word")),
        (
            *("darwin", "arm64", {"os_sync_wait_on_address": 0}),
            ("os_sync_wait_on_address", "word", "value", 8, 0),
            ("os_sync_wake_by_address_all", "word", 8, 0),
        ),
        ("darwin", "arm64", {}, (), ()),  # before macOS 14.4
        ("linux", "riscv64", {}, (), ()),
    ],
)
def test_a_waiting_worker_sleeps_by_the_systems_function(system, machine, library, sleep, wake):
    found = workers.functions_of(system, machine, SimpleNamespace(**library))
    given = {what: (name, *arguments) for what, (name, arguments) in found.items()}
    assert given.get("sleep", ()) == sleep
    assert given.get("wake", ())[: len(wake)] == wake
    assert len(found) == (2 if sleep else 0)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="a signal that stands for Ctrl-Break is needed")
def test_ctrl_break_ends_a_training_after_its_chunk_and_then_the_process(monkeypatch):
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    # As the module would read them there; a module that is loaded twice has two classes of each name.
    ending = tuple(int(getattr(signal, name)) for name in ("SIGTERM", "SIGBREAK") if hasattr(signal, name))
    monkeypatch.setattr(interrupts, "ENDING", ending)
    monkeypatch.setattr(interrupts, "SIGNALS", (int(signal.SIGINT), *ending))
    received, reasons = [], []
    raised = signal.raise_signal
    with interrupts.deferred(reasons.append):
        raised(signal.SIGUSR1)
        monkeypatch.setattr(signal, "raise_signal", received.append)
    assert reasons == ["interrupted by SIGUSR1"]
    assert received == [signal.SIGUSR1]  # which ends the process by default
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_forks_are_waited_for_where_there_are_forks_only():
    code = """
import os, sys
if hasattr(os, "register_at_fork"):
    import logging, random, threading
    del os.register_at_fork
import fastmlp
from benchmarks import processes
from fastmlp.system import compiling, forks
with compiling.compiling():
    pass
print("imported")
"""
    assert python("-W", "error", "-c", code).stdout == "imported\n"
    assert fastmlp.__version__


def test_benchmarks_run_unpinned_where_cores_cannot_be_chosen(monkeypatch):
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert processes.allowed() == [0, 1, 2]
    processes.pin({0})


# --- attributes that belong to the classes from which ours are derived --------------------------------------

OF_LATER_THREADS = {"_context", "_handle", "_os_thread_handle", "_set_os_name"}
"""Attributes of `threading.Thread` in Python 3.13 to 3.15 that those of earlier releases do not have."""

OVERRIDDEN = {
    "Parameters": {"_get_param_names", "_validate_params"},
    "_Codegen": {
        *("_add_module", "_function_pass_manager", "_module_pass_manager"),
        *("_get_host_cpu_name", "_get_host_cpu_features"),
    },
    "_WrittenLibrary": {"_optimize_final_module", "_optimize_functions"},
    "BFloat": {"_to_string"},
    "FastmlpBackend": {"apply_async", "default_n_jobs"},
    "Module": {"_apply"},
    "TableClassifier": {"score"},
    "TableRegressor": {"score"},
}
"""Attributes of a base, data or private, in whose place a class of ours has its own on purpose."""


def attributes_in(text):
    """The names to which a class's text gives values: those of data, and private methods."""
    found = {
        node.attr
        for node in ast.walk(text)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    for node in text.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("_"):
            found.add(node.name)
        elif isinstance(node, ast.Assign) or (isinstance(node, ast.AnnAssign) and node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for one in targets for name in ast.walk(one) if isinstance(name, ast.Name)}
    return {name for name in found if not name.startswith("__")}


@functools.cache
def attributes_of(kind):
    """The same of a class; nothing where it has no text, as classes of C have none."""
    try:
        (text,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError):
        return set()
    return attributes_in(text)


OPTIONAL = r"^(?:import|from) (torch|dask|pyarrow)\b|= needed\(\"(torch)\""
"""How a module imports a library that need not be there, and that takes seconds."""


@matrix
@pytest.mark.parametrize(
    "library", ["", *(pytest.param(one, marks=pytest.mark.slow) for one in ("torch", "dask", "pyarrow"))]
)
def test_no_class_has_an_attribute_that_belongs_to_its_base(library):
    """`threading.Thread` of 3.14 has a `_context`, in whose place a subclass put one of its own."""
    found, looked_at = {}, []
    if library:
        pytest.importorskip(library)
    for path in sorted(Path(fastmlp.__file__).parent.rglob("[!_]*.py")):
        imported = re.search(OPTIONAL, path.read_text(encoding="utf-8"), re.MULTILINE)
        if imported and library not in imported.groups():
            continue
        name = ".".join(path.relative_to(Path(fastmlp.__file__).parents[1]).with_suffix("").parts)
        for kind in vars(importlib.import_module(name)).values():
            if not inspect.isclass(kind) or kind.__module__ != name:
                continue
            looked_at.append(kind.__name__)
            for base in kind.__mro__:
                if base.__module__.partition(".")[0] in ("fastmlp", "builtins", "typing", "abc"):
                    continue
                owned = {*vars(base), *vars(base).get("__annotations__", ()), *attributes_of(base)}
                if base is threading.Thread:
                    owned |= OF_LATER_THREADS
                if own := attributes_of(kind) & owned:
                    found.setdefault(kind.__name__, set()).update(own)
    assert "Task" in looked_at
    assert found == {name: names for name, names in OVERRIDDEN.items() if name in looked_at}


# --- how many cores a training takes where some are slower ------------------------------------------------


@pytest.mark.parametrize(
    ("speeds", "count"),
    [
        ([1.0] * 4, 4),
        ([1.0] * 4 + [EFFICIENCY] * 4, 4),  # Apple's M1
        ([EFFICIENCY] * 8 + [1.0] * 4, 12),  # so many slow cores do more, and the fast ones wait
        ([1024, 900, 900, 900, 300, 300, 300, 300], 4),  # one of them is faster still
        ([5.0], 1),
    ],
)
def test_the_slowest_core_sets_the_pace(speeds, count):
    assert worth_using(tuple(speeds)) == count


def written(folder, **texts):
    for name, text in texts.items():
        place = folder.joinpath(*name.split("__"))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")
    return folder


def test_linux_lists_fast_cores_or_has_the_capacity_of_each(tmp_path):
    assert on_linux([0, 1], tmp_path) == [1.0, 1.0]
    intel = written(tmp_path / "intel", cpu_core__cpus="0-2,5")
    assert on_linux([0, 2, 3, 5], intel) == [1.0, 1.0, EFFICIENCY, 1.0]
    assert on_linux([0, 2], written(tmp_path / "odd", cpu_core__cpus="?")) == [1.0, 1.0]
    capacities = {f"system__cpu__cpu{core}__cpu_capacity": speed for core, speed in ((0, 446), (4, 1024))}
    assert on_linux([0, 4], written(tmp_path / "arm", **capacities)) == [446, 1024]


@pytest.mark.parametrize(
    ("count", "speeds"), [(2, [1.0, 1.0, EFFICIENCY]), (None, [1.0] * 3), (8, [1.0] * 3)]
)
def test_macos_counts_its_performance_cores(count, speeds):
    def sysctlbyname(name, number, length, new, new_length):
        assert name == b"hw.perflevel0.logicalcpu"
        if count is None:  # Intel's have one kind
            return -1
        ctypes.cast(number, ctypes.POINTER(ctypes.c_int32))[0] = count
        return 0

    assert on_macos(3, SimpleNamespace(sysctlbyname=sysctlbyname)) == speeds


@pytest.mark.parametrize(
    ("cores", "fast", "used"),
    [
        pytest.param(10, 8, 8, id="M1 Max"),
        pytest.param(11, 5, 5, id="M3 Pro"),
        pytest.param(16, 12, 12, id="M4 Max"),
        pytest.param(15, 5, 15, id="M5 Pro"),  # its slower cores, of 4.4 GHz, do most of the work
        pytest.param(18, 6, 18, id="M5 Max"),
    ],
)
def test_cores_of_apples_processors_by_what_their_owners_have_published(cores, fast, used):
    def sysctlbyname(name, number, *rest):
        ctypes.cast(number, ctypes.POINTER(ctypes.c_int32))[0] = fast
        return 0

    assert worth_using(tuple(on_macos(cores, SimpleNamespace(sysctlbyname=sysctlbyname)))) == used


@pytest.mark.parametrize(("classes", "speeds"), [((1, 0, None, 1), [1.0, EFFICIENCY, 1.0]), ((), [1.0] * 3)])
def test_windows_has_a_class_for_each_core(classes, speeds):
    of_another_kind = bytes([40, 0, 0, 0, 1, *[0] * 13, 9, *[0] * 21])
    given = b"".join(
        of_another_kind if one is None else bytes([32, *[0] * 17, one, *[0] * 13]) for one in classes
    )

    def inform(place, room, length, process, flags):
        ctypes.cast(length, ctypes.POINTER(ctypes.c_ulong))[0] = len(given)
        if place is None or not given:
            return 0
        ctypes.memmove(place, given, len(given))
        return 1

    assert on_windows(3, SimpleNamespace(GetSystemCpuSetInformation=inform)) == speeds


def test_a_training_takes_no_efficiency_cores_and_trainings_at_once_take_all(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(budget, "cores", lambda: 8)
    monkeypatch.setattr(budget, "speeds", lambda cores: (1.0,) * 4 + (EFFICIENCY,) * 4)
    assert budget.available_cores() == 4
    with budget.training():
        assert budget.available_cores() == 4
        with budget.training():
            assert budget.available_cores() == 4
            with budget.training():
                assert budget.available_cores() == 2
    assert budget.usable_cores() == 8
