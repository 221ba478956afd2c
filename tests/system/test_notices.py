"""Bars and notices: who sees them, and that they decide nothing about the work.

stderr may be no terminal, full, closed, or not a file at all.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import tqdm.std
from support import needs
from support.processes import python
from support.selection import quick
from support.terminals import WATCHED, Terminal, on_screen, on_terminal

import fastmlp
from fastmlp.backend import reference
from fastmlp.cli import datasets
from fastmlp.cli.main import main
from fastmlp.system.compiling import compiling
from fastmlp.system.notices import notify, say
from fastmlp.training import loop


class Faulty:
    """What a program may put in stderr's place."""

    def write(self, text):
        raise RuntimeError("no")

    def isatty(self):
        raise RuntimeError("no")


def broken_pipe():
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


def full_disk():
    return open("/dev/full", "w")


def closed():
    with open(os.devnull, "w") as stream:
        return stream


STREAMS = {
    "a full disk": full_disk,
    "a broken pipe": broken_pipe,
    "closed": closed,
    "closed before Python started": lambda: None,
    "no stream": Faulty,
}


each_stream = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=needs.linux("/dev/full") if make is full_disk else [])
        for kind, make in STREAMS.items()
    ],
)


@contextlib.contextmanager
def stderr_of(kind, monkeypatch):
    """An stderr that cannot be written to, while pytest's own is not in its place."""
    stream = STREAMS[kind]()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield
    # Closing fails as writing did, and again when the garbage collector tries.
    if isinstance(stream, io.TextIOWrapper) and not stream.closed:
        with contextlib.suppress(OSError):
            stream.close()


@each_stream
def test_a_line_that_cannot_be_written_is_lost(kind, monkeypatch, capsys):
    with stderr_of(kind, monkeypatch):
        say("a line")
    assert capsys.readouterr().out == "", "a line for stderr went to stdout"


@quick(3)
@pytest.mark.parametrize("progress", [None, True])
@each_stream
def test_a_training_does_not_need_its_bar(kind, progress, monkeypatch):
    options = {"epochs": 30, "batch_size": 1, "backend": "reference", "progress": progress}
    with stderr_of(kind, monkeypatch):
        model = fastmlp.fit(fastmlp.Network([1, 1]), [[1.0]] * 9, [1.0] * 9, **options)
    assert len(model.history["loss"]) == 30


FIT = """
import os
import fastmlp

def fit(width):
    model = fastmlp.fit(
        fastmlp.Network([width, 1]), [[1.0] * width], [1.0], epochs=1, backend="specialized",
        optimizer=fastmlp.SGD(0.1),
    )
    print(len(model.history["loss"]), flush=True)

read, write = os.pipe()
os.close(read)
for width, stderr in enumerate((os.open("/dev/full", os.O_WRONLY), write), 1):
    os.dup2(stderr, 2)
    fit(width)
"""


@pytest.mark.slow  # compiles in a process that keeps nothing
@needs.linux("/dev/full")
def test_a_compilation_that_cannot_be_announced_goes_on():
    environment = {**os.environ, "FASTMLP_CACHE": "0"}
    command = [sys.executable, "-W", "error", "-c", WATCHED + FIT]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "1\n1\n")


@pytest.mark.slow  # compiles in a process that keeps nothing
@needs.posix("a shell")
def test_with_stderr_closed_stdout_has_only_what_was_printed():
    script = FIT[: FIT.index("read,")] + "fit(3)\n"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script],
        env={**os.environ, "FASTMLP_CACHE": "0"}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n")


# --- who looks on --------------------------------------------------------------------------------


def test_a_notice_is_for_someone_who_looks_on_and_a_warning_for_all(capsys, monkeypatch):
    notify("a notice")
    say("a warning")
    assert capsys.readouterr().err == "a warning\n"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))  # a notebook's
        notify("a notice")
    assert capsys.readouterr().err == "a notice\n"


