"""Rows that come block by block train in the bits of one array; an error names the block that is wrong."""

import itertools
import os
import signal
import threading
import time

import numpy as np
import pytest
import scipy.sparse
from support.blocks import (
    BLOCKS,
    GOOD,  # a fixture
    PIXELS,  # a fixture
    RNG,
    ROWS,
    SLICES,
    W,
    X,
    Y,
    filling,
    fit,
    no_thread_is_left,  # noqa: F401  # a fixture
)
from support.callbacks import calling
from support.resuming import StopAt, assert_same
from support.selection import matrix

import fastmlp
from fastmlp import Adam, Callback, Checkpoint, CheckpointError, Dense, Dropout, EarlyStopping, Network
from fastmlp.blocks.windows import Windows
from fastmlp.checks import whole_file
from fastmlp.training import loop

LARGE = [pytest.param(size, marks=matrix) for size in (1, 8, ROWS)]


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("batch_size", [16, 200, *LARGE])
def test_the_bits_are_those_of_one_array(batch_size, backend):
    options = {"batch_size": batch_size, "backend": backend}
    whole = fit(X, Y, sample_weight=W, shuffle=False, **options)
    for window in (None, max(batch_size, 17), max(batch_size, ROWS)):
        assert_same(fit(shuffle=False, window=window, **options), whole)
    whole = fit(X, Y, sample_weight=W, **options)
    for window in (None, max(batch_size, ROWS)):
        assert_same(fit(window=window, **options), whole)
    assert_same(fit(X, Y, sample_weight=W, window=max(batch_size, ROWS), **options), whole)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_csr_blocks_have_the_bits_of_one_matrix(backend):
    dense = np.where(RNG.random((ROWS, 5)) < 0.5, X, 0)
    blocks = [(scipy.sparse.csr_array(dense[rows]), Y[rows]) for rows in SLICES]
    whole = fit(scipy.sparse.csr_array(dense), Y, backend=backend)
    assert_same(fit(blocks, backend=backend), whole)
    whole = fit(scipy.sparse.csr_array(dense), Y, backend=backend, shuffle=False)
    for window in (16, 30):
        assert_same(fit(blocks, backend=backend, shuffle=False, window=window), whole)
    assert_same(fit(scipy.sparse.csr_array(dense), Y, backend=backend, shuffle=False, window=30), whole)


def test_windows_are_shuffled_from_the_seed(monkeypatch):
    """Each window in itself, of whole batches."""
    seen = []

    advance = loop.TrainingLoop.advance

    def spy(self, state, chunk):
        steps = zip(chunk.starts, chunk.stops, strict=True)
        seen.append(np.concatenate([self.data.inputs[chunk.order[a:b], 0] for a, b in steps]))
        return advance(self, state, chunk)

    monkeypatch.setattr(loop.TrainingLoop, "advance", spy)
    first = np.arange(ROWS, dtype=float)[:, None] * np.ones(5)
    blocks = [(first[rows], Y[rows]) for rows in SLICES]
    fit(blocks, window=30, epochs=2, network=Network([5, 2]), optimizer=fastmlp.SGD(1e-9))
    order = np.concatenate(seen).astype(int)
    assert len(order) == 2 * ROWS
    for epoch in (order[:ROWS], order[ROWS:]):
        for start in range(0, ROWS, 32):
            some = epoch[start : start + 32]
            assert sorted(some) == [*range(start, min(start + 32, ROWS))]
            assert not np.array_equal(some, np.sort(some))
    assert not np.array_equal(order[:ROWS], order[ROWS:])
    assert not np.array_equal(order[:32], order[32:64] - 32), "each window has an order of its own"
    again, seen[:] = order, []
    fit(blocks, window=30, epochs=2, network=Network([5, 2]), optimizer=fastmlp.SGD(1e-9))
    np.testing.assert_array_equal(np.concatenate(seen), again)


