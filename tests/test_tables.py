"""Tables: what columns become, how files are read, and that every mistake is named by its place."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from fastmlp.tables import reading
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.errors import TableError
from fastmlp.tables.frames import as_frame
from fastmlp.tables.kinds import KINDS
from fastmlp.tables.reading import Asked, read
from fastmlp.tables.tasks import Classification, Regression, targets_of, task_of
from fastmlp.tables.values import CLIP

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


def test_a_column_is_what_it_is_told_to_be():
    told = {"id": "category", "note": "drop", "size": "category"}
    assert {name: Encoding.learned(mixed(), told).kinds[name] for name in told} == told
    with pytest.raises(
        ValueError, match="unknown kind of column 'id' 'numbr'; choose from: number, category"
    ):
        Encoding.learned(mixed(), {"id": "numbr"})
    with pytest.raises(ValueError, match="unknown column 'idd'"):
        Encoding.learned(mixed(), {"idd": "number"})


def test_numbers_are_scaled_by_their_quartiles_and_clipped_smoothly():
    values = np.array([0.0, 1, 2, 3, 4, 1e300, -np.inf, np.nan])
    frame = pl.DataFrame({"x": values})
    X = Encoding.learned(frame).encoded(frame, np.float64)
    known = values[np.isfinite(values)]
    lower, center, upper = np.quantile(known, (0.25, 0.5, 0.75))
    scaled = (values[:5] - center) / (upper - lower)
    np.testing.assert_allclose(X[:5, 0], scaled / np.sqrt(1 + (scaled / CLIP) ** 2))
    np.testing.assert_allclose(X[5:, 0], [CLIP, -CLIP, 0])
    np.testing.assert_array_equal(X[:, 1], np.isnan(values))


def test_categories_have_a_column_each_the_rare_and_new_share_one():
    frame = pl.DataFrame({"c": ["a", "b", "a", "b", "a", "once", None]})
    encoding = Encoding.learned(frame)
    assert encoding.parts == ["c = a", "c = b", "c another", "c missing"]
    X = encoding.encoded(pl.DataFrame({"c": ["b", "never seen", None, "a"]}))
    np.testing.assert_array_equal(X, np.eye(4)[[1, 2, 3, 0]])


def test_a_new_level_is_nothing_where_no_rare_one_was_seen():
    encoding = Encoding.learned(pl.DataFrame({"c": ["a", "b", "a", "b"]}))
    np.testing.assert_array_equal(
        encoding.encoded(pl.DataFrame({"c": ["new", None, "b"]})), [[0, 0], [0, 0], [0, 1]]
    )


def test_a_level_is_the_same_as_text_and_as_a_number():
    encoding = Encoding.learned(pl.DataFrame({"c": ["1", "2", "2.5"] * 2}))
    for level in (1, 1.0, "1"):
        np.testing.assert_array_equal(encoding.encoded(pl.DataFrame({"c": [level]})), [[1, 0, 0]])


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
    monkeypatch.setattr("fastmlp.tables.encoding.DENSE", 2.0)
    sparse = encoding.encoded(mixed())
    assert sparse.has_canonical_format
    np.testing.assert_array_equal(sparse.toarray(), dense)


@pytest.mark.parametrize("drop", [["note"], []], ids=["dense", "sparse"])
def test_rows_are_learned_from_and_encoded_apart(monkeypatch, drop):
    frame, held = mixed().drop(drop), np.random.default_rng(1).random(ROWS) < 0.3
    encoding = Encoding.learned(frame, rows=pl.Series(~held))
    assert encoding == Encoding.learned(frame.filter(~held))
    assert encoding != Encoding.learned(frame)
    monkeypatch.setattr("fastmlp.tables.encoding.TOGETHER", 7)
    for part, rows in zip(encoding.encoded_apart(frame, held), (~held, held), strict=True):
        wanted = encoding.encoded(frame.filter(rows))
        assert part.shape == (rows.sum(), encoding.width)
        assert part.dtype == np.float32
        if encoding.is_sparse:
            assert part.has_canonical_format
            assert part.indices.dtype == part.indptr.dtype == np.int32  # else training copies them
            part, wanted = part.toarray(), wanted.toarray()
        np.testing.assert_array_equal(part, wanted)


def test_words_of_long_tables_are_counted_in_some_rows(monkeypatch):
    frame = pl.DataFrame({"note": [f"{'even' if i % 2 == 0 else 'odd'} one two" for i in range(60)]})
    monkeypatch.setattr("fastmlp.tables.kinds.WORDS_OF", 30)
    assert Encoding.learned(frame, {"note": "text"}).columns[0].words == ("even", "one", "two")


def test_rows_are_encoded_in_pieces(monkeypatch):
    encoding = Encoding.learned(mixed())
    whole = encoding.encoded(mixed()).toarray()
    monkeypatch.setattr("fastmlp.tables.encoding.TOGETHER", 7)
    np.testing.assert_array_equal(encoding.encoded(mixed()).toarray(), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_json_and_comes_back(kind):
    frame = mixed()
    name = {"number": "size", "date": "when", "text": "note"}.get(kind, "city")
    encoding = Encoding.learned(frame, {name: kind})
    again = Encoding.restored(json.loads(json.dumps(encoding.described)))
    assert again == encoding
    np.testing.assert_array_equal(again.encoded(frame).toarray(), encoding.encoded(frame).toarray())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "picture"}, "unknown kind of column 'picture'"),
        ({"scale": float("inf")}, "scale of a column must be a finite number, got inf"),
        ({"missing": 1}, "missing of a column must be true or false, got 1"),
        ({"name": 3}, "name of a column must be text, got 3"),
    ],
)
def test_a_description_that_is_none_is_refused(change, says):
    described = KINDS["number"].learned(pl.Series("x", [1.0, 2.0])).described
    with pytest.raises(ValueError, match=says):
        Encoding.restored([described | change])


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".arrow"])
def test_a_table_is_the_same_in_every_format(tmp_path, ending):
    frame, path = mixed(), tmp_path / f"table{ending}"
    if ending in (".csv", ".tsv"):
        frame.write_csv(path, separator="\t" if ending == ".tsv" else ",")
    else:
        getattr(frame, {".parquet": "write_parquet", ".arrow": "write_ipc"}[ending])(path)
    found = read(path)
    encoding = Encoding.learned(frame)
    assert Encoding.learned(found).kinds == encoding.kinds
    np.testing.assert_allclose(
        encoding.encoded(found).toarray(), encoding.encoded(frame).toarray(), rtol=1e-6
    )


def test_arrow_streams_and_arrays_of_numpy(tmp_path):
    frame = pl.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"]})
    frame.write_ipc_stream(tmp_path / "stream.arrow")
    assert read(tmp_path / "stream.arrow").equals(frame)
    np.savez(tmp_path / "t.npz", X=np.arange(6.0).reshape(3, 2), y=np.array(["u", "v", "u"]))
    assert read(tmp_path / "t.npz").to_dict(as_series=False) == {
        "X0": [0, 2, 4],
        "X1": [1, 3, 5],
        "y": ["u", "v", "u"],
    }
    np.save(tmp_path / "t.npy", np.eye(2))
    assert read(tmp_path / "t.npy").columns == ["x0", "x1"]


def test_blocks_end_between_rows(tmp_path, monkeypatch):
    frame = mixed().with_columns(pl.Series("quoted", [f'line "{i}"\nand, another' for i in range(ROWS)]))
    frame.write_csv(tmp_path / "t.csv")
    whole = read(tmp_path / "t.csv")
    for size in (1, 100, 1000):
        monkeypatch.setattr(reading, "BLOCK", size)
        assert read(tmp_path / "t.csv").equals(whole)
    assert whole["quoted"].to_list() == frame["quoted"].to_list()


def test_semicolons_byte_order_marks_and_dates_of_other_forms(tmp_path):
    text = "\ufeffday;size\r\n24.12.2024;1\r\n31.12.2024;NA\r\n"
    (tmp_path / "t.csv").write_bytes(text.encode())
    found = read(tmp_path / "t.csv")
    assert found.columns == ["day", "size"]
    assert found["day"].dt.day().to_list() == [24, 31]
    assert found["size"].to_list() == [1.0, None]


def test_empty_lines_at_the_end_are_no_rows(tmp_path):
    for text in ("a,b\n1,2\n3,4", "a,b\n1,2\n3,4\n", "a,b\r\n1,2\r\n3,4\r\n\r\n\r\n"):
        (tmp_path / "t.csv").write_bytes(text.encode())
        assert read(tmp_path / "t.csv").rows() == [(1, 2), (3, 4)]


def test_a_separator_in_quotes_is_none(tmp_path):
    (tmp_path / "t.csv").write_text('"price, EUR, net";"size, m2"\n1;2\n\n3;\n')
    assert read(tmp_path / "t.csv").columns == ["price, EUR, net", "size, m2"]


def test_a_field_without_an_end_is_told_in_one_line(tmp_path):
    (tmp_path / "t.csv").write_text("x" * 200_000)
    with pytest.raises(TableError, match=r"t.csv: it cannot be read: field larger than field limit"):
        read(tmp_path / "t.csv")


def test_a_quote_that_is_never_closed_costs_no_more_than_the_longest_row(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 1000)
    monkeypatch.setattr(reading, "LONGEST", 4000)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "c,1\n" * 5000 + '"c,1\n' + "d,2\n" * 50_000)
    with pytest.raises(TableError, match=r"""t.csv, row 5001, column 'a': a quote in '"c': a field with"""):
        read(path)
    with open(path, "rb") as file:
        pieces = reading._blocks(file, path.stat().st_size)
        assert max(map(len, itertools.islice(pieces, 30))) < 16_000


def test_a_stray_quote_costs_one_pass():
    class Counted(bytes):
        seen = 0

        def count(self, what, start, end):
            Counted.seen += end - start
            return super().count(what, start, end)

    lines = 2000
    text = Counted(b'a,b\n5" pipe,1\n' + b"rod,2\n" * lines)
    assert reading._last_line_end(text) == len(b"a,b\n")
    assert Counted.seen < 2 * len(text) + 1


def test_zero_bytes_are_no_text(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n\0,1\n")
    with pytest.raises(TableError, match="it is no text: there are zero bytes in it"):
        read(tmp_path / "t.csv")


def test_names_have_no_spaces_around_them(tmp_path):
    (tmp_path / "t.csv").write_text("a , b, \n1, 2,x\n")
    assert read(tmp_path / "t.csv").to_dict(as_series=False) == {"a": [1], "b": [2], "column 3": ["x"]}


def test_decimal_commas_are_numbers_where_semicolons_separate(tmp_path):
    (tmp_path / "t.csv").write_text('a;b;c\n0,5;x,1;-1,5e3\n 2,25 ;2,1,3;7\n;"1,2";0,0\n')
    found = read(tmp_path / "t.csv")
    assert found["a"].to_list() == [0.5, 2.25, None]
    assert found["c"].to_list() == [-1500, 7, 0]
    assert found["b"].to_list() == ["x,1", "2,1,3", "1.2"]
    (tmp_path / "t.csv").write_text('a,b\n"1,700",x\n"2,500",y\n')  # of thousands, most likely
    assert read(tmp_path / "t.csv")["a"].to_list() == ["1,700", "2,500"]


def test_columns_that_are_wanted_are_named_before_anything_is_read(tmp_path):
    frame = pl.DataFrame({"a": [1.0], "b": ["x"]})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    for ending in (".csv", ".parquet"):
        assert read(tmp_path / f"t{ending}", Asked(only=["b"])).rows() == [("x",)]
        with pytest.raises(
            TableError, match=f"t{ending}, column 'c': there is no such column; there are: a, b"
        ):
            read(tmp_path / f"t{ending}", Asked(only=["b", "c"]))


def test_zones_are_counted_in(tmp_path):
    (tmp_path / "t.csv").write_text("t\n2024-01-01T10:00:00+02:00\n2024-01-01T10:00:00Z\n")
    assert read(tmp_path / "t.csv")["t"].dt.hour().to_list() == [8, 10]


def test_missing_is_what_is_told(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n-9,x\n2,-9\n")
    found = read(tmp_path / "t.csv", Asked(missing=["-9"]))
    assert found.to_dict(as_series=False) == {"a": [None, 2.0], "b": ["x", None]}


NUMBERS = "".join(f"{i},x\n" for i in range(20))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n3,4,5\n", "row 2: it has 3 fields, and the header 2"),
        (
            f"a,b\n{NUMBERS}l2,y\n",
            "row 21, column 'a': 'l2' is not a number; the column is taken as numbers: tell another kind",
        ),
        ("a,b,c\n1,2,3\n4,5\n", "row 2: it has 2 fields, and the header 3"),
        ("a,b\r1,2\r3,4\r", "its lines end in carriage returns alone"),
        ("a,\xe9\n1,2\n".encode("latin-1"), "its first line is no UTF-8"),
        ('a,b\n1,5" pipe\n2,rod\n', "row 1, column 'b': a quote in '5\" pipe': a field with quotes must"),
        ('a,b\n1,"5"" pipe"\n2,"6" rod\n', "row 2, column 'b': a quote in '\"6\" rod': a field with"),
        ('a,b\n1,2\n"3,4\n5,6\n', "row 2, column 'a': a quote in '\"3': a field with quotes must stand in"),
        ('a,b\n1,2,3\n5" pipe,4\n', "row 1: it has 3 fields, and the header 2"),
        ("", "its text is empty; the first line must name the columns"),
        ("\n\n", "its text is empty"),
        ("\na,b\n1,2\n", "its first line is empty"),
        (gzip.compress(b"a,b\n1,2\n"), "it is no text in UTF-8, but compressed by gzip; unpack it first"),
        ("a,b\n1,2\n".encode("utf-16"), "it is no text in UTF-8, but in UTF-16; save the table as UTF-8"),
        (b"PK\x03\x04abc\n", "it is no text in UTF-8, but a zip file, as those of Excel's are"),
        ("a, a\n1,2\n", "two columns have the name 'a'; the first line must name the columns"),
        ("a,a\n1,2\n", "two columns have the name 'a'; the first line"),
        (b"a,b\n1,2\nx,\xff\n", "row 2: byte 0xff is no UTF-8"),
    ],
)
@pytest.mark.parametrize("block", [9, 1 << 24])
def test_a_mistake_is_named_by_file_row_and_column(tmp_path, monkeypatch, text, says, block):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(reading, "BLOCK", block)
    with pytest.raises(TableError) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}{':' if 'row' not in says else ','} {says}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".npz", ".npy", ".xlsx"])
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path, ending):
    path = tmp_path / f"t{ending}"
    path.write_bytes(b"no such thing at all")
    with pytest.raises(TableError) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("unit", ["Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "3h"])
def test_dates_of_numpy_in_every_unit(tmp_path, unit):
    dates = np.array(["2001-06-15", "NaT", "2024-06-15"], "M8[D]").astype(f"M8[{unit}]")
    np.savez(tmp_path / "t.npz", when=dates, a=np.arange(3, dtype=np.longdouble))
    for found in (
        read(tmp_path / "t.npz"),
        as_frame({"when": dates, "a": [0, 1, 2]}),
        as_frame(dates[:, None]).rename({"x0": "when"}),
    ):
        assert found["when"].dt.year().to_list() == [2001, None, 2024]
    with pytest.raises(
        TableError, match="row 2, column 'when': 999999-01-01T00 is beyond the dates that can"
    ):
        as_frame({"when": np.array(["2001-01-01", "999999-01-01"], "M8[h]")})


@pytest.mark.parametrize("array", [np.ones(3, complex), np.ones(3, "m8[h]")])
def test_arrays_that_are_no_column_are_refused(tmp_path, array):
    np.savez(tmp_path / "t.npz", a=array)
    for use in (lambda: read(tmp_path / "t.npz"), lambda: as_frame({"a": array})):
        with pytest.raises(
            TableError, match=f"column 'a': arrays of dtype {re.escape(str(array.dtype))} cannot"
        ):
            use()


def test_nothing_in_an_npz_is_unpickled(tmp_path):
    np.savez(tmp_path / "t.npz", a=np.array([{}], object))
    with pytest.raises(TableError, match="Object arrays cannot be loaded"):
        read(tmp_path / "t.npz")


# --- frames -----------------------------------------------------------------------------------------------


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


def test_what_is_no_table_is_refused_in_one_line():
    with pytest.raises(TypeError, match="a table must be a frame of polars' or pandas', or a path, got 3"):
        as_frame(3)
    with pytest.raises(TableError, match="column 'm': pandas' column cannot be taken"):
        as_frame(pd.DataFrame({"m": [1, "x", None]}))
    with pytest.raises(
        TableError, match=r"column 'l': columns of dtype List\(Int64\) cannot be learned from"
    ):
        Encoding.learned(pl.DataFrame({"l": [[1], [2, 3]]}))
    nothing = pl.DataFrame({"a": [1] * 3, "id": [1, 2, 3], "b": [None] * 3, "c": ["x"] * 3})
    why = "'a': it holds one value only, 'id': it numbers the rows, 'b': it holds nothing, .."
    with pytest.raises(TableError, match=f"^no column is left to learn from; {why}$"):
        Encoding.learned(nothing)


def test_a_value_that_is_of_another_kind_than_learned():
    encoding = Encoding.learned(pl.DataFrame({"a": [1.0, 2.0, 3.5], "b": [4.0, 2.5, 1.0]}))
    with pytest.raises(TableError, match="column 'a': there is no such column; there are: b"):
        encoding.encoded(pl.DataFrame({"b": [1.0]}))
    with pytest.raises(TableError, match="row 2, column 'b': 'tall' is not a number"):
        encoding.encoded(pl.DataFrame({"a": [1, 2], "b": ["3", "tall"]}))
    with pytest.raises(TableError, match="column 'a': it must hold numbers, has dtype Date"):
        encoding.encoded(pl.DataFrame({"a": np.array(["2024-01-01"], "M8[D]"), "b": [1]}))


# --- targets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "classification"),
        ([True, False], "classification"),
        ([0, 1, 2, 1], "classification"),
        ([0.0, 1.0], "classification"),
        ([0.5, 1.0], "regression"),
        (list(range(40)), "regression"),
    ],
)
def test_the_task_is_what_the_target_suggests(values, task):
    assert task_of(pl.Series("y", values)) == task


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (["01", "1", "007"], ["01", "1", "007"]),
        (["1", " 2", "3.0"], [1, 2, 3]),
        ([str(2**53), str(2**53 + 1)], [2**53, 2**53 + 1]),
        ([str(10**20), "7"], [str(10**20), "7"]),
        (["1.5", "2"], [1.5, 2.0]),
        ([1e20, 2e20], [1e20, 2e20]),
        (["True", "FALSE"], [True, False]),
        ([True, False], [True, False]),
        ([Decimal("0.5"), Decimal("1.5")], [0.5, 1.5]),
    ],
)
def test_classes_stay_apart_and_what_they_are(values, classes):
    assert targets_of(pl.Series("y", values), "classification").tolist() == classes


def test_dates_are_no_target_and_a_class_has_several_rows():
    dates = pl.Series("y", ["2024-01-01", "2024-01-02", None])
    for target in (dates, dates.str.to_date()):
        with pytest.raises(TableError, match="column 'y': the target holds dates: make numbers of them, or"):
            task_of(target)
    assert targets_of(dates[:2], "classification").tolist() == ["2024-01-01", "2024-01-02"]
    assert task_of(pl.Series("y", [str(10**30 + i) for i in range(40)])) == "regression"
    names = np.array([f"name {i}" for i in range(60)])
    with pytest.raises(
        TableError, match="the target has 60 classes in 60 rows, too many to learn: choose the"
    ):
        Classification.learned(names)
    assert Classification.learned(names.repeat(2)).n_out == 60


@pytest.mark.parametrize("values", [[1.0, 2.0, 1e308], [-1e308, 1e308], [1e-200, 2e-200]])
def test_a_regression_needs_a_deviation(values):
    with pytest.raises(TableError, match="a regression needs numbers that have a deviation, got one of"):
        Regression.learned(np.array(values))


def test_classes_have_places_and_unknown_ones_have_none():
    for classes, y in (
        (("01", "1", "b"), ["b", "01", "0", "zz", "1"]),
        ((1, 5, 2**53), [2**53, 1, 0, 7, 5]),
        ((1.5, 2.5, 3.0), [3.0, 1.5, 0.0, 9.0, 2.5]),
    ):
        assert Classification(classes).encoded(np.array(y)).tolist() == [2, 0, -1, -1, 1]
    assert Classification((False, True)).encoded(np.array([True, False])).tolist() == [1, 0]
    assert Classification((1, 2)).encoded(np.array(["1", "2"])).tolist() == [-1, -1]


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    y, outputs = rng.integers(0, 3, 50), rng.dirichlet(np.ones(3), 50)
    task = Classification((0, 1, 2))
    found = task.measures(y, task.judged(y, outputs))
    assert found == pytest.approx(
        {"accuracy": accuracy_score(y, outputs.argmax(axis=1)), "log loss": log_loss(y, outputs)}
    )
    assert Classification((0, 1, 3)).judged(y, outputs)[y == 2, 1].max() == 0
    y, regression = rng.normal(7, 3, 50), Regression(7.0, 3.0)
    found = regression.measures(y, regression.judged(y, outputs[:, :1]))
    predicted = outputs[:, 0] * 3 + 7
    wanted = r2_score(y, predicted), root_mean_squared_error(y, predicted), mean_absolute_error(y, predicted)
    assert list(found.values()) == pytest.approx(wanted)


def test_decimal_numbers_are_a_target_and_durations_are_none():
    values = pl.Series("y", [Decimal("0.50"), Decimal("1.25")])
    assert task_of(values) == "regression"
    assert targets_of(values, "regression").tolist() == [0.5, 1.25]
    for odd in (pl.Series("y", [timedelta(1)]), pl.Series("y", [[1], [2]])):
        with pytest.raises(TableError, match=r"column 'y': a target of dtype .* cannot be learned"):
            task_of(odd)


def test_truth_values_are_one_column_in_every_form(tmp_path):
    truth = pl.DataFrame({"b": [True, False, None, True, False]})
    encoding = Encoding.learned(truth)
    for words in (["True", "False"], ["TRUE", "FALSE"], ["true", "false"]):
        texts = pl.DataFrame({"b": [*words, None, *words]})
        assert Encoding.learned(texts) == encoding
        np.testing.assert_array_equal(encoding.encoded(texts), encoding.encoded(truth))


def test_a_target_that_is_missing_is_named_by_its_row():
    with pytest.raises(TableError, match="row 2, column 'y': the target is missing"):
        targets_of(pl.Series("y", [1.0, None]), "regression")
    with pytest.raises(TableError, match="row 1, column 'y': the target is inf"):
        targets_of(pl.Series("y", [float("inf"), 1.0]), "regression")
    assert targets_of(pl.Series("y", [1.0, 2.0]), "classification").tolist() == [1, 2]
