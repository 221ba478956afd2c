"""Columns as people write them: numbers and dates of many forms, and what the data leave in doubt."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from support.flats import QUICK, QUICKLY, flats
from support.selection import matrix, quick
from support.table_bounds import bound

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables import reading
from fastmlp.tables.columns import ISO
from fastmlp.tables.estimators import load
from fastmlp.tables.frames import TableError
from fastmlp.tables.reading import ReadOptions, as_frame, read
from fastmlp.tables.writings import HEAD_TEXTS, SURE, Ambiguity, Writing, unix_unit, writing_of

pa = pytest.importorskip("pyarrow")


def column(*texts):
    return pl.Series("x", texts)


@pytest.mark.parametrize(
    ("texts", "shown", "numbers"),
    [
        (["1,234.56", "-950", "12,345,678.9", "0.5"], "1,234.50", [1234.56, -950, 12345678.9, 0.5]),
        (["1.234,56", "-950", "0,5"], "1.234,50", [1234.56, -950, 0.5]),
        (["1 234,56", "12\u00a0345", "1\u202f000\u202f000"], "1 234,50", [1234.56, 12345, 1e6]),
        (["1'234.56", "1\u2019000"], "1'234.50", [1234.56, 1000]),
        (["12,5", "0,25", "7"], "1.234,50", [12.5, 0.25, 7]),
        (["12,34,567.5", "1,00,000"], "1,234.50", [1234567.5, 100000]),
        (["$1,234.50", "-$3", "$ 0.25", "$-7"], "$1,234.50", [1234.5, -3, 0.25, -7]),
        (["$1,234", "$950"], "$1,234.50", [1234, 950]),
        (["1.234,50 €", "0,99 €"], "1.234,50€", [1234.5, 0.99]),
        (["EUR 1.234,50", "EUR 3"], "EUR 1.234,50", [1234.5, 3]),
        (["1,234.50 USD", "3 USD"], "1,234.50 USD", [1234.5, 3]),
        (["R$ 1.234,50", "R$ 3"], "R$1.234,50", [1234.5, 3]),
        (["12 %", "0.5%", "-3 %"], "1,234.50%", [12, 0.5, -3]),
        (["12 kg", "7.5 kg", "1 kg"], "1,234.50 kg", [12, 7.5, 1]),
        (["12 m²", "7 m²"], "1234.50 m²", [12, 7]),
        (["90 km/h", "110 km/h"], "1234.50 km/h", [90, 110]),
        (["1 day", "2 days", "14 days"], "1234.50 days", [1, 2, 14]),
        (["1.234 kg", "2.5 kg"], "1,234.50 kg", [1.234, 2.5]),
        (["1.234 kg", "2.500 kg"], "1234.50 kg", [1.234, 2.5]),
        (["(1,234)", "2,000,000", "(0.5)"], "1,234.50", [-1234, 2e6, -0.5]),
        (["($1,234.5)", "$20"], "$1,234.50", [-1234.5, 20]),
        (["(3)", "4"], "1234.50", [-3, 4]),
        (["\u22121.5", "2"], "1234.50", [-1.5, 2]),
        (["1", "2.5", "-1e3"], "1234.50", [1, 2.5, -1000]),
        (["01:30:00", "0:00:05.5", "26:00:00"], "01:30:00", [5400, 5.5, 93600]),
        (["1 days 01:00:00", "-0:30:00"], "1 days 01:00:00", [90000, -1800]),
        (["14:30", "9:05"], "14:30", [52200, 32700]),
        (["2:30 PM", "12:00 am", "12:15 pm"], "2:30 PM", [52200, 0, 44100]),
    ],
)
def test_numbers_are_read_as_people_write_them(texts, shown, numbers):
    found = writing_of(column(*texts, None))
    assert found == Writing("x", "number", shown)
    assert found.read(column(*texts, None, "neither")).to_list() == [*numbers, None, None]
    again = Writing("x", "number", shown)  # what is kept in files, and what a user says
    assert again.read(column(*texts)).to_list() == numbers


@pytest.mark.parametrize(
    ("texts", "shown", "moments"),
    [
        (["03/25/2024", "3/4/2024"], "%m/%d/%Y", ["2024-03-25", "2024-03-04"]),
        (["25/03/2024", "03/04/2024"], "%d/%m/%Y", ["2024-03-25", "2024-04-03"]),
        (["03-25-24", "03-04-24"], "%m-%d-%y", ["2024-03-25", "2024-03-04"]),
        (["25 Mar 2024", "4 April 2024"], "%d %B %Y", ["2024-03-25", "2024-04-04"]),
        (["25-Mar-2024", "04-APR-2024"], "%d-%B-%Y", ["2024-03-25", "2024-04-04"]),
        (["March 25, 2024", "May 4, 2024"], "%B %d, %Y", ["2024-03-25", "2024-05-04"]),
        (["Monday, March 25, 2024"], "%A, %B %d, %Y", ["2024-03-25"]),
        (["Mar 2024", "April 2024"], "%B %Y", ["2024-03-01", "2024-04-01"]),
        (["03/2024", "12/2024"], "%m/%Y", ["2024-03-01", "2024-12-01"]),
        (["2024-03", "2024-12"], "%Y-%m", ["2024-03-01", "2024-12-01"]),
        (["2024-W05-1", "2023-W52-7"], "%G-W%V-%u", ["2024-01-29", "2023-12-31"]),
        (["2024-W05", "2023-W52"], "%G-W%V", ["2024-01-29", "2023-12-25"]),
        (["2024-01-29", "2023-12-31"], "%Y-%m-%d", ["2024-01-29", "2023-12-31"]),
        (
            ["2024-01-29", "2023-12-31 00:00:00"],
            "%Y-%m-%d|%Y-%m-%d %H:%M:%S%.f",
            ["2024-01-29", "2023-12-31"],
        ),
        (["03/25/2024 2:30 PM"], "%m/%d/%Y %I:%M %p", ["2024-03-25 14:30"]),
        (["25/03/2024 14:30:05"], "%d/%m/%Y %H:%M:%S%.f", ["2024-03-25 14:30:05"]),
        (["March 25, 2024, 12:05 AM"], "%B %d, %Y, %I:%M %p", ["2024-03-25 00:05"]),
        (["25 Mar 2024 14:30"], "%d %B %Y %H:%M", ["2024-03-25 14:30"]),
        (["25.03.2024 14:30:05.25"], "%d.%m.%Y %H:%M:%S%.f", ["2024-03-25 14:30:05.250"]),
        (["2024-03-25T14:30:05+02:00"], "%Y-%m-%dT%H:%M:%S%.f%#z", ["2024-03-25 12:30:05"]),
    ],
)
def test_dates_are_read_as_people_write_them(texts, shown, moments):
    found = writing_of(column(*texts, None))
    assert found == Writing("x", "date", shown)
    expected = [*map(datetime.fromisoformat, moments), None]
    assert found.read(column(*texts, "neither")).to_list() == expected


@pytest.mark.parametrize(
    ("texts", "reason", "shown"),
    [
        (["1,234", "5,678"], "'1,234' may be written as 1,234.50 or 1.234,50", "1,234.50"),
        (["€1.234", "€5.678"], "'€1.234' may be written as €1,234.50 or €1.234,50", "€1,234.50"),
        (["03/04/2024", "05/06/2024"], "'03/04/2024' may be a date as %m/%d/%Y or %d/%m/%Y", "%m/%d/%Y"),
        (["12 kg", "5 lb", "3 kg"], "its numbers have several units, or some have none: 'kg', 'lb'", ""),
        (["$5", "5", "$7"], "its numbers have several units, or some have none: '$'", ""),
        (["1.234,5", "1,234.5"], "its numbers are written in more than one way", ""),
        ([*map(str, range(20)), "tall"], "its texts are numbers, as '0', but for 1, as 'tall'", ""),
        (
            [f"03/{day}/2024" for day in range(13, 30)] + ["soon"],
            "its texts are dates as %m/%d/%Y, but for 1, as 'soon'",
            "%m/%d/%Y",
        ),
    ],
)
def test_what_the_data_do_not_settle_is_in_doubt(texts, reason, shown):
    found = writing_of(column(*texts))
    assert isinstance(found, Ambiguity)
    assert (found.reason, found.shown) == (reason, shown)


@pytest.mark.parametrize(
    "texts",
    [
        ["red", "green"],
        ["12 Elm Street", "3 Main Street", "5 Oak Road"],
        ["A12", "B7"],
        ["007", "012"],  # a code
        ["5-10", "10-20"],
        ["01:30", "1:02:03"],  # minutes or hours
        ["192.168.0.1", "10.0.0.1"],
        ["+49 30 1234567", "030/1234-5"],
        ["00/10/2024", "00/11/2024"],
        ["2024-W60", "2024-W99"],
        [],
    ],
)
def test_other_texts_are_no_numbers_and_no_dates(texts):
    assert writing_of(pl.Series("x", texts, pl.String)) is None


@pytest.mark.parametrize(
    ("last", "shown"),
    [("-.5e-3", "1234.50"), ("1,234.5", "1,234.50"), ("(3)", "1234.50"), ("007", None), ("A7", Ambiguity)],
)
def test_the_last_text_of_many_plain_numbers_counts(last, shown):
    texts = column(*map(str, range(2 * HEAD_TEXTS)), last)
    found = writing_of(texts)
    if isinstance(shown, str):
        assert found == Writing("x", "number", shown)
        assert found.read(texts)[-3:].to_list() == [198, 199, {"-.5e-3": -5e-4, "(3)": -3}.get(last, 1234.5)]
    else:
        assert found is None if shown is None else isinstance(found, shown)


def test_thousands_are_settled_by_smaller_numbers_beside_them():
    thousands = [f"{i},{i:03}" for i in range(1, SURE + 1)]
    assert writing_of(column(*thousands, "950")) == Writing("x", "number", "1,234.50")
    for texts in (thousands, [*thousands[1:], "950"], [*thousands, "1234"]):
        assert isinstance(writing_of(column(*texts)), Ambiguity)
    for decimal in ("0,12", "0,125"):
        assert writing_of(column(*thousands, "950", decimal)) == Writing("x", "number", "1.234,50")


def test_numbers_since_1970_are_dates_where_name_and_range_say_so():
    for name in ("timestamp", "created_at", "eventTime", "DATE", "ts"):
        for power, unit in enumerate(("seconds", "milliseconds", "microseconds", "nanoseconds")):
            series = pl.Series(name, [SECONDS * 1000**power, (SECONDS + 1) * 1000**power])
            found = unix_unit(series)
            assert found == Writing(name, "date", unit)
            expected = [datetime(2024, 3, 25), datetime(2024, 3, 25, 0, 0, 1)]
            assert found.read(series).to_list() == found.read(series.cast(pl.String)).to_list() == expected
    for series in (
        pl.Series("amount", [SECONDS]),
        pl.Series("time", [12, SECONDS]),
        pl.Series("time", [None], pl.Int64),
    ):
        assert unix_unit(series) is None


SECONDS = 1_711_324_800
"""From the beginning of 1970 to that of 25 March 2024."""

DURATIONS = [timedelta(hours=1, minutes=30), None, timedelta(days=1, microseconds=5)]


@matrix
def test_durations_and_times_of_day_are_numbers_of_seconds():
    expected = [5400.0, None, 86400.000005]
    arrow = pa.array(DURATIONS, pa.duration("us"))
    for given in (
        DURATIONS, pd.Series(DURATIONS), pl.Series(DURATIONS), arrow, np.array(DURATIONS, "m8[us]"),
        pd.Series(arrow, dtype=pd.ArrowDtype(arrow.type)),
    ):  # fmt: skip
        frame = as_frame({"x": given})
        assert frame["x"].dtype == pl.Duration
        table = pl.concat([frame, frame, frame]).with_columns(y=np.arange(9.0))
        model = TableRegressor(**QUICK).fit(table, "y")
        assert model.encoding_.kinds == {"x": "number"}
        assert 1 / model.encoding_.columns[0].scale == pytest.approx(expected[2] - expected[0])
    for unit, value in (("W", 2), ("h", 5), ("s", 7), ("25s", 7), ("ps", 10**12)):
        array = np.array([value], f"m8[{unit}]")
        assert as_frame({"x": array})["x"].to_list() == [array[0].astype("m8[us]").item()]
    times = pl.DataFrame({"x": [time(1, 30), time(23, 0)] * 3, "y": range(6)})
    assert TableRegressor(**QUICK).fit(times, "y").encoding_.columns[0].scale == 1 / (23 * 3600 - 5400)


def written(frame):
    """The table of flats with numbers and days as people write them."""
    size, noise = frame["size"].to_list(), frame["noise"].to_list()
    return frame.with_columns(
        size=pl.Series([None if one is None else f"{1000 * one:,.2f} m²" for one in size]),
        noise=pl.Series([f"({-1000 * one:,.3f})" if one < 0 else f"{1000 * one:,.3f}" for one in noise]),
        day=pl.Series([f"{1 + row % 12:02}/{1 + row % 28:02}/2024" for row in range(len(frame))]),
        created_at=pl.Series([SECONDS + 40_000 * row for row in range(len(frame))]),
        wait=pl.Series([f"0:{row % 60:02}:{row % 7:02}" for row in range(len(frame))]),
    )


def plain(frame):
    """The same as numbers and dates."""
    return frame.with_columns(
        size=pl.Series([None if one is None else float(f"{1000 * one:.2f}") for one in frame["size"]]),
        noise=pl.Series([float(f"{1000 * one:.3f}") for one in frame["noise"]]),
        day=pl.Series([date(2024, 1 + row % 12, 1 + row % 28) for row in range(len(frame))]),
        created_at=pl.Series(
            [datetime(2024, 3, 25) + timedelta(0, 40_000 * row) for row in range(len(frame))]
        ),
        wait=pl.Series([60 * (row % 60) + row % 7 for row in range(len(frame))]),
    )


@quick(1)
@pytest.mark.parametrize("form", ["polars", "pandas", "arrow", "mapping", ".csv", ".tsv", ".parquet"])
def test_a_table_as_people_write_it_gives_the_bits_of_plain_numbers(tmp_path, form):
    def given(frame, name):
        match form:
            case "pandas":
                return frame.to_pandas()
            case "arrow":
                return frame.to_arrow()
            case "mapping":
                return {name: frame[name].to_list() for name in frame.columns}
            case ".csv" | ".tsv":
                frame.write_csv(tmp_path / f"{name}{form}", separator="\t" if form == ".tsv" else ",")
                return tmp_path / f"{name}{form}"
            case ".parquet":
                frame.write_parquet(tmp_path / f"{name}{form}")
                return tmp_path / f"{name}{form}"
        return frame

    columns = {"price": "drop"}
    expected = TableClassifier(**QUICK, columns=columns).fit(plain(flats()), "kind")
    model = TableClassifier(**QUICK, columns=columns).fit(given(written(flats()), "train"), "kind")
    assert model.encoding_.kinds == {
        "size": "number", "city": "category", "noise": "number", "price": "drop", "day": "date",
        "created_at": "date", "wait": "number",
    }  # fmt: skip
    shown = ["1,234.50 m²", "1,234.50", "%m/%d/%Y", "seconds", "0:00:00"]
    assert [one.shown for one in model.encoding_.writings] == shown
    rows, new = flats(seed=1), given(written(flats(seed=1)), "new")
    proba = expected.predict_proba(plain(rows))
    np.testing.assert_array_equal(model.predict_proba(new), proba)
    np.testing.assert_array_equal(model.predict_proba(plain(rows)), proba)
    assert model.score(new, "kind") == expected.score(plain(rows), "kind") > 0.8


def test_what_is_not_written_so_is_missing_and_counted(tmp_path, command):
    model = TableClassifier(**QUICK, columns={"price": "drop"}).fit(written(flats()), "kind")
    rows = written(flats(seed=1))
    sizes = rows["size"].to_list()
    odd = rows.with_columns(size=pl.Series(["1.234,56 m²", "1,234.56", "7 m² or so", *sizes[3:]]))
    missing = rows.with_columns(size=pl.Series([None, None, "NA", *sizes[3:]]))
    expected = model.predict_proba(missing)
    says = (
        r"column 'size': 3 of 200 rows are not written as 1,234.50 m², as '1.234,56 m²', and count as missing"
    )
    odd.write_csv(tmp_path / "t.csv")
    for table in (odd, odd.to_pandas(), tmp_path / "t.csv"):
        with pytest.warns(UserWarning, match=says):
            np.testing.assert_array_equal(model.predict_proba(table), expected)
    model.save(tmp_path / "model")
    command(f"inspect {tmp_path}/model")


def test_a_user_says_how_columns_are_written():
    days = [f"0{1 + row % 9}/0{1 + row % 3}/2024" for row in range(60)]
    numbers = [f"{1 + row % 9},{row:03}" for row in range(60)]
    frame = pl.DataFrame({"day": days, "x": numbers, "y": np.arange(60.0)})
    with pytest.warns(UserWarning, match="^columns left out") as warned:
        doubtful = TableRegressor(**QUICK).fit(frame, "y")
    (warning,) = warned
    assert str(warning.message) == (
        "columns left out: 'x' (60 different texts in 60 rows, as '1,000'; '1,000' may be written as 1,234.50"
        " or 1.234,50: columns={'x': ('number', '1,234.50')} says it); columns in doubt: 'day' ('01/01/2024'"
        " may be a date as %m/%d/%Y or %d/%m/%Y: columns={'day': ('date', '%m/%d/%Y')} says it)"
    )
    assert warning.filename == __file__
    assert doubtful.encoding_.kinds == {"day": "category", "x": "drop"}
    for form, first in (("%m/%d/%Y", date(2024, 9, 3)), ("%d/%m/%Y", date(2024, 3, 9))):
        columns = {"day": ("date", form), "x": ("number", "1.234,50")}
        model = TableRegressor(**QUICK, columns=columns).fit(frame, "y")
        assert model.encoding_.kinds == {"day": "date", "x": "number"}
        assert model.encoding_.writings[0].read(pl.Series(days))[8].date() == first
        assert model.encoding_.columns[1].center < 10
    for columns, says in (
        ({"day": ("date", "day")}, "column 'day' is said by a format like %m/%d/%Y, or seconds, got 'day'"),
        ({"x": ("number", ",234.50")}, "like 1,234.50, got ',234.50'"),  # "$1,234.50" of a shell
        ({"day": ("date", "%Q")}, "column 'day' is said by a format like %m/%d/%Y, or seconds, got '%Q'"),
        ({"x": ("number", "1,234")}, "column 'x' is said by an example like 1,234.50, got '1,234'"),
        (
            {"x": ("text", "1")},
            "unknown kind that column 'x' is written as 'text'; choose from: number, date",
        ),
        ({"x": ("number", 3)}, r"kind of column 'x' must be a text, or two, got \('number', 3\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=says):
            TableRegressor(**QUICK, columns=columns).fit(frame, "y")
    says = r"^row 1, column 'day': '01/01/2024' is not a date; the column is said"
    with pytest.raises(TableError, match=says):
        TableRegressor(**QUICK, columns={"day": ("date", "%d.%m.%Y")}).fit(frame, "y")
    says = r"^column 'day': '01/01/2024' may be a date as .*; say how it is written"
    with pytest.raises(TableError, match=says):
        TableRegressor(**QUICK, columns={"day": "date"}).fit(frame, "y")


def test_the_report_has_a_row_for_each_column(tmp_path):
    frame = written(flats()).with_columns(
        same=pl.lit("x"), id=np.arange(200), note=pl.Series([f"a{i}" for i in range(200)])
    )
    says = r"^columns left out: 'same' \(it holds one value only, 'x'\), 'id' \("
    with pytest.warns(UserWarning, match=says):
        model = TableRegressor(**QUICK).fit(frame, "price")
    rows = {row["name"]: row for row in model.report_["columns"]}
    assert [*rows] == [name for name in frame.columns if name != "price"]
    assert rows["size"]["kind"] == "number"
    assert rows["size"]["done"].endswith("; written as 1,234.50 m²")
    assert rows["size"]["missing"] == 12
    assert rows["size"]["example"] == frame["size"].drop_nulls()[0]
    assert rows["city"]["levels"] == 3
    assert rows["note"]["done"] == "200 different texts in 200 rows, as 'a0'"
    assert len(pl.DataFrame(model.report_["columns"])) == len(rows)
    model.save(tmp_path / "model")
    assert load(tmp_path / "model").report_ == model.report_


def test_targets_are_read_as_they_are_written(tmp_path):
    frame = flats()
    prices = [f"${one:,.2f}" for one in frame["price"]]
    texts = frame.with_columns(price=pl.Series([None, "", *prices[2:]]))
    numbers = frame.with_columns(
        price=pl.Series([None, None, *[float(one[1:].replace(",", "")) for one in prices[2:]]])
    )
    models = []
    for table in (texts, numbers):
        with pytest.warns(UserWarning, match="^2 of 200 rows have no target and are left out$"):
            models.append(TableRegressor(**QUICK).fit(table, "price"))
    np.testing.assert_array_equal(models[0].predict(frame), models[1].predict(frame))
    rest = texts[2:]
    assert models[0].score(rest, "price") == models[0].score(frame[2:], numbers["price"][2:])
    assert models[0].score(rest.drop("price"), prices[2:]) == models[0].score(rest, "price")
    models[0].save(tmp_path / "model")
    model = load(tmp_path / "model")
    assert model.score(rest, "price") == models[0].score(rest, "price")
    rest.write_csv(tmp_path / "t.csv")
    assert model.score(tmp_path / "t.csv", "price") == models[0].score(rest, "price")


def test_the_command_says_what_it_reads_and_takes_what_is_said(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = (
        written(flats())
        .with_columns(
            month=pl.Series([f"0{1 + row % 9}/0{1 + row % 7}/2024" for row in range(200)]),
            price=pl.Series([f"${one:,.2f}" for one in flats()["price"]]),
        )
        .rename({"noise": "noise, a=b"})
    )
    frame.write_csv("t.csv")
    train = f"train t.csv --target price --epochs 2 {QUICKLY} -o"
    lines = command(f"{train} model")
    columns = "size as 1,234.50 m², noise, a=b as 1,234.50, day as %m/%d/%Y, created_at as seconds"
    assert f"\nwritten    {columns}, wait as 0:00:00, price as $1,234.50\n" in lines
    says = "month: '01/01/2024' may be a date as %m/%d/%Y or %d/%m/%Y; --date month=%m/%d/%Y says it\n"
    assert says in lines
    told = ["--date", "month=%d/%m/%Y", "--number", "noise, a=b=1,234.50", "--number", "price=$1,234.50"]
    columns = json.loads(command(f"{train} told --json", *told))["columns"]
    kinds = {one["name"]: one["kind"] for one in columns}
    assert (kinds["month"], kinds["noise, a=b"]) == ("date", "number")
    model = load("told")
    assert {one.column: one.shown for one in model.encoding_.writings}["month"] == "%d/%m/%Y"
    assert math.isfinite(model.score("t.csv", "price"))
    assert says in command("inspect model")


@pytest.mark.parametrize("block", [64, 1 << 24])
def test_numbers_with_marks_behind_the_first_block_are_no_mistake(tmp_path, monkeypatch, block):
    bound(monkeypatch, BLOCK=block)
    numbers = [*map(str, range(900, 1000)), "1,234.5"]
    pl.DataFrame({"a": numbers, "b": ["NA"] * 50 + ["x"] * 51}).write_csv(tmp_path / "t.csv")
    words = {}
    found = read(tmp_path / "t.csv", ReadOptions(learns=True, words=words))
    assert found["a"].to_list() == numbers
    assert words["b"]["NA"] == 50
    with pytest.raises(TableError, match=r"t.csv, row 101, column 'a': '1,234.5' is not a number"):
        read(tmp_path / "t.csv")


def test_semicolons_do_not_hide_marks_of_thousands(tmp_path):
    rows = "".join(f"{i}.{i:03},5;{i},25;{i}\n" for i in range(1, 60))
    (tmp_path / "t.csv").write_text(f"a;b;y\n234,56;1;2\n{rows}")
    model = TableRegressor(**QUICK).fit(tmp_path / "t.csv", "y")
    assert [one.shown for one in model.encoding_.writings] == ["1.234,50"]
    assert model.encoding_.columns[0].center > 29_000


def test_formats_of_iso_leave_nothing_to_tell():
    assert not any(Writing("x", "date", form).is_told for form in ISO)


def test_no_writing_is_looked_for_in_a_column_of_plain_numbers(tmp_path, monkeypatch):
    """The search takes a millisecond a column, and a table may have 20 000."""
    (tmp_path / "t.csv").write_text("a,b,c\n1,2.5,1\n,3,2\n4,NA,3 kg\n" + "5,6,7\n" * 90)
    searched = []
    monkeypatch.setattr(reading, "writing_of", lambda texts: searched.append(texts.name) or True)
    read(tmp_path / "t.csv", ReadOptions(learns=True))
    assert searched == ["c"]
