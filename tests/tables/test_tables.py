"""Tables in memory: what columns become, and that every mistake is named by its place."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pytest
from support.flats import QUICKLY
from support.table_bounds import bound

from fastmlp import TableRegressor
from fastmlp.tables.columns import CLIP
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.frames import TableError, separated
from fastmlp.tables.kinds import COLUMN_KINDS, FARTHEST, HEAD_ROWS, robust
from fastmlp.tables.reading import as_frame
from fastmlp.tables.storage import columns_of

pa = pytest.importorskip("pyarrow")

ROWS = 120


def mixed(rows=ROWS):
    rng = np.random.default_rng(0)
    words = np.array(["red", "green", "blue", "stone", "water", "bright"])
    dates = np.datetime64("2024-01-01") + rng.integers(0, 900, rows)
    return pl.DataFrame(
        {
            "id": np.arange(1, rows + 1),
            "size": np.where(rng.random(rows) < 0.1, None, rng.normal(5, 2, rows)).tolist(),
            "city": rng.choice(["Rome", "Oslo", "Lima"], rows),
            "when": dates,
            "note": [" ".join(rng.choice(words, 4)) for _ in range(rows)],
            "same": ["x"] * rows,
        }
    )


def test_every_column_becomes_what_its_values_suggest():
    encoding = Encoding.learned(mixed())
    assert encoding.kinds == {
        "id": "drop",
        "size": "number",
        "city": "category",
        "when": "date",
        "note": "text",
        "same": "drop",
    }
    X = encoding.encoded(mixed())
    assert X.shape == (ROWS, len(encoding.parts))
    assert X.dtype == np.float32


def test_a_column_is_of_the_kind_that_is_set():
    kinds = {"id": "category", "note": "drop", "size": "category"}
    assert {name: Encoding.learned(mixed(), kinds).kinds[name] for name in kinds} == kinds
    says = "unknown kind of column 'id' 'numbr'; choose from: number, category"
    with pytest.raises(ValueError, match=says):
        Encoding.learned(mixed(), {"id": "numbr"})
    with pytest.raises(ValueError, match="unknown column 'idd'"):
        Encoding.learned(mixed(), {"idd": "number"})


def clip(z):
    return z / np.sqrt(1 + (z / CLIP) ** 2)


def test_numbers_are_scaled_by_their_quartiles_and_clipped_smoothly():
    values = np.array([0.0, 1, 2, 3, 4, 1e300, -np.inf, np.nan])
    frame = pl.DataFrame({"x": values})
    X = Encoding.learned(frame).encoded(frame, np.float64)
    known = values[np.isfinite(values)]
    lower, center, upper = np.quantile(known, (0.25, 0.5, 0.75))
    np.testing.assert_allclose(X[:5, 0], clip((values[:5] - center) / (upper - lower)))
    np.testing.assert_allclose(X[5:, 0], [CLIP, -CLIP, 0])
    np.testing.assert_array_equal(X[:, 1], np.isnan(values))


@pytest.mark.parametrize(
    ("learned", "parts", "values", "expected"),
    [
        (
            ["a", "b", "a", "b", "a", "once", None],
            ["c = a", "c = b", "c another", "c missing"],
            ["b", "never seen", None, "a"],
            np.eye(4)[[1, 2, 3, 0]],
        ),
        (["a", "b", "a", "b"], ["c = a", "c = b"], ["new", None, "b"], [[0, 0], [0, 0], [0, 1]]),
        *[
            (["1", "2", "2.5"] * 2, ["c = 1", "c = 2", "c = 2.5"], [one], [[1, 0, 0]])
            for one in (1, 1.0, "1")
        ],
    ],
)
def test_categories_have_a_column_each_the_rare_and_new_share_one(learned, parts, values, expected):
    """Where no rare level was seen, a new one is nothing; a level is the same as text and as a number."""
    encoding = Encoding.learned(pl.DataFrame({"c": learned}))
    assert encoding.parts == parts
    np.testing.assert_array_equal(encoding.encoded(pl.DataFrame({"c": values})), expected)


def test_dates_know_their_place_in_year_week_and_day():
    times = ["2024-01-01 06:00:00", "2024-01-08 18:00:00", "2025-06-30 06:00:00", None]
    frame = pl.DataFrame({"t": pl.Series(times).str.to_datetime()})
    encoding = Encoding.learned(frame)
    X = encoding.encoded(frame, np.float64)
    at = encoding.parts.index
    np.testing.assert_allclose(X[:, at("t sin of the day")], [1, -1, 1, 0], atol=1e-9)
    week = X[:, [at("t sin of the week"), at("t cos of the week")]]
    np.testing.assert_allclose(np.hypot(*week.T), [1, 1, 1, 0])
    assert abs(week[0] - week[2]).max() < 1e-9  # both are Mondays at six
    assert X[2, at("t")] == X[:, at("t")].max()
    np.testing.assert_array_equal(X[:, at("t is missing")], [0, 0, 0, 1])


def test_many_levels_cost_only_their_non_zeros():
    rng = np.random.default_rng(0)
    levels = [f"level {i}" for i in range(500)]
    frame = pl.DataFrame({f"c{i}": rng.choice(levels, 3000) for i in range(3)})
    frame = frame.with_columns(pl.Series("x", rng.random(3000)))
    encoding = Encoding.learned(frame)
    X = encoding.encoded(frame)
    assert encoding.is_sparse
    assert X.shape[1] > 1400
    assert X.nnz <= 4 * 3000
    dense = encoding.encoded(frame[:50]).toarray()
    np.testing.assert_array_equal(X[:50].toarray(), dense)


def test_dense_and_sparse_are_the_same_numbers(monkeypatch):
    encoding = Encoding.learned(mixed().drop("note"))
    assert not encoding.is_sparse
    dense = encoding.encoded(mixed())
    bound(monkeypatch, DENSE=2.0)
    sparse = encoding.encoded(mixed())
    assert sparse.has_canonical_format
    np.testing.assert_array_equal(sparse.toarray(), dense)


def test_words_of_long_tables_are_counted_in_some_rows(monkeypatch):
    frame = pl.DataFrame({"note": [f"{'even' if i % 2 == 0 else 'odd'} one two" for i in range(60)]})
    bound(monkeypatch, WORDS_OF=30)
    assert Encoding.learned(frame, {"note": "text"}).columns[0].words == ("even", "one", "two")


@pytest.mark.parametrize("drop", [["note"], []], ids=["dense", "sparse"])
def test_rows_are_encoded_in_pieces(monkeypatch, drop):
    frame = mixed().drop(drop)
    encoding = Encoding.learned(frame)
    whole = encoding.encoded(frame)
    bound(monkeypatch, ROWS_AT_ONCE=7)
    pieces = encoding.encoded(frame)
    assert pieces.shape == (ROWS, encoding.width)
    assert pieces.dtype == np.float32
    if encoding.is_sparse:
        assert pieces.has_canonical_format
        assert pieces.indices.dtype == pieces.indptr.dtype == np.int32  # else training copies them
        pieces, whole = pieces.toarray(), whole.toarray()
    np.testing.assert_array_equal(pieces, whole)


@pytest.mark.parametrize("kind", COLUMN_KINDS)
def test_a_kind_is_json_and_comes_back(kind):
    frame = mixed()
    name = {"number": "size", "date": "when", "text": "note"}.get(kind, "city")
    encoding = Encoding.learned(frame, {name: kind})
    described = json.loads(json.dumps([column.described for column in encoding.columns]))
    again = Encoding(columns_of(described))
    assert again == encoding
    np.testing.assert_array_equal(again.encoded(frame).toarray(), encoding.encoded(frame).toarray())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "picture"}, "unknown kind of column 'picture'"),
        ({"scale": float("inf")}, r"Expected `float` <= 1.79\d*e\+308 - at `Number.scale`"),
        ({"missing": 1}, "Expected `bool`, got `int` - at `Number.missing`"),
        ({"name": 3}, "Expected `str`, got `int` - at `Number.name`"),
    ],
)
def test_a_description_that_is_none_is_refused(change, says):
    described = COLUMN_KINDS["number"].learned(pl.Series("x", [1.0, 2.0])).described
    with pytest.raises(ValueError, match=says):
        columns_of([described | change])


def test_truth_values_are_one_column_in_every_form():
    truth = pl.DataFrame({"b": [True, False, None, True, False]})
    encoding = Encoding.learned(truth)
    for words in (["True", "False"], ["TRUE", "FALSE"], ["true", "false"]):
        texts = pl.DataFrame({"b": [*words, None, *words]})
        assert Encoding.learned(texts) == encoding
        np.testing.assert_array_equal(encoding.encoded(texts), encoding.encoded(truth))


# --- heavy tails ---------------------------------------------------------------------------------------


def heavy(rows=1000, seed=0):
    """y = 2x, with x of Student's t(2) and a log-normal column after it."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, rows)
    return pl.DataFrame({"x": x, "other": rng.lognormal(size=rows), "y": 2 * x})


