"""What many cores of one machine gain, from what two show: python -m benchmarks.cores.

Measures here the time of a step on one thread and on two, what the barrier costs, and the memory's bandwidth;
prints what the model of docs/measured/threads.md makes of them for 2, 8, 32 and 96 cores. The column of 2
checks the model, the others are predictions: no machine of that many cores was at hand.
"""

import argparse
import threading
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numba
import numpy as np

import fastmlp
from fastmlp.kernels.estimates import fused_seconds
from fastmlp.kernels.estimates import workers as workers_of
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.barrier import wait
from fastmlp.kernels.program.records import BARRIER, FAN_IN, SLICE_ROWS
from fastmlp.kernels.variant import Work
from fastmlp.lab.timing import CLOCKS, StepsTimer, in_alternation, once
from fastmlp.system import budget

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
    """The barrier as it is: the workers of a group, then one of each group; only the latter cross sockets."""
    if workers <= FAN_IN:
        return flat(workers, machine)
    far = 1 if workers <= SOCKET else FAR
    return (FAN_IN + -(-workers // FAN_IN) * far) * machine.transfer


# --- simulated ----------------------------------------------------------------------------------------

TYPICAL = Machine(1.45e-7, 1e10)
"""What docs/measured/threads.md assumes of a machine that is not at hand."""

SPREAD, STEPS = 0.05, 200
"""By how much a worker's share takes longer, as one standard deviation of its time; steps to simulate."""

PAYS = 0.8
"""Twice as many threads pay where a step takes at most this part of its time."""

SIZES = {
    (64, 64, 10): (32, 128, 1024), (784, 128, 10): (32, 128, 1024), (28, 256, 256, 2): (128, 1024, 4096),
    (1024, 1024, 1024, 10): (128, 1024, 4096),
}  # fmt: skip
"""Networks and the rows of their batches, of which the page says how many threads pay."""


def meeting(arrivals, machine):
    """Return when workers (n,) leave a barrier: a line goes from one to the next, to arrive and to leave."""
    half = machine.transfer / 2
    if len(arrivals) <= FAN_IN:
        return _last(arrivals, half) + half * np.arange(1, len(arrivals) + 1)
    far = half * (1 if len(arrivals) <= SOCKET else FAR)
    groups = [arrivals[at : at + FAN_IN] for at in range(0, len(arrivals), FAN_IN)]
    opened = _last(np.array([_last(group, half) for group in groups]), far)
    return np.concatenate(
        [
            opened + far * number + half * np.arange(1, len(group) + 1)
            for number, group in enumerate(groups, 1)
        ]
    )


def _last(arrivals, line):
    """When the last of some workers has arrived at one place: each takes a line from the one before."""
    done = 0.0
    for arrival in np.sort(arrivals):
        done = max(done, arrival) + line
    return done


def simulated(step, workers, machine, spread=SPREAD):
    """Return the seconds of a step of so many workers, each of which takes its own time for its share."""
    phases = step.by_rows(workers), step.by_weights(workers)
    longer = max(1.0, step.streaming(workers, machine) / sum(phases))
    if workers == 1:
        return longer * sum(phases)
    rng, now = np.random.default_rng(0), np.zeros(workers)
    for _ in range(STEPS):
        for phase in phases:
            spreads = 1 + spread * np.abs(rng.standard_normal(workers))
            now = meeting(now + longer * phase * spreads, machine)
    return now.max() / STEPS


def paying(step, machine):
    """Return the threads, a power of 2, up to which twice as many always paid; by `simulated`."""
    threads = 1
    while threads < 64 and simulated(step, 2 * threads, machine) <= PAYS * simulated(step, threads, machine):
        threads *= 2
    return threads


def predictions(machine=TYPICAL):
    """Return the table of what 2 to 64 threads gain, and how many pay."""
    counts = [2, 4, 8, 16, 32, 64]
    lines = ["| network | rows | us, one thread | " + " | ".join(map(str, counts)) + " | pay |"]
    lines.append("|" + "---|" * (4 + len(counts)))
    for sizes, batches in SIZES.items():
        for rows in batches:
            step = Step(sizes, rows, 0, fused_seconds(Work(sizes, rows, 4, 1)))
            gains = [step.alone / simulated(step, count, machine) for count in counts]
            cells = " | ".join(f"{gain:.1f}" for gain in gains)
            name = "-".join(map(str, sizes))
            lines.append(f"| {name} | {rows} | {step.alone * 1e6:.0f} | {cells} | {paying(step, machine)} |")
    return lines


# --- what is measured ---------------------------------------------------------------------------------


@numba.njit(nogil=True)
def meet(barrier, worker, workers, times):
    """Wait so many times."""
    for _ in range(times):
        wait(barrier, worker, workers)


def barrier_seconds(workers, times=2000, turns=200):
    """Return the least time of a barrier of so many threads."""

    def turn():
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
        return (time.perf_counter() - max(began)) / times

    return in_alternation({workers: turn}, least=turns)[workers].best


def copying(threads, size=1 << 26, turns=7):
    """Return the bytes a second, read and written, of copying by so many threads."""
    source, target = np.ones((2, size // 4), np.float32)
    call = partial(once, partial(budget.copy_arrays, [source], [target], threads), CLOCKS["wall"])
    return 2 * size / in_alternation({threads: call}, least=turns)[threads].best


def turn_of(work, rows, epochs, clock=CLOCKS["wall"]):
    """Return turn(threads), the seconds of a step of so many rows, in a training by "fused"."""
    sizes, _, optimizer = work
    rng = np.random.default_rng(0)
    X = rng.standard_normal((4 * rows, sizes[0]), np.float32)
    y = rng.integers(0, sizes[-1], 4 * rows)
    network = fastmlp.Network(sizes, "relu", "softmax", "cross_entropy")

    def turn(threads):
        watch = StepsTimer(clock)
        fastmlp.fit(
            network, X, y, optimizer=optimizer, epochs=epochs, batch_size=rows, seed=0, threads=threads,
            backend="fused", callbacks=[watch], progress=False,
        )  # fmt: skip
        return watch.seconds / (4 * epochs)

    return turn


def step_seconds(work, counts, seconds):
    """Return the least time of a step on each number of threads, over trainings for so many seconds each."""
    sizes, rows, _ = work
    flops = 6 * rows * sum(a * b for a, b in pairwise(sizes))
    epochs = max(1, int(0.005 / (4 * flops / 1e11)))  # short turns: some of them nobody disturbs
    turn = turn_of(work, rows, epochs)
    times = in_alternation({threads: partial(turn, threads) for threads in counts}, seconds, least=3)
    return [time.best for time in times.values()]


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each work and number of threads")
    parser.add_argument("--only", default="", help="works whose name holds this")
    parser.add_argument("--simulated", action="store_true", help="measure nothing: which threads would pay")
    seconds, only, measures_nothing = vars(parser.parse_args()).values()
    if measures_nothing:
        print("\n".join(predictions()))
        return
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
        alone, two = step_seconds(work, (1, 2), seconds)
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