def test_what_the_thread_has_read_ahead_changes_nothing(monkeypatch):
    """Whether an epoch's length is known at first goes by the source, not by how far its reading has come."""
    blocks = [(X[:8], Y[:8]), (X[8:9], Y[8:9])]
    network = Network(inputs=5, layers=[Dense(6), fastmlp.BatchNorm(), Dropout(0.5), Dense(2)])
    options = {"network": network, "batch_size": 8, "window": 8, "epochs": 3}
    models, take = [], Windows.next
    for seconds in (0.0, 0.2):
        monkeypatch.setattr(Windows, "next", lambda *given, wait=seconds: time.sleep(wait) or take(*given))
        models.append(fit(lambda: iter(blocks), **options))
    assert_same(*models)


def test_orders_of_windows_are_those_of_their_epochs(drawn):
    first = fit(window=60, epochs=2)
    first.fit_more(BLOCKS, epochs=1)
    assert drawn == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


def test_labels_and_dtypes_follow_the_blocks():
    labels = RNG.integers(0, 3, ROWS)
    network = Network([5, 3], output="softmax", loss="cross_entropy")
    for dtype in (np.float32, np.float64, np.int8):
        x = (10 * X).astype(dtype)
        blocks = [(x[rows].tolist() if dtype == np.float64 else x[rows], labels[rows]) for rows in SLICES]
        assert_same(fit(blocks, network=network), fit(x, labels, network=network))


def test_blocks_that_have_become_fewer_end_what_goes_on_behind_their_end(tmp_path, chunks):
    chunks(steps=1)
    options = {"window": 32, "epochs": 1}
    for step, rows in ((4, 40), (4, 64)):  # the steps visited are more than there are now, or as many
        path = tmp_path / "c"
        stopped = fit(**options, callbacks=[Checkpoint(path, 99), StopAt(step)])
        fewer = [(X[:rows], Y[:rows], W[:rows])]
        with pytest.raises(ValueError, match=f"epoch 1 has only {rows} rows; the training that goes on"):
            fit(fewer, **options, resume=path)
        with pytest.raises(ValueError, match=f"epoch 1 has only {rows} rows; the training that goes on"):
            stopped.fit_more(fewer, epochs=1)


def test_a_training_goes_on_with_other_blocks_and_with_arrays():
    first = fit(epochs=2, shuffle=False)
    other = first.fit_more(BLOCKS[1:], epochs=2)
    assert_same(first.fit_more(BLOCKS[1:], epochs=1).fit_more(BLOCKS[1:], epochs=1), other)
    first.fit_more(X, Y, epochs=1).fit_more(BLOCKS, epochs=1)


def test_another_training_is_not_resumed(tmp_path):
    path = tmp_path / "c"
    fit(window=30, callbacks=[Checkpoint(path)])
    for what, other in {"window": {"window": 31}, "data": {"x": BLOCKS[1:]}, "seed": {"seed": 4}}.items():
        with pytest.raises(CheckpointError, match=rf"of another training; these differ: .*\b{what}\b"):
            fit(**{"window": 30, **other}, resume=path)
    with pytest.raises(CheckpointError, match=r"these differ: .*data"):
        fit(X, Y, resume=path)
    with pytest.raises(CheckpointError, match="holds 3 epochs, more than epochs=2"):
        fit(window=30, epochs=2, resume=path)
    assert_same(fit(window=30, epochs=5, resume=path), fit(window=30, epochs=5))


def test_a_time_limit_and_an_error_of_a_callback_leave_no_thread():
    assert (
        fit(epochs=10**6, callbacks=[fastmlp.TimeLimit(0.05)]).stop_reason == "time limit of 0.05 s reached"
    )

    class Broken(Callback):
        def on_epoch_end(self, run):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fit(callbacks=[Broken()])


def test_ctrl_c_does_not_wait_for_a_block_that_does_not_come():
    gate, first_is_over, epochs = threading.Event(), threading.Event(), iter((1, 2))

    def slow():
        yield X, Y
        if next(epochs) == 2:
            first_is_over.wait(600)
            signal.raise_signal(signal.SIGINT)
            gate.wait(600)
            yield X, Y

    with pytest.raises(fastmlp.Interrupted) as caught:
        fit(slow, epochs=9, callbacks=[calling(on_epoch_end=lambda run: first_is_over.set())])
    assert filling(), "the next block was waited for"
    model = caught.value.model
    assert len(model.history["loss"]) == 1
    assert model.stop_reason == "interrupted by SIGINT"
    gate.set()
    for thread in filling():
        thread.join(600)


