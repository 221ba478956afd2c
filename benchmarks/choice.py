"""Whether backend="auto" takes the fastest: python -m benchmarks.choice.

Trains the chains of `benchmarks.peers.works` with every compiled backend, interleaved, in float32 and
float64, and compares what "auto" chose with the best. The exit status is 1 if anywhere it is more than
15 % slower.
"""

import argparse
import sys
from dataclasses import replace
from functools import partial

import numpy as np

from fastmlp.backend import registry
from fastmlp.backend.auto import field
from fastmlp.kernels.variant import Work
from fastmlp.lab.timing import CLOCKS, StepsTimer, in_alternation, once
from fastmlp.system.budget import blas_threads

from .peers.choice import epochs_for
from .peers.works import CHAINS
from .pinning import allowed

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
    for work in CHAINS:
        for dtype in options.dtype.split(","):
            if options.only not in work.name or work.kind in ("start", "jacobian") or work.dtype != "float32":
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
    # Without the number of steps: what it ends with in a training that repays a compilation.
    described = work.network, work.optimizer, work.batch, np.dtype(work.dtype), work.threads
    chosen = field(Work.of(*described)).fastest.name
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
    for _ in range(3):
        # Least times only fall: what looks off after the rounds gets as many twice more before it is said.
        times = in_alternation(turns, least=rounds)
        best = {name: min(least, times[name].best) for name, least in best.items()}
        if best[chosen] <= ALLOWED * min(best.values()):
            break
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
    data = work.data()

    def seconds_of(epochs):
        stopwatch = StepsTimer()
        options = {"shuffle": not work.full_batch, "callbacks": [stopwatch]}
        work.fit(data, epochs=epochs, threads=work.threads, backend=backend, **options)
        return stopwatch.seconds

    epochs = epochs_for(seconds_of, work, TURN_SECONDS)
    return lambda: seconds_of(epochs) / (epochs * steps)


def predict_turn(work, backend):
    """Return a function that predicts one row again and again and returns the least seconds of a call."""
    x, _ = data = work.data()
    predict = work.fit(data, epochs=0, threads=work.threads, backend=backend).predict
    predict(x)

    def turn():
        with blas_threads(work.threads):
            return min(once(partial(predict, x), CLOCKS["wall"]) for _ in range(CALLS))

    return turn


if __name__ == "__main__":
    main()
