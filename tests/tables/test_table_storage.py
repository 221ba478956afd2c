"""Files of models of tables: a model comes back; a changed file is refused in one line, or can be used."""

from __future__ import annotations

import copy
import json
import pickle
import warnings

import numpy as np
import polars as pl
import pytest
from support.flats import QUICK, flats

import fastmlp
from fastmlp import TableClassifier, TableRegressor
from fastmlp.cli.main import main
from fastmlp.files import archive
from fastmlp.tables import members
from fastmlp.tables.deadline import Deadline
from fastmlp.tables.estimators import load
from fastmlp.tables.report import compared, simpler
from fastmlp.tables.selection import SearchTrial
from fastmlp.tables.writings import as_learned


def test_a_file_holds_the_model_and_its_preprocessing(tmp_path, regressor, classifier):
    for model in (regressor, classifier):
        model.save(tmp_path / "model")
        again = load(tmp_path / "model")
        assert type(again) is type(model)
        assert again.encoding_ == model.encoding_
        assert again.recipe_ == model.recipe_
        np.testing.assert_array_equal(again.outputs(flats(seed=3)), model.outputs(flats(seed=3)))
        again.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
        np.testing.assert_array_equal(
            pickle.loads(pickle.dumps(model)).predict(flats()), model.predict(flats())
        )
    assert type(TableClassifier.load(tmp_path / "model")) is TableClassifier
    with pytest.raises(fastmlp.CheckpointError, match="holds a model of a classification, no TableRegressor"):
        TableRegressor.load(tmp_path / "model")


def test_a_trial_that_diverged_comes_back_as_one(tmp_path, regressor):
    model = copy.copy(regressor)
    model.trials_ = [SearchTrial((3,), 0.1, float("nan"), 1.0), SearchTrial((), 0.2, 0.5, 2.0)]
    model.save(tmp_path / "model")
    diverged, other = load(tmp_path / "model").trials_
    assert np.isnan(diverged.loss)
    assert other == model.trials_[1]


def table_of(arrays):
    return json.loads(bytes(arrays["table"]))


def parts_of(value, path=()):
    """Every part of a value of JSON's types, by its path."""
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield from parts_of(child, (*path, name))


GONE = object()


def changed(value, path, new):
    """A copy of a value in which the part at a path is another, or is gone."""
    if not path:
        return new
    copied = value.copy()
    if len(path) == 1 and new is GONE:
        del copied[path[0]]
    else:
        copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


def of_parameters(arrays):
    return np.full_like(arrays["members/0/parameters"], np.nan)


@pytest.mark.parametrize(
    ("part", "new", "says"),
    [
        ("arrays/table", lambda arrays: arrays["table"][:-1], "truncated"),
        ("arrays/table", GONE, "it lacks 'table'"),
        ("header/members/0", 3, "members must be at most 2, got 3"),
        ("arrays/members/0/parameters", of_parameters, "a parameter is not finite"),
        ("header/history", ["loss"], "no network of a recipe has losses of rows that it held out"),
        (
            "arrays/members/1/history/validation_loss",
            lambda _: np.ones(99),
            "the losses of a network are not",
        ),
        (
            "arrays/members/1/history/*",
            lambda _: np.ones(0),
            "the losses of a network are not those of its ep",
        ),
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
    path = tmp_path / "model"
    classifier.save(path)
    header, arrays = archive.read(path)
    place, _, name = part.partition("/")
    if place == "arrays":
        for one in [
            one for one in arrays if one.startswith(name.removesuffix("*")) and (one == name or "*" in name)
        ]:
            arrays = changed(arrays, [one], new if new is GONE else new(arrays))
    else:
        steps = [int(step) if step.isdigit() else step for step in name.split("/")]
        if place == "header":
            header = changed(header, steps, new)
        else:
            text = json.dumps(changed(table_of(arrays), steps, new)).encode()
            arrays = arrays | {"table": np.frombuffer(text, np.uint8)}
    archive.write(path, header, arrays)
    with pytest.raises(fastmlp.CheckpointError, match=says) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_whatever_part_of_a_file_is_changed_it_is_refused_or_can_be_used(tmp_path, capsys):
    words = pl.Series("note", [f"{a} {b} stone water" for a in "ab" for b in ("red", "blue")] * 15)
    dates = pl.Series("day", np.datetime64("2024-01-01") + np.arange(60) % 50)
    frame = flats(60).with_columns(words, dates, same=1)
    weights, days = ([form.format(1 + i % 9) for i in range(60)] for form in ("{}.5 kg", "0{}/02/2024"))
    frame = frame.with_columns(weight=pl.Series(weights), sold=pl.Series(days))
    options = {"columns": {"price": "drop", "note": "text"}}
    with pytest.warns(UserWarning, match="^columns left out: 'same' .*; columns in doubt: 'sold'"):
        model = TableClassifier(**QUICK | {"epochs": 2}, **options).fit(frame, "kind")
    model.trials_ = [SearchTrial((8,), 0.1, 0.5, 1.0)]
    held = np.arange(60) % 3 == 0
    y = np.array(frame["kind"].to_list())
    read, _ = as_learned(frame, model.encoding_.writings)
    others = simpler(model, read.drop("kind"), y, held, 0, Deadline())
    X = model.encoding_.encoded(read.filter(held))
    model.report_ |= compared(model, members.outputs(model.models_, X), y[held], others)
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
            assert main(["inspect", str(path)]) == main(["inspect", str(path), "--json"]) == 0
            found.save(path)
            used += 1
    assert len(refused) > 2 * used > 0
    assert "\n" not in "".join(refused)


def test_files_of_other_kinds_are_distinguished(tmp_path, classifier):
    classifier.save(tmp_path / "table")
    again = fastmlp.load(tmp_path / "table")
    assert type(again) is TableClassifier
    np.testing.assert_array_equal(again.outputs(flats()), classifier.outputs(flats()))
    with pytest.raises(fastmlp.CheckpointError, match="reads formats up to 3"):
        fastmlp.fit(classifier.models_[0].network, np.eye(6), np.zeros(6), resume=tmp_path / "table")
    fastmlp.save(classifier.models_[0], tmp_path / "model")
    with pytest.raises(fastmlp.CheckpointError, match="is no model of a table; it has format 3"):
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


def test_a_pickle_of_an_earlier_version_comes_back():
    """One from before presets and groups: all networks follow one recipe."""
    model = TableRegressor(**QUICK, preset="fast").fit(flats(), "price")
    state = model.__getstate__().copy()
    for later in ("preset", "time_limit", "trials_", "report_", "fingerprint_", "errors_", "shortened_"):
        del state[later]
    ((state["recipe_"], state["models_"]),) = state.pop("groups_")
    again = TableRegressor.__new__(TableRegressor)
    again.__setstate__(state)
    assert again.get_params() == model.get_params() | {"preset": None}
    assert again.shortened_ is again.errors_ is None
    np.testing.assert_array_equal(again.predict(flats()), model.predict(flats()))
    assert not hasattr(pickle.loads(pickle.dumps(TableRegressor())), "groups_")
