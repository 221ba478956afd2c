"""`fastmlp train data.csv`, `predict`, `inspect` and `plot`, as somebody without Python code meets them."""

from __future__ import annotations

import json
import re
import sys
import threading
import time

import numpy as np
import polars as pl
import pytest
from support import needs, pages
from support.flats import LEARNED, QUICKLY, flats
from support.missing_packages import without
from support.printed import value
from support.processes import python
from support.selection import matrix
from support.terminals import on_terminal

from fastmlp import (
    Dense,
    Network,
    Numbers,
    Periodic,
    PiecewiseLinear,
    SparseNumbers,
    TableClassifier,
    TableRegressor,
)
from fastmlp.cli import table_report
from fastmlp.cli.table_report import inputs_in_words, print_scores
from fastmlp.kernels.mixed import tiles
from fastmlp.system import notices


@matrix
def test_train_compares_a_model_with_simpler_ones(folder, command):
    output = command(f"train {folder}/flats.csv --target price --drop kind {LEARNED}")
    assert command.errors == ""
    assert value(output, "data").endswith("flats.csv: 160 rows to train on, 40 held out")
    assert value(output, "target") == "price, a regression"
    assert value(output, "columns").startswith("2 number, 1 category; 6 columns of X")
    assert value(output, "left out") == "kind: as requested"
    assert value(output, "network").startswith("2 times 6-8-1, ")
    scores = {
        name: float(score) for name, score in re.findall(r"^(\w+) +(-?[\d.e-]+) ", output, re.MULTILINE)
    }
    assert scores["network"] > max(scores["constant"], scores["linear"])
    assert scores["constant"] < 0.05
    assert scores["linear"] > 0.5


def test_the_same_as_json_and_from_one_seed(folder, command):
    options = f"--target kind --drop price --json --class-weight balanced --epochs 5 {QUICKLY}"
    found = [json.loads(command(f"train {folder}/flats.csv {options} --seed {seed}")) for seed in (3, 3, 4)]
    assert found[0]["report"] == found[1]["report"] != found[2]["report"]
    assert found[0]["classes"] == ["cheap", "dear"]
    assert set(found[0]["report"]["scores"]["linear"]) == {
        "accuracy", "balanced", "ROC AUC", "average precision", "log loss", "Brier", "ECE",
    }  # fmt: skip
    assert found[0]["recipe"]["balanced"]


def test_predict_gives_a_header_and_a_row_for_each_row(folder, command):
    predict = f"predict {folder}/price {folder}/flats.csv --quiet"
    for ending in (".csv", ".tsv", ".parquet", ".arrow"):
        command(f"{predict} -o {folder}/out{ending}")
    written = pl.read_csv(folder / "out.csv")
    assert written.columns == ["price"]
    predicted = TableRegressor.load(folder / "price").predict(folder / "flats.csv")
    np.testing.assert_allclose(written["price"], predicted)
    assert command(predict) == (folder / "out.csv").read_text()
    assert pl.read_parquet(folder / "out.parquet").equals(written)
    assert [path.name for path in folder.glob(".*")] == []


def test_predict_that_fails_leaves_the_old_file_and_no_other(folder, tmp_path, command, monkeypatch):
    (tmp_path / "out.csv").write_text("old")

    def fails(frame, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(table_report.WRITERS, ".csv", fails)
    command(f"predict {folder}/price {folder}/flats.csv -o {tmp_path}/out.csv", code=130)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.csv", "old")]


def test_predict_needs_only_the_columns_that_the_model_uses(folder, tmp_path, command):
    flats(5).select("city", "size").write_csv(tmp_path / "few.csv")
    printed = command(f"predict {folder}/kind {tmp_path}/few.csv --probabilities --quiet")
    found = pl.read_csv(printed.encode())
    assert found.columns == ["kind", "probability of cheap", "probability of dear"]
    assert len(found) == 5
    assert (found["probability of dear"] > 0.5).to_list() == (found["kind"] == "dear").to_list()


def test_predict_writes_the_ends_of_intervals(folder, command):
    printed = command(f"predict {folder}/price {folder}/flats.csv --interval 0.8 --quiet")
    found = pl.read_csv(printed.encode())
    low, high = TableRegressor.load(folder / "price").predict_interval(folder / "flats.csv", 0.8)
    assert found.columns == ["price", "low", "high"]
    np.testing.assert_allclose(found["low"], low)
    np.testing.assert_allclose(found["high"], high)


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        ("price", "--probabilities", "--probabilities is for classes, and .* predicts numbers"),
        ("kind", "--interval 0.9", "--interval is for numbers, and .* predicts classes"),
        ("price", "--interval 1.5", "coverage must be .* got 1.5"),
    ],
)
def test_predict_refuses_what_a_model_does_not_say(folder, command, target, options, line):
    error = command(f"predict {folder}/{target} {folder}/flats.csv {options}", code=2)
    assert re.fullmatch(f"fastmlp: error: {line}\n", error)