def test_validation_blocks_and_early_stopping():
    held = [(X[:50], Y[:50], W[:50]), (X[50:], Y[50:], W[50:])]
    expected = fit(X, Y, epochs=20, validation=(X, Y, W), callbacks=[EarlyStopping(1)], optimizer=Adam(0.1))
    model = fit(
        [(X, Y)], epochs=20, validation=lambda: iter(held), callbacks=[EarlyStopping(1)], optimizer=Adam(0.1)
    )
    assert_same(model, expected)
    assert len(model.history["loss"]) < 20


def test_validation_in_several_windows_is_a_weighted_mean(windows):
    windows(held_out=1)
    rows = np.tile(X, (6, 1)), np.tile(Y, (6, 1)), np.repeat(np.arange(6.0) + 1, ROWS)
    model = fit(validation=lambda: [rows])  # 256 rows at a time
    expected = fit(validation=rows)
    np.testing.assert_array_equal(model.parameters, expected.parameters)
    np.testing.assert_allclose(
        model.history["validation_loss"], expected.history["validation_loss"], rtol=1e-6
    )


# --- memory maps, Arrow, Dask and loaders are sources of blocks -------------------------------------------


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
    monkeypatch.setattr("fastmlp.blocks.training.prepare", None)  # would be called for windows
    X.tofile(tmp_path / "rows")
    rows = np.memmap(tmp_path / "rows", np.float32, "r", shape=X.shape)
    assert_same(fit(rows, Y), fit(X, Y))


def test_a_file_that_ends_short_names_itself(pixels, monkeypatch):
    looked_at, ahead = [], threading.Event()

    def look(array):
        whole_file(array)
        looked_at.append(array)
        if len(looked_at) == 2 * 3:  # X and y of three epochs; the third one waits for a window
            ahead.set()

    class Cut(Callback):
        def on_epoch_end(self, run):
            assert ahead.wait(600)
            os.truncate(pixels.filename, 100)

    monkeypatch.setattr("fastmlp.checks.whole_file", look)
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


# --- what blocks cannot be --------------------------------------------------------------------------------


nan = np.where(X > 2, np.nan, X)


def failing(epoch_of_error):
    """Blocks whose second one cannot be read in some epoch."""
    epochs = iter(range(1, 99))

    def make():
        epoch = next(epochs)
        yield GOOD
        if epoch == epoch_of_error:
            raise OSError("the disk is gone")
        yield GOOD

    return make


def shorter():
    """Blocks of which there are fewer in the second epoch."""
    made = iter([[GOOD, GOOD], [GOOD]])
    return lambda: next(made)


class Once:
    """It seems that it can be walked again."""

    def __init__(self):
        self._rows = iter([GOOD])

    def __iter__(self):
        return self._rows


