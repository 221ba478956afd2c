"""Files of models of tables: a model comes back; a changed file is refused in one line, or can be used."""

from __future__ import annotations

import json
import pickle
import re
import warnings

import numpy as np
import polars as pl
import pytest
from support.changed_tables import GONE, changed, refusal, table_of
from support.flats import QUICK, flats

import fastmlp
from fastmlp import TableClassifier, TableRegressor
from fastmlp.files import archive
from fastmlp.tables.estimators import load
from fastmlp.tables.recipe import mean_outputs
from fastmlp.tables.report import compared, simpler
from fastmlp.tables.search import Deadline
from fastmlp.tables.writings import as_learned


def test_a_file_holds_the_model_and_its_preprocessing(tmp_path, regressor, classifier):
    """That it predicts the same, `conftest` says of the file of each model."""
    for model in (regressor, classifier):
        model.save(tmp_path / "model")
        again = load(tmp_path / "model")
        assert type(again) is type(model)
        again.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(model)).predict(flats()), model.predict(flats())
        )
    assert type(TableClassifier.load(tmp_path / "model")) is TableClassifier
    with pytest.raises(fastmlp.CheckpointError, match="holds a model of a classification, no TableRegressor"):
        TableRegressor.load(tmp_path / "model")


def parts_of(value, path=()):
    """Every part of a value of JSON's types, by its path."""
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield from parts_of(child, (*path, name))


@pytest.mark.parametrize(
    ("part", "new", "says"),
    [
        ("header/format", "table 2", "has format 'table 2'; a table's model has 'table 1' in this fastmlp"),
        ("arrays/table", lambda old: old[:-1], "truncated"),
        ("arrays/table", GONE, "it lacks 'table'"),
        ("header/members/0", 3, "members must be at most 2, got 3"),
        ("arrays/members/0/parameters", lambda old: np.full_like(old, np.nan), "a parameter is not finite"),
        ("header/history", ["loss"], "no network of a recipe has losses of rows that it held out"),
        ("arrays/members/1/history/validation_loss", np.ones(99), "the losses of a network are not"),
        ("arrays/members/1/history/*", np.ones(0), "the losses of a network are not those of its ep"),
        ("table/task/classes", ["cheap", 3], "no list of different texts or numbers"),
        ("table/task/classes", [], "no list of different texts or numbers"),
        ("table/task/classes", GONE, "Object missing required field `classes`"),
        ("table/task/classes", ["dear", "cheap"], "the classes are not ascending"),
        ("table/task/classes", ["cheap", "cheap"], "the classes are not ascending"),
        ("table/columns/0/kind", "numbr", "unknown kind of column 'numbr'"),
        ("table/columns", [], "the network is not that of its columns"),
        ("table/columns/2/name", "size", "two columns have the name 'size'"),
        ("table/columns/0/scale", 0, "Expected `float` > 0.0 - at `Number.scale`"),
        ("table/columns/0/unit", -1.0, "Expected `float` > 0.0 - at `Number.unit`"),
        ("table/columns/0/tails", "cut", "Invalid enum value 'cut' - at `Number.tails`"),
        ("table/columns/1/levels", ["Rome", "Rome", "Oslo"], "levels or words of column 'city' are not diff"),
        ("table/target", 3, "Expected `str`, got `int` - at `Table.target`"),
        ("table/recipes/0/dropout", "much", "Expected `float`, got `str` - at `Recipe.dropout`"),
        ("table/recipes/0/hidden", [9], "the network is not that of its columns, its recipe and its task"),
    ],
)
def test_a_file_that_was_changed_is_refused_in_one_line(tmp_path, classifier, part, new, says):
    assert re.search(says, refusal(classifier, tmp_path, part, new))


