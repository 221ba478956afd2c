"""What one rank stops, does wrong or does not say reaches all; ranks are threads here (`in_threads`)."""

import re
import time

import numpy as np
import pytest
from support.callbacks import calling
from support.several_ranks import EPOCHS, ROWS, X, Y, assert_close, fitted, settings_of
from support.threads_as_ranks import ranks

import fastmlp
from fastmlp.distributed.ranks import RankError
from fastmlp.distributed.training import DataParallel


def stopping(rank, when):
    """A callback that stops rank 1, when its training begins or in a hook after the second epoch."""

    def stop(run):
        if rank == 1 and (when == "on_train_begin" or run.epoch >= 2):
            run.stop("rank 1 has enough")

    return calling(**{when: stop})


@pytest.mark.parametrize("when", ["on_train_begin", "on_epoch_end", "on_chunk_end"])
def test_all_ranks_stop_where_a_callback_of_one_stops(when, tmp_path):
    settings, path = settings_of({"epochs": 20}), tmp_path / "training.npz"

    def job(one):
        callbacks = [fastmlp.Checkpoint(path, every=100), stopping(one.rank, when)]
        return fitted({**settings, "callbacks": callbacks}, one, [30, 60])

    models = ranks(3, job)
    assert {model.stop_reason for model in models} == {"rank 1 has enough"}
    assert {len(model.history["loss"]) for model in models} == {0 if when == "on_train_begin" else 2}
    if when != "on_train_begin":  # rank 0 writes where another rank stops all
        np.testing.assert_array_equal(fastmlp.load(path).parameters, models[0].parameters)


class Slow(fastmlp.Checkpoint):
    """Takes its time to write."""

    def on_chunk_end(self, run):
        time.sleep(0.1)
        super().on_chunk_end(run)


def test_no_rank_ends_before_the_file_is_written(tmp_path):
    path = tmp_path / "training.npz"

    def job(one):
        found = []
        # When the steps are over a signal that was heard ends the process.
        looking = calling(on_train_end=lambda run: found.append(path.exists()))
        callbacks = [Slow(path, every=100), stopping(one.rank, "on_chunk_end"), looking]
        fitted(settings_of({"callbacks": callbacks}), one, [30, 60])
        return found

    assert ranks(3, job) == [[True]] * 3


def test_no_checkpoint_is_written_of_a_chunk_in_which_another_rank_fails(tmp_path):
    path = tmp_path / "training.npz"

    def job(one):
        def fail(run):
            if one.rank == 1 and run.epoch == 2:
                raise OSError("the disk is gone")

        callbacks = [calling(on_chunk_end=fail), fastmlp.Checkpoint(path)]
        return fitted(settings_of({"callbacks": callbacks}), one, [50])

    _, error = ranks(2, job)
    assert isinstance(error, OSError)
    assert len(fastmlp.load(path).history["loss"]) == 1


def test_early_stopping_decides_and_restores_the_same_on_all_ranks():
    def settings():
        return settings_of({"epochs": 60, "validation": 0.3, "optimizer": fastmlp.Adam(0.05)}) | {
            "callbacks": [fastmlp.EarlyStopping(3)]
        }

    expected = fitted(settings())
    assert expected.stop_reason is not None
    for model in ranks(2, lambda one: fitted(settings(), one, [60])):
        assert model.stop_reason == expected.stop_reason
        assert_close(model, expected, settings())


@pytest.mark.parametrize("when", ["on_epoch_end", "on_train_end"])
def test_a_rank_with_other_bits_is_found(when, tmp_path):
    path = tmp_path / "training.npz"

    def job(one):
        def meddle(run):
            if one.rank == 1 and (run.epoch == 2 or when == "on_train_end"):
                run.parameters[0] = np.nextafter(run.parameters[0], 9)

        callbacks = [calling(**{when: meddle}), fastmlp.Checkpoint(path)]
        return fitted(settings_of({"callbacks": callbacks}), one, [30, 60])

    for error in ranks(3, job):
        assert isinstance(error, RankError)
        assert str(error).startswith("the parameters of rank 1 are not those of rank 0")
    whole = EPOCHS if when == "on_train_end" else 1  # none of the epoch in which bits differ
    assert len(fastmlp.load(path).history["loss"]) == whole