MISTAKES = {
    "an iterator": (lambda: iter([GOOD]), "walked once only, got <list_iterator", "give a function"),
    "a generator": (lambda: (block for block in [GOOD]), "once only, got <generator", "give a function"),
    "an array": (lambda: X, "y must be given, unless X is an iterable of blocks (X, y)", "got array"),
    "a number": (lambda: 3, "y must be given", "got 3"),
    "no block": (list, "there is no row in the blocks of epoch 1", ""),
    "no row": (lambda: [(X[:0], Y[:0])], "there is no row in the blocks of epoch 1", ""),
    "walked once": (Once, "there is no row in the blocks of epoch 2", "give a function that makes them anew"),
    "fewer rows": (shorter, "epoch 2 has 103 rows in its blocks", "206 are required"),
    "no pair": (lambda: [GOOD, (X,)], "block 2 of epoch 1: a block must be (X, y) or", "got 1 part"),
    "an array for a block": (lambda: [X], "block 1 of epoch 1: a block must be", "got array"),
    "numbers for a block": (lambda: [[0.0, 1.0]], "block 1 of epoch 1: X must have shape", "got ()"),
    "another width": (lambda: [GOOD, (X[:, :3], Y)], "block 2 of epoch 1: X must have shape", "(103, 3)"),
    "nan": (lambda: [GOOD, (nan, Y)], "block 2 of epoch 1: X must be finite, got nan at X[15, 4]", ""),
    "nan in y": (lambda: [(X, Y * np.nan)], "block 1 of epoch 1: y must be finite", "y[0, 0]"),
    "short y": (lambda: [GOOD, (X, Y[:9])], "block 2 of epoch 1: y must have shape (103, 2)", "(9, 2)"),
    "weights": (lambda: [(X, Y, -W)], "block 1 of epoch 1: weight must be at least 0", ""),
    "sparse": (lambda: [GOOD, (scipy.sparse.csr_array(X), Y)], "block 2 of epoch 1: X is sparse, and", ""),
    "no list": (lambda: lambda: 3, "the function must return an iterable of blocks", "got 3"),
    "zero weights": (lambda: [(X, Y, 0 * W)], "the weights of epoch 1 are all zero", ""),
}  # fmt: skip


def test_what_holds_y_or_is_a_name_is_no_rows_with_y():
    loader = type("Loader", (), {"__iter__": lambda self: iter(BLOCKS)})()
    for blocks in (BLOCKS, loader, lambda: BLOCKS):
        with pytest.raises(TypeError, match=r"^blocks \(X, y\) or .* hold their y, so no other can be given"):
            fit(blocks, Y)
    with pytest.raises(TypeError, match=r"^X must be rows, got the path 'sales.parquet'; open it, as with"):
        fit("sales.parquet", "price")
    with pytest.raises(TypeError, match=r"^y names a column, 'price', of tables of Arrow's and Dask's only"):
        fit(X.tolist(), "price")
    assert_same(fit([tuple(row) for row in X.tolist()], Y), fit(X.astype(float), Y))  # rows may be tuples


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_names_itself_in_one_line(kind):
    make, *words = MISTAKES[kind]
    with pytest.raises((TypeError, ValueError)) as caught:
        fit(make())
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_beyond_all_rows_and_beyond_memory(pixels):
    network = Network([5, 8, 2], "tanh", input_scale=1 / 255)
    for options in ({"window": 10**15}, {"batch_size": 10**15, "window": 10**15}, {"batch_size": 10**18}):
        assert_same(
            fit(pixels, Y, network=network, **options),
            fit(PIXELS, Y, network=network, batch_size=min(options.get("batch_size", 16), ROWS)),
        )
        with pytest.raises(
            ValueError, match=r"no memory for a window of 10+ rows and a batch of 10*6?; choose"
        ):
            fit(**options)


def test_validation_blocks_are_of_the_epoch_that_ends():
    epochs = itertools.count(1)
    with pytest.raises(ValueError, match="validation block 1 of epoch 2: y must"):
        fit(validation=lambda: [(X, Y[: 9 if next(epochs) == 2 else ROWS])])


def test_options_that_blocks_do_not_have():
    with pytest.raises(ValueError, match="window must be at least batch_size=16, got 3"):
        fit(window=3)
    with pytest.raises(ValueError, match="batch_size=None takes all rows at once"):
        fit(batch_size=None)
    with pytest.raises(ValueError, match=r"no fraction of blocks can be split off, got validation=0.2"):
        fit(validation=0.2)
    with pytest.raises(ValueError, match="blocks hold their weights"):
        fit(sample_weight=W)
    with pytest.raises(TypeError, match="window must be a whole number, got 'all'"):
        fit(window="all")


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_error_of_the_user_s_comes_as_it_is_with_the_block_s_name(epoch):
    with pytest.raises(OSError, match="the disk is gone") as caught:
        fit(failing(epoch))
    assert caught.value.__notes__ == [f"while fastmlp waited for block 2 of epoch {epoch}"]
