"""What surrounds the steps of a small training: processor time in one process, and what the steps take of it.

python -m benchmarks.small_fits prints one table. Every call takes turns with what it is compared with, so
that a machine's load hits both alike; a figure is the least of its rounds, in processor time. Steps alone are
a share of a training of a thousand times as many. fastmlp has one thread, scikit-learn by OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import sklearn.neural_network

import fastmlp
from benchmarks.start import print_heading
from fastmlp.lab.timing import CLOCKS, in_alternation, once

Call = Callable[[], object]
LONG = 1000


class Row(NamedTuple):
    """A call, and another that is compared with it, `other` in words, which does `per` times as much."""

    name: str
    call: Call
    other_name: str
    other: Call
    per: int
    calls: int


def rows() -> Iterator[Row]:
    """Yield what is measured."""
    rng = np.random.default_rng(0)
    X, y = np.array([[0.0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]]), np.array([0.0, 1, 1, 0])
    notebook = fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse")
    sgd = fastmlp.SGD(1.2, bias_learning_rate=0.3)

    def fit(epochs: int) -> Call:
        return lambda: fastmlp.fit(
            notebook, X, y, optimizer=sgd, epochs=epochs, batch_size=None, seed=0, progress=False, threads=1
        )

    # "auto" finds programs from now on, as where such trainings have taken what these take to compile.
    fastmlp.fit(notebook, X, y, optimizer=sgd, epochs=1, batch_size=None, seed=0, backend="specialized")

    yield Row("fit, 100 steps of 3-4-1", fit(100), "100 steps", fit(100 * LONG), LONG, 200)

    table = rng.random((100, 5))
    number = np.sin(table.sum(axis=1))  # learnt slowly enough for 200 epochs
    options = {"hidden_layer_sizes": (16,), "max_iter": 200, "random_state": 0}
    yield Row(
        "MLPRegressor, 200 epochs of 5-16-1, 100 rows",
        lambda: fastmlp.MLPRegressor(**options, backend="fused").fit(table, number), "scikit-learn",
        lambda: sklearn.neural_network.MLPRegressor(**options).fit(table, number), 1, 3,
    )  # fmt: skip

    inputs, targets = rng.random((64, 17), np.float32), rng.random((64, 6), np.float32)
    network, given = fastmlp.Network([17, 64, 64, 6]), {"batch_size": 64, "progress": False, "threads": 1}
    fastmlp.fit(network, inputs, targets, epochs=1, backend="specialized", **given)
    held = [fastmlp.fit(network, inputs, targets, epochs=1, **given)]

    def go_on() -> None:
        held[0] = held[0].fit_more(inputs, targets, epochs=1, progress=False, threads=1)

    yield Row(
        "fit_more, a step of 17-64-64-6, batch 64", go_on, "a step",
        lambda: fastmlp.fit(network, inputs, targets, epochs=LONG, **given), LONG, 100,
    )  # fmt: skip

    for count in (1, 8, 32, 256):
        some, labels = rng.random((count, 64)), np.arange(count) % 10
        ours, theirs = (
            package.MLPClassifier((100,), random_state=0).partial_fit(some, labels, classes=np.arange(10))
            for package in (fastmlp, sklearn.neural_network)
        )
        yield Row(
            f"partial_fit, {count} rows of 64-100-10",
            lambda ours=ours, X=some, y=labels: ours.partial_fit(X, y), "scikit-learn",
            lambda theirs=theirs, X=some, y=labels: theirs.partial_fit(X, y), 1, 30,
        )  # fmt: skip
    yield from rows_of_metrics()


def rows_of_metrics(epochs: int = 20) -> Iterator[Row]:
    """Yield trainings with a metric, each compared with the same one without, and a prediction an epoch."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2000, 64), np.float32)
    kinds, sums = X[:, :10].argmax(axis=1), X.sum(axis=1)
    of_kinds = fastmlp.Network([64, 128, 10], "relu", "softmax", "cross_entropy"), kinds
    of_sums = fastmlp.Network([64, 128, 1], "relu"), sums

    def training(network: fastmlp.Network, y: np.ndarray, **options: object) -> fastmlp.Model:
        return fastmlp.fit(
            network, X[:64], y[:64], validation=(X, y), epochs=epochs, batch_size=64, seed=0, threads=1,
            progress=False, **options,
        )  # fmt: skip

    for metric, (network, y) in {
        "accuracy": of_kinds, "neg_log_loss": of_kinds, "neg_mean_squared_error": of_sums, "r2": of_sums,
    }.items():  # fmt: skip
        model = training(network, y)

        def without(network=network, y=y, model=model) -> None:
            training(network, y)
            for _ in range(epochs):
                model.predict(X)

        yield Row(
            f"fit, {epochs} epochs with {metric} of 2 000 rows of 64-128-{network.n_out}",
            lambda network=network, y=y, metric=metric: training(network, y, metrics=[metric]),
            "without, and a prediction an epoch", without, 1, 3,
        )  # fmt: skip


def microseconds(call: Call, calls: int, per: int = 1) -> float:
    """Return the processor time of a call, or of each of so many things that it does."""

    def repeated() -> None:
        for _ in range(calls):
            call()

    return once(repeated, CLOCKS["cpu"]) / (calls * per) * 1e6


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.small_fits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each row; default 10")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print_heading("benchmarks.small_fits")
    print("| call | us of processor time | compared with | us | times |\n|---|---|---|---|---|")
    for name, call, other_name, other, per, calls in rows():
        timed = {
            name: functools.partial(microseconds, call, calls),
            other_name: functools.partial(microseconds, other, max(1, calls // per), per),
        }
        own, theirs = (taken.best for taken in in_alternation(timed, least=options.rounds).values())
        print(f"| {name} | {own:.1f} | {other_name} | {theirs:.1f} | {theirs / own:.2f} |", flush=True)


if __name__ == "__main__":
    main()