MISTAKES = {
    "a number that is none": ({"y": np.full(ROWS, np.nan)}, "rank 1 of 2 has failed: ValueError: y must be"),
    "an unknown backend": ({"backend": "fussed"}, "all ranks must have the same backend, got 'reference' on"),
    "another learning rate": ({"optimizer": fastmlp.Adam(2e-2)}, "all ranks must have the same optimizer"),
    "another seed": ({"seed": 4}, "all ranks must have the same seed, got 3 on rank 0, 4 on rank 1"),
    "another dtype": ({"X": X.astype("f")}, "all ranks must have the same dtype, got 'float64' on rank 0"),
    "validation": ({"validation": 0.2}, "all ranks must have the same validation, got 'NoneType' on rank 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_one_rank_is_raised_on_all(mistake):
    change, message = MISTAKES[mistake]

    def job(one):
        settings = {**settings_of({}), "y": Y, "progress": False, "communicator": one}
        return fastmlp.fit(**settings | (change if one.rank == 1 else {}))

    first, second = ranks(2, job)
    assert isinstance(first, RankError)
    assert str(first).startswith(message)
    assert isinstance(second, (RankError, ValueError))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": X[:0], "y": Y[:0]}, "X must hold at least 1 row, got 0 on all ranks"),
        ({"sample_weight": np.zeros(ROWS)}, "sample_weight must not be all zero"),
        ({"validation": 0.001}, "validation=0.001 of 202 rows leaves none"),
    ],
)
def test_a_mistake_of_all_ranks_is_worded_as_without_them(change, message):
    settings = {**settings_of({}), "y": Y, "progress": False, **change}
    for error in ranks(2, lambda one: fastmlp.fit(**settings, communicator=one)):
        assert isinstance(error, ValueError)
        assert str(error).startswith(message)


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (TypeError, "communicator must be one of mpi4py's", lambda one: 7),
        (TypeError, "communicator must be one of mpi4py's", lambda one: DataParallel(None)),
        (ValueError, "average_every must be at least 1", lambda one: DataParallel(one, average_every=0)),
        (ValueError, "timeout must be above 0", lambda one: DataParallel(one, timeout=0)),
    ],
)
def test_what_is_no_communicator_is_refused(error, message, make):
    (found,) = ranks(1, lambda one: fastmlp.fit(**settings_of({}), y=Y, communicator=make(one)))
    assert isinstance(found, error)
    assert str(found).startswith(message)


class Returning:
    """A communicator as it is easily written wrong: sums are returned, and the array stays as it was."""

    rank, size = 0, 2

    def allreduce(self, array):
        return 2 * array

    broadcast = barrier = allreduce


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "the communicator's allreduce(array) must write what it comes to into the array"),
        ({"rank": 2}, ValueError, "the communicator's rank must be at most 1, got 2"),
        ({"rank": lambda: 0}, TypeError, "the communicator's rank must be a whole number, got <function"),
        ({"size": 0}, ValueError, "the communicator's size must be at least 1, got 0"),
        (
            {"rank": 1, "allreduce": lambda array: np.multiply(array, 2, out=array)},
            ValueError,
            "the communicator's broadcast(array) must write what it comes to into the array: 1 became 1",
        ),
    ],
)
def test_a_communicator_that_is_none_is_refused(change, error, message):
    one = Returning()
    vars(one).update(change)
    with pytest.raises(error, match=re.escape(message)):
        fastmlp.fit(**settings_of({}), y=Y, communicator=one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": "rows.parquet", "y": "price"}, "or a pyarrow.Table of which y names columns, got 'rows.parq"),
        ({"y": "price"}, "or a pyarrow.Table of which y names columns, got array("),
        ({"X": lambda: [(X, Y)]}, "or a pyarrow.Table of which y names columns, got <function"),
        ({"window": 50}, "of which each process has its rows, without a window; got window=50"),
    ],
)
def test_what_is_no_rows_in_memory_is_refused(change, message):
    settings = {**settings_of({}), "y": Y, **change}
    for error in ranks(2, lambda one: fastmlp.fit(**settings, communicator=one)):
        assert isinstance(error, TypeError)
        assert message in str(error)