@pytest.mark.slow  # trains for 3 s
def test_a_line_through_a_column_of_heavy_tails_is_learned():
    model = TableRegressor(backend="fused", random_state=1).fit(heavy(), "y")
    assert [column.tails for column in model.encoding_.columns] == ["both", "clipped"]
    assert min(model.score(heavy(seed=seed), "y") for seed in range(1, 6)) > 0.99


def test_numbers_of_heavy_tails_keep_order_and_distance():
    frame = heavy().select("x")
    X = Encoding.learned(frame).encoded(frame, np.float64)
    x = frame["x"].to_numpy()
    center, scale = robust(x)
    np.testing.assert_allclose(X[:, 0], clip((x - center) * scale), rtol=1e-12)
    np.testing.assert_allclose(X[:, 1] * np.sqrt(np.mean((x - center) ** 2)), x - center, rtol=1e-12)
    assert Encoding.learned(frame).parts == ["x", "x as it is"]
    light = pl.DataFrame({"x": np.random.default_rng(0).normal(size=1000)})
    assert Encoding.learned(light).parts == ["x"]


def test_dates_of_heavy_tails_keep_distance():
    days = np.datetime64("2024-01-01") + np.arange(300) % 40
    days[:3] = np.datetime64("1900-01-01")
    frame = pl.DataFrame({"t": days})
    X = Encoding.learned(frame).encoded(frame, np.float64)
    assert Encoding.learned(frame).parts[:2] == ["t", "t as it is"]
    times = days.astype("M8[s]").astype(float)
    np.testing.assert_allclose(np.corrcoef(X[:, 1], times)[0, 1], 1)


