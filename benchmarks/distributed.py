"""What a training by several processes of one machine takes: `python -m benchmarks.distributed`.

Localhost figures: the ranks share memory, caches and power, and nothing crosses a network. They are constants
of a cost model: the compute of a step, the time of an all-reduce of no length, and its bytes a second.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastmlp
from benchmarks import processes
from benchmarks.scaling import fitted
from fastmlp.lab.timing import CLOCKS, StepsTimer, once

NETWORKS = {
    "digits 64-256-10 b32": ((64, 256, 10), 32),
    "784-128-10 b128": ((784, 128, 10), 128),
    "28-256-256-2 b256": ((28, 256, 256, 2), 256),
    "784-512-512-10 b1024": ((784, 512, 512, 10), 1024),
}
"""Sizes, and rows of the batch of all ranks."""

LARGE = {
    "784-512-512-10 b512": ((784, 512, 512, 10), 512),
    "1024-2048-2048-10 b512": ((1024, 2048, 2048, 10), 512),
}
"""Networks whose gradient is summed in buckets while it is formed."""

BYTES = [8, 1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24]

EVERY = 16
"""Steps between two averages of the local SGD that is measured."""

STEPS, EPOCHS, REPEATS = 30, 3, 7
"""Steps to an epoch, and epochs, of a training; the fastest of so many counts, for what disturbs slows."""


def main() -> None:
    """Measure with one rank and with several, and print both side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2, help="processes; default 2")
    parser.add_argument("--threads", type=int, default=1, help="of each process; default 1")
    parser.add_argument(
        "--overlap", action="store_true", help="compare sums of buckets with one sum of the whole gradient"
    )
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.threads, given.overlap)
        return
    if given.overlap:
        show_overlap(measured(given.ranks, given.threads, "--overlap"), given.ranks)
        return
    one, several = (measured(ranks, given.threads) for ranks in (1, given.ranks))
    show(one, several, given.ranks)
    if given.json:
        Path(given.json).write_text(json.dumps({"1": one, str(given.ranks): several}, indent=1))


def measured(ranks: int, threads: int, *more: str) -> dict[str, dict[str, float]]:
    """Return the figures of so many ranks: seconds by network, and by bytes."""
    own = Path(sys.executable).with_name("mpiexec")
    found = str(own) if own.exists() else shutil.which("mpiexec")
    mpiexec = shlex.split(os.environ.get("MPIEXEC") or found or "")
    if not mpiexec or not importlib.util.find_spec("mpi4py"):
        sys.exit("there is no mpiexec, or no mpi4py; pip install mpi4py mpich")
    figures = f"{ranks} ranks:"
    command = [sys.executable, "-m", "benchmarks.distributed", "--threads", str(threads), *more]
    done = subprocess.run(
        [*mpiexec, "-n", str(ranks), *command, "--worker", figures],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"{shlex.join(mpiexec)} -n {ranks} ended with status {done.returncode}")
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(figures))
    figures_of: dict[str, dict[str, float]] = json.loads(line.removeprefix(figures))
    return figures_of


def work(figures: str, threads: int, overlap: bool) -> None:
    """Measure as one of the ranks; rank 0 prints what it found in one line."""
    from mpi4py import MPI

    ranks = MPI.COMM_WORLD
    pinned(ranks)
    averaging = fastmlp.DataParallel(ranks, average_every=EVERY)
    found: dict[str, dict[str, float]] = {"step": {}, "local": {}, "allreduce": {}}
    if overlap:
        ways = {"buckets": ranks, "whole": InOnePiece(ranks)}
        found = {way: dict.fromkeys(LARGE, math.inf) for way in ways}
        for name, way in itertools.product(LARGE, 3 * [*ways]):
            seconds = step(name, ranks, ways[way], threads, steps=4)
            found[way][name] = min(found[way][name], seconds)
    for name in [] if overlap else NETWORKS:
        found["step"][name] = least(ranks, lambda name=name: step(name, ranks, ranks, threads))
        found["local"][name] = least(ranks, lambda name=name: step(name, ranks, averaging, threads))
    opened = fastmlp.DataParallel(ranks).opened()
    for size in [] if overlap else BYTES:
        found["allreduce"][str(size)] = least(ranks, lambda size=size: allreduce(opened, size))
    if ranks.rank == 0:
        print(figures + json.dumps(found), flush=True)


