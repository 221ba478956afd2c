"""What many machines gain, by a cost model and a simulation: python -m benchmarks.scaling.

Measures here what a rank's part of a step takes; prints the speed-up that docs/measured/scaling.md predicts
for up to 1024 nodes, by formula and by a simulation of each clock, for synchronous SGD and for local SGD.
--plot FILE draws the curves. --check FILE holds the model to localhost figures, which
`python -m benchmarks.distributed --json FILE` measures.
"""

import argparse
import json
import math
import re
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import fastmlp
from fastmlp.backend import registry
from fastmlp.distributed.steps import BUCKET_BYTES, MOST_BUCKETS
from fastmlp.kernels.estimates import workers as workers_of
from fastmlp.kernels.runtime.session import Session
from fastmlp.kernels.variant import Work
from fastmlp.lab.timing import CLOCKS, in_alternation, once
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.state import initial_state

from .cores import MOST_BANDWIDTH, WORKS, Machine, Step, grouped, turn_of

NODES = tuple(2**power for power in range(11))

NODE_CORES = 32
"""Cores of a node; each is as fast as the one measured. benchmarks.cores says how they share a step."""

CORE = Machine(transfer=60e-9, bandwidth=10e9)

SPREAD = 0.05
"""An assumption: the standard deviation of a rank's time for a step, over its mean; lognormal."""

CALLS = 8e-6
"""Seconds of Python in a rank's step of synchronous SGD, besides gradient, all-reduce and update.

What the smallest work of benchmarks.distributed takes with two ranks beyond what this model gives the rest.
"""

STRIDES = (16, 128)
"""Steps from one average to the next in local SGD."""

PAYS = 0.5
"""Nodes pay up to the number of which so large a share works, and does not wait for the network."""


@dataclass(frozen=True)
class Fabric:
    """A network. latency : seconds of a message, both ends' software included; bandwidth : bytes a second"""

    name: str
    latency: float
    bandwidth: float


FABRICS = (
    Fabric("Ethernet, 10 Gbit/s, TCP", 25e-6, 1.1e9),
    Fabric("InfiniBand, 200 Gbit/s", 1.5e-6, 23e9),
)
"""Assumptions about networks: what such links commonly reach between two nodes, not measured here."""


@dataclass(frozen=True)
class Line:
    """Seconds that grow with rows: fixed + rows * row."""

    fixed: float
    row: float

    def __call__(self, rows):
        return self.fixed + rows * self.row

    @classmethod
    def through(cls, seconds, few, many):
        """Return the line through what few rows take and many, or through 0 where it would begin below."""
        short, long = seconds(few), seconds(many)
        row = max(0.0, min(long / many, (long - short) / (many - few)))
        return cls(long - many * row, row)


@dataclass(frozen=True)
class Costs:
    """Seconds on one core.

    step : of a training's step, by rows
    gradient, update : of a gradient alone, by rows, and of the step after it; adding : of adding a byte
    """

    step: Line
    gradient: Line
    update: float
    adding: float


# --- the model ----------------------------------------------------------------------------------------


