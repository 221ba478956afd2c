"""Files and models of several ranks go on at any number of them; ranks are threads here (`in_threads`)."""

from __future__ import annotations

import numpy as np
import pytest
from support.several_ranks import CASES, EPOCHS, ROWS, WEIGHTS, X, Y, assert_close, fitted, settings_of
from support.threads_as_ranks import ranks, trained

import fastmlp
from fastmlp.data.ranks import ALONE, fingerprint_by_rows
from fastmlp.distributed.ranks import RankError, SeveralRanks
from fastmlp.distributed.training import DataParallel
from fastmlp.model.backend import Data
from fastmlp.model.rows import SparseRows


@pytest.mark.parametrize(("then", "now"), [(3, 2), (2, 1), (1, 3)])
def test_a_checkpoint_of_rank_0_resumes_at_another_size(then, now, tmp_path):
    path = tmp_path / "training.npz"
    settings = settings_of(CASES["weights, and a share held out"])
    cuts = {1: [], 2: [50], 3: [0, 40]}

    def begin(one):
        return fitted({**settings, "epochs": 2, "callbacks": [fastmlp.Checkpoint(path)]}, one, cuts[then])

    def go_on(one):
        return fitted({**settings, "resume": path if one.rank == 0 else "not there"}, one, cuts[now])

    trained(then, begin)
    assert_close(trained(now, go_on), fitted(settings), settings)
    if then > 1:
        assert_close(fitted({**settings, "resume": path}), fitted(settings), settings)
    other = {**settings, "sample_weight": WEIGHTS[::-1].copy(), "resume": path}
    with pytest.raises(fastmlp.CheckpointError, match=r"of another training; these differ: .*data"):
        trained(now, lambda one: fitted(other, one, cuts[now]))


def test_the_checkpoint_of_a_training_without_communicator_is_one_process_s(tmp_path):
    path = tmp_path / "training.npz"
    settings = settings_of({"resume": path})
    fitted({**settings_of({}), "epochs": 2, "callbacks": [fastmlp.Checkpoint(path)]})
    for error in ranks(2, lambda one: fitted(settings, one, [50])):
        assert isinstance(error, fastmlp.CheckpointError)
        assert "without a communicator" in str(error)
    np.testing.assert_array_equal(
        trained(1, lambda one: fitted(settings, one)).parameters, fitted(settings_of({})).parameters
    )


def gone_on(model, settings, communicator, cuts, epochs, rows=slice(None)):
    """`fit_more` on this rank's part of some rows; on all of them without a communicator."""
    given = {name: settings[name] for name in ("X", "sample_weight") if name in settings} | {"y": Y}
    given = {name: array[rows] for name, array in given.items()}
    options = {"validation": settings.get("validation"), "progress": False}
    if communicator is not None:
        bounds = [0, *cuts, len(given["y"])]
        rank = communicator.communicator.rank if isinstance(communicator, DataParallel) else communicator.rank
        own = slice(bounds[rank], bounds[rank + 1])
        given = {name: array[own] for name, array in given.items()}
        options["communicator"] = communicator
    return model.fit_more(**given, epochs=epochs, **options)


@pytest.mark.parametrize(
    "name", ["dropout, penalties and clipping", "weights, and a share held out", "schedules", "sparse"]
)
@pytest.mark.parametrize(("then", "now"), [(2, 2), (3, 2), (2, 1), (1, 3)])
def test_fit_more_goes_on_at_any_size(name, then, now):
    settings, cuts = settings_of(CASES[name]), {1: [], 2: [50], 3: [0, 40]}
    first = {**settings, "epochs": 2}
    begun = fitted(first) if then == 1 else trained(then, lambda one: fitted(first, one, cuts[then]))
    models = [gone_on(begun, settings, None, (), 1)] if now == 1 else []
    models += ranks(now, lambda one: gone_on(begun, settings, one, cuts[now], 1))
    for model in models:
        assert_close(model, fitted(settings), settings)
        assert len(model.history["loss"]) == EPOCHS
    assert len(begun.history["loss"]) == 2


