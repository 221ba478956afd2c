"""Bars and the lines beside them: the time of the work alone, whole lines, a reason for the end."""

from __future__ import annotations

import io
import re
import sys
import types

import numpy as np
import pytest
import tqdm.std
from support.terminals import Terminal, on_screen

import fastmlp
from fastmlp.backend import reference
from fastmlp.cli import datasets
from fastmlp.cli.main import main
from fastmlp.training import loop

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