@pytest.mark.parametrize("far", [np.inf, -np.inf, 1e308, -1e308])
def test_what_is_far_beyond_all_is_bounded(far):
    known = np.concatenate([heavy()["x"].to_numpy(), [far]])
    for learned in (known, known[:-1]):
        encoding = Encoding.learned(pl.DataFrame({"x": learned}))
        for one in (encoding, encoding.linear):
            X = one.encoded(pl.DataFrame({"x": known}), np.float64)
            assert np.abs(X).max() <= FARTHEST
            assert np.sign(X[-1]).tolist() == [np.sign(far)] * X.shape[1]


def test_the_linear_model_gets_the_numbers_as_they_are(tmp_path, command):
    heavy().with_columns(y=pl.col("x") + 2 * pl.col("other")).write_csv(tmp_path / "t.csv")
    printed = command(f"train {tmp_path}/t.csv --target y --json --epochs 1 {QUICKLY}")
    scores = json.loads(printed)["report"]["scores"]
    assert scores["linear"]["R^2"] > 0.99999
    assert list(scores) == ["network", "constant", "linear"]


# --- frames ---------------------------------------------------------------------------------------------


def test_frames_of_pandas_are_those_of_polars():
    frame = mixed()
    pandas = pd.DataFrame({name: frame[name].to_list() for name in frame.columns})
    pandas["city"] = pandas["city"].astype("category")
    pandas.index = pandas.index[::-1]
    encoding = Encoding.learned(frame)
    np.testing.assert_array_equal(
        encoding.encoded(as_frame(pandas)).toarray(), encoding.encoded(frame).toarray()
    )
    assert Encoding.learned(as_frame(pandas)).kinds == encoding.kinds


