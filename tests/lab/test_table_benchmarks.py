"""The benchmark of tables: runs go on where they were, and the report counts what has run only."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from support.processes import python

from benchmarks.tables.__main__ import planned, version_of
from benchmarks.tables.learners import learner_of
from benchmarks.tables.page import report
from benchmarks.tables.sets import CHOOSE, HELD, LEVEL_ROWS, LEVELS, MOST_ROWS

ROOT = Path(__file__).parents[2]


def row(table, learner, split, loss, **more):
    took = {"seconds": 1.0, "processor": 1.0, "MB": 10.0}
    found = {"score": 0.5, "loss": loss, "constant": 2.0, "train": took, "predict": took}
    return {"table": table, "learner": learner, "split": split, "version": "1", **(more or found)}


def test_halves_are_of_one_size_and_share_no_table():
    assert len(CHOOSE) == len(HELD) == 20
    assert not CHOOSE.keys() & HELD.keys()
    assert not LEVELS.keys() & (CHOOSE | HELD).keys()


def test_tables_of_many_levels_are_apart_in_the_report():
    losses = {"fastmlp": 0.5, "CatBoost": 0.75, "fastmlp:preset=best": 0.25}
    rows = [row(table, one, 0, loss) for table in ("nlswork", "planes") for one, loss in losses.items()]
    rows += [row("spam7", one, 0, loss) for one, loss in losses.items()]
    lines = report(rows).splitlines()
    assert "| levels: loss | splits | constant | fastmlp | fastmlp:preset=best | CatBoost |" in lines
    assert "| nlswork | 1 | 2.000 | 0.500 | **0.250** | 0.750 |" in lines
    assert "| means over 2 tables | fastmlp | fastmlp:preset=best | CatBoost |" in lines
    assert "| choose: loss | splits | constant | fastmlp | CatBoost |" in lines


def test_the_report_has_ranks_of_tables_that_all_learners_have():
    rows = [row(table, "fastmlp", 0, 1.0) for table in ("Computers", "diamonds", "spam7")]
    rows += [row(table, "CatBoost", 0, loss) for table, loss in (("Computers", 0.5), ("diamonds", 1.5))]
    rows += [row("spam7", "CatBoost", 0, 0.0, unended=600)]
    lines = report(rows).splitlines()
    assert "| Computers | 1 | 2.000 | 1.000 | **0.500** |" in lines
    assert "| spam7 | 1 | 2.000 | **1.000** | did not end |" in lines
    assert "| means over 2 tables | fastmlp | CatBoost |" in lines
    assert "| rank by loss | 1.50 | 1.50 |" in lines
    assert "| 95 % interval | 1.00 to 2.00 | 1.00 to 2.00 |" in lines
    assert "| loss, 0 the least and 1 a constant's | 0.167 | 0.250 |" in lines


def test_ranks_are_means_over_splits_and_a_learner_of_fewer_has_its_own_table():
    tables = ("ames", "flights", "segment")
    losses = {"fastmlp": (1.0, 1.25, 1.75), "CatBoost": (1.5, 1.0, 1.0), "RealMLP-TD": (0.5, 1.125)}
    rows = [
        row(table, learner, split, loss)
        for learner, of_splits in losses.items()
        for table in tables
        for split, loss in reversed([*enumerate(of_splits)])  # whatever the order of the file
    ]
    lines = report(rows).splitlines()
    assert "| ames | 3 | 2.000 | 1.333 | **1.167** | 0.812 of 2 |" in lines
    first = lines.index("| means over 3 tables | fastmlp | CatBoost |")
    assert lines[first + 2] == "| rank by loss | 1.67 | 1.33 |"
    low, high = lines[first + 3].split(" | ")[1].split(" to ")
    assert float(low) < 1.67 < float(high)  # of splits: all tables are the same
    second = lines.index("| means over 3 tables | fastmlp | CatBoost | RealMLP-TD |")
    assert lines[second + 2] == "| rank by loss | 2.50 | 2.00 | 1.50 |"
    assert lines[second + 4] == "| loss | 1.125 | 1.250 | 0.812 |"


def test_a_table_that_no_learner_has_ended_is_in_the_report():
    lines = report([row("ames", "fastmlp", 0, 0.0, unended=600)]).splitlines()
    assert "| ames | 1 |  | did not end |" in lines


def test_of_two_rows_of_a_split_the_last_one_holds():
    rows = [row("ames", "fastmlp", 0, loss) for loss in (1.0, 0.25)] + [row("ames", "fastmlp", 1, 0.75)]
    assert "| ames | 2 | 2.000 | **0.500** |" in report(rows).splitlines()


def test_the_report_names_all_versions_and_processors_of_its_rows():
    rows = [row("ames", "fastmlp", split, 1.0) | {"version": one} for split, one in enumerate(("b1", "a2"))]
    rows += [row("nlswork", "fastmlp:preset=best", 0, 1.0) | {"cpu": "Zen 5"}]
    rows += [row("ames", "fastmlp:epochs=2", 0, 1.0) | {"version": "in no table", "cpu": "Zen 4"}]
    first = report(rows).splitlines()[0]
    assert first == (
        "fastmlp a2 and b1, fastmlp:preset=best 1, on Zen 5, one core; 2 rows do not say which processor."
    )
    assert report(rows[2:3]).startswith("fastmlp:preset=best 1, on Zen 5, one core.\n")


def options(**given):
    return Namespace(
        **{"half": None, "tables": None, "learners": ["HistGradientBoosting"], "splits": 1, "rows": None}
        | given
    )


def test_training_rows_depend_on_the_table():
    rows = {row["table"]: row["most_rows"] for row in planned(options(tables=["nlswork", "ames"]))}
    assert rows == {"nlswork": LEVEL_ROWS, "ames": MOST_ROWS}
    assert {row["most_rows"] for row in planned(options(half="levels", rows=3000))} == {3000}
    with pytest.raises(SystemExit, match="'nlswork' is no table of held; choose from: ames"):
        [*planned(options(half="held", tables=["ames", "nlswork"]))]


def test_settings_of_a_learner_are_arguments_of_a_call():
    _, settings = learner_of("fastmlp:hidden=(64,64),preset=best,columns={'a': 'drop'},l2=1e-3")
    assert settings == {"hidden": (64, 64), "preset": "best", "columns": {"a": "drop"}, "l2": 1e-3}
    assert learner_of("fastmlp")[1] == {}


@pytest.mark.parametrize("name", ["fastmlp:levels", "fastmlp:a=1)", "fastmlp:**a", "XGBoost:a=1", "xgboost"])
def test_an_unknown_learner_or_setting_is_one_line(name):
    with pytest.raises(SystemExit, match=r"^unknown .*; (choose|write) .*$"):
        [*planned(options(learners=["HistGradientBoosting", name]))]


def test_a_package_that_is_not_installed_is_one_line():
    with pytest.raises(SystemExit, match=r"^fastmlp-of-nobody is not installed; .* --help says how to$"):
        version_of("fastmlp-of-nobody")


@pytest.mark.slow  # starts processes
def test_a_run_goes_on_where_it_was(tmp_path):
    results = tmp_path / "results.jsonl"
    command = ["-m", "benchmarks.tables", "--tables", "breast_cancer", "--splits", "1"]
    command += ["--results", str(results), "--learners", "HistGradientBoosting"]

    def run(*more):
        done = python(*command, *more, cwd=ROOT)
        return done.stdout.splitlines(), [json.loads(line) for line in results.read_text().splitlines()]

    said, rows = run()
    assert len(said) == len(rows) == 1
    assert rows[0]["loss"] < rows[0]["constant"]
    assert rows[0]["cpu"]
    assert run() == ([], rows)
    said, rows = run("fastmlp:epochs=2,members=1")
    assert [row["learner"] for row in rows] == ["HistGradientBoosting", "fastmlp:epochs=2,members=1"]
    assert rows[1]["train"]["processor"] > 0
    _, rows = run("--again", "--seconds", "0.01")
    assert rows[-1]["unended"] == 0.01
