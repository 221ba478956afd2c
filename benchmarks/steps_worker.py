"""Steps of one network on random rows, in a process of its own: python -m benchmarks.steps_worker.

`benchmarks.commits` runs it as a file, and it uses public names alone, so that it times the fastmlp of any
checkout that PYTHONPATH names. It speaks as `benchmarks.peers.worker` does.
"""

import argparse
import json
import os
import sys
import time

import numpy as np

import fastmlp

TURN_SECONDS = 0.3
"""What a turn lasts about, or an epoch if that is more."""


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps_worker", description=__doc__)
    parser.add_argument("row", type=json.loads, help="the arguments of `prepared`, as JSON")
    row = parser.parse_args().row
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not reach the pipe
    try:
        turn = prepared(**row)
    except Exception as error:
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}), file=answers)
        return
    print(json.dumps({"version": fastmlp.__version__}), file=answers)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers)


def prepared(sizes, hidden, output, loss, optimizer, batch, dtype, backend, steps):
    """Return what takes a turn.

    optimizer : the name of its class, and its arguments; steps : of an epoch
    """
    network = fastmlp.Network(sizes, hidden, output, loss)
    kind, arguments = optimizer
    optimizer, rng = getattr(fastmlp, kind)(**arguments), np.random.default_rng(0)
    X = rng.standard_normal((batch * steps, sizes[0])).astype(dtype)
    if loss == "cross_entropy":
        y = rng.integers(0, sizes[-1], len(X))
    else:
        y = rng.standard_normal((len(X), sizes[-1])).astype(dtype)
    options = {"optimizer": optimizer, "batch_size": batch, "dtype": dtype, "backend": backend}

    def clocks(epochs):
        began = time.perf_counter(), time.process_time()
        fastmlp.fit(network, X, y, epochs=epochs, seed=0, threads=1, progress=False, **options)
        return time.perf_counter() - began[0], time.process_time() - began[1]

    epochs = 1
    clocks(epochs)
    while (took := clocks(epochs)[1]) < 0.7 * TURN_SECONDS:
        epochs = max(epochs + 1, min(16 * epochs, round(epochs * TURN_SECONDS / max(took, 1e-4))))

    def turn():
        wall, cpu = clocks(epochs)
        return {"wall": 1e6 * wall / epochs / steps, "cpu": 1e6 * cpu / epochs / steps}

    return turn


if __name__ == "__main__":
    main()