def rounds_of(nodes, size):
    """Return the ways to sum `size` bytes over all nodes: rounds of (bytes sent, whether added, partner).

    doubling : all of it to a partner, log2(nodes) times
    halving : halves, quarters, .. are summed, and gathered again (Rabenseifner 2004)
    ring : parts go around twice, partner 0 is the rank before (Patarasuk and Yuan 2009)
    """
    powers = [2**k for k in range(int(math.log2(nodes)))]
    halves = [(size / (2 * power), nodes // (2 * power)) for power in powers]
    return {
        "doubling": [(size, True, power) for power in powers],
        "halving": [(part, True, apart) for part, apart in halves]
        + [(part, False, apart) for part, apart in reversed(halves)],
        "ring": [(size / nodes, turn < nodes - 1, 0) for turn in range(2 * (nodes - 1))],
    }


def round_seconds(round_, fabric, adding):
    sent, adds, _ = round_
    return fabric.latency + sent / fabric.bandwidth + adds * sent * adding


def cheapest(nodes, size, fabric, adding):
    """Return the rounds of the fastest way, and what they take."""
    ways = rounds_of(nodes, size).values()
    sums = [(sum(round_seconds(one, fabric, adding) for one in rounds), rounds) for rounds in ways]
    seconds, rounds = min(sums, key=lambda pair: pair[0])
    return rounds, seconds


class Phases(NamedTuple):
    """Seconds of a step on a node, without its network.

    compute : up to the whole gradient; its last share `weights` forms gradients of weights, bucket by bucket
    after : of the optimiser, and of Python, after the sum
    """

    compute: float
    weights: float
    after: float


def phases_of(work, costs, rows, cores, apart):
    """Return what a step of so many rows takes on a node of so many cores.

    apart : whether the update comes after an exchange, and not with the gradient
    """
    sizes, _, optimizer = work
    workers = workers_of(Work(sizes, max(1, rows), 4, cores))
    alone = (costs.gradient if apart else costs.step)(rows)
    step = Step(sizes, rows, optimizer.moment_rows, alone)
    formed, before = step.by_weights(workers), step.by_rows(workers)
    after = costs.update / min(workers, MOST_BANDWIDTH) + CALLS if apart else 0.0
    share = formed / (formed + before) if formed + before else 0.0
    return Phases(step.seconds(workers, CORE, grouped), share, after)


def exchanged_bytes(work, stride):
    """Return the bytes of an exchange: the gradient, or in local SGD parameters and moments."""
    return 4 * parameter_count(fastmlp.Network(work[0])) * (1 if stride is None else 1 + work[2].moment_rows)


def buckets_of(size, stride):
    """Return in how many buckets so many bytes are summed, each as soon as it is there."""
    return 1 if stride else max(1, min(MOST_BUCKETS, int(size // BUCKET_BYTES)))


def step_seconds(work, costs, nodes, rows, fabric, stride=None, cores=NODE_CORES):
    """Return a step's seconds, in which each node has so many rows; stride : of local SGD."""
    compute, weights, after = phases_of(work, costs, rows, cores, nodes > 1 and stride is None)
    size = exchanged_bytes(work, stride)
    buckets = buckets_of(size, stride)
    _, exchange = cheapest(nodes, size / buckets, fabric, costs.adding)
    done = 0.0
    for bucket in range(1, buckets + 1):
        done = max(done, compute * (1 - weights + weights * bucket / buckets)) + exchange / (stride or 1)
    return done + after


def simulated(
    work, costs, nodes, rows, fabric, stride=None, cores=NODE_CORES, spread=SPREAD, steps=128, seed=0
):
    """Return a step's mean seconds, from the clock of every rank through every message of `steps` steps."""
    rng, sigma = np.random.default_rng(seed), math.sqrt(math.log1p(spread**2))
    compute, weights, after = phases_of(work, costs, rows, cores, nodes > 1 and stride is None)
    size = exchanged_bytes(work, stride)
    buckets = buckets_of(size, stride)
    rounds, _ = cheapest(nodes, size / buckets, fabric, costs.adding)
    clocks, ranks = np.zeros(nodes), np.arange(nodes)
    for step in range(1, steps + 1):
        began, own = clocks, compute * rng.lognormal(-(sigma**2) / 2, sigma, nodes)
        if step % (stride or 1):
            clocks = began + own
            continue
        for bucket in range(1, buckets + 1):
            clocks = np.maximum(clocks, began + own * (1 - weights + weights * bucket / buckets))
            for one in rounds:
                # A rank goes on when its partner's message is there; in a ring that of the rank before.
                other = clocks[ranks ^ one[2]] if one[2] else np.roll(clocks, 1)
                clocks = np.maximum(clocks, other) + round_seconds(one, fabric, costs.adding)
        clocks = clocks + after
    return clocks.max() / steps


# --- what is measured ---------------------------------------------------------------------------------


def least(call, seconds=0.3):
    """Return the least CPU time of a call of this thread, of those in so many seconds."""
    return in_alternation({"call": partial(once, call, time.thread_time)}, seconds)["call"].best


def parts_of(work, rows):
    """Return what a rank does in a step: form a gradient of so many rows, take the step; and the gradient."""
    sizes, _, optimizer = work
    rng = np.random.default_rng(0)
    network = fastmlp.Network(sizes, "relu", "softmax", "cross_entropy")
    targets = np.eye(sizes[-1], dtype=np.float32)[rng.integers(0, sizes[-1], rows)]
    data = Data(rng.standard_normal((rows, sizes[0]), np.float32), targets, np.ones(rows, np.float32))
    state = initial_state(0.01 * rng.standard_normal(parameter_count(fastmlp.Network(sizes)), np.float32))
    backend = registry.get("fused")
    session = Session(registry.entries("fused"), network, state.parameters.dtype, None, optimizer)
    arrays = {"parameters": state.parameters, "gradients": state.gradients, "moments": state.moments}
    session.set({**arrays, "step": 0, "steps": 1, "rates": np.full((1, 2), 1e-6)})

    def gradient():
        backend.gradient(network, state.parameters, data, 0, 0, state.gradients)

    def update():
        session.run("update")

    return gradient, update, state.gradients


def training_step(work, rows):
    """Return the least seconds of a step of so many rows, in trainings on one thread."""
    turn = turn_of(work, rows, 5, CLOCKS["cpu"])  # steps may run in another thread
    return in_alternation({"step": partial(turn, 1)}, 0.5)["step"].best


def costs_of(work):
    """Measure a work on one core."""
    few, many = max(1, work[1] // 8), work[1]
    step = Line.through(lambda rows: training_step(work, rows), few, many)
    gradient = Line.through(lambda rows: least(parts_of(work, rows)[0]), few, many)
    _, update, vector = parts_of(work, 1)
    other = vector.copy()
    adding = least(lambda: np.add(vector, other, out=vector)) / vector.nbytes
    return Costs(step, gradient, least(update), adding)


def check(path):
    """Print what processes took here, by a file of benchmarks.distributed, and what the model says."""
    found = {int(ranks): figures for ranks, figures in json.loads(Path(path).read_text()).items()}
    ranks = max(found)
    alone, several = found[1], found[ranks]
    here = fitted(several["allreduce"])
    print(f"All-reduce of {ranks}: {here.latency * 1e6:.1f} us, and {here.bandwidth / 1e9:.2f} GB/s.\n")
    print(f"| work | one process, us | model | {ranks}, us | model | simulated | local SGD, us | model |")
    print("|---|---|---|---|---|---|---|---|")
    for name in several["step"]:
        layers, batch = re.search(r"(\d+(?:-\d+)+) b(\d+)", name).groups()
        work = tuple(map(int, layers.split("-"))), int(batch), fastmlp.Adam()
        costs = replace(costs_of(work), adding=0.0)  # the all-reduce that was measured adds
        share = work[1] // ranks
        cells = (
            alone["step"][name],
            step_seconds(work, costs, 1, work[1], here, cores=1),
            several["step"][name],
            step_seconds(work, costs, ranks, share, here, cores=1),
            simulated(work, costs, ranks, share, here, cores=1),
            several["local"][name],
            step_seconds(work, costs, ranks, share, here, AVERAGED, cores=1),
        )
        print(f"| {name} | " + " | ".join(f"{cell * 1e6:.0f}" for cell in cells) + " |")


AVERAGED = 16
"""Steps between two averages of the local SGD of benchmarks.distributed."""


def fitted(allreduce):
    """Return the network where an all-reduce takes latency + size / bandwidth, by least relative errors.

    allreduce : seconds by bytes
    """
    sizes, seconds = np.array([*map(float, allreduce)]), np.array([*allreduce.values()])
    terms = np.stack([np.ones_like(sizes), sizes], axis=1) / seconds[:, None]
    (latency, slope), *_ = np.linalg.lstsq(terms, np.ones_like(sizes), rcond=None)
    return Fabric("localhost", max(0.0, float(latency)), 1 / float(slope))


# --- what is printed ----------------------------------------------------------------------------------


def speedups(work, costs, fabric, weak, stride=None):
    """Return how many times as fast as one node, by formula and as simulated, each for all NODES."""
    batch = work[1]
    alone = step_seconds(work, costs, 1, batch, fabric) / batch
    found = []
    for nodes in NODES:
        rows = batch if weak else max(1, batch // nodes)
        formula = step_seconds(work, costs, nodes, rows, fabric, stride)
        clocks = simulated(work, costs, nodes, rows, fabric, stride)
        visited = batch * nodes if weak else batch
        found.append([alone * visited / seconds for seconds in (formula, clocks)])
    return list(zip(*found, strict=True))


def pays_up_to(gains):
    """Return the largest number of nodes that pay."""
    return max(nodes for nodes, gain in zip(NODES, gains, strict=True) if gain >= 0.99 * PAYS * nodes)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--only", default="", help="works whose name holds this")
    parser.add_argument("--plot", metavar="FILE", help="draw the simulated speed-up, with matplotlib")
    parser.add_argument("--check", metavar="FILE", help="hold the model to figures of benchmarks.distributed")
    options = parser.parse_args()
    if options.check:
        check(options.check)
        return
    names = [name for name in WORKS if options.only in name]
    costs = {name: costs_of(WORKS[name]) for name in names}
    print("| work | parameters | a step, us | and a row | a gradient | and a row | an update | a MB added |")
    print("|---|---|---|---|---|---|---|---|")
    for name, own in costs.items():
        lines = (own.step.fixed, own.step.row, own.gradient.fixed, own.gradient.row)
        cells = (*lines, own.update, own.adding * 1e6)
        count = parameter_count(fastmlp.Network(WORKS[name][0]))
        print(f"| {name} | {count} | " + " | ".join(f"{1e6 * cell:.3g}" for cell in cells) + " |")
    print()
    kinds = {"its batch shared": (False, None), "its batch on each": (True, None)}
    kinds |= {f"local SGD, {stride} steps": (True, stride) for stride in STRIDES}
    shown = [0, 1, 3, 5, 8, 10]
    print("| work | network | | pays up to | " + " | ".join(str(NODES[i]) for i in shown) + " |")
    print("|" + "---|" * (4 + len(shown)))
    curves = {}
    for name in names:
        for fabric in FABRICS:
            for kind, (weak, stride) in kinds.items():
                formula, clocks = speedups(WORKS[name], costs[name], fabric, weak, stride)
                curves[name, fabric.name, kind] = clocks
                cells = [f"{clocks[i]:.3g} ({formula[i]:.3g})" for i in shown]
                print(
                    f"| {name} | {fabric.name} | {kind} | {pays_up_to(clocks)} | " + " | ".join(cells) + " |"
                )
    print("\nTimes as many rows a second as one node, simulated, in brackets by formula.")
    if options.plot:
        draw(curves, options.plot)


def draw(curves, path):
    """Draw all curves of a work and a network into one picture each."""
    import matplotlib.pyplot as plt

    pictures = list(dict.fromkeys(key[:2] for key in curves))
    figure, axes = plt.subplots(
        len(pictures) // len(FABRICS), len(FABRICS), figsize=(11, 2 * len(pictures)), squeeze=False
    )
    for picture, ax in zip(pictures, axes.flat, strict=True):
        for (*where, kind), gains in curves.items():
            if tuple(where) == picture:
                ax.loglog(NODES, gains, marker="o", label=kind)
        ax.loglog(NODES, NODES, color="grey", linestyle=":")
        ax.set_title("\n".join(picture), fontsize=9)
        ax.set_xlabel("nodes")
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