def test_numbers_that_differ_behind_the_head_alone_are_learned():
    rows = 2 * HEAD_ROWS
    frame = pl.DataFrame(
        {"late": [1.0] * (rows - 2) + [2.0, 3.0], "none": [1.0] * rows, "early": range(0, 7 * rows, 7)}
    )
    assert Encoding.learned(frame).kinds == {"late": "number", "none": "drop", "early": "number"}


def test_what_is_no_table_is_refused_in_one_line():
    with pytest.raises(TypeError, match="a table must be a frame of polars' or pandas', or a path, got 3"):
        as_frame(3)
    with pytest.raises(TableError, match=r"^unable to find column [^\n]*$"):
        as_frame(pl.LazyFrame({"a": [1]}).select("b"))
    for series in (pd.Series([1.0, 2.0]), pl.Series([1.0, 2.0])):
        with pytest.raises(TableError, match=r"^a table has columns with names, got one Series$"):
            as_frame(series)
    assert as_frame({3: [1]}).columns == ["3"]
    says = "row 2, column 'm': 'x' is of type str, 1 before it int; a column holds one type: convert it"
    for values in ([1, "x", None], np.array([1, "x"], object), pd.Series([1, "x"])):
        for frame in ({"m": values}, pd.DataFrame({"m": values})):
            with pytest.raises(TableError, match=f"^{says}$"):
                as_frame(frame)
    with pytest.raises(TableError, match=r"^column 'm': 'utf-8' codec can't encode character[^\n]*$"):
        as_frame({"m": ["\ud800"]})
    says = r"column 'l': columns of dtype List\(Int64\) cannot be learned from"
    with pytest.raises(TableError, match=says):
        Encoding.learned(pl.DataFrame({"l": [[1], [2, 3]]}))
    with pytest.raises(TableError, match=r"column 'o': columns of dtype Object cannot be learned from"):
        Encoding.learned(pl.DataFrame({"o": pl.Series([UUID(int=1), UUID(int=2)], dtype=pl.Object)}))
    nothing = pl.DataFrame({"a": [1] * 3, "id": [1, 2, 3], "b": [None] * 3, "c": ["x"] * 3})
    why = "'a': it holds one value only, 1, 'id': it numbers the rows, 'b': it holds nothing, .."
    with pytest.raises(TableError, match=f"^no column is left to learn from; {why}$"):
        Encoding.learned(nothing)


@pytest.mark.parametrize("y", [None, 1])
def test_a_target_is_a_column_or_the_name_of_one(y):
    with pytest.raises(TypeError, match=f"^y must be the target, or the name of its column in X, got {y}$"):
        separated(pl.DataFrame({"1": [1, 2]}), y)


def test_names_of_many_columns_are_listed_in_part():
    frame = as_frame(np.ones((2, 3000)))
    for refused in (lambda: separated(frame, "y"), lambda: Encoding.learned(frame, {"y": "number"})):
        with pytest.raises(ValueError, match=r"'y'; .* x0, x1, .*, x49, \.\. \(3000 in all\)$"):
            refused()


