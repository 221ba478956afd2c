"""The kernel lab: what it measures agrees first, and what it says follows from the numbers."""

import json

import pytest
from support.lab_results import CPU, MACHINE, measurement, results
from support.selection import matrix, quick

from fastmlp.backend import registry
from fastmlp.lab import machine, slot_times, steps, table, timing
from fastmlp.lab.measurements import Measurement, PhaseTime, Wrong, read, winners, written
from fastmlp.lab.peers import PEERS, peers_of
from fastmlp.lab.run import Request, run, tasks
from fastmlp.lab.slot_times import SlotRow
from fastmlp.lab.steps import StepRow, classifier
from fastmlp.model.layers import Dense, Dropout, Residual
from fastmlp.model.network import Network
from fastmlp.model.norms import LayerNorm
from fastmlp.model.optimizers import SGD, Adam
from fastmlp.testing.cases import Sizes
from fastmlp.testing.slots import SLOTS

pytest.importorskip("rich")


@matrix
def test_a_step_is_taken_apart_by_the_functions_of_the_fastest():
    steps_of = [(classifier(64, 32, 10), SGD(0.1), 32)]
    options = Request(["step"], ["tiled", "fused"], [], [], steps_of, ["float32"], [1], 0.05, CPU)
    found = run(options, tasks(options), MACHINE, True)
    fastest = min((m for m in found.measurements if m.variant != "reference"), key=lambda m: m.time.median)
    assert {phase.variant for phase in found.phases} == {fastest.variant}


def test_a_slot_is_timed_for_those_that_have_their_own():
    every = "baseline", "blas", "tiled", "fused"
    own = [name for name in every if slot_times.has_its_own(name, "affine")]
    assert own == ["baseline", "blas", "tiled"]
    row = SlotRow("affine", "", Sizes(32, 30, 100), "float32")
    found = list(slot_times.measure(row, ["baseline", "tiled"], 0.01, CPU))
    assert [m.variant for m in found] == ["baseline", "tiled"]
    assert found[0].flops == 2 * 32 * 30 * 100
    assert found[0].traffic == 4 * (32 * 30 + 30 * 100 + 100 + 32 * 100)
    assert all(0 < m.time.best <= m.time.low <= m.time.median <= m.time.high for m in found)


def test_what_is_read_and_written_counts_twice():
    row = SlotRow("apply_rule", "adam", Sizes(1, 4, 4), "float64")
    numbers = 5 * 4
    # The parameters and both moments are there before and after; the gradient is read, and the constants.
    constants = row.made().arguments[2].nbytes
    assert slot_times.traffic(row.made()) == 8 * numbers * (1 + 2 * 3) + constants


def test_slots_that_work_in_place_are_given_their_input_in_every_round():
    row = SlotRow("drop", "p=0.1, in place", Sizes(8, 8, 8), "float32")
    (found,) = slot_times.measure(row, ["baseline"], 1e-3, CPU)
    assert found.time.rounds >= timing.LEAST_ROUNDS


def test_a_wrong_slot_is_reported_and_not_timed(wrong_variant):
    name = registry.register_file(wrong_variant)
    row = SlotRow("bias_gradient", "", Sizes(8, 4, 4), "float64")
    found = list(slot_times.measure(row, ["baseline", name], 1e-3, CPU))
    assert [type(one) for one in found] == [Wrong, Measurement]
    assert found[0].variant == name
    assert "off by" in found[0].message or "expected" in found[0].message


@pytest.mark.slow  # compiles a variant, 8 s
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


@quick(4)
@pytest.mark.parametrize(
    ("network", "optimizer", "dtype"),
    [
        (Network([3, 4, 1], output="sigmoid", loss="mse"), SGD(1.2, bias_learning_rate=0.3), "float64"),
        (classifier(6, 5, 3), Adam(), "float64"),
        (classifier(6, 5, 2), SGD(0.1), "float32"),
        (classifier(6, 5, 1), SGD(0.1), "float64"),
        (Network([6, 5, 3]), SGD(0.1), "float64"),
        (Network([6, 5, 1]), Adam(), "float64"),
        (RESIDUAL, Adam(), "float64"),
    ],
)
@pytest.mark.parametrize("name", PEERS)
def test_peers_take_the_same_steps(name, network, optimizer, dtype):
    row = StepRow(network, optimizer, 8, dtype, 1)
    pytest.importorskip(name, reason=f"{name} is not installed")
    if name not in peers_of(row.network, row.optimizer):
        assert name == "sklearn"
        assert row.network.loss == "mse" or row.network is RESIDUAL
        return
    (found,) = steps.measure(row, [name], 0.01, CPU)
    assert isinstance(found, Measurement), found


