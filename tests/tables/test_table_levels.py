"""Categories whose values come in another type than was learned, and levels that were not learned."""

from __future__ import annotations

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from support.flats import QUICK as FAST
from support.flats import QUICKLY
from support.printed import value
from support.selection import matrix

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.categories import Category
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.reading import as_frame


def places(encoding, values):
    """The columns of X of the levels of a column `c`; -1 for none."""
    frame = as_frame({"c": values})
    X = encoding.encoded(frame)
    assert encoding.remarks(frame) == []
    return np.where(X.any(axis=1), X.argmax(axis=1), -1).tolist()


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        [1, 0],
        [1.0, -0.0],
        ["true", "FALSE"],
        ["1", "0"],
        ["1.0", "0.0"],
        [Decimal("1.00"), Decimal("0")],
        np.array([1, 0], np.uint8),
        pd.Series([True, False], dtype="boolean"),
        pd.Series([1, 0], dtype="Int64"),
    ],
    ids=lambda values: f"{getattr(values, 'dtype', '')}{list(values)}",
)
def test_truth_values_are_0_and_1_too(values):
    encoding = Encoding.learned(pl.DataFrame({"c": [True, True, True, False, False]}))
    assert encoding.parts == ["c = true", "c = false"]
    X = encoding.encoded(as_frame(pd.DataFrame({"c": values}) if hasattr(values, "iloc") else {"c": values}))
    np.testing.assert_array_equal(X, np.eye(2))


def test_numbers_that_were_learned_are_truth_values_too():
    encoding = Encoding.learned(pl.DataFrame({"c": [1, 1, 1, 0, 0]}), {"c": "category"})
    assert places(encoding, [True, False]) == [0, 1]
    words = Encoding.learned(pl.DataFrame({"c": ["true", "true", "maybe", "maybe", "false", "false"]}))
    assert places(words, [True, False]) == [2, 0]


@pytest.mark.parametrize("whole", [10**16, 2**62, 10**18, 2**100, -(10**17)])
def test_large_whole_numbers_come_back_as_floats(whole):
    frame = pl.DataFrame({"c": pl.Series([whole, whole, 7, 7], dtype=pl.Int128)})
    encoding = Encoding.learned(frame, {"c": "category"})
    assert places(encoding, [float(whole), 7.0]) == [encoding.parts.index(f"c = {c}") for c in (whole, 7)]


@pytest.mark.parametrize(
    "learned", [["1", "2.5"], [1.0, 2.5], [Decimal("1.00"), Decimal("2.50")], ["1.0", "2.50"]]
)
def test_equal_numbers_are_one_level(learned):
    encoding = Encoding.learned(as_frame({"c": learned * 2}), {"c": "category"})
    both = sorted(range(2), key=lambda place: "2.5" in encoding.parts[place])
    for values in ([1.0, 2.5], [Decimal("1.0"), Decimal("2.5")], np.array([1, 2.5], np.float32)):
        assert places(encoding, values) == both


def test_texts_equal_texts_alone():
    encoding = Encoding.learned(pl.DataFrame({"c": ["1", "1", "1", "01", "01", "1.0", "1.0"]}))
    parts = encoding.parts
    assert parts == ["c = 1", "c = 01", "c = 1.0"]
    assert places(encoding, ["01", "1.0", "1"]) == [1, 2, 0]
    assert places(encoding, [1]) == [0]


def test_a_dtype_that_cannot_hold_a_level_is_reported():
    levels = [10**16, 10**16 + 1]
    encoding = Encoding.learned(pl.DataFrame({"c": levels * 3}), {"c": "category"})
    says = "column 'c': Float64 cannot hold the level 10000000000000001 exactly; give whole numbers or texts"
    assert encoding.remarks(pl.DataFrame({"c": [1e16]})) == [says]
    for held in (levels, list(map(str, levels))):
        assert encoding.remarks(pl.DataFrame({"c": held})) == []
    small = Encoding.learned(pl.DataFrame({"c": [2**24 + 1, 3] * 3}), {"c": "category"})
    assert small.remarks(pl.DataFrame({"c": [3.0]})) == []
    (line,) = small.remarks(pl.DataFrame({"c": pl.Series([3.0], dtype=pl.Float32)}))
    assert "Float32 cannot hold the level 16777217 exactly" in line


