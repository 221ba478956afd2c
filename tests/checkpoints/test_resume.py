"""A training that stops anywhere and goes on from its checkpoint ends in the bits of one that did not."""

import os
from datetime import timedelta

import numpy as np
import pytest
import scipy.sparse
import threadpoolctl
from support.callbacks import calling
from support.problems import data_set
from support.resuming import StopAt, assert_same
from support.selection import FEW, few, matrix, quick

import fastmlp
from fastmlp import SGD, Adam, Checkpoint, CheckpointError, Cosine, EarlyStopping, Network
from fastmlp.backend import registry
from fastmlp.testing import slots

X, Y = data_set("diabetes", 50)
NETWORK = Network([10, 6, 1], hidden="tanh", dropout=0.3, l2=0.01)
EPOCHS, BATCHES = 5, 3  # 40 rows in batches of 16, 10 rows held out

OPTIMIZERS = {**slots.OPTIMIZERS, "adam": Adam(Cosine(0.01, 12, unit="step"))}


def fit(backend="reference", optimizer=OPTIMIZERS["adam"], x=X, y=Y, **options):
    given = {
        "optimizer": optimizer, "epochs": EPOCHS, "batch_size": 16, "seed": 1, "validation": 0.2,
        "sample_weight": 1.0 + np.arange(50) % 3, "backend": backend,
    }  # fmt: skip
    return fastmlp.fit(options.pop("network", NETWORK), x, y, **{**given, **options})


@quick(2)
@pytest.mark.parametrize(
    ("name", "backend"),  # in turns, and all backends with Adam
    [
        *(
            pytest.param(name, backend, marks=matrix if turn % 2 else ())
            for first, name in enumerate(slots.OPTIMIZERS)
            for turn, backend in enumerate(["reference", "fused"], first)
        ),
        *(pytest.param("adam", name, marks=matrix) for name in registry.backends() if name not in FEW),
    ],
)
def test_a_training_goes_on_in_its_bits_from_every_step(name, backend, tmp_path, chunks, report_figure):
    """test_properties.py stops trainings with schedules, clipping and momentum."""
    path, optimizer = tmp_path / "c", OPTIMIZERS[name]
    whole = fit(backend, optimizer, callbacks=[EarlyStopping(2)])
    for step in range(1, EPOCHS * BATCHES):
        chunks(steps=1)
        fit(backend, optimizer, callbacks=[EarlyStopping(2), Checkpoint(path, 99), StopAt(step)])
        chunks(steps=2)  # chunks end elsewhere, too
        assert_same(fit(backend, optimizer, callbacks=[EarlyStopping(2)], resume=path), whole)
    report_figure(f"{EPOCHS * BATCHES - 1} stops, every bit the same")