def test_fit_more_has_the_bits_of_one_longer_fit_and_keeps_the_state_of_callbacks():
    settings = settings_of(CASES["weights, and a share held out"])

    class Counting(fastmlp.Callback):
        epochs = 0

        def on_epoch_end(self, run):
            self.epochs += 1

        def state_dict(self):
            return {"epochs": self.epochs}

        def load_state_dict(self, run, state):
            self.epochs = state["epochs"]

    def job(one):
        first = fitted({**settings, "epochs": 2, "callbacks": [Counting()]}, one, [34, 68])
        bounds = slice([0, 34, 68][one.rank], [34, 68, ROWS][one.rank])
        counting = Counting()
        more = first.fit_more(
            X[bounds], Y[bounds], sample_weight=WEIGHTS[bounds], epochs=1, callbacks=[counting],
            communicator=one, progress=False,
        )  # fmt: skip
        assert counting.epochs == 3  # the same rows, known by a sample of them
        return more

    expected, found = trained(3, lambda one: fitted(settings, one, [34, 68])), trained(3, job)
    np.testing.assert_array_equal(found.parameters, expected.parameters)
    assert found.history == expected.history


@pytest.mark.parametrize("average_every", [None, 4])
def test_fit_more_takes_what_was_written_and_another_rule_on_several_ranks(average_every):
    settings = settings_of({"optimizer": fastmlp.RMSprop(0.01), "epochs": 2})
    begun = fitted(settings)
    begun.parameters[...] *= 0.5

    class Scores(fastmlp.Callback):
        def on_epoch_end(self, run):
            run.history.setdefault("score", []).append(float(run.predict(X).mean()))

    def job(one):
        own = slice(None) if one is None else slice(*((0, 50), (50, ROWS))[one.rank])
        spread = one and DataParallel(one, average_every=average_every)
        return begun.fit_more(
            X[own], Y[own], epochs=2, optimizer=fastmlp.SGD(0.05), batch_size=20, callbacks=[Scores()],
            communicator=spread, progress=False,
        )  # fmt: skip

    together = trained(2, job)  # after every epoch all ranks have the same bits
    assert len(together.history["score"]) == 2
    if average_every is None:
        assert_close(together, job(None), settings)


def test_fit_more_on_other_rows_averages_by_the_epochs_that_they_make():
    settings = settings_of({"optimizer": fastmlp.SGD(0.05, 0.9), "epochs": 2})

    def spread(one):
        return DataParallel(one, average_every=3)

    begun = trained(2, lambda one: fitted(settings, spread(one), [50]))
    alone = fitted(settings)
    rows = slice(0, 64)  # 4 steps to an epoch, where there were 7
    averaged = trained(2, lambda one: gone_on(begun, settings, spread(one), [32], 2, rows))
    assert averaged.history["loss"][:2] == begun.history["loss"]
    assert len(averaged.history["loss"]) == 4
    together = trained(2, lambda one: gone_on(alone, settings, one, [32], 2, rows))
    assert_close(together, gone_on(alone, settings, None, (), 2, rows), settings)


def test_models_of_different_trainings_do_not_go_on_together():
    settings = settings_of({"epochs": 1})
    models = fitted(settings), fitted({**settings, "optimizer": fastmlp.Adam(2e-2)})
    for error in ranks(2, lambda one: gone_on(models[one.rank], settings, one, [50], 1)):
        assert isinstance(error, RankError)
        assert str(error).startswith("all ranks must have the same optimizer")
    begun = fitted({**settings, "epochs": 2})
    for error in ranks(2, lambda one: gone_on([models[0], begun][one.rank], settings, one, [50], 1)):
        assert isinstance(error, RankError)
        assert str(error).startswith("the parameters of rank 1 are not those of rank 0")


def test_a_fingerprint_goes_by_rows_and_their_places_and_not_by_ranks():
    data = Data(X, Y[:, None], WEIGHTS)
    expected = fingerprint_by_rows(ALONE, data)

    def of_ranks(data, *cuts):
        bounds = [0, *cuts, ROWS]

        def job(one):
            own = slice(bounds[one.rank], bounds[one.rank + 1])
            return fingerprint_by_rows(SeveralRanks(one, None), data.take(own))

        return trained(len(bounds) - 1, job)

    assert of_ranks(data, 40) == of_ranks(data, 0, 100) == expected
    assert of_ranks(data._replace(inputs=SparseRows.of(X)), 13) == expected
    swapped = np.arange(ROWS)
    swapped[[3, 4]] = 4, 3
    changed = [data.take(swapped)]
    for name in ("targets", "weights"):
        array = getattr(data, name).copy()
        array.flat[-1] = np.nextafter(array.flat[-1], 9)
        changed.append(data._replace(**{name: array}))
    assert len({expected, *(of_ranks(one, 40) for one in changed)}) == 4
