"""Memory maps, Arrow, Dask and loaders are sources of blocks: they train in the bits of one array."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from support.blocks import (
    PIXELS,
    ROWS,
    W,
    X,
    Y,
    fit,
    no_thread_is_left,  # noqa: F401  # a fixture
)
from support.resuming import assert_same
from support.selection import matrix

import fastmlp
from fastmlp import Callback, Network
from fastmlp.data.sources import check_file


@pytest.mark.parametrize("validation", [None, 0.2, "rows", "map"])
def test_a_memory_map_of_bytes_trains_as_its_array(validation, pixels):
    network = Network([5, 8, 2], "tanh", input_scale=1 / 255)
    held = {"rows": (PIXELS[:40], Y[:40]), "map": (pixels[:40], Y[:40])}.get(validation, validation)
    passed = {"rows": held, "map": (PIXELS[:40], Y[:40])}.get(validation, validation)
    for options in ({}, {"batch_size": None}, {"sample_weight": W, "dtype": np.float32}):
        model = fit(pixels, Y, network=network, validation=held, **options)
        assert_same(model, fit(PIXELS, Y, network=network, validation=passed, **options))
    np.testing.assert_array_equal(model.predict(pixels), model.predict(PIXELS))


def test_a_memory_map_that_is_as_training_takes_it_is_trained_on_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("fastmlp.training.trainer.PreparedBlocks.train", None)  # would be called for windows
    X.tofile(tmp_path / "rows")
    rows = np.memmap(tmp_path / "rows", np.float32, "r", shape=X.shape)
    assert_same(fit(rows, Y), fit(X, Y))


def test_a_file_that_ends_short_names_itself(pixels, monkeypatch):
    looked_at, ahead = [], threading.Event()

    def look(array):
        check_file(array)
        looked_at.append(array)
        if len(looked_at) == 2 * 3:  # X and y of three epochs; the third one waits for a window
            ahead.set()

    class Cut(Callback):
        def on_epoch_end(self, run):
            assert ahead.wait(600)
            os.truncate(pixels.filename, 100)

    monkeypatch.setattr("fastmlp.data.sources.check_file", look)
    with pytest.raises(
        ValueError, match=r"block 1 of epoch 4: the file '.*pixels' ends short: it has 100 bytes of 515"
    ):
        fit(pixels, Y, epochs=9, callbacks=[Cut()])


def test_maps_whose_file_was_cut_are_refused_before_they_are_read(tmp_path):
    """A slice of one, and one that is trained on where it is: both killed the process."""
    rows = np.arange(4 << 14, dtype=np.float32).reshape(-1, 4)
    rows.tofile(tmp_path / "rows")
    for dtype, at in (("f4", slice(None)), ("f4", slice(8192, None)), ("u4", slice(8192, 12288))):
        part = np.memmap(tmp_path / "rows", dtype, "r", 64, shape=(len(rows) - 4, 4))[at]
        os.truncate(tmp_path / "rows", 64 + 16 * 8192)
        ends = 64 + 16 * (at.start or 0) + part.nbytes
        with pytest.raises(ValueError, match=f"ends short: it has {64 + 16 * 8192} bytes of {ends}"):
            fit(part, np.zeros(len(part)), network=Network([4, 1]), dtype=np.float32, epochs=1)
        with pytest.raises(ValueError, match="ends short"):
            fastmlp.MLPRegressor(max_iter=1).fit(part, np.zeros(len(part)))
        rows.tofile(tmp_path / "rows")
    part = np.memmap(tmp_path / "rows", "u4", "r", 64, shape=(len(rows) - 4, 4))[2:103:3]
    os.truncate(tmp_path / "rows", 64 + 16 * 102)  # what lies behind the slice is not missed
    np.testing.assert_array_equal(
        *(
            fit(X, Y[: len(part)], network=Network([4, 2]), epochs=1).parameters
            for X in (part, np.array(part))
        )
    )


def test_arrow_tables_and_parquet_files(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from pyarrow import dataset

    columns = {f"x{i}": X[:, i] for i in range(5)}
    table = pyarrow.table({"w": W, **columns, "first": Y[:, 0], "second": Y[:, 1]})
    whole = fit(X, Y, sample_weight=W)
    named = {"y": ["first", "second"], "sample_weight": "w"}
    assert_same(fit(table, **named), whole)
    parquet.write_table(table.slice(0, 40), tmp_path / "0.parquet")
    parquet.write_table(table.slice(40), tmp_path / "1.parquet", row_group_size=10)
    assert_same(fit(dataset.dataset(tmp_path), **named), whole)
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(X.ravel()), 5)
    listed = pyarrow.table({"x": lists, "first": Y[:, 0], "second": Y[:, 1]})
    assert_same(fit(listed, ["first", "second"]), fit(X, Y))
    for wrong, words in {
        "third": "unknown column of X 'third'; choose from: w, x0",
        3: "y must be the name of a column, or a list of names, got 3",
        None: "y must be the name of a column",
    }.items():
        with pytest.raises((TypeError, ValueError), match=words):
            fit(table, wrong)
    with pytest.raises(TypeError, match="column 'x4' is of type string; inputs must be numbers"):
        fit(table.set_column(5, "x4", pyarrow.array(["a"] * ROWS)), **named)
    with pytest.raises(ValueError, match="column 'x4' has 103 nulls"):
        fit(table.set_column(5, "x4", pyarrow.nulls(ROWS, pyarrow.float32())), **named)
    with pytest.raises(ValueError, match="has two columns of the name 'x3'"):
        fit(table.append_column("x3", pyarrow.array([1.0] * ROWS)), **named)
    decimals = pyarrow.array([1] * ROWS, pyarrow.decimal128(5, 2))
    with pytest.raises(TypeError, match=r"column 'x4' is of type decimal128\(5, 2\); inputs must be numbers"):
        fit(table.set_column(5, "x4", decimals), **named)
    with pytest.raises(TypeError, match=r"must be a pyarrow\.Table or a pyarrow\.dataset"):
        fit(dataset.dataset(tmp_path).scanner(), **named)
    both = dataset.dataset(tmp_path)
    os.truncate(tmp_path / "1.parquet", 1000)
    with pytest.raises(ValueError, match=r"block \d of epoch 1: .*1\.parquet"):
        fit(both, **named)


def test_dask_arrays_and_data_frames():
    array, frame = pytest.importorskip("dask.array"), pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    x = array.from_array(X, chunks=(30, 2))
    whole = fit(X, Y, sample_weight=W)
    assert_same(fit(x, Y, sample_weight=W), whole)
    assert_same(fit(x, array.from_array(Y, chunks=50), sample_weight=array.from_array(W, chunks=20)), whole)
    columns = {f"x{i}": X[:, i] for i in range(5)}
    table = frame.from_pandas(pandas.DataFrame({**columns, "y": Y[:, 0], "w": W}), npartitions=4)
    one = Network([5, 3, 1])
    assert_same(
        fit(table, "y", sample_weight="w", network=one), fit(X, Y[:, 0], sample_weight=W, network=one)
    )
    assert_same(fit(table[[*columns]], table["y"], network=one), fit(X, Y[:, 0], network=one))
    with pytest.raises(ValueError, match=r"y must have 103 rows, as X has, got shape \(9, 2\)"):
        fit(x, Y[:9])
    with pytest.raises(TypeError, match="y must be given for X, an array of Dask's"):
        fit(x)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=matrix)])
def test_loaders_of_pytorch(workers):
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    assert_same(fit(torch.utils.data.DataLoader(rows, batch_size=10, num_workers=workers)), fit(X, Y))