@matrix
@pytest.mark.parametrize("threads", [1, None])
@pytest.mark.parametrize("backend", few(["reference", "blas"]))
def test_the_blas_goes_on_with_the_threads_that_it_had(backend, threads, tmp_path):
    """It sums in another order on one thread than on two."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 301)), rng.standard_normal((300, 1))
    network, path, limits = Network([301, 303, 1]), tmp_path / "c", []

    def tell(run):
        found = threadpoolctl.threadpool_info()
        limits.append({pool["num_threads"] for pool in found if pool["user_api"] == "blas"})

    telling = calling(on_train_begin=lambda run: limits.clear(), on_epoch_end=tell)

    def fit(epochs, callback, **options):
        given = {"batch_size": None, "seed": 0, "backend": backend, "callbacks": [callback]}
        return fastmlp.fit(network, x, y, epochs=epochs, **given, **options)

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        whole = fit(4, telling, threads=2)
        fit(1, Checkpoint(path), threads=2)
        fit(2, Checkpoint(path), threads=threads, resume=path)
        rest = fit(4, telling, threads=threads, resume=path)
    assert limits == [{2}, {2}]
    assert_same(rest, whole)


@pytest.mark.parametrize("backend", few(["reference", "blas"]))
def test_a_blas_of_fewer_threads_than_it_had_is_refused(backend, tmp_path):
    path = tmp_path / "c"
    options = {"seed": 0, "backend": backend, "callbacks": [Checkpoint(path)]}
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        fastmlp.fit(NETWORK, X, Y, epochs=1, **options)
    with (
        threadpoolctl.threadpool_limits(1, user_api="blas"),
        pytest.raises(CheckpointError, match="on 2 threads, which decides its bits, and here it may have 1"),
    ):
        fastmlp.fit(NETWORK, X, Y, epochs=2, resume=path, **options)


def test_any_number_of_threads_that_fit_takes_can_be_resumed(tmp_path):
    fit(epochs=1, threads=10**9, callbacks=[Checkpoint(tmp_path / "c")])
    assert fit(epochs=1, resume=tmp_path / "c").history["loss"]


def test_without_a_seed_the_file_has_it(tmp_path):
    whole = fit(seed=None, callbacks=[Checkpoint(tmp_path / "c", 99)])
    stopped = tmp_path / "stopped"
    seed = fastmlp.checkpoints.checkpoint.read_training(tmp_path / "c").seed
    fit(seed=seed, callbacks=[Checkpoint(stopped, 99), StopAt(2 * BATCHES)])
    assert_same(fit(seed=None, resume=stopped), whole)


def test_early_stopping_that_had_stopped_stays_stopped(tmp_path):
    path = tmp_path / "c"
    options = {"optimizer": SGD(0.0), "callbacks": [EarlyStopping(2), Checkpoint(path)]}
    whole = fit(**options)
    assert len(whole.history["loss"]) == 3
    again = fit(**options, resume=path)
    assert_same(again, whole)


# --- when files are written ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (99, [5]), (timedelta(days=1), [5])]
)
def test_a_file_is_written_every_so_often_and_at_the_end(tmp_path, every, epochs):
    path = tmp_path / "c"
    seen = []
    noting = calling(
        on_chunk_end=lambda run: path.exists() and seen.append(len(fastmlp.load(path).history["loss"]))
    )
    fit(callbacks=[noting, Checkpoint(path, every)])
    seen.append(len(fastmlp.load(path).history["loss"]))
    assert sorted(set(seen)) == epochs


def test_time_also_passes_within_an_epoch(tmp_path, chunks):
    chunks(steps=1)
    path = tmp_path / "c"
    steps = []
    noting = calling(
        on_chunk_end=lambda run: (
            path.exists() and steps.append(fastmlp.checkpoints.checkpoint.read_training(path).step)
        )
    )
    fit(callbacks=[noting, Checkpoint(path, timedelta(microseconds=1))])
    assert steps == list(range(1, EPOCHS * BATCHES))


def test_a_disk_that_is_full_is_reported_and_the_old_file_stays(tmp_path):
    from support import failing_disk

    path = tmp_path / "c"
    fit(epochs=2, callbacks=[Checkpoint(path)])
    before = path.read_bytes()
    with failing_disk.disk(10, failing_disk.FAULTS["ENOSPC"]), pytest.raises(OSError, match="No space left"):
        fit(callbacks=[Checkpoint(path)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]


# --- what is refused --------------------------------------------------------------------------------------

OTHER = {
    "data": {"x": X + 0.001},
    "data, of y": {"y": Y * 2},
    "data, of weights": {"sample_weight": np.ones(50)},
    "data, of a dtype": {"dtype": np.float32},
    "validation": {"validation": (X, Y)},
    "network": {"network": Network([10, 6, 1], hidden="tanh", dropout=0.2, l2=0.01)},
    "optimizer": {"optimizer": Adam(Cosine(0.01, 13, unit="step"))},
    "batch_size": {"batch_size": 8},
    "shuffle": {"shuffle": False},
    "seed": {"seed": 2},
    "initial": {"initial": ([np.ones((10, 6)), np.ones((6, 1))], [np.zeros(6), np.zeros(1)])},
    "callbacks": {"callbacks": [EarlyStopping()]},
    r"accumulate \(None then, 3 now\)": {"accumulate": 3},
    r"mixup \(None then, 0.4 now\)": {"mixup": 0.4, "sample_weight": None},
}


@pytest.mark.parametrize("what", OTHER)
def test_another_training_is_refused_by_what_differs(what, tmp_path):
    path = tmp_path / "c"
    fit(epochs=2, callbacks=[Checkpoint(path)])
    named = what.partition(", ")[0]
    with pytest.raises(CheckpointError, match=rf"of another training; these differ: .*\b{named}") as caught:
        fit(resume=path, **OTHER[what])
    assert "\n" not in str(caught.value)


def test_other_sparse_rows_are_other_data(tmp_path):
    sparse, path = scipy.sparse.csr_array(np.where(X > 0, X, 0)), tmp_path / "c"
    fit(x=sparse, epochs=2, callbacks=[Checkpoint(path)])
    sparse.indices[-1] ^= 1  # of a row that is trained on
    with pytest.raises(CheckpointError, match="these differ: data"):
        fit(x=sparse, resume=path)


def test_what_cannot_be_resumed(tmp_path):
    model = fit(epochs=1)
    fastmlp.save(model, tmp_path / "model")
    with pytest.raises(CheckpointError, match="holds a model without its training"):
        fit(resume=tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        fit(resume=tmp_path / "missing")
    fit(epochs=1, callbacks=[EarlyStopping(monitor="loss"), Checkpoint(tmp_path / "c")])
    with pytest.raises(
        CheckpointError, match=r"watched \('loss', 'min'\) before the checkpoint, and now \('va"
    ):
        fit(callbacks=[EarlyStopping()], resume=tmp_path / "c")


def test_a_named_backend_may_go_on_with_another_s_training(tmp_path):
    fit("reference", epochs=2, callbacks=[Checkpoint(tmp_path / "c")])
    assert fit("auto", resume=tmp_path / "c").backend == "reference"
    went_on, whole = fit("fused", resume=tmp_path / "c"), fit("reference")
    assert went_on.backend == "fused"
    np.testing.assert_allclose(went_on.parameters, whole.parameters, rtol=1e-11, atol=1e-13)