def test_a_terminal_has_notices_unless_they_are_silenced(silence, stderr):
    terminal = Terminal()
    stderr(terminal)
    notify("one")
    silence()
    notify("two")
    say("a warning")
    assert terminal.getvalue() == "one\na warning\n"


@pytest.mark.parametrize("fault", [False, True])
def test_that_later_runs_compile_again_for_a_fault_is_a_warning(fault, capsys):
    with compiling("a program", 1, "so it is", fault):
        pass
    assert capsys.readouterr().err == "fastmlp: compiling a program, about 1 s; so it is\n" * fault


COLD = """
import sys, fastmlp
from fastmlp.system import compiling
compiling.LONG_SECONDS = 0.1
network, optimizer = fastmlp.Network([1, 1]), fastmlp.SGD(0.1)
fastmlp.fit(network, [[1.0]], [1.0], epochs=9, backend="specialized", optimizer=optimizer)
"""


@pytest.mark.slow  # four processes that compile
@needs.posix("terminals")
def test_a_cold_training_is_announced(tmp_path):
    """A pipe and a terminal of the system's own, with an empty cache and with none."""
    for place in ({"FASTMLP_CACHE_DIR": str(tmp_path)}, {"FASTMLP_CACHE": "0"}):
        command = ["-W", "error", "-c", COLD]
        (line,) = python(*command, **place).stderr.splitlines()
        assert line.startswith("fastmlp: compiling the 'specialized' backend for float64 and a 1-1 network, ")
        for file in tmp_path.rglob("*.*"):
            file.unlink()
        code, _, seen = on_terminal(sys.executable, *command, **place)
        assert code == 0
        assert "fastmlp: compiling the 'specialized' backend for float64 and a 1-1 network, about" in seen
        assert "epoch 9/9: 100%" in seen


TABLE = "size,price\n" + "".join(f"{row * 7 % 40 / 3},{row * 7 % 40 + row % 3}\n" for row in range(40))

WORK = {
    "train iris --epochs 2 --backend reference": "row/s",
    "train table.csv --target price --epochs 2 --members 1 -o model": "network",
    "predict model table.csv": "predicting",
}
"""Commands, and what of their bars a terminal shows."""


def test_bars_of_commands_are_for_a_terminal_and_quiet_has_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text(TABLE)

    def seen(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Terminal())
            assert main([*arguments]) == 0
            return sys.stderr.getvalue()

    for work, bar in WORK.items():
        assert main(work.split()) == 0
        assert capsys.readouterr().err == "", work
        assert bar in seen(*work.split()), work
        assert seen(*work.split(), "--quiet") == "", work


