"""Results of searches that must be equal to the last digit, and how many networks train together."""

from __future__ import annotations

import numpy as np

from fastmlp.searches import tasks


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
