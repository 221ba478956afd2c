"""Estimators compared with scikit-learn's: the same training, to the same loss, then timed.

Each has one thread: scikit-learn's is the BLAS's, see `conftest.py`.

pytest --benchmark-only benchmarks/test_estimator_speed.py
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
import sklearn.neural_network
from sklearn.datasets import load_diabetes, load_digits, make_classification

import fastmlp
from benchmarks.share import in_words

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PACKAGES = {"fastmlp": fastmlp, "scikit-learn": sklearn.neural_network}


class Work(NamedTuple):
    """An estimator's class and options, and the data that it is fitted to."""

    name: str
    estimator: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name


WORKS = (
    Work("digits", "MLPClassifier"),
    Work("binary 20000x50", "MLPClassifier", (("max_iter", 10),)),
    Work("digits lbfgs", "MLPClassifier", (("solver", "lbfgs"), ("max_iter", 50))),
    Work("diabetes", "MLPRegressor", (("max_iter", 100), ("learning_rate_init", 0.01))),
    Work("digits as numbers", "MLPRegressor", (("max_iter", 50),)),
)

TOLERANCE = 1e-6
"""The relative tolerance of the losses that both end at; see
tests/estimators/test_estimator_trajectories.py."""


@functools.cache
def data_of(work):
    if work.name.startswith("binary"):
        return make_classification(20_000, 50, n_informative=20, random_state=0)
    X, y = load_diabetes(return_X_y=True) if work.name == "diabetes" else load_digits(return_X_y=True)
    return X, y if work.estimator == "MLPClassifier" else y.astype(float)


def fit(work, package):
    own = {"threads": 1} if package == "fastmlp" else {}
    estimator = getattr(PACKAGES[package], work.estimator)(random_state=0, **dict(work.options), **own)
    return estimator.fit(*data_of(work))


@functools.cache
def fitted(work, package):
    return fit(work, package)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("work", WORKS, ids=str)
def test_fit(benchmark, rounds, work, package):
    ours, theirs = fitted(work, "fastmlp"), fitted(work, "scikit-learn")
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=TOLERANCE)

    benchmark.group = f"fit {work.estimator} {work}, {in_words(1)}"
    call = functools.partial(fit, work, package)
    benchmark.pedantic(call, rounds=rounds(call), warmup_rounds=1)


@pytest.mark.parametrize("rows", [1, 1000])
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("work", [WORKS[0], WORKS[1], WORKS[4]], ids=str)
def test_predict(benchmark, rounds, work, package, rows):
    X = np.ascontiguousarray(data_of(work)[0][:rows])
    estimator, other = fitted(work, package), fitted(work, "scikit-learn")
    np.testing.assert_allclose(estimator.predict(X), other.predict(X), rtol=TOLERANCE)

    benchmark.group = f"predict {work.estimator} {work} {rows} rows, {in_words(1)}"
    call = functools.partial(estimator.predict, X)
    benchmark.pedantic(call, rounds=rounds(call), warmup_rounds=1)
