"""What ends a search, or one of its trainings: errors, Ctrl-C, a limit of time."""

from __future__ import annotations

import os
import signal
import threading
import warnings

import numpy as np
import pytest
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import ShuffleSplit, StratifiedKFold
from support.searches import X, Y, assert_nothing_runs, assert_same_results, both, classifier

import fastmlp
from fastmlp import Callback

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class AtEpoch(Callback):
    """Does something after an epoch of the training with a given penalty."""

    def __init__(self, penalty, do):
        self.penalty, self.do = penalty, do

    def on_epoch_end(self, run):
        if run.network.l2 == self.penalty:
            self.do()


def fail():
    raise ZeroDivisionError("of the program")


@pytest.mark.filterwarnings("ignore:One or more of the test scores")
def test_an_error_of_a_callback_ends_its_training_only():
    grid, folds = {"alpha": [0.25, 0.5, 0.75]}, StratifiedKFold(3)
    given = classifier(callbacks=[AtEpoch(0.5, fail)]), grid
    with pytest.warns(FitFailedWarning, match="of the program"):
        theirs, ours = both("GridSearchCV", *given, cv=folds, fit=(X, Y))
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert np.isnan(ours.cv_results_["mean_test_score"]).tolist() == [False, True, False]


def interrupt(sent=[]):  # noqa: B006  # of all copies of the callback: a second signal acts at once
    if not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process of Windows")
def test_ctrl_c_ends_the_search():
    given = classifier(max_iter=10**6, tol=0, callbacks=[AtEpoch(0.25, interrupt)])
    filters = warnings.filters[:]
    with pytest.raises(KeyboardInterrupt):
        fastmlp.GridSearchCV(given, {"alpha": [0.25, 0.5, 0.75]}, cv=2).fit(X, Y)
    assert_nothing_runs()
    assert warnings.filters == filters


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has no SIGALRM")
def test_a_limit_of_time_ends_a_search_of_one_training():
    class TooLong(Exception):
        pass

    came = threading.Event()

    def handle(*_):
        came.set()
        raise TooLong

    def take_too_long():
        if not came.is_set():
            os.kill(os.getpid(), signal.SIGALRM)
            came.wait(10)  # the handler runs in the main thread

    before = signal.signal(signal.SIGALRM, handle)
    try:
        given = classifier(alpha=0.25, callbacks=[AtEpoch(0.25, take_too_long)])
        with pytest.raises(TooLong):
            fastmlp.cross_val_score(given, X, Y, cv=ShuffleSplit(1, random_state=0))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert_nothing_runs()