def test_targets_are_columns_or_names_of_columns():
    frame = pl.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6], "c": [7, 8, 9]})
    for names in (["a", "b"], ("a", "b"), np.array(["a", "b"]), pd.Index(["a", "b"])):
        rest, y = separated(frame, names)
        assert (rest.columns, y.name, y.struct.fields) == (["c"], "a, b", ["a", "b"])
    with pytest.raises(TableError, match="two columns have the name 'a'"):
        separated(frame, ["a", "a"])
    for y in (frame, frame.to_pandas(), frame.to_arrow()):
        assert separated(frame, y)[1].struct.unnest().equals(frame)
        assert separated(frame, y[["a"]] if hasattr(y, "iloc") else y.select(["a"]))[1].name == "a"
    for y in ([[1], [2], [3]], np.ones((3, 1)), ["a", "b", "a"]):
        assert len(separated(frame, y)[1]) == 3


TRUTHS, CITIES, COUNTS = [True, None, False], ["Rome", None, "Oslo"], [3, None, 2**60 + 1]


def with_nan(values, nothing):
    return np.array([nothing if value is None else value for value in values], object)


@pytest.mark.parametrize("values", [TRUTHS, CITIES, COUNTS], ids=["truths", "texts", "numbers"])
def test_what_is_missing_is_so_in_columns_of_every_library(values):
    """Targets are such columns, too."""
    nullable = {bool: "boolean", str: "string", int: "Int64"}[type(values[0])]
    arrow, known = pa.array(values), np.array([values[0], values[0], values[2]])
    arrays = [with_nan(values, one) for one in (None, np.nan, np.float32("nan"), pd.NA, pd.NaT, np.ma.masked)]
    given = [
        values,
        tuple(values),
        *arrays,
        *map(list, arrays),
        np.ma.array(known, mask=[False, True, False]),
    ]
    given += [arrow, pa.chunked_array([arrow]), pl.Series(values), pd.Index(values, dtype=nullable)]
    given += [pd.array(values, dtype=nullable), pd.Series(values, dtype=nullable, index=[3, 1, 2])]
    given += [pd.Series(one, dtype=object) for one in arrays]
    given += [pd.Series(arrow, dtype=pd.ArrowDtype(arrow.type))]
    for one in given:
        is_pandas = type(one).__module__.startswith("pandas")
        for frame in [{"a": one}, *[pd.DataFrame({"a": one})] * is_pandas]:
            assert as_frame(frame)["a"].to_list() == values
        _, target = separated(pl.DataFrame({"x": [1, 2, 3]}), one)
        assert target.to_list() == values


def test_rows_of_lists_keep_the_types_of_their_columns():
    rows = [[1, "a", None], [2, None, 2.5]]
    for given in (rows, np.array(rows, object), tuple(map(tuple, rows))):
        frame = as_frame(given)
        assert frame.dtypes == [pl.Int64, pl.String, pl.Float64]
        assert frame.rows() == [(1, "a", None), (2, None, 2.5)]
    masked = np.ma.array([[1.0, 2.0], [3.0, 4.0]], mask=[[True, False], [False, False]])
    assert as_frame(masked).rows() == [(None, 2.0), (3.0, 4.0)]


def test_objects_of_several_types_of_one_kind_are_one_column():
    day, time = date(2024, 1, 2), datetime(2024, 1, 3, 4)
    for values, expected in (
        ([day, time], [datetime(2024, 1, 2), time]),
        ([time, np.datetime64("2024-01-02")], [time, datetime(2024, 1, 2)]),
        ([pd.Timestamp(time), pd.NaT], [time, None]),
        ([1, 2.5, np.int8(3)], [1.0, 2.5, 3.0]),
        ([np.bool_(True), False], [True, False]),
        ([1, 2**63, -(2**70)], [1, 2**63, -(2**70)]),
        ([Decimal("sNaN"), 1], [None, 1.0]),
    ):
        for column in (values, np.array([*values, None], object)[:-1], pd.Series(values, dtype=object)):
            assert as_frame({"a": column})["a"].to_list() == expected
            assert as_frame(pd.DataFrame({"a": pd.Series(column, dtype=object)}))["a"].to_list() == expected


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]),
        pd.DataFrame({1: [1, 2], "a": [3, 4]}).rename(columns={1: "a"}),
        pa.table([[1, 2], [3, 4]], names=["a", "a"]),
        pa.RecordBatch.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"]),
        {1: [1, 2], "1": [3, 4]},
        pd.DataFrame({1: [1, 2], "1": [3, 4]}),
    ],
)
def test_two_columns_of_one_name_are_reported(frame):
    """Names that are one as texts, too."""
    with pytest.raises(TableError, match=r"^two columns have the name '[a1]'$"):
        as_frame(frame)


