"""Which calls of scikit-learn's, and which estimators, need no thread: those that ask for nothing else."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from support.searches import GIVEN, X, Y

import fastmlp
from fastmlp import Callback, MLPClassifier
from fastmlp.searches import folds

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def call(monkeypatch):
    """A call of scikit-learn's that needs no thread."""
    seen, is_plain = [], folds.is_plain
    monkeypatch.setattr(folds, "is_plain", lambda call: seen.append(call) or is_plain(call))
    fastmlp.cross_val_score(MLPClassifier(**GIVEN), X, Y, cv=2)
    assert is_plain(seen[0])
    return seen[0]


@pytest.mark.parametrize(
    ("function", "named"),
    [
        ({"function": print}, {}),
        ({"warning_filters": []}, {}),
        ({"config": {**get_config(), "enable_metadata_routing": True}}, {}),
        ({"config": {**get_config(), "array_api_dispatch": True}}, {}),
        ({}, {"fit_params": {"sample_weight": np.ones(60)}}),
        ({}, {"score_params": {"sample_weight": np.ones(60)}}),
        ({}, {"verbose": 2}),
        ({}, {"return_estimator": True}),
        ({}, {"callback_ctx": SimpleNamespace(_callbacks=[print])}),
        ({}, {"scorer": MLPClassifier.score}),
        ({}, {"of a later release": None}),
    ],
)
def test_a_call_that_asks_for_more_is_scikit_learns_matter(function, named, call):
    changed = copy.copy(call[0])
    vars(changed).update(function)
    assert not folds.is_plain((changed, call[1], {**call[2], **named}))


def test_a_call_of_a_later_release_is_scikit_learns_matter(call, monkeypatch):
    without = {name: value for name, value in call[2].items() if name != "fit_params"}
    for changed in ((call[0], call[1], without), (call[0], call[1][:2], call[2])):
        task = SimpleNamespace(calls=[changed])
        with pytest.raises(StopIteration) as end:
            next(folds.fit_and_score(task, folds.SharedFolds({})))
        assert end.value.value is None


def with_steps(*names, **options):
    *before, last = names
    scalers = [(name, StandardScaler()) for name in before]
    return Pipeline([*scalers, (last, MLPClassifier(**GIVEN))], **options)


def with_callbacks(estimator):
    """An estimator that has some of scikit-learn's."""
    estimator._skl_callbacks = [print]
    return estimator


class OwnPipeline(Pipeline):
    """A pipeline of a user's own."""


class OwnNetwork(MLPClassifier):
    """A network of a user's own."""


@pytest.mark.parametrize(
    "estimator",
    [
        StandardScaler(),
        OwnNetwork(**GIVEN),
        *(
            MLPClassifier(**{**GIVEN, **options})
            for options in (
                {"solver": "lbfgs"},
                {"warm_start": True},
                {"verbose": True},
                {"progress": True},
                {"callbacks": [Callback()]},
                {"random_state": np.random.RandomState(0)},
            )
        ),
        with_callbacks(MLPClassifier(**GIVEN)),
        with_callbacks(with_steps("a", "b")),
        Pipeline([("b", with_callbacks(MLPClassifier(**GIVEN)))]),
        with_steps("a", "b", memory="cache"),
        with_steps("a", "b", verbose=True),
        with_steps("a", "b", transform_input=["sample_weight"]),
        with_steps("a", "a"),
        with_steps("a", "b__c"),
        with_steps("steps", "b"),
        OwnPipeline([("b", MLPClassifier(**GIVEN))]),
        Pipeline([("a", StandardScaler())]),
    ],
)
def test_an_estimator_that_does_more_than_to_fit_is_scikit_learns_matter(estimator):
    assert folds.network_in(MLPClassifier(**GIVEN), None) is not None
    assert folds.network_in(with_steps("a", "b"), {"b__alpha": 0.5}).alpha == 0.5
    assert folds.network_in(estimator, None) is None