def test_an_unusual_share_of_unknown_levels_is_reported():
    levels = ["a", "b", "c", "d"] * 100 + [f"rare {i}" for i in range(40)]
    encoding = Encoding.learned(pl.DataFrame({"c": levels}))
    usual = ["a"] * 900 + [f"new {i}" for i in range(100)]
    for values in (levels, usual, ["new"], [None] * 50):  # a tenth of the rows is what the training had
        assert encoding.remarks(pl.DataFrame({"c": pl.Series(values, dtype=pl.String)})) == []
    says = "column 'c': 200 of 1000 rows have levels that were not learned, as 'new'"
    assert encoding.remarks(pl.DataFrame({"c": ["a"] * 800 + ["new"] * 200})) == [says]


def distinguished(rows=120):
    c = np.random.default_rng(0).choice(["x", "y"], rows)
    return pl.DataFrame({"c": c, "rows": np.arange(rows) % 7, "y": np.where(c == "x", 1.5, -1.5)})


def test_predicting_unknown_levels_warns(tmp_path, command):
    model = TableRegressor(**FAST).fit(distinguished(), "y")
    strange = distinguished().with_columns(c="c \x1b[31m" + pl.col("c"))
    says = "column 'c': 120 of 120 rows have levels that were not learned"
    with pytest.warns(UserWarning, match=says) as caught:
        model.predict(strange)
    assert caught[0].filename == __file__
    model.save(tmp_path / "model")
    strange.write_csv(tmp_path / "t.csv")
    assert len(command(f"predict {tmp_path}/model {tmp_path}/t.csv --quiet").splitlines()) == 121
    says = "fastmlp: column 'c': 120 of 120 rows have levels that were not learned, as 'c \\x1b"
    assert (command.errors.startswith(says), command.errors.count("\n")) == (True, 1)


def test_a_category_may_have_the_name_of_a_count():
    frame = distinguished().rename({"c": "level", "rows": "c"}).rename({"c": "count"})
    for name in ("rows", "level", "count"):
        assert Encoding.learned(frame.select(pl.col("level").alias(name))).parts == [
            f"{name} = y",
            f"{name} = x",
        ]


def many(levels=60, each=10):
    rng = np.random.default_rng(0)
    y = rng.normal(size=levels)
    codes = np.tile(np.arange(levels), each)
    return pl.DataFrame(
        {"shop": [f"shop {i}" for i in codes], "x": rng.normal(size=len(codes)), "y": y[codes]}
    )


@matrix
def test_more_levels_than_the_limit_are_reported_and_the_limit_is_an_option(tmp_path, command):
    frame = many()
    few, all_ = (TableRegressor(**FAST, levels=limit).fit(frame, "y").score(frame, "y") for limit in (20, 60))
    assert few < 0.5
    assert all_ > 0.8
    frame.write_csv(tmp_path / "t.csv")
    train = f"train {tmp_path}/t.csv --target y {QUICKLY} --epochs 1 --levels"
    says = "shop: 20 levels have a column of their own, and 40 more share one; --levels N sets how many"
    assert value(command(f"{train} 20"), "note") == says
    assert "levels have a column" not in command(f"{train} 60")
    with pytest.raises(ValueError, match="levels must be at least 1, got 0"):
        TableRegressor(levels=0).fit(frame, "y")


def test_classes_that_meet_another_type():
    frame = pl.DataFrame({"a": [0.5, 1.5, 2.5, 3.5] * 10})
    for learned, others in (
        ([True, False], ([1, 0], ["true", "false"], ["1", "0"], [1.0, 0.0])),
        ([1, 0], ([True, False], ["1", "0"], ["1.0", "0"])),
        (["20000000000000000", "b"], ([2e16] * 2,)),
    ):
        model = TableClassifier(**FAST).fit(frame, np.array((learned[:1] * 3 + learned[1:]) * 10))
        expected = model.score(frame, np.array(learned[:1] * 40))
        assert expected != 0.5  # which the other class would have as well
        for values in others:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert model.score(frame, pl.Series("y", values[:1] * 40)) == expected


@pytest.mark.parametrize(
    ("values", "most", "says"),
    [
        (["a", "a", "b", "b", "c"], 5, "2 levels (a, b), rarer ones together"),
        (["a", "a", "a", "b", "b", "c", "c"], 1, "1 level (a), 2 more that share a column"),
        (["a", "a", "b", "b"], 5, "2 levels (a, b)"),
    ],
)
def test_a_summary_says_what_shares_a_column(values, most, says):
    assert Category.learned(pl.Series("c", values), most).summary == says
