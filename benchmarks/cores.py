"""What many cores of one machine gain, from what two show: python -m benchmarks.cores.

Measures here the time of a step on one thread and on two, what the barrier costs, and the memory's bandwidth;
prints what the model of docs/many-cores.md makes of them for 2, 8, 32 and 96 cores. The column of 2 checks
the model, the others are predictions: no machine of that many cores was at hand.
"""

import argparse
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np

import fastmlp
from fastmlp.kernels.estimates import workers as workers_of
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.records import BARRIER, FAN_IN, SLICE_ROWS
from fastmlp.kernels.variant import Work
from fastmlp.system import parts

from .stopwatch import Stopwatch

CORES = (2, 8, 32, 96)

SOCKET, FAR = 32, 2.5
"""Assumptions about machines: cores to a socket, and how much longer a cache line travels between sockets."""

MOST_BANDWIDTH = 12
"""An assumption: a socket's bandwidth over one core's; eight channels of DDR5 to what a core draws."""

CACHE = 2 << 20
"""An assumption: bytes of L2, from which a core reads its share of the state where all of that fits."""

WORKS = {
    "784-128-10 b128 sgd": ((784, 128, 10), 128, fastmlp.SGD(0.1)),
    "784-128-10 b1024 sgd": ((784, 128, 10), 1024, fastmlp.SGD(0.1)),
    "28-256-256-2 b256 adam": ((28, 256, 256, 2), 256, fastmlp.Adam()),
    "28-256-256-2 b4096 adam": ((28, 256, 256, 2), 4096, fastmlp.Adam()),
    "1024-2048-2048-10 b1024 sgd": ((1024, 2048, 2048, 10), 1024, fastmlp.SGD(0.1)),
    "1024-2048-2048-10 b1024 adam": ((1024, 2048, 2048, 10), 1024, fastmlp.Adam()),
}
"""By name: sizes, rows of a batch, the optimiser; float32, backend "fused"."""


@dataclass
class Machine:
    """What the model knows of a machine.

    transfer : seconds that a cache line takes from core to core
    bandwidth : bytes a second that one core reads and writes
    """

    transfer: float
    bandwidth: float


