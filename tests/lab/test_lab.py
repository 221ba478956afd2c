"""The kernel lab: what it measures agrees first, and what it says follows from the numbers."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import needs
import numpy as np
import pytest
from missing import without

from fastmlp.backend import registry
from fastmlp.cli.main import main
from fastmlp.kernels.codegen.machine import SSE, host
from fastmlp.kernels.mixed import processor
from fastmlp.lab import assembly, compare, explain, machine, phases, rows, slots, steps, table, timing, words
from fastmlp.lab.compare import Change
from fastmlp.lab.machine import CacheLevel, MeasuredMachine
from fastmlp.lab.measurements import Measurement, PhaseTime, Results, Wrong, read, winners, written
from fastmlp.lab.peers import PEERS, peers_of
from fastmlp.lab.rows import SlotRow
from fastmlp.lab.run import Request, run, tasks
from fastmlp.lab.steps import StepRow, classifier
from fastmlp.lab.timing import AUTO, Time
from fastmlp.model.layers import Dense, Dropout, LayerNorm, Residual
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam
from fastmlp.testing.slots import SLOTS, Sizes

pytest.importorskip("rich")

CPU = "cpu"


@pytest.fixture(autouse=True)
def _short_epochs(monkeypatch):
    """Epochs that are timed have few steps: the tests ask what is measured, not how exactly."""
    monkeypatch.setattr(steps, "MOST_STEPS", 10 * steps.AGREED_STEPS)


MACHINE = MeasuredMachine(
    "a CPU",
    2,
    512,
    2,
    {"python": "3"},
    {"float32": 100e9, "float64": 50e9},
    [CacheLevel("L1", 32768, 200e9), CacheLevel("memory", 1 << 62, 20e9)],
)


def measurement(
    variant, seconds, slot="affine", flops=2.0 * 64**3, traffic=3 * 64 * 64 * 4, threads=1, spread=0.01
):
    taken = Time(seconds * (1 - spread), seconds, seconds * (1 - spread), seconds * (1 + spread), 50)
    return Measurement(slot, "", "64x64x64", "float32", variant, threads, taken, flops, traffic)


def results(*measurements, wrong=(), phased=()):
    return Results(MACHINE, list(measurements), list(wrong), list(phased))


WRONG = """
from fastmlp.kernels import Variant
from fastmlp.kernels.variants import baseline


def bias_gradient(delta, out):
    out[:] = 0
    for i in range(delta.shape[0] - 1):
        for j in range(delta.shape[1]):
            out[j] += delta[i, j]


