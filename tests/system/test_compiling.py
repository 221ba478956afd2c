"""The clock leaves out what compiles, and the line that announces it stands alone."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
import threading
import time
import types

import needs
import numpy as np
import pytest
import tqdm.std
from choosing import have_chosen
from terminals import Terminal, on_terminal

import fastmlp
from fastmlp.backend import reference, registry
from fastmlp.cli import datasets
from fastmlp.cli.main import main
from fastmlp.kernels.jit import engine, entries
from fastmlp.kernels.jit.store import MachineCode
from fastmlp.system import compiling as clock
from fastmlp.system.compiling import Stopwatch, compiling, seconds_compiling
from fastmlp.training import loop

NETWORK = fastmlp.Network([3, 1])
X = np.ones((64, 3))

LINE = "fastmlp: compiling a program, about 7 s; this happens once"


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, which only the test moves: whole ones, of which sums and differences are exact."""
    time = types.SimpleNamespace(seconds=0.0, perf_counter=lambda: time.seconds, time=lambda: time.seconds)
    monkeypatch.setattr(clock, "time", time)
    monkeypatch.setattr(clock.total, "counted", (0.0, None))  # what this process has compiled is not whole
    return time


def test_compilations_within_one_another_count_once(now):
    before = seconds_compiling()
    with compiling():
        now.seconds += 1
        with compiling():
            now.seconds += 2
            assert seconds_compiling() - before == 3
        now.seconds += 4
    now.seconds += 8
    assert seconds_compiling() - before == 7


def compiling_elsewhere():
    """Have another thread begin to compile; return what has it end."""
    begun, ended = threading.Event(), threading.Event()

    def other():
        with compiling():
            begun.set()
            ended.wait()

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()

    def end():
        ended.set()
        thread.join()

    return end


def test_compilations_of_two_threads_count_once(now):
    before = seconds_compiling()
    with compiling():
        now.seconds += 1
        end = compiling_elsewhere()
        now.seconds += 2
    now.seconds += 4
    end()
    now.seconds += 8
    assert seconds_compiling() - before == 7


def test_a_compilation_that_fails_has_ended(now):
    before = seconds_compiling()

    def fails():
        with compiling():
            now.seconds += 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    now.seconds += 2
    assert seconds_compiling() - before == 1


def test_a_lap_has_two_parts(now):
    stopwatch = Stopwatch()
    now.seconds += 1
    with compiling():
        now.seconds += 2
    assert stopwatch.lap() == (1, 2)
    now.seconds += 4
    assert stopwatch.lap() == (4, 0)


@pytest.fixture
def compiles(monkeypatch, now):
    """Return what makes a backend that takes a second for a chunk, and compiles for 100 s in some of them."""

    def make(*chunks, seconds=1.0):
        sizes = []

        def train_chunk(network, optimizer, state, data, chunk, *others):
            if len(sizes) in chunks:
                with compiling("a program", 7, "this happens once"):
                    now.seconds += 100
            sizes.append(len(chunk.starts))
            now.seconds += seconds
            return reference.BACKEND.train_chunk(network, optimizer, state, data, chunk, *others)

        backend = reference.BACKEND._replace(train_chunk=train_chunk)
        have_chosen(monkeypatch, backend)
        return sizes

    return make


class Watched(fastmlp.Progress):
    """A bar that is kept, on the test's time."""

    def on_chunk_end(self, run):
        super().on_chunk_end(run)
        self.shown = self.bar.format_dict


def fit(**options):
    given = {"epochs": 4, "batch_size": 32, "shuffle": False, "progress": False, "seed": 0, **options}
    return fastmlp.fit(NETWORK, X, X[:, 0], **given)


