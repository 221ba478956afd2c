"""`fastmlp.shard`: each rank's rows are its own, and together they are all."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
from support.threads_as_ranks import ranks, trained

import fastmlp

ROWS = 11
X = np.arange(ROWS * 3, dtype=np.uint8).reshape(ROWS, 3)


def of_all(size, *rows):
    return [fastmlp.shard(SimpleNamespace(rank=rank, size=size), *rows) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 4, 13])
def test_shards_are_the_rows_in_order_and_differ_by_one_row_at_most(size):
    shards = of_all(size, X)
    np.testing.assert_array_equal(np.concatenate(shards), X)
    lengths = {len(shard) for shard in shards}
    assert max(lengths) - min(lengths) <= 1
    assert all(np.shares_memory(shard, X) for shard in shards if len(shard))


def test_several_arrays_are_cut_at_the_same_rows():
    for x, y in of_all(4, X, X[:, 0]):
        np.testing.assert_array_equal(x[:, 0], y)
    with pytest.raises(ValueError, match=r"must have as many rows, got \[11, 10\]"):
        of_all(2, X, X[:10])
    with pytest.raises(TypeError, match="rows must be an array, a sparse matrix, a table or the path"):
        of_all(2, 7)


def test_of_a_memory_map_a_part_is_mapped(tmp_path):
    np.save(tmp_path / "X.npy", X)
    shards = of_all(3, np.load(tmp_path / "X.npy", mmap_mode="r"))
    assert all(isinstance(shard, np.memmap) for shard in shards)
    np.testing.assert_array_equal(np.concatenate(shards), X)


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.coo_array])
def test_of_a_sparse_matrix_the_shards_are_csr(kind):
    shards = of_all(3, kind(X))
    assert {shard.format for shard in shards} == {"csr"}
    np.testing.assert_array_equal(scipy.sparse.vstack(shards).toarray(), X)


def test_of_parquet_files_only_the_rows_of_a_rank_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"a": X[:, 0], "b": X[:, 1] / 2})
    parquet.write_table(table, tmp_path / "one.parquet", row_group_size=4)
    (tmp_path / "many").mkdir()
    for at in range(0, ROWS, 5):
        parquet.write_table(table[at : at + 5], tmp_path / "many" / f"{at:02}.parquet", row_group_size=2)
    for rows in (tmp_path / "one.parquet", str(tmp_path / "many"), table):
        shards = of_all(4, rows)
        assert [len(shard) for shard in shards] == [2, 3, 3, 3]
        assert pyarrow.concat_tables(shards).to_pylist() == table.to_pylist()
    assert len(of_all(13, tmp_path / "one.parquet")[0]) == 0


def test_what_is_no_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "rows").write_bytes(b"not a file of Parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot be read as Parquet: .*magic bytes"):
        of_all(1, str(tmp_path / "rows"))
    with pytest.raises(ValueError, match="there are no rows of Parquet files in "):
        of_all(1, str(tmp_path / "empty"))


def test_a_shard_of_a_table_trains():
    pyarrow = pytest.importorskip("pyarrow")
    columns = X[:, 0] / 40, X[:, 1] / 50, np.sqrt(X[:, 2] + 1.0)
    table = pyarrow.table(dict(zip("ayw", columns, strict=True)))
    network = fastmlp.Network([1, 2, 1])
    settings = {"epochs": 2, "batch_size": 4, "seed": 0, "backend": "reference", "progress": False}

    def job(one):
        own = fastmlp.shard(one, table)
        return fastmlp.fit(network, own, "y", sample_weight="w", communicator=one, **settings)

    expected = fastmlp.fit(network, columns[0][:, None], columns[1], sample_weight=columns[2], **settings)
    for size in (1, 3, 13):  # a rank has no rows
        np.testing.assert_allclose(trained(size, job).parameters, expected.parameters, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_ranks_without_rows_of_a_file_have_the_columns_and_the_dtype_of_the_others(dtype, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(np.arange(6, dtype=dtype) / 6), 2)
    columns = {name: np.linspace(0, 1, 3, dtype=dtype) for name in "pqw"}
    parquet.write_table(pyarrow.table({"x": lists, **columns}), tmp_path / "rows")
    for y in ("p", ["p", "q"]):
        network = fastmlp.Network([2 if len(y) == 2 else 3, 2, len(y)])
        options = {"epochs": 2, "batch_size": 2, "seed": 0, "backend": "reference", "sample_weight": "w"}

        def job(one, y=y, network=network, options=options):
            own = fastmlp.shard(one, tmp_path / "rows")
            return fastmlp.fit(network, own, y, communicator=one, progress=False, **options)

        expected, found = trained(1, job), trained(5, job)
        assert found.parameters.dtype == dtype
        np.testing.assert_allclose(
            found.parameters, expected.parameters, rtol=0, atol=10 * np.finfo(dtype).eps
        )


@pytest.mark.parametrize("kind", ["table", "memory map"])
def test_one_rank_shuffles_all_rows_as_several_do_and_a_file_goes_on_at_any_size(kind, tmp_path, windows):
    windows(size=1)  # a batch's rows
    settings = {"batch_size": 4, "seed": 0, "backend": "reference", "progress": False, "dtype": np.float32}
    network, given = fastmlp.Network([2, 2, 1], input_scale=1 / 40), X[:, :2].astype("f4")
    targets = (X[:, 2] / 50).astype("f4")
    if kind == "table":
        pyarrow = pytest.importorskip("pyarrow")
        rows, y = pyarrow.table({"a": given[:, 0], "b": given[:, 1], "y": targets}), "y"
    else:
        np.save(tmp_path / "x.npy", given)
        rows, y = np.load(tmp_path / "x.npy", mmap_mode="r"), targets

    def fit(one, epochs, every=None, **options):
        if one is None:
            return fastmlp.fit(network, rows, y, epochs=epochs, **settings, **options)
        own = fastmlp.shard(one, rows)
        own_y = y if isinstance(y, str) else fastmlp.shard(one, y)
        spread = fastmlp.DataParallel(one, average_every=every)
        return fastmlp.fit(network, own, own_y, epochs=epochs, communicator=spread, **settings, **options)

    expected = fastmlp.fit(network, given, targets, epochs=4, **settings)
    np.testing.assert_array_equal(trained(1, lambda one: fit(one, 4)).parameters, expected.parameters)
    path = tmp_path / "c"
    for then, now in ((2, 1), (1, 2)):
        trained(then, lambda one: fit(one, 2, callbacks=[fastmlp.Checkpoint(path)]))
        models = [trained(now, lambda one: fit(one, 4, resume=path)), fit(None, 4, resume=path)]
        for model in models:
            np.testing.assert_allclose(model.parameters, expected.parameters, rtol=0, atol=1e-5)
        trained(then, lambda one: fit(one, 2, every=2, callbacks=[fastmlp.Checkpoint(path)]))
        trained(now, lambda one: fit(one, 4, every=2, resume=path))
    (error,) = ranks(1, lambda one: fastmlp.fit(network, [(given, targets)], communicator=one))
    assert str(error) == "with a communicator X and y are arrays, of which each process has its rows"
