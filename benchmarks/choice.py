"""Whether backend="auto" takes the fastest: python -m benchmarks.choice.

Trains the works of `benchmarks.peers.works` with every compiled backend, interleaved, in float32 and
float64, and compares what "auto" chose with the best. The exit status is 1 if anywhere it is more than
15 % slower.
"""

import argparse
import sys
import time
from dataclasses import replace

import numpy as np

from fastmlp.backend import registry
from fastmlp.backend.choice import choose
from fastmlp.system.budget import blas_threads

from .peers.choice import epochs_for
from .peers.fastmlp_peer import fit, network_of, optimizer_of
from .peers.works import WORKS, make_data
from .pinning import allowed
from .stopwatch import Stopwatch

ALLOWED = 1.15
"""Times the best's time that auto's choice may take."""

HOPELESS = 3
"""Times as slow as auto's choice in a first try, and a backend is not timed further."""

TURN_SECONDS = 0.1
"""What one turn lasts, or a step if that is more."""

CALLS = 2000
"""Predictions of one row in a turn."""


def main():
    options = _options()
    off = []
    for work in WORKS:
        for dtype in options.dtype.split(","):
            if options.only not in work.name or work.kind == "start" or work.dtype != "float32":
                continue  # the float64 work is its float32 twin's other dtype
            if work.threads > len(allowed()):
                print(f"{work.name}: left out, it needs {work.threads} cores")
                continue
            if not judge(replace(work, dtype=dtype), options.rounds):
                off.append(f"{work.name} {dtype}")
    if off:
        sys.exit(f"auto is more than {ALLOWED - 1:.0%} slower than the best at: {', '.join(off)}")


def _options():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="works whose name contains this")
    parser.add_argument("--dtype", default="float32,float64", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each backend; default %(default)s")
    return parser.parse_args()


def judge(work, rounds):
    """Time all backends on the work and print them; return whether auto's choice is good enough."""
    turn_of = predict_turn if work.kind == "predict" else train_turn
    # Without the number of steps: what it takes for a training that repays a compilation.
    described = network_of(work), optimizer_of(work), work.batch, np.dtype(work.dtype), work.threads
    chosen = choose("auto", *described).name
    turns, hopeless = {chosen: turn_of(work, chosen)}, {}
    first = turns[chosen]()
    for name in registry.variants():
        if name != chosen:
            turn = turn_of(work, name)
            took = turn()
            if took < HOPELESS * first:
                turns[name] = turn
            else:
                hopeless[name] = took / first
    best = dict.fromkeys(turns, float("inf"))
    for done in range(3 * rounds):
        # Least times only fall: what looks off after the rounds gets as many twice more before it is said.
        if done >= rounds and done % rounds == 0 and best[chosen] <= ALLOWED * min(best.values()):
            break
        for name, turn in turns.items():
            best[name] = min(best[name], turn())
    ratio = best[chosen] / min(best.values())
    print(f"{work.name} {work.dtype}: auto takes {chosen}, {ratio:.2f} times the best", end="")
    print("" if ratio <= ALLOWED else "  <-- too slow")
    for name, seconds in sorted(best.items(), key=lambda item: item[1]):
        print(f"  {name:<12} {1e6 * seconds:12.2f} us, {seconds / best[chosen]:5.2f} of auto's")
    for name, times in hopeless.items():
        print(f"  {name:<12} about {times:.0f} times auto's")
    sys.stdout.flush()
    return ratio <= ALLOWED


def train_turn(work, backend):
    """Return a function that trains a few epochs with the backend and returns the seconds of a step."""
    # Enough rows for a turn, so that no time goes into checking the rest.
    steps = max(1, min(work.steps, int(TURN_SECONDS * 5e10 / work.flops)))
    work = replace(work, rows=steps * work.batch)
    X, y = make_data(work)

    def seconds_of(epochs):
        stopwatch = Stopwatch()
        options = {"shuffle": not work.full_batch, "callbacks": [stopwatch]}
        fit(work, X, y, epochs=epochs, threads=work.threads, backend=backend, **options)
        return stopwatch.seconds

    epochs = epochs_for(seconds_of, work, TURN_SECONDS)
    return lambda: seconds_of(epochs) / (epochs * steps)


def predict_turn(work, backend):
    """Return a function that predicts one row again and again and returns the least seconds of a call."""
    x, y = make_data(work)
    predict = fit(work, x, y, epochs=0, threads=work.threads, backend=backend).predict
    predict(x)

    def turn():
        took = []
        with blas_threads(work.threads):
            for _ in range(CALLS):
                began = time.perf_counter_ns()
                predict(x)
                took.append(time.perf_counter_ns() - began)
        return min(took) / 1e9

    return turn


if __name__ == "__main__":
    main()
