"""Codes: columns of whole numbers found to be codes, and the columns of X beside the numbers."""

from __future__ import annotations

import json
import warnings

import numpy as np
import polars as pl
import pytest
from support.changed_tables import refusal
from support.flats import QUICK, QUICKLY
from support.selection import matrix
from support.table_bounds import bound

from fastmlp import Dense, LayerNorm, TableClassifier, TableRegressor
from fastmlp.tables.categories import LevelMeans, Targets
from fastmlp.tables.encoding import ROWS_OF_A_CODE, Encoding, are_codes, with_codes
from fastmlp.tables.frames import TableError
from fastmlp.tables.tasks import Classification, Regression

ROWS = 1200

FAST = QUICK | {"preset": "fast"}
SHORT = FAST | {"epochs": 3, "members": 1}
"""Settings of models of which only the columns matter."""


def districts(count=30, rows=ROWS, seed=0):
    """Codes of districts, a size, and prices by both."""
    rng = np.random.default_rng(seed)
    codes, size = rng.integers(1, count + 1, rows), rng.normal(size=rows)
    price = np.random.default_rng(9).normal(size=count + 1)[codes] + size + rng.normal(size=rows) / 2
    return pl.DataFrame({"district": codes, "size": size, "price": price})


def targets_of(y):
    """Targets (rows,) with their task: numbers, or classes."""
    classes = np.asarray(y).dtype.kind in "US"
    return Targets((Classification if classes else Regression).learned(y), y)


def jump(values, y):
    """Whether values are codes by targets alone."""
    return are_codes(values.astype(float), np.column_stack([*targets_of(y).columns()]))


def found(frame, y):
    """The names of columns that are codes."""
    encoding = Encoding.learned(frame)
    return [code.name for code in with_codes(encoding, frame, targets_of(y)).codes]


JUMPS = np.random.default_rng(1).normal(size=40)
AMOUNTS = np.random.default_rng(2).integers(0, 40, ROWS)
NOISE = np.random.default_rng(3).normal(size=ROWS)