VARIANT = Variant("lab_wrong", baseline.VARIANT, {"bias_gradient": bias_gradient})
"""


@pytest.fixture
def wrong_variant(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "registered", dict(registry.registered))
    path = tmp_path / "lab_wrong.py"
    path.write_text(WRONG)
    return path


def refused(command, capsys):
    """What a command with a mistake says, which exits with 2."""
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 2
    return capsys.readouterr().err


# --- times ----------------------------------------------------------------------------------------


def test_the_interval_of_a_median_has_the_order_statistics_for_its_ends():
    found = timing.summary([float(n) for n in range(1, 101)])
    assert found == Time(1.0, 50.5, 41.0, 61.0, 100)  # 50 -+ 1.96 sqrt(100) / 2, counted outward


def test_the_interval_holds_the_median_95_times_of_100():
    rng, held = np.random.default_rng(0), 0
    for _ in range(2000):
        found = timing.summary(list(rng.exponential(size=60)))
        held += found.low <= np.log(2) <= found.high
    assert 0.94 < held / 2000 < 0.985  # at least 95 %, as ends are rounded outward


def test_calls_are_timed_in_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) or 1e-3 for name in "abc"}
    found = timing.in_alternation(calls, budget=1e-9)
    assert set(order[:3]) == set("abc")
    assert [sorted(order[n : n + 3]) for n in range(3, len(order), 3)] == [list("abc")] * timing.LEAST_ROUNDS
    assert (
        len({tuple(order[n : n + 3]) for n in range(3, len(order), 3)}) == 3
    )  # each begins a round in its turn
    assert found["a"].rounds == timing.LEAST_ROUNDS


HOG = "print(flush=True)\nwhile True: pass"


@pytest.fixture
def _busy_machine():
    """Other programs that compute, twice as many as there are cores."""
    command = [sys.executable, "-c", HOG]
    hogs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2 * os.cpu_count())]
    for hog in hogs:
        hog.stdout.readline()
    yield
    for hog in hogs:
        hog.kill()
        hog.communicate()


def compute(clock):
    return timing.once(lambda: sum(range(100_000)), clock)


@pytest.mark.usefixtures("_busy_machine")
def test_on_a_busy_machine_processor_time_is_taken_and_reported():
    for options, clock in ((AUTO, "cpu"), ("wall", "wall"), ("cpu", "cpu")):
        (found,) = timing.timed({"sum": compute}, 0.2, options).values()
        assert (found.clock, found.busy) == (clock, True)
        assert words.interval(found).endswith({"cpu": " cpu", "wall": " busy"}[clock])


@pytest.mark.slow  # takes the cores from what else runs
@pytest.mark.usefixtures("_busy_machine")
def test_a_busy_machine_is_reported_where_several_threads_compute():
    """Whose processor time is no time of a step."""
    pytest.importorskip("resource")
    data = bytes(1 << 22)

    def two_threads(clock):
        with ThreadPoolExecutor(2) as pool:
            return timing.once(lambda: list(pool.map(hashlib.sha256, [data] * 4)), clock)

    (found,) = timing.timed({"two": two_threads}, 0.5, AUTO, threads=2).values()
    assert (found.clock, found.busy) == ("wall", True)


def test_a_program_that_waits_has_not_its_share():
    """What other programs take is what this one does not get: here it sleeps."""
    load = timing.Load(1)
    time.sleep(0.05)
    assert load.busy()
    threads = timing.Load(2)
    time.sleep(0.05)  # as workers do that wait for one another
    assert not threads.busy()


@pytest.mark.parametrize(
    ("busy", "clock", "said"), [(False, "cpu", "±1%"), (True, "cpu", "±1% cpu"), (True, "wall", "±1% busy")]
)
def test_a_time_of_a_busy_machine_is_marked_after_its_interval(busy, clock, said):
    from rich.console import Console

    one = measurement("tiled", 1e-5)
    one = one._replace(time=one.time._replace(busy=busy, clock=clock))
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(table.table(results(one)))
    assert f"{said} " in console.export_text()
    assert len(list(table.notes(results(one)))) == busy


def test_the_first_is_fastest_where_that_is_certain():
    far, near = measurement("blas", 8e-6), measurement("blas", 6.05e-6)
    first = measurement("tiled", 6e-6)
    assert words.leads([first]) == words.leads([first, far]) == "fastest"
    assert words.leads([first, near]) == "perhaps fastest"


def test_why_the_others_lost():
    slow = measurement("blas", 12e-6), measurement("gone", 6e-5, traffic=1 << 20)
    said = words.lost([measurement("tiled", 6e-6), measurement("baseline", 6.01e-6), *slow], MACHINE)
    assert said[0] == "baseline cannot be distinguished from tiled."
    assert said[1].startswith(
        "blas takes 2.00 times as long: it reaches 44% of the peak, where tiled reaches 87%. How: "
    )
    assert said[2] == "gone takes 10.00 times as long: it reaches 8.7% of the peak, where tiled reaches 87%."
    copies = [
        measurement(name, t, "gather", None, 20000) for name, t in (("fused", 1e-6), ("baseline", 2e-6))
    ]
    assert "it reaches 5% of the L1 bandwidth, where fused reaches 10%." in words.lost(copies, MACHINE)[0]


def test_a_step_is_taken_apart_by_the_functions_of_the_fastest():
    options = Request(
        ["step"],
        ["baseline", "fused"],
        [],
        [],
        [(classifier(64, 32, 10), SGD(0.1), 32)],
        ["float32"],
        [1],
        0.05,
        CPU,
    )
    found = run(options, tasks(options), lambda _: None, MACHINE, True)
    fastest = min((m for m in found.measurements if m.variant != "reference"), key=lambda m: m.time.median)
    assert {phase.variant for phase in found.phases} == {fastest.variant}


# --- slots and steps --------------------------------------------------------------------------------


def test_a_slot_is_timed_for_those_that_have_their_own():
    own = [
        name for name in ("baseline", "blas", "tiled", "fused", "packed") if rows.has_its_own(name, "affine")
    ]
    assert own == ["baseline", "blas", "tiled"]
    row = SlotRow("affine", "", Sizes(32, 30, 100), "float32")
    found = list(slots.measure(row, ["baseline", "tiled"], 0.01, CPU))
    assert [m.variant for m in found] == ["baseline", "tiled"]
    assert found[0].flops == 2 * 32 * 30 * 100
    assert found[0].traffic == 4 * (32 * 30 + 30 * 100 + 100 + 32 * 100)
    assert all(0 < m.time.best <= m.time.low <= m.time.median <= m.time.high for m in found)


def test_what_is_read_and_written_counts_twice():
    row = SlotRow("apply_rule", "sgd", Sizes(1, 4, 4), "float64")
    numbers = 5 * 4
    # The parameters and both moments are there before and after; the gradient is read, and the constants.
    constants = row.made().arguments[2].nbytes
    assert rows.traffic(row.made()) == 8 * numbers * (1 + 2 * 3) + constants


def test_slots_that_work_in_place_are_given_their_input_in_every_round():
    row = SlotRow("drop", "p=0.1, in place", Sizes(8, 8, 8), "float32")
    (found,) = slots.measure(row, ["baseline"], 1e-3, CPU)
    assert found.time.rounds >= timing.LEAST_ROUNDS


def test_a_wrong_slot_is_reported_and_not_timed(wrong_variant):
    name = registry.register_file(wrong_variant)
    row = SlotRow("bias_gradient", "", Sizes(8, 4, 4), "float64")
    found = list(slots.measure(row, ["baseline", name], 1e-3, CPU))
    assert [type(one) for one in found] == [Wrong, Measurement]
    assert found[0].variant == name
    assert "off by" in found[0].message or "expected" in found[0].message


def test_a_step_is_timed_where_its_losses_are_the_references(wrong_variant):
    name = registry.register_file(wrong_variant)
    row = StepRow(classifier(6, 5, 3), SGD(0.5), 8, "float64", 1)
    found = {one.variant: one for one in steps.measure(row, ["reference", "fused", name], 0.01, CPU)}
    assert isinstance(found[name], Wrong)
    assert "the loss of 8 steps is off by" in found[name].message
    assert found["fused"].time.median < found["reference"].time.median
    assert found["fused"].flops == row.work().flops


RESIDUAL = Network(
    inputs=6, layers=[Dense(5, "relu"), Residual(LayerNorm(), Dense(5)), Dense(3)], output="softmax",
    loss="cross_entropy",
)  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        StepRow(Network([3, 4, 1], output="sigmoid"), SGD(1.2, bias_learning_rate=0.3), 4, "float64", 1),
        StepRow(classifier(6, 5, 3), Adam(), 8, "float64", 1),
        StepRow(classifier(6, 5, 2), SGD(0.1), 8, "float32", 1),
        StepRow(classifier(6, 5, 1), SGD(0.1), 8, "float64", 1),
        StepRow(Network([6, 5, 3]), SGD(0.1), 8, "float64", 1),
        StepRow(Network([6, 5, 1]), Adam(), 8, "float64", 1),
        StepRow(RESIDUAL, Adam(), 8, "float64", 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", PEERS)
def test_peers_take_the_same_steps(name, row):
    pytest.importorskip(name, reason=f"{name} is not installed")
    if name not in peers_of(row.network, row.optimizer):
        assert name == "sklearn"
        assert row.network.loss == "mse" or row.network is RESIDUAL
        return
    (found,) = steps.measure(row, [name], 0.01, CPU)
    assert isinstance(found, Measurement), found


def test_the_usual_steps_are_what_a_step_is_made_of():
    row = StepRow(classifier(6, 5, 3), Adam(), 8, "float32", 1)
    calls = [(part.phase, part.layer, part.row.slot) for part in phases.parts(row)]
    assert ("loss", 0, "output_loss") in calls
    assert ("back", 1, "input_gradient") not in calls  # the first layer's inputs have no slope
    assert {slot for *_, slot in calls} <= set(SLOTS)
    layers = [Dropout(0.1), Dense(5, "relu"), LayerNorm(), "tanh", Dense(3)]
    listed = row._replace(network=Network(inputs=6, layers=layers, output="softmax", loss="cross_entropy"))
    named = [(part.layer, part.row.slot, part.row.case) for part in phases.parts(listed)]
    assert [one for one in named if one[1] in ("drop", "activate")] == [
        (1, "drop", "p=0.5"),
        (2, "activate", "relu"),
        (4, "activate", "tanh"),
        (1, "drop", "p=0.1, in place"),
    ]
    assert {layer for layer, slot, _ in named if slot == "weight_gradient"} == {2, 5}
    found = phases.phases(row, "tiled", 1e-3, CPU)
    assert {(p.phase, p.layer) for p in found} == {(phase, layer) for phase, layer, _ in calls}
    assert all(p.seconds > 0 for p in found)


# --- files, comparisons, words ----------------------------------------------------------------------


def test_results_come_back_from_their_file(tmp_path):
    phased = [PhaseTime("3-4-1 b4", "float32", "tiled", "loss", 0, 1e-6)]
    given = results(
        measurement("tiled", 1e-5),
        wrong=[Wrong("drop", "", "1x1x1", "float32", "mine", "off")],
        phased=phased,
    )
    path = tmp_path / "r.json"
    path.write_text(written(given))
    assert read(path) == given
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="holds no results of fastmlp bench: its format is 99"):
        read(path)


@pytest.mark.parametrize(
    ("before", "now", "spread", "verdict"),
    [
        (1e-5, 1.2e-5, 0.01, "slower"),
        (1e-5, 1.2e-5, 0.10, "as before"),  # the intervals of the medians allow 0.98
        (1e-5, 1.04e-5, 0.001, "as before"),  # for certain, but within the tolerance
        (1e-5, 0.8e-5, 0.01, "faster"),
    ],
)
def test_what_is_slower_is_so_for_certain(before, now, spread, verdict):
    change = Change(
        measurement("tiled", before, spread=spread), measurement("tiled", now, spread=spread), 0.05
    )
    assert change.verdict == verdict
    assert change.low < change.ratio < change.high


def test_only_what_both_have_is_compared():
    before = results(measurement("tiled", 1e-5), measurement("blas", 1e-5))
    now = results(measurement("tiled", 1e-5), measurement("mine", 1e-5))
    assert [change.now.variant for change in compare.changes(before, now, 0.05)] == ["tiled"]


def test_the_winner_is_the_fastest_and_the_reason_follows_from_the_numbers():
    slow, fast = measurement("blas", 8e-6), measurement("tiled", 6e-6)
    ((_, ranked),) = winners([slow, fast]).items()
    assert [m.variant for m in ranked] == ["tiled", "blas"]
    said = words.reason(ranked, MACHINE)
    assert "tiled takes 6 us, 1.33 times as fast as blas." in said
    # 48 KiB are in memory here, whose ridge is at 5 operations a byte.
    assert "With 10.7 operations a byte it is bound by arithmetic, and reaches 87.4 GF/s, 87% of the" in said
    assert "register tiles" in said  # the variant's own file says how
    as_fast = words.reason([measurement("tiled", 6e-6), measurement("blas", 6.05e-6)], MACHINE)
    assert "which cannot be distinguished from blas's 6.05 us" in as_fast


def test_bounds_are_of_the_memory_that_holds_the_data():
    said = words.reason([measurement("tiled", 6e-6, traffic=1 << 20)], MACHINE)
    assert "With 0.5 operations a byte memory allows 10% of the peak" in said
    copied = measurement("tiled", 1e-5, "gather", None, 1 << 21)
    assert "bound by memory: it moves" in words.reason(
        [copied._replace(time=Time(1e-4, 1e-4, 1e-4, 1e-4, 9))], MACHINE
    )
    assert words.duration(1.5e-7) == "150 ns"


def test_shares_are_of_the_peak_or_of_a_bandwidth():
    assert measurement("tiled", 2 * 64**3 / 50e9).share(MACHINE) == pytest.approx(0.5)
    assert measurement("tiled", 1e-6, "gather", None, 20000).share(MACHINE) == pytest.approx(0.1)
    assert measurement("fused", 2 * 64**3 / 100e9, threads=2).share(MACHINE) == pytest.approx(0.5)


CACHE = {"type": "Unified", "size": "512K", "level": "2"}


@pytest.mark.parametrize("missing", [None, *CACHE])
def test_a_cache_of_which_linux_does_not_tell_all_is_left_out(missing, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CACHES", f"{tmp_path}/index*")
    for index, level in enumerate((1, 2)):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (CACHE | {"level": str(level)}).items():
            if (level, name) != (2, missing):
                (folder / name).write_text(f"{text}\n")
    found = dict(machine.cache_sizes())
    # Without a type it is still one for data.
    assert found == {"L1": 1 << 19} | ({"L2": 1 << 19} if missing in (None, "type") else {})


def test_where_linux_tells_of_no_cache_usual_sizes_are_taken(tmp_path, monkeypatch):
    (tmp_path / "index0").mkdir()
    monkeypatch.setattr(machine, "CACHES", f"{tmp_path}/index*")
    assert [level.name for level in machine.measured(0.001).levels] == ["L1", "L2", "L3", "memory"]


# --- the command line --------------------------------------------------------------------------------

QUICK = ["--dtype", "float32", "--seconds", "0.002", "--clock", "cpu"]


def test_bench_prints_a_table_and_compares(tmp_path, capsys):
    path = tmp_path / "r.json"
    options = ["bench", "--slot", "affine", "--shape", "16,16,16", "--variant", "baseline,tiled", *QUICK]
    assert main([*options, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "affine 16x16x16 float32" in printed
    assert "fastest" in printed
    kept = json.loads(path.read_text())
    assert [m["variant"] for m in kept["measurements"]] == ["baseline", "tiled"]
    for m in kept["measurements"]:
        m["time"] = {"best": 1e-12, "median": 1e-12, "low": 1e-12, "high": 1e-12, "rounds": 9}
    path.write_text(json.dumps(kept))
    assert main([*options, "--compare", str(path)]) == 3
    assert "2 compared, 2 slower" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_times_steps(capsys):
    assert (
        main(["bench", "--slot", "step", "--network", "6-5-3", "--batch", "8", "--variant", "tiled", *QUICK])
        == 0
    )
    printed = capsys.readouterr().out
    assert "step adam 6-5-3 b8 float32" in printed
    assert "reference" in printed


def test_a_file_is_measured_with_all_others_where_it_has_its_own(wrong_variant, capsys):
    assert (
        main(
            [
                "bench",
                "--variant",
                str(wrong_variant),
                "--slot",
                "bias_gradient,affine",
                "--shape",
                "8,4,4",
                *QUICK,
            ]
        )
        == 1
    )
    printed = capsys.readouterr().out
    assert "lab_wrong is wrong and was not timed: bias_gradient 8x4x4 float32:" in printed
    assert "tiled" in printed
    assert "affine" not in printed


KERNELS = """
from fastmlp.kernels import Variant
from fastmlp.kernels.variants import baseline


