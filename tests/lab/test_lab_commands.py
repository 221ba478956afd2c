"""The commands of the kernel lab: tables, watching a file, a new variant, and mistakes in one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support import needs
from support.lab_results import CPU, WRONG, measurement
from support.missing_packages import without
from support.selection import matrix, quick

from fastmlp.backend import registry
from fastmlp.cli.main import main
from fastmlp.kernels.mixed import tiles
from fastmlp.lab import slot_times, table
from fastmlp.lab.measurements import STEP, Measurement
from fastmlp.lab.slot_times import SlotRow
from fastmlp.lab.steps import StepRow, classifier
from fastmlp.model.optimizers import Adam
from fastmlp.testing.cases import Sizes
from fastmlp.testing.slots import SLOTS

pytest.importorskip("rich")


def refused(command, capsys):
    """What a command with a mistake says, which exits with 2."""
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 2
    return capsys.readouterr().err


def bench(options):
    """Run a short bench; return its exit code."""
    return main(["bench", *options.split(), "--dtype", "float32", "--seconds", "0.002", "--clock", "cpu"])


def test_bench_prints_a_table_and_compares(tmp_path, capsys):
    path = tmp_path / "r.json"
    options = "--slot affine --shape 16,16,16 --variant baseline,tiled"
    assert bench(f"{options} --json {path}") == 0
    printed = capsys.readouterr().out
    assert "affine 16x16x16 float32" in printed
    assert "fastest" in printed or "tied" in printed
    kept = json.loads(path.read_text())
    assert [m["variant"] for m in kept["measurements"]] == ["baseline", "tiled"]
    for m in kept["measurements"]:
        m["time"] = {"best": 1e-12, "median": 1e-12, "low": 1e-12, "high": 1e-12, "rounds": 9}
    path.write_text(json.dumps(kept))
    assert bench(f"{options} --compare {path}") == 3
    assert "2 compared, 2 slower" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_times_steps(capsys):
    assert bench("--slot step --network 6-5-3 --batch 8 --variant tiled") == 0
    printed = capsys.readouterr().out
    assert "step adam 6-5-3 b8 float32" in printed
    assert "reference" in printed


@matrix
def test_a_file_is_measured_with_all_others_where_it_has_its_own(wrong_variant, capsys):
    assert bench(f"--variant {wrong_variant} --slot bias_gradient,affine --shape 8,4,4") == 1
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
        ("total += x[i, k] * w[k, j]",
         "for v in range(out.size):\n        s = out.flat[v]\n        out.flat[v] = s if s == s else 0"),
        "affine, NaN, argument 4: out[",
    ),
}  # fmt: skip
"""Kernels that are right for every ordinary number."""


def some(names, of):
    """One of so many names; the others are for `pytest -m matrix`."""
    marks = [[pytest.mark.matrix] * (place % of > 0) for place in range(len(names))]
    return [pytest.param(name, marks=some) for name, some in zip(names, marks, strict=True)]


@matrix
@pytest.mark.parametrize("name", some(SUBTLE, len(SUBTLE)))
def test_bench_does_not_time_a_kernel_that_is_wrong_at_unusual_numbers(name, tmp_path, capsys):
    (term, after), said = SUBTLE[name]
    path = tmp_path / f"lab_{name}.py"
    path.write_text(KERNELS.replace("TERM", term).replace("AFTER", after).replace("NAME", path.stem))
    assert bench(f"--variant {path} --slot affine --shape 8,5,4") == 1
    output = " ".join(capsys.readouterr().out.split())
    assert f"lab_{name} is wrong and was not timed: affine 8x5x4 float32: " in output
    assert said in output


MISTAKES = {
    "bench --slot affin": "unknown slot 'affin'; choose from: affine, ",
    "bench --variant tield": "unknown variant 'tield'; choose from: baseline, ",
    "bench --variant none.py": "a variant must be a Python file, got ",
    "bench --dtype float16": "unknown dtype 'float16'; choose from: float32, float64",
    "bench --shape 3,4": "shape must be 3 whole numbers of at least 1, got '3,4'",
    "bench --network 784": "network must be sizes like 784-128-10, got '784'",
    "bench --layers LayerNorm()": "--layers are the hidden ones of --network, which must say inputs and",
    "bench --network 6-5-3 --layers LayerNorm()": "network must be inputs and outputs like 784-10 with --l",
    "bench --network 6-3 --layers Norm()": "layers: unknown layer 'Norm'; choose from: ",
    "bench --threads 0": "threads must be whole numbers of at least 1, got '0'",
    "bench --clock sun": "unknown clock 'sun'; choose from: auto, wall, cpu",
    "bench --clock cpu --threads 2": "clock cpu adds up the time of all threads; use wall for",
    "bench --watch": "--watch needs a file among --variant",
    "bench --asm": "--asm takes one --variant and one --slot",
    "bench --slot affine --compare none.json": "No such file or directory: 'none.json'",
    "new-variant a-b": "a variant's name must be letters, digits and _, got 'a-b'",
    "new-variant tiled": "a backend named 'tiled' exists already",
    "new-variant mine --slot affin": "unknown slot 'affin'",
}  # fmt: skip


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_are_one_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = refused(command.split(), capsys)
    assert MISTAKES[command] in output
    assert output.count("\n") == 1


def test_rich_is_needed_and_named(monkeypatch, capsys):
    without(monkeypatch, "rich")
    assert 'fastmlp bench needs rich: pip install "fastmlp[lab]"' in refused(["bench"], capsys)


@quick(1)
@pytest.mark.parametrize("slot", some(SLOTS, 8))
def test_a_new_variant_is_right_before_it_is_changed(slot, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = f"lab_{slot}"
    assert main(["new-variant", name, "--slot", slot]) == 0
    assert f"fastmlp bench --variant {name}.py --watch" in capsys.readouterr().out
    assert registry.register_file(f"{name}.py") == name
    label = slot_times.labels_of(slot)[0]
    (found,) = slot_times.measure(SlotRow(slot, label, Sizes(8, 5, 3), "float64"), [name], 1e-3, CPU)
    assert isinstance(found, Measurement), found
    refused(["new-variant", name, "--slot", slot], capsys)  # it stands there, and is registered


@pytest.mark.slow  # compiles all backends
def test_explain_says_what_auto_takes_and_why(capsys):
    row = StepRow(classifier(6, 5, 3), Adam(), 8, "float32", 1)
    chosen, found = table.explained(row, 0.002, CPU)
    estimates = {name: estimate for name, estimate, _ in found if estimate is not None}
    assert min(estimates, key=estimates.get) == chosen
    timed = {name for name, _, result in found if isinstance(result, Measurement)}
    assert timed == {"reference", *registry.variants()}
    assert main(["backends", "--explain", "6-5-3", "--batch", "8", "--clock", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"auto comes to {chosen}" in printed
    assert "auto's choice: the least estimate" in printed
    assert "A training of 125000 steps begins on " in printed
    assert main(["backends"]) == 0
    assert "WHAT IT OVERRIDES" in capsys.readouterr().out


def test_a_backend_that_is_faster_than_the_choice_is_named_with_its_share():
    """The sentence on the choice goes by estimates, and does not say that nothing is faster."""
    fused = ("fused", 1e-6, measurement("fused", 6e-6, STEP))
    found = [fused, ("blas", 2e-6, measurement("blas", 3e-6, STEP))]
    row = StepRow(classifier(6, 5, 3), Adam(), 8, "float32", 1)
    made, said = table.choices_table(row, "fused", found)
    assert said == ["Measured here, blas takes 0.50 of the time of fused: auto goes by the estimates."]
    assert [*made.columns[-1].cells] == ["auto's choice: the least estimate", "fastest"]
    made, said = table.choices_table(row, "fused", [fused, ("blas", 2e-6, measurement("blas", 5.9e-6, STEP))])
    assert said == []
    assert [*made.columns[-1].cells] == [
        "auto's choice: the least estimate, tied for the fastest", "tied for the fastest",
    ]  # fmt: skip


@pytest.mark.slow  # compiles all backends
def test_layers_are_timed_and_explained(capsys):
    layers = ["--layers", "Dense(5,relu),LayerNorm()", "--batch", "8"]
    assert bench(f"--slot step --network 6-3 {' '.join(layers)} --variant fused") == 0
    assert "step adam 6-5-3 b8 float32" in capsys.readouterr().out
    assert main(["backends", "--explain", "6-3", *layers, "--clock", "cpu"]) == 0
    assert "6-5-3 b8 float32, adam, at most 1 threads: auto comes to " in capsys.readouterr().out


def watching(path, *options, **given):
    """A process of `fastmlp bench --watch`."""
    command = [sys.executable, "-m", "fastmlp", "bench", "--variant", str(path), "--watch", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **given)


@pytest.mark.slow  # two processes that compile
def test_watch_measures_again_when_the_file_is_saved(tmp_path):
    path = tmp_path / "lab_watched.py"
    path.write_text(WRONG.replace("lab_wrong", "lab_watched"))
    with watching(path, "--slot", "bias_gradient", "--shape", "32,8,8") as process:
        try:
            first = until_waiting(process)
            assert "lab_watched is wrong and was not timed" in first
            path.unlink()  # as some editors do before they write
            time.sleep(2)
            path.write_text(WRONG.replace("lab_wrong", "lab_watched").replace("[0] - 1", "[0]"))
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
    process = watching(path, env=environment, start_new_session=True)
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
        possible = [name for name, why_not in tiles.WHY_NOT.items() if why_not() is None]
        assert f"auto comes to {possible[0] if possible else 'nothing'}" in printed
        assert printed.count("not here:") == len(tiles.WHY_NOT) - len(possible)
        assert "wrong" not in printed


def until_waiting(process):
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "waiting for changes" in line:
            return "".join(lines)
    raise AssertionError("".join(lines))
