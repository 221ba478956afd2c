"""The constants that a machine decides: how they are measured, chosen, kept and read, and how not.

That none changes a bit stands in test_arithmetic.py.
"""

import math
import re

import numba
import numpy as np
import pytest
from support import pages
from support.processes import python

import fastmlp
from fastmlp.backend import tuning
from fastmlp.backend.auto import Auto
from fastmlp.backend.tuning import LEAST_GAIN, MeasuredConstant
from fastmlp.cli.main import main
from fastmlp.kernels.jit import engine
from fastmlp.kernels.runtime.workspace import SLICE_BYTES, slice_length
from fastmlp.kernels.tuning import (
    CROWDED_ROWS,
    SOME_ROWS,
    TABLE,
    VALUES,
    Trial,
    forced,
    tuned,
    value,
)
from fastmlp.kernels.variant import Work

NAME = "pack_rows"
USUAL, OTHER, *_ = TABLE[NAME].values
FIRST, SECOND = Trial((1, 1), 1), Trial((2, 1), 1)


@pytest.fixture
def place(empty_cache, monkeypatch):
    """A cache of the test's, with nothing in it, and constants that may be measured."""
    monkeypatch.setenv("FASTMLP_TUNE", "1")
    return empty_cache


def found(*trials):
    """Return a measurement of NAME from (seconds of the usual value, of the other one), round by round."""
    seconds = {
        trial: {v: other if v == OTHER else usual for v in TABLE[NAME].values}
        for trial, (usual, other) in zip((FIRST, SECOND), trials, strict=False)
    }
    return MeasuredConstant(NAME, seconds)


VALUE = """
from fastmlp.kernels import tuning
from fastmlp.kernels.jit import engine
engine.take_constants()
print(tuning.value("thread_us"))
"""


def test_no_constant_changes_under_a_training(place):
    engine.take_constants()
    now = value("thread_us")
    other = next(one for one in TABLE["thread_us"].values if one != now)
    engine.save_constants({"thread_us": other})
    engine.take_constants()
    assert value("thread_us") == now
    assert python("-c", VALUE, FASTMLP_TUNE="1").stdout == f"{other}\n"


@pytest.mark.parametrize(
    ("trials", "best"),
    [
        ([([4] * 4, [3] * 4)], OTHER),
        ([([4] * 4, [3, 4, 3, 4])], USUAL),  # other rounds do not confirm the gain
        ([([4] * 4, [4, 3, 4, 3])], USUAL),
        ([([1.0] * 4, [1 - 0.9 * LEAST_GAIN] * 4)], USUAL),  # as small as noise
        ([([1.0] * 4, [1 - 1.1 * LEAST_GAIN] * 4)], OTHER),
        ([([4] * 4, [2] * 4), ([4] * 4, [4.2] * 4)], USUAL),  # one work gains, another loses
        ([([4] * 4, [2] * 4), ([4] * 4, [4] * 4)], OTHER),
        ([([4] * 4, [2] * 4), ([4] * 4, [math.inf] * 4)], OTHER),  # its threads had no cores
        ([([4] * 4, [math.inf] * 4)], USUAL),
    ],
)
def test_a_value_that_saves_time_for_certain_is_taken(trials, best):
    assert found(*trials).best == best


def test_every_constant_has_one_usual_value_and_trials():
    for name, one in TABLE.items():
        assert len({*one.values}) == len(one.values) > 1, name
        assert one.trials, name


def test_the_page_has_every_constant():
    page = pages.text_of("docs/tuning.md")
    assert re.findall(r"^\| `(\w+)` ", page, re.MULTILINE) == [*TABLE]


def test_what_is_not_in_the_table_is_left_out():
    before = VALUES.copy()
    with forced({NAME: USUAL + 1, "of another release": 7}):
        assert np.array_equal(VALUES, before)
    with forced({NAME: OTHER}):
        assert value(NAME) == OTHER
    assert np.array_equal(VALUES, before)


def test_compiled_code_reads_the_constants_while_it_runs():
    first, last = (tuned(name) for name in (min(TABLE), max(TABLE)))

    @numba.njit
    def read():
        return first(), last()

    for choose in (min, max):
        with forced({name: choose(one.values) for name, one in TABLE.items()}):
            assert read() == (choose(TABLE[min(TABLE)].values), choose(TABLE[max(TABLE)].values))
    assert len(read.signatures) == 1


