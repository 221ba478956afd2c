"""Networks drawn at random, against NumPy and PyTorch: python -m benchmarks.sweep.

The works of `benchmarks.peers` are always the same, and what is tuned for them may be slow elsewhere. This
finds where: sizes, batch, activation, loss, optimiser and dtype are drawn from a seed. Every contestant is
held to the reference's losses, and all take turns on one thread. Rows where fastmlp gains least come first.
"""

import argparse
import importlib.util
import random
from typing import NamedTuple

from fastmlp.backend.registry import backends
from fastmlp.lab.machine import cpu
from fastmlp.lab.measurements import Measurement
from fastmlp.lab.peers import PEERS, peers_of
from fastmlp.lab.steps import StepRow, measure
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD, Adam

from .pinning import allowed, pin

WIDTHS = 1, 2, 3, 8, 10, 16, 30, 64, 100, 128, 200, 256, 300, 512, 784, 1000, 1024, 2048, 3000
BATCHES = 1, 8, 32, 64, 100, 128, 200, 256, 512, 1000, 1024, 2048, 4096
LEAST, MOST = 1e-5, 2.0
"""Thousand million multiply-adds of a step."""

HIDDEN = "relu", "tanh", "sigmoid", "gelu", "elu"


class Result(NamedTuple):
    """A row that was measured. seconds : of a step, the median, by contestant"""

    row: StepRow
    seconds: dict[str, float]

    @property
    def gain(self) -> float:
        """How many times as long as fastmlp the fastest other one took."""
        others = [seconds for name, seconds in self.seconds.items() if name != "auto"]
        return min(others, default=0.0) / self.seconds["auto"]


def drawn(rng: random.Random, least: float, most: float) -> StepRow:
    """Draw a network whose step has so many multiply-adds, in thousand millions."""
    while True:
        sizes = rng.choices(WIDTHS, k=rng.choice((2, 3, 3, 4, 5)))
        batch = rng.choice(BATCHES)
        ends = [("identity", "mse"), ("softmax", "cross_entropy")][: min(sizes[-1], 2)]
        network = Network(sizes, rng.choice(HIDDEN), *rng.choice(ends))
        optimizer = rng.choice((SGD(1e-3), SGD(1e-3, momentum=0.9), Adam(1e-4)))
        row = StepRow(network, optimizer, batch, rng.choice(("float32", "float32", "float64")), 1)
        if least <= row.work().flops / 2e9 <= most:
            return row


def measured(row: StepRow, peers: list[str], seconds: float) -> Result:
    """Measure a row; RuntimeError if a contestant's losses are not the reference's."""
    able = *backends(), *peers_of(row.network, row.optimizer)
    found = {}
    for one in measure(row, ["auto", *filter(able.__contains__, peers)], seconds, "cpu"):
        if not isinstance(one, Measurement):
            raise RuntimeError(f"{row}: {one}")
        found[one.variant] = one.time.median
    return Result(row, found)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="networks; default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=LEAST, help="thousand million multiply-adds of a step")
    parser.add_argument("--most", type=float, default=MOST, help="the same at most; default %(default)s")
    parser.add_argument("--seconds", type=float, default=0.1, help="for each contestant; default %(default)s")
    parser.add_argument("--peers", default="reference,torch", help="default %(default)s")
    options = parser.parse_args()
    peers = options.peers.split(",")
    for name in peers:
        if name not in (*backends(), *PEERS):
            parser.error(f"unknown peer {name!r}; choose from: {', '.join((*backends(), *PEERS))}")
        if name in PEERS and importlib.util.find_spec(name) is None:
            print(f"{name}: left out, it is not installed")
    pin(allowed()[-1:])
    rng, results = random.Random(options.seed), []
    for _ in range(options.count):
        results.append(measured(drawn(rng, options.least, options.most), peers, options.seconds))
    print(f"{cpu()}; one thread; medians by processor time\n")
    print("|".join(["", "least gain", "work", "auto, us", "GF/s", *peers, ""]))
    print("|".join(["", *["---"] * (4 + len(peers)), ""]))
    for result in sorted(results, key=lambda result: result.gain):
        print("|".join(["", *cells(result, peers), ""]))


def named(row: StepRow) -> str:
    """Return a row in words."""
    network = row.network
    return " ".join([row.shape, *map(str, network.hidden[:1]), network.output, row.case, row.dtype])


def cells(result: Result, peers: list[str]) -> list[str]:
    """Return a result's cells of the table."""
    row, ours = result.row, result.seconds["auto"]
    others = [f"{result.seconds[name] / ours:.2f}" if name in result.seconds else "" for name in peers]
    rate = row.work().flops / ours / 1e9
    return [f"{result.gain:.2f}", named(row), f"{ours * 1e6:.4g}", f"{rate:.0f}", *others]


if __name__ == "__main__":
    main()
