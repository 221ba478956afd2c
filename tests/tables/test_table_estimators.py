"""TableClassifier and TableRegressor: they learn, keep scikit-learn's ways, and come back from their file."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from missing import without
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score

import fastmlp
from fastmlp import TableClassifier, TableError, TableRegressor
from fastmlp.cli.main import main
from fastmlp.files import archive
from fastmlp.tables import search
from fastmlp.tables.deadline import Deadline
from fastmlp.tables.effects import importances
from fastmlp.tables.estimators import load
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.report import compared, drawn_rows, simpler
from fastmlp.tables.search import SearchTrial
from fastmlp.tables.tasks import Classification

QUICK = {
    "hidden": (8,),
    "epochs": 40,
    "batch_size": 32,
    "learning_rate": 0.02,
    "members": 2,
    "backend": "reference",
    "random_state": 0,
}
"""Settings that learn `flats` in a tenth of a second, without a compiler."""


def flats(rows=200, seed=0):
    """A table of which price and kind can be learned; some sizes are missing."""
    rng = np.random.default_rng(seed)
    size, city = rng.uniform(20, 150, rows), rng.choice(["Rome", "Oslo", "Lima"], rows)
    price = 1000 * size * np.select([city == "Rome", city == "Oslo"], [3.0, 5.0], 1.0)
    return pl.DataFrame(
        {
            "size": np.where(np.arange(rows) % 17 == 0, None, size).tolist(),
            "city": city,
            "noise": rng.normal(size=rows),
            "price": price,
            "kind": np.where(price > np.median(price), "dear", "cheap"),
        }
    )


@pytest.fixture(scope="module")
def regressor():
    return TableRegressor(**QUICK).fit(flats().drop("kind"), "price")


@pytest.fixture(scope="module")
def classifier():
    return TableClassifier(**QUICK).fit(flats().drop("price"), "kind")


def test_they_learn_what_a_table_says(regressor, classifier):
    fresh = flats(seed=1)
    assert regressor.score(fresh, "price") > 0.85
    assert classifier.score(fresh, "kind") > 0.9
    probabilities = classifier.predict_proba(fresh)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=4 * np.finfo(float).eps)
    assert classifier.classes_.tolist() == ["cheap", "dear"]
    assert (classifier.predict(fresh) == classifier.classes_[probabilities.argmax(axis=1)]).all()
    assert list(regressor.feature_names_in_) == ["size", "city", "noise"]
    assert len(regressor.models_) == 2


def test_one_seed_gives_one_model(regressor):
    again = clone(regressor).fit(flats().drop("kind"), "price")
    np.testing.assert_array_equal(again.predict(flats()), regressor.predict(flats()))
    other = clone(regressor).set_params(random_state=1).fit(flats().drop("kind"), "price")
    assert (other.predict(flats()) != regressor.predict(flats())).any()


def test_frames_paths_and_columns_are_one_table(tmp_path, regressor):
    frame = flats()
    frame.write_csv(tmp_path / "flats.csv")
    expected = regressor.predict(frame)
    pandas = frame.drop("kind").to_pandas()
    for X, y, columns in (
        (tmp_path / "flats.csv", "price", {"kind": "drop"}),
        (pandas, "price", None),
        (pandas.drop(columns="price"), pandas["price"], None),
        (frame.drop("kind", "price"), frame["price"].to_numpy(), None),
        (frame.drop("kind").lazy(), "price", None),
    ):
        model = TableRegressor(**QUICK, columns=columns).fit(X, y)
        np.testing.assert_allclose(model.predict(X), expected, rtol=1e-4)


def test_scikit_learns_tools_take_them():
    pandas = flats().drop("price").to_pandas()
    X, y = pandas.drop(columns="kind"), pandas["kind"]
    settings = {"hidden": [(), (8,)]}
    search = GridSearchCV(TableClassifier(**QUICK | {"members": 1}), settings, cv=2).fit(X, y)
    assert search.best_params_ == {"hidden": (8,)}
    assert cross_val_score(search.best_estimator_, X, y, cv=2).min() > 0.8


def test_arrays_and_classes_that_are_numbers():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 2))
    y = np.where(X[:, 0] > 0, 7, -1)
    model = TableClassifier(**QUICK).fit(X, y)
    assert model.classes_.tolist() == [-1, 7]
    assert model.score(X, y) > 0.9


def test_weights_and_balance_count():
    frame = flats().filter((pl.col("kind") == "cheap") | (pl.col("noise") > 1))
    options = {"columns": {"price": "drop"}}
    model = TableClassifier(**QUICK, **options).fit(frame, "kind")
    balanced = TableClassifier(**QUICK, **options, class_weight="balanced").fit(frame, "kind")
    weights = np.where(frame["kind"] == "dear", 5.0, 1.0)
    weighted = TableClassifier(**QUICK, **options).fit(frame, "kind", sample_weight=weights)
    means = [one.predict_proba(frame)[:, 1].mean() for one in (model, balanced, weighted)]
    assert means[0] < min(means[1:])


@pytest.fixture
def _long_trials(monkeypatch):
    """Every trial takes 100 s by the clock of the search."""
    train, clock = search.train_member, SimpleNamespace(seconds=0.0, monotonic=lambda: clock.seconds)

    def trained(*arguments):
        clock.seconds += 100
        return train(*arguments)

    monkeypatch.setattr(search, "train_member", trained)
    monkeypatch.setattr(search, "time", clock)


@pytest.mark.usefixtures("_long_trials")
def test_the_search_keeps_the_best_trial_within_its_time(monkeypatch):
    monkeypatch.setattr(search, "HIDDEN", ((4,), (8,)))
    settings = QUICK | {"hidden": (), "learning_rate": None, "epochs": 10}
    model = TableRegressor(**settings, search=250).fit(flats().drop("kind"), "price")
    best = min(model.trials_, key=lambda trial: trial.loss)
    assert [trial.seconds for trial in model.trials_] == [100] * 3
    assert model.trials_[0][:2] == ((), Recipe.learning_rate)
    assert (model.recipe_.hidden, model.recipe_.learning_rate) == (best.hidden, best.learning_rate)
    assert len({(trial.hidden, trial.learning_rate) for trial in model.trials_}) == 3


@pytest.mark.usefixtures("_long_trials")
@pytest.mark.parametrize("given", [{"hidden": (8,)}, {"learning_rate": 0.01}])
def test_a_search_leaves_what_is_given(given):
    settings = QUICK | {"hidden": None, "learning_rate": None, "epochs": 1} | given
    model = TableRegressor(**settings, search=350).fit(flats().drop("kind"), "price")
    ((name, value),) = given.items()
    assert len({trial[:2] for trial in model.trials_}) == 4
    assert {getattr(one, name) for one in (*model.trials_, model.recipe_)} == {value}


def test_importances_find_the_columns_that_matter(regressor):
    frame = flats(seed=2)
    found = importances(regressor, frame, frame["price"].to_numpy(), seed=0)
    assert {one.column for one in found[:2]} == {"size", "city"}
    assert abs(found[2].mean) < 0.05 * found[1].mean


# --- the file ---------------------------------------------------------------------------------------------


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


def with_table(arrays, table):
    return arrays | {"table": np.frombuffer(json.dumps(table).encode(), np.uint8)}


def damaged(header, arrays, change):
    table = table_of(arrays)
    columns = {column["name"]: column for column in table["columns"]}
    match change:
        case "not JSON":
            return header, arrays | {"table": arrays["table"][:-1]}
        case "nothing":
            return header, {name: array for name, array in arrays.items() if name != "table"}
        case "members":
            header = header | {"members": [3, *header["members"][1:]]}
        case "NaN":
            parameters = np.full_like(arrays["members/0/parameters"], np.nan)
            arrays = arrays | {"members/0/parameters": parameters}
        case "no losses":
            header = header | {"history": ["loss"]}
        case "other epochs":
            arrays = arrays | {"members/1/history/validation_loss": np.ones(99)}
        case "no epochs":
            arrays = arrays | {f"members/1/history/{name}": np.ones(0) for name in header["history"]}
        case "classes":
            table["task"]["classes"] = ["cheap", 3]
        case "no classes":
            table["task"]["classes"] = []
        case "lacks classes":
            del table["task"]["classes"]
        case "order":
            table["task"]["classes"].reverse()
        case "one class":
            table["task"]["classes"] = ["cheap", "cheap"]
        case "column":
            columns["size"]["kind"] = "numbr"
        case "no column":
            table["columns"] = []
        case "two columns":
            columns["noise"]["name"] = "size"
        case "scale":
            columns["size"]["scale"] = 0
        case "unit":
            columns["size"]["unit"] = -1.0
        case "tails":
            columns["size"]["tails"] = "cut"
        case "levels":
            columns["city"]["levels"] = ["Rome", "Rome", "Oslo"]
        case "target":
            table["target"] = "city"
        case "recipe":
            table["recipes"][0]["drop_out"] = table["recipes"][0].pop("dropout")
        case "hidden":
            table["recipes"][0]["hidden"] = [9]
    return header, with_table(arrays, table)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("not JSON", "Expecting"),
        ("nothing", "it lacks 'table'"),
        ("members", "members must be at most 2, got 3"),
        ("NaN", "a parameter is not finite"),
        ("no losses", "no network of a recipe has losses of rows that it held out"),
        ("other epochs", "the losses of a network are not those of its epochs"),
        ("no epochs", "the losses of a network are not those of its epochs"),
        ("classes", "no list of different texts or numbers"),
        ("no classes", "no list of different texts or numbers"),
        ("lacks classes", "it lacks 'classes'"),
        ("order", "the classes are not ascending"),
        ("one class", "the classes are not ascending"),
        ("column", "unknown kind of column 'numbr'"),
        ("no column", "the network is not that of its columns"),
        ("two columns", "two columns have the name 'size'"),
        ("scale", "scale of a column must be a finite number above 0, got 0"),
        ("unit", "unit of a column must be a finite number above 0, got -1.0"),
        ("tails", "tails of a column must be one of clipped, both, kept, got 'cut'"),
        ("levels", "levels of a column must be a list of different texts, got"),
        ("target", "the target is one of the columns"),
        ("recipe", "drop_out"),
        ("hidden", "the network is not that of its columns, its recipe and its task"),
    ],
)
def test_a_file_that_was_changed_is_refused_in_one_line(tmp_path, classifier, change, says):
    path = tmp_path / "model"
    classifier.save(path)
    archive.write(path, *damaged(*archive.read(path), change))
    with pytest.raises(fastmlp.CheckpointError, match=says) as raised:
        load(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


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


@pytest.mark.slow
def test_whatever_part_of_a_file_is_changed_it_is_refused_or_can_be_used(tmp_path, capsys):
    words = pl.Series("note", [f"{a} {b} stone water" for a in "ab" for b in ("red", "blue")] * 15)
    dates = pl.Series("day", np.datetime64("2024-01-01") + np.arange(60) % 50)
    frame = flats(60).with_columns(words, dates, same=1)
    options = {"columns": {"price": "drop", "note": "text"}}
    model = TableClassifier(**QUICK | {"epochs": 2}, **options).fit(frame, "kind")
    model.trials_ = [SearchTrial((8,), 0.1, 0.5, 1.0)]
    held = np.arange(60) % 3 == 0
    y = np.array(frame["kind"].to_list())
    others = simpler(model, frame.drop("kind"), y, held, 0, Deadline())
    X = model.encoding_.encoded(frame.filter(held))
    model.report_ = compared(model, X, y[held], others) | {"words": {"city": {"none": 3}}}
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
                assert np.isfinite(found.predict_proba(rows)).all()
            assert main(["inspect", str(path)]) == main(["inspect", str(path), "--json"]) == 0
            found.save(path)
            used += 1
    assert len(refused) > 2 * used > 0
    assert "\n" not in "".join(refused)


def test_files_of_other_kinds_are_distinguished(tmp_path, classifier):
    classifier.save(tmp_path / "table")
    with pytest.raises(fastmlp.CheckpointError, match="has format 'table 8'"):
        fastmlp.load(tmp_path / "table")
    fastmlp.save(classifier.models_[0], tmp_path / "model")
    with pytest.raises(fastmlp.CheckpointError, match="is no model of a table; it has format 1"):
        load(tmp_path / "model")


# --- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "y", "says"),
    [
        (flats(), "prise", "there is no column 'prise'; there are: size, city"),
        (flats(), np.zeros(3), "X has 200 rows, and y 3"),
        (flats().head(0), "price", "there are no rows"),
        (flats().head(2), "price", "at least 3 rows are needed, got 2"),
        (flats().with_columns(price=1.0), "price", "a regression needs different numbers, got only 1"),
        (
            flats(),
            "city",
            "column 'city': the target of a regression must be numbers, has dtype String|'[A-Z]",
        ),
        (flats(), "size", "row 1, column 'size': the target is missing"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(X, y, says):
    with pytest.raises(TableError, match=says) as raised:
        TableRegressor(**QUICK).fit(X, y)
    assert "\n" not in str(raised.value)


def test_settings_that_are_wrong():
    for setting, says in (
        ({"activation": "rleu"}, "unknown hidden activation 'rleu'"),
        ({"class_weight": "fair"}, "unknown class_weight 'fair'; choose from: balanced"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'; choose from: sgd"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"search": -1, "hidden": None}, "search must be above 0, got -1"),
        ({"search": 1}, "search has nothing to search: hidden layers and learning_rate are given"),
        ({"members": 1001}, "members must be at most 1000, got 1001"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (
            {"dtype": "bfloat16", "backend": "fused"},
            "dtype 'bfloat16' goes with the backends auto, reference",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            TableClassifier(**QUICK | setting).fit(flats(), "kind")
    for setting, says in (
        ({"hidden": 8}, r"hidden must be widths like \(128, 64\), got 8"),
        ({"columns": "number"}, "columns must map names to kinds, got 'number'"),
        ({"missing": "NA"}, "missing must be a sequence of texts, got 'NA'"),
        ({"hidden": np.array(8)}, r"hidden must be widths like \(128, 64\), got "),
        ({"hidden": [[8]]}, r"a hidden layer must be a whole number, got \[8\]"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"dropout": [0.1]}, r"dropout must be a number, got \[0.1\]"),
        ({"activation": ["relu"]}, r"activation must be a name, got \['relu'\]"),
    ):
        with pytest.raises(TypeError, match=says):
            TableClassifier(**QUICK | setting).fit(flats(), "kind")
    with pytest.raises(TableError, match=r"^sample_weight must have shape \(200,\), has \(3,\)$"):
        TableClassifier(**QUICK).fit(flats(), "kind", np.ones(3))


def test_settings_may_be_numbers_of_numpys(tmp_path):
    numbers = {"hidden": np.array([8]), "epochs": np.int64(1), "members": np.int32(1), "l2": np.float32(0.5)}
    numbers |= {"learning_rate": np.float64(0.01), "dropout": np.float32(0.25), "batch_size": np.uint8(16)}
    model = TableRegressor(**QUICK | numbers).fit(flats(), "price")
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").recipe_ == model.recipe_


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


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"hidden": (0,)}, "a hidden layer must be at least 1, got 0"),
        ({"dropout": 2}, r"dropout must be in \[0, 1\), got 2"),
        ({"l2": -1}, "l2 must be at least 0, got -1"),
        ({"learning_rate": -1}, "learning_rate must be at least 0, got -1"),
        ({"activation": "rleu"}, "unknown hidden activation 'rleu'"),
        ({"backend": "fussed"}, "unknown backend 'fussed'; choose from: auto, reference"),
        ({"dtype": "half"}, "dtype must be float32 or float64, got 'half'"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"search": -1, "hidden": None}, "search must be above 0, got -1"),
    ],
)
def test_settings_that_are_wrong_are_reported_before_a_column_is_encoded(setting, says):
    """The columns cannot be learned from, which encoding would tell."""
    frame = flats().select("price", size=pl.lit(1.0))
    with pytest.raises(TableError, match="no column is left to learn from"):
        TableRegressor(**QUICK).fit(frame, "price")
    with pytest.raises(ValueError, match=says):
        TableRegressor(**QUICK | setting).fit(frame, "price")


def test_without_polars_it_is_named(monkeypatch):
    without(monkeypatch, "polars")
    with pytest.raises(ImportError, match=r'a table needs polars: pip install "fastmlp\[table\]"'):
        TableClassifier().fit("data.csv", "y")


@pytest.mark.slow  # processes, 3 s
def test_naming_them_loads_no_optional_package():
    code = "import sys, fastmlp; fastmlp.TableClassifier(); print({'polars', 'numba'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("kind", [TableClassifier, TableRegressor])
def test_a_score_before_fit_is_reported(kind):
    for ask in (lambda: kind().score(flats(), "kind"), lambda: kind().predict(flats())):
        with pytest.raises(NotFittedError):
            ask()


def test_the_linear_model_has_a_row_of_every_class(monkeypatch):
    monkeypatch.setattr("fastmlp.tables.report.LINEAR_ROWS", 20)
    y = np.where(np.arange(2000) == 1234, "rare", "usual")
    rows = drawn_rows(Classification.learned(y), y, 0)
    assert len(rows) == 20
    assert set(y[rows]) == {"rare", "usual"}


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