FOUND = {
    "jumps": (AMOUNTS, JUMPS[AMOUNTS] + NOISE),
    "nothing else": (AMOUNTS, JUMPS[AMOUNTS]),
    "beside a trend": (AMOUNTS, JUMPS[AMOUNTS] + AMOUNTS / 20 + NOISE),
    "negative": (-7 * AMOUNTS, JUMPS[AMOUNTS] + NOISE),
    "classes": (AMOUNTS, np.where(JUMPS[AMOUNTS] + NOISE > 0.5, "high", "low")),
    "one class of three": (AMOUNTS, np.where(JUMPS[AMOUNTS] + NOISE > 1, "a", np.where(NOISE > 0, "b", "c"))),
    "missing": (np.where(NOISE > 1, np.nan, AMOUNTS), JUMPS[AMOUNTS] + NOISE),
}
OTHERS = {
    "a line": (AMOUNTS, AMOUNTS + NOISE),
    "a curve": (AMOUNTS, np.sin(AMOUNTS / 6) + NOISE),
    "a step": (AMOUNTS, (AMOUNTS > 20) + NOISE),
    "noise": (AMOUNTS, NOISE),
    "a far target": (AMOUNTS, np.where(np.arange(ROWS) == 5, 1e4, NOISE)),
    "jumps that are little": (AMOUNTS, JUMPS[AMOUNTS] / 10 + AMOUNTS / 10 + NOISE),
    "nine": (AMOUNTS % 9, JUMPS[AMOUNTS % 9] + NOISE),
    "few rows each": (np.arange(ROWS) // 4, np.repeat(np.random.default_rng(4).normal(size=ROWS // 4), 4)),
    "no whole numbers": (AMOUNTS + 0.5, JUMPS[AMOUNTS] + NOISE),
    "nothing": (np.full(ROWS, np.nan), NOISE),
}


@pytest.mark.parametrize("name", FOUND)
def test_numbers_whose_targets_jump_are_codes(name):
    values, y = FOUND[name]
    assert jump(values, y)
    assert found(pl.DataFrame({"x": values}), y) == ["x"]


@pytest.mark.parametrize("name", OTHERS)
def test_amounts_are_none(name):
    values, y = OTHERS[name]
    assert not jump(values, y)


@pytest.mark.parametrize("levels", [12, 60, 200])
def test_chance_makes_no_codes(levels):
    rng = np.random.default_rng(0)
    tried = [(rng.integers(0, levels, 2000).astype(float), rng.standard_t(3, 2000)) for _ in range(200)]
    assert not any(jump(values, y) for values, y in tried)


def test_codes_of_which_other_columns_say_the_same_are_none():
    name = pl.Series("name", [f"district {code}" for code in AMOUNTS])
    y, frame = JUMPS[AMOUNTS] + NOISE, pl.DataFrame({"x": AMOUNTS, "other": NOISE[::-1]})
    assert found(frame, y) == ["x"]
    assert found(frame.with_columns(name), y) == []
    assert found(frame.with_columns(name), y + JUMPS[::-1][AMOUNTS] * (NOISE > 0)) == []
    for noise in (0, 0.001, 0.01, 0.1):
        assert found(frame, JUMPS[AMOUNTS] + noise * NOISE) == ["x"]
        assert found(frame.with_columns(name), JUMPS[AMOUNTS] + noise * NOISE) == []
    assert found(frame, np.where(y > 0, "high", "low")) == ["x"]
    assert found(frame.with_columns(name), np.where(y > 0, "high", "low")) == []


def test_codes_have_columns_beside_the_number_and_are_learned():
    """The importance of a column is that of its number and of its codes together."""
    frame, new, scores = districts(), districts(seed=5), []
    for columns in ({"district": "number"}, None):
        model = TableRegressor(columns=columns, **FAST).fit(frame, "price")
        scores.append(model.score(new, "price"))
        assert [code.name for code in model.encoding_.codes] == ["district"] * (columns is None)
        assert model.encoding_.kinds["district"] == "number"
        assert model.encoding_.width == 2 + 30 * (columns is None)
    assert scores[1] > scores[0] + 0.1
    importances = model.importances(frame, "price")
    by_name = dict(zip(importances["column"], importances["mean"], strict=True))
    assert by_name.keys() == {"district", "size"}
    assert by_name["district"] > 0.3


@pytest.mark.parametrize("many", [300, 20])
def test_rows_to_learn_from_and_to_predict_have_them(monkeypatch, many):
    """Codes are categories: of more levels than is many they become mean targets, of rows before each one."""
    bound(monkeypatch, MANY=many)
    frame = districts()
    model = TableRegressor(**SHORT).fit(frame, "price")
    encoding, (code,) = model.encoding_, model.encoding_.codes
    X, y = frame.drop("price"), frame["price"].to_numpy()
    plain = encoding.encoded(X)
    as_text = code.encoded(X["district"].cast(pl.String))
    if many == 300:
        assert code.levels[0] in map(str, range(1, 31))
        assert encoding.slices == {"district": [slice(0, 1), slice(2, 32)], "size": [slice(1, 2)]}
        np.testing.assert_array_equal(plain.toarray()[np.arange(ROWS), 2 + as_text.indices[:, 0]], 1)
        assert not encoding.encoded(pl.DataFrame({"district": [99], "size": [0.0]}))[:, 2:].nnz
    else:
        assert isinstance(code, LevelMeans)
        np.testing.assert_allclose(plain[:, 2:], as_text.values, rtol=1e-6)
        learned = encoding.encoded(X, targets=targets_of(y))
        assert (learned[:, :2] == plain[:, :2]).all()
        assert (learned[:, 2] != plain[:, 2]).mean() > 0.9
    assert encoding.linear.width == 32


def test_files_and_reports_say_so(tmp_path, command):
    path, frame = tmp_path / "m", districts()
    frame.write_csv(tmp_path / "t.csv")
    train = f"train {tmp_path}/t.csv --target price -o {path} {QUICKLY} --preset fast --epochs 3"
    command(train)
    model = TableRegressor.load(path)
    assert [code.name for code in model.encoding_.codes] == ["district"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # all levels were learned
        assert np.isfinite(model.predict(frame.drop("price"))).all()
    said = command(f"inspect {path}")
    assert "district: numbers that seem to be codes have columns of their own; see --number\n" in said
    assert "; and as codes: 30 levels (" in said
    columns = json.loads(command(f"inspect {path} --json"))["columns"]
    assert {one["name"]: one["columns of X"] for one in columns} == {"district": 31, "size": 1}
    assert "codes" not in command(f"{train} --number district")
    assert not TableRegressor.load(path).encoding_.codes


def test_texts_of_numbers_have_the_codes_of_the_numbers():
    model, rows = TableRegressor(**SHORT).fit(districts(), "price"), districts()[:5].drop("price")
    expected = model.predict(rows)
    for texts in (pl.col("district").cast(pl.String), pl.format(" {}.0", "district")):
        np.testing.assert_array_equal(model.predict(rows.with_columns(district=texts)), expected)
    other = rows.with_columns(district=pl.Series(range(990, 990 + len(rows))))
    with pytest.warns(UserWarning, match="^column 'district': 5 of 5 rows have levels that were not learned"):
        assert (model.predict(other) != expected).any()
    with pytest.raises(TableError, match=r"row 1, column 'district': 'x' is not a number"):
        model.predict(rows.with_columns(district=pl.lit("x")))


def test_a_file_of_other_codes_is_refused_in_one_line(tmp_path):
    model = TableRegressor(**SHORT).fit(districts(), "price")
    dropped = {"name": "district", "kind": "drop", "reason": "x"}
    for other in (lambda code: code | {"name": "elsewhere"}, dropped):
        line = refusal(model, tmp_path, "table/codes/0", other)
        assert "what is said to be the codes of a number is none" in line


def test_classes_have_them_too():
    frame = districts().with_columns(dear=pl.col("price") > 0.5).drop("price")
    model = TableClassifier(**FAST).fit(frame, "dear")
    assert [code.name for code in model.encoding_.codes] == ["district"]
    assert model.score(frame, "dear") > 0.75


@matrix
@pytest.mark.parametrize("cycle", [10, 20])
def test_codes_of_a_long_periodic_table_are_found(cycle):
    values = np.tile(np.arange(float(cycle)), 2**21 // cycle)
    y = JUMPS[values.astype(int)] + np.resize(NOISE, len(values))
    assert found(pl.DataFrame({"x": values}), y) == ["x"]


def test_a_name_of_few_rows_says_what_its_code_says():
    """A regression that shrank the effects of names would leave a part of them, which jumps."""
    code = np.arange(ROWS) // ROWS_OF_A_CODE
    y = np.random.default_rng(4).normal(size=ROWS // ROWS_OF_A_CODE)[code] + 0.1 * NOISE
    frame = pl.DataFrame({"x": code, "other": NOISE[::-1]})
    assert found(frame, y) == ["x"]
    assert found(frame.with_columns(name=pl.Series([f"district {one}" for one in code])), y) == []


def test_layers_that_take_no_sparse_columns_are_trained():
    """With `layers` columns are as they are: those of codes would make X sparse."""
    model = TableRegressor(**SHORT | {"hidden": None}, layers=[LayerNorm(), Dense(4)])
    assert not model.fit(districts(), "price").encoding_.codes


def test_missing_numbers_have_one_column():
    frame = districts().with_columns(pl.col("district").replace(3, None))
    encoding = TableRegressor(**SHORT).fit(frame, "price").encoding_
    assert encoding.codes
    assert [part for part in encoding.parts if "missing" in part] == ["district is missing"]
    assert encoding.encoded(frame.filter(pl.col("district").is_null()).drop("price"))[:, 3:].nnz == 0


def test_given_levels_leave_the_codes(monkeypatch):
    bound(monkeypatch, MANY=20)
    model = TableRegressor(levels=25, **SHORT).fit(districts(), "price")
    (code,) = model.encoding_.codes
    assert len(code.levels) == 25
    assert not isinstance(code, LevelMeans)