@pytest.mark.parametrize(
    "command",
    [
        "backends", "bench", "cache", "inspect", "new-variant", "plot", "predict", "train", "warmup",
    ],
)  # fmt: skip
def test_every_command_takes_quiet(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "--quiet" in capsys.readouterr().out


def test_quiet_holds_for_one_command(stderr):
    terminal = Terminal()
    stderr(terminal)
    assert main(["backends", "--quiet"]) == 0
    notify("a notice")
    assert terminal.getvalue() == "a notice\n"


# --- bars, and the lines beside them ----------------------------------------------------------------------


NETWORK = fastmlp.Network([3, 1])
X = np.ones((64, 3))

LINE = "fastmlp: compiling a program, about 7 s; this happens once"


class Watched(fastmlp.Progress):
    """A bar that is kept, on the test's time."""

    def on_chunk_end(self, run):
        super().on_chunk_end(run)
        self.shown = self.bar.format_dict


def fit(**options):
    given = {"epochs": 4, "batch_size": 32, "shuffle": False, "progress": False, "seed": 0, **options}
    return fastmlp.fit(NETWORK, X, X[:, 0], **given)


@pytest.mark.parametrize("compiling", [(0,), (1,), (0, 3)])
def test_the_bar_s_time_is_that_of_the_work(compiles, now, monkeypatch, stderr, chunks, compiling):
    monkeypatch.setattr(tqdm.std, "time", lambda: now.seconds)
    chunks(steps=1)
    stderr(io.StringIO())
    sizes, bar = compiles(*compiling), Watched()
    fit(callbacks=[bar])
    assert len(sizes) == 8
    assert bar.shown["elapsed"] == 8
    assert bar.shown["n"] == bar.shown["total"] == 4 * 64
    # tqdm's mean of the last rates, which it makes the time left of.
    assert bar.shown["rate"] in (None, pytest.approx(32))


@pytest.mark.parametrize("chunk", [0, 3])
def test_the_line_stands_alone(compiles, stderr, chunk, chunks):
    chunks(steps=1)
    stderr(Terminal())
    compiles(chunk)
    fit(progress=True)
    screen = on_screen(sys.stderr.getvalue())
    assert screen[0] == LINE
    assert re.fullmatch(r"epoch 4/4: 100%.*row/s.*", screen[1])
    assert screen[2:] == [""]
    assert (sys.stderr.getvalue().index(LINE) > sys.stderr.getvalue().index("row/s")) == (chunk > 0)


@pytest.mark.slow  # trains for 4 s
def test_after_a_chunk_that_compiled_the_next_is_as_long(compiles):
    """Where another thread compiled, the difference says nothing of what this one needs."""
    sizes = compiles(0, 1, seconds=loop.CHUNK_SECONDS / 2)
    fit(epochs=6000)
    assert sizes[1:4] == [sizes[0], sizes[0], 2 * sizes[0]]


def test_the_command_line_s_time_is_that_of_the_work(compiles, capsys, chunks):
    chunks(steps=50, seconds=1e9)
    sizes = compiles(1)  # the first chunk is the tiny training's
    assert main(["train", "xor", "--backend", "reference", "--quiet"]) == 0
    output, errors = capsys.readouterr()
    assert len(sizes) == 3
    assert "time       2 s, 200 rows/s" in output
    assert errors == ""


def test_the_command_line_prepares_the_backend_that_it_times(capsys, monkeypatch):
    """A few rows are worth another backend than the whole training."""
    calls = []

    def fitted(work, backend, clock, tiny=False):
        calls.append((backend, tiny))
        raise fastmlp.DivergenceError(1, 1, np.zeros(1), {"loss": []})

    monkeypatch.setattr("fastmlp.cli.train.fitted_model", fitted)
    steps = []
    choose = "fastmlp.backend.choice.choose"
    monkeypatch.setattr(choose, lambda *_, **options: steps.append(options["steps"]) or reference.BACKEND)
    main(["train", "digits", "--quiet"])
    assert steps == [datasets.RECIPES["digits"].epochs * 45]
    assert calls == [("reference", True)]


class Stops(fastmlp.Callback):
    def on_epoch_end(self, run):
        if run.epoch == 2:
            run.stop("it is enough")


def test_a_bar_that_ends_early_says_why(stderr):
    stderr(io.StringIO())
    fit(callbacks=[Stops()], backend="reference", progress=True)
    screen = on_screen(sys.stderr.getvalue())
    assert re.fullmatch(r"epoch 2/4:  50%.*", screen[0])
    assert screen[1:] == ["fastmlp: stopped after epoch 2 of 4: it is enough", ""]
    stderr(io.StringIO())
    fit(callbacks=[Stops()], backend="reference")
    assert sys.stderr.getvalue() == ""


def test_a_notebook_has_a_bar_of_its_own(monkeypatch, stderr):
    opened = []

    class Bar(tqdm.std.tqdm):
        def __init__(self, **options):
            opened.append(options["total"])
            super().__init__(**options)

    stderr(io.StringIO())
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    fit(backend="reference", progress=None)
    assert opened == []
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    fit(backend="reference", progress=None)
    assert opened == [4 * 64]
