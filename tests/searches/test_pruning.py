"""The median rule, which ends the worse of several trainings."""

import copy
import math

from support.callbacks import Rates
from support.refusals import refusals
from support.small_fits import SMALL, X, Y, fit

import fastmlp
from fastmlp import MedianStopping


def epochs_of(curves, **options):
    """How many epochs models take one after another, whose values are these curves."""
    rule = MedianStopping(**{"first_epoch": 2, "least": 2, "monitor": "value", **options})
    return [
        len(fit("reference", epochs=4, callbacks=[Rates(curve), copied]).history["loss"])
        for curve, copied in zip(curves, [copy.deepcopy(rule) for _ in curves], strict=True)  # as `fit_many`
    ]


def test_a_training_ends_where_its_best_is_worse_than_the_median_of_means():
    better, worse = [2.0, 1.0, 1.0, 1.0], [3.0, 3.0, 1.0, 0.0]
    # Of the means of the first two values, 1.5 and 1.5, the median is below the third training's best, 3.
    assert epochs_of([better, better, worse, better]) == [4, 4, 2, 4]
    assert epochs_of([better, better, worse], least=3) == [4, 4, 4]
    assert epochs_of([better, better, worse], first_epoch=3) == [4, 4, 4]  # which is better by then
    assert epochs_of([[4.0, 0.0, 0.0, 0.0]] * 2 + [[1.0] * 4]) == [4, 4, 4]  # better than means, not than all


def test_the_greatest_may_be_the_best_and_nan_is_the_worst():
    assert epochs_of([[2.0] * 4, [2.0] * 4, [1.0] * 4], mode="max") == [4, 4, 2]
    assert epochs_of([[2.0] * 4, [2.0] * 4, [math.nan] * 4]) == [4, 4, 2]


def test_models_of_one_call_know_of_one_another():
    rates = [1e-2, 1e-2, 1e-2, 1e-7]
    models = fastmlp.fit_many(
        SMALL, X, Y, optimizer=[fastmlp.Adam(rate) for rate in rates], epochs=30, seed=[0] * 4, threads=1,
        callbacks=[MedianStopping(first_epoch=3, least=2)], backend="reference",
    )  # fmt: skip
    assert [len(model.history["loss"]) for model in models] == [30, 30, 30, 3]
    assert "is worse than the median of" in models[-1].stop_reason


test_mistakes_of_the_median_rule_are_one_line = refusals(
    [
        ({"least": 0}, "least must be at least 1, got 0"),
        ({"first_epoch": 0}, "first_epoch must be at least 1"),
        ({"mode": "best"}, "mode"),
    ],
    MedianStopping,
)
