"""The median rule: a training ends where its best value is worse than what half of the others had."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

import fastmlp
from fastmlp import Callback, MedianStopping
from fastmlp.callbacks.callback import Run

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(60, 3)), RNG.normal(size=(60, 1))
NETWORK = fastmlp.Network([3, 4, 1])


class Curve(Callback):
    """Writes given values to the history, one for each epoch."""

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, run: Run) -> None:
        run.history.setdefault("value", []).append(self.values[run.epoch - 1])


def epochs(curves, **options):
    """How many epochs models take one after another, whose values are these curves."""
    rule = MedianStopping(**{"first_epoch": 2, "least": 2, "monitor": "value", **options})
    return [
        len(
            fastmlp.fit(
                NETWORK, X, Y, epochs=4, callbacks=[Curve(curve), copied], backend="reference", progress=False
            ).history["loss"]
        )
        for curve, copied in zip(curves, copies_of(rule, len(curves)), strict=True)
    ]


def copies_of(rule, count):
    """Copies as `fit_many` and scikit-learn make them."""
    return [copy.deepcopy(rule) for _ in range(count)]


def test_a_training_ends_where_its_best_is_worse_than_the_median_of_means():
    better, worse = [2.0, 1.0, 1.0, 1.0], [3.0, 3.0, 1.0, 0.0]
    # Of the means of the first two values, 1.5 and 1.5, the median is below the third training's best, 3.
    assert epochs([better, better, worse, better]) == [4, 4, 2, 4]
    assert epochs([better, better, worse], least=3) == [4, 4, 4]
    assert epochs([better, better, worse], first_epoch=3) == [4, 4, 4]  # which is better by then


def test_the_greatest_may_be_the_best_and_nan_is_the_worst():
    assert epochs([[2.0] * 4, [2.0] * 4, [1.0] * 4], mode="max") == [4, 4, 2]
    assert epochs([[2.0] * 4, [2.0] * 4, [math.nan] * 4]) == [4, 4, 2]


def test_models_of_one_call_know_of_one_another():
    rates = [1e-2, 1e-2, 1e-2, 1e-7]
    models = fastmlp.fit_many(
        NETWORK, X, Y, optimizer=[fastmlp.Adam(rate) for rate in rates], epochs=30, seed=[0] * 4, threads=1,
        callbacks=[MedianStopping(first_epoch=3, least=2)], backend="reference",
    )  # fmt: skip
    assert [len(model.history["loss"]) for model in models] == [30, 30, 30, 3]
    assert "is worse than the median of" in models[-1].stop_reason


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"least": 0}, "least must be at least 1, got 0"),
        ({"first_epoch": 0}, "first_epoch must be at least 1"),
        ({"mode": "best"}, "mode"),
    ],
)
def test_mistakes_are_said_in_a_line(options, line):
    with pytest.raises(ValueError, match=line):
        MedianStopping(**options)