def affine(x, w, b, scratch, out):
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            total = b[j]
            for k in range(x.shape[1]):
                TERM
            out[i, j] = total
    AFTER


VARIANT = Variant("NAME", baseline.VARIANT, {"affine": affine})
"""
SUBTLE = {
    "beyond_out": (
        ("total += x[i, k] * w[k, j]", "out.reshape(out.size)[out.size] = 0"),
        "argument 4: out (shape (8, 4), float32): element 1 after its end was written",
    ),
    "skips_zeros": (
        ("total += x[i, k] * w[k, j] if x[i, k] != 0 else 0", "pass"),
        "affine, 0 times inf, argument 4: out[",
    ),
    "swallows_nan": (
        (
            "total += x[i, k] * w[k, j]",
            "for v in range(out.size):\n        s = out.flat[v]\n        out.flat[v] = s if s == s else 0",
        ),
        "affine, NaN, argument 4: out[",
    ),
}
"""Kernels that are right for every ordinary number."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.matrix] * (place > 0)) for place, name in enumerate(SUBTLE)],
)
def test_bench_does_not_time_a_kernel_that_is_wrong_at_unusual_numbers(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(registry, "registered", dict(registry.registered))
    (term, after), said = SUBTLE[name]
    path = tmp_path / f"lab_{name}.py"
    path.write_text(KERNELS.replace("TERM", term).replace("AFTER", after).replace("NAME", path.stem))
    options = ["--slot", "affine", "--shape", "8,5,4", *QUICK]
    assert main(["bench", "--variant", str(path), *options]) == 1
    output = " ".join(capsys.readouterr().out.split())
    assert f"lab_{name} is wrong and was not timed: affine 8x5x4 float32: " in output
    assert said in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slot", "affin"], "unknown slot 'affin'; choose from: affine, "),
        (["--variant", "tield"], "unknown variant 'tield'; choose from: baseline, "),
        (["--variant", "none.py"], "a variant must be a Python file, got "),
        (["--dtype", "float16"], "unknown dtype 'float16'; choose from: float32, float64"),
        (["--shape", "3,4"], "shape must be 3 whole numbers of at least 1, got '3,4'"),
        (["--network", "784"], "network must be sizes like 784-128-10, got '784'"),
        (["--layers", "LayerNorm()"], "--layers are the hidden ones of --network, which must say inputs and"),
        (
            ["--network", "6-5-3", "--layers", "LayerNorm()"],
            "network must be inputs and outputs like 784-10 with --layers, got '6-5-3'",
        ),
        (["--network", "6-3", "--layers", "Norm()"], "layers: unknown layer 'Norm'; choose from: "),
        (["--threads", "0"], "threads must be whole numbers of at least 1, got '0'"),
        (["--clock", "sun"], "unknown clock 'sun'; choose from: auto, wall, cpu"),
        (["--clock", "cpu", "--threads", "2"], "clock cpu adds up the time of all threads; use wall for"),
        (["--watch"], "--watch needs a file among --variant"),
        (["--asm"], "--asm and --ir take one --variant and one --slot"),
        (["--slot", "affine", "--compare", "none.json"], "No such file or directory: 'none.json'"),
    ],
)
def test_mistakes_are_one_line(arguments, said, capsys):
    output = refused(["bench", *arguments], capsys)
    assert said in output
    assert output.count("\n") == 1