def watched(monkeypatch, seen, rounds):
    """Let steps take a second, and `seen` have the value of NAME in each."""
    turn = lambda count: seen.append(value(NAME)) or 1.0, rounds
    monkeypatch.setattr(tuning, "turn_of", lambda trial: turn)


def test_steps_are_measured_with_each_value(monkeypatch):
    seen = []
    watched(monkeypatch, seen, 1)
    ((name, seconds),) = tuning.measure(1e-9, [NAME])
    assert name == NAME
    assert {len(times) for trial in seconds.values() for times in trial.values()} == {tuning.LEAST_ROUNDS}
    assert {*seen} == {*TABLE[NAME].values}
    assert value(NAME) == USUAL


def begin(steps):
    return Auto(Work.of(fastmlp.Network([784, 512, 10]), fastmlp.SGD(0.1), 512, np.dtype("f4"), 1, steps))


@pytest.mark.parametrize("begins", ["a program", "auto"])
def test_later_processes_take_what_was_measured(place, monkeypatch, begins):
    usual, *_, chosen = TABLE["thread_us"].values
    engine.save_constants({"thread_us": chosen, "of another release": 3})
    for switch, expected in (("0", usual), ("1", chosen)):
        monkeypatch.setenv("FASTMLP_TUNE", switch)
        engine.take_constants.cache_clear()
        with forced({}):
            engine.common.__wrapped__() if begins == "a program" else begin(10)
            assert value("thread_us") == expected


def test_the_command_measures_and_says_what_it_chose(monkeypatch, capsys):
    monkeypatch.setenv("FASTMLP_TUNE", "1")
    for name in [name for name in TABLE if name != "predicted_rows"]:
        monkeypatch.delitem(TABLE, name)
    kept = []
    monkeypatch.setattr(tuning, "save_constants", kept.append)
    assert main(["tune", "--seconds", "0.01"]) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert output.startswith("CONSTANT ")
    assert "\npredicted_rows " in output
    assert [*kept[0]] == ["predicted_rows"]


def test_the_command_refuses_no_time_and_what_would_not_be_used(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["tune"])
    assert "FASTMLP_TUNE is 0" in capsys.readouterr().err
    monkeypatch.setenv("FASTMLP_TUNE", "1")
    for seconds in ("0", "nan", "inf", "-1"):
        with pytest.raises(SystemExit, match="2"):
            main(["tune", f"--seconds={seconds}"])
        said = f"fastmlp: error: --seconds must be above 0, got {float(seconds)}\n"
        assert capsys.readouterr().err == said


def test_what_was_chosen_and_the_usual_values_go_first_by_turns(monkeypatch):
    """The second finds in the caches what the first has read, and seemed to save a tenth."""
    held = []
    monkeypatch.setattr(tuning, "trials_of", lambda name: [FIRST])
    watched(monkeypatch, held, 3)
    times = iter(range(100))
    monkeypatch.setattr(tuning.time, "process_time", lambda: next(times))
    assert tuning.gains({NAME: OTHER}, 3) == {FIRST: 0}
    assert held[:6] == [USUAL, USUAL, OTHER, USUAL, OTHER, USUAL]


def test_a_slice_of_gradient_has_many_rows_of_any_layer_and_no_more_than_a_worker_has():
    """For each slice a batch's deltas are read anew: with 8 rows of 2048 units Adam took twice the time."""
    large = [(1024, 2048), (2048, 10)]
    assert slice_length(large, 128, 1, 4) == value("slice_rows") * 2048
    assert slice_length(large, 128, 16, 4) == 1024 // 16 * 2048
    assert slice_length([(40, 64), (64, 10)], 128, 1, 4) == SLICE_BYTES // 4
    with forced({"slice_rows": 64}):
        assert slice_length(large, 128, 1, 8) == 64 * 2048
    # Slices of small batches lie in L1, and have the rows that workers share.
    small = min(SOME_ROWS, CROWDED_ROWS) - 1
    assert slice_length([(1024, 512), (512, 10)], small, 1, 4) == SLICE_BYTES // 4
    assert slice_length([(1024, 9000), (9000, 10)], small, 1, 4) == 8 * 9000
