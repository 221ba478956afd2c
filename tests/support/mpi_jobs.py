"""What the processes of mpiexec run in tests of MPI: `python mpi_jobs.py JOB ARGUMENT..`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

import fastmlp

WORLD = MPI.COMM_WORLD

rng_of = np.random.default_rng
rng = rng_of(0)
X = rng.random((203, 6))
Y = (X.sum(axis=1) > 3).astype(float)
WEIGHTS = rng.random(203)
NETWORK = fastmlp.Network([6, 8, 5, 1], output="sigmoid", loss="binary_cross_entropy", dropout=0.3, l2=1e-3)
SETTINGS = {
    "optimizer": fastmlp.Adam(1e-2, clip_norm=1.0), "epochs": 2, "batch_size": 40, "seed": 0,
    "validation": 0.2, "backend": "reference", "threads": 1, "progress": False,
}  # fmt: skip


NORMED = fastmlp.Network(
    inputs=6,
    layers=[fastmlp.Dense(8, "tanh"), fastmlp.BatchNorm(), fastmlp.Dropout(0.3), fastmlp.Dense(1)],
    output="sigmoid",
    loss="binary_cross_entropy",
)


HEADS = fastmlp.Network(
    inputs=6,
    layers=[fastmlp.Dense(8, "tanh"), fastmlp.Dropout(0.3)],
    heads={
        "price": fastmlp.Head(1, missing=True, layers=[fastmlp.Dense(4, "relu", l2=0.1)]),
        "kind": fastmlp.Head(2, loss="cross_entropy", output="softmax", loss_weights=(1, 3)),
    },
)
TARGETS = {"price": np.where(WEIGHTS > 0.3, X[:, 0], np.nan), "kind": Y.astype(int)}


def trained(group, network=NETWORK, y=Y, **changes):
    """The training of a group of processes, each with its share of the rows."""
    X_own, y_own, weights = fastmlp.shard(group, X, y, WEIGHTS)
    settings = {**SETTINGS, "sample_weight": weights, "communicator": group, **changes}
    return fastmlp.fit(network, X_own, y_own, **settings)


def summary(model):
    return {"parameters": model.parameters.tolist(), "stop_reason": model.stop_reason, **model.history}


class FiveMethods:
    """A communicator that sums only while it is waited for."""

    def __init__(self, group):
        opened = fastmlp.DataParallel(group).opened()
        self.rank, self.size = opened.rank, opened.size
        self.allreduce, self.broadcast, self.barrier = opened.allreduce, opened.broadcast, opened.barrier


def overlapping(communicator):
    """A training whose gradient is large enough to be summed in pieces."""
    x, y = fastmlp.shard(WORLD, rng_of(1).random((64, 300)), np.arange(64) % 7 / 7)
    network = fastmlp.Network([300, 700, 100, 1], "tanh")
    settings = {"backend": "fused", "threads": 1, "progress": False, "communicator": communicator}
    model = fastmlp.fit(network, x, y, epochs=2, batch_size=32, seed=0, **settings)
    return {"sum": float(model.parameters.sum()), **model.history}


def sizes(folder):
    """Train in groups of 1 to 4 of 4 processes; each process writes what it came to."""
    found = {}
    for size in (1, 2, 3, 4):
        group = WORLD.Split(WORLD.rank < size, WORLD.rank)
        if WORLD.rank < size:
            found[size] = summary(trained(group))
    found["again"] = summary(trained(WORLD))
    path = os.path.join(folder, "training.npz")
    pair = WORLD.Split(WORLD.rank < 2, WORLD.rank)
    if WORLD.rank < 2:
        trained(pair, epochs=1, callbacks=[fastmlp.Checkpoint(path)])
    WORLD.Barrier()
    found["resumed"] = summary(trained(WORLD, resume=path))
    found["pieces"], found["flat"] = (overlapping(one) for one in (WORLD, FiveMethods(WORLD)))
    averaged = fastmlp.DataParallel(WORLD, average_every=2)
    found["averaged"] = summary(trained(WORLD, communicator=averaged))
    for name, group in (("norms", WORLD), ("norms of one", WORLD.Split(WORLD.rank))):
        found[name] = summary(trained(group, NORMED, backend="fused"))
    for name, group in (("heads", WORLD), ("heads of one", WORLD.Split(WORLD.rank))):
        found[name] = summary(trained(group, HEADS, TARGETS))
    limit = [fastmlp.TimeLimit(0.2 if WORLD.rank == 2 else 1e6)]
    found["limited"] = summary(trained(WORLD, epochs=10**6, callbacks=limit))
    Path(folder, f"{WORLD.rank}.json").write_text(json.dumps(found))


class Failing(fastmlp.Callback):
    """Lets something happen to one process when the third epoch has ended."""

    def __init__(self, what):
        self.what = what

    def on_epoch_end(self, run):
        if run.epoch != 3 or WORLD.rank != 1:
            return
        match self.what:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stall":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise OSError("the disk is gone")
            case "exit":
                raise SystemExit(3)
            case "interrupt":
                os.kill(os.getpid(), signal.SIGINT)


def fail(what, path):
    """Train until something happens to rank 1."""
    rows = np.full_like(X, 1.7e308) if what == "nan" and WORLD.rank == 1 else X
    callbacks = [Failing(what), fastmlp.Checkpoint(path)]
    communicator = fastmlp.DataParallel(WORLD, timeout=4 if what == "stall" else 600)
    settings = {**SETTINGS, "epochs": 10**6, "callbacks": callbacks, "communicator": communicator}
    WORLD.Barrier()  # who started later is waited for without end
    fastmlp.fit(NETWORK, rows, Y, **settings)


def leave(how, path):
    """Train without the process of rank 1 in COMM_WORLD, which ends, or comes late."""
    group = WORLD.Split(WORLD.rank == 0, -WORLD.rank) if how == "of a group" else WORLD
    if WORLD.rank == 1:
        Path(path).touch()
        match how:
            case "fails":
                raise OSError("there are no rows")
            case "comes late":
                time.sleep(10)  # longer than another waits for what one that has ended may have sent
            case _:
                sys.exit()
    trained(group)


def wait(path):
    """Train until the processes are interrupted; each writes the epoch after which it has stopped."""
    ready = Path(path)

    class Ready(fastmlp.Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2 and WORLD.rank == 0:
                ready.touch()
            time.sleep(0.01)

    try:
        trained(WORLD, epochs=10**6, callbacks=[Ready()])
    except fastmlp.Interrupted as interrupted:
        ready.with_suffix(f".{WORLD.rank}").write_text(str(len(interrupted.model.history["loss"])))
        WORLD.Barrier()  # mpiexec ends the others when the first has failed
        sys.exit(130)


if __name__ == "__main__":
    {"sizes": sizes, "fail": fail, "leave": leave, "wait": wait}[sys.argv[1]](*sys.argv[2:])
