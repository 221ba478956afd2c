"""Inputs that are mostly zeros, compared with scikit-learn: python -m benchmarks.sparse [ROW ..].

Each row's trainings and predictions run on one core, by turns, and the least CPU time of each counts. An
epoch's time is the difference between trainings of several epochs and of one. "dense" takes the same numbers
as an array, by steps that pass over no zeros; scikit-learn takes both forms.
"""

import argparse
import os
import warnings
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before any library reads them

import numpy as np
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier as Theirs

from fastmlp import MLPClassifier, SparseAdam
from fastmlp.estimators import base
from fastmlp.lab.timing import CLOCKS, in_alternation, once

from .pinning import allowed, pin


class Row(NamedTuple):
    """A table and what trains on it.

    per_row : numbers in a row that are not 0; categories: in each of so many columns one
    options : of both estimators; ours : solvers of our own to try besides
    dense : whether it can be held, and trained on, as an array
    """

    rows: int
    columns: int
    per_row: int
    dtype: str
    options: dict
    ours: dict = {}  # noqa: RUF012  # nobody writes to it
    categories: int = 0
    classes: int = 2
    dense: bool = True
    batch: int = 200

    def draw(self):
        """Return X as CSR, and y."""
        rng = np.random.default_rng(0)
        if self.categories:
            levels = self.columns // self.categories
            columns = rng.integers(0, levels, (self.rows, self.categories)) + levels * np.arange(
                self.categories
            )
        else:
            columns = np.stack(
                [np.sort(rng.choice(self.columns, self.per_row, replace=False)) for _ in range(self.rows)]
            )
        values = np.ones(columns.size) if self.categories else rng.random(columns.size)
        bounds = np.arange(0, columns.size + 1, columns.shape[1])
        shape = self.rows, self.columns
        X = scipy.sparse.csr_array((values.astype(self.dtype), columns.ravel(), bounds), shape=shape)
        return X, rng.integers(0, self.classes, self.rows)


PLAIN = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "alpha": 0.0}

ROWS = {
    "digits-like 784-128-10 b128 float32": Row(
        6400, 784, 149, "float32", {"hidden_layer_sizes": (128,), **PLAIN}, classes=10, batch=128
    ),
    "words 20 000 at 126, 100, adam float64": Row(
        4000,
        20_000,
        126,
        "float64",
        {"hidden_layer_sizes": (100,)},
        {"SparseAdam": SparseAdam()},
        dense=False,
    ),
    "words 20 000 at 126, 100, adam float32": Row(
        4000,
        20_000,
        126,
        "float32",
        {"hidden_layer_sizes": (100,)},
        {"SparseAdam": SparseAdam()},
        dense=False,
    ),
    "words 100 000 at 50, 100, sgd float64": Row(
        4000, 100_000, 50, "float64", {"hidden_layer_sizes": (100,), **PLAIN}, dense=False
    ),
    "12 categories of 40, 64-32, adam float32": Row(
        6400, 480, 12, "float32", {"hidden_layer_sizes": (64, 32), "alpha": 0.0}, categories=12
    ),
    "12 categories of 40, 64-32, sgd float32": Row(
        6400, 480, 12, "float32", {"hidden_layer_sizes": (64, 32), **PLAIN}, categories=12
    ),
}


@contextmanager
def no_turning():
    """Dense inputs stay dense."""
    turn = base.inputs_of_steps
    base.inputs_of_steps = lambda *given: given[4]
    try:
        yield
    finally:
        base.inputs_of_steps = turn


def least(calls, turns):
    """Return the least CPU seconds of each call, which take turns."""
    timed = {name: partial(once, call, CLOCKS["cpu"]) for name, call in calls.items()}
    return {name: taken.best for name, taken in in_alternation(timed, least=turns).items()}


def measure(name, row, turns):
    X, y = row.draw()
    options = {
        "random_state": 0,
        "batch_size": row.batch,
        "tol": 0.0,
        "n_iter_no_change": 10**6,
        **row.options,
    }
    ours = partial(MLPClassifier, threads=1, backend="fused")
    kinds = {"fastmlp": (ours, X), "scikit-learn": (Theirs, X)}
    for label, solver in row.ours.items():
        kinds[label] = (partial(ours, solver=solver), X)
    if row.dense:
        kinds |= {"fastmlp dense": (ours, X.toarray()), "scikit-learn dense": (Theirs, X.toarray())}
    many = {name: 2 if name.startswith("scikit") else 6 for name in kinds}

    def train(name, epochs):
        kind, given = kinds[name]
        with no_turning():
            return kind(max_iter=epochs, **options).fit(given, y)

    fitted = {name: train(name, 1) for name in kinds}
    calls = {(n, e): partial(train, n, e) for n in kinds for e in (1, many[n])}
    took = least(calls, turns)
    epochs = {n: (took[n, e] - took[n, 1]) / (e - 1) for n, e in many.items()}
    some = {n: X[:1000] if given is X else given[:1000] for n, (_, given) in kinds.items()}
    thousand = least({n: partial(fitted[n].predict, some[n]) for n in kinds}, 3 * turns)
    one = {n: given[:1] for n, given in some.items()}
    single = least({n: partial(repeat, fitted[n].predict, one[n]) for n in kinds}, 3 * turns)
    print(f"\n{name}: {row.rows} rows, batch {row.batch}")
    print("| | epoch, ms | times ours | predict 1000 rows, ms | 1 row, us |\n|---|---|---|---|---|")
    for n in kinds:
        print(
            f"| {n} | {1e3 * epochs[n]:.3g} | {epochs[n] / epochs['fastmlp']:.2f} | "
            f"{1e3 * thousand[n]:.3g} | {1e6 * single[n] / REPEATS:.3g} |"
        )


REPEATS = 20


def repeat(call, given):
    for _ in range(REPEATS):
        call(given)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse", description=__doc__.splitlines()[0])
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="a part of a row's name; all rows if none is given"
    )
    parser.add_argument("--turns", type=int, default=5, help="how often each is timed")
    given = parser.parse_args()
    pin([min(allowed())])
    warnings.simplefilter("ignore", ConvergenceWarning)
    for name, row in ROWS.items():
        if not given.rows or any(part in name for part in given.rows):
            measure(name, row, given.turns)


if __name__ == "__main__":
    main()
