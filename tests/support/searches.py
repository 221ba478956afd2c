"""Results of searches that must be equal to the last digit, and how many networks train together."""

import threading

import numpy as np
from sklearn import model_selection

import fastmlp
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


def both(name, *given, **options):
    """What scikit-learn's function or fitted search of this name gives, and ours."""
    fit = options.pop("fit", None)
    found = []
    for package in (model_selection, fastmlp):
        made = getattr(package, name)(*given, **options)
        found.append(made if fit is None else made.fit(*fit[:2], **(fit[2] if fit[2:] else {})))
    return found


def assert_nothing_runs():
    assert not [thread for thread in threading.enumerate() if isinstance(thread, tasks.TaskThread)]