def test_the_usual_steps_are_what_a_step_is_made_of():
    row = StepRow(classifier(6, 5, 3), Adam(), 8, "float32", 1)
    calls = [(phase, layer, called.slot) for phase, layer, called in slot_times.parts(row)]
    assert ("loss", 0, "output_loss") in calls
    assert ("back", 1, "input_gradient") not in calls  # the first layer's inputs have no slope
    assert {slot for *_, slot in calls} <= set(SLOTS)
    layers = [Dropout(0.1), Dense(5, "relu"), LayerNorm(), "tanh", Dense(3)]
    listed = row._replace(network=Network(inputs=6, layers=layers, output="softmax", loss="cross_entropy"))
    named = [(layer, called.slot, called.case) for _, layer, called in slot_times.parts(listed)]
    assert [one for one in named if one[1] in ("drop", "activate")] == [
        (1, "drop", "p=0.5"), (2, "activate", "relu"), (4, "activate", "tanh"),
        (1, "drop", "p=0.1, in place"),
    ]  # fmt: skip
    assert {layer for layer, slot, _ in named if slot == "weight_gradient"} == {2, 5}
    found = slot_times.phases(row, "tiled", 1e-3, CPU)
    assert {(p.phase, p.layer) for p in found} == {(phase, layer) for phase, layer, _ in calls}
    assert all(p.seconds > 0 for p in found)


def test_results_come_back_from_their_file(tmp_path):
    phased = [PhaseTime("3-4-1 b4", "float32", "tiled", "loss", 0, 1e-6)]
    wrong = [Wrong("drop", "", "1x1x1", "float32", "mine", "off")]
    given = results(measurement("tiled", 1e-5), wrong=wrong, phased=phased)
    path = tmp_path / "r.json"
    path.write_text(written(given))
    assert read(path) == given
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="holds no results of fastmlp bench: its format is 99"):
        read(path)


def test_the_winner_is_the_fastest_and_the_reason_follows_from_the_numbers():
    slow, fast = measurement("blas", 8e-6), measurement("tiled", 6e-6)
    ((_, ranked),) = winners([slow, fast]).items()
    assert [m.variant for m in ranked] == ["tiled", "blas"]
    said = table.reason(ranked, MACHINE)
    assert "tiled takes 6 us, 1.33 times as fast as blas." in said
    # 48 KiB are in memory here, whose ridge is at 5 operations a byte.
    assert "With 10.7 operations a byte it is bound by arithmetic, and reaches 87.4 GF/s, 87% of the" in said
    assert "register tiles" in said  # the variant's own file says how
    as_fast = table.reason([measurement("tiled", 6e-6), measurement("blas", 6.05e-6)], MACHINE)
    assert "which cannot be distinguished from blas's 6.05 us" in as_fast


def test_bounds_are_of_the_memory_that_holds_the_data():
    said = table.reason([measurement("tiled", 6e-6, traffic=1 << 20)], MACHINE)
    assert "With 0.5 operations a byte memory allows 10% of the peak" in said
    copied = measurement("tiled", 1e-4, "gather", None, 1 << 21)
    assert "bound by memory: it moves" in table.reason([copied], MACHINE)
    assert table.duration(1.5e-7) == "150 ns"


def test_shares_are_of_the_peak_or_of_a_bandwidth():
    assert measurement("tiled", 2 * 64**3 / 50e9).fraction(MACHINE) == pytest.approx(0.5)
    assert measurement("tiled", 1e-6, "gather", None, 20000).fraction(MACHINE) == pytest.approx(0.1)
    assert measurement("fused", 2 * 64**3 / 100e9, threads=2).fraction(MACHINE) == pytest.approx(0.5)


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