def test_inspect_shows_what_a_model_is(folder, command):
    output = command(f"inspect {folder}/price")
    assert value(output, "target") == "price, a regression"
    model = TableRegressor.load(folder / "price")
    inputs = re.findall(r"^inputs +(\d+) columns of X", output, re.MULTILINE)
    assert inputs == [str(model.encoding_.width)] * len(model.groups_)
    sizes = [f"{models[0].parameters.size:,}" for _, models in model.groups_]
    assert re.findall(r"^  loss mse +([\d,]+)$", output, re.MULTILINE) == sizes
    assert re.search(r"^  size +number +median ", output, re.MULTILINE)
    assert re.search(r"^  city +category +3 levels", output, re.MULTILINE)
    columns = json.loads(command(f"inspect {folder}/price --json"))["columns"]
    assert {one["name"] for one in columns} >= {"size", "city"}
    assert "rows are held out" not in output  # enough for a report


def test_what_is_rounding_in_scores_of_classes_is_printed_as_0(folder, capsys):
    rounding = 4 * np.finfo(float).eps
    for load, target, measure, shown in (
        (TableClassifier.load, "kind", "ECE", "0"),
        (TableRegressor.load, "price", "RMSE", "8.882e-16"),  # of a target whose unit is as small
    ):
        model = load(folder / target)
        model.report_["scores"]["constant"][measure] = rounding
        print_scores(model)
        lines = [line.split() for line in capsys.readouterr().out.splitlines()]
        places = {name: place for place, name in enumerate(model.report_["scores"]["constant"], 1)}
        [constant] = [line for line in lines if line[0] == "constant"]
        assert constant[places[measure]] == shown


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        (3, "3 columns of X as they are"),
        ((Numbers(2, PiecewiseLinear(32, 8)),), "2 columns of X, 2 of them each in 32 bins, then 8 units"),
        (
            (Numbers(1), Numbers(2, PiecewiseLinear(48)), SparseNumbers(4)),
            "7 columns of X, 2 of them each in 48 bins",
        ),
        ((Numbers(2, Periodic(8)), Numbers(1)), "3 columns of X, 2 of them each by cosines, 8 units"),
    ],
)
def test_what_stands_in_place_of_columns_is_said(blocks, line):
    assert inputs_in_words(Network(inputs=blocks, layers=[Dense(1)])) == line


@matrix
@pytest.mark.parametrize("target", ["price", pytest.param("kind", marks=pytest.mark.slow)])
def test_plot_draws_losses_fit_and_importances(folder, command, target):
    from matplotlib.image import imread

    path = command(f"plot {folder}/{target} {folder}/flats.csv").strip()
    assert path == f"{folder / target}.png"
    picture = imread(path)[..., :3]
    thirds = np.array_split((picture < 0.9).any(axis=2), 3, axis=1)
    assert min(third.mean() for third in thirds) > 0.01  # something is drawn in each


@pytest.mark.parametrize("text", ["train {0}.csv --target price", "predict {0} {0}.csv"])
def test_without_polars_it_is_named(folder, text, command, monkeypatch):
    without(monkeypatch, "polars")
    how = 'pip install "fastmlp[table]", or ".[table]" in a checkout'
    error = command(text.format(folder / "price"), code=2)
    assert error == f"fastmlp: error: a table needs polars: {how}\n"


@pytest.mark.slow  # a process that trains two networks, 8 s
@needs.posix("terminals")
def test_bars_move_while_a_table_is_read_and_learned(folder):
    options = f"--target price --drop kind {LEARNED} --backend reference".replace("--quiet", "").split()
    command = [sys.executable, "-m", "fastmlp", "train", str(folder / "flats.csv"), *options]
    code, _, seen = on_terminal(*command)
    assert code == 0, seen
    assert re.search(r"reading: +\d+%.*\d+%", seen, re.DOTALL)
    assert re.search(r"network 2/2, epoch \d+/40: .*row/s", seen)
    phases = "reading, targets, holding out rows, columns, linear model, encoding, training"
    places = [seen.find(f"{phase}: ") for phase in phases.split(", ")]
    assert min(places) > -1
    assert places == sorted({*places})