def test_rich_is_needed_and_named(monkeypatch, capsys):
    without(monkeypatch, "rich")
    assert 'fastmlp bench needs rich: pip install "fastmlp[lab]"' in refused(["bench"], capsys)


@pytest.mark.parametrize(
    "slot",
    [pytest.param(s, marks=[pytest.mark.matrix] * (place % 4 > 0)) for place, s in enumerate(SLOTS)],
)
def test_a_new_variant_is_right_before_it_is_changed(slot, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "registered", dict(registry.registered))
    name = f"lab_{slot}"
    assert main(["new-variant", name, "--slot", slot]) == 0
    assert f"fastmlp bench --variant {name}.py --watch" in capsys.readouterr().out
    assert registry.register_file(f"{name}.py") == name
    label = rows.labels_of(slot)[0]
    (found,) = slots.measure(SlotRow(slot, label, Sizes(8, 5, 3), "float64"), [name], 1e-3, CPU)
    assert isinstance(found, Measurement), found
    refused(["new-variant", name, "--slot", slot], capsys)  # it stands there, and is registered


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a-b"], "a variant's name must be letters, digits and _, got 'a-b'"),
        (["tiled"], "a backend named 'tiled' exists already"),
        (["mine", "--slot", "affin"], "unknown slot 'affin'"),
    ],
)
def test_mistakes_of_new_variant(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused(["new-variant", *arguments], capsys)


@pytest.mark.slow  # compiles all backends
def test_explain_says_what_auto_takes_and_why(capsys):
    row = StepRow(classifier(6, 5, 3), Adam(), 8, "float32", 1)
    chosen, found = explain.explained(row, 0.002, CPU)
    estimates = {name: estimate for name, estimate, _ in found if estimate is not None}
    assert min(estimates, key=estimates.get) == chosen
    assert {name for name, _, result in found if isinstance(result, Measurement)} == {
        "reference",
        *registry.variants(),
    }
    assert main(["backends", "--explain", "6-5-3", "--batch", "8", "--clock", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"auto comes to {chosen}" in printed
    assert "auto's choice: the least estimate" in printed
    assert "A training of 125000 steps begins on " in printed
    assert main(["backends"]) == 0
    assert "WHAT IT OVERRIDES" in capsys.readouterr().out


@pytest.mark.slow  # compiles all backends
def test_layers_are_timed_and_explained(capsys):
    network, layers = "6-3", ["--layers", "Dense(5, relu), LayerNorm()", "--batch", "8"]
    assert main(["bench", "--slot", "step", "--network", network, *layers, "--variant", "fused", *QUICK]) == 0
    assert "step adam 6-5-3 b8 float32" in capsys.readouterr().out
    assert main(["backends", "--explain", network, *layers, "--clock", "cpu"]) == 0
    assert "6-5-3 b8 float32, adam, at most 1 threads: auto comes to " in capsys.readouterr().out


@pytest.mark.slow  # compiles for another processor, 2 s
@pytest.mark.parametrize(("kind", "word"), [("asm", "mul|fma|fml"), ("ir", "fmul|llvm.fma")])
def test_the_inner_loop_of_a_slot(kind, word, capsys):
    options = ["--slot", "affine", "--variant", "baseline", "--dtype", "float64", "--shape", "16,16,16"]
    assert main(["bench", *options, f"--{kind}"]) == 0
    printed = capsys.readouterr().out
    assert "baseline affine 16x16x16 float64: the inner loop with most arithmetic, in affine" in printed
    assert any(part in printed for part in word.split("|"))
    if host() != SSE:  # the loop that runs, not the scalar one for arrays that overlap
        assert re.search(r"mul[ps]d.*%[yz]mm|fm\w+pd.*%[yz]mm|\.2d\b|<\d+ x double>", printed)
        assert not re.search(r"(mul|add)sd", printed)


def test_the_loop_with_no_loop_in_it_is_found():
    text = "\n".join(
        [
            "-----ASSEMBLY outer.0123-----",
            ".LBB0_1:",
            "\tmovq\t%rax, %rbx",
            ".LBB0_2:",
            "\tvfmadd231ps\t%zmm0, %zmm1, %zmm2",
            "\tvmulps\t%zmm0, %zmm1, %zmm3",
            "\tjne\t.LBB0_2",
            "\taddps\t%xmm0, %xmm1",
            "\taddps\t%xmm0, %xmm1",
            "\taddps\t%xmm0, %xmm1",
            "\tjne\t.LBB0_1",
            "=" * 80,
        ]
    )
    (loop,) = assembly.loops(text, "asm")
    assert (loop.function, loop.arithmetic, len(loop.lines)) == ("outer.0123", 32, 4)


@pytest.mark.parametrize(
    ("line", "kind", "lanes"),
    [
        ("\tvfmadd231ps\t%zmm0, %zmm1, %zmm2", "asm", 16),
        ("\tvmulps\t(%rax,%rcx,4), %ymm0, %ymm0", "asm", 8),
        ("\tvaddpd\t%ymm0, %ymm1, %ymm0", "asm", 4),
        ("\taddps\t%xmm0, %xmm1", "asm", 4),
        ("\tvmulss\t(%r10,%r15,4), %xmm0, %xmm0", "asm", 1),
        ("\tvmovups\t%ymm0, (%rdx)", "asm", 0),
        ("\tfmla\tv0.4s, v1.4s, v2.s[0]", "asm", 4),
        ("\tfmla.2d\tv0, v1, v2", "asm", 2),
        ("\tfmadd\td0, d1, d2, d0", "asm", 1),
        ("  %3 = fmul <8 x float> %1, %2", "ir", 8),
        ("  %3 = fadd double %1, %2", "ir", 1),
        ("  %3 = tail call <4 x double> @llvm.fma.v4f64(<4 x double> %1, <4 x double> %2)", "ir", 4),
    ],
)
def test_an_instruction_computes_as_many_floats_as_it_has_lanes(line, kind, lanes):
    assert assembly.lanes(line, kind) == lanes


@pytest.mark.slow  # two processes that compile
def test_watch_measures_again_when_the_file_is_saved(tmp_path):
    path = tmp_path / "lab_watched.py"
    path.write_text(WRONG.replace("lab_wrong", "lab_watched"))
    command = [sys.executable, "-m", "fastmlp", "bench", "--variant", str(path), "--watch"]
    options = ["--slot", "bias_gradient", "--shape", "32,8,8"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            first = until_waiting(process)
            assert "lab_watched is wrong and was not timed" in first
            path.unlink()  # as some editors do before they write
            time.sleep(2)
            path.write_text(
                WRONG.replace("lab_wrong", "lab_watched").replace("delta.shape[0] - 1", "delta.shape[0]")
            )
            second = until_waiting(process)
            assert "wrong" not in second
            assert "error" not in second
            assert "lab_watched" in second
        finally:
            process.terminate()


STARTS = """
import os, sys, time
if "--machine" in sys.orig_argv:  # the process that measures
    open(os.environ["STARTED"], "w").close()
    time.sleep(600)
"""


@pytest.mark.slow  # processes, 3 s
@needs.kills
def test_ctrl_c_in_watch_is_one_line_wherever_the_process_that_measures_is(tmp_path):
    """In a terminal Ctrl-C reaches both, and Python prints a traceback while it imports."""
    path, started = tmp_path / "lab_watched.py", tmp_path / "started"
    path.write_text(WRONG)
    (tmp_path / "sitecustomize.py").write_text(STARTS)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "STARTED": str(started)}
    command = [sys.executable, "-m", "fastmlp", "bench", "--variant", str(path), "--watch"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not started.exists() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate()[0] == "fastmlp: interrupted\n"
    assert process.returncode == 130


@pytest.mark.slow  # measures every backend, 7 s
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_explain_takes_every_dtype(dtype, capsys):
    options = ["--explain", "40-36-3", "--batch", "8", "--clock", "cpu", "--dtype", dtype]
    assert main(["backends", *options]) == 0
    printed = capsys.readouterr().out
    assert f"40-36-3 b8 {dtype}, adam, at most 1 threads: auto comes to " in printed
    if dtype == "bfloat16":
        assert "reference_bfloat16" in printed
        possible = [name for name, why_not in processor.WHY_NOT.items() if why_not() is None]
        assert f"auto comes to {possible[0] if possible else 'nothing'}" in printed
        assert printed.count("not here:") == len(processor.WHY_NOT) - len(possible)
        assert "wrong" not in printed


def until_waiting(process):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "waiting for changes" in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


# --- llvm-mca ---------------------------------------------------------------------------------------

needs_mca = pytest.mark.skipif(assembly.tool() is None, reason=f"needs llvm-mca: {assembly.WHERE}")


def chains(count, name="vfmadd231ps\t%zmm30, %zmm31"):
    """A loop of so many chains of multiply-adds."""
    lines = [".LBB0_1:", *(f"\t{name}, %zmm{n}" for n in range(count)), "\tdecq\t%rax", "\tjne\t.LBB0_1"]
    (loop,) = assembly.loops_of("f", lines, "asm")
    return loop


@needs_mca
def test_cycles_are_those_of_the_ports_or_of_the_latency():
    cycles = functools.partial(assembly.cycles, cpu="skylake-avx512")  # two 512-bit ports, four cycles
    assert cycles(chains(24)) == pytest.approx(12, rel=0.02)
    assert cycles(chains(4)) == pytest.approx(4, rel=0.02)


@needs_mca
def test_a_processor_that_llvm_does_not_know_is_reported():
    with pytest.raises(ValueError, match=r"for zilog-z80: .*not a recognized processor"):
        assembly.cycles(chains(2), "zilog-z80")


@pytest.mark.skipif(sys.platform == "win32", reason="a script of the shell stands in for the program")
@pytest.mark.parametrize(("release", "good"), [("14.0.6", False), ("16.0.6", True), ("19.1.7", True)])
def test_an_old_llvm_mca_is_none(tmp_path, monkeypatch, release, good):
    program = tmp_path / "llvm-mca"
    program.write_text(f"#!/bin/sh\necho 'Debian LLVM version {release}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert assembly.tool() == (str(program) if good else None)


def test_no_llvm_mca_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert assembly.tool() is None
    with pytest.raises(ValueError, match=r"^llvm-mca is not installed: Debian's packages llvm-16 and later"):
        assembly.cycles(chains(2), "znver3")
