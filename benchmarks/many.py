"""Many models in one call of `fit_many`, compared with a loop over `fit` and with other libraries.

python -m benchmarks.many prints one table. The calls of a row take turns, so that a machine's load hits
all; a figure is the least of the turns, with as many threads as the process has cores on each side, and all
programs on the disk. With --curve PATH it prints and draws what a model takes against
the number of models in the call.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import sklearn.neural_network
from sklearn.datasets import load_digits

import fastmlp
from benchmarks.start import print_heading
from fastmlp.backend import lanes
from fastmlp.lab.timing import CLOCKS, in_alternation, once

Call = Callable[[], object]


class Row(NamedTuple):
    """Calls that train the same models; steps : of all models together."""

    name: str
    steps: int
    calls: dict[str, Call]


def notebook_in_jax(X: np.ndarray, y: np.ndarray, models: int, steps: int) -> Call:
    """Return the training of the notebook's networks by JAX: vmap over models of a scan over steps."""
    import jax
    import jax.numpy as jnp

    def loss(parameters: dict[str, jax.Array]) -> jax.Array:
        hidden = jax.nn.relu(X @ parameters["W"] + parameters["b"])
        return ((jax.nn.sigmoid(hidden @ parameters["V"] + parameters["c"])[:, 0] - y) ** 2).mean()

    def one(key: jax.Array) -> dict[str, jax.Array]:
        first, second = jax.random.split(key)
        start = {
            "W": jax.random.normal(first, (3, 4)), "b": jnp.zeros(4),
            "V": jax.random.normal(second, (4, 1)), "c": jnp.zeros(1),
        }  # fmt: skip

        def step(p: dict[str, jax.Array], _: None) -> tuple[dict[str, jax.Array], None]:
            return jax.tree.map(lambda a, g: a - 0.3 * g, p, jax.grad(loss)(p)), None

        return jax.lax.scan(step, start, length=steps)[0]

    train = jax.jit(jax.vmap(one))
    return lambda: jax.block_until_ready(train(jax.random.split(jax.random.key(0), models)))


def compiled(network: fastmlp.Network, optimizer: Any, X: np.ndarray, y: np.ndarray, batch_size: int) -> None:
    """Have both programs on the disk as after some such calls: of the network alone, and of many together."""
    lanes.program_of("specialized", network, optimizer, len(X), batch_size, np.dtype("f4")).compile()
    given = {"optimizer": optimizer, "epochs": 1, "batch_size": batch_size, "backend": "specialized"}
    fastmlp.fit(network, X, y, **given)


