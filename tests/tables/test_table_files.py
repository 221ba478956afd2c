"""Files of tables: how they are read, and that every mistake in them is named by its place."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import zipfile
from datetime import datetime
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from support.selection import quick
from support.table_bounds import bound
from test_tables import ROWS, mixed

from fastmlp.tables import reading
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.frames import TableError
from fastmlp.tables.reading import ReadOptions, as_frame, read

pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))


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
        bound(monkeypatch, BLOCK=size)
        assert read(tmp_path / "t.csv").equals(whole)
    assert whole["quoted"].to_list() == frame["quoted"].to_list()


def at(*given):
    return [None if text is None else datetime.fromisoformat(text) for text in given]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "\ufeffday;size\r\n24.12.2024;1\r\n31.12.2024;NA\r\n",
            {"day": at("2024-12-24", "2024-12-31"), "size": [1.0, None]},
        ),
        *[
            (text, {"a": [1, 3], "b": [2, 4]})
            for text in ("a,b\n1,2\n3,4", "a,b\n1,2\n3,4\n", "a,b\r\n1,2\r\n3,4\r\n\r\n\r\n")
        ],
        (
            '"price, EUR";"size ""m2"""\n1;2\n\n3;\n',
            {"price, EUR": [1, None, 3], 'size "m2"': [2, None, None]},
        ),
        ("a , b, \n1, 2,x\n", {"a": [1], "b": [2], "column 3": ["x"]}),
        ("t\n2024-01-01T10:00+02:00\n", {"t": ["2024-01-01T10:00+02:00"]}),
        (
            "t\n2024-01-01T10:00:00+02:00\n2024-01-01T10:00:00Z\n",
            {"t": at("2024-01-01 08:00", "2024-01-01 10:00")},
        ),
        (
            'a;b;c\n0,5;x,1;-1,5e3\n 2,25 ;2,1,3;7\n;"1,2";0,0\n',
            {"a": [0.5, 2.25, None], "b": ["x,1", "2,1,3", "1,2"], "c": [-1500, 7, 0]},
        ),
        ('a,b\n"1,700",x\n"2,500",y\n', {"a": ["1,700", "2,500"], "b": ["x", "y"]}),  # thousands, most likely
        ('a,b\n"",x\n,NA\n"NA",?\n', {"a": [None] * 3, "b": ["x", None, None]}),
    ],
)
def test_texts_are_read_as_numbers_dates_and_texts(tmp_path, text, expected):
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert read(tmp_path / "t.csv").to_dict(as_series=False) == expected


def test_a_quote_that_is_never_closed_costs_no_more_than_the_longest_row(tmp_path, monkeypatch):
    bound(monkeypatch, BLOCK=1000, LONGEST=4000)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "c,1\n" * 5000 + '"c,1\n' + "d,2\n" * 50_000)
    with pytest.raises(TableError, match=r"""t.csv, row 5001, column 'a': a quote in '"c': a field with"""):
        read(path)
    with open(path, "rb") as file:
        pieces = reading.blocks_of_file(file, path.stat().st_size)
        assert max(map(len, itertools.islice(pieces, 30))) < 16_000


def test_a_stray_quote_costs_one_pass():
    class Counted(bytes):
        seen = 0

        def count(self, what, start, end):
            Counted.seen += end - start
            return super().count(what, start, end)

    lines = 2000
    text = Counted(b'a,b\n5" pipe,1\n' + b"rod,2\n" * lines)
    assert reading.last_line_end(text) == len(b"a,b\n")
    assert Counted.seen < 2 * len(text) + 1


def test_required_columns_are_checked_before_anything_is_read(tmp_path):
    frame = pl.DataFrame({"a": [1.0], "b": ["x"]})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_parquet(tmp_path / "t.parquet")
    for ending in (".csv", ".parquet"):
        assert read(tmp_path / f"t{ending}", ReadOptions(only=["b"])).rows() == [("x",)]
        says = f"t{ending}, column 'c': there is no such column; there are: a, b"
        with pytest.raises(TableError, match=says):
            read(tmp_path / f"t{ending}", ReadOptions(only=["b", "c"]))


def test_missing_is_what_the_options_say(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n-9,x\n2,-9\n")
    found = read(tmp_path / "t.csv", ReadOptions(missing=["-9"]))
    assert found.to_dict(as_series=False) == {"a": [None, 2.0], "b": ["x", None]}


NUMBERS = "".join(f"{i},x\n" for i in range(20))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n3,4,5\n", "row 2: it has 3 fields, and the header 2"),
        (
            f"a,b\n{NUMBERS}l2,y\n",
            "row 21, column 'a': 'l2' is not a number; the column is taken as numbers: choose another kind",
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
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "it is no text in UTF-8, but compressed by gzip; unpack it"),
        ("a,b\n1,2\n".encode("utf-16"), "it is no text in UTF-8, but in UTF-16; save the table as UTF-8"),
        (b"PK\x03\x04abc\n", "it is no text in UTF-8, but a zip file, as those of Excel's are"),
        ('a,5" pipe\n1,2\n', "a quote in '5\" pipe' of its first line: a field with quotes must stand in"),
        ('"a,b\n1,2\n', "a quote in '\"a' of its first line: a field with quotes must stand in quotes"),
        ("a, a\n1,2\n", "two columns have the name 'a'; the first line must name the columns"),
        ("a,a\n1,2\n", "two columns have the name 'a'; the first line"),
        (b"a,b\n1,2\nx,\xff\n", "row 2: byte 0xff is no UTF-8"),
        ("a,b\n\0,1\n", "it is no text: there are zero bytes in it"),
        ("x" * 200_000, "it cannot be read: field larger than field limit"),
    ],
)
@pytest.mark.parametrize("block", [9, 1 << 24])
def test_a_mistake_is_named_by_file_row_and_column(tmp_path, monkeypatch, text, says, block):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    bound(monkeypatch, BLOCK=block)
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


