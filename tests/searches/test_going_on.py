"""Successive halving over epochs goes on with the networks of the round before, to scikit-learn's results."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import model_selection
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # scikit-learn's halving needs it
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.problems import data_set
from support.searches import assert_same_results

import fastmlp
from fastmlp import Callback, MLPClassifier
from fastmlp.searches import tasks

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = data_set("iris", 60)
GIVEN = {"hidden_layer_sizes": (4,), "random_state": 0, "backend": "reference"}
RATES = [1e-6, 1e-3, 1e-2, 0.1]


def halved(estimator, prefix=""):
    """scikit-learn's results are ours; return where each training began, and its epochs, by rounds."""
    options = {
        "resource": f"{prefix}max_iter", "min_resources": 3, "max_resources": 27, "cv": 3, "random_state": 0,
    }  # fmt: skip
    grid, found, together = {f"{prefix}learning_rate_init": RATES}, [], tasks.train_together

    def noted(awaited, threads):
        begun = [one.training.resumed for one in awaited]
        found.append(
            [
                (len(at.history["loss"]) if at else 0, one.plan.epochs)
                for at, one in zip(begun, awaited, strict=True)
            ]
        )
        return together(awaited, threads)

    theirs = model_selection.HalvingGridSearchCV(estimator, grid, **options).fit(X, Y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "train_together", noted)
        ours = fastmlp.HalvingGridSearchCV(estimator, grid, **options).fit(X, Y)
    assert_same_results(ours.cv_results_, theirs.cv_results_)
    np.testing.assert_array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    return found


def test_a_round_goes_on_from_the_one_before_to_the_same_bits():
    assert halved(MLPClassifier(**GIVEN)) == [[(0, 3)] * 12, [(3, 9)] * 6]  # 3 folds each


def test_a_network_that_has_stopped_takes_no_more_steps():
    found = halved(MLPClassifier(**GIVEN, tol=10.0, n_iter_no_change=1))
    assert found[1] == [(3, 3)] * 6


def test_several_that_go_on_from_one_training_have_curves_of_their_own():
    """SGD reads no beta_1: its candidates have one training, from which each goes on."""
    options = {"resource": "max_iter", "min_resources": 4, "max_resources": 16, "cv": 2, "factor": 2}
    grid = {"beta_1": [0.9, 0.8, 0.7, 0.6], "learning_rate_init": [0.2, 1e-6]}
    estimator = MLPClassifier(**GIVEN, solver="sgd", n_iter_no_change=1)
    searches = [
        of.HalvingGridSearchCV(estimator, grid, **options, random_state=0).fit(X, Y)
        for of in (fastmlp, model_selection)
    ]
    assert_same_results(*[search.cv_results_ for search in searches])
    assert searches[0].best_estimator_.n_iter_ == searches[1].best_estimator_.n_iter_


def test_it_goes_on_within_a_pipeline():
    classifier = MLPClassifier(**GIVEN, shuffle=False, solver="sgd")
    found = halved(make_pipeline(StandardScaler(), classifier), "mlpclassifier__")
    assert found[1] == [(3, 9)] * 6


def test_the_picture_has_a_line_for_each_candidate_over_its_epochs():
    pytest.importorskip("matplotlib")
    options = {"resource": "max_iter", "min_resources": 3, "max_resources": 27, "cv": 3, "random_state": 0}
    search = fastmlp.HalvingGridSearchCV(MLPClassifier(**GIVEN), {"learning_rate_init": RATES}, **options)
    rates, budget = search.fit(X, Y).plot().axes
    assert (rates.get_xlabel(), budget.get_xlabel()) == ("learning_rate_init", "max_iter")
    assert sorted(len(line.get_xdata()) for line in budget.lines) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "options",
    [{"early_stopping": True}, {"learning_rate": "adaptive", "solver": "sgd"}, {"callbacks": [Callback()]}],
    ids=" ".join,
)
def test_what_keeps_more_than_a_network_begins_again(options):
    found = halved(MLPClassifier(**GIVEN, **options))
    assert {begin for of_round in found for begin, _ in of_round} == {0}
