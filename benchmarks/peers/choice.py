"""Checks every way a peer has to do a work, then keeps the fastest: no opponent is a weak one."""

import sys
import time

from . import reference


def prepare(peer, work, way=""):
    """run(epochs) of the peer's fastest way, or of `way`, and a dictionary that tells what was tried.

    The ways take turns, so a busy moment of the machine hits them all. One thread is
    timed by its CPU time, so that a neighbour on the core cannot decide; several burn CPU while they wait.
    """
    runs, errors = {}, {}
    tiny_ways = peer.ways(reference.small(work), work.threads, shuffle=False)
    ways = peer.ways(work, work.threads)
    for name, prepare_way in ways.items() if not way else [(way, ways[way])]:
        try:
            errors[name] = reference.check(work, tiny_ways[name]())
            runs[name] = prepare_way()
            runs[name](1)
        except AssertionError:
            raise
        except Exception as error:  # a way that this machine cannot take, such as no C++ compiler
            print(f"{work.name}: {name} left out: {str(error).strip()[:300]}", file=sys.stderr)
    best = dict.fromkeys(runs, float("inf"))
    clock = time.process_time if work.threads == 1 else time.perf_counter
    if len(runs) > 1:
        epochs = {name: epochs_for(run, work, 0.3) for name, run in runs.items()}
        for _ in range(3):
            for name, run in runs.items():
                start = clock()
                run(epochs[name])
                best[name] = min(best[name], (clock() - start) / epochs[name])
    chosen = min(best, key=best.get)
    tried = {name: round(1e6 * seconds / work.steps, 2) for name, seconds in best.items() if len(best) > 1}
    return runs[chosen], {"way": chosen, "tried_us": tried, "loss_error": errors[chosen]}


def epochs_for(run, work, seconds):
    """Epochs that last about so many seconds, warmed up at that number (JAX compiles for each)."""
    epochs = max(1, int(0.3 * seconds / work.steps / (1e-4 + work.flops / 5e10)))
    while True:
        run(epochs)
        start = time.perf_counter()
        run(epochs)
        took = time.perf_counter() - start
        if took >= 0.7 * seconds or epochs >= 2**24:
            return epochs
        epochs = max(epochs + 1, min(64 * epochs, int(epochs * 1.1 * seconds / max(took, 1e-9))))
