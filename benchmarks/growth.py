"""How the time of an epoch grows with rows, width, depth and batch: python -m benchmarks.growth.

Prints each doubling's slope in log-log, the exponent by which the time grows with that size alone, and
--plot FILE draws the times (with matplotlib). Backend "auto", float32, one thread, plain SGD.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastmlp

from .pinning import allowed, pin
from .stopwatch import Stopwatch

TURN_SECONDS = 0.03
"""What a turn lasts at least, in whole epochs."""


class Training(NamedTuple):
    sizes: tuple[int, ...]
    rows: int
    batch: int

    @property
    def flops(self):
        """Multiply-adds of an epoch's matmuls, counted as 2: three a layer, two in the first."""
        products = [a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        return 2 * self.rows * (3 * sum(products) - products[0])


class Sweep(NamedTuple):
    """One size that doubles, all others held.

    of : the training at a size
    slope, why : what the slope should come to, and what keeps it from it at first
    neighbours : whether the sizes one below and one above are timed too: powers of two have cliffs
    """

    name: str
    held: str
    first: int
    last: int
    of: object
    slope: int
    why: str
    neighbours: bool = False

    @property
    def doublings(self):
        return [2**k for k in range(int(math.log2(self.first)), int(math.log2(self.last)) + 1)]


SWEEPS = (
    Sweep(
        "rows",
        "784-128-10, batch 128",
        first=128,
        last=1 << 16,
        of=lambda n: Training((784, 128, 10), n, 128),
        slope=1,
        why="",
    ),
    Sweep(
        "width",
        "three layers of n, batch 128, 512 rows",
        first=1,
        last=2048,
        of=lambda n: Training((n,) * 4, 512, 128),
        slope=2,
        why="from 0, as rows and steps have their cost however narrow",
        neighbours=True,
    ),
    Sweep(
        "depth",
        "n layers of 128, batch 128, 512 rows",
        first=1,
        last=64,
        of=lambda n: Training((128,) * (n + 1), 512, 128),
        slope=1,
        why="",
    ),
    Sweep(
        "batch",
        "784-128-10, 8192 rows",
        first=1,
        last=8192,
        of=lambda n: Training((784, 128, 10), 8192, n),
        slope=0,
        why="from -1, as every step updates all weights",
    ),
)


def main():
    options = _options()
    pin({options.core})
    drawn = []
    for sweep in SWEEPS:
        if options.only in sweep.name:
            drawn.append((sweep, measure(sweep, options.rounds)))
            show(*drawn[-1])
    if options.plot:
        plot(drawn, options.plot)


def _options():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="sweeps whose name contains this")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each size; default %(default)s")
    parser.add_argument("--plot", metavar="FILE", help="as .png or .svg; needs matplotlib")
    least = min(allowed())
    parser.add_argument("--core", type=int, default=least, help="which to run on; default %(default)s")
    return parser.parse_args()


def measure(sweep, rounds):
    """Seconds of an epoch and the backend by size; all sizes take turns, so that a busy moment hits all."""
    around = (-1, 0, 1) if sweep.neighbours else (0,)
    sizes = sorted({n + more for n in sweep.doublings for more in around if n + more > 0})
    turns = {n: prepare(sweep.of(n)) for n in sizes}
    best = dict.fromkeys(sizes, (math.inf, ""))
    for _ in range(rounds):
        for n, turn in turns.items():
            best[n] = min(best[n], turn())
    return best


def prepare(training):
    """A function that trains for TURN_SECONDS and returns the seconds of an epoch, and the backend."""
    network = fastmlp.Network(training.sizes)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((training.rows, training.sizes[0]), np.float32)
    y = rng.standard_normal((training.rows, training.sizes[-1]), np.float32)

    def train(epochs):
        stopwatch = Stopwatch()
        model = fastmlp.fit(
            network,
            X,
            y,
            optimizer=fastmlp.SGD(1e-3),
            epochs=epochs,
            batch_size=training.batch,
            seed=0,
            threads=1,
            callbacks=[stopwatch],
            progress=False,
        )
        return stopwatch.seconds / epochs, model.backend

    epochs = 1
    # The lesser of two: the first may compile.
    while min(train(epochs), train(epochs))[0] * epochs < TURN_SECONDS:
        epochs *= 2
    return lambda: train(epochs)


def show(sweep, best):
    print(f"{sweep.name}: {sweep.held}; the slope should come to {sweep.slope} {sweep.why}".rstrip())
    print(f"  {'n':>6}{'ms an epoch':>13}{'GF/s':>8}{'slope':>8}", end="")
    print(f"{'n-1':>8}{'n+1':>8}  backend" if sweep.neighbours else "  backend")
    for n in sweep.doublings:
        seconds, backend = best[n]
        slope = f"{math.log2(seconds / best[n // 2][0]):.2f}" if n // 2 in best else ""
        rate = sweep.of(n).flops / seconds / 1e9
        print(f"  {n:>6}{1e3 * seconds:>13.4g}{rate:>8.1f}{slope:>8}", end="")
        if sweep.neighbours:
            for other in (n - 1, n + 1):
                print(f"{best[other][0] / seconds:>8.2f}" if other in best else f"{'':>8}", end="")
        print(f"  {backend}")
    if sweep.neighbours:
        print("  n-1, n+1: time with one unit less and one more, over the time with n")
    print(flush=True)


def plot(drawn, file):
    """Times as points, and a line of the slope that they should come to, through the best of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(drawn), 4), layout="constrained")
    for axes, (sweep, best) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        sizes = sorted(best)
        times = [1e3 * best[n][0] for n in sizes]
        line = min(time / n**sweep.slope for n, time in zip(sizes, times, strict=True))
        straight = [line * n**sweep.slope for n in sizes]
        axes.loglog(sizes, straight, "--", color="gray", label=f"slope {sweep.slope}")
        axes.loglog(sizes, times, "o-", markersize=3)
        axes.set_title(f"{sweep.name}\n{sweep.held}", fontsize="medium")
        axes.set(xlabel=sweep.name, ylabel="ms an epoch", ylim=(min(times) / 2, 2 * max(times)))
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(Path(file), dpi=150)


if __name__ == "__main__":
    main()