def pinned(ranks: Any) -> None:
    """Give each rank cores of its own, where there are enough: two on one core wait for their turns."""
    cores = processes.allowed()
    if share := len(cores) // ranks.size:
        processes.pin(cores[ranks.rank * share : (ranks.rank + 1) * share])


class InOnePiece:
    """A communicator that sums only while it is waited for."""

    def __init__(self, ranks: Any) -> None:
        opened = fastmlp.DataParallel(ranks).opened()
        self.rank, self.size = opened.rank, opened.size
        self.allreduce, self.broadcast, self.barrier = opened.allreduce, opened.broadcast, opened.barrier


def step(name: str, ranks: Any, communicator: Any, threads: int, steps: int = STEPS) -> float:
    """Return the seconds of a step, of many in one training."""
    sizes, batch = (NETWORKS | LARGE)[name]
    rng = np.random.default_rng(0)
    X = rng.standard_normal((steps * batch, sizes[0]), np.float32)
    rows, targets = fastmlp.shard(ranks, X, rng.integers(0, sizes[-1], len(X)))
    network = fastmlp.Network(sizes, output="softmax", loss="cross_entropy")
    timer = StepsTimer()
    fastmlp.fit(
        network, rows, targets, epochs=EPOCHS, batch_size=batch, seed=0, backend="fused", threads=threads,
        progress=False, communicator=communicator, callbacks=[timer],
    )  # fmt: skip
    return timer.seconds / steps / EPOCHS


def allreduce(communicator: Any, size: int) -> float:
    """Return the seconds of an all-reduce of so many bytes, of many in a row."""
    array, times = np.zeros(size // 4, np.float32), max(3, min(200, (1 << 24) // size))
    return once(lambda: [communicator.allreduce(array) for _ in range(times)], CLOCKS["wall"]) / times


def least(ranks: Any, measure: Callable[[], float]) -> float:
    """Return the least of some measurements, each begun by all ranks together."""
    seconds = []
    for _ in range(REPEATS):
        ranks.Barrier()
        seconds.append(measure())
    return min(seconds)


def show(one: dict[str, dict[str, float]], several: dict[str, dict[str, float]], ranks: int) -> None:
    """Print tables of microseconds."""
    print(f"Localhost figures of {ranks} ranks, float32, `fused`, microseconds.\n")
    print(
        f"| a step of | parameters | 1 rank | {ranks} ranks | efficiency "
        f"| averaged every {EVERY} steps | efficiency |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (sizes, _) in NETWORKS.items():
        count = sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))
        alone, together, local = (one["step"][name], several["step"][name], several["local"][name])
        shares = [f"{alone / ranks / seconds:.0%}" for seconds in (together, local)]
        print(
            f"| {name} | {count} | {1e6 * alone:.0f} | {1e6 * together:.0f} | {shares[0]} "
            f"| {1e6 * local:.0f} | {shares[1]} |"
        )
    print(f"\n| bytes | all-reduce of {ranks} ranks |\n|---|---|")
    for size, seconds in several["allreduce"].items():
        print(f"| {size} | {1e6 * seconds:.1f} |")
    here = fitted(several["allreduce"])
    print(f"\nlatency {1e6 * here.latency:.1f} us, {here.bandwidth / 1e9:.2f} GB/s")


def show_overlap(found: dict[str, dict[str, float]], ranks: int) -> None:
    """Print a table of milliseconds."""
    print(f"| a step of {ranks} ranks, ms | one sum | sums of buckets |\n|---|---|---|")
    for name, seconds in found["whole"].items():
        print(f"| {name} | {1e3 * seconds:.1f} | {1e3 * found['buckets'][name]:.1f} |")


if __name__ == "__main__":
    main()