def on_screen(text):
    """The lines that a terminal shows of what was written to it."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[A|[\r\n]|[^\r\n\x1b]+", text):
        if part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.mark.parametrize("chunks", [(0,), (1,), (0, 3)])
def test_the_bar_s_time_is_that_of_the_work(compiles, now, monkeypatch, chunks):
    monkeypatch.setattr(tqdm.std, "time", lambda: now.seconds)
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    sizes, bar = compiles(*chunks), Watched()
    fit(callbacks=[bar])
    assert len(sizes) == 8
    assert bar.shown["elapsed"] == 8
    assert bar.shown["n"] == bar.shown["total"] == 4 * 64
    # tqdm's mean of the last rates, which it makes the time left of.
    assert bar.shown["rate"] in (None, pytest.approx(32))


@pytest.mark.parametrize("chunk", [0, 3])
def test_the_line_stands_alone(compiles, monkeypatch, chunk):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 1)
    monkeypatch.setattr(sys, "stderr", Terminal())
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


def test_the_command_line_s_time_is_that_of_the_work(compiles, capsys, monkeypatch):
    monkeypatch.setattr(loop, "MAX_CHUNK_STEPS", 50)
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e9)
    sizes = compiles(1)  # the first chunk is the tiny training's
    assert main(["train", "xor", "--backend", "reference", "--quiet"]) == 0
    output, errors = capsys.readouterr()
    assert len(sizes) == 3
    assert "time       2 s, 200 rows/s" in output
    assert errors == ""


def test_the_command_line_prepares_the_backend_that_it_times(capsys, monkeypatch):
    """A few rows are worth another backend than the whole training."""
    calls = []

    def fitted(arguments, task, settings, backend, clock, ranks, tiny=False):
        calls.append((backend, tiny))
        raise fastmlp.DivergenceError(1, 1, np.zeros(1), {"loss": []})

    monkeypatch.setattr("fastmlp.cli.train.fitted_model", fitted)
    steps = []
    monkeypatch.setattr(
        "fastmlp.backend.choice.choose", lambda *work, mixed: steps.append(work[-1]) or reference.BACKEND
    )
    main(["train", "digits", "--quiet"])
    assert steps == [datasets.RECIPES["digits"].epochs * 45]
    assert calls == [("reference", True)]


class Stops(fastmlp.Callback):
    def on_epoch_end(self, run):
        if run.epoch == 2:
            run.stop("it is enough")


def test_a_bar_that_ends_early_says_why(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    fit(callbacks=[Stops()], backend="reference", progress=True)
    screen = on_screen(sys.stderr.getvalue())
    assert re.fullmatch(r"epoch 2/4:  50%.*", screen[0])
    assert screen[1:] == ["fastmlp: stopped after epoch 2 of 4: it is enough", ""]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    fit(callbacks=[Stops()], backend="reference")
    assert sys.stderr.getvalue() == ""


def test_a_notebook_has_a_bar_of_its_own(monkeypatch):
    opened = []

    class Bar(tqdm.std.tqdm):
        def __init__(self, **options):
            opened.append(options["total"])
            super().__init__(**options)

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    fit(backend="reference", progress=None)
    assert opened == []
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    fit(backend="reference", progress=None)
    assert opened == [4 * 64]


@needs.posix("terminals")
@pytest.mark.slow  # compiles for 3 s
@pytest.mark.xdist_group("clock")
def test_the_first_command_on_a_machine_tells_the_speed_of_the_later_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    command = [sys.executable, "-m", "fastmlp", "train", "digits", "--backend", "fused", "--no-reference"]

    def run():
        """The seconds that it prints, those that it takes, and what a terminal shows."""
        began = time.perf_counter()
        code, output, seen = on_terminal(*command)
        assert code == 0
        printed = float(re.search(r"^time +([\d.]+) s", output, re.MULTILINE)[1])
        return printed, time.perf_counter() - began, seen

    cold, whole, said = run()
    assert on_screen(said)[0].startswith("fastmlp: compiling the 'fused' backend for float32, about 3 s; ")
    warm = [run() for _ in range(2)]
    compiles = whole - min(seconds for _, seconds, _ in warm)
    excess = cold - min(printed for printed, *_ in warm)
    assert excess < 0.07 * compiles, "0.41 s of 3 where what compiles is counted"


def test_what_an_entry_point_takes_is_counted(now, monkeypatch):
    def source():
        now.seconds += 3  # the compiler is imported
        return types.SimpleNamespace(name="predict_0", kept="", identity=reach, compiled=compiled)

    def compiled(dtype):
        now.seconds += 4
        return "code"

    def entry_of(name, dtype, compile_code, patient):
        now.seconds += 5  # it is not found on the disk
        return compile_code()

    reach = types.SimpleNamespace(unknown="x")
    monkeypatch.setattr(entries, "entry_of", entry_of)
    before = seconds_compiling()
    program = types.SimpleNamespace(source=lambda template: source())
    entries.Entries("mine", lambda: program, lasting=False).get("predict_0", "float32")
    assert seconds_compiling() - before == 3 + 5 + 3 + 4


def test_what_a_piece_takes_at_its_first_call_is_counted(now, monkeypatch):
    def load(code):
        now.seconds += 3
        return 1

    monkeypatch.setattr(engine, "loaded_pieces", {})
    monkeypatch.setattr(engine.store, "load", lambda *_: MachineCode("", b"", ()))
    monkeypatch.setattr(engine, "can_link", lambda code: True)
    monkeypatch.setattr(engine, "common", lambda: types.SimpleNamespace(load=load))
    before = seconds_compiling()
    for _ in range(2):
        assert engine.address_of("a piece", (), "") == 1
    assert seconds_compiling() - before == 3


@needs.forks
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside another thread
def test_a_new_process_counts_what_its_own_thread_compiles(now):
    end = compiling_elsewhere()
    now.seconds += 1
    with compiling():
        pid = os.fork()
        if pid == 0:
            before = seconds_compiling()
            now.seconds += 2
            own = seconds_compiling() - before
    if pid == 0:
        now.seconds += 4
        os._exit(0 if (own, seconds_compiling() - before) == (2, 2) else 1)
    end()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_whoever_has_loaded_a_program_sees_no_notice_that_its_prediction_compiles(monkeypatch):
    """Of two processes that start at once one compiles and says so, and the other waits for it."""
    monkeypatch.setattr(entries, "announced_programs", set())
    fastmlp.fit(NETWORK, X, X[:, 0], epochs=1, backend="fused", progress=False)  # now it is on the disk
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(entries, "announced_programs", set())
    later = entries.Entries("fused", lambda: registry.program_of(registry.variants()["fused"]), lasting=True)
    later.get("train_chunk", "float64")
    for dtype in ("float64", "float32"):
        with entries.announced("predict_0", "fused", dtype, "", None):
            pass
    assert re.findall("for (float..),", sys.stderr.getvalue()) == ["float32"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_pauses_while_something_compiles(monkeypatch, enabled):
    seen = []

    def compiled():
        seen.append(gc.isenabled())
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.store, "load", lambda *_: None)
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.code_of("a piece", "", compiled)
        assert (seen, gc.isenabled()) == ([False], enabled)
    finally:
        gc.enable()