@dataclass
class Step:
    """A step on one thread, in seconds by phase, and what it can be shared in."""

    sizes: tuple[int, ...]
    rows: int
    moments: int
    alone: float
    bytes_each: int = 4

    @property
    def products(self):
        return [a * b for a, b in pairwise(self.sizes)]

    def by_rows(self, workers):
        """The first phase, forward and back: whole parts of 16 rows."""
        flops = 2 * sum(self.products) - self.products[0]
        return self.alone * flops / (flops + sum(self.products)) * _largest(self.rows, LOSS_ROWS, workers)

    def by_weights(self, workers):
        """The second phase: of each layer whole slices of 8 rows of weights."""
        whole = 3 * sum(self.products) - self.products[0]
        shares = (
            product * _largest(n_in, SLICE_ROWS, workers)
            for product, n_in in zip(self.products, self.sizes, strict=False)
        )
        return self.alone * sum(shares) / whole

    def streaming(self, workers, machine):
        """What reading and writing the state takes that the caches do not hold."""
        state = sum(self.products) * self.bytes_each
        if state * (1 + self.moments) <= workers * CACHE:
            return 0.0
        sockets = -(-workers // SOCKET)
        bandwidth = machine.bandwidth * min(workers, sockets * MOST_BANDWIDTH)
        # Forward, back and the gradient read the weights on each socket; the step reads and writes the state.
        return state * (3 * sockets + 1 + 2 * self.moments) / bandwidth

    def seconds(self, workers, machine, barrier):
        shared = self.by_rows(workers) + self.by_weights(workers)
        return max(shared, self.streaming(workers, machine)) + 2 * barrier(workers, machine)


def _largest(count, unit, workers):
    """The largest worker's share of so many items, in whole units."""
    units = -(-count // unit)
    return -(-units // workers) / units


def flat(workers, machine):
    """A barrier at one place: every worker takes the line once to arrive, and once to go on."""
    far = 1 if workers <= SOCKET else FAR
    return 0.0 if workers == 1 else workers * machine.transfer * far


def grouped(workers, machine):
    """As it is: the workers of a group, then one of each group; only the latter cross sockets."""
    if workers <= FAN_IN:
        return flat(workers, machine)
    far = 1 if workers <= SOCKET else FAR
    return (FAN_IN + -(-workers // FAN_IN) * far) * machine.transfer


# --- what is measured ---------------------------------------------------------------------------------


@numba.njit(nogil=True)
def meet(barrier, worker, workers, times):
    """Wait so many times."""
    for _ in range(times):
        wait(barrier, worker, workers)


def barrier_seconds(workers, times=2000, turns=200):
    """Return the least time of a barrier of so many threads."""
    best = float("inf")
    for _ in range(turns):
        barrier, began = np.zeros(BARRIER, np.int64), [0.0] * workers

        def enter(worker, barrier=barrier, began=began):
            meet(barrier, worker, workers, 1)
            began[worker] = time.perf_counter()
            meet(barrier, worker, workers, times)

        threads = [threading.Thread(target=enter, args=(worker,)) for worker in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, (time.perf_counter() - max(began)) / times)
    return best


def copying(threads, size=1 << 26, turns=7):
    """Return the bytes a second, read and written, of copying by so many threads."""
    source, target = np.ones((2, size // 4), np.float32)
    best = float("inf")
    for _ in range(turns):
        began = time.perf_counter()
        parts.copy([source], [target], threads)
        best = min(best, time.perf_counter() - began)
    return 2 * size / best


def step_seconds(work, threads, seconds):
    """Return the least time of a step, over whole trainings for so many seconds."""
    sizes, rows, optimizer = work
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4 * rows, sizes[0]), np.float32)
    y = rng.integers(0, sizes[-1], 4 * rows)
    network = fastmlp.Network(sizes, "relu", "softmax", "cross_entropy")
    flops = 6 * rows * sum(a * b for a, b in pairwise(sizes))
    epochs = max(1, int(0.005 / (4 * flops / 1e11)))  # short turns: some of them nobody disturbs
    best, turns, end = float("inf"), 0, float("inf")
    while turns < 3 or time.perf_counter() < end:
        watch = Stopwatch()
        fastmlp.fit(
            network, X, y, optimizer=optimizer, epochs=epochs, batch_size=rows, seed=0, threads=threads,
            backend="fused", callbacks=[watch], progress=False,
        )  # fmt: skip
        best, turns = min(best, watch.seconds / (4 * epochs)), turns + 1
        if turns == 1:  # it loaded machine code
            end = time.perf_counter() + seconds
    return best


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each work and number of threads")
    parser.add_argument("--only", default="", help="works whose name holds this")
    seconds, only = vars(parser.parse_args()).values()
    pair = barrier_seconds(2)
    machine = Machine(pair / 2, copying(1))
    print(
        f"barrier of two threads: {pair * 1e9:.0f} ns, so a cache line takes {machine.transfer * 1e9:.0f} ns"
    )
    print(f"copying: {machine.bandwidth / 1e9:.1f} GB/s on one thread, {copying(2) / 1e9:.1f} on two\n")
    print("| cores | barrier at one place, us | in groups, us |")
    print("|---|---|---|")
    for cores in CORES:
        print(f"| {cores} | {flat(cores, machine) * 1e6:.2f} | {grouped(cores, machine) * 1e6:.2f} |")
    print("\n| work | us, one thread | two threads, measured | " + " | ".join(map(str, CORES)) + " |")
    print("|" + "---|" * (3 + len(CORES)))
    for name, work in WORKS.items():
        if only not in name:
            continue
        sizes, rows, optimizer = work
        alone, two = (step_seconds(work, threads, seconds) for threads in (1, 2))
        step = Step(sizes, rows, optimizer.moment_rows, alone)
        cells = []
        for cores in CORES:
            allowed = Work(sizes, rows, 4, cores)
            used = workers_of(allowed)
            gain = alone / step.seconds(used, machine, grouped)
            at_one_place = alone / step.seconds(used, machine, flat)
            cells.append(f"{gain:.2f} ({at_one_place:.2f}) on {used}")
        print(f"| {name} | {alone * 1e6:.0f} | {alone / two:.2f} | " + " | ".join(cells) + " |")
    print("\nTimes as fast as one thread, in brackets with all workers at one place; on how many threads.")


if __name__ == "__main__":
    main()
