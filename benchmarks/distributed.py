"""Processes of one machine that train together by MPI, a core and a thread each; no network is crossed."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

import fastmlp
from fastmlp.lab.timing import CLOCKS, StepsTimer, once

from . import processes
from .calls import Seconds, Timed, row

NETWORKS = {
    "64-256-10 b32": ((64, 256, 10), 32),
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

RANKS, EVERY = 2, 16
"""Processes, and steps between two averages of the local SGD that is measured."""

EPOCHS, REPEATS = 3, 7
"""Epochs of a training; the fastest of so many counts, for what disturbs slows."""

for _name, (_sizes, _) in NETWORKS.items():

    @row("distributed", f"a step of {_name}", _name, _sizes, rounds=0)
    def steps(options, name, sizes):
        count = sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))
        return {
            "1 rank": Timed(by_ranks(1, "step", name), said=lambda: f"{count} parameters"),
            f"{RANKS} ranks": by_ranks(RANKS, "step", name),
            f"{RANKS} ranks, averaged every {EVERY} steps": by_ranks(RANKS, "averaged", name),
        }


for _name in LARGE:

    @row("distributed", f"overlap, a step of {_name}", _name, rounds=0)
    def overlap(options, name):
        ways = {"one sum of the gradient": "whole", "sums of buckets": "step"}
        return {words: by_ranks(RANKS, way, name) for words, way in ways.items()}


@row("distributed", "a sum of all ranks", rounds=0)
def sums(options):
    return {f"{size} bytes": by_ranks(RANKS, "sum", size) for size in (8, 1 << 13, 1 << 18, 1 << 24)}


def by_ranks(ranks, *what):
    """Return a call: so many processes measure, and the first one of them says the seconds."""
    own = Path(sys.executable).with_name("mpiexec")
    mpiexec = os.environ.get("MPIEXEC") or (str(own) if own.exists() else shutil.which("mpiexec"))
    if not mpiexec or not importlib.util.find_spec("mpi4py"):
        sys.exit("there is no mpiexec, or no mpi4py; pip install mpi4py mpich")
    program = [sys.executable, "-c", processes.START.format("distributed"), *map(str, what)]
    command = [*shlex.split(mpiexec), "-n", str(ranks), *program]

    def call():
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return Seconds(done.stdout.splitlines()[-1])

    return call


# --- in each rank ---------------------------------------------------------------------------------------


def main():
    """Measure as one of the ranks, by the arguments WAY NAME or "sum" BYTES."""
    from mpi4py import MPI

    ranks, (way, name) = MPI.COMM_WORLD, sys.argv[1:]
    cores = processes.allowed()
    if share := len(cores) // ranks.size:  # two on one core would wait for their turns
        processes.pin(cores[ranks.rank * share : (ranks.rank + 1) * share])
    opened = fastmlp.DataParallel(ranks).opened()
    if way == "sum":
        measure = partial(summing, opened, int(name))
    else:
        averaging = fastmlp.DataParallel(ranks, average_every=EVERY)
        communicator = {"step": ranks, "averaged": averaging, "whole": InOnePiece(opened)}[way]
        measure = partial(step, name, ranks, communicator)
    seconds = []
    for _ in range(REPEATS):
        ranks.Barrier()
        seconds.append(measure())
    if ranks.rank == 0:
        print(min(seconds), flush=True)


class InOnePiece:
    """A communicator that sums only while it is waited for."""

    def __init__(self, opened):
        self.rank, self.size = opened.rank, opened.size
        self.allreduce, self.broadcast, self.barrier = opened.allreduce, opened.broadcast, opened.barrier


def step(name, ranks, communicator):
    """Return the seconds of a step, of many in one training."""
    (sizes, batch), count = (NETWORKS | LARGE)[name], 4 if name in LARGE else 30
    rng, timer = np.random.default_rng(0), StepsTimer()
    X = rng.standard_normal((count * batch, sizes[0]), np.float32)
    rows, targets = fastmlp.shard(ranks, X, rng.integers(0, sizes[-1], len(X)))
    network = fastmlp.Network(sizes, output="softmax", loss="cross_entropy")
    fastmlp.fit(
        network, rows, targets, epochs=EPOCHS, batch_size=batch, seed=0, backend="fused", threads=1,
        progress=False, communicator=communicator, callbacks=[timer],
    )  # fmt: skip
    return timer.seconds / count / EPOCHS


def summing(communicator, size):
    """Return the seconds of a sum of so many bytes, of many in a row."""
    array, times = np.zeros(size // 4, np.float32), max(3, min(200, (1 << 24) // size))
    return once(lambda: [communicator.allreduce(array) for _ in range(times)], CLOCKS["wall"]) / times