def test_a_bars_clock_moves_where_nothing_else_does(capsys, monkeypatch):
    monkeypatch.setattr(notices, "BEAT", 0.01)
    for total, what in ((None, "linear model"), (10, "columns")):
        with notices.Bar(total, "row", what, True):
            assert what in capsys.readouterr().err
            drawn, deadline = "", time.monotonic() + 30
            while what not in drawn and time.monotonic() < deadline:
                time.sleep(0.01)
                drawn = capsys.readouterr().err
        assert re.search(rf"{what}.*00:", drawn)
    assert not [thread for thread in threading.enumerate() if thread.name == "fastmlp bar"]


@matrix
def test_products_of_bfloat16_numbers(folder, tmp_path, command, monkeypatch):
    options = f"{LEARNED} --dtype bfloat16 --hidden 32,32 --preset fast -o {tmp_path}/model --backend"
    train = f"train {folder}/flats.csv --target price --drop kind {options}"
    assert value(command(f"{train} reference"), "backend") == "reference_bfloat16"
    found = TableRegressor.load(tmp_path / "model")
    assert found.models_[0].parameters.dtype == np.float32
    assert found.score(flats(seed=1), "price") > 0.8
    for name in tiles.WHY_NOT:
        monkeypatch.setitem(tiles.WHY_NOT, name, lambda: "the processor (old) has no avx512bf16")
    for one in (train, "train digits --dtype bfloat16 --quiet --backend"):
        error = command(f"{one} auto", code=2)
        assert error.startswith("fastmlp: error: dtype 'bfloat16' needs other instructions, or backend='ref")


DOCS = pages.text_of("docs/tables.md")


def test_the_options_in_the_docs_are_the_commands(command):
    helped = "".join(command(f"{one} --help") for one in ("train", "predict", "plot"))
    for page in ("tables", "columns", "table-targets"):
        named = re.findall(r"(?<![-|])--[a-z][a-z0-9-]*", pages.text_of(f"docs/{page}.md"))
        assert {*named} <= {*re.findall(r"--[a-z][a-z0-9-]*", helped)}, page


@pytest.mark.slow
def test_the_example_in_the_docs_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = "".join(re.findall(r"^```python\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE))
    names: dict[str, object] = {}
    exec(example, names)
    assert names["model"].score(names["flats"], "price") > 0.95
    assert len(names["prices"]) == 300
    assert np.mean((names["low"] < names["prices"]) & (names["prices"] < names["high"])) == 1
    assert np.mean(names["tenth"] < names["ninth"]) == 1


MEMORY = """
import sys
from pathlib import Path
from fastmlp.cli.main import main

def kibibytes(name):
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith(name))
    return int(line.split()[1])

def train(path):
    before = kibibytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    options = "--epochs 1 --members 1 --hidden 8 --backend fused --threads 1 --quiet"
    main(["train", path, "--target", "price", *options.split()])
    return kibibytes("VmHWM") - before

print(*map(train, sys.argv[1:]))
"""


BYTES = 5.5
"""Bytes of memory for each byte of a CSV file, besides those of a small file: 3.4 to 4.3 in eight runs."""


@pytest.mark.slow
@needs.linux("the largest resident size, in KiB")
def test_memory_grows_by_a_few_bytes_for_each_byte_of_the_file(tmp_path):
    """Of a training alone: a small one before has loaded all code, which the first process has compiled."""
    files, peaks = [tmp_path / f"{rows}.csv" for rows in (10_000, 200_000, 800_000)], []
    for path in files:
        rng, rows = np.random.default_rng(0), int(path.stem)
        frame = pl.DataFrame({f"x{i}": rng.normal(size=rows).round(6) for i in range(6)})
        shop = pl.Series("shop", rng.integers(0, 300, rows)).cast(pl.String)
        frame.with_columns("shop " + shop, price=pl.col("x0") * 3 + pl.col("x1")).write_csv(path)
    for path in files:
        done = python("-c", MEMORY, files[0], path)
        peaks.append(1024 * int(done.stdout.split()[-1]))
    _, few, many = (path.stat().st_size for path in files)
    assert (peaks[2] - peaks[1]) / (many - few) < BYTES
