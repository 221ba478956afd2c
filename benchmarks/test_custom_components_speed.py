"""Custom components compared with built-in ones of the same arithmetic, in whole epochs: at most 1.3 times.

Both train in turns, by processor time, so that what else the machine does meets both and is left out; each
is held to the reference first.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastmlp
from fastmlp import Activation, Adam, Loss, Network, Rule
from fastmlp.lab.timing import CLOCKS, Load, StepsTimer, in_alternation

ALLOWED = 1.3
ROUNDS = 15
SIZES, WIDE = (64, 128, 3), (64, 32, 100)


def huber_loss(output, target, delta):
    size = abs(output - target)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def adam_step(p, g, moments, rate, c, t):
    m, v = moments
    m, v = c.beta1 * m + (1 - c.beta1) * g, c.beta2 * v + (1 - c.beta2) * g * g
    return p - rate * (m / (1 - c.beta1**t)) / (np.sqrt(v / (1 - c.beta2**t)) + 1e-8), m, v


mish = Activation("own_mish", lambda z: z * np.tanh(np.log1p(np.exp(z))))
swish = Activation("swish", lambda z: z / (1 + np.exp(-z)))
rectifier = Activation("rectifier", lambda z: np.maximum(z, 0), slope=lambda a: np.where(a > 0, 1.0, 0.0))
squared = Loss("squared", lambda output, target: (output - target) ** 2)
own_huber = Loss("own_huber", huber_loss, parameter=1.0)
OwnAdam = Rule("own_adam", adam_step, moments=2, constants={"beta1": 0.9, "beta2": 0.999})

PAIRS = {
    # of a user's own, and built in
    "mish, gelu": ((Network(SIZES, mish), Adam()), (Network(SIZES, "gelu"), Adam())),
    "swish, silu": ((Network(SIZES, swish), Adam()), (Network(SIZES, "silu"), Adam())),
    "rectifier, relu": ((Network(SIZES, rectifier), Adam()), (Network(SIZES, "relu"), Adam())),
    "squared, mse": ((Network(WIDE, loss=squared), Adam()), (Network(WIDE, loss="mse"), Adam())),
    "own huber, huber": ((Network(WIDE, loss=own_huber), Adam()), (Network(WIDE, loss="huber"), Adam())),
    "own Adam, Adam": ((Network(SIZES), OwnAdam(1e-3)), (Network(SIZES), Adam(1e-3))),
}


def train(network, optimizer, dtype, backend, rows=3200):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(rows, network.n_in)), rng.normal(size=(rows, network.n_out))
    watch = StepsTimer(CLOCKS["cpu"])
    model = fastmlp.fit(
        network, X, y, optimizer=optimizer, epochs=3, batch_size=128, seed=0, dtype=dtype, backend=backend,
        threads=1, progress=False, callbacks=[watch],
    )  # fmt: skip
    return model.history["loss"], watch.seconds


@pytest.mark.parametrize("backend", ["baseline", "fused"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_piece_costs_what_a_built_in_one_does(benchmark, report_figure, pair, dtype, backend):
    benchmark.group = f"{pair}, {dtype}, {backend}, threads 1"
    for given in PAIRS[pair]:
        expected, got = (train(*given, dtype, name)[0] for name in ("reference", backend))
        np.testing.assert_allclose(got, expected, rtol=1e4 * np.finfo(dtype).eps)
    load = Load(threads=1)
    pieces = zip(("own", "built in"), PAIRS[pair], strict=True)
    calls = {name: lambda given=given: train(*given, dtype, backend)[1] for name, given in pieces}
    own, ours = benchmark.pedantic(in_alternation, (calls, 0.0, ROUNDS)).values()
    ratio, spread = own.best / ours.best, own.median / ours.median
    if benchmark.disabled:
        return  # beside other tests, times say nothing
    busy = load.busy()
    beside = ", beside other programs" if busy else ""
    report_figure(f"{ratio:.2f} times as long ({spread:.2f} in the median), {1e3 * own.best:.2f} ms{beside}")
    assert busy or min(ratio, spread) <= ALLOWED
