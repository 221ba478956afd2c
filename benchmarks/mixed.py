"""What products of bfloat16 numbers gain, and what they cost: python -m benchmarks.mixed.

Steps with dtype="bfloat16" by each instruction that the processor has, and in float32 by the faster of
`fused` and `packed`, in alternation on one thread; then the share of held-out digits that a network
classifies rightly.
"""

import argparse
import time
from functools import partial

import numpy as np
from sklearn.datasets import load_digits

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.mixed.tiles import WHY_NOT
from fastmlp.lab.timing import in_alternation
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.state import initial_state

WORKS = (
    ((64, 128, 10), 32, fastmlp.Adam()),
    ((784, 128, 10), 128, fastmlp.SGD(0.1)),
    ((784, 128, 10), 128, fastmlp.Adam()),
    ((28, 256, 256, 2), 256, fastmlp.Adam()),
    ((784, 1024, 1024, 10), 256, fastmlp.Adam()),
    ((1024, 2048, 2048, 10), 1024, fastmlp.SGD(0.1)),
    ((1024, 2048, 2048, 10), 1024, fastmlp.Adam()),
)

TURN_SECONDS = 0.01
"""What one turn lasts, or a step if that is more."""

SEEDS = range(5)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each; default %(default)s")
    options = parser.parse_args()
    possible = [name for name, why_not in WHY_NOT.items() if why_not() is None]
    for sizes, rows, optimizer in WORKS:
        names = ["fused", "packed", *possible]
        steps = [steps_of(registry.get(name), sizes, rows, optimizer) for name in names]
        calls = {
            name: partial(take, max(1, round(TURN_SECONDS / take(2))))
            for name, take in zip(names, steps, strict=True)
        }
        least = {name: taken.best for name, taken in in_alternation(calls, least=options.rounds).items()}
        single = min(least.pop("fused"), least.pop("packed"))
        found = [f"{name} {1e6 * t:.0f} us, {single / t:.2f} times as fast" for name, t in least.items()]
        work = f"{'-'.join(map(str, sizes))}, {rows} rows, {type(optimizer).__name__}"
        print(f"{work}: float32 {1e6 * single:.0f} us; {'; '.join(found)}", flush=True)
    for dtype in ("float32", "bfloat16")[: 1 + bool(possible)]:
        scores = [accuracy(dtype, seed) for seed in SEEDS]
        print(f"digits, 64-128-64-10, {dtype}: {np.mean(scores):.2%} of held-out rows, {len(scores)} seeds")


def steps_of(backend, sizes, rows, optimizer):
    """Return what takes so many steps, and gives the processor's seconds for one; the rates are 0."""
    rng, network = np.random.default_rng(0), fastmlp.Network(sizes, "relu", "softmax", "cross_entropy")
    count = 2 * rows
    labels = np.eye(sizes[-1], dtype=np.float32)[rng.integers(0, sizes[-1], count)]
    data = Data(rng.random((count, sizes[0]), np.float32), labels, np.ones(count, np.float32))
    state = initial_state(0.05 * rng.standard_normal(parameter_count(fastmlp.Network(sizes)), np.float32))
    order = rng.permutation(count)

    def take(steps):
        starts = np.arange(steps) % 2 * rows
        totals, rates = np.full(steps, float(rows)), np.zeros((steps, 2))
        chunk = Chunk(order, starts, starts + rows, totals, rates, rows)
        began = time.thread_time()
        backend.train_chunk(network, optimizer, state, data, chunk, 0, 1, np.empty(steps))
        return (time.thread_time() - began) / steps

    take(1)
    return take


def accuracy(dtype, seed):
    """Return the share of held-out digits that a network classifies rightly after 30 epochs."""
    digits = load_digits()
    X, y = (digits.data / 16).astype(np.float32), digits.target
    order = np.random.default_rng(seed).permutation(len(X))
    train, test = order[:1200], order[1200:]
    network = fastmlp.Network([64, 128, 64, 10], output="softmax", loss="cross_entropy")
    model = fastmlp.fit(
        network, X[train], y[train], epochs=30, seed=seed, dtype=dtype, progress=False, threads=1
    )
    return (model.predict(X[test]).argmax(axis=1) == y[test]).mean()


if __name__ == "__main__":
    main()
