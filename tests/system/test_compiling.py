"""Time spent compiling is counted once, and left out of a training's."""

import gc
import logging
import os
import re
import sys
import threading
import time
import types

import numpy as np
import pytest
from support import needs
from support.terminals import Terminal, on_screen, on_terminal

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.jit import engine, entries
from fastmlp.kernels.jit.store import MachineCode
from fastmlp.kernels.variant import Variant
from fastmlp.system.compiling import Stopwatch, compiling, seconds_compiling

NETWORK = fastmlp.Network([3, 1])
X = np.ones((64, 3))


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


ANNOUNCED = "fastmlp: compiling a program, about 3 s; so it is\n"


def compile_in_parts(now, *parts):
    """Announce a program, and compile it in parts: the seconds of each, and of what is done before it."""
    with compiling("a program", 3, "so it is"):
        pass
    for other, seconds in parts:
        now.seconds += other
        with compiling():
            now.seconds += seconds


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], ""),
        ([(0, 0.75)], ""),
        ([(0, 0.75), (0.25, 0.25)], ANNOUNCED),
        ([(0, 1), (0, 5)], ANNOUNCED),  # once
        ([(0, 0.75), (1, 0.125), (0, 5)], ""),  # what is compiled afterwards is something else
    ],
)
def test_where_nobody_looks_on_a_compilation_is_announced_once_it_has_taken_a_second(
    now, capsys, caplog, parts, said
):
    with caplog.at_level(logging.WARNING, "fastmlp"):
        compile_in_parts(now, *parts)
    assert capsys.readouterr().err == said


def test_an_announcement_is_in_the_log_alone_where_that_is_seen(now, capsys, caplog):
    with caplog.at_level(logging.INFO, "fastmlp"):
        compile_in_parts(now, (0, 5))
    assert capsys.readouterr().err == ""
    assert [(one.name, one.levelname, one.message + "\n") for one in caplog.records] == [
        ("fastmlp", "INFO", ANNOUNCED)
    ]


def test_a_process_that_is_silenced_announces_nothing(now, capsys, caplog, silence):
    silence()
    with caplog.at_level(logging.WARNING, "fastmlp"):
        compile_in_parts(now, (0, 5))
    assert capsys.readouterr().err == ""


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
        return types.SimpleNamespace(compiled=compiled)

    def compiled(dtype):
        now.seconds += 4
        return "code"

    def entry_of(name, dtype, compile_code):
        now.seconds += 5  # it is not found on the disk
        return compile_code()

    monkeypatch.setattr(entries, "entry_of", entry_of)
    before = seconds_compiling()
    program = types.SimpleNamespace(source=lambda template: source())
    entries.Entries(Variant("mine"), "mine~", lambda: program).get("predict", "float32")
    assert seconds_compiling() - before == 5 + 3 + 4


def test_what_a_piece_takes_at_its_first_call_is_counted(now, monkeypatch):
    def load(code):
        now.seconds += 3
        return 1

    monkeypatch.setattr(engine, "loaded_functions", {})
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


def test_whoever_has_loaded_a_program_sees_no_notice_that_its_prediction_compiles(monkeypatch, stderr):
    """Of two processes that start at once one compiles and says so, and the other waits for it."""
    monkeypatch.setattr(entries, "announced_programs", set())
    fastmlp.fit(NETWORK, X, X[:, 0], epochs=1, backend="fused", progress=False)  # now it is on the disk
    stderr(Terminal())
    entries.announced_programs.clear()
    variant = registry.variants()["fused"]
    later = entries.Entries(variant, entries.home_of("fused"), lambda: registry.program_of(variant))
    later.get("train_chunk", "float64")
    for dtype in ("float64", "float32"):
        with entries.announced("predict-fused", "fused", dtype, ""):
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
