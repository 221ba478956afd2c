"""TableClassifier and TableRegressor: they learn, keep scikit-learn's ways, and report mistakes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from support.flats import QUICK, flats
from support.missing_packages import without
from support.processes import python
from support.selection import matrix
from support.table_bounds import bound

from fastmlp import TableClassifier, TableError, TableRegressor
from fastmlp.tables.report import drawn_rows
from fastmlp.tables.tasks import Classification


def test_they_learn_what_a_table_says(regressor, classifier):
    fresh = flats(seed=1)
    assert regressor.score(fresh, "price") > 0.85
    assert classifier.score(fresh, "kind") > 0.9
    probabilities = classifier.predict_proba(fresh)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=4 * np.finfo(float).eps)
    assert classifier.classes_.tolist() == ["cheap", "dear"]
    assert (classifier.predict(fresh) == classifier.classes_[probabilities.argmax(axis=1)]).all()
    assert list(regressor.feature_names_in_) == ["size", "city", "noise"]
    assert len(regressor.models_) == 2 * len(regressor.groups_)


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


@matrix
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


@matrix
@pytest.mark.parametrize(("kind", "y"), [(TableClassifier, "kind"), (TableRegressor, "price")])
def test_rows_without_a_target_are_left_out(kind, y):
    """As if they were not there, with their weights; but what numbers the rows is seen in all of them."""
    frame = flats().drop({"kind", "price"} - {y}).with_columns(id=pl.int_range(200))
    weights, is_there = np.random.default_rng(0).random(200), (frame["noise"] < 1).to_numpy()
    kept, missing = frame.filter(is_there), frame.with_columns(pl.when(pl.col("noise") < 1).then(y).alias(y))
    expected = kind(**QUICK).fit(kept.drop("id"), y, weights[is_there])
    says = f"{200 - is_there.sum()} of 200 rows have no target and are left out"
    X, out = missing.drop(y), r"^columns left out: 'id' \(it numbers the rows\)$"
    for table, target in ((missing, y), (X, missing[y].to_pandas()), (X, missing[y].to_numpy())):
        with pytest.warns(UserWarning, match=out), pytest.warns(UserWarning, match=f"^{says}$") as caught:
            model = kind(**QUICK).fit(table, target, weights)
        assert len(caught) == 2
        assert model.encoding_.used == expected.encoding_.used
        np.testing.assert_array_equal(model.outputs(frame), expected.outputs(frame))
        with pytest.warns(UserWarning, match=f"^{says}$"):
            score = model.score(table, target, weights)
        assert score == expected.score(kept, y, weights[is_there])


def test_a_target_that_cannot_be_used_is_named_by_its_row_of_the_whole_table():
    frame = pl.DataFrame({"a": range(4), "price": [1.0, None, float("inf"), 2.0]})
    with pytest.raises(TableError, match=r"^row 3, column 'price': the target is inf$"):
        TableRegressor(**QUICK).fit(frame, "price")


def test_a_column_of_x_may_have_the_name_of_the_target():
    """An array has the name y; a series keeps its own, as where somebody forgot to leave it out of X."""
    frame = flats().drop("kind").rename({"noise": "y"})
    X, y = frame.drop("price"), frame["price"].to_numpy()
    model = TableRegressor(**QUICK).fit(X, y)
    assert model.target_name_ == "y (target)"
    pandas = flats().drop("kind").to_pandas()
    says = r"^column 'price' of X is the target: fit\(X, 'price'\) leaves it out$"
    with pytest.warns(UserWarning, match=says):
        TableRegressor(**QUICK).fit(pandas, pandas["price"])


def test_weights_and_balance_count():
    frame = flats().filter((pl.col("kind") == "cheap") | (pl.col("noise") > 1))
    options = {"columns": {"price": "drop"}}
    model = TableClassifier(**QUICK, **options).fit(frame, "kind")
    balanced = TableClassifier(**QUICK, **options, class_weight="balanced").fit(frame, "kind")
    weights = np.where(frame["kind"] == "dear", 5.0, 1.0)
    weighted = TableClassifier(**QUICK, **options).fit(frame, "kind", sample_weight=weights)
    means = [one.predict_proba(frame)[:, 1].mean() for one in (model, balanced, weighted)]
    assert means[0] < min(means[1:])


# --- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "y", "says"),
    [
        (flats(), "prise", "there is no column 'prise'; there are: size, city"),
        (flats(), ["price", "prise"], "there is no column 'prise'; .*, kind; y has 2 texts, and X 200 rows"),
        (flats(), np.array(["prise"]), "there is no column 'prise'; there are: size, city"),
        (flats(), ["b", "a"] * 99, "there is no column 'b'; .*, kind; y has 198 texts, and X 200 rows$"),
        (flats(), np.zeros(3), "X has 200 rows, and y 3"),
        (flats().head(0), "price", "there are no rows"),
        (flats()[["price"]], "price", "^there are no columns to learn from beside the target$"),
        (flats()[["price", "size"]], ["size", "price"], "^there are no columns to .* beside the targets$"),
        (flats().select(), np.zeros(200), "^there are no columns to learn from$"),
        (np.zeros((200, 0)), np.zeros(200), "^there are no columns to learn from$"),
        (flats().head(2), "price", "at least 3 rows with a target are needed, got 2"),
        (flats().with_columns(price=1.0), "price", "a regression needs different numbers, got only 1"),
        (
            flats(),
            "city",
            "column 'city': the target of a regression must be numbers, has dtype String|'[A-Z]",
        ),
        (flats(), [None] * 200, "no row has a target"),
    ],
)
def test_what_cannot_be_learned_is_refused_in_one_line(X, y, says):
    with pytest.raises(TableError, match=says) as raised:
        TableRegressor(**QUICK).fit(X, y)
    assert "\n" not in str(raised.value)


def test_a_score_names_the_target_that_is_no_column(regressor):
    with pytest.raises(TableError, match="there is no column 'prise'; there are: size, city"):
        regressor.score(flats(), ["price", "prise"])


WRONG = [
    ({"activation": "rleu"}, ValueError, "unknown hidden activation 'rleu'"),
    ({"class_weight": "fair"}, ValueError, "unknown class_weight 'fair'; choose from: balanced"),
    ({"optimizer": "adm"}, ValueError, "unknown optimizer 'adm'; choose from: sgd"),
    ({"backend": "fussed"}, ValueError, "unknown backend 'fussed'; choose from: auto, reference"),
    ({"members": 0}, ValueError, "members must be at least 1, got 0"),
    ({"members": 1001}, ValueError, "members must be at most 1000, got 1001"),
    ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
    ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"hidden": (0,)}, ValueError, "a hidden layer must be at least 1, got 0"),
    ({"dropout": 2}, ValueError, r"dropout must be in \[0, 1\), got 2"),
    ({"l2": -1}, ValueError, "l2 must be at least 0, got -1"),
    ({"learning_rate": -1}, ValueError, "learning_rate must be at least 0, got -1"),
    ({"dtype": "half"}, ValueError, "dtype must be float32 or float64, got 'half'"),
    ({"dtype": "bfloat16", "backend": "fused"}, ValueError, "dtype 'bfloat16' goes with the backends auto"),
    ({"hidden": 8}, TypeError, r"hidden must be widths like \(128, 64\), got 8"),
    ({"hidden": np.array(8)}, TypeError, r"hidden must be widths like \(128, 64\), got "),
    ({"hidden": [[8]]}, TypeError, r"a hidden layer must be a whole number, got \[8\]"),
    ({"columns": "number"}, TypeError, "columns must map names to kinds, got 'number'"),
    ({"missing": "NA"}, TypeError, "missing must be a sequence of texts, got 'NA'"),
    ({"missing": [-999]}, TypeError, r"missing must be a sequence of texts, got \[-999\]"),
    ({"epochs": 1.5}, TypeError, "epochs must be a whole number, got 1.5"),
    ({"dropout": [0.1]}, TypeError, r"dropout must be a number, got \[0.1\]"),
    ({"activation": ["relu"]}, TypeError, r"activation must be a name, got \['relu'\]"),
]


def test_settings_that_are_wrong_are_reported_before_a_column_is_encoded():
    """The columns cannot be learned from, which encoding would tell."""
    frame = flats().select("kind", size=pl.lit(1.0))
    with pytest.raises(TableError, match="no column is left to learn from"):
        TableClassifier(**QUICK).fit(frame, "kind")
    for setting, error, says in WRONG:
        with pytest.raises(error, match=says):
            TableClassifier(**QUICK | setting).fit(frame, "kind")
    for weights, says in (
        (np.ones(3), r"have shape \(200,\), got \(3,\)"),
        ([np.nan] * 200, "be finite, got nan"),
    ):
        with pytest.raises(ValueError, match=f"^sample_weight must {says}"):
            TableClassifier(**QUICK).fit(frame, "kind", weights)


def test_settings_may_be_numbers_of_numpys():
    """Their models have files, too, see `conftest`."""
    numbers = {"hidden": np.array([8]), "epochs": np.int64(1), "members": np.int32(1), "l2": np.float32(0.5)}
    numbers |= {"learning_rate": np.float64(0.01), "dropout": np.float32(0.25), "batch_size": np.uint8(16)}
    assert TableRegressor(**QUICK | numbers).fit(flats(), "price").recipe_.hidden == (8,)


def test_without_polars_it_is_named(monkeypatch):
    without(monkeypatch, "polars")
    with pytest.raises(ImportError, match=r'a table needs polars: pip install "fastmlp\[table\]"'):
        TableClassifier().fit("data.csv", "y")


@pytest.mark.slow  # processes, 3 s
def test_naming_them_loads_no_optional_package():
    code = "import sys, fastmlp; fastmlp.TableClassifier(); print({'polars', 'numba'} & {*sys.modules})"
    assert python("-c", code).stdout == "set()\n"


@pytest.mark.parametrize("kind", [TableClassifier, TableRegressor])
def test_a_score_before_fit_is_reported(kind):
    for ask in (lambda: kind().score(flats(), "kind"), lambda: kind().predict(flats())):
        with pytest.raises(NotFittedError):
            ask()


def test_the_linear_model_has_a_row_of_every_class(monkeypatch):
    bound(monkeypatch, LINEAR_ROWS=20)
    y = np.where(np.arange(2000) == 1234, "rare", "usual")
    rows = drawn_rows(Classification.learned(y), y, 0)
    assert len(rows) == 20
    assert set(y[rows]) == {"rare", "usual"}
