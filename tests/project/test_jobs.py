"""docs/jobs.md runs as it stands, on two workers of which one is killed, with the scores of the plain run."""

import os
import pickle
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from support import needs, pages
from support.callbacks import calling
from support.processes import importing, python
from support.selection import campaign

import fastmlp

COMMON, LOKY, DASK, RAY, OPTUNA, GROUPS, BAGGED = (
    block.text for block in pages.blocks("docs/jobs.md", "python")
)


def indented(text):
    """Return a text whose lines but the first begin four columns to the right."""
    return text.replace("\n", "\n    ")


KILLED = """
scores = lambda found: [found.cv_results_[f"split{i}_test_score"].tolist() for i in range(3)]
if __name__ == "__main__":
    from support.jobs import Mortal

    plain = scores(search.fit(X, y))  # and on the disk is what workers need
    classifier.set_params(callbacks=[Mortal("killed")])
"""

SAME = """
    import os

    assert scores(search) == plain
    assert int(open("killed").read()) != os.getpid()
"""

ARRAYS = """
    from support.jobs import summary

    np.save("large.npy", np.zeros((1 << 19, 32), np.float32))  # 64 MiB
    large = fastmlp.MappedArray("large.npy")
    alone = summary(large)
    for threads, compiled, grown, losses in parallel(joblib.delayed(summary)(given) for given in {given}):
        assert threads == max(1, alone[0] // 2)
        assert not compiled
        assert losses == alone[3]
        assert grown < large.nbytes // 4, f"{{grown / 2**20:.0f}} MiB for an array of 64"
"""

SCORES = f"""
    from sklearn.ensemble import BaggingClassifier
    from sklearn.model_selection import cross_val_score

    classifier.set_params(callbacks=())
    scored = lambda jobs: cross_val_score(classifier, X, y, cv=2, scoring="neg_log_loss", n_jobs=jobs)
    bagged = lambda jobs: BaggingClassifier(classifier, 2, random_state=0, n_jobs=jobs).fit(X, y)
    assert scored(2).tolist() == scored(1).tolist()
    assert (bagged(2).predict_proba(X) == bagged(1).predict_proba(X)).all()

    np.save("X.npy", X)
    {indented(BAGGED)}
    bags = lambda jobs: bag.set_params(n_jobs=jobs).fit(numbers, y).set_params(n_jobs=1)
    assert (bags(2).predict_proba(numbers) == bags(1).predict_proba(numbers)).all()

    classifier.set_params(max_iter=10**5, tol=0.0, n_iter_no_change=10**5, max_time=0.2, backend="fused")
    timed = GridSearchCV(classifier, {{"alpha": [1e-4, 1e-2]}}, cv=2, n_jobs=2).fit(X, y)
    assert timed.best_estimator_.n_iter_ < 10**5
    assert (timed.cv_results_["mean_fit_time"] > 0.2).all()
"""


PATIENT = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{needs.PATIENCE}s"}
"""A client waits so long for its workers, one of which is being started anew, also when it closes."""


def run(directory, text):
    """Run a program of its own; fail with what it says if it fails."""
    (directory / "program.py").write_text(text)
    unbounded = {name: None for name in os.environ if name.endswith("_NUM_THREADS")}
    environment = {**unbounded, **importing(), **PATIENT, "RAY_AUTH_MODE": "disabled"}
    return python("program.py", cwd=directory, **environment).stdout


@pytest.mark.slow
@needs.reads_proc
def test_loky_has_the_scores_of_the_plain_run_after_a_worker_was_killed(tmp_path):
    twice = f"""
import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

if __name__ == "__main__":
    try:
        {LOKY.strip()}
    except TerminatedWorkerError:
        {LOKY.strip()}
    else:
        raise AssertionError("nobody was killed")
    parallel = joblib.Parallel(2)
"""
    inside = ARRAYS.format(given="(large, np.asarray(large).copy())") + SCORES
    run(tmp_path, COMMON + KILLED + twice + SAME + inside)


@pytest.mark.slow
@needs.reads_proc
def test_dask_goes_on_when_a_worker_is_killed(tmp_path):
    pytest.importorskip("distributed")
    opening = """
    with Client(n_workers=2, threads_per_worker=1), joblib.parallel_config("dask"):
        parallel = joblib.Parallel()
"""
    inside = ARRAYS.format(given="(large, large)") + SCORES
    run(tmp_path, COMMON + KILLED + DASK + SAME + opening + indented(inside))


@needs.reads_proc
@pytest.mark.parametrize(
    "scores",
    [
        pytest.param("", marks=pytest.mark.slow, id="arrays"),
        # Ray starts new workers for each of them, which takes it half a minute.
        pytest.param(SCORES, marks=campaign, id="arrays and scores"),
    ],
)
def test_ray_goes_on_when_a_worker_is_killed(scores, tmp_path):
    pytest.importorskip("ray")
    opening = """
if __name__ == "__main__":
    with joblib.parallel_config("ray", n_jobs=2):
        parallel = joblib.Parallel()
"""
    same = 'if __name__ == "__main__":\n' + SAME
    inside = ARRAYS.format(given="(large, large)") + scores
    run(tmp_path, COMMON + KILLED + RAY + same + opening + indented(inside))