@pytest.mark.slow
def test_whatever_part_of_a_file_is_changed_it_is_refused_or_can_be_used(tmp_path, command):
    words = pl.Series("note", [f"{a} {b} stone water" for a in "ab" for b in ("red", "blue")] * 15)
    dates = pl.Series("day", np.datetime64("2024-01-01") + np.arange(60) % 50)
    frame = flats(60).with_columns(words, dates, same=1)
    weights, days = ([form.format(1 + i % 9) for i in range(60)] for form in ("{}.5 kg", "0{}/02/2024"))
    frame = frame.with_columns(weight=pl.Series(weights), sold=pl.Series(days))
    options = {"columns": {"price": "drop", "note": "text"}}
    with pytest.warns(UserWarning, match="^columns left out: 'same' .*; columns in doubt: 'sold'"):
        model = TableClassifier(**QUICK | {"epochs": 2, "preset": "fast"}, **options).fit(frame, "kind")
    held = np.arange(60) % 3 == 0
    y = np.array(frame["kind"].to_list())
    read, _ = as_learned(frame, model.encoding_.writings)
    parts = (one for rows in (~held, held) for one in (read.drop("kind").filter(rows), y[rows]))
    others = simpler(model, *parts, 0, Deadline())
    X = model.encoding_.encoded(read.filter(held))
    model.report_ |= compared(model, mean_outputs(model.models_, X), y[held], others)
    model.report_ |= {"words": {"city": {"none": 3}}}
    path = tmp_path / "model"
    model.save(path)
    header, arrays = archive.read(path)
    table, refused, used = table_of(arrays), [], 0
    for part in [part for part in parts_of(table) if part]:
        for new in (GONE, None, "x", -1, 0, 1.5, 1e400, True, [], ["x", "x"], {}, [None]):
            text = json.dumps(changed(table, part, new)).replace("Infinity", "1e400")
            archive.write(path, header, arrays | {"table": np.frombuffer(text.encode(), np.uint8)})
            try:
                found = load(path)
            except fastmlp.CheckpointError as error:
                refused.append(str(error))
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of levels that the model then does not know
                renamed = zip(frame.drop("kind").columns, found.feature_names_in_, strict=False)
                rows = frame.rename(dict(renamed)) if part[-1] == "name" else frame
                if part[0] == "writings":  # where there are none, texts are refused
                    rows = read
                assert np.isfinite(found.predict_proba(rows)).all()
            command(f"inspect {path}")
            command(f"inspect {path} --json")
            found.save(path)
            used += 1
    assert len(refused) > 2 * used > 0
    assert "\n" not in "".join(refused)


def test_files_of_other_kinds_are_distinguished(tmp_path, classifier):
    classifier.save(tmp_path / "table")
    again = fastmlp.load(tmp_path / "table")
    assert type(again) is TableClassifier
    np.testing.assert_array_equal(again.outputs(flats()), classifier.outputs(flats()))
    network, X, y = fastmlp.Network([6, 1]), np.eye(6), np.zeros(6)
    for use in (
        lambda path: fastmlp.fit(network, X, y, resume=path),
        lambda path: fastmlp.fit_many(network, X, y, n_models=2, resume=path),
        fastmlp.Stepper(network, fastmlp.SGD(0.1)).load,
    ):
        says = (
            "table' is the model of a table; fastmlp.load, TableClassifier.load or TableRegressor.load opens"
        )
        with pytest.raises(fastmlp.CheckpointError, match=says):
            use(tmp_path / "table")
    fastmlp.save(classifier.models_[0], tmp_path / "model")
    with pytest.raises(fastmlp.CheckpointError, match="has format 1; a table's model has 'table 1'"):
        load(tmp_path / "model")


def test_a_model_that_comes_back_reads_a_file_as_it_learned_to(tmp_path):
    rng = np.random.default_rng(0)
    codes = rng.choice(["01234", "02345", "09999"], 120)
    frame = pl.DataFrame({"zip": codes, "y": np.where(codes == "01234", "01", "1")})
    frame.write_csv(tmp_path / "t.csv")
    model = TableClassifier(**QUICK, columns={"zip": "category"}).fit(str(tmp_path / "t.csv"), "y")
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert model.classes_.tolist() == ["01", "1"]
    assert again.score(tmp_path / "t.csv", "y") == model.score(tmp_path / "t.csv", "y") > 0.95
    frame.filter(pl.col("y") == "1").write_csv(tmp_path / "ones.csv")
    assert again.score(tmp_path / "ones.csv", "y") > 0.95


def test_an_estimator_without_a_table_is_pickled():
    assert not hasattr(pickle.loads(pickle.dumps(TableRegressor())), "groups_")
