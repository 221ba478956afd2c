"""Candidates whose networks take their steps together: the results that each has alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import model_selection
from sklearn.model_selection import KFold, StratifiedKFold
from support.problems import data_set
from support.searches import assert_same_results, counted

import fastmlp
from fastmlp.backend import lanes
from fastmlp.kernels.small import eligible

X, Y = data_set("breast_cancer", 150)


@pytest.mark.slow  # it compiles the program of lanes
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_grid_in_lanes_has_scikit_learns_results(monkeypatch, lane_programs):
    lane_programs(is_worth=lambda *_: True)
    found = counted(monkeypatch, lanes, "train_in_lanes", 1)
    given = fastmlp.MLPClassifier(
        (6,), max_iter=20, tol=0.02, n_iter_no_change=2, random_state=0, backend="fused"
    )
    grid = {"learning_rate_init": [1e-3, 1e-2, 0.05], "alpha": [1e-4, 1e-2], "early_stopping": [False, True]}
    theirs, ours = (
        package.GridSearchCV(given, grid, cv=StratifiedKFold(3), scoring="neg_log_loss").fit(X, Y)
        for package in (model_selection, fastmlp)
    )
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    assert len(np.unique(ours.cv_results_["mean_test_score"])) > 6
    assert max(found) == eligible.lanes_of(np.dtype(np.float64))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("batch_size", "early_stopping"), [(22, False), (19, True)])
def test_folds_of_unequal_rows_take_the_steps_that_they_share_together(
    batch_size, early_stopping, monkeypatch, lane_programs
):
    """Of 22 and 23 rows the first step is the same, and the order of an epoch is longer by one."""
    lane_programs(is_worth=lambda *_: True)
    found = counted(monkeypatch, lanes, "train_in_lanes", 1)
    given = fastmlp.MLPRegressor(
        hidden_layer_sizes=(5,), max_iter=1, random_state=1, batch_size=batch_size,
        early_stopping=early_stopping, backend="fused",
    )  # fmt: skip
    # Two threads might divide the folds so that no two folds go together.
    options = {"cv": KFold(4), "error_score": "raise", "n_jobs": 1}
    theirs, ours = (
        package.cross_val_score(given, X[:30], Y[:30], **options) for package in (model_selection, fastmlp)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert found