@pytest.mark.slow
@needs.kills
def test_optuna_s_trials_are_pruned_and_one_that_is_killed_costs_the_others_nothing(tmp_path):
    optuna = pytest.importorskip("optuna")
    watched = 'watch = [Mortal("killed", spared=None), '
    (tmp_path / "study.py").write_text(COMMON + OPTUNA)
    (tmp_path / "killed.py").write_text(
        COMMON + "from support.jobs import Mortal\n" + OPTUNA.replace("watch = [", watched)
    )
    environment = {**os.environ, **importing(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "killed.py"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=needs.PATIENCE)[1] for process in both]
    assert sorted(process.returncode for process in both) == [-signal.SIGKILL, 0], said

    journal = tmp_path / "digits.journal"
    made = {"__name__": "study"}
    exec((tmp_path / "study.py").read_text(), made)
    storage = made["JournalStorage"](made["JournalFileBackend"](str(journal)))
    trials = optuna.load_study(storage=storage, study_name="digits").trials
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert len(complete) + len(pruned) >= 12
    assert pruned
    for trial in complete[:3]:
        assert made["objective"](optuna.trial.FixedTrial(trial.params)) == trial.value


@pytest.mark.slow
def test_a_study_is_asked_for_groups_of_trials():
    pytest.importorskip("optuna")
    made = {"__name__": "study"}
    exec(COMMON + OPTUNA + GROUPS, made)
    values = [trial.value for trial in made["study"].trials]
    assert len(values) == 24
    assert made["study"].best_value == min(values) < 0.7


@pytest.mark.slow
def test_threads_of_one_study_share_the_cores(tmp_path):
    optuna = pytest.importorskip("optuna")
    made = {"__name__": "study"}
    exec(COMMON + OPTUNA, made)
    study = optuna.create_study()
    study.optimize(made["objective"], n_trials=6, n_jobs=2)
    best = study.best_trial
    assert made["objective"](optuna.trial.FixedTrial(best.params)) == best.value


class Trial:
    """What `OptunaPruning` asks of a trial, without Optuna."""

    def __init__(self):
        self.reports = []

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return False


def fit(trial, **options):
    X = np.linspace(0, 1, 12).reshape(6, 2)
    watch = fastmlp.OptunaPruning(trial, **options)
    options = {"epochs": 7, "validation": (X[:2], X[:2, :1]), "seed": 0, "backend": "reference"}
    return fastmlp.fit(fastmlp.Network([2, 3, 1]), X, X[:, :1], callbacks=[watch], **options)


def test_a_trial_gets_the_value_that_it_names():
    for options, key, every in (({}, "validation_loss", 1), ({"monitor": "loss", "every": 3}, "loss", 3)):
        trial = Trial()
        values = fit(trial, **options).history[key]
        assert trial.reports == [(epoch, values[epoch - 1]) for epoch in range(every, 8, every)]


def test_a_trial_gets_what_another_callback_writes():
    writes = calling(on_epoch_end=lambda run: run.history.setdefault("epochs", []).append(run.epoch))
    trial = Trial()
    watch = fastmlp.OptunaPruning(trial, monitor="epochs", every=2)
    X = np.linspace(0, 1, 12).reshape(6, 2)
    options = {"epochs": 5, "seed": 0, "backend": "reference", "callbacks": [writes, watch]}
    fastmlp.fit(fastmlp.Network([2, 3, 1]), X, X[:, :1], **options)
    assert trial.reports == [(2, 2.0), (4, 4.0)]


def test_the_copies_of_an_estimator_report_to_one_trial():
    trial, X = Trial(), np.linspace(0, 1, 24).reshape(12, 2)
    regressor = fastmlp.MLPRegressor(
        hidden_layer_sizes=(3,),
        backend="reference",
        solver="sgd",
        max_iter=20,
        n_iter_no_change=1,
        tol=1e9,
        callbacks=[fastmlp.OptunaPruning(trial)],
    )
    cross_val_score(regressor, X, X[:, 0], cv=3, error_score="raise")
    assert len(trial.reports) >= 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trial": 3}, "trial must be an Optuna trial, got 3"),
        ({"trial": Trial(), "monitor": 3}, "monitor must be a name that is in the history, got 3"),
        ({"trial": Trial(), "every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_a_mistake_about_pruning_is_one_line(options, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        fastmlp.OptunaPruning(**options)


def test_a_bag_of_row_numbers_holds_the_path_and_not_the_rows(tmp_path, monkeypatch):
    """docs/jobs.md; that workers make the same of it, the slow tests above say."""
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    np.save("X.npy", X)
    classifier = fastmlp.MLPClassifier((3,), n_iter_no_change=1, tol=1e9, backend="fused")
    summary = {"X": X, "classifier": classifier, "np": np, "fastmlp": fastmlp}
    exec(BAGGED, summary)
    y = (X[:, 0] > 0).astype(int)
    bag = summary["bag"].fit(summary["numbers"], y)
    in_hand = BaggingClassifier(make_pipeline(FunctionTransformer(), classifier), 2, random_state=0).fit(X, y)
    assert np.array_equal(bag.predict_proba(summary["numbers"]), in_hand.predict_proba(X))
    estimators = [pipeline[0] for pipeline in bag.estimators_]
    assert len(pickle.dumps([one.kw_args for one in estimators])) < 1000 < X.nbytes