def write(path, table):
    """Write a table of Arrow's by the end of the file's name."""
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    kind = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, kind(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "stream.arrow"])
def test_decimals_and_columns_of_one_name_in_files_are_read_or_refused(tmp_path, capfd, name):
    path = tmp_path / name
    write(path, pa.table({"d": pa.array([Decimal("1.50"), None], pa.decimal128(5, 2)), "a": ["x", "y"]}))
    assert read(path).rows() == [(Decimal("1.50"), "x"), (None, "y")]
    write(path, pa.table([[1, 2], [3, 4]], names=["a", "a"]))
    with pytest.raises(TableError, match=f"{name}: two columns have (the name 'a'|one name)"):
        read(path)
    write(path, pa.table({"d": pa.array([Decimal("1.5")], pa.decimal256(50, 2))}))
    with pytest.raises(TableError, match=rf"{name}.*(decimal256\(50, 2\) has more digits|got 50)") as raised:
        read(path)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""  # no trace of Rust's


def test_arrays_of_one_name_are_reported(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.eye(2), X0=np.ones(2))
    with pytest.raises(TableError, match=r"t\.npz: two columns have the name 'X0'"):
        read(tmp_path / "t.npz")


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
    assert as_frame({"t": np.array([2_700_000], "M8[ps]")})["t"].dt.microsecond().to_list() == [2]
    says = "row 2, column 'when': 999999-01-01T00 is beyond the dates that can"
    with pytest.raises(TableError, match=says):
        as_frame({"when": np.array(["2001-01-01", "999999-01-01"], "M8[h]")})


@pytest.mark.parametrize("array", [np.ones(3, complex), np.ones(3, "m8[M]")])
def test_arrays_that_are_no_column_are_refused(tmp_path, array):
    np.savez(tmp_path / "t.npz", a=array)
    for use in (lambda: read(tmp_path / "t.npz"), lambda: as_frame({"a": array})):
        says = f"column 'a': arrays of dtype {re.escape(str(array.dtype))} cannot"
        with pytest.raises(TableError, match=says):
            use()


def claiming(path, shape, dtype="<f8"):
    """Write 64 bytes as an array that claims a shape and a dtype."""
    claim = repr({"descr": dtype, "fortran_order": False, "shape": shape}).ljust(117).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + claim + bytes(64))


@pytest.mark.parametrize("shape", [(10**15,), (10**15, 3), (10**30,), (-1,)])
def test_an_array_of_more_numbers_than_there_are_is_refused(tmp_path, shape):
    claiming(tmp_path / "t.npy", shape)
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as file:
        file.write(tmp_path / "t.npy", "a.npy")
    for name in ("t.npy", "t.npz"):
        with pytest.raises(TableError, match=rf"{name}: it cannot be read as arrays of NumPy's: [^\n]*$"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((0, 10**15), "<f8"), ((10**15, 2), "<U0"), ((2, 10**15), "|S0"), ((10**15,), "<U0"), ((3, 0), "<f8")],
)
def test_an_array_without_values_is_refused_whatever_its_shape(tmp_path, command, shape, dtype):
    claiming(tmp_path / "t.npy", shape, dtype)
    error = command(f"train {tmp_path}/t.npy --target x1", code=3)
    says = f"t.npy, column 'x': it holds no values: its shape is {shape}, its dtype {np.dtype(dtype)}\n"
    assert error.endswith(says)
    assert error.count("\n") == 1


def test_nothing_in_an_npz_is_unpickled(tmp_path):
    np.savez(tmp_path / "t.npz", a=np.array([{}], object))
    with pytest.raises(TableError, match="Object arrays cannot be loaded"):
        read(tmp_path / "t.npz")


@quick(1)
@pytest.mark.parametrize("block", [100, reading.BLOCK])
def test_words_that_are_read_as_missing_are_counted_and_told(tmp_path, monkeypatch, command, block):
    bound(monkeypatch, BLOCK=block)
    rng = np.random.default_rng(0)
    size = [f"{one:.3f}" for one in rng.uniform(20, 150, 90)]
    columns = {
        "size": ["NA", *size[1:]],
        "late": [""] * 30 + ["?"] * 6 + ["attached", "detached"] * 27,
        "garage": ["none"] * 20 + ["NA", "", "attached", "detached", "own"] * 14,
        "kind": ["dear", "cheap", "none"] * 30,
    }
    path = tmp_path / "flats.csv"
    path.write_text("\n".join(",".join(row) for row in [columns, *zip(*columns.values(), strict=True)]))
    train = f"train {path} --target kind --epochs 1 --members 1 --preset fast --backend reference --quiet"
    note = "read as missing: 6 '?' of late, 20 'none' of garage, 14 'NA' of garage, 30 'none' of kind; "
    assert note in command(f"{train} -o {tmp_path}/model")
    assert note in command(f"inspect {tmp_path}/model")
    found = json.loads(command(f"{train} --missing ? --drop late,size --json"))
    assert found["report"]["words"] == {}
