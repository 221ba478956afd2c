"""One step by `Stepper` compared with one of `fit` and one of PyTorch, and the outputs of one row.

17-64-64-6 with batches of 64 rows, Adam, float32: a policy's network as reinforcement learning has it.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastmlp
from benchmarks.share import in_words

SIZES, ROWS, STEPS = (17, 64, 64, 6), 64, 100
NETWORK = fastmlp.Network(SIZES)


def data(rows):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, SIZES[0])).astype("f"), rng.normal(size=(rows, SIZES[-1])).astype("f")


def within_fit():
    """100 steps of `fit`."""
    X, y = data(ROWS * STEPS)
    return lambda: fastmlp.fit(
        NETWORK, X, y, optimizer=fastmlp.Adam(), epochs=1, batch_size=ROWS, threads=1, seed=0
    )


def stepper():
    return fastmlp.Stepper(NETWORK, fastmlp.Adam(), seed=0)


def repeated(call):
    def calls():
        for _ in range(STEPS):
            call()

    return calls


def by_step():
    one, (X, y) = stepper(), data(ROWS)
    return repeated(lambda: one.step(X, y))


def by_parts():
    one, (X, y) = stepper(), data(ROWS)
    out, delta = np.empty_like(y), y / np.float32(ROWS)

    def parts():
        one.forward(X, out)
        one.backward(delta, inputs=False)
        one.update()

    return repeated(parts)


def one_row():
    one, (X, _) = stepper(), data(1)
    return repeated(lambda: one.forward(X))


def by_pytorch():
    torch = pytest.importorskip("torch")  # an extra, and 200 MB
    torch.set_num_threads(1)
    layers = []
    for pair in itertools.pairwise(SIZES):
        layers += [torch.nn.Linear(*pair), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    X, y = map(torch.from_numpy, data(ROWS))

    def step():
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(X), y).backward()
        optimizer.step()

    return repeated(step)


WORKS = {
    "within fit": within_fit,
    "step": by_step,
    "forward, backward, update": by_parts,
    "forward of one row": one_row,
    "PyTorch": by_pytorch,
}


@pytest.mark.parametrize("work", WORKS)
def test_100_steps(benchmark, work, rounds):
    benchmark.group = f"100 steps of 17-64-64-6, 64 rows, Adam, float32, {in_words(1)}"
    call = WORKS[work]()
    call()
    benchmark.pedantic(call, rounds=rounds(call), warmup_rounds=1)