def rows() -> Iterator[Row]:
    """Yield what is measured."""
    rng = np.random.default_rng(0)
    X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], np.float32)
    y = np.array([0, 1, 1, 0], np.float32)
    notebook, sgd = fastmlp.Network([3, 4, 1], output="sigmoid", loss="mse"), fastmlp.SGD(0.3)
    options = {"optimizer": sgd, "epochs": 1000, "batch_size": None}
    compiled(notebook, sgd, X, y, 4)
    calls = {
        "fit_many": lambda: fastmlp.fit_many(notebook, X, y, n_models=256, seed=0, **options),
        "loop over fit": lambda: [fastmlp.fit(notebook, X, y, seed=seed, **options) for seed in range(256)],
    }
    if importlib.util.find_spec("jax"):
        calls["JAX, vmap and scan"] = notebook_in_jax(X, y, 256, 1000)
    yield Row("256 of 3-4-1, 4 rows, 1000 steps", 256 * 1000, calls)
    yield Row(
        "1 of 3-4-1, 4 rows, 1000 steps", 1000,
        {
            "fit_many": lambda: fastmlp.fit_many(notebook, X, y, n_models=1, seed=0, **options),
            "loop over fit": lambda: fastmlp.fit(notebook, X, y, seed=0, **options),
        },
    )  # fmt: skip

    own = [rng.standard_normal((200, 5), np.float32) for _ in range(1000)]
    targets = [np.sin(x.sum(axis=1)) for x in own]
    regressor, short = fastmlp.Network([5, 16, 1]), {"epochs": 200, "batch_size": 200}
    theirs = {"hidden_layer_sizes": (16,), "max_iter": 200, "n_iter_no_change": 200, "batch_size": 200}
    few = 20
    compiled(regressor, fastmlp.Adam(), own[0], targets[0], 200)
    yield Row(
        "1000 of 5-16-1, 200 own rows, 200 epochs", 1000 * 200,
        {
            "fit_many": lambda: fastmlp.fit_many(regressor, own, targets, seed=0, **short),
            "loop over fit": lambda: [
                fastmlp.fit(regressor, *pair, seed=seed, **short)
                for seed, pair in enumerate(zip(own, targets, strict=True))
            ],
            f"scikit-learn, {few} of them": lambda: [
                sklearn.neural_network.MLPRegressor(**theirs).fit(*pair)
                for pair in zip(own[:few], targets[:few], strict=True)
            ],
        },
    )  # fmt: skip

    epochs, longer = 1000, {"epochs": 1000, "batch_size": 200, "seed": 0, "threads": 1}
    steady = fastmlp.SGD(0.01)
    halves = [steady, fastmlp.SGD(lambda epoch: 0.01 if epoch < epochs // 10 else 1e38)] * 250
    compiled(regressor, steady, own[0], targets[0], 200)

    def train(count: int, optimizer: Any) -> object:
        return fastmlp.fit_many(regressor, own[0], targets[0], n_models=count, optimizer=optimizer, **longer)

    yield Row(
        f"500 of 5-16-1, 200 rows, {epochs} epochs, one thread", 500 * epochs,
        {
            "fit_many": functools.partial(train, 500, steady),
            "250 of them diverge at a tenth": functools.partial(train, 500, halves),
            "250 alone": functools.partial(train, 250, steady),
        },
    )  # fmt: skip

    digits, labels = load_digits(return_X_y=True)
    digits = (digits / 16).astype(np.float32)
    network, given = fastmlp.Network([64, 50, 10], output="softmax", loss="cross_entropy"), {"epochs": 10}
    compiled(network, fastmlp.Adam(), digits, labels, 32)
    yield Row(
        "100 of 64-50-10, digits, 10 epochs", 100 * 10 * 57,
        {
            "fit_many": lambda: fastmlp.fit_many(network, digits, labels, n_models=100, seed=0, **given),
            "loop over fit": lambda: [
                fastmlp.fit(network, digits, labels, seed=seed, **given) for seed in range(100)
            ],
        },
    )  # fmt: skip
    yield Row(
        "1 of 64-50-10, digits, 10 epochs", 10 * 57,
        {
            "fit_many": lambda: fastmlp.fit_many(network, digits, labels, n_models=1, seed=0, **given),
            "loop over fit": lambda: fastmlp.fit(network, digits, labels, seed=0, **given),
        },
    )  # fmt: skip


def least_seconds(calls: Mapping[Any, Call], rounds: int, clock: str = "wall") -> dict[Any, float]:
    """Return the least time of each call, taken in turns; clock : a key of `CLOCKS`."""
    timed = {name: functools.partial(once, call, CLOCKS[clock]) for name, call in calls.items()}
    return {name: time.best for name, time in in_alternation(timed, least=rounds).items()}


def draw_curve(path: str) -> None:
    """Print and draw what a model takes against the number of models, from 1 to 10 000."""
    import matplotlib.pyplot as plt

    X = np.random.default_rng(0).standard_normal((200, 5), np.float32)
    network, counts = fastmlp.Network([5, 16, 1]), [1, 10, 100, 1000, 10_000]

    def train(count: int) -> object:
        return fastmlp.fit_many(network, X, X[:, 0], n_models=count, epochs=20, seed=0)

    compiled(network, fastmlp.Adam(), X, X[:, 0], 32)
    train(10)
    least = least_seconds({count: functools.partial(train, count) for count in counts}, 3)
    times = [1e3 * seconds / count for count, seconds in least.items()]
    print("| models in the call | ms a model |\n|---|---|")
    for pair in zip(counts, times, strict=True):
        print("| {} | {:.3f} |".format(*pair))
    figure, axes = plt.subplots()
    axes.loglog(counts, times, "o-")
    axes.set(xlabel="models in the call", ylabel="ms a model, 5-16-1, 200 rows, 20 epochs")
    figure.savefig(path)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each row; default 5")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, on a busy machine"
    )
    parser.add_argument("--curve", metavar="PATH", help="a picture to draw, instead of the table")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.curve:
        draw_curve(options.curve)
        return
    print_heading("benchmarks.many")
    print("| models | call | ms | us a step of a model |\n|---|---|---|---|")
    for name, steps, calls in rows():
        for what, least in least_seconds(calls, options.rounds, options.clock).items():
            print(f"| {name} | {what} | {1e3 * least:.2f} | {1e6 * least / steps:.3f} |", flush=True)


if __name__ == "__main__":
    main()
