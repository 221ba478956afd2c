"""Results of searches that must be equal to the last digit, and how many networks train together."""

import threading

import joblib
import numpy as np
from sklearn import model_selection

from fastmlp import MLPClassifier
from fastmlp.searches import tasks
from support.problems import data_set

X, Y = data_set("iris", 60)
GIVEN = {"hidden_layer_sizes": (4,), "max_iter": 4, "random_state": 0, "backend": "reference"}


def assert_same_results(ours, theirs):
    """Tables of results are equal, but for times and fitted estimators."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        if "time" not in name and name != "estimator":
            np.testing.assert_array_equal(np.array(ours[name]), np.array(expected), name)


def counted(monkeypatch, module=tasks, name="train_together", argument=0):
    """How many trainings a function takes together from now on, one number for each call.

    argument : which of the function's has them
    """
    found = []
    function = getattr(module, name)

    def noted(*given):
        found.append(len(given[argument]))
        return function(*given)

    monkeypatch.setattr(module, name, noted)
    return found


def classifier(**options):
    return MLPClassifier(**{**GIVEN, **options})


def together(**options):
    """A block in which networks train together."""
    return joblib.parallel_config("fastmlp", **options)


def twice(call):
    """What a call gives without the block, and within it."""
    alone = call()
    with together():
        return alone, call()


def both(name, *given, fit=None, **options):
    """What scikit-learn's function or fitted search of this name gives alone, and within the block."""

    def call():
        made = getattr(model_selection, name)(*given, **options)
        return made if fit is None else made.fit(*fit[:2], **(fit[2] if fit[2:] else {}))

    return twice(call)


def within(name, *given, **options):
    """What it gives within the block."""
    with together():
        return getattr(model_selection, name)(*given, **options)


def assert_nothing_runs():
    assert not [thread for thread in threading.enumerate() if isinstance(thread, tasks.Task)]
