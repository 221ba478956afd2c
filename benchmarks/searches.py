"""Searches and bags of networks: fastmlp's in one call, compared with scikit-learn's classes.

python -m benchmarks.searches prints one table. The calls of a row take turns, so that a machine's load hits
all alike; a figure is the least of the turns, in wall time, with all programs on the disk, as after some such
searches. Each side has two threads, or two jobs. With --cold the first turn counts: give it a new
FASTMLP_CACHE_DIR, so that it compiles.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import sklearn.ensemble
import sklearn.model_selection
import sklearn.neural_network
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fastmlp
from benchmarks.many import Call, least_seconds
from benchmarks.start import print_heading
from fastmlp.lab.timing import CLOCKS, once

JOBS = 2


class Row(NamedTuple):
    """Calls that train the same networks.

    compiled : has the networks' own programs compiled
    """

    name: str
    calls: dict[str, Call]
    compiled: Call


def compiling(sizes: list[tuple[int, ...]], X: np.ndarray, y: np.ndarray) -> Call:
    """Return what has the own programs of networks with these hidden layers compiled, for such rows."""
    given = {"backend": "specialized", "max_iter": 1}
    return lambda: [fastmlp.MLPClassifier(size, **given).fit(X, y) for size in sizes]


def grid(name: str, hidden: list[tuple[int, ...]], rates: list[float], penalties: list[float]) -> Row:
    """Return searches over the same candidates, on 100 epochs of scaled rows."""
    X, y = load_breast_cancer(return_X_y=True)
    choices = {"hidden_layer_sizes": hidden, "learning_rate_init": rates, "alpha": penalties}
    table = {f"mlpclassifier__{one}": values for one, values in choices.items()}
    given = {"max_iter": 100, "n_iter_no_change": 100, "random_state": 0}

    def call(searches: Any, networks: Any) -> Call:
        pipeline = make_pipeline(StandardScaler(), networks.MLPClassifier(**given))
        return lambda: searches.GridSearchCV(pipeline, table, cv=5, n_jobs=JOBS, refit=False).fit(X, y)

    theirs = sklearn.model_selection
    return Row(
        name,
        {
            "fastmlp's search": call(fastmlp, fastmlp),
            "scikit-learn's search of fastmlp's networks": call(theirs, fastmlp),
            "scikit-learn's search of its own": call(theirs, sklearn.neural_network),
        },
        compiling(hidden, X, y),
    )


def bag() -> Row:
    """Return bags of classifiers of digits, trained and used to predict."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    given = {"hidden_layer_sizes": (50,), "max_iter": 20, "n_iter_no_change": 20}

    def call(made: Any, networks: Any) -> Call:
        many = made(networks.MLPClassifier(**given), n_estimators=100, n_jobs=JOBS, random_state=0)
        return lambda: many.fit(X, y).predict(X)

    theirs = sklearn.ensemble.BaggingClassifier
    return Row(
        "100 bagged (50,), digits, 20 epochs, with predictions",
        {
            "fastmlp's bag": call(fastmlp.MLPEnsembleClassifier, fastmlp),
            "scikit-learn's bag of fastmlp's networks": call(theirs, fastmlp),
            "scikit-learn's bag of its own": call(theirs, sklearn.neural_network),
        },
        compiling([(50,)], X, y),
    )


def rows() -> Iterator[Row]:
    """Yield what is measured."""
    rates = [*np.geomspace(1e-4, 1e-2, 8)]
    yield grid("64 x 5 of (100,), breast_cancer, 100 epochs", [(100,)], rates, [*np.geomspace(1e-5, 1, 8)])
    sizes = [(8,), (12,), (16,), (24,), (32,)]
    yield grid("60 x 5 of (8,) to (32,), breast_cancer, 100 epochs", sizes, rates[:4], [1e-4, 1e-2, 1.0])
    yield bag()


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.searches", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each row; default 2")
    parser.add_argument("--cold", action="store_true", help="the first turns count, compiling included")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has this text")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print_heading("benchmarks.searches")
    print("| models | call | s | times as long as the first |\n|---|---|---|---|")
    for name, calls, compiled in rows():
        if options.only not in name:
            continue
        if options.cold:
            least = {what: once(call, CLOCKS["wall"]) for what, call in calls.items()}
        else:
            compiled()
            least = least_seconds(calls, options.rounds)
        first = next(iter(least.values()))
        for what, took in least.items():
            print(f"| {name} | {what} | {took:.2f} | {took / first:.1f} |", flush=True)


if __name__ == "__main__":
    main()
