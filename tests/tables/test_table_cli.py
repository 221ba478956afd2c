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
from support.flats import flats
from support.missing_packages import without
from support.printed import value
from support.processes import python
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
from fastmlp.cli.main import main
from fastmlp.cli.table_report import inputs_in_words, print_scores
from fastmlp.kernels.mixed import tiles
from fastmlp.system import notices

QUICK = "--hidden 8 --epochs 40 --batch-size 32 --learning-rate 0.02 --members 2 --backend reference --quiet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("tables"))


def trained(folder):
    """Write a table, and models that the command line makes of it."""
    flats().write_csv(folder / "flats.csv")
    for target, other in (("price", "kind"), ("kind", "price")):
        options = f"--target {target} --drop {other},noise {QUICK} -o {folder / target}"
        assert main(["train", str(folder / "flats.csv"), *options.split()]) == 0
    return folder


def test_train_compares_a_model_with_simpler_ones(folder, capsys):
    options = f"--target price --drop kind {QUICK}".split()
    assert main(["train", str(folder / "flats.csv"), *options]) == 0
    output, progress = capsys.readouterr()
    assert progress == ""
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


@pytest.mark.slow  # trains twice, 2 s
def test_the_same_as_json_and_from_one_seed(folder, capsys):
    found = []
    for seed in (3, 3, 4):
        options = f"--target kind --drop price --seed {seed} --json --class-weight balanced {QUICK}".split()
        assert main(["train", str(folder / "flats.csv"), *options]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["report"] == found[1]["report"] != found[2]["report"]
    assert found[0]["classes"] == ["cheap", "dear"]
    assert set(found[0]["report"]["scores"]["linear"]) == {
        "accuracy", "balanced", "ROC AUC", "average precision", "log loss", "Brier", "ECE",
    }  # fmt: skip
    assert found[0]["recipe"]["balanced"]


def test_predict_gives_a_header_and_a_row_for_each_row(folder, capsys):
    model, data = str(folder / "price"), str(folder / "flats.csv")
    assert main(["predict", model, data, "-o", str(folder / "out.csv"), "--quiet"]) == 0
    written = pl.read_csv(folder / "out.csv")
    assert written.columns == ["price"]
    np.testing.assert_allclose(written["price"], TableRegressor.load(model).predict(data))
    assert main(["predict", model, data, "--quiet"]) == 0
    assert capsys.readouterr().out == (folder / "out.csv").read_text()
    for ending in (".tsv", ".parquet", ".arrow"):
        assert main(["predict", model, data, "-o", str(folder / f"out{ending}"), "--quiet"]) == 0
    assert pl.read_parquet(folder / "out.parquet").equals(written)
    assert [path.name for path in folder.glob(".*")] == []


def test_predict_that_fails_leaves_the_old_file_and_no_other(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "out.csv").write_text("old")

    def fails(frame, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(table_report.WRITERS, ".csv", fails)
    command = ["predict", str(folder / "price"), str(folder / "flats.csv"), "-o", str(tmp_path / "out.csv")]
    assert main(command) == 130
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.csv", "old")]


def test_predict_needs_only_the_columns_that_the_model_uses(folder, tmp_path, capsys):
    flats(5).select("city", "size").write_csv(tmp_path / "few.csv")
    assert (
        main(["predict", str(folder / "kind"), str(tmp_path / "few.csv"), "--probabilities", "--quiet"]) == 0
    )
    found = pl.read_csv(capsys.readouterr().out.encode())
    assert found.columns == ["kind", "probability of cheap", "probability of dear"]
    assert len(found) == 5
    assert (found["probability of dear"] > 0.5).to_list() == (found["kind"] == "dear").to_list()


def test_predict_writes_the_ends_of_intervals(folder, capsys):
    data = str(folder / "flats.csv")
    assert main(["predict", str(folder / "price"), data, "--interval", "0.8", "--quiet"]) == 0
    found = pl.read_csv(capsys.readouterr().out.encode())
    low, high = TableRegressor.load(folder / "price").predict_interval(data, 0.8)
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
def test_predict_refuses_what_a_model_does_not_say(folder, capsys, target, options, line):
    with pytest.raises(SystemExit) as left:
        main(["predict", str(folder / target), str(folder / "flats.csv"), *options.split()])
    assert left.value.code == 2
    assert re.fullmatch(f"fastmlp: error: {line}\n", capsys.readouterr().err)


def test_inspect_shows_what_a_model_is(folder, capsys):
    assert main(["inspect", str(folder / "price")]) == 0
    output = capsys.readouterr().out
    assert value(output, "target") == "price, a regression"
    model = TableRegressor.load(folder / "price")
    inputs = re.findall(r"^inputs +(\d+) columns of X", output, re.MULTILINE)
    assert inputs == [str(model.encoding_.width)] * len(model.groups_)
    sizes = [f"{models[0].parameters.size:,}" for _, models in model.groups_]
    assert re.findall(r"^  loss mse +([\d,]+)$", output, re.MULTILINE) == sizes
    assert re.search(r"^  size +number +median ", output, re.MULTILINE)
    assert re.search(r"^  city +category +3 levels", output, re.MULTILINE)
    assert main(["inspect", str(folder / "price"), "--json"]) == 0
    assert {one["name"] for one in json.loads(capsys.readouterr().out)["columns"]} >= {"size", "city"}


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


@pytest.mark.parametrize("target", ["price", "kind"])
def test_plot_draws_losses_fit_and_importances(folder, capsys, target):
    from matplotlib.image import imread

    assert main(["plot", str(folder / target), str(folder / "flats.csv")]) == 0
    path = capsys.readouterr().out.strip()
    assert path == f"{folder / target}.png"
    picture = imread(path)[..., :3]
    thirds = np.array_split((picture < 0.9).any(axis=2), 3, axis=1)
    assert min(third.mean() for third in thirds) > 0.01  # something is drawn in each


@pytest.mark.parametrize("command", ["train {0}.csv --target price", "predict {0} {0}.csv"])
def test_without_polars_it_is_named(folder, command, capsys, monkeypatch):
    without(monkeypatch, "polars")
    with pytest.raises(SystemExit) as left:
        main(command.format(folder / "price").split())
    assert left.value.code == 2
    how = 'pip install "fastmlp[table]", or ".[table]" in a checkout'
    assert capsys.readouterr().err == f"fastmlp: error: a table needs polars: {how}\n"


def test_a_search_is_reported(folder, capsys):
    options = f"--target price --drop kind --search 1s {QUICK}".replace("--learning-rate 0.02", "").split()
    assert main(["train", str(folder / "flats.csv"), *options]) == 0
    assert re.match(r"\d+ trials, the best at rate ", value(capsys.readouterr().out, "search"))


@pytest.mark.slow  # a process that trains two networks, 8 s
@needs.posix("terminals")
def test_bars_move_while_a_table_is_read_and_learned(folder):
    options = f"--target price --drop kind {QUICK}".replace("--quiet", "").split()
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


def test_products_of_bfloat16_numbers(folder, tmp_path, capsys, monkeypatch):
    options = f"--target price --drop kind {QUICK} --dtype bfloat16 --hidden 32,32 -o {tmp_path / 'model'}"
    command = ["train", str(folder / "flats.csv"), *options.split()]
    assert main(command) == 0
    assert value(capsys.readouterr().out, "backend") == "reference_bfloat16"
    found = TableRegressor.load(tmp_path / "model")
    assert found.models_[0].parameters.dtype == np.float32
    assert found.score(flats(seed=1), "price") > 0.8
    for name in tiles.WHY_NOT:
        monkeypatch.setitem(tiles.WHY_NOT, name, lambda: "the processor (old) has no avx512bf16")
    for one in (command, ["train", "digits", "--dtype", "bfloat16", "--quiet"]):
        with pytest.raises(SystemExit) as left:
            main([*one, "--backend", "auto"])
        assert left.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("fastmlp: error: dtype 'bfloat16' needs other instructions, or backend='ref")
        assert error.count("\n") == 1


DOCS = pages.text_of("docs/tables.md")


@pytest.mark.parametrize("page", ["tables", "columns", "table-targets"])
def test_the_options_in_the_docs_are_the_commands(page, capsys):
    for command in ("train", "predict", "plot"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    assert set(re.findall(r"(?<![-|])--[a-z][a-z0-9-]*", pages.text_of(f"docs/{page}.md"))) <= known


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
"""Bytes of memory for each byte of a CSV file, besides those of a small file: 5.04 in repeated runs. A
process that compiles uses the compiler's memory again: anything from 3.9 to 5.0 was measured there."""


@pytest.mark.slow
@needs.linux("the largest resident size, in KiB")
def test_memory_grows_by_a_few_bytes_for_each_byte_of_the_file(tmp_path):
    """Of a training alone: a small one before has loaded all code, which a first process has compiled."""
    files, peaks = [tmp_path / f"{rows}.csv" for rows in (10_000, 200_000, 800_000)], []
    for path in files:
        rng, rows = np.random.default_rng(0), int(path.stem)
        frame = pl.DataFrame({f"x{i}": rng.normal(size=rows).round(6) for i in range(6)})
        shop = pl.Series("shop", rng.integers(0, 300, rows)).cast(pl.String)
        frame.with_columns("shop " + shop, price=pl.col("x0") * 3 + pl.col("x1")).write_csv(path)
    for path in files:
        done = python("-c", MEMORY, files[0], path, FASTMLP_CACHE_DIR=tmp_path / "cache")
        peaks.append(1024 * int(done.stdout.split()[-1]))
    _, few, many = (path.stat().st_size for path in files)
    assert (peaks[2] - peaks[1]) / (many - few) < BYTES