def test_half_a_character_in_a_name_is_reported():
    half, numbers = "a\ud800", [1.0, 2.0, 3.0]
    for call in (
        lambda: as_frame({half: numbers}),
        lambda: as_frame(pd.DataFrame([[1.0]], columns=pd.Index([half], dtype=object))),
        lambda: separated(pl.DataFrame({"a": numbers}), pd.Series(numbers, name=half)),
    ):
        says = r"^a column's name must be text of whole characters, got 'a\\ud800'$"
        with pytest.raises(TableError, match=says):
            call()


DECIMALS = [Decimal("1.50"), Decimal("-2"), None]


@pytest.mark.parametrize(
    "column",
    [
        DECIMALS,
        np.array(DECIMALS, object),
        pd.Series(DECIMALS),
        pd.Series(DECIMALS, dtype=pd.ArrowDtype(pa.decimal128(5, 2))),
        pa.array(DECIMALS, pa.decimal128(5, 2)),
        pl.Series(DECIMALS),
        [1.5, Decimal(-2), None],
        [Decimal("1.5"), -2, Decimal("NaN")],
    ],
    ids=lambda column: type(column).__module__,
)
def test_decimals_are_numbers(column):
    kind = {pd.Series: pd.DataFrame, pa.Decimal128Array: pa.table}.get(type(column), dict)
    frame = as_frame(kind({"d": column, "e": [1.0, 2.5, 4.0]}))
    encoding = Encoding.learned(frame)
    assert encoding.kinds["d"] == "number"
    expected = Encoding.learned(pl.DataFrame({"d": [1.5, -2.0, None], "e": [1.0, 2.5, 4.0]}))
    np.testing.assert_array_equal(encoding.encoded(frame), expected.encoded(frame))


def test_decimals_of_any_size_are_read_or_refused():
    large = [Decimal(10) ** 40, Decimal("1e-30")]
    for frame in ({"d": large}, pd.DataFrame({"d": large})):
        assert as_frame(frame)["d"].to_list() == [1e40, 1e-30]
    wide = pa.array([Decimal("1.5")], pa.decimal256(50, 2))
    for frame in (
        pa.table({"d": wide}),
        pd.DataFrame({"d": pd.Series(wide, dtype=pd.ArrowDtype(wide.type))}),
    ):
        says = r"column 'd': decimal256\(50, 2\) has more digits than can be read"
        with pytest.raises(TableError, match=says):
            as_frame(frame)


def test_a_value_that_is_of_another_kind_than_learned():
    encoding = Encoding.learned(pl.DataFrame({"a": [1.0, 2.0, 3.5], "b": [4.0, 2.5, 1.0]}))
    with pytest.raises(TableError, match="column 'a': there is no such column; there are: b"):
        encoding.encoded(pl.DataFrame({"b": [1.0]}))
    with pytest.raises(TableError, match="row 2, column 'b': 'tall' is not a number"):
        encoding.encoded(pl.DataFrame({"a": [1, 2], "b": ["3", "tall"]}))
    with pytest.raises(TableError, match="column 'a': it must hold numbers, has dtype Date"):
        encoding.encoded(pl.DataFrame({"a": np.array(["2024-01-01"], "M8[D]"), "b": [1]}))
