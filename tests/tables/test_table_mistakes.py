"""Odd tables at the command line: each gives a right result, or one line that says what is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from support.flats import QUICK as FAST
from support.flats import QUICKLY, flats
from support.printed import value
from support.selection import matrix, quick

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.plots import plot

SHORT = f"{QUICKLY} --preset fast --epochs 1"
DRAWN = FAST | {"preset": "fast", "epochs": 1}


def test_rows_without_a_target_are_left_out(tmp_path, command):
    frame = flats().with_columns(price=pl.when(pl.col("noise") < 1).then("price"))
    frame.write_csv(tmp_path / "flats.csv")
    output = command(f"train {tmp_path}/flats.csv --target price --drop kind {SHORT}")
    assert value(output, "data").endswith(f", {frame['price'].null_count()} without a target left out")


def test_row_numbers_are_seen_in_the_whole_table(tmp_path, command):
    frame = flats().select(pl.int_range(1, 201).alias("id"), "noise", "kind")
    frame = frame.with_columns(kind=pl.when(pl.col("id") % 3 == 0).then("kind"))
    frame.write_csv(tmp_path / "t.csv")
    output = command(f"train {tmp_path}/t.csv --target kind --test-share 0.6 {SHORT}")
    assert value(output, "left out") == "id: it numbers the rows"


@matrix
def test_codes_are_classes_also_where_a_part_of_the_rows_has_none_that_shows_it(tmp_path, command):
    classes = ["1", "2"] * 20 + ["03"]  # a single row, which the seed holds out
    rows = "".join(f"{place % 2},{one}\n" for place, one in enumerate(classes))
    (tmp_path / "t.csv").write_text(f"a,t\n{rows}")
    found = set()
    for seed in range(6):
        printed = command(f"train {tmp_path}/t.csv --target t --json --seed {seed} {SHORT}")
        found.add(tuple(json.loads(printed)["classes"]))
    assert found == {("03", "1", "2"), ("1", "2")}


def test_json_has_no_nan(tmp_path, command):
    rows = "".join(f"{i % 13},{6.5 if i == 3 else 5.5}\n" for i in range(30))
    (tmp_path / "t.csv").write_text(f"a,t\n{rows}")
    train = f"train {tmp_path}/t.csv --target t --task regression --json -o {tmp_path}/model {SHORT}"
    for text in (train, f"inspect {tmp_path}/model --json"):
        scores = json.loads(command(text), parse_constant=pytest.fail)["report"]["scores"]
        assert scores["constant"]["R^2"] is None


@pytest.mark.slow  # two processes, 7 s
def test_letters_that_stdout_has_not_are_escaped(tmp_path, command):
    rows = "".join(f"{i % 7},{'日é'[i % 2]}\n" for i in range(20))
    (tmp_path / "t.csv").write_text(f"a,t\n{rows}", encoding="utf-8")
    model, data = str(tmp_path / "model"), str(tmp_path / "t.csv")
    command(f"train {data} --target t -o {model} {SHORT}")
    for arguments in (["predict", model, data, "--probabilities", "--quiet"], ["inspect", model]):
        done = subprocess.run(
            [sys.executable, "-m", "fastmlp", *arguments],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        )
        assert done.returncode == 0, done.stderr
        assert {*b"\xe9"} < {*done.stdout}
        assert b"\\u65e5" in done.stdout


def test_columns_that_look_like_something_else_are_reported(tmp_path, command):
    columns = {
        "a": [f"{1 + i % 9},000" for i in range(40)],
        "b": [f"0{1 + i % 9}/10/2024" for i in range(40)],
        "c": [f"level {i % 9}" for i in range(40)],
        "zip": [f"0{i % 9}" for i in range(40)],
        "d": [f"{i} pieces" for i in range(40)] * 2,
        "y": [i % 9 + 0.5 for i in range(40)],
        **{f"e{i}": [1] * 40 for i in range(12)},
    }
    frame = pl.DataFrame({name: values * (80 // len(values)) for name, values in columns.items()})
    frame.write_csv(tmp_path / "t.csv")
    output = command(f"train {tmp_path}/t.csv --target y --category zip,d {SHORT}")
    assert re.findall(r"^note +(.*)", output, re.MULTILINE) == [
        "a: '1,000' may be written as 1,234.50 or 1.234,50; --number a=1,234.50 says it",
        "b: '01/10/2024' may be a date as %m/%d/%Y or %d/%m/%Y; --date b=%m/%d/%Y says it",
        "only 16 rows are held out: scores of fewer than 30 depend much on which rows they are",
    ]
    left_out = re.findall(r"^left out +(.*)", output, re.MULTILINE)
    assert len(left_out) == 11
    assert left_out[-1] == "2 more; inspect lists them"


def test_a_target_may_have_the_name_of_a_probability(tmp_path, command):
    frame = flats(40).select("size", pl.col("kind").alias("probability of dear"))
    TableClassifier(**FAST).fit(frame, "probability of dear").save(tmp_path / "model")
    frame.write_csv(tmp_path / "t.csv")
    printed = command(f"predict {tmp_path}/model {tmp_path}/t.csv --probabilities --quiet")
    found = pl.read_csv(printed.encode())
    assert found.columns[::2] == ["probability of dear", "probability of dear by the model"]
    assert (found.to_series(2) > 0.5).to_list() == (found.to_series(0) == "dear").to_list()


@pytest.mark.slow  # a picture, 2 s
def test_dollars_in_names_are_no_formula(tmp_path):
    frame = flats().select(pl.col("size").alias("size_$^a_$"), pl.col("price").alias("$ a $^b$"))
    model = TableRegressor(**DRAWN).fit(frame, "$ a $^b$")
    y = frame["$ a $^b$"].to_numpy()
    figure = plot(model, frame.drop("$ a $^b$"), y, 0)
    figure.savefig(tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    assert "<!-- size_$^a_$ -->" in drawn
    assert "<!-- predicted $ a $^b$ -->" in drawn


def test_no_name_is_obeyed_by_a_terminal(tmp_path, command):
    red, bell = "\x1b[31mred", "bell\a\r\u202e"
    frame = flats().select(pl.col("size").alias(red), pl.col("city") + bell, pl.lit(1).alias(bell), "kind")
    frame = frame.with_columns(pl.col("kind") + red).rename({"kind": f"{red}\n{bell}"})
    frame.write_parquet(tmp_path / "t.parquet")
    train = f"train {tmp_path}/t.parquet -o {tmp_path}/model {SHORT} --target"
    output = command(train, f"{red}\n{bell}") + command(f"inspect {tmp_path}/model")
    assert "\\x1b[31mred" in output
    assert "bell\\x07\\r\\u202e" in output
    assert set(output) - {"\n"} == {one for one in output if one.isprintable()}
    error = command(f"{train} none", code=3)
    assert "\\x1b[31mred" in error
    assert error[:-1].isprintable()


@pytest.mark.slow  # four pictures, 4 s
def test_a_picture_of_the_rows_that_were_trained_on_says_so(folder, tmp_path, command):
    flats(seed=1).write_csv(tmp_path / "other.csv")
    flats()[::-1].write_csv(tmp_path / "reversed.csv")
    flats().drop("noise").write_parquet(tmp_path / "same.parquet")
    says = r" is the table that the model was trained on: \d+ rows were held out of it\n"
    for table, target, is_same in (
        (folder / "flats.csv", "price", True),
        (tmp_path / "same.parquet", "kind", True),
        (tmp_path / "other.csv", "kind", False),
        (tmp_path / "reversed.csv", "price", False),
    ):
        picture = tmp_path / f"{target}.svg"
        command(f"plot {folder / target} {table} -o {picture}")
        said = f"fastmlp: {re.escape(str(table))}{says}" if is_same else ""
        assert re.fullmatch(said, command.errors)
        assert ("rows that were held out" in picture.read_text()) == is_same


def test_a_picture_of_a_model_of_python_says_so_too(folder, tmp_path, command):
    model = TableRegressor(**DRAWN, columns={"kind": "drop"}).fit(flats(), "price")
    model.save(tmp_path / "model")
    command(f"plot {tmp_path}/model {folder}/flats.csv --json")
    assert "flats.csv is the table that the model was trained on" in command.errors


@matrix
def test_letters_that_a_picture_has_not_are_refused_in_one_line(tmp_path, command):
    frame, other = (flats(seed=seed).select(pl.col("size").alias("日"), "price") for seed in (0, 1))
    other.write_csv(tmp_path / "t.csv")
    TableRegressor(**DRAWN).fit(frame, "price").save(tmp_path / "model")
    command(f"plot {tmp_path}/model {tmp_path}/t.csv")
    says = "fastmlp: matplotlib's font lacks letters of some names"
    assert (command.errors.startswith(says), command.errors.count("\n")) == (True, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("train flats.csv", 2, "a table needs --target COLUMN"),
        ("train no.csv --target y", 3, "no.csv: No such file or directory"),
        ("train flats.csv --target y", 3, "flats.csv has no column 'y'; there are: size, city, noise"),
        ("train wrong.csv --target a", 3, "wrong.csv, row 2: it has 3 fields, and the header 2"),
        ("train flats.csv --target price --number city", 3, "flats.csv, row 1, column 'city': '"),
        ("train flats.csv --target price --drop citty", 2, "unknown column 'citty'; choose from: size"),
        ("train flats.csv --target price --drop price", 2, "column 'price' is the target"),
        ("train flats.csv --target price --drop city --text city", 2, "set to be both"),
        ("train flats.csv --target price --task clustering", 2, "unknown task 'clustering'"),
        ("train flats.csv --target price --hidden 3,x", 2, "hidden must be widths like 128,64 or none"),
        ("train none.csv --target price --hidden 0", 2, "every width of hidden must be at least 1, got 0"),
        ("train flats.csv --target price --dropout 1 --drop size,city,kind", 2, "dropout must be in [0, 1)"),
        ("train flats.csv --target price --epochs 0", 2, "epochs must be at least 1, got 0"),
        ("train flats.csv --target price --test-share 1", 2, "test-share must be in (0, 1), got 1.0"),
        ("train flats.csv --target price --test-share 0.99", 2, "a test share of 0.99 leaves 2 of 200 ro"),
        ("train flats.csv --target price --dtype bfloat16 --backend fused", 2, "'bfloat16' goes with the b"),
        ("train flats.csv --target price --dtype half", 2, "unknown dtype 'half'; choose from: float32"),
        ("train flats.csv.gz --target price", 3, "flats.csv.gz: files of tables end in .csv, .tsv"),
        ("train flats.csv --target price --class-weight balanced", 2, "--class-weight is for classification"),
        ("train flats.csv --target price -o nowhere/model", 2, "-o nowhere/model: there is no such director"),
        ("train flats.csv --target price -o flats.csv", 2, "-o flats.csv: it is a file that is read"),
        ("train nowhere.csv --target price -o .", 2, "-o .: it is a directory"),
        ("predict price flats.csv -o ./flats.csv", 2, "-o ./flats.csv: it is a file that is read"),
        ("plot price flats.csv -o nowhere/a.png", 2, "-o nowhere/a.png: there is no such directory"),
        ("bench --slot affine --html nowhere/a", 2, "--html nowhere/a: there is no such directory"),
        ("bench --slot affine --machine nowhere", 2, "No such file or directory: 'nowhere'"),
        ("train head.csv --target b", 3, "head.csv, column 'b': no row has a target"),
        ("train none.csv --target b", 3, "none.csv, column 'b': no row has a target"),
        ("train two.csv --target b", 3, "two.csv: at least 4 rows with a target are needed, got 2"),
        ("train late.csv --target b", 3, "late.csv, row 23, column 'b': 'tall' is not a number; it is a t"),
        ("train dates.csv --target b", 3, "dates.csv, column 'b': the target holds dates: make numbers"),
        ("train names.csv --target b", 3, "names.csv: the target has 60 classes in 60 rows, too many"),
        ("train large.csv --target b", 3, "large.csv: a regression needs numbers that have a deviation"),
        ("train iris --target species", 2, "--target is for tables, like data.csv; 'iris' is none"),
        ("predict flats.csv flats.csv", 3, "flats.csv is no model; to make one of a table: fastmlp train fl"),
        ("predict none flats.csv", 3, "none: No such file or directory"),
        ("predict price wrong.csv --quiet", 3, "wrong.csv, column 'size': there is no such column"),
        ("predict price long.csv --quiet", 3, "long.csv, row 2: it has 3 fields, and the header 2"),
        ("predict price other.csv --quiet", 3, "other.csv, column 'size': there is no such column"),
        ("predict price tall.csv --quiet", 3, "tall.csv, row 2, column 'size': 'tall' is not a number"),
        ("predict price flats.csv -o out.doc", 2, "-o must end in .csv, .tsv, .parquet, .arrow, got out.doc"),
        ("plot price other.csv", 3, "other.csv: there is no column 'price'; there are: city"),
        ("plot price few.csv", 3, "few.csv, row 3, column 'price'"),
        ("plot price flats.csv --seed -1", 2, "fastmlp: error: seed must be"),
        (f"plot price flats.csv --seed {'9' * 26}", 2, "fastmlp: error: seed must be"),
        ("inspect flats.csv", 3, "flats.csv is no model; to make one of a table: fastmlp train flats.csv --"),
        ("inspect damaged", 3, "'damaged' is not a sound checkpoint: its checksum does not hold"),
        ("inspect notes.txt", 3, "error: notes.txt is no model\n"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(odd_files, command, monkeypatch, arguments, code, says):
    monkeypatch.chdir(odd_files)
    assert says in command(arguments + " --quiet" * arguments.startswith("train"), code=code)
    assert command.output == ""


@pytest.fixture(scope="module")
def odd_files(folder):
    """The folder with files, of each of which something is wrong."""
    numbers, price = "".join(f"{i},{i}.5\n" for i in range(20)), (folder / "price").read_bytes()
    texts = {
        "wrong.csv": "a,b\n1,2\n3,4,5\n",
        "other.csv": "city\nRome\n",
        "head.csv": "a,b\n",
        "none.csv": "a,b\n1,\n2,NA\n",
        "two.csv": "a,b\n1,2\n3,4\n5,\n",
        "late.csv": f"a,b\n1,\n2,?\n{numbers}3,tall\n",
        "flats.csv.gz": "",
        "notes.txt": "nothing in particular",
        "long.csv": "city,size\nRome,50\nRome,50,60\n",
        "tall.csv": "city,size\nRome,50\nRome,tall\n",
        "few.csv": "size,city,price\n1,Rome,\n1,Rome,1.5\n2,Rome,tall\n3,Rome,2\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "damaged").write_bytes(price[:-1])
    for name, b in (
        ("dates", [f"2024-01-{i + 1:02}" for i in range(28)]),
        ("names", [f"name {i}" for i in range(60)]),
        ("large", [1.5, *map(float, range(30)), 1e308]),
    ):
        pl.DataFrame({"a": np.arange(len(b)) % 7, "b": b}).write_csv(folder / f"{name}.csv")
    return folder


def test_a_diverging_training_exits_with_1(folder, command):
    train = f"train {folder}/flats.csv --target price {QUICKLY} --learning-rate 1e30 --optimizer sgd"
    assert "diverged" in command(train, code=1)


@quick(2)
@pytest.mark.parametrize("form", ["polars", "pandas", ".parquet"])
@pytest.mark.parametrize("place", [0, 3])
def test_a_column_without_a_name_is_a_column(form, place, tmp_path):
    """Polars renames it where a frame is made of columns."""
    frame = flats().rename({"size": ""})
    frame = frame.select([*(names := [one for one in frame.columns if one])[:place], "", *names[place:]])
    given = frame
    if form == "pandas":
        given = frame.to_pandas()
    elif form != "polars":
        given = tmp_path / f"flats{form}"
        frame.write_parquet(given)
    model = TableRegressor(**FAST, columns={"kind": "drop"}).fit(given, "price")
    assert "" in model.encoding_.kinds
    np.testing.assert_array_equal(model.predict(frame.drop("price")), model.predict(given))
